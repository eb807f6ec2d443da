//! Go's command-line syntax, so that every unit copied from flanneld works: `-etcd-endpoints=…`, `--ip-masq=false`.

use std::ffi::OsString;

use clap::Command;

/// Rewrites the single dash of a long flag to two, as clap wants them. Nothing after `--` is touched.
pub(crate) fn normalise(command: &Command, args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let longs: Vec<&str> = command.get_arguments().filter_map(clap::Arg::get_long).chain(["help", "version"]).collect();
    let mut literal = false;
    args.into_iter()
        .filter(|arg| !is_empty_option(arg))
        .map(|arg| {
            literal |= arg == "--";
            let text = arg.to_str().filter(|_| !literal).and_then(|text| text.strip_prefix('-'));
            match text {
                Some(flag) if !flag.starts_with('-') && is_long(&longs, flag) => format!("--{flag}").into(),
                _ => arg,
            }
        })
        .collect()
}

fn is_long(longs: &[&str], flag: &str) -> bool {
    let name = flag.split_once('=').map_or(flag, |(name, _)| name);
    // An unknown one with a dash inside is no group of short flags either: it is refused by its name.
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    longs.contains(&name) || (name.contains('-') && is_name)
}

/// Copied units have `-etcd-cafile=${UNSET}`. For flannel an empty path or address is as good as none.
fn is_empty_option(arg: &OsString) -> bool {
    const OPTIONAL: [&str; 6] =
        ["etcd-cafile", "etcd-certfile", "etcd-keyfile", "iface-can-reach", "public-ip", "public-ipv6"];
    let name = arg.to_str().and_then(|text| text.strip_suffix('=')).map(|text| text.trim_start_matches('-'));
    name.is_some_and(|name| OPTIONAL.contains(&name))
}

/// Reads a boolean as Go's `strconv.ParseBool` does.
///
/// # Errors
/// Names the texts that are understood.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("it must be true or false (or 1, t, 0, f)".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(args: &[&str]) -> Vec<OsString> {
        let command = Command::new("x")
            .arg(clap::Arg::new("etcd-endpoints").long("etcd-endpoints"))
            .arg(clap::Arg::new("v").long("v"));
        normalise(&command, args.iter().map(OsString::from))
    }

    #[test]
    fn one_dash_is_as_good_as_two() {
        assert_eq!(
            rewrite(&["x", "-etcd-endpoints=http://a:1", "-v", "4", "--", "-v"]),
            ["x", "--etcd-endpoints=http://a:1", "--v", "4", "--", "-v"]
        );
    }

    #[test]
    fn an_empty_path_or_address_is_none() {
        assert_eq!(rewrite(&["x", "-etcd-cafile=", "--public-ip=", "--etcd-prefix="]), ["x", "--etcd-prefix="]);
    }

    #[test]
    fn short_flags_and_unknown_ones_are_left_alone() {
        assert_eq!(
            rewrite(&["x", "-h", "-f", "-d/run/docker-opts.env", "-etcd", "-"]),
            ["x", "-h", "-f", "-d/run/docker-opts.env", "-etcd", "-"]
        );
    }

    #[test]
    fn booleans_are_those_of_go() {
        for (text, value) in [("1", Ok(true)), ("T", Ok(true)), ("False", Ok(false)), ("f", Ok(false))] {
            assert_eq!(parse_bool(text), value);
        }
        assert!(parse_bool("yes").is_err() && parse_bool("").is_err());
    }
}

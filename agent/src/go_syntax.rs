//! Go's command-line syntax, so that every unit copied from flanneld works: `-etcd-endpoints=…`, `--ip-masq=false`.

use std::ffi::OsString;

use clap::{Arg, Command, error::ErrorKind};

/// Rewrites the single dash of a long flag to two, as clap wants them. Nothing after `--` is touched.
pub(crate) fn normalise(command: &Command, args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let longs: Vec<&str> = command.get_arguments().filter_map(Arg::get_long).chain(["help", "version"]).collect();
    let (mut literal, mut in_command) = (false, false);
    args.into_iter()
        .filter(|arg| !is_empty_option(arg))
        .map(|arg| {
            literal |= arg == "--";
            in_command |= arg.to_str().is_some_and(|word| command.find_subcommand(word).is_some());
            let text = arg.to_str().filter(|_| !literal).and_then(|text| text.strip_prefix('-'));
            match text {
                Some(flag) if !flag.starts_with('-') && is_long(&longs, flag, in_command) => format!("--{flag}").into(),
                _ => arg,
            }
        })
        .collect()
}

fn is_long(longs: &[&str], flag: &str, in_command: bool) -> bool {
    let name = flag.split_once('=').map_or(flag, |(name, _)| name);
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    // An unknown flag is not a group of short flags, which only commands have: it is refused by its whole name.
    longs.contains(&name) || (is_name && (name.contains('-') || (!in_command && name.len() > 1)))
}

/// True if a flag is on a normalised command line.
pub(crate) fn on_the_line(line: &[OsString], long: &str) -> bool {
    let words = line.iter().take_while(|word| *word != "--").filter_map(|word| word.to_str()?.strip_prefix("--"));
    words.map(|flag| flag.split_once('=').map_or(flag, |(name, _)| name)).any(|name| name == long)
}

/// True for a flag that is a boolean in Go, whose value follows a `=`.
pub(crate) fn is_boolean(arg: &Arg) -> bool {
    arg.is_require_equals_set()
}

/// Refuses a boolean's value in a separate word: Go takes that as the end of the flags, and ignores everything after
/// it.
///
/// # Errors
/// clap's own error, with the right form.
pub(crate) fn refuse_apart(command: &Command, line: &[OsString]) -> Result<(), clap::Error> {
    let booleans: Vec<&str> = command.get_arguments().filter(|arg| is_boolean(arg)).filter_map(Arg::get_long).collect();
    let words: Vec<&str> = line.iter().take_while(|word| *word != "--").filter_map(|word| word.to_str()).collect();
    let apart = words.windows(2).find_map(|pair| {
        let name = pair[0].strip_prefix("--")?;
        let name = name.split_once('=').map_or(name, |(name, _)| name);
        (booleans.contains(&name) && parse_bool(pair[1]).is_ok()).then_some((pair[0], name, pair[1]))
    });
    match apart {
        None => Ok(()),
        Some((flag, name, value)) => {
            let right =
                format!("'{flag} {value}': write --{name}={value}; as in Go, a separate value would end the flags");
            Err(command.clone().error(ErrorKind::InvalidValue, right))
        }
    }
}

/// Copied units have `-etcd-cafile=${UNSET}`. flannel treats an empty path or address like none.
fn is_empty_option(arg: &OsString) -> bool {
    const OPTIONAL: [&str; 8] = [
        "etcd-cafile",
        "etcd-certfile",
        "etcd-keyfile",
        "etcd-password-file",
        // All addresses, which is the default.
        "healthz-ip",
        "iface-can-reach",
        "public-ip",
        "public-ipv6",
    ];
    let name = arg.to_str().and_then(|text| text.strip_suffix('=')).map(|text| text.trim_start_matches('-'));
    name.is_some_and(|name| OPTIONAL.contains(&name))
}

/// Parses a boolean as Go's `strconv.ParseBool` does.
///
/// # Errors
/// Names the accepted texts.
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
            .subcommand(Command::new("docker-opts"))
            .arg(Arg::new("etcd-endpoints").long("etcd-endpoints"))
            .arg(Arg::new("v").long("v"));
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
    fn short_flags_are_left_alone_and_unknown_long_ones_keep_their_whole_name() {
        assert_eq!(
            rewrite(&["x", "-h", "-etcd", "-log_x=1", "docker-opts", "-f", "-d/run/docker-opts.env", "-ic", "-"]),
            ["x", "-h", "--etcd", "--log_x=1", "docker-opts", "-f", "-d/run/docker-opts.env", "-ic", "-"]
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

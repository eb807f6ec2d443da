//! Flags from the environment: `WIRE_AGENT_<FLAG>`, else `FLANNELD_<FLAG>` where flannel has the flag.

use std::ffi::OsString;

use clap::{Arg, Command, error::ErrorKind};

use crate::go_syntax::{self, on_the_line};

/// flannel's flags: those that a FLANNELD_ variable may set.
const FLANNEL: [&str; 33] = [
    "etcd-endpoints",
    "etcd-prefix",
    "etcd-keyfile",
    "etcd-certfile",
    "etcd-cafile",
    "etcd-username",
    "etcd-password",
    // Our own flag, useful together with flannel's variables.
    "etcd-password-file",
    "iface",
    "iface-regex",
    "iface-can-reach",
    "public-ip",
    "public-ipv6",
    "subnet-file",
    "subnet-lease-renew-margin",
    "ip-masq",
    "ip-masq-fully-random-disable",
    "iptables-resync",
    "iptables-forward-rules",
    "ip-blackhole-route",
    "healthz-ip",
    "healthz-port",
    "v",
    "vmodule",
    "log_backtrace_at",
    "kube-subnet-mgr",
    "kube-api-url",
    "kubeconfig-file",
    "kube-annotation-prefix",
    "net-config-path",
    "set-node-network-unavailable",
    "use-multi-cluster-cidr",
    "persistent-mac",
];

/// The flags that are numbers in Go. flannel ignores another value, with a line in its log.
const NUMBERS: [&str; 4] = ["v", "subnet-lease-renew-margin", "iptables-resync", "healthz-port"];

/// The flags whose values came from variables, each with its variable.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins(Vec<(String, String)>);

impl Origins {
    /// Replaces each flag in a text whose value came from a variable by the variable's name.
    pub(crate) fn named(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (flag, variable)| with_variable(&text, flag, variable))
    }
}

fn with_variable(text: &str, flag: &str, variable: &str) -> String {
    let mut parts = text.split(flag);
    let mut named = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        // --iface is also the beginning of --iface-regex.
        let is_longer = part.starts_with(|letter: char| letter.is_ascii_alphanumeric() || letter == '-');
        named.push_str(if is_longer { flag } else { variable });
        named.push_str(part);
    }
    named
}

/// Sets each flag that is not on the command line from its variable. Returns the command, the flags that came from
/// variables, and a warning for each ignored variable.
///
/// # Errors
/// clap's own error, with the variable's name, for an invalid value.
pub(crate) fn fill_in(command: Command, line: &[OsString]) -> Result<(Command, Origins, Vec<String>), clap::Error> {
    let mut warnings = Vec::new();
    let mut set = Vec::new();
    let mut origins = Origins::default();
    for arg in command.get_arguments() {
        let Some((long, (variable, value))) = arg.get_long().and_then(|long| Some((long, variable(long)?))) else {
            continue;
        };
        if on_the_line(line, long) {
            continue;
        }
        let Some(error) = mistake(&command, long, &value) else {
            origins.0.push((format!("--{long}"), variable.clone()));
            set.push((arg.get_id().clone(), variable));
            continue;
        };
        if variable.starts_with("FLANNELD_") && go_passes_over(arg, long, &value) {
            let default: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
            warnings.push(format!(
                "{variable}={value} is ignored, as flannel ignores it: {error}; --{long} is {}",
                default.join(",")
            ));
        } else {
            return Err(command
                .clone()
                .error(ErrorKind::InvalidValue, format!("the variable {variable} is {value:?}: {error}")));
        }
    }
    let command = set.into_iter().fold(command, |command, (id, variable)| {
        command.mut_arg(id, |arg| arg.env(clap::builder::Str::from(variable)))
    });
    Ok((command, origins, warnings))
}

/// The variable that is set for a flag, and its value. An empty one counts as not set.
fn variable(long: &str) -> Option<(String, String)> {
    let leads = ["WIRE_AGENT", "FLANNELD"].into_iter().filter(|lead| *lead == "WIRE_AGENT" || FLANNEL.contains(&long));
    let names = leads.map(|lead| format!("{lead}_{}", long.to_uppercase().replace('-', "_")));
    let value = |name: String| std::env::var_os(&name).map(|value| (name, value.to_string_lossy().into_owned()));
    names.filter_map(value).find(|(_, value)| !value.is_empty())
}

/// The error of the flag's own check, if the value fails it.
fn mistake(command: &Command, long: &str, value: &str) -> Option<String> {
    let line = ["wire-agent".to_owned(), format!("--{long}={value}")];
    let error = command.clone().try_get_matches_from(line).err()?;
    // The first line says what is wrong, behind "error: invalid value '…' for '--…': ".
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    Some(first.split_once("': ").or(first.split_once("error: ")).map_or(first, |(_, what)| what).to_owned())
}

/// True if Go cannot parse the value as the flag's type, so that flannel uses the default.
fn go_passes_over(arg: &Arg, long: &str, value: &str) -> bool {
    (NUMBERS.contains(&long) && value.parse::<i64>().is_err())
        || (go_syntax::is_boolean(arg) && go_syntax::parse_bool(value).is_err())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_a_variable_stands_for_is_named_by_it_and_no_longer_flag_is() {
        let origins = Origins(vec![
            ("--iface".to_owned(), "FLANNELD_IFACE".to_owned()),
            ("--public-ip".to_owned(), "WIRE_AGENT_PUBLIC_IP".to_owned()),
        ]);
        for (text, named) in [
            ("--iface=lo and --iface: no", "FLANNELD_IFACE=lo and FLANNELD_IFACE: no"),
            ("--iface-regex, --public-ipv6=::1", "--iface-regex, --public-ipv6=::1"),
            ("--public-ip=0.0.0.0: nobody", "WIRE_AGENT_PUBLIC_IP=0.0.0.0: nobody"),
            ("no flag", "no flag"),
        ] {
            assert_eq!(origins.named(text), named);
        }
    }
}

//! The flags that dockerd gets, from its command line and from the variables in it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{DockerUnit, Place, Start, Variable};
use crate::daemon_json::{self, DaemonOptions};

/// The flags that matter here, with dockerd's short names.
const NAMES: [(&str, &str); 13] = [
    ("--bip", "bip"),
    ("--mtu", "mtu"),
    ("--ip-masq", "ip-masq"),
    ("--ipv6", "ipv6"),
    ("--fixed-cidr-v6", "fixed-cidr-v6"),
    ("--bridge", "bridge"),
    ("-b", "bridge"),
    ("--fixed-cidr", "fixed-cidr"),
    ("--bip6", "bip6"),
    ("--default-gateway", "default-gateway"),
    ("--default-gateway-v6", "default-gateway-v6"),
    ("--live-restore", "live-restore"),
    ("--config-file", "config-file"),
];

/// Flags without a separate value.
const SWITCHES: [&str; 3] = ["ip-masq", "ipv6", "live-restore"];

/// A flag, and where it is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Flag {
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) place: Place,
}

impl Flag {
    /// True for a flag that we set too.
    pub(crate) fn is_ours(&self) -> bool {
        daemon_json::OURS.contains(&self.name)
    }

    /// True if it sets the operator's own bridge for Docker's default network.
    pub(crate) fn is_bridge(&self) -> bool {
        self.name == "bridge" && !self.value.is_empty()
    }

    /// True if its value is the one that we would set.
    pub(crate) fn says(&self, options: &DaemonOptions) -> bool {
        // The number 1450 in daemon.json is the text 1450 on a command line.
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        options.iter().any(|(key, value)| *key == self.name && text(value) == self.value)
    }
}

impl std::fmt::Display for Flag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (path, line) = (self.place.path.display(), self.place.line);
        write!(f, "{path} sets --{}={} in line {line}", self.name, self.value)
    }
}

impl DockerUnit {
    /// All of them, in dockerd's order.
    pub(crate) fn flags(&self) -> Vec<Flag> {
        self.starts.iter().flat_map(|start| parse(&self.expand(start))).collect()
    }

    /// The last flag of a name, which dockerd uses.
    pub(crate) fn flag(&self, name: &str) -> Option<Flag> {
        self.flags().into_iter().rev().find(|flag| flag.name == name)
    }

    /// The settings file that dockerd reads.
    pub(crate) fn settings_path(&self) -> PathBuf {
        let named = self.flag("config-file").map(|flag| flag.value).filter(|file| !file.is_empty());
        // systemd starts dockerd in `/`.
        Path::new("/").join(named.as_deref().unwrap_or(daemon_json::PATH))
    }

    /// The words of a line with the values of its variables, each with its file and line. Also splits a command for a
    /// shell.
    fn expand(&self, start: &Start) -> Vec<(String, Place)> {
        let mut words = Vec::new();
        for word in start.words.iter().flat_map(|word| word.split_whitespace()) {
            let word = word.replace("$$", "$");
            let whole = word.strip_prefix('$').map(|name| name.trim_start_matches('{').trim_end_matches('}'));
            match whole.and_then(|name| self.variable(name)) {
                Some(variable) => {
                    words.extend(variable.value.split_whitespace().map(|one| (one.to_owned(), variable.place.clone())));
                }
                None => words.push(self.with_values(&word, &start.place)),
            }
        }
        words
    }

    /// Replaces `${NAME}` within a word if the variable is known.
    fn with_values(&self, word: &str, line: &Place) -> (String, Place) {
        let names: Vec<&str> = word.split("${").skip(1).filter_map(|rest| rest.split('}').next()).collect();
        let known: Vec<&Variable> = names.into_iter().filter_map(|name| self.variable(name)).collect();
        let place = known.first().map_or(line, |variable| &variable.place).clone();
        let mut text = word.to_owned();
        for variable in known {
            text = text.replace(&format!("${{{}}}", variable.name), &variable.value);
        }
        (text, place)
    }
}

fn parse(words: &[(String, Place)]) -> Vec<Flag> {
    let mut flags = Vec::new();
    let mut rest = words.iter().peekable();
    while let Some((word, place)) = rest.next() {
        let (name, given) = word.split_once('=').map_or((word.as_str(), None), |(name, value)| (name, Some(value)));
        // `-bbr0` is `-b br0`.
        let (name, given) = match word.strip_prefix("-b").filter(|bridge| !bridge.is_empty() && given.is_none()) {
            Some(bridge) => ("-b", Some(bridge)),
            None => (name, given),
        };
        let Some((_, name)) = NAMES.iter().find(|(flag, _)| *flag == name) else { continue };
        let value = match given {
            Some(value) => value.trim_matches(['"', '\'']).to_owned(),
            None if SWITCHES.contains(name) => "true".to_owned(),
            None => rest.next().map(|(word, _)| word.clone()).unwrap_or_default(),
        };
        flags.push(Flag { name, value, place: place.clone() });
    }
    flags
}

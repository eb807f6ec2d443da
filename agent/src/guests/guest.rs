//! Containers, and how a network namespace is named.

use std::{collections::BTreeMap, fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A container's whole id: 64 hex digits in lower case.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ContainerId(String);

/// A text that is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no container's id of 64 hex digits")]
pub(crate) struct ContainerIdError(String);

impl ContainerId {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = ContainerIdError;

    fn from_str(text: &str) -> Result<Self, ContainerIdError> {
        let is_digit = |letter: char| matches!(letter, '0'..='9' | 'a'..='f');
        if text.len() == 64 && text.chars().all(is_digit) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ContainerIdError(text.chars().take(80).collect()))
        }
    }
}

/// The first twelve digits, as Docker shows it.
impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0[..12])
    }
}

impl Serialize for ContainerId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for ContainerId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Guest {
    pub(crate) id: ContainerId,
    /// Its name without a slash before it.
    pub(crate) name: String,
    /// Its first process.
    pub(crate) pid: u32,
    /// Its labels, if they are not too large ([`Guest::bounded`]).
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// The number of labels that were left out.
    #[serde(default)]
    pub(crate) left_out: usize,
}

/// The largest label that is passed on: its key and its value, in bytes of JSON.
const LARGEST_LABEL: usize = 1 << 10;
/// The most bytes of all labels of a container in JSON, so that it fits into a packet.
const LABELS: usize = 16 << 10;
/// The longest name, in bytes.
const LONGEST_NAME: usize = 256;

impl Guest {
    /// The same without the labels that are too large. Those of Compose stay before others.
    pub(crate) fn bounded(mut self) -> Self {
        let before = self.labels.len();
        let (compose, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.labels).into_iter().partition(|(key, _)| key.starts_with("com.docker.compose."));
        let mut room = LABELS;
        for (key, value) in compose.into_iter().chain(others) {
            let len = encoded_len(&key).saturating_add(encoded_len(&value));
            if len <= LARGEST_LABEL && len <= room {
                room -= len;
                self.labels.insert(key, value);
            }
        }
        self.left_out += before - self.labels.len();
        self.name = shortened(&self.name, LONGEST_NAME).to_owned();
        self
    }
}

/// The bytes of a text in JSON, where a control character takes six.
fn encoded_len(text: &str) -> usize {
    serde_json::to_vec(text).map_or(usize::MAX, |json| json.len())
}

/// As much of a text as has so many bytes.
pub(super) fn shortened(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Whose network namespace is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// A running container of Docker's.
    Container(ContainerId),
    /// A process. With the time of its start (field 22 of proc_pid_stat(5)), another one that has its number since is refused.
    Process { pid: u32, started: Option<u64> },
    /// A file: `/run/netns/*`, `/proc/*/ns/net`.
    File(PathBuf),
}

impl Place {
    /// The name by which it is known on disk: another text for each.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::Container(id) => id.as_str().to_owned(),
            Self::Process { pid, started: None } => format!("pid:{pid}"),
            Self::Process { pid, started: Some(started) } => format!("pid:{pid}@{started}"),
            Self::File(path) => path.display().to_string(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container(id) => write!(f, "container {id}"),
            Self::Process { pid, .. } => write!(f, "process {pid}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

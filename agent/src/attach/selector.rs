//! Which containers are meant: a selector, not a container, so that it holds over a restart. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::BootId;
use crate::guests::{ContainerId, Guest, Place, Running};

/// The fewest digits of an id after `id:`, as Docker shows them.
const DIGITS: usize = 12;
/// The digits of a whole id.
const WHOLE: usize = 64;
/// The longest selector, in bytes.
const LONGEST: usize = 1024;

/// Which containers or namespaces are meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Selector {
    /// A bare word: a container's name, else the beginning of its id, else the number of a process. The selector of what it means when
    /// it is given is kept in its place ([`Selector::found`], [`Selector::later`]), so that it never means anything else later.
    Word(String),
    /// `name:NAME`: a container's name and nothing else.
    Name(String),
    /// `id:HEX`: the beginning of a container's id.
    Id(String),
    /// `label:KEY=VALUE`: each container with this label.
    Label { key: String, value: String },
    /// `compose:PROJECT/SERVICE[/N]`: the containers of a service of Compose, or one of them.
    Compose { project: String, service: String, number: Option<u32> },
    /// `pid:N`: a process; `pid:N@START@BOOT` once it is known when, and in which run of the kernel, that was started, so that no later one
    /// with its number is meant. Earlier versions wrote no BOOT.
    Process { pid: u32, started: Option<u64>, boot: Option<BootId> },
    /// `/PATH`, `netns:PATH`: the file of a namespace.
    File(PathBuf),
}

/// A text that selects nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SelectorError {
    #[error("the name of a container is missing")]
    Empty,
    #[error("a selector has at most {LONGEST} bytes")]
    Long,
    #[error("{0:?} is no name of a container: letters, digits, '.', '_' and '-'")]
    Name(String),
    #[error("id:{0} is no container's id: give at least {DIGITS} of its hex digits, as docker ps shows them")]
    Id(String),
    #[error("label:{0} is no label: write label:KEY=VALUE")]
    Label(String),
    #[error(
        "compose:{0} is no service: write compose:PROJECT/SERVICE or compose:PROJECT/SERVICE/NUMBER, the first with number 1"
    )]
    Compose(String),
    #[error("pid:{0} is no process: its number is from 1 to {max}", max = i32::MAX)]
    Process(String),
    #[error("netns:{0} is no path of a namespace: it begins with a slash and has no ..")]
    File(String),
    #[error("{0} is a file of a process: write pid: and its number, so that no later process is taken for it")]
    ProcessFile(String),
    #[error("{0}: is not supported: name:, id:, label:, compose:, pid: and netns: are")]
    Kind(String),
}

/// A selector of one container that fits two.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{selector} means both {one} and {other}: give more digits of the id, or the name")]
pub(crate) struct Ambiguous {
    selector: String,
    one: String,
    other: String,
}

impl Selector {
    /// True if it can mean several containers at a time, which then cannot have one address.
    pub(crate) const fn can_be_several(&self) -> bool {
        match self {
            Self::Label { .. } | Self::Compose { number: None, .. } => true,
            Self::Word(_)
            | Self::Name(_)
            | Self::Id(_)
            | Self::Compose { number: Some(_), .. }
            | Self::Process { .. }
            | Self::File(_) => false,
        }
    }

    /// True if both select the same, perhaps in different words.
    pub(crate) fn is_for_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Word(one) | Self::Name(one), Self::Word(other) | Self::Name(other)) => one == other,
            (Self::Id(one), Self::Id(other)) => one.starts_with(other) || other.starts_with(one),
            (
                Self::Process { pid: one, started: first, boot: first_boot },
                Self::Process { pid: other, started: second, boot: second_boot },
            ) => one == other && may_be_same(first, second) && may_be_same(first_boot, second_boot),
            (one, other) => one == other,
        }
    }

    /// True if it is a process of another run of the kernel than `now`: one with its number and the time of its start is not that process.
    pub(crate) fn is_of_other_run(&self, now: Option<&BootId>) -> bool {
        matches!(self, Self::Process { boot: Some(boot), .. } if now.is_some_and(|now| now != boot))
    }

    /// True if it can mean containers, which Docker has to tell of.
    pub(crate) const fn asks_docker(&self) -> bool {
        match self {
            Self::Word(_) | Self::Name(_) | Self::Id(_) | Self::Label { .. } | Self::Compose { .. } => true,
            Self::Process { .. } | Self::File(_) => false,
        }
    }

    /// The selector as it is kept, and the first guest that it means; `None` if none is there.
    ///
    /// # Errors
    /// When it is a selector of one container, and fits two.
    pub(crate) fn found(self, guests: &BTreeMap<ContainerId, Guest>) -> Result<Option<(Self, Place)>, Ambiguous> {
        let first = self.places(guests)?.into_iter().next();
        let name = |id: &ContainerId| guests.get(id).map(|guest| guest.name.clone());
        let kept = match (&self, &first) {
            (Self::Word(word), Some(Place::Container(id))) if name(id).as_ref() == Some(word) => {
                Self::Name(word.clone())
            }
            (Self::Word(_) | Self::Id(_), Some(Place::Container(id))) => Self::Id(id.as_str().to_owned()),
            (Self::Word(word), None) => {
                let pid = word.parse().ok().filter(|pid| is_pid(*pid));
                let process =
                    |pid| (Self::Process { pid, started: None, boot: None }, Place::Process { pid, started: None });
                return Ok(pid.map(process));
            }
            (
                Self::Word(_)
                | Self::Name(_)
                | Self::Id(_)
                | Self::Label { .. }
                | Self::Compose { .. }
                | Self::Process { .. }
                | Self::File(_),
                _,
            ) => self.clone(),
        };
        Ok(first.map(|place| (kept, place)))
    }

    /// The selector as it is kept for guests that may start later; `None` if none ever can.
    pub(crate) fn later(&self, running: &Running) -> Option<Self> {
        match self {
            Self::Word(word) => {
                let is_named = running.guests().values().any(|guest| guest.name == *word);
                match running.known(word).next() {
                    Some(id) if is_id(word) && !is_named => Some(Self::Id(id.as_str().to_owned())),
                    // A whole id, of a container that is gone: no other one ever has it.
                    Some(_) | None if word.len() == WHOLE && is_id(word) && !is_named => None,
                    Some(_) | None => Some(Self::Name(word.clone())),
                }
            }
            Self::Id(digits) => running.known(digits).next().map(|id| Self::Id(id.as_str().to_owned())),
            Self::Name(_) | Self::Label { .. } | Self::Compose { .. } | Self::File(_) => Some(self.clone()),
            Self::Process { .. } => None,
        }
    }

    /// True if it may be the id of a container: Docker has to tell which there are, also of those that do not run.
    pub(crate) fn may_be_id(&self) -> bool {
        match self {
            Self::Word(word) => is_id(word),
            Self::Id(_) => true,
            Self::Name(_) | Self::Label { .. } | Self::Compose { .. } | Self::Process { .. } | Self::File(_) => false,
        }
    }

    /// The places that it selects now: of containers, those that run.
    ///
    /// # Errors
    /// When it is a selector of one container, and fits two.
    pub(crate) fn places(&self, guests: &BTreeMap<ContainerId, Guest>) -> Result<BTreeSet<Place>, Ambiguous> {
        let with = |is_it: &dyn Fn(&Guest) -> bool| guests.values().filter(|guest| is_it(guest)).collect::<Vec<_>>();
        let labelled =
            |guest: &Guest, key: &str, value: &str| guest.labels.get(key).is_some_and(|there| there == value);
        match self {
            Self::Process { pid, started, .. } => Ok([Place::Process { pid: *pid, started: *started }].into()),
            Self::File(path) => Ok([Place::File(path.clone())].into()),
            Self::Name(name) => self.one(&with(&|guest| guest.name == *name)),
            Self::Id(digits) => self.one(&with(&|guest| guest.id.as_str().starts_with(digits))),
            Self::Label { key, value } => Ok(all(&with(&|guest| labelled(guest, key, value)))),
            Self::Compose { project, service, number } => {
                let found = with(&|guest| {
                    labelled(guest, "com.docker.compose.project", project)
                        && labelled(guest, "com.docker.compose.service", service)
                        // `docker compose run`: it is beside the service.
                        && !labelled(guest, "com.docker.compose.oneoff", "True")
                        && number.is_none_or(|number| {
                            labelled(guest, "com.docker.compose.container-number", &number.to_string())
                        })
                });
                if number.is_some() { self.one(&found) } else { Ok(all(&found)) }
            }
            Self::Word(word) => {
                let named = with(&|guest| guest.name == *word);
                let begin_so = with(&|guest| guest.id.as_str().starts_with(word.as_str()));
                self.one(if named.is_empty() { &begin_so } else { &named })
            }
        }
    }

    fn one(&self, found: &[&Guest]) -> Result<BTreeSet<Place>, Ambiguous> {
        let said = |guest: &Guest| format!("{} ({})", guest.name, guest.id);
        match found {
            [one, other, ..] => Err(Ambiguous { selector: self.to_string(), one: said(one), other: said(other) }),
            [] | [_] => Ok(all(found)),
        }
    }
}

fn all(found: &[&Guest]) -> BTreeSet<Place> {
    found.iter().map(|guest| Place::Container(guest.id.clone())).collect()
}

fn is_pid(number: u32) -> bool {
    number > 0 && i32::try_from(number).is_ok()
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.is_empty() {
            return Err(SelectorError::Empty);
        }
        if text.len() > LONGEST {
            return Err(SelectorError::Long);
        }
        if text.starts_with('/') {
            return file(text);
        }
        match text.split_once(':') {
            None => name(text).map(Self::Word),
            Some(("name", rest)) => name(rest).map(Self::Name),
            Some(("id", rest)) => id(rest),
            Some(("label", rest)) => label(rest),
            Some(("compose", rest)) => compose(rest),
            Some(("pid", rest)) => process(rest),
            Some(("netns", rest)) => file(rest),
            Some((kind, _)) => Err(SelectorError::Kind(kind.to_owned())),
        }
    }
}

fn name(text: &str) -> Result<String, SelectorError> {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-');
    // Docker's own rule.
    let valid = text.starts_with(|first: char| first.is_ascii_alphanumeric()) && text.chars().all(is_letter);
    if valid { Ok(text.to_owned()) } else { Err(SelectorError::Name(text.to_owned())) }
}

fn id(text: &str) -> Result<Selector, SelectorError> {
    let digits = text.to_ascii_lowercase();
    if is_id(&digits) { Ok(Selector::Id(digits)) } else { Err(SelectorError::Id(text.to_owned())) }
}

/// True for as many hex digits as the id of a container is given with.
fn is_id(digits: &str) -> bool {
    (DIGITS..=WHOLE).contains(&digits.len()) && digits.chars().all(|digit| digit.is_ascii_hexdigit())
}

fn label(text: &str) -> Result<Selector, SelectorError> {
    let parts = text.split_once('=').filter(|(key, _)| !key.is_empty());
    let (key, value) = parts.ok_or_else(|| SelectorError::Label(text.to_owned()))?;
    Ok(Selector::Label { key: key.to_owned(), value: value.to_owned() })
}

fn compose(text: &str) -> Result<Selector, SelectorError> {
    let wrong = || SelectorError::Compose(text.to_owned());
    let parts: Vec<&str> = text.split('/').collect();
    let (project, service, number) = match parts[..] {
        [project, service] => (project, service, None),
        [project, service, number] => (project, service, Some(number.parse().map_err(|_| wrong())?)),
        _ => return Err(wrong()),
    };
    let (project, service) = (name(project).map_err(|_| wrong())?, name(service).map_err(|_| wrong())?);
    if number == Some(0) { Err(wrong()) } else { Ok(Selector::Compose { project, service, number }) }
}

/// True if two values are equal, or one is not known.
fn may_be_same<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
    one == other || one.is_none() || other.is_none()
}

fn process(text: &str) -> Result<Selector, SelectorError> {
    let (pid, started) = text.split_once('@').map_or((text, None), |(pid, started)| (pid, Some(started)));
    let (started, boot) = match started.and_then(|started| started.split_once('@')) {
        Some((started, boot)) => (Some(started), Some(boot)),
        None => (started, None),
    };
    let pid = pid.parse().ok().filter(|pid| is_pid(*pid));
    let (started, boot) = (started.map(str::parse).transpose(), boot.map(str::parse).transpose());
    match (pid, started, boot) {
        (Some(pid), Ok(started), Ok(boot)) => Ok(Selector::Process { pid, started, boot }),
        (Some(_) | None, ..) => Err(SelectorError::Process(text.to_owned())),
    }
}

fn file(text: &str) -> Result<Selector, SelectorError> {
    let valid = text.starts_with('/') && !text.contains('\0') && !text.split('/').any(|part| part == "..");
    if !valid {
        return Err(SelectorError::File(text.to_owned()));
    }
    // Without what changes nothing: `//`, `/./`.
    let path: PathBuf = Path::new(text).components().collect();
    // The number of a process is another one's later.
    let Ok(of_process) = path.strip_prefix("/proc") else { return Ok(Selector::File(path)) };
    match of_process.to_str().and_then(|path| path.split_once('/')) {
        Some((pid, "ns/net")) if pid.parse::<u32>().is_ok() => process(pid),
        Some(_) | None => Err(SelectorError::ProcessFile(text.to_owned())),
    }
}

/// The text of the command line.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Word(word) => f.write_str(word),
            Self::Name(name) => write!(f, "name:{name}"),
            Self::Id(digits) => write!(f, "id:{digits}"),
            Self::Label { key, value } => write!(f, "label:{key}={value}"),
            Self::Compose { project, service, number: None } => write!(f, "compose:{project}/{service}"),
            Self::Compose { project, service, number: Some(number) } => {
                write!(f, "compose:{project}/{service}/{number}")
            }
            Self::Process { pid, started: None, .. } => write!(f, "pid:{pid}"),
            Self::Process { pid, started: Some(started), boot: None } => write!(f, "pid:{pid}@{started}"),
            Self::Process { pid, started: Some(started), boot: Some(boot) } => write!(f, "pid:{pid}@{started}@{boot}"),
            Self::File(path) => write!(f, "netns:{}", path.display()),
        }
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
pub(super) mod tests;

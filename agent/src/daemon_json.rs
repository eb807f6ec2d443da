//! dockerd's own settings file: merges our options into it, removes them again, and finds settings that conflict with
//! them.
//!
//! Everything else in the file stays, byte for byte: one of our values is replaced in place, a new one is added after
//! the last member.

mod clash;
mod edit;
mod object;

use std::{
    io,
    path::{Path, PathBuf},
};

use serde_json::Value;

pub(crate) use clash::{Clash, clash, outside};
use edit::{merged, without};
use object::Object;

use crate::files::{self, LARGEST_SETTINGS, WriteError};

/// dockerd's default path ([`crate::docker_unit::DockerUnit::settings_path`]).
pub(crate) const PATH: &str = "/etc/docker/daemon.json";

/// The keys, and flags, that carry our subnet to Docker.
pub(crate) const OURS: [&str; 5] = ["bip", "mtu", "ip-masq", "ipv6", "fixed-cidr-v6"];

/// dockerd's options as keys of the file, in the order in which new ones are added.
pub(crate) type DaemonOptions = Vec<(&'static str, Value)>;

/// The reason why the file was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonJsonError {
    /// The file exists but cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file holds no JSON object.
    #[error("{} is not a JSON object and stays as it is: correct it by hand", path.display())]
    NotAnObject {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// The text has an encoding that dockerd, or an older dockerd, cannot read.
    #[error("{} begins with a byte order mark ({encoding}) and stays as it is: write it as UTF-8 without one", path.display())]
    ByteOrderMark { path: PathBuf, encoding: &'static str },
    /// dockerd would not start with our options in the file.
    #[error("{0}")]
    Clash(Clash),
    /// The file cannot be written. It is unchanged.
    #[error(transparent)]
    Write(WriteError),
}

/// Writes these options into the file, and keeps everything else in it, its mode and its owner. Creates a missing file.
/// True if the file had to be written.
///
/// # Errors
/// When the file is not a JSON object, gives Docker another bridge or gateway, or cannot be read or written. It is then
/// unchanged.
pub(crate) fn merge(path: &Path, options: &DaemonOptions) -> Result<bool, DaemonJsonError> {
    let text = match read(path)? {
        Some(text) if !text.trim().is_empty() => text,
        // dockerd treats an empty file like this.
        Some(_) | None => EMPTY.to_owned(),
    };
    let not_an_object = |source| DaemonJsonError::NotAnObject { path: path.to_owned(), source };
    let object: Object<'_> = serde_json::from_str(&text).map_err(not_an_object)?;
    if let Some(clash) = Clash::of_values(path, &object, options) {
        return Err(DaemonJsonError::Clash(clash));
    }
    let merged = merged(&text, &object, options);
    if merged != text {
        files::replace(path, &merged).map_err(DaemonJsonError::Write)?;
    }
    Ok(merged != text)
}

/// The text; `None` if there is no such file.
fn read(path: &Path) -> Result<Option<String>, DaemonJsonError> {
    let unreadable = |source| DaemonJsonError::Read { path: path.to_owned(), source };
    let bytes = match files::read_at_most(path, LARGEST_SETTINGS) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(unreadable(source)),
    };
    if let Some(encoding) = wire_lease::byte_order_mark(&bytes) {
        return Err(DaemonJsonError::ByteOrderMark { path: path.to_owned(), encoding });
    }
    let text = String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
    text.map(Some).map_err(unreadable)
}

/// A file without a setting.
const EMPTY: &str = "{}\n";

/// The file without the options that [`merge`] has written there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Without {
    /// The keys that are left out.
    pub(crate) keys: Vec<&'static str>,
    /// All else, unchanged; `None` if nothing else is there, and the file can go.
    pub(crate) left: Option<String>,
}

/// The file without the options that [`merge`] has written there for this subnet; `None` if there are none. Of a file that is not valid we
/// have written nothing.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn without_ours(path: &Path, options: &DaemonOptions) -> Result<Option<Without>, DaemonJsonError> {
    let text = match read(path) {
        Ok(Some(text)) => text,
        Ok(None) | Err(DaemonJsonError::ByteOrderMark { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let Ok(object) = serde_json::from_str::<Object<'_>>(&text) else { return Ok(None) };
    let ours = object.ours(options);
    if ours.is_empty() {
        return Ok(None);
    }
    let left = without(&text, &object, &ours);
    // [`merge`] has created a file with nothing else, or it held nothing before.
    let is_empty = left == EMPTY && !path.is_symlink();
    let keys = ours.into_iter().map(|(key, _)| key).collect();
    Ok(Some(Without { keys, left: (!is_empty).then_some(left) }))
}

/// The keys of the file that concern us, whoever has set them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// The bridge of Docker's default network; `none` if there should be no such network.
    pub(crate) bridge: Option<String>,
    /// Those of [`OURS`] that it sets.
    pub(crate) keys: Vec<&'static str>,
    /// All that it sets.
    pub(crate) all: Vec<String>,
    /// True if containers, and with them the bridge, survive a stop of dockerd.
    pub(crate) live_restore: bool,
}

/// Reads the file. A missing or invalid file holds nothing.
pub(crate) fn held(path: &Path) -> Held {
    let Some(text) = text(path) else { return Held::default() };
    let Ok(object) = serde_json::from_str::<Object<'_>>(&text) else { return Held::default() };
    Held {
        bridge: object.bridge(),
        all: object.0.iter().map(|(key, _)| key.clone()).collect(),
        keys: OURS.into_iter().filter(|key| object.raw(key).is_some()).collect(),
        live_restore: object.value("live-restore") == Some(Value::Bool(true)),
    }
}

/// The text for readers: Docker 23 and later accept a byte order mark.
fn text(path: &Path) -> Option<String> {
    let text = String::from_utf8(files::read_at_most(path, LARGEST_SETTINGS).ok()?).ok()?;
    Some(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
mod tests;

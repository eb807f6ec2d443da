//! dockerd's own settings file: our options merged into it and taken out again, and what in it bars them.
//!
//! All else in it stays, byte for byte: a value that is ours is exchanged where it stands, a new one added behind the last.

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

/// The keys, and flags, by which Docker is told of our subnet.
pub(crate) const OURS: [&str; 5] = ["bip", "mtu", "ip-masq", "ipv6", "fixed-cidr-v6"];

/// dockerd's options as keys of the file, in the order in which new ones are added.
pub(crate) type DaemonOptions = Vec<(&'static str, Value)>;

/// The reason why the file was not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonJsonError {
    /// It is there and cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error("{} is not a JSON object and stays as it is: correct it by hand", path.display())]
    NotAnObject {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    /// It is text of an encoding that dockerd does not read, or that older ones do not.
    #[error("{} begins with a byte order mark ({encoding}) and stays as it is: write it as UTF-8 without one", path.display())]
    ByteOrderMark { path: PathBuf, encoding: &'static str },
    /// dockerd would not start with our options in it.
    #[error("{0}")]
    Clash(Clash),
    /// It cannot be written. It is as it was.
    #[error(transparent)]
    Write(WriteError),
}

/// Makes the file hold these options, keeping all else in it, and its mode and owner. A file that is not
/// there is made. True where it had to be written.
///
/// # Errors
/// When it is not a JSON object, gives Docker another bridge or gateway, or cannot be read or written. It is then as it was.
pub(crate) fn merge(path: &Path, options: &DaemonOptions) -> Result<bool, DaemonJsonError> {
    let text = match read(path)? {
        Some(text) if !text.trim().is_empty() => text,
        // As dockerd takes it.
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

/// The text; nothing where there is no such file.
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

/// Takes out of the file what [`merge`] has put there for this subnet, keeping all else in it, and says which keys those were.
/// A file that says nothing without them is removed.
/// A file that makes no sense stays: we have put nothing there.
///
/// # Errors
/// When it cannot be read or written. It is then as it was.
pub(crate) fn take_out(path: &Path, options: &DaemonOptions) -> Result<Vec<&'static str>, DaemonJsonError> {
    let text = match read(path) {
        Ok(Some(text)) => text,
        Ok(None) | Err(DaemonJsonError::ByteOrderMark { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let Ok(object) = serde_json::from_str::<Object<'_>>(&text) else { return Ok(Vec::new()) };
    let ours = object.ours(options);
    if !ours.is_empty() {
        let left = without(&text, &object, &ours);
        if left == EMPTY && !path.is_symlink() {
            // What [`merge`] makes of no file, or of one that says nothing.
            files::remove(path)
        } else {
            files::replace(path, &left)
        }
        .map_err(DaemonJsonError::Write)?;
    }
    Ok(ours.into_iter().map(|(key, _)| key).collect())
}

/// The keys of the file that concern us, whoever has set them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    /// The bridge that it gives to Docker's default network; `none` where there is to be no such network.
    pub(crate) bridge: Option<String>,
    /// Those of [`OURS`] that it sets.
    pub(crate) keys: Vec<&'static str>,
    /// All that it sets.
    pub(crate) all: Vec<String>,
    /// True if containers, and with them the bridge, survive a stop of dockerd.
    pub(crate) live_restore: bool,
}

/// Looks into the file. One that makes no sense, or is not there, holds nothing.
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

/// The text for those who only look: Docker from 23 on takes a byte order mark.
fn text(path: &Path) -> Option<String> {
    let text = String::from_utf8(files::read_at_most(path, LARGEST_SETTINGS).ok()?).ok()?;
    Some(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

#[cfg(test)]
mod tests;

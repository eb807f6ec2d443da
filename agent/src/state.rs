//! The state that survives a restart and a reboot: this host's identity, its VTEP MACs and its last subnet.

use std::{
    collections::BTreeMap,
    fmt::Write,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::warn;
use wire_net::{DualStack, MacAddr, Prefix};
use wire_state::{DesiredFile, Writing};
use wire_store::Random;

use crate::{
    files::WriteError,
    machine::Machine,
    ports::{Disk, Ports},
    underlay::Held,
};

/// The content of `state.json` in the state folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// Made once at random: cloned virtual machines share their machine-id, but must not share a subnet.
    pub(crate) identity: String,
    /// The MAC of each VXLAN device, by its name.
    #[serde(default)]
    pub(crate) macs: BTreeMap<String, MacAddr>,
    /// The MAC of the underlay's link then. Older versions saved only this.
    #[serde(default)]
    pub(crate) link: Option<MacAddr>,
    /// The properties that a clone of this host does not have.
    #[serde(default)]
    pub(crate) machine: Machine,
    /// The subnet held last.
    #[serde(default)]
    pub(crate) subnet: DualStack<Prefix>,
    /// Bridges that were inside that subnet before this host leased it, by name.
    #[serde(default)]
    pub(crate) leased_over: Vec<(String, Prefix)>,
    #[serde(default)]
    pub(crate) underlay: Option<KnownBy>,
    /// The network configs whose backends this host speaks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) spoken: Option<SpokenConfigs>,
}

/// The network configs whose backends this host speaks, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpokenConfigs {
    /// The one that the network was joined with last.
    pub(crate) joined: String,
    /// The one before it, whose backend is spoken until no other host needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) former: Option<String>,
}

/// The link and the addresses that the network was joined on last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownBy {
    /// The flags that asked for it.
    pub(crate) asked: String,
    pub(crate) link: String,
    pub(crate) addresses: DualStack<IpAddr>,
    /// Known only while this agent runs, because a reboot changes the indexes of links.
    #[serde(skip)]
    held: Option<Held>,
}

impl KnownBy {
    pub(crate) fn new(asked: String, held: Held) -> Self {
        Self { asked, link: held.link.to_string(), addresses: held.addresses, held: Some(held) }
    }

    pub(crate) fn held(&self) -> Option<Held> {
        let kept =
            || Some(Held { index: None, link: self.link.parse().ok()?, formerly: None, addresses: self.addresses });
        self.held.or_else(kept)
    }
}

/// The file of the state.
#[derive(Clone, Debug)]
pub(crate) struct StateFile(PathBuf);

impl StateFile {
    pub(crate) fn in_folder(folder: &Path) -> Self {
        Self(folder.join("state.json"))
    }

    /// True if there is one: this host has been in the network, and has not left it.
    pub(crate) fn is_there(&self) -> bool {
        self.0.exists()
    }

    /// Reads the state, or makes a new one. An invalid file is renamed and logged, and does not stop the start.
    ///
    /// # Errors
    /// When the file exists and cannot be read: continuing would give this host a new identity.
    pub(crate) fn load(&self, ports: &impl Ports) -> io::Result<State> {
        let text = match ports.disk().read(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::fresh(ports.random())),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice::<State>(&text) {
            Ok(state) if !state.identity.is_empty() => Ok(state),
            outcome => {
                let aside = self.0.with_extension("json.bad");
                let reason = outcome.err().map_or_else(|| "it names no identity".to_owned(), |error| error.to_string());
                warn!(file = %self.0.display(), aside = %aside.display(), reason, "the state file is not valid, \
                                                                                   starting with a new one");
                ports.disk().rename(&self.0, &aside)?;
                Ok(State::fresh(ports.random()))
            }
        }
    }

    /// Reads the state, and writes nothing. Without a valid file, each call makes a new state.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub(crate) fn peek(&self, ports: &impl Ports) -> io::Result<State> {
        let fresh = || State::fresh(ports.random());
        match ports.disk().read(&self.0) {
            Ok(text) => Ok(serde_json::from_slice(&text).unwrap_or_else(|_| fresh())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(fresh()),
            Err(error) => Err(error),
        }
    }

    /// Saves the state.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn save(&self, disk: &impl Disk, state: &State) -> Result<(), WriteError> {
        disk.put(&self.0, &Self::desired(state)).map(drop)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The file with `state` as its content.
    pub(crate) fn desired(state: &State) -> DesiredFile {
        let mut content = serde_json::to_string_pretty(state).expect("the state has only text keys");
        content.push('\n');
        DesiredFile { content, writing: Writing::Durable }
    }
}

impl State {
    /// True if nothing was ever leased with it.
    pub(crate) fn is_unused(&self) -> bool {
        self.subnet.is_empty() && self.link.is_none() && self.macs.is_empty() && self.machine == Machine::default()
    }

    /// The state of a new host.
    pub(crate) fn fresh(random: &Random) -> Self {
        let mut identity = String::new();
        for byte in random.bytes::<16>() {
            write!(identity, "{byte:02x}").expect("a String takes any text");
        }
        Self { identity, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{files::RealDisk, ports::System};

    #[test]
    fn what_is_saved_is_loaded_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::in_folder(folder.path());
        let mut state = file.load(&System::default()).unwrap();
        assert_eq!(state.identity.len(), 32);
        state.macs.insert("flannel.1".to_owned(), "c6:d2:32:6f:8f:44".parse().unwrap());
        state.subnet.v4 = Some("10.5.52.0/24".parse().unwrap());
        file.save(&RealDisk, &state).unwrap();
        assert_eq!(file.load(&System::default()).unwrap(), state);
    }

    #[test]
    fn a_look_at_the_state_writes_nothing() {
        for text in [None, Some("{"), Some(r#"{"identity":"00ff"}"#)] {
            let folder = tempfile::tempdir().unwrap();
            let file = StateFile::in_folder(folder.path());
            if let Some(text) = text {
                fs::write(&file.0, text).unwrap();
            }
            let state = file.peek(&System::default()).unwrap();
            assert_eq!(state.identity == "00ff", text.is_some_and(|text| text.len() > 1));
            let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(left.len(), usize::from(text.is_some()), "{left:?}");
            assert_eq!(fs::read_to_string(&file.0).ok().as_deref(), text);
        }
    }

    #[test]
    fn a_state_that_makes_no_sense_is_put_aside() {
        for bad in [&b"{"[..], b"{}", b"[]", b"\xff\xfe", br#"{"identity":""}"#] {
            let folder = tempfile::tempdir().unwrap();
            let file = StateFile::in_folder(folder.path());
            fs::write(&file.0, bad).unwrap();
            assert_eq!(file.load(&System::default()).unwrap().identity.len(), 32);
            assert_eq!(fs::read(folder.path().join("state.json.bad")).unwrap(), bad);
        }
    }
}

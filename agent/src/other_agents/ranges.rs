//! The ranges of the other flat networks of this host. They are kept on disk, so that a start before those of the others, and `verify` without
//! an agent, know them too.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::{Path, PathBuf},
};

use tracing::debug;
use wire_net::{NetworkName, Prefix, chain};

use crate::ports::{Disk, Ports};

/// Ranges of addresses, by network.
pub type Ranges = BTreeMap<String, BTreeSet<Prefix>>;

/// The ranges of the other networks, as far as a network's rules depend on them.
#[derive(Debug)]
pub(crate) struct OtherRanges {
    /// `None` for the default network, which has no rules about others.
    file: Option<PathBuf>,
    /// `None` before the file was read.
    known: Option<Ranges>,
    is_saved: bool,
}

impl OtherRanges {
    /// Those that the network `of` keeps in its own folder.
    pub(crate) fn of(network: &NetworkName, state_dir: &Path) -> Self {
        let file = (!network.is_default()).then(|| Self::path(state_dir));
        Self { file, known: None, is_saved: true }
    }

    pub(crate) fn path(state_dir: &Path) -> PathBuf {
        state_dir.join("other-networks.json")
    }

    /// Asks the other agents. One that has ended keeps the ranges that it had: its containers may go on.
    pub(crate) fn look(&mut self, ports: &impl Ports) -> BTreeSet<Prefix> {
        let found = ports.ranges_of_others();
        let Some(file) = &self.file else { return BTreeSet::new() };
        let known = self.known.get_or_insert_with(|| saved(ports.disk(), file));
        for (network, ranges) in found {
            self.is_saved &= known.get(&network) == Some(&ranges);
            known.insert(network, ranges);
        }
        known.values().flatten().copied().collect()
    }

    /// Saves them, if they have changed. A failure is tried again with the next call: a folder that cannot be written is named by the files that
    /// matter more.
    pub(crate) fn save(&mut self, disk: &impl Disk) {
        let (Some(file), Some(known), false) = (&self.file, &self.known, self.is_saved) else { return };
        let content = |out: &mut dyn Write| serde_json::to_writer(out, known).map_err(io::Error::from);
        match disk.put_in_pieces(file, content) {
            Ok(_) => self.is_saved = true,
            Err(error) => debug!(error = chain(&error), "the ranges of other networks are not saved"),
        }
    }
}

/// The saved ranges; none if the file is missing or damaged.
fn saved(disk: &impl Disk, file: &Path) -> Ranges {
    disk.read(file).ok().and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

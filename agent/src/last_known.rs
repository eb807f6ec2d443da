//! The last answers of etcd, saved on disk for a start while etcd is away (docs/adr/0008-start-without-etcd.md).
//!
//! The files are not a second format of the network: they hold keys and values as etcd has them, and the code that reads
//! etcd's answers reads them. The base (`network.json`) has all leases of one moment; the journal (`network.journal`)
//! has the changes since then, so that a change of one lease costs the same among three peers and 65 000.

mod base;
mod journal;
mod save;
mod writer;

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use serde::{Deserialize, Serialize};
use wire_lease::{BackendRecord, Entry, FormerBackend, StoredRecord};
use wire_net::{KeyPrefix, Subnet};
use wire_store::{KeyValue, LeaseId, Listing, Revision};

use self::{base::Base, save::Saved};
pub(crate) use self::{save::Joined, writer::LastKnownWriter};
use crate::ports::Disk;

/// The state that was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastKnown {
    /// The network config that this host has joined with.
    pub(crate) config: String,
    /// The addresses at which etcd was reached: at a start without etcd its names may not resolve.
    pub(crate) endpoints: Vec<IpAddr>,
    /// The admitted leases of other hosts, as etcd would list them.
    pub(crate) listing: Listing,
    /// The records of hosts whose port differed from ours, or that spoke a former backend.
    pub(crate) records: Vec<(Subnet, StoredRecord)>,
}

/// The two files. Clones share what is known of them.
#[derive(Clone, Debug)]
pub(crate) struct LastKnownFile {
    base: PathBuf,
    journal: PathBuf,
    prefix: KeyPrefix,
    /// What this process has saved last; `None` before its first write. Locked during a write.
    saved: Arc<Mutex<Option<Saved>>>,
}

impl LastKnownFile {
    pub(crate) fn in_folder(folder: &Path, prefix: KeyPrefix) -> Self {
        Self {
            base: folder.join("network.json"),
            journal: folder.join("network.journal"),
            prefix,
            saved: Arc::default(),
        }
    }

    pub(crate) fn paths(&self) -> [&Path; 2] {
        [&self.base, &self.journal]
    }

    /// Reads the state, and the time when etcd gave these answers. `None` if none is saved.
    ///
    /// # Errors
    /// The reason why it cannot be used, for people.
    pub(crate) fn load(&self, disk: &impl Disk) -> Result<Option<(LastKnown, SystemTime)>, String> {
        // An agent that runs replaces the base seldom, so this ends.
        loop {
            let before = match disk.modified(&self.base) {
                Ok(time) => time,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(unusable(&self.base, &error)),
            };
            let loaded = self.load_as_of(disk, before);
            if disk.modified(&self.base).ok() == Some(before) {
                return loaded.map(Some);
            }
        }
    }

    fn load_as_of(&self, disk: &impl Disk, mut as_of: SystemTime) -> Result<(LastKnown, SystemTime), String> {
        let Base { id, prefix, config, endpoints, leases } =
            Base::read(disk, &self.base).map_err(|error| unusable(&self.base, &error))?;
        if prefix != self.prefix.to_string() {
            let other = format!("it describes the network {prefix}, not {}", self.prefix);
            return Err(unusable(&self.base, &other));
        }
        let mut leases: BTreeMap<String, KeptLease> = leases.into_iter().map(|kept| (kept.key.clone(), kept)).collect();
        let is_newer = id.is_some_and(|id| journal::apply(disk, &self.journal, &id, &mut leases));
        if is_newer && let Ok(time) = disk.modified(&self.journal) {
            as_of = time;
        }
        let records = leases.values().filter_map(KeptLease::record).collect();
        Ok((LastKnown { config, endpoints, listing: listing(leases), records }, as_of))
    }
}

fn unusable(path: &Path, why: &dyn std::fmt::Display) -> String {
    format!("{}: {why}", path.display())
}

fn listing(leases: BTreeMap<String, KeptLease>) -> Listing {
    let revision = leases.values().map(|kept| Revision(kept.create_revision)).max().unwrap_or_default();
    Listing { entries: leases.into_values().map(KeyValue::from).collect(), revision }
}

/// A lease as it is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KeptLease {
    key: String,
    value: String,
    /// The revision of the last write is not saved, since a renewal is no change.
    create_revision: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<i64>,
    /// The port of the record beside it, if that differed from ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// The former backend in that record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    former: Option<FormerBackend>,
}

impl KeptLease {
    fn of(prefix: &KeyPrefix, entry: &Entry) -> Self {
        Self {
            key: text(prefix.lease(entry.lease.subnet)),
            value: text(entry.lease.to_value()),
            create_revision: entry.origin.create_revision.0,
            lease: entry.origin.lease.map(|lease| lease.0),
            port: entry.lease.port,
            former: entry.lease.former.as_deref().cloned(),
        }
    }

    fn record(&self) -> Option<(Subnet, StoredRecord)> {
        let (_, name) = self.key.rsplit_once('/')?;
        let record = BackendRecord { port: self.port, former: self.former.clone() };
        if record == BackendRecord::default() {
            return None;
        }
        Some((name.parse().ok()?, StoredRecord { record, lease: self.lease.map(LeaseId) }))
    }
}

impl From<KeptLease> for KeyValue {
    fn from(kept: KeptLease) -> Self {
        Self {
            key: kept.key.into_bytes(),
            value: kept.value.into_bytes(),
            create_revision: Revision(kept.create_revision),
            mod_revision: Revision(kept.create_revision),
            lease: kept.lease.map(LeaseId),
        }
    }
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("our own keys and values are JSON or plainer")
}

#[cfg(test)]
mod tests;

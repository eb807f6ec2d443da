//! The record beside a lease: how its host is reached, which flannel's lease has no field for.

mod former;

use imbl::{OrdMap, ordmap::DiffItem};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use wire_net::Subnet;
use wire_store::{KeyValue, LeaseId};

pub use self::former::FormerBackend;
use crate::{Entry, Folder, FolderItem, Lease, LeaseTable};

/// The part of a host's way that flannel's lease has no field for. Fields that this version does not know are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendRecord {
    /// The UDP port on which its backend listens.
    #[serde(rename = "Port", default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The backend that it spoke before the network config was changed, and still speaks beside that of its lease.
    #[serde(rename = "Former", default, skip_serializing_if = "Option::is_none")]
    pub former: Option<FormerBackend>,
}

/// A record as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredRecord {
    /// The record.
    pub record: BackendRecord,
    /// The store's lease with which it expires. A record counts only beside a lease that expires with it: one that was left behind
    /// tells nothing of the host that has the subnet now.
    pub lease: Option<LeaseId>,
}

impl BackendRecord {
    /// The longest value, in bytes.
    const LONGEST: usize = 4096;

    /// The value for the store.
    #[must_use]
    pub fn to_value(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a record has only text keys")
    }

    /// Parses a value.
    ///
    /// # Errors
    /// The fault, for people.
    pub fn from_value(value: &[u8]) -> Result<Self, String> {
        if value.len() > Self::LONGEST {
            return Err(format!("the value has more than {} bytes", Self::LONGEST));
        }
        let record: Self = serde_json::from_slice(value).map_err(|error| error.to_string())?;
        match record {
            Self { port: Some(0), .. } => Err("Port is 0".to_owned()),
            Self { port: None, former: None } => Err("it has neither Port nor Former".to_owned()),
            Self { port: Some(_), .. } | Self { former: Some(_), .. } => Ok(record),
        }
    }

    /// The record without what it says twice: a port that is ours.
    fn beside(&self, own_port: Option<u16>) -> Self {
        let other = |port: Option<u16>| port.filter(|port| Some(*port) != own_port);
        let former = self.former.clone().map(|former| FormerBackend { port: other(former.port), ..former });
        Self { port: other(self.port), former }
    }
}

impl FolderItem for StoredRecord {
    type Key = Subnet;

    fn key(name: &[u8]) -> Result<Subnet, String> {
        let name = std::str::from_utf8(name).map_err(|_| "the key is not UTF-8".to_owned())?;
        name.parse().map_err(|error: wire_net::KeyError| error.to_string())
    }

    fn decode(kv: &KeyValue) -> Result<Self, String> {
        Ok(Self { record: BackendRecord::from_value(&kv.value)?, lease: kv.lease })
    }
}

/// The leases joined with the records beside them. Lease and record may come in any order.
#[derive(Clone, Debug, Default)]
pub struct WithRecords {
    leases: LeaseTable,
    records: OrdMap<Subnet, StoredRecord>,
    joined: OrdMap<Subnet, Arc<Entry>>,
}

impl WithRecords {
    /// Brings it forward, and returns the leases with the ports of their hosts where these differ from `own_port`, and with the
    /// backends that they still speak. Takes a time in proportion to what has changed. `own_port` must be the same in all calls.
    pub fn update(
        &mut self,
        leases: &LeaseTable,
        records: Option<&Folder<StoredRecord>>,
        own_port: Option<u16>,
    ) -> LeaseTable {
        let before = std::mem::replace(&mut self.leases, leases.clone());
        let mut changed: Vec<Subnet> = before.peers.diff(&leases.peers).map(|item| *key_of(&item)).collect();
        if let Some(records) = records {
            changed.extend(self.records.diff(&records.items).map(|item| *key_of(&item)));
            self.records = records.items.clone();
        }
        for subnet in changed {
            match leases.peers.get(&subnet) {
                Some(entry) => {
                    let record = self.record_of(&subnet, entry, own_port);
                    self.joined.insert(subnet, with_record(entry, record));
                }
                None => drop(self.joined.remove(&subnet)),
            }
        }
        LeaseTable { peers: self.joined.clone(), ..leases.clone() }
    }

    fn record_of(&self, subnet: &Subnet, entry: &Entry, own_port: Option<u16>) -> BackendRecord {
        match self.records.get(subnet).filter(|stored| stored.lease == entry.origin.lease) {
            Some(stored) => stored.record.beside(own_port),
            // Leases that have vanished with their records may be held for a while. A reservation never vanishes with its record.
            None => {
                let former = self.joined.get(subnet).map(Arc::as_ref);
                let former = former.filter(|former| former.origin.lease == entry.origin.lease);
                let former = former.filter(|former| former.origin.lease.is_some());
                former.map(|Entry { lease, .. }| lease.record()).unwrap_or_default()
            }
        }
    }
}

fn with_record(entry: &Arc<Entry>, record: BackendRecord) -> Arc<Entry> {
    if entry.lease.record() == record {
        return Arc::clone(entry);
    }
    let BackendRecord { port, former } = record;
    Arc::new(Entry { lease: Lease { port, former: former.map(Box::new), ..entry.lease.clone() }, origin: entry.origin })
}

fn key_of<'a, V>(item: &DiffItem<'a, 'a, Subnet, V>) -> &'a Subnet {
    match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => key,
    }
}

#[cfg(test)]
mod tests;

//! A write of our lease as one transaction: the lease, its guards and the record beside it. Pure.

use wire_net::KeyPrefix;
use wire_store::{Compare, KeyValue, LeaseId, Revision, Txn, Write};

use crate::{BackendRecord, Entry, Lease};

/// A write of our lease.
pub(super) struct LeaseWrite {
    /// The new content of the lease.
    pub(super) to: Lease,
    /// The store's lease to attach it to; `None` for a reservation.
    pub(super) lease: Option<LeaseId>,
    /// The entry it replaces.
    pub(super) from: Option<Entry>,
    /// The guards as read, to be written with it; empty for a reservation.
    pub(super) guards: Vec<Guard>,
    pub(super) record: RecordWrite,
}

/// The record beside the lease after the write.
pub(super) enum RecordWrite {
    /// As it was.
    Keep,
    Put(BackendRecord),
    /// None: the backend needs none, and an earlier one may have left one.
    Delete,
}

impl RecordWrite {
    pub(super) fn of(offered: &Option<BackendRecord>) -> Self {
        offered.clone().map_or(Self::Delete, Self::Put)
    }
}

/// A guard key as it was read.
pub(super) struct Guard {
    pub(super) key: Vec<u8>,
    pub(super) found: Option<KeyValue>,
}

impl Guard {
    pub(super) fn revision(&self) -> Option<Revision> {
        self.found.as_ref().map(|kv| kv.mod_revision)
    }

    /// The identity in the guard, if it is attached to this lease of the store.
    pub(super) fn of(&self, lease: LeaseId) -> Option<&[u8]> {
        self.found.as_ref().filter(|kv| kv.lease == Some(lease)).map(|kv| kv.value.as_slice())
    }

    pub(super) fn is_ours(&self, identity: &str, lease: LeaseId) -> bool {
        self.of(lease) == Some(identity.as_bytes())
    }
}

impl LeaseWrite {
    pub(super) fn txn(&self, prefix: &KeyPrefix, identity: &str) -> Txn {
        let key = prefix.lease(self.to.subnet);
        let mut txn = Txn::default();
        match &self.from {
            Some(from) => {
                let old = prefix.lease(from.lease.subnet);
                if old != key {
                    txn.when.push(Compare::Absent(key.clone()));
                    txn.then.push(Write::Delete(old.clone()));
                    txn.then.push(Write::Delete(prefix.record(from.lease.subnet)));
                }
                txn.when.push(Compare::Unchanged(old, from.origin.mod_revision));
            }
            None => txn.when.push(Compare::Absent(key.clone())),
        }
        txn.then.push(Write::Put { key, value: self.to.to_value(), lease: self.lease });
        for Guard { key, found } in &self.guards {
            txn.when.push(match found {
                Some(kv) => Compare::Unchanged(key.clone(), kv.mod_revision),
                None => Compare::Absent(key.clone()),
            });
            txn.then.push(Write::Put { key: key.clone(), value: identity.as_bytes().to_vec(), lease: self.lease });
        }
        let key = prefix.record(self.to.subnet);
        match &self.record {
            RecordWrite::Keep => {}
            RecordWrite::Put(record) => {
                txn.then.push(Write::Put { key, value: record.to_value(), lease: self.lease });
            }
            RecordWrite::Delete => txn.then.push(Write::Delete(key)),
        }
        txn
    }
}

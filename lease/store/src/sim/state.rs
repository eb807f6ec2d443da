//! The content of a simulated store, like etcd's MVCC: keys with revisions, their history, and leases that expire.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use crate::{Committed, Compare, Event, KeyValue, LeaseId, Listing, Read, Revision, StoreError, Txn, Write};

/// A copy of a store's content. The default is empty.
#[derive(Clone, Debug, Default)]
pub struct SimBackup(pub(super) State);

#[derive(Clone, Debug)]
pub(super) struct State {
    revision: i64,
    /// The history before this revision is compacted.
    compacted: i64,
    keys: BTreeMap<Vec<u8>, KeyValue>,
    history: BTreeMap<i64, Vec<Event>>,
    /// The changes that no watch was told of yet.
    fresh: Vec<Event>,
    leases: BTreeMap<LeaseId, Granted>,
    /// The leases by the times at which they expire.
    expiries: BTreeSet<(Instant, LeaseId)>,
    next_lease: i64,
    /// The number of next changes to hide from all watches.
    pub(super) lose_events: u32,
}

#[derive(Clone, Debug)]
struct Granted {
    ttl: Duration,
    expires: Instant,
    /// The keys that are attached to it.
    keys: BTreeSet<Vec<u8>>,
}

/// etcd grants no shorter lease.
const SHORTEST_TTL: Duration = Duration::from_secs(2);

impl Default for State {
    fn default() -> Self {
        Self {
            revision: 1,
            compacted: 0,
            keys: BTreeMap::new(),
            history: BTreeMap::new(),
            fresh: Vec::new(),
            leases: BTreeMap::new(),
            expiries: BTreeSet::new(),
            next_lease: 1,
            lose_events: 0,
        }
    }
}

impl State {
    pub(super) fn get(&self, key: &[u8]) -> Read {
        Read { found: self.keys.get(key).cloned(), revision: Revision(self.revision) }
    }

    pub(super) fn list(&self, prefix: &[u8]) -> Listing {
        let from = self.keys.range(prefix.to_vec()..);
        let entries = from.take_while(|(key, _)| key.starts_with(prefix)).map(|(_, kv)| listed(kv, prefix)).collect();
        Listing { entries, revision: Revision(self.revision) }
    }

    pub(super) fn commit(&mut self, txn: Txn) -> Result<Committed, StoreError> {
        let holds = txn.when.iter().all(|compare| match compare {
            Compare::Absent(key) => !self.keys.contains_key(key),
            Compare::Unchanged(key, revision) => self.keys.get(key).is_some_and(|kv| kv.mod_revision == *revision),
        });
        if !holds {
            return Ok(Committed { succeeded: false, revision: Revision(self.revision) });
        }
        for write in &txn.then {
            if let Write::Put { lease: Some(lease), .. } = write
                && !self.leases.contains_key(lease)
            {
                return Err(StoreError::LeaseGone(*lease));
            }
        }
        if !txn.then.is_empty() {
            self.revision += 1;
        }
        for write in txn.then {
            match write {
                Write::Put { key, value, lease } => self.put(key, value, lease),
                Write::Delete(key) => self.delete(&key),
            }
        }
        Ok(Committed { succeeded: true, revision: Revision(self.revision) })
    }

    pub(super) fn put_alone(&mut self, key: Vec<u8>, value: Vec<u8>, lease: Option<LeaseId>) -> Revision {
        self.revision += 1;
        self.put(key, value, lease);
        Revision(self.revision)
    }

    pub(super) fn delete_alone(&mut self, key: &[u8]) {
        self.revision += 1;
        self.delete(key);
    }

    pub(super) fn grant(&mut self, ttl: Duration) -> LeaseId {
        let lease = LeaseId(self.next_lease);
        self.next_lease += 1;
        let ttl = ttl.max(SHORTEST_TTL);
        let expires = Instant::now() + ttl;
        self.leases.insert(lease, Granted { ttl, expires, keys: BTreeSet::new() });
        self.expiries.insert((expires, lease));
        lease
    }

    pub(super) fn keep_alive(&mut self, lease: LeaseId) -> Option<Duration> {
        let granted = self.leases.get_mut(&lease)?;
        self.expiries.remove(&(granted.expires, lease));
        granted.expires = Instant::now() + granted.ttl;
        self.expiries.insert((granted.expires, lease));
        Some(granted.ttl)
    }

    pub(super) fn time_to_live(&self, lease: LeaseId) -> Option<(Duration, Duration)> {
        let granted = self.leases.get(&lease)?;
        Some((granted.expires.saturating_duration_since(Instant::now()), granted.ttl))
    }

    pub(super) fn revoke(&mut self, lease: LeaseId) {
        let Some(granted) = self.leases.remove(&lease) else { return };
        self.expiries.remove(&(granted.expires, lease));
        let attached = granted.keys;
        if !attached.is_empty() {
            self.revision += 1;
        }
        for key in attached {
            self.delete(&key);
        }
    }

    pub(super) fn leases(&self) -> Vec<LeaseId> {
        self.leases.keys().copied().collect()
    }

    /// Revokes the leases that have expired.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((_, lease)) = self.expiries.first().copied().filter(|(expires, _)| *expires <= now) {
            self.revoke(lease);
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|(expires, _)| *expires)
    }

    pub(super) const fn revision(&self) -> Revision {
        Revision(self.revision)
    }

    /// Replaces the content by a backup's. As in etcd, no lease gets the number of an earlier one.
    pub(super) fn restore(&mut self, backup: Self) {
        let next_lease = self.next_lease.max(backup.next_lease);
        *self = Self { next_lease, ..backup };
    }

    /// Takes the changes that no watch was told of yet.
    pub(super) fn take_fresh(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.fresh)
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.revision;
        self.history = self.history.split_off(&self.compacted);
    }

    /// The changes under `prefix` since revision `from`, included; the revision up to which the history is compacted, if
    /// that is later.
    pub(super) fn since(&self, prefix: &[u8], from: i64) -> Result<Vec<Event>, Revision> {
        if from < self.compacted {
            return Err(Revision(self.compacted));
        }
        let events = self.history.range(from..).flat_map(|(_, events)| events);
        Ok(events.filter(|event| event.key().starts_with(prefix)).cloned().collect())
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>, lease: Option<LeaseId>) {
        let mod_revision = Revision(self.revision);
        let create_revision = self.keys.get(&key).map_or(mod_revision, |before| before.create_revision);
        self.attach(&key, lease);
        let kv = KeyValue { key: key.clone(), value, create_revision, mod_revision, lease };
        self.keys.insert(key, kv.clone());
        self.record(Event::Put(kv));
    }

    fn delete(&mut self, key: &[u8]) {
        self.attach(key, None);
        if self.keys.remove(key).is_some() {
            self.record(Event::Delete { key: key.to_vec(), mod_revision: Revision(self.revision) });
        }
    }

    /// Attaches a key to a lease, or to none.
    fn attach(&mut self, key: &[u8], lease: Option<LeaseId>) {
        let before = self.keys.get(key).and_then(|kv| kv.lease);
        if let Some(granted) = before.and_then(|lease| self.leases.get_mut(&lease)) {
            granted.keys.remove(key);
        }
        if let Some(granted) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
            granted.keys.insert(key.to_vec());
        }
    }

    fn record(&mut self, event: Event) {
        if self.lose_events > 0 {
            self.lose_events -= 1;
        } else {
            self.fresh.push(event.clone());
            self.history.entry(self.revision).or_default().push(event);
        }
    }
}

/// Cuts a key of a listing of `prefix`, as etcd's store does.
fn listed(kv: &KeyValue, prefix: &[u8]) -> KeyValue {
    kv.clone().cut(prefix)
}

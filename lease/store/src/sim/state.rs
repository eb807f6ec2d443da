//! The content of a simulated store, like etcd's MVCC: keys with revisions, their history, and leases that expire.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::{
    Committed, Compare, Event, KeyValue, LeaseId, Listing, Read, Revision, StoreError, Txn, WatchBatch, WatchError,
    Write,
};

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
    leases: BTreeMap<LeaseId, Granted>,
    next_lease: i64,
    /// The number of next changes to hide from all watches.
    pub(super) lose_events: u32,
}

#[derive(Clone, Copy, Debug)]
struct Granted {
    ttl: Duration,
    expires: Instant,
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
            leases: BTreeMap::new(),
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
        self.leases.insert(lease, Granted { ttl, expires: Instant::now() + ttl });
        lease
    }

    pub(super) fn keep_alive(&mut self, lease: LeaseId) -> Option<Duration> {
        let granted = self.leases.get_mut(&lease)?;
        granted.expires = Instant::now() + granted.ttl;
        Some(granted.ttl)
    }

    pub(super) fn time_to_live(&self, lease: LeaseId) -> Option<(Duration, Duration)> {
        let granted = self.leases.get(&lease)?;
        Some((granted.expires.saturating_duration_since(Instant::now()), granted.ttl))
    }

    pub(super) fn revoke(&mut self, lease: LeaseId) {
        self.leases.remove(&lease);
        let attached: Vec<Vec<u8>> =
            self.keys.values().filter(|kv| kv.lease == Some(lease)).map(|kv| kv.key.clone()).collect();
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
        let over: Vec<LeaseId> =
            self.leases.iter().filter(|(_, granted)| granted.expires <= now).map(|(lease, _)| *lease).collect();
        for lease in over {
            self.revoke(lease);
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.leases.values().map(|granted| granted.expires).min()
    }

    pub(super) fn compact(&mut self) {
        self.compacted = self.revision;
        self.history = self.history.split_off(&self.compacted);
    }

    /// The changes under `prefix` since revision `from`, included.
    pub(super) fn since(&self, prefix: &[u8], from: i64) -> Result<WatchBatch, WatchError> {
        if from < self.compacted {
            return Err(WatchError::Compacted(Revision(self.compacted)));
        }
        let events = self.history.range(from..).flat_map(|(_, events)| events);
        let events = events.filter(|event| event.key().starts_with(prefix)).cloned().collect();
        Ok(WatchBatch { events, revision: Revision(self.revision) })
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>, lease: Option<LeaseId>) {
        let mod_revision = Revision(self.revision);
        let create_revision = self.keys.get(&key).map_or(mod_revision, |before| before.create_revision);
        let kv = KeyValue { key: key.clone(), value, create_revision, mod_revision, lease };
        self.keys.insert(key, kv.clone());
        self.record(Event::Put(kv));
    }

    fn delete(&mut self, key: &[u8]) {
        if self.keys.remove(key).is_some() {
            self.record(Event::Delete { key: key.to_vec(), mod_revision: Revision(self.revision) });
        }
    }

    fn record(&mut self, event: Event) {
        if self.lose_events > 0 {
            self.lose_events -= 1;
        } else {
            self.history.entry(self.revision).or_default().push(event);
        }
    }
}

/// Cuts a key of a listing of `prefix`, as etcd's store does.
fn listed(kv: &KeyValue, prefix: &[u8]) -> KeyValue {
    let (key, value) = KeyValue::cut(&kv.key, &kv.value, prefix);
    KeyValue { key, value, ..*kv }
}

//! The content of the lease directory, with each entry decoded once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use wire_net::Directory;
use wire_store::{Event, KeyValue, Listing, Revision};

use crate::{
    Entry, Lease, LeaseTable, Origin, Refusal, RefusalKind,
    admission::{self, Admission},
    hold_down::HoldDown,
};

/// The key of an entry, whole. Shared by all that is kept for each entry.
pub(crate) type Key = Arc<[u8]>;

/// All entries of the lease directory at one revision, also those that cannot be decoded.
#[derive(Clone, Debug)]
pub struct Entries {
    directory: Directory,
    decoded: BTreeMap<Key, Decoded>,
    /// The number of entries that are valid leases.
    valid: usize,
    changes: Changes,
    revision: Revision,
}

/// The changes since [`Entries::take_changes`] was called last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// The keys that were written or removed, renewals included.
    pub(crate) keys: BTreeSet<Key>,
    /// The entries that have vanished, in order.
    pub(crate) vanished: Vec<(Key, Decoded)>,
    /// Whether the store's revision has gone back.
    pub(crate) went_back: bool,
    /// Whether there was a full listing.
    pub(crate) is_listed: bool,
}

/// One entry, decoded as far as possible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) origin: Origin,
    pub(crate) content: Result<Arc<Entry>, Refusal>,
}

impl Entries {
    /// An empty directory.
    #[must_use]
    pub fn new(directory: Directory) -> Self {
        Self { directory, decoded: BTreeMap::new(), valid: 0, changes: Changes::default(), revision: Revision(0) }
    }

    /// The directory as in a listing.
    #[must_use]
    pub fn listed(directory: Directory, listing: &Listing) -> Self {
        let mut entries = Self::new(directory);
        entries.replace(listing);
        entries
    }

    /// The directory as far as a table tells: its admitted leases, without those that have vanished and are only held.
    pub(crate) fn from_table(directory: Directory, table: &LeaseTable) -> Self {
        let peers = table.peers.iter().map(|(subnet, entry)| (directory.key(*subnet).into(), Decoded::from(entry)));
        let decoded: BTreeMap<Key, Decoded> = peers.filter(|(key, _)| table.hold_down.held_at(key).is_none()).collect();
        Self { valid: decoded.len(), decoded, ..Self::new(directory) }
    }

    /// The revision of this content.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Replaces the content by a full listing. Returns whether anything changed except renewals.
    pub fn replace(&mut self, listing: &Listing) -> bool {
        let mut before = std::mem::take(&mut self.decoded);
        let mut changed = before.len() != listing.entries.len();
        for kv in &listing.entries {
            let decoded = self.decode(kv);
            let (key, before) = before.remove_entry(kv.key.as_slice()).unzip();
            let key = key.unwrap_or_else(|| kv.key.as_slice().into());
            changed |= before.as_ref().is_none_or(|before| !before.says_the_same(&decoded));
            let decoded = match before {
                // Kept, since others share it.
                Some(before) if before == decoded => before,
                before => {
                    self.changes.keys.insert(Arc::clone(&key));
                    let before = before.filter(|before| before.has_vanished(Some(&decoded)));
                    self.changes.vanished.extend(before.map(|before| (Arc::clone(&key), before)));
                    decoded
                }
            };
            self.decoded.insert(key, decoded);
        }
        self.changes.keys.extend(before.keys().cloned());
        self.changes.vanished.extend(before);
        self.changes.went_back |= listing.revision < self.revision;
        self.changes.is_listed = true;
        self.valid = self.leases().count();
        self.revision = listing.revision;
        changed
    }

    /// Applies one change. Returns whether it was more than a renewal; a change older than the last listing is ignored.
    pub fn apply(&mut self, event: &Event) -> bool {
        let (key, revision) = (KeyValue::cut_key(event.key(), &self.directory), event.mod_revision());
        if revision < self.revision || !key.starts_with(&self.directory) {
            return false;
        }
        self.revision = revision;
        let (key, before) = self.decoded.remove_entry(key).unzip();
        let after = match event {
            Event::Delete { .. } => None,
            Event::Put(kv) => Some(self.decode(kv)),
        };
        self.valid += usize::from(after.as_ref().is_some_and(Decoded::is_lease));
        self.valid -= usize::from(before.as_ref().is_some_and(Decoded::is_lease));
        let key = key.unwrap_or_else(|| KeyValue::cut_key(event.key(), &self.directory).into());
        let changed = match (&before, &after) {
            (None, None) => return false,
            (Some(before), Some(after)) => !before.says_the_same(after),
            (Some(_), None) | (None, Some(_)) => true,
        };
        self.changes.keys.insert(Arc::clone(&key));
        match after {
            Some(after) => {
                self.decoded.insert(key, after);
            }
            None => self.changes.vanished.extend(before.map(|before| (key, before))),
        }
        changed
    }

    /// The entries that are valid leases, in order of key.
    pub fn leases(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.decoded.values().filter_map(|decoded| decoded.content.as_ref().ok())
    }

    /// Applies the rules of `admission` to all entries.
    #[must_use]
    pub fn admit(&self, admission: &Admission) -> LeaseTable {
        admission::admit(self, &HoldDown::default(), admission)
    }

    /// The changes since the last call.
    pub(crate) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }

    /// The number of entries that are valid leases.
    pub(crate) const fn valid(&self) -> usize {
        self.valid
    }

    pub(crate) const fn decoded(&self) -> &BTreeMap<Key, Decoded> {
        &self.decoded
    }

    fn decode(&self, kv: &KeyValue) -> Decoded {
        let origin = Origin { create_revision: kv.create_revision, mod_revision: kv.mod_revision, lease: kv.lease };
        let content = self
            .directory
            .subnet(&kv.key)
            .map_err(|error| Refusal { kind: RefusalKind::Key, reason: shown(&error) })
            .and_then(|subnet| {
                Lease::from_value(subnet, &kv.value)
                    .map_err(|error| Refusal { kind: RefusalKind::Value, reason: shown(&error) })
            })
            .map(|lease| Arc::new(Entry { lease, origin }));
        Decoded { origin, content }
    }
}

/// Shortens text written by other programs, and removes control characters that a terminal would obey.
fn shown(error: &impl ToString) -> String {
    error.to_string().chars().filter(|letter| !letter.is_control()).take(200).collect()
}

impl From<&Arc<Entry>> for Decoded {
    fn from(entry: &Arc<Entry>) -> Self {
        Self { origin: entry.origin, content: Ok(Arc::clone(entry)) }
    }
}

impl Decoded {
    pub(crate) const fn is_lease(&self) -> bool {
        self.content.is_ok()
    }

    /// Whether this entry has vanished, given the entry that its key holds now. One with another create_revision is a
    /// new entry: this one vanished in between, as all entries do when a store comes back empty.
    fn has_vanished(&self, now: Option<&Self>) -> bool {
        now.is_none_or(|now| now.origin.create_revision != self.origin.create_revision)
    }

    /// Whether both are equal, apart from the time of renewal and the store's lease.
    fn says_the_same(&self, other: &Self) -> bool {
        let content = match (&self.content, &other.content) {
            (Ok(one), Ok(other)) => one.lease == other.lease,
            (Err(one), Err(other)) => one == other,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        content && self.origin.create_revision == other.origin.create_revision
    }
}

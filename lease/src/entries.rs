//! The content of the lease directory, with each entry decoded once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::time::Instant;
use wire_net::Directory;
use wire_store::{Event, KeyValue, Listing, Revision};

use crate::{
    Entry, Lease, LeaseTable, Origin, Refusal, RefusalKind,
    admission::{self, Admission},
    hold_down::HoldDown,
};

/// All entries of the lease directory at one revision, also those that cannot be decoded.
#[derive(Clone, Debug)]
pub struct Entries {
    directory: Directory,
    decoded: BTreeMap<Vec<u8>, Decoded>,
    /// Entries that have vanished since [`Entries::admit_holding`] was called last.
    vanished: Vec<(Vec<u8>, Decoded)>,
    /// Whether the store's revision has gone back since then.
    went_back: bool,
    revision: Revision,
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
    pub const fn new(directory: Directory) -> Self {
        Self { directory, decoded: BTreeMap::new(), vanished: Vec::new(), went_back: false, revision: Revision(0) }
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
        let held: BTreeSet<&Vec<u8>> = table.hold_down.held().map(|(key, _)| key).collect();
        let peers = table.peers.iter().map(|(subnet, entry)| (directory.key(*subnet), Decoded::from(entry)));
        let decoded = peers.filter(|(key, _)| !held.contains(key)).collect();
        Self { decoded, ..Self::new(directory) }
    }

    /// The revision of this content.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Replaces the content by a full listing. Returns whether anything changed except renewals.
    pub fn replace(&mut self, listing: &Listing) -> bool {
        let before = std::mem::take(&mut self.decoded);
        let mut changed = before.len() != listing.entries.len();
        for kv in &listing.entries {
            let decoded = self.decode(kv);
            changed |= before.get(&kv.key).is_none_or(|before| !before.says_the_same(&decoded));
            self.decoded.insert(kv.key.clone(), decoded);
        }
        let vanished = before.into_iter().filter(|(key, before)| before.has_vanished(self.decoded.get(key)));
        self.vanished.extend(vanished);
        self.went_back |= listing.revision < self.revision;
        self.revision = listing.revision;
        changed
    }

    /// Applies one change. Returns whether it was more than a renewal; a change older than the last listing is ignored.
    pub fn apply(&mut self, event: &Event) -> bool {
        let (key, revision) = match event {
            Event::Put(kv) => (&kv.key, kv.mod_revision),
            Event::Delete { key, mod_revision } => (key, *mod_revision),
        };
        let key = KeyValue::cut_key(key, &self.directory);
        if revision < self.revision || !key.starts_with(&self.directory) {
            return false;
        }
        self.revision = revision;
        match event {
            Event::Delete { key, .. } => {
                let gone = self.decoded.remove_entry(key);
                let changed = gone.is_some();
                self.vanished.extend(gone);
                changed
            }
            Event::Put(kv) => {
                let decoded = self.decode(kv);
                let changed = self.decoded.get(key).is_none_or(|before| !before.says_the_same(&decoded));
                self.decoded.insert(key.to_vec(), decoded);
                changed
            }
        }
    }

    /// The entries that are valid leases, in order of key.
    pub fn leases(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.decoded.values().filter_map(|decoded| decoded.content.as_ref().ok())
    }

    /// Applies the rules of `admission` to all entries.
    #[must_use]
    pub fn admit(&self, admission: &Admission) -> LeaseTable {
        admission::admit(&self.decoded, &HoldDown::default(), admission, self.revision)
    }

    /// Like [`Entries::admit`], but with the leases held by `hold_down`, which first learns of the entries that have
    /// vanished since the last call.
    pub(crate) fn admit_holding(&mut self, hold_down: &mut HoldDown, admission: &Admission) -> LeaseTable {
        let is_forgotten = std::mem::take(&mut self.went_back);
        hold_down.note(self.vanished.drain(..), &self.decoded, is_forgotten, Instant::now());
        admission::admit(&self.decoded, hold_down, admission, self.revision)
    }

    #[cfg(test)]
    pub(crate) fn into_decoded(self) -> BTreeMap<Vec<u8>, Decoded> {
        self.decoded
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

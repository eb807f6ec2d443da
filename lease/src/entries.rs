//! The lease directory as the store holds it, each entry decoded once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::time::Instant;
use wire_net::{Directory, Subnet};
use wire_store::{Event, KeyValue, Listing, Revision};

use crate::{
    Entry, Lease, LeaseTable, Origin, Refusal, RefusalKind,
    admission::{self, Admission},
    hold_down::HoldDown,
};

/// All entries of the lease directory, good and bad, at one revision.
#[derive(Clone, Debug)]
pub struct Entries {
    directory: Directory,
    decoded: BTreeMap<Vec<u8>, Decoded>,
    /// What is there no more, and was not taken yet.
    vanished: Vec<(Vec<u8>, Decoded)>,
    revision: Revision,
}

/// One key, as far as it can be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    pub(crate) origin: Origin,
    pub(crate) content: Result<Arc<Entry>, Refusal>,
}

impl Entries {
    /// The directory with nothing in it.
    #[must_use]
    pub const fn new(directory: Directory) -> Self {
        Self { directory, decoded: BTreeMap::new(), vanished: Vec::new(), revision: Revision(0) }
    }

    /// The directory as listed.
    #[must_use]
    pub fn listed(directory: Directory, listing: &Listing) -> Self {
        let mut entries = Self::new(directory);
        entries.replace(listing);
        entries
    }

    /// The directory as far as a table tells: the leases that it lets in, but for those that have vanished.
    pub(crate) fn from_table(directory: Directory, table: &LeaseTable) -> Self {
        let held: BTreeSet<&Vec<u8>> = table.hold_down.held().map(|(key, _)| key).collect();
        let entry_of = |(subnet, entry): (&Subnet, &Arc<Entry>)| {
            let key = directory.key(*subnet);
            let decoded = Decoded { origin: entry.origin, content: Ok(Arc::clone(entry)) };
            (!held.contains(&key)).then_some((key, decoded))
        };
        let decoded = table.peers.iter().filter_map(entry_of).collect();
        Self { decoded, ..Self::new(directory) }
    }

    /// The revision this is the state of.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Takes a full listing for the truth. Says whether anything but renewals changed.
    pub fn replace(&mut self, listing: &Listing) -> bool {
        let before = std::mem::take(&mut self.decoded);
        let mut changed = before.len() != listing.entries.len();
        for kv in &listing.entries {
            let decoded = self.decode(kv);
            changed |= before.get(&kv.key).is_none_or(|before| !before.says_the_same(&decoded));
            self.decoded.insert(kv.key.clone(), decoded);
        }
        // What was made anew meanwhile had vanished too, as all has in a store that comes back empty.
        let is_there = |(key, before): &(Vec<u8>, Decoded)| {
            let now = self.decoded.get(key);
            now.is_some_and(|now| now.origin.create_revision == before.origin.create_revision)
        };
        self.vanished.extend(before.into_iter().filter(|entry| !is_there(entry)));
        self.revision = listing.revision;
        changed
    }

    /// Takes one change. Says whether it was more than a renewal; one that is older than the last listing is none.
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

    /// The entries that can be read as leases, in order of key.
    pub fn leases(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.decoded.values().filter_map(|decoded| decoded.content.as_ref().ok())
    }

    /// Which of them are let in.
    #[must_use]
    pub fn admit(&self, admission: &Admission) -> LeaseTable {
        admission::admit(&self.decoded, &HoldDown::default(), admission, self.revision)
    }

    /// The same with the leases that `hold_down` keeps, which is told what has vanished since it was asked last.
    pub(crate) fn admit_holding(&mut self, hold_down: &mut HoldDown, admission: &Admission) -> LeaseTable {
        hold_down.note(self.vanished.drain(..), &self.decoded, Instant::now());
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

/// Quotes no more of what a stranger wrote than a person wants to read, and nothing that a terminal obeys.
fn shown(error: &impl ToString) -> String {
    error.to_string().chars().filter(|letter| !letter.is_control()).take(200).collect()
}

impl Decoded {
    /// Whether the two differ at most by when they were renewed, and with which lease of the store.
    fn says_the_same(&self, other: &Self) -> bool {
        let content = match (&self.content, &other.content) {
            (Ok(one), Ok(other)) => one.lease == other.lease,
            (Err(one), Err(other)) => one == other,
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        content && self.origin.create_revision == other.origin.create_revision
    }
}

//! The content of the lease directory, with each entry decoded once.

mod listed;

use std::{collections::BTreeSet, sync::Arc};

use imbl::OrdMap;
use wire_net::{Directory, Subnet, every_other_first};
use wire_store::{Event, KeyValue, LeaseId, LeaseStore, Listing, Revision, StoreError};

use self::listed::Comparison;
pub(crate) use self::listed::{Difference, matching};
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
    /// A persistent map: a listing is compared with a copy of it while the watch goes on.
    decoded: OrdMap<Key, Decoded>,
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
    /// The entries that have vanished.
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
        Self { directory, decoded: OrdMap::new(), valid: 0, changes: Changes::default(), revision: Revision(0) }
    }

    /// Reads the directory from the store.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn list<S: LeaseStore>(store: &S, directory: Directory) -> Result<Self, StoreError> {
        let mut entries = Self::new(directory);
        let difference = entries.compare(store).await?;
        entries.accept(difference);
        Ok(entries)
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
        let decoded: OrdMap<Key, Decoded> = peers.filter(|(key, _)| table.hold_down.held_at(key).is_none()).collect();
        Self { valid: decoded.len(), decoded, ..Self::new(directory) }
    }

    pub(crate) const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The revision of this content.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// Replaces the content by a full listing. Returns whether anything changed except renewals.
    pub fn replace(&mut self, listing: &Listing) -> bool {
        let difference = self.difference(listing);
        self.accept(difference)
    }

    /// Compares a listing with this content.
    pub(crate) fn difference(&self, listing: &Listing) -> Difference {
        let mut comparison = Comparison::with(self);
        // Already in order if a store has listed them.
        let mut listed: Vec<&KeyValue> = listing.entries.iter().collect();
        listed.sort_by(|one, other| one.key.cmp(&other.key));
        for kv in listed {
            comparison.note(kv.key.as_slice().into(), Decoded::of(kv, &self.directory));
        }
        comparison.at(listing.revision)
    }

    /// Replaces the content by that of a new listing, like [`Entries::replace`].
    pub(crate) fn replace_by(&mut self, listed: Self) -> bool {
        let mut comparison = Comparison::with(self);
        for (key, decoded) in listed.decoded {
            comparison.note(key, decoded);
        }
        let difference = comparison.at(listed.revision);
        self.accept(difference)
    }

    /// Reads the directory from the store and compares it with this content.
    pub(crate) async fn compare<S: LeaseStore>(&self, store: &S) -> Result<Difference, StoreError> {
        let mut comparison = Comparison::with(self);
        let revision = store.list_into(&self.directory, &mut comparison).await?;
        Ok(comparison.at(revision))
    }

    /// Makes the content that of the compared listing. Returns whether anything changed except renewals.
    pub(crate) fn accept(&mut self, Difference { put, gone, revision }: Difference) -> bool {
        self.changes.went_back |= revision < self.revision;
        self.changes.is_listed = true;
        self.revision = revision;
        let mut changed = false;
        for key in gone {
            let Some(before) = self.decoded.remove(&key) else { continue };
            changed = true;
            self.valid -= usize::from(before.is_lease());
            self.changes.keys.insert(Arc::clone(&key));
            self.changes.vanished.push((key, before));
        }
        for (key, decoded) in every_other_first(put.len()).map(|index| &put[index]) {
            self.valid += usize::from(decoded.is_lease());
            let before = self.decoded.insert(Arc::clone(key), decoded.clone());
            self.valid -= usize::from(before.as_ref().is_some_and(Decoded::is_lease));
            changed |= before.as_ref().is_none_or(|before| !before.says_the_same(decoded));
            let vanished = before.filter(|before| before.has_vanished(decoded));
            self.changes.vanished.extend(vanished.map(|before| (Arc::clone(key), before)));
            self.changes.keys.insert(Arc::clone(key));
        }
        changed
    }

    /// Applies one change. Returns whether it was more than a renewal; a change older than the last listing is ignored.
    pub fn apply(&mut self, event: &Event) -> bool {
        let (key, revision) = (KeyValue::cut_key(event.key(), &self.directory), event.mod_revision());
        if revision < self.revision || !key.starts_with(&self.directory) {
            return false;
        }
        self.revision = revision;
        let (key, before) = self.decoded.remove_with_key(key).unzip();
        let after = match event {
            Event::Delete { .. } => None,
            Event::Put(kv) => Some(Decoded::of(kv, &self.directory)),
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

    /// The entry with the key of `subnet`, whatever its value.
    pub(crate) fn get(&self, subnet: Subnet) -> Option<&Decoded> {
        self.decoded.get(self.directory.key(subnet).as_slice())
    }

    /// The subnets whose keys hold something that is not a lease.
    pub(crate) fn subnets_without_lease(&self) -> impl Iterator<Item = Subnet> {
        let without = self.decoded.iter().filter(|(_, decoded)| decoded.content.is_err());
        without.filter_map(|(key, _)| self.directory.subnet(key).ok())
    }

    /// The store's leases that entries are attached to, in order of key.
    pub(crate) fn leases_of_store(&self) -> impl Iterator<Item = LeaseId> {
        self.decoded.values().filter_map(|decoded| decoded.origin.lease)
    }

    /// The key of `subnet`, for messages.
    pub(crate) fn shown_key(&self, subnet: Subnet) -> String {
        String::from_utf8_lossy(&self.directory.key(subnet)).into_owned()
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

    pub(crate) const fn decoded(&self) -> &OrdMap<Key, Decoded> {
        &self.decoded
    }
}

/// Shortens text written by other programs, and removes control characters that a terminal would obey.
fn shown(error: &dyn ToString) -> String {
    error.to_string().chars().filter(|letter| !letter.is_control()).take(200).collect()
}

impl From<&Arc<Entry>> for Decoded {
    fn from(entry: &Arc<Entry>) -> Self {
        Self { origin: entry.origin, content: Ok(Arc::clone(entry)) }
    }
}

impl Decoded {
    /// Decodes a key of the directory, and its value.
    fn of(kv: &KeyValue, directory: &Directory) -> Self {
        let origin = Origin::of(kv);
        let refuse = |kind, error: &dyn ToString| Refusal { kind, reason: shown(error) };
        let content = match directory.subnet(&kv.key) {
            Err(error) => Err(refuse(RefusalKind::Key, &error)),
            Ok(subnet) => match Lease::from_value(subnet, &kv.value) {
                Err(error) => Err(refuse(RefusalKind::Value, &error)),
                Ok(lease) => Ok(Arc::new(Entry { lease, origin })),
            },
        };
        Self { origin, content }
    }

    pub(crate) const fn is_lease(&self) -> bool {
        self.content.is_ok()
    }

    /// Whether this entry has vanished, given the entry that its key holds now. One with another create_revision is a
    /// new entry: this one vanished in between, as all entries do when a store comes back empty.
    fn has_vanished(&self, now: &Self) -> bool {
        now.origin.create_revision != self.origin.create_revision
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

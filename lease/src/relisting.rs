//! A full listing that is made while the watch goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
};

use wire_net::Directory;
use wire_store::{Event, KeyValue, LeaseStore, Revision, StoreError};

use crate::{
    Entries,
    entries::{Difference, Key},
};

/// A listing on its way. What the watch reports meanwhile is newer than the listing, or in it.
pub(crate) struct Relisting {
    answer: Pin<Box<dyn Future<Output = Result<Difference, StoreError>> + Send>>,
    /// The revision of the entries when the listing began.
    since: Revision,
    directory: Directory,
    /// The revision of the last change of each key that has changed since.
    changed: BTreeMap<Key, Revision>,
}

impl Relisting {
    /// Begins to list what `entries` are, and to compare it with them as they are now.
    pub(crate) fn begin<S: LeaseStore>(store: S, entries: Entries) -> Self {
        let (since, directory) = (entries.revision(), entries.directory().clone());
        let answer = async move { entries.compare(&store).await };
        Self { answer: Box::pin(answer), since, directory, changed: BTreeMap::new() }
    }

    pub(crate) fn note(&mut self, event: &Event) {
        // An older one is in the entries with which the listing is compared.
        if event.mod_revision() > self.since {
            self.changed.insert(KeyValue::cut_key(event.key(), &self.directory).into(), event.mod_revision());
        }
    }

    /// Waits for the listing; for ever if there is none.
    ///
    /// # Cancel safety
    /// Safe: the listing goes on with the next call.
    pub(crate) async fn answer(relisting: &mut Option<Self>) -> Result<Difference, StoreError> {
        match relisting {
            Some(relisting) => relisting.answer.as_mut().await,
            None => std::future::pending().await,
        }
    }

    /// The difference without the keys that have changed since the listing was read, and with those that have come and
    /// gone again before it was: their deletion may not have been reported yet, and will be ignored as old. `None` if the
    /// store's revision has gone back: it was restored from a backup.
    pub(crate) fn with_changes(self, mut difference: Difference) -> Option<Difference> {
        if difference.revision < self.since {
            return None;
        }
        let read_at = difference.revision;
        let is_newer = |key: &Key| self.changed.get(key).is_some_and(|revision| *revision > read_at);
        difference.put.retain(|(key, _)| !is_newer(key));
        difference.gone.retain(|key| !is_newer(key));
        // A key that has changed since the beginning and is listed is put.
        let put: BTreeSet<&Key> = difference.put.iter().map(|(key, _)| key).collect();
        let gone = self.changed.keys().filter(|key| !is_newer(key) && !put.contains(*key));
        difference.gone.extend(gone.cloned());
        difference.revision = self.changed.values().copied().fold(read_at, Revision::max);
        Some(difference)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire_net::KeyPrefix;
    use wire_store::{Listing, SimStore};

    use super::*;

    const DIRECTORY: &[u8] = b"/n/subnets/";

    fn directory() -> Directory {
        KeyPrefix::new("/n").leases(true)
    }

    proptest! {
        /// Each change writes a key, or removes it.
        #[test]
        fn a_listing_with_the_changes_since_is_the_listing_at_the_end(
            changes in prop::collection::vec((0u8..6, any::<bool>()), 0..30),
            at in any::<prop::sample::Index>(),
            until in any::<prop::sample::Index>(),
        ) {
            let read_at = at.index(changes.len() + 1);
            // Those that the watch reports only after the listing has come.
            let (reported, mut late) = (until.index(changes.len() + 1), Vec::new());
            let store = SimStore::new(1);
            let mut listing = store.listing(DIRECTORY);
            let mut entries = Entries::listed(directory(), &listing);
            let before = entries.clone();
            let mut relisting = Relisting::begin(store.clone(), before.clone());
            for (number, (key, is_written)) in changes.iter().enumerate() {
                let key = [DIRECTORY, &[*key]].concat();
                if *is_written { store.put(key.clone(), format!("{number}"), None); } else { store.delete(&key); }
                let now = store.listing(DIRECTORY);
                let written = now.entries.iter().find(|kv| kv.key == key).cloned();
                let event = written.map_or(Event::Delete { key, mod_revision: now.revision }, Event::Put);
                if number < reported {
                    relisting.note(&event);
                    entries.apply(&event);
                } else {
                    late.push(event);
                }
                if number + 1 == read_at {
                    listing = now;
                }
            }
            entries.accept(relisting.with_changes(before.difference(&listing)).unwrap());
            for event in &late {
                entries.apply(event);
            }
            let end = Entries::listed(directory(), &store.listing(DIRECTORY));
            prop_assert_eq!(entries.decoded(), end.decoded());
            prop_assert_eq!(entries.revision(), end.revision());
        }
    }

    #[test]
    fn a_store_whose_revision_has_gone_back_has_no_such_listing() {
        let store = SimStore::new(1);
        let listing = store.listing(DIRECTORY);
        let later = Listing { revision: Revision(listing.revision.0 + 1), ..listing.clone() };
        let entries = Entries::listed(directory(), &later);
        let relisting = Relisting::begin(store, entries.clone());
        assert!(relisting.with_changes(entries.difference(&listing)).is_none());
    }
}

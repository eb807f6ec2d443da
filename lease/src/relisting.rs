//! A full listing that is made while the watch goes on.

use std::{collections::BTreeMap, pin::Pin};

use wire_net::Directory;
use wire_store::{Event, LeaseStore, Listing, Revision, StoreError};

/// A listing on its way. What the watch reports meanwhile is newer than the listing, or in it.
pub(crate) struct Relisting {
    answer: Pin<Box<dyn Future<Output = Result<Listing, StoreError>> + Send>>,
    /// The revision of the entries when the listing began.
    since: Revision,
    /// The last change of each key that has changed since.
    changes: BTreeMap<Vec<u8>, Event>,
}

impl Relisting {
    pub(crate) fn begin<S: LeaseStore>(store: S, directory: Directory, since: Revision) -> Self {
        let answer = async move { store.list(&directory).await };
        Self { answer: Box::pin(answer), since, changes: BTreeMap::new() }
    }

    pub(crate) fn note(&mut self, event: &Event) {
        self.changes.insert(event.key().to_vec(), event.clone());
    }

    /// Waits for the listing; for ever if there is none.
    ///
    /// # Cancel safety
    /// Safe: the listing goes on with the next call.
    pub(crate) async fn answer(relisting: &mut Option<Self>) -> Result<Listing, StoreError> {
        match relisting {
            Some(relisting) => relisting.answer.as_mut().await,
            None => std::future::pending().await,
        }
    }

    /// The listing as it would be with the changes reported since it was read. `None` if the store's revision has gone
    /// back: it was restored from a backup.
    pub(crate) fn with_changes(self, mut listing: Listing) -> Option<Listing> {
        if listing.revision < self.since {
            return None;
        }
        let read_at = listing.revision;
        let newer: BTreeMap<&Vec<u8>, &Event> =
            self.changes.iter().filter(|(_, event)| event.mod_revision() > read_at).collect();
        listing.entries.retain(|kv| !newer.contains_key(&kv.key));
        listing.entries.extend(newer.values().filter_map(|event| (*event).clone().into_key_value()));
        listing.entries.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        listing.revision = newer.values().map(|event| event.mod_revision()).fold(read_at, Revision::max);
        Some(listing)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire_net::KeyPrefix;
    use wire_store::SimStore;

    use super::*;

    const DIRECTORY: &[u8] = b"/n/subnets/";

    proptest! {
        /// Each change writes a key, or removes it.
        #[test]
        fn a_listing_with_the_changes_since_is_the_listing_at_the_end(
            changes in prop::collection::vec((0u8..6, any::<bool>()), 0..30),
            at in any::<prop::sample::Index>(),
        ) {
            let read_at = at.index(changes.len() + 1);
            let store = SimStore::new(1);
            let mut listing = store.listing(DIRECTORY);
            let mut relisting = Relisting::begin(store.clone(), KeyPrefix::new("/n").leases(true), listing.revision);
            for (number, (key, is_written)) in changes.iter().enumerate() {
                let key = [DIRECTORY, &[*key]].concat();
                if *is_written { store.put(key.clone(), format!("{number}"), None); } else { store.delete(&key); }
                let now = store.listing(DIRECTORY);
                let written = now.entries.iter().find(|kv| kv.key == key).cloned();
                relisting.note(&written.map_or(Event::Delete { key, mod_revision: now.revision }, Event::Put));
                if number + 1 == read_at {
                    listing = now;
                }
            }
            prop_assert_eq!(relisting.with_changes(listing).unwrap(), store.listing(DIRECTORY));
        }
    }

    #[test]
    fn a_store_whose_revision_has_gone_back_has_no_such_listing() {
        let store = SimStore::new(1);
        let listing = store.listing(DIRECTORY);
        let since = Revision(listing.revision.0 + 1);
        let relisting = Relisting::begin(store, KeyPrefix::new("/n").leases(true), since);
        assert_eq!(relisting.with_changes(listing), None);
    }
}

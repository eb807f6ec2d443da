//! What a listing of the lease directory is read into. Each key is decoded as it comes, and only what is wanted of it is
//! kept.

use std::iter::Peekable;

use imbl::{ordmap, shared_ptr::DefaultSharedPtr};
use wire_net::Directory;
use wire_store::{KeySink, KeyValue, LeaseStore, Revision, StoreError};

use super::{Decoded, Entries, Key};
use crate::{Entry, Lease};

/// The differences of a listing from earlier entries.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    /// The entries that are new or not the same, if only by a renewal; in order of key.
    pub(crate) put: Vec<(Key, Decoded)>,
    /// The keys that are not listed.
    pub(crate) gone: Vec<Key>,
    /// The revision of the listing.
    pub(crate) revision: Revision,
}

/// Compares a listing with earlier entries; both are in order of key.
pub(super) struct Comparison<'a> {
    before: &'a Entries,
    rest: Peekable<ordmap::Iter<'a, Key, Decoded, DefaultSharedPtr>>,
    difference: Difference,
}

impl<'a> Comparison<'a> {
    pub(super) fn with(before: &'a Entries) -> Self {
        Self { before, rest: before.decoded.iter().peekable(), difference: Difference::default() }
    }

    /// Takes the next listed entry.
    pub(super) fn note(&mut self, key: Key, decoded: Decoded) {
        while let Some((gone, _)) = self.rest.next_if(|(before, _)| **before < key) {
            self.difference.gone.push(gone.clone());
        }
        let before = self.rest.next_if(|(before, _)| **before == key);
        if before.is_none_or(|(_, before)| *before != decoded) {
            self.difference.put.push((key, decoded));
        }
    }

    pub(super) fn at(self, revision: Revision) -> Difference {
        let Self { rest, mut difference, .. } = self;
        difference.gone.extend(rest.map(|(key, _)| key.clone()));
        Difference { revision, ..difference }
    }
}

impl KeySink for Comparison<'_> {
    fn clear(&mut self) {
        *self = Self::with(self.before);
    }

    /// Decodes also what was last written at the same revision as before: a store that was restored from a backup gives
    /// the same revision to another value.
    fn push(&mut self, kv: KeyValue) {
        let decoded = Decoded::of(&kv, &self.before.directory);
        self.note(kv.key.into(), decoded);
    }
}

/// The leases of a listing that match.
struct Matching<'a, F> {
    directory: &'a Directory,
    matches: F,
    found: Vec<Entry>,
}

impl<F: Fn(&Lease) -> bool + Send> KeySink for Matching<'_, F> {
    fn clear(&mut self) {
        self.found.clear();
    }

    fn push(&mut self, kv: KeyValue) {
        if let Ok(subnet) = self.directory.subnet(&kv.key)
            && let Some(entry) = Entry::of(subnet, &kv)
            && (self.matches)(&entry.lease)
        {
            self.found.push(entry);
        }
    }
}

/// Reads the leases of a directory that match.
///
/// # Errors
/// If the store does not answer.
pub(crate) async fn matching<S: LeaseStore>(
    store: &S,
    directory: &Directory,
    matches: impl Fn(&Lease) -> bool + Send,
) -> Result<Vec<Entry>, StoreError> {
    let mut matching = Matching { directory, matches, found: Vec::new() };
    store.list_into(directory, &mut matching).await?;
    Ok(matching.found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire_net::KeyPrefix;
    use wire_store::Listing;

    use super::*;

    fn directory() -> Directory {
        KeyPrefix::new("/n").leases(true)
    }

    /// Few keys, revisions and values, so that two listings have much in common.
    fn listings() -> impl Strategy<Value = Listing> {
        let entry = (0u8..9, (1i64..4, 1i64..4), 0u8..4).prop_map(|(number, (created, written), value)| KeyValue {
            key: if number == 0 {
                b"/n/subnets/x".to_vec()
            } else {
                format!("/n/subnets/10.5.{number}.0-24").into_bytes()
            },
            value: if value == 0 {
                b"x".to_vec()
            } else {
                format!(r#"{{"PublicIP":"192.168.0.{value}"}}"#).into_bytes()
            },
            create_revision: Revision(created),
            mod_revision: Revision(written),
            lease: None,
        });
        (proptest::collection::btree_map(0u8..9, entry, 0..9), 1i64..9).prop_map(|(entries, revision)| {
            let mut entries: Vec<KeyValue> = entries.into_values().collect();
            entries.sort_by(|one, other| one.key.cmp(&other.key));
            entries.dedup_by(|one, other| one.key == other.key);
            Listing { entries, revision: Revision(revision) }
        })
    }

    proptest! {
        #[test]
        fn entries_become_those_of_each_listing_and_what_vanished_is_noted(listings in proptest::collection::vec(listings(), 1..5)) {
            let mut entries = Entries::new(directory());
            for listing in &listings {
                let new = Entries::listed(directory(), listing);
                let before = entries.clone();
                entries.changes.vanished.clear();
                entries.changes.went_back = false;
                let changed = entries.replace(listing);
                prop_assert_eq!(&entries.decoded, &new.decoded);
                prop_assert_eq!(entries.revision, listing.revision);
                prop_assert_eq!(entries.changes.went_back, listing.revision < before.revision);
                let is_there = |key: &Key, old: &Decoded| new.decoded.get(key).is_some_and(|now| !old.has_vanished(now));
                let mut vanished: Vec<_> = before.decoded.clone().into_iter().filter(|(key, old)| !is_there(key, old)).collect();
                vanished.sort_by(|(one, _): &(Key, Decoded), (other, _)| one.cmp(other));
                entries.changes.vanished.sort_by(|(one, _), (other, _)| one.cmp(other));
                prop_assert_eq!(&entries.changes.vanished, &vanished);
                let same = before.decoded.len() == new.decoded.len()
                    && new.decoded.iter().all(|(key, now)| before.decoded.get(key).is_some_and(|old| old.says_the_same(now)));
                prop_assert_eq!(changed, !same);
                prop_assert_eq!(&entries.decoded, &{ let mut handed = before; handed.replace_by(new); handed.decoded });
            }
        }

        #[test]
        fn what_did_not_change_is_shared_and_not_kept_twice(listing in listings()) {
            let mut entries = Entries::listed(directory(), &listing);
            let before = entries.clone();
            prop_assert!(!entries.replace(&listing));
            for (was, is) in before.leases().zip(entries.leases()) {
                prop_assert!(std::sync::Arc::ptr_eq(was, is));
            }
        }
    }
}

//! Hold-down: when most leases vanish at once, or the store has forgotten some, they are kept for a while. Pure.
//!
//! This happens when the prefix is deleted by mistake, or the store comes back empty or from an old backup. The hosts
//! are still there, and write their leases again within seconds. Until then their traffic goes on. If the store's
//! revision has gone back, every lease that has vanished is one of these, however few they are.

use std::{sync::Arc, time::Duration};

use imbl::{OrdMap, ordmap::DiffItem};
use tokio::time::Instant;

use crate::{
    Entries,
    entries::{Changes, Decoded, Key},
};

/// Leases that vanish within this time count as vanished together: a deletion may come in several parts.
pub(crate) const TOGETHER: Duration = Duration::from_secs(2);
/// The time for which leases that vanished together are held.
pub(crate) const HELD_FOR: Duration = Duration::from_secs(30);
/// The least number to hold: a single lease that vanishes is a host that leaves.
const SEVERAL: usize = 2;

/// The leases that have vanished recently. A copy costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HoldDown(OrdMap<Key, Vanished>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Vanished {
    decoded: Decoded,
    at: Instant,
    held: bool,
    /// Whether it is back in the store.
    back: bool,
}

impl HoldDown {
    /// Takes the changes of the entries `live`. Forgets the leases that are back or were held long enough. Returns the
    /// keys of the leases that are held now and were not, or the other way round.
    pub(crate) fn note(&mut self, changes: &mut Changes, live: &Entries, now: Instant) -> Vec<Key> {
        let before = self.clone();
        let held = std::mem::take(&mut changes.went_back);
        for (key, decoded) in changes.vanished.drain(..).filter(|(_, decoded)| decoded.is_lease()) {
            self.0.insert(key, Vanished { decoded, at: now, held, back: false });
        }
        let aged: Vec<(Key, Vanished)> =
            self.0.iter().filter_map(|(key, vanished)| vanished.aged(key, live, now)).collect();
        for (key, vanished) in aged {
            if now < vanished.until() {
                self.0.insert(key, vanished)
            } else {
                self.0.remove(&key)
            };
        }
        if !self.0.is_empty() {
            self.hold(live.valid(), now);
        }
        before.0.diff(&self.0).filter_map(|item| changed_key(&item)).collect()
    }

    /// Holds the leases that have vanished together if they are most of those that existed. `live` is the number of
    /// leases that exist.
    fn hold(&mut self, live: usize, now: Instant) {
        let together = |vanished: &Vanished| now < vanished.at + TOGETHER;
        let lately = self.0.values().filter(|vanished| together(vanished)).count();
        let back = self.0.values().filter(|vanished| vanished.back).count();
        // More than half of the leases that existed.
        if lately < SEVERAL || lately <= live.saturating_sub(back) {
            return;
        }
        let held = self.0.iter().filter(|(_, vanished)| together(vanished) && !vanished.held);
        let held: Vec<(Key, Vanished)> =
            held.map(|(key, vanished)| (key.clone(), Vanished { held: true, ..vanished.clone() })).collect();
        for (key, vanished) in held {
            self.0.insert(key, vanished);
        }
    }

    /// The leases to keep for now.
    pub(crate) fn held(&self) -> impl Iterator<Item = (&Key, &Decoded)> {
        self.0.iter().filter(|(_, vanished)| vanished.is_held()).map(|(key, vanished)| (key, &vanished.decoded))
    }

    /// The lease to keep for now that had this key.
    pub(crate) fn held_at(&self, key: &Key) -> Option<&Decoded> {
        self.0.get(key).filter(|vanished| vanished.is_held()).map(|vanished| &vanished.decoded)
    }

    /// The time at which the next lease is released.
    pub(crate) fn next_release(&self) -> Option<Instant> {
        self.0.values().filter(|vanished| vanished.is_held()).map(Vanished::until).min()
    }
}

/// The key, if the difference is of a lease that is or was held.
fn changed_key(item: &DiffItem<'_, '_, Key, Vanished>) -> Option<Key> {
    let (key, is_held) = match item {
        DiffItem::Add(key, vanished) | DiffItem::Remove(key, vanished) => (key, vanished.is_held()),
        DiffItem::Update { old: (_, old), new: (key, new) } => (key, old.is_held() || new.is_held()),
    };
    is_held.then(|| (*key).clone())
}

impl Vanished {
    fn until(&self) -> Instant {
        self.at + if self.is_held() { HELD_FOR } else { TOGETHER }
    }

    const fn is_held(&self) -> bool {
        self.held && !self.back
    }

    /// This entry as it is now, if that differs.
    fn aged(&self, key: &Key, live: &Entries, now: Instant) -> Option<(Key, Self)> {
        let back = live.decoded().contains_key(key);
        let differs = back != self.back || now >= self.until();
        differs.then(|| (Arc::clone(key), Self { back, ..self.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use wire_net::{Directory, KeyPrefix};
    use wire_store::{KeyValue, Listing, Revision};

    use super::*;

    const DIRECTORY: &[u8] = b"/n/subnets/";

    fn directory() -> Directory {
        KeyPrefix::new("/n").leases(true)
    }

    /// A store with these leases, made at this revision.
    fn listing(numbers: &[u8], revision: Revision) -> Listing {
        let entries = numbers.iter().map(|number| KeyValue {
            key: [DIRECTORY, format!("10.5.{number}.0-24").as_bytes()].concat(),
            value: br#"{"PublicIP":"192.168.0.1"}"#.to_vec(),
            create_revision: revision,
            mod_revision: revision,
            lease: None,
        });
        Listing { entries: entries.collect(), revision }
    }

    /// Counts the held leases after each step. At first `before` exist; each step has a time in milliseconds and the
    /// leases that exist then.
    fn held(before: &[u8], steps: &[(u64, &[u8])]) -> Vec<usize> {
        let start = Instant::now();
        let mut hold_down = HoldDown::default();
        let mut entries = Entries::listed(directory(), &listing(before, Revision(1)));
        let look = |(after, numbers): &(u64, &[u8])| {
            entries.replace(&listing(numbers, Revision(1)));
            hold_down.note(&mut entries.take_changes(), &entries, start + Duration::from_millis(*after));
            hold_down.held().count()
        };
        steps.iter().map(look).collect()
    }

    fn note(hold_down: &mut HoldDown, entries: &mut Entries) {
        hold_down.note(&mut entries.take_changes(), entries, Instant::now());
    }

    #[test]
    fn most_leases_that_vanish_at_once_are_held_for_half_a_minute() {
        let gone: &[u8] = &[];
        assert_eq!(held(&[1, 2, 3, 4], &[(0, gone), (29_999, gone), (30_000, gone)]), [4, 4, 0]);
        assert_eq!(held(&[1, 2, 3, 4, 5], &[(0, &[5, 6])]), [4], "three quarters");
    }

    #[test]
    fn half_of_them_or_a_single_one_is_let_go_at_once() {
        assert_eq!(held(&[1, 2, 3, 4], &[(0, &[1, 2])]), [0]);
        assert_eq!(held(&[1, 2], &[(0, &[1])]), [0]);
        assert_eq!(held(&[1], &[(0, &[])]), [0]);
    }

    #[test]
    fn parts_of_one_deletion_count_together_and_apart_when_they_are_apart() {
        let parts: [(u64, &[u8]); 3] = [(0, &[3, 4, 5, 6]), (500, &[5, 6]), (1000, &[])];
        assert_eq!(held(&[1, 2, 3, 4, 5, 6], &parts), [0, 4, 6]);
        let apart: [(u64, &[u8]); 3] = [(0, &[3, 4, 5, 6]), (2000, &[5, 6]), (4000, &[6])];
        assert_eq!(held(&[1, 2, 3, 4, 5, 6], &apart), [0, 0, 0]);
    }

    #[test]
    fn whoever_is_back_is_held_no_longer_and_the_others_are() {
        let steps: [(u64, &[u8]); 4] = [(0, &[]), (1000, &[2]), (2000, &[1, 2, 3]), (30_000, &[1, 2, 3])];
        assert_eq!(held(&[1, 2, 3, 4], &steps), [4, 3, 1, 0]);
    }

    /// A host that lists the emptied store late finds most leases back already.
    #[test]
    fn in_a_store_that_was_emptied_those_that_are_back_count_as_vanished_too() {
        let held = |back: &[u8]| {
            let mut entries = Entries::listed(directory(), &listing(&[1, 2, 3, 4], Revision(7)));
            let mut hold_down = HoldDown::default();
            note(&mut hold_down, &mut entries);
            entries.replace(&listing(back, Revision(2)));
            note(&mut hold_down, &mut entries);
            hold_down.held().map(|(key, _)| key[DIRECTORY.len()..].to_vec()).collect::<Vec<_>>()
        };
        assert_eq!(held(&[1, 2, 3]), [b"10.5.4.0-24".to_vec()]);
        assert_eq!(held(&[2]).len(), 3);
        assert!(held(&[1, 2, 3, 4]).is_empty());
    }

    /// In a store that was restored from a backup the older leases are the same as before.
    #[test]
    fn a_single_lease_that_a_restored_store_does_not_know_is_held() {
        let held = |revision| {
            let mut entries = Entries::listed(directory(), &listing(&[1, 2, 3, 4], Revision(2)));
            entries.replace(&Listing { revision: Revision(7), ..listing(&[1, 2, 3, 4], Revision(2)) });
            let mut hold_down = HoldDown::default();
            note(&mut hold_down, &mut entries);
            entries.replace(&Listing { revision, ..listing(&[1, 2, 3], Revision(2)) });
            note(&mut hold_down, &mut entries);
            hold_down.held().count()
        };
        assert_eq!(held(Revision(6)), 1);
        assert_eq!(held(Revision(8)), 0, "its host has left");
    }
}

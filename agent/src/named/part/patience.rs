//! After a backup of the store was restored, it may have what hosts have left or given back since: for a moment, until they have seen it. Pure.

use std::time::Duration;

use tokio::time::Instant;
use wire_lease::named::{NamedNetwork, Room};

use super::{KEEP, Part};
use crate::named::Leased;

/// The time that another host has to leave again: it asks within a second.
const BEAR: Duration = Duration::from_secs(5);

/// Until when something is borne with.
#[derive(Debug, Default)]
pub(super) struct Patience(pub(super) Option<Instant>);

impl Patience {
    fn bears(&mut self, is_wrong: bool, now: Instant) -> bool {
        if !is_wrong {
            self.0 = None;
            return false;
        }
        now < *self.0.get_or_insert(now + BEAR)
    }
}

impl Part {
    /// Notes that the records have shown all that this host holds, with its lease.
    pub(in crate::named) fn note_lease(&mut self, leased: Leased, now: Instant) {
        if self.shown.is_none_or(|(with, _)| with != leased) {
            self.shown = Some((leased, now));
        }
    }

    /// True while a room of this host is another's that may be about to go. It is believed at once if this host has had another lease: then the
    /// other has rightly got it.
    pub(in crate::named) fn bears_with_rooms(
        &mut self,
        network: Option<&NamedNetwork>,
        leased: Leased,
        now: Instant,
    ) -> bool {
        let rooms = self.entry.held.iter().flat_map(|kept| &kept.rooms);
        let is_taken = |network: &NamedNetwork| {
            rooms.clone().any(|room| match room {
                Room::Block(block) => network.blocks.get(block).is_some_and(|block| block.record.host != self.own),
                Room::Address(address, _) => {
                    network.addresses.get(address).is_some_and(|single| single.record.host != self.own)
                }
            })
        };
        let is_taken = network.is_some_and(is_taken);
        let has_lease = self.has_same_lease(leased, now);
        self.taken_rooms.bears(is_taken, now) && has_lease
    }

    /// The same for addresses of containers in this host's blocks.
    pub(super) fn bears_with_addresses(&mut self, are_taken: bool, leased: Leased, now: Instant) -> bool {
        let has_lease = self.has_same_lease(leased, now);
        self.taken_addresses.bears(are_taken, now) && has_lease
    }

    fn has_same_lease(&self, leased: Leased, now: Instant) -> bool {
        self.shown.is_some_and(|(with, since)| with == leased && since + BEAR <= now)
    }

    /// Has the records looked at for rooms that this host has given back: the store may have been restored.
    pub(in crate::named) fn doubt_rooms(&mut self, now: Instant) {
        self.spare_until = Some(now + KEEP);
    }

    pub(in crate::named) fn doubts_rooms(&self, now: Instant) -> bool {
        self.spare_until.is_some_and(|until| now < until)
    }

    /// A block or an address that the store has as this host's, and that it does not hold.
    pub(in crate::named) fn spare(&self, network: &NamedNetwork, now: Instant) -> Option<Room> {
        let kept = self.entry.held.as_ref().filter(|_| self.doubts_rooms(now))?;
        let blocks = network.blocks.iter().filter(|(_, stored)| stored.record.host == self.own);
        let singles = network.addresses.iter().filter(|(_, stored)| stored.record.host == self.own);
        let blocks = blocks.map(|(block, _)| Room::Block(*block));
        let mut all = blocks.chain(singles.map(|(address, stored)| Room::Address(*address, stored.record.mac)));
        all.find(|room| !kept.rooms.contains(room))
    }
}

#[cfg(test)]
mod tests {
    use wire_lease::named::{AddressRecord, BlockRecord};
    use wire_net::{AddressKey, BlockKey, MacAddr};

    use super::*;
    use crate::named::{
        document::Entry,
        samples::{LEASE, admitted, app, host, kept, records, stored},
    };

    const LEASED: Leased = Leased::With(Some(LEASE));

    fn joined() -> Part {
        Part::new(host(1), Entry { is_exposed: true, held: Some(kept(1)), ..Entry::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_that_is_anothers_is_given_up_at_once_with_another_lease_and_else_only_if_it_stays_so() {
        let mut taken = records(&[1, 2]);
        let block = kept(1).rooms[0].prefix();
        taken.blocks.insert(BlockKey { network: app(), block }, stored(BlockRecord { host: host(2) }, Some(LEASE)));
        let (taken, own) = (admitted(&taken), admitted(&records(&[1, 2])));
        let mut part = joined();
        assert!(!part.bears_with_rooms(Some(&taken), LEASED, Instant::now()), "nothing is known of the lease");
        part.taken_rooms = Patience::default();
        part.note_lease(LEASED, Instant::now());
        tokio::time::sleep(BEAR).await;
        let begun = Instant::now();
        assert!(!part.bears_with_rooms(Some(&own), LEASED, begun));
        assert!(part.bears_with_rooms(Some(&taken), LEASED, begun));
        assert!(!part.bears_with_rooms(Some(&taken), Leased::Not, begun));
        assert!(!part.bears_with_rooms(Some(&taken), Leased::With(None), begun), "it has another lease");
        tokio::time::sleep_until(part.next_time(begun).unwrap()).await;
        assert_eq!(Instant::now(), begun + BEAR);
        assert!(!part.bears_with_rooms(Some(&taken), LEASED, Instant::now()));
        part.bears_with_rooms(Some(&own), LEASED, Instant::now());
        assert!(part.bears_with_rooms(Some(&taken), LEASED, Instant::now()), "it came back meanwhile");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_restored_store_has_as_this_hosts_beyond_what_it_holds_is_found_for_a_while() {
        let mut more = records(&[1, 2]);
        let address = [10, 128, 9, 9].into();
        let mac = MacAddr::of_container(address);
        more.addresses
            .insert(AddressKey { network: app(), address }, stored(AddressRecord { host: host(1), mac }, Some(LEASE)));
        let (more, same) = (admitted(&more), admitted(&records(&[1, 2])));
        let mut part = joined();
        assert_eq!(part.spare(&more, Instant::now()), None, "the store was not restored");
        part.doubt_rooms(Instant::now());
        assert_eq!(part.spare(&same, Instant::now()), None);
        assert_eq!(part.spare(&more, Instant::now()), Some(Room::Address(address, mac)));
        tokio::time::sleep(KEEP).await;
        assert_eq!(part.spare(&more, Instant::now()), None);
    }
}

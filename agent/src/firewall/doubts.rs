//! Doubts whether the packets that we let in reach the device. Pure.
//!
//! The kernel counts the packets that a device has received anyway. They are fewer than those that we let in: the device,
//! or the agent behind it, drops some itself (flags, another MAC), and a new device counts from zero. So a counter that
//! stands still while packets arrive is a reason for doubt and no proof. Then the packets that all others let in are counted
//! for a while, which costs something for each packet.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;
use wire_net::Family;

/// The number of packets that must arrive while the device's counter stands still: fewer may be on their way to it.
const MANY: u64 = 3;

/// The shortest time of a doubt: one that comes and goes must not change the table each time.
const COUNTED: Duration = Duration::from_secs(60);

/// The time after a doubt has arisen in which the counters are read often.
const CLOSELY: Duration = Duration::from_secs(15);

/// The pause between two looks in that time. The shortest pause at any time is half of it, since each look reads the
/// counters of all links.
const OFTEN: Duration = Duration::from_secs(1);

/// The doubts of all families.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    of: BTreeMap<Family, Doubt>,
    looked: Option<Instant>,
}

/// The counters of one family when that of its device last changed, and the time of the doubt, if there is one.
#[derive(Debug)]
struct Doubt {
    arrived: u64,
    received: u64,
    since: Option<Instant>,
}

impl Doubts {
    /// True if it is time for another look, which is then taken as made.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.looked.is_none_or(|looked| now.duration_since(looked) >= OFTEN.mul_f64(0.5));
        if is_due {
            self.looked = Some(now);
        }
        is_due
    }

    /// Takes the number of packets of a family that have arrived, and of those that its device had received just after that.
    /// True if a doubt has arisen or gone.
    pub(super) fn note(&mut self, family: Family, arrived: u64, received: u64, now: Instant) -> bool {
        let doubt = self.of.entry(family).or_insert(Doubt { arrived, received, since: None });
        let before = doubt.since.is_some();
        if received != doubt.received || arrived < doubt.arrived {
            (doubt.arrived, doubt.received) = (arrived, received);
            doubt.since = doubt.since.filter(|since| now.duration_since(*since) < COUNTED);
        } else if arrived - doubt.arrived >= MANY && doubt.since.is_none() {
            doubt.since = Some(now);
        }
        before != doubt.since.is_some()
    }

    pub(super) fn families(&self) -> BTreeSet<Family> {
        self.of.iter().filter(|(_, doubt)| doubt.since.is_some()).map(|(family, _)| *family).collect()
    }

    /// The pause before the next look, if it should come soon.
    pub(super) fn pause(&self) -> Option<Duration> {
        let is_new = |doubt: &Doubt| doubt.since.is_some_and(|since| since.elapsed() < CLOSELY);
        self.of.values().any(is_new).then_some(OFTEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_stands_still_while_packets_arrive_is_doubted_for_a_minute_at_least() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut doubts = Doubts::default();
        let mut note = |arrived, received, seconds| {
            let changed = doubts.note(Family::V4, arrived, received, at(seconds));
            (changed, !doubts.families().is_empty())
        };
        assert_eq!(note(100, 90, 0), (false, false), "who drops what was before is not known");
        assert_eq!(note(200, 190, 5), (false, false));
        assert_eq!(note(202, 190, 10), (false, false), "they may be on their way");
        assert_eq!(note(203, 190, 15), (true, true));
        // The table was put again, and counts from zero.
        assert_eq!(note(0, 190, 16), (false, true));
        assert_eq!(note(9, 190, 17), (false, true));
        assert_eq!(note(10, 191, 18), (false, true));
        assert_eq!(note(20, 201, 80), (true, false));
        // A device made anew.
        assert_eq!(note(30, 0, 85), (false, false));
        assert_eq!(note(40, 10, 90), (false, false));
    }
}

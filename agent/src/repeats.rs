//! Finds kernel entries that are corrected again and again: another program changes them each time, and only the
//! operator can stop that.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use wire_state::Op;

use crate::status::KernelCondition;

/// The number of equal corrections before the warning.
const OFTEN: u32 = 5;

/// A correction that was not repeated for this long is forgotten.
const QUIET: Duration = Duration::from_secs(600);

/// The number of changes that are remembered. Changes that are new each time do not repeat.
const REMEMBERED: usize = 64;
const NAMED: usize = 3;

/// The count of each change, and its last time.
#[derive(Debug, Default)]
pub(crate) struct Repeats(BTreeMap<String, (u32, Instant)>);

impl Repeats {
    /// Counts corrections, and returns a warning that names those that repeat.
    pub(crate) fn note(&mut self, changes: &[Op], now: Instant) -> Option<KernelCondition> {
        self.0.retain(|_, (_, last)| now.duration_since(*last) < QUIET);
        for change in changes {
            let change = change.to_string();
            if self.0.len() >= REMEMBERED && !self.0.contains_key(&change) {
                let oldest = self.0.iter().min_by_key(|(_, (_, last))| *last).map(|(change, _)| change.clone());
                oldest.and_then(|oldest| self.0.remove(&oldest));
            }
            let (count, last) = self.0.entry(change).or_insert((0, now));
            (*count, *last) = (*count + 1, now);
        }
        let often = self.0.iter().filter(|(_, (count, _))| *count >= OFTEN);
        let named: Vec<_> = often.take(NAMED).map(|(change, (count, _))| (change.clone(), *count)).collect();
        (!named.is_empty()).then_some(KernelCondition::OtherProgram(named))
    }

    /// True if the warning has named all of these, so that the log needs no further line.
    pub(crate) fn knows(&self, changes: &[Op]) -> bool {
        changes.iter().all(|change| self.0.get(&change.to_string()).is_some_and(|(count, _)| *count > OFTEN))
    }
}

#[cfg(test)]
mod tests {
    use wire_state::{Address, KernelOp, Namespace};

    use super::*;

    fn put_right(last: u8) -> Op {
        let address = Address { link: "flannel.1".parse().unwrap(), address: [169, 254, 9, last].into(), len: 16 };
        Op::Kernel(Namespace::Host, KernelOp::DeleteAddress(address))
    }

    #[test]
    fn what_another_program_changes_again_and_again_is_named_with_how_often_until_it_stops() {
        let (mut repeats, begun) = (Repeats::default(), Instant::now());
        let at = |seconds| begun + Duration::from_secs(seconds);
        for second in 0..4 {
            assert!(repeats.note(&[put_right(9), put_right(10 + u8::try_from(second).unwrap())], at(second)).is_none());
        }
        let said = repeats.note(&[put_right(9)], at(4)).unwrap().message().to_string();
        assert!(said.contains("each time: delete address 169.254.9.9/16 dev flannel.1 (5 times); configure"), "{said}");
        assert!(said.contains("denyinterfaces flannel*"), "{said}");
        assert!(!repeats.knows(&[put_right(9)]));
        repeats.note(&[put_right(9)], at(4));
        assert!(repeats.knows(&[put_right(9)]) && !repeats.knows(&[put_right(9), put_right(10)]));
        // Nobody does anything for a while.
        assert!(repeats.note(&[], at(600)).is_some());
        assert!(repeats.note(&[], at(605)).is_none());
        assert!(repeats.note(&[put_right(9)], at(606)).is_none());
    }

    #[test]
    fn of_changes_that_are_always_others_few_are_remembered() {
        let (mut repeats, begun) = (Repeats::default(), Instant::now());
        for last in 0..=u8::MAX {
            assert!(repeats.note(&[put_right(last)], begun + Duration::from_secs(last.into())).is_none());
        }
        assert!(repeats.0.len() <= REMEMBERED);
    }
}

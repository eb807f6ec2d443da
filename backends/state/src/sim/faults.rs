//! The faults of a resource in memory: planned ones, and ones by chance.

use std::collections::BTreeMap;

use crate::ErrorKind;

/// How often a driver of a resource in memory fails by chance, of 1000 times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultRates {
    /// Operations that fail, each with any kind of error.
    pub ops: u16,
    /// Reads that fail.
    pub reads: u16,
}

/// The faults to come.
#[derive(Debug)]
pub(super) struct Faults {
    rates: FaultRates,
    dice: Dice,
    /// The errors that the next operations of each name fail with.
    planned: BTreeMap<&'static str, Vec<ErrorKind>>,
    pub(super) unreadable: usize,
    /// The number of operations until the process that makes them ends; `None` if it goes on.
    pub(super) crash_after: Option<usize>,
}

/// A generator of random numbers: splitmix64, <https://prng.di.unimi.it/splitmix64.c>.
#[derive(Clone, Debug)]
struct Dice(u64);

/// The kinds of errors that come by chance.
const KINDS: [ErrorKind; 7] = [
    ErrorKind::Exists,
    ErrorKind::Absent,
    ErrorKind::NoDevice,
    ErrorKind::Permission,
    ErrorKind::Busy,
    ErrorKind::NoBuffers,
    ErrorKind::Lost,
];

impl Default for Faults {
    fn default() -> Self {
        let planned = BTreeMap::new();
        Self { rates: FaultRates::default(), dice: Dice(0), planned, unreadable: 0, crash_after: None }
    }
}

impl Faults {
    pub(super) fn set_rates(&mut self, rates: FaultRates, seed: u64) {
        (self.rates, self.dice) = (rates, Dice(seed));
    }

    pub(super) fn plan(&mut self, op: &'static str, error: ErrorKind) {
        self.planned.entry(op).or_default().push(error);
    }

    /// The error with which the next operation of that name fails.
    pub(super) fn of_op(&mut self, op: &'static str) -> Option<ErrorKind> {
        let by_chance = self.dice.chance(self.rates.ops).then(|| self.dice.one_of(&KINDS));
        self.planned.get_mut(op).and_then(Vec::pop).or(by_chance)
    }

    /// Whether the next read fails.
    pub(super) fn of_read(&mut self) -> bool {
        if self.unreadable > 0 {
            self.unreadable -= 1;
            return true;
        }
        self.dice.chance(self.rates.reads)
    }

    /// Counts an operation. Returns whether the process that makes it has ended before.
    pub(super) const fn ends_before_op(&mut self) -> bool {
        match self.crash_after {
            Some(0) => true,
            Some(left) => {
                self.crash_after = Some(left - 1);
                false
            }
            None => false,
        }
    }
}

impl Dice {
    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn chance(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.next() % 1000 < per_mille.into()
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        let index = usize::try_from(self.next()).unwrap_or_default() % all.len();
        all[index]
    }
}

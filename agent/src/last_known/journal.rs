//! The journal: a line for each write since the base was written. A line has all that changed from one saved table to
//! the next, so what is read is a table as it was at one moment.
//!
//! A line is a sum in 16 hexadecimal digits, a space and JSON. The sum is over the `id` of the base and the JSON of all
//! lines up to this one: a line beside another base, after a damaged one, or cut off itself is noticed.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
};

use serde::{Deserialize, Serialize};
use wire_lease::LeaseTable;
use wire_net::KeyPrefix;

use super::{KeptLease, text};
use crate::ports::Disk;

/// The difference between two tables.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Changes {
    put: Vec<KeptLease>,
    /// The keys of leases that are gone.
    removed: Vec<String>,
}

impl Changes {
    /// `None` if more than half of the leases have changed: then a new base is as good.
    pub(super) fn between(prefix: &KeyPrefix, before: &LeaseTable, after: &LeaseTable) -> Option<Self> {
        let mut changes = Self::default();
        for (change, count) in after.entries_changed_since(before).zip(1..) {
            if count > after.peers.len() / 2 {
                return None;
            }
            match change.after {
                Some(entry) => changes.put.push(KeptLease::of(prefix, entry)),
                None => changes.removed.push(text(prefix.lease(*change.subnet))),
            }
        }
        Some(changes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.put.is_empty() && self.removed.is_empty()
    }

    /// The line after the lines with that sum, and the sum with it.
    pub(super) fn line(&self, sum: Sum) -> (Vec<u8>, Sum) {
        let json = serde_json::to_string(self).expect("only text keys");
        let sum = sum.with(json.as_bytes());
        (format!("{:016x} {json}\n", sum.0).into_bytes(), sum)
    }

    fn apply(self, leases: &mut BTreeMap<String, KeptLease>) {
        for key in &self.removed {
            leases.remove(key);
        }
        leases.extend(self.put.into_iter().map(|kept| (kept.key.clone(), kept)));
    }
}

/// A sum over all lines of a journal (FNV-1a, 64 bit, <http://www.isthe.com/chongo/tech/comp/fnv/>). It finds what a
/// crash has damaged; it is no protection against people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum(u64);

impl Sum {
    /// The sum of an empty journal of that base.
    pub(super) fn of_base(id: &str) -> Self {
        Self(0xcbf2_9ce4_8422_2325).with(id.as_bytes())
    }

    fn with(self, bytes: &[u8]) -> Self {
        let add = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.iter().fold(self.0, add))
    }
}

/// Applies the lines that belong to the base, up to the first that does not or cannot be read. Returns whether these
/// were all, and at least one: then the journal's time is that of the result.
pub(super) fn apply(disk: &impl Disk, path: &Path, id: &str, leases: &mut BTreeMap<String, KeptLease>) -> bool {
    let Ok(file) = disk.open(path) else { return false };
    let (mut lines, mut line) = (BufReader::new(file), Vec::new());
    let (mut sum, mut is_applied) = (Sum::of_base(id), false);
    loop {
        line.clear();
        match lines.read_until(b'\n', &mut line) {
            Ok(0) => return is_applied,
            Ok(_) => {}
            Err(_) => return false,
        }
        let Some((changes, with_it)) = parse(&line, sum) else { return false };
        changes.apply(leases);
        (sum, is_applied) = (with_it, true);
    }
}

fn parse(line: &[u8], before: Sum) -> Option<(Changes, Sum)> {
    let (sum, json) = line.strip_suffix(b"\n")?.split_at_checked(16)?;
    let json = json.strip_prefix(b" ")?;
    let with_it = before.with(json);
    let is_whole = sum == format!("{:016x}", with_it.0).as_bytes();
    is_whole.then(|| serde_json::from_slice(json).ok().map(|changes| (changes, with_it))).flatten()
}

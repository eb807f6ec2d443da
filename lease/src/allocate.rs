//! Chooses a subnet for a host. Pure: the same leases, host and attempt give the same subnet.

use std::collections::BTreeMap;

use wire_net::{Family, Pool, Prefix};

/// The addresses that are taken: disjoint intervals in order, with a gap between any two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The last address of each interval, by family and first address.
    intervals: BTreeMap<(Family, u128), u128>,
}

/// The preference of a host for a subnet.
#[derive(Clone, Copy, Debug)]
pub struct Preference<'a> {
    /// The subnet that the host had last.
    pub preferred: Option<Prefix>,
    /// The host's identity: its hash is where the search starts.
    pub identity: &'a str,
    /// The number of lost races. It moves the start, so that two hosts that met once do not meet again.
    pub attempt: u32,
    /// Prefixes to lease only if nothing else is free.
    pub last_resort: &'a [Prefix],
}

/// All subnets of the pool are taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "all {size} subnets from {min} to {max} are taken: release one, or make the range larger ({})",
    range_fields(.min.family())
)]
pub struct Full {
    /// The first subnet of the range that was searched.
    pub min: Prefix,
    /// The last subnet of the range.
    pub max: Prefix,
    /// The number of subnets in the range.
    pub size: u128,
}

/// Chooses the preferred subnet if it is offered and free. Otherwise takes the first free one, starting at a place
/// given by identity and attempt and wrapping around; subnets of last resort are considered only if no other is free.
///
/// # Errors
/// If no subnet of the pool is free.
pub fn allocate(pool: &Pool, taken: &Taken, preference: Preference<'_>) -> Result<Prefix, Full> {
    if let Some(prefix) = preference.preferred
        && pool.offers(prefix)
        && taken.overlapping(prefix).is_none()
    {
        return Ok(prefix);
    }
    let free = if preference.last_resort.is_empty() {
        first_from(pool, taken, preference)
    } else {
        let mut taken_or_last_resort = taken.clone();
        preference.last_resort.iter().for_each(|prefix| taken_or_last_resort.insert(*prefix));
        first_from(pool, &taken_or_last_resort, preference).or_else(|| first_from(pool, taken, preference))
    };
    free.ok_or(Full { min: pool.min, max: pool.max, size: pool.size() })
}

impl Taken {
    /// Marks all addresses of `prefix` as taken.
    pub fn insert(&mut self, prefix: Prefix) {
        let family = prefix.family();
        let (mut first, mut last) = (prefix.first_bits(), prefix.last_bits());
        // Merge every interval that touches the new one, from the right.
        while let Some((&(_, other_first), &other_last)) =
            self.intervals.range((family, 0)..=(family, last.saturating_add(1))).next_back()
            && other_last.saturating_add(1) >= first
        {
            self.intervals.remove(&(family, other_first));
            first = first.min(other_first);
            last = last.max(other_last);
        }
        self.intervals.insert((family, first), last);
    }

    /// The last address of an interval that overlaps `prefix`.
    #[must_use]
    pub fn overlapping(&self, prefix: Prefix) -> Option<u128> {
        let family = prefix.family();
        let before_end = self.intervals.range((family, 0)..=(family, prefix.last_bits())).next_back();
        before_end.map(|(_, last)| *last).filter(|last| *last >= prefix.first_bits())
    }
}

impl FromIterator<Prefix> for Taken {
    fn from_iter<I: IntoIterator<Item = Prefix>>(prefixes: I) -> Self {
        let mut taken = Self::default();
        for prefix in prefixes {
            taken.insert(prefix);
        }
        taken
    }
}

/// The first free subnet, from the host's own start on.
fn first_from(pool: &Pool, taken: &Taken, preference: Preference<'_>) -> Option<Prefix> {
    let size = pool.size();
    let start = hash(preference.identity, preference.attempt) % size;
    first_free(pool, taken, start..size).or_else(|| first_free(pool, taken, 0..start))
}

/// The first free subnet with one of these numbers.
pub(crate) fn first_free(pool: &Pool, taken: &Taken, numbers: std::ops::Range<u128>) -> Option<Prefix> {
    let mut number = numbers.start;
    while number < numbers.end {
        let prefix = pool.nth(number)?;
        let Some(last) = taken.overlapping(prefix) else { return Some(prefix) };
        number = pool.number_after(last)?;
    }
    None
}

/// 128-bit FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>), its halves mixed. It must be the same in all versions
/// and on all machines, which the standard library's hashers do not promise.
pub(crate) fn hash(identity: &str, attempt: u32) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let bytes = identity.bytes().chain(attempt.to_be_bytes());
    let hash = bytes.fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    hash ^ (hash >> 64)
}

fn range_fields(family: Family) -> &'static str {
    match family {
        Family::V4 => "SubnetMin, SubnetMax, Network",
        Family::V6 => "IPv6SubnetMin, IPv6SubnetMax, IPv6Network",
    }
}

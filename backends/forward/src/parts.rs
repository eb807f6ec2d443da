//! A hash map in parts that copies of it share. A change copies one part, so a table of many entries is changed while others still look
//! into the old one.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use foldhash::fast::RandomState;

/// The number of parts, as a power of two: of 65 000 entries, a part has about 250.
const BITS: u32 = 8;

type Part<K, V> = HashMap<K, V, RandomState>;

/// The map. The hash has a random seed, and so has the choice of the part: who writes leases chooses the prefixes, and could choose some
/// that collide.
#[derive(Clone, Debug)]
pub(crate) struct Parts<K, V> {
    seed: u64,
    parts: Vec<Arc<Part<K, V>>>,
}

/// A key, as bits of which some choose the part.
pub(crate) trait Key: std::hash::Hash + Eq + Copy {
    fn bits(self) -> u128;
}

impl Key for u128 {
    fn bits(self) -> u128 {
        self
    }
}

impl Key for IpAddr {
    fn bits(self) -> u128 {
        match self {
            Self::V4(address) => address.to_bits().into(),
            Self::V6(address) => address.to_bits(),
        }
    }
}

impl<K, V> Default for Parts<K, V> {
    fn default() -> Self {
        use std::hash::BuildHasher;
        let empty = Arc::new(Part::default());
        // Odd, so that no bit of the key is lost by the multiplication.
        let seed = RandomState::default().hash_one(0u8) | 1;
        Self { seed, parts: vec![empty; 1 << BITS] }
    }
}

impl<K: Key, V: Clone> Parts<K, V> {
    #[inline]
    pub(crate) fn get(&self, key: K) -> Option<&V> {
        self.parts[self.part_of(key)].get(&key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        let part = self.part_of(key);
        Arc::make_mut(&mut self.parts[part]).insert(key, value);
    }

    pub(crate) fn remove(&mut self, key: K) {
        let part = self.part_of(key);
        Arc::make_mut(&mut self.parts[part]).remove(&key);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.parts.iter().all(|part| part.is_empty())
    }

    #[inline]
    fn part_of(&self, key: K) -> usize {
        let bits = key.bits();
        let [low, high] = [bits, bits >> 64].map(|half| u64::try_from(half & u128::from(u64::MAX)).unwrap_or_default());
        let mixed = (low ^ high.rotate_left(29)).wrapping_mul(self.seed);
        usize::try_from(mixed >> (u64::BITS - BITS)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_a_copy_copies_one_part_and_is_not_seen_in_the_other() {
        let mut first = Parts::default();
        (0..65_000u128).for_each(|key| first.insert(key << 8, key));
        let mut second = first.clone();
        second.insert(7 << 8, 70);
        second.remove(7_000 << 8);
        assert_eq!((first.get(7 << 8), second.get(7 << 8)), (Some(&7), Some(&70)));
        assert_eq!((first.get(7_000 << 8), second.get(7_000 << 8)), (Some(&7_000), None));
        let shared = first.parts.iter().zip(&second.parts).filter(|(one, other)| Arc::ptr_eq(one, other)).count();
        assert!(shared >= first.parts.len() - 2, "{shared} are shared");
    }

    #[test]
    fn prefixes_in_a_row_are_spread_over_the_parts() {
        for shift in [8, 64, 80] {
            let mut parts = Parts::default();
            (0..65_000u128).for_each(|key| parts.insert(key << shift, ()));
            let longest = parts.parts.iter().map(|part| part.len()).max();
            assert!(longest < Some(2_000), "shift {shift}: {longest:?}");
        }
    }
}

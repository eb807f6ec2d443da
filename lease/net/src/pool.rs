//! The range of subnets that the hosts of a network lease.

use crate::Prefix;

/// The subnets that hosts lease, for one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// All addresses of the overlay.
    pub network: Prefix,
    /// The length of each host's subnet, in bits.
    pub subnet_len: u8,
    /// The first subnet that may be leased.
    pub min: Prefix,
    /// The last subnet that may be leased.
    pub max: Prefix,
}

impl Pool {
    /// The number of subnets from `min` to `max`.
    #[must_use]
    pub fn size(&self) -> u128 {
        // Never overflows: the subnet number has at least two bits of the network.
        ((self.max.first_bits() - self.min.first_bits()) >> self.host_bits()).saturating_add(1)
    }

    /// The subnet with that number, counted from [`Pool::min`]; `None` after [`Pool::max`].
    #[must_use]
    pub fn nth(&self, number: u128) -> Option<Prefix> {
        if number >= self.size() {
            return None;
        }
        let first = self.min.first_bits() + (number << self.host_bits());
        Prefix::from_bits(self.network.family(), first, self.subnet_len).ok()
    }

    /// The number of its subnets that overlap `prefix`.
    #[must_use]
    pub fn overlapped(&self, prefix: Prefix) -> u128 {
        if prefix.family() != self.network.family() {
            return 0;
        }
        let min = self.min.first_bits();
        let (first, last) = (prefix.first_bits().max(min), prefix.last_bits().min(self.max.last_bits()));
        if first > last {
            return 0;
        }
        let number = |address: u128| (address - min) >> self.host_bits();
        (number(last) - number(first)).saturating_add(1)
    }

    /// The number of the first subnet that begins after the address `last`; `None` after the last address of the
    /// family.
    #[must_use]
    pub fn number_after(&self, last: u128) -> Option<u128> {
        let Some(distance) = last.checked_sub(self.min.first_bits()) else { return Some(0) };
        (distance >> self.host_bits()).checked_add(1)
    }

    /// Checks that `subnet` can be a host's lease in this network. Its length may differ and it may lie outside the
    /// range, since an older config may have offered it.
    ///
    /// # Errors
    /// Names the violated rule.
    pub fn admits(&self, subnet: Prefix) -> Result<(), String> {
        let longest = self.network.family().longest_subnet();
        if !self.network.covers(subnet) {
            Err(format!("{subnet} does not lie in the network {}", self.network))
        } else if subnet.len() <= self.network.len() {
            Err(format!("{subnet} is all of the network {}", self.network))
        } else if subnet.len() > longest {
            Err(format!("{subnet} is longer than /{longest}, too small for a device and a bridge"))
        } else {
            Ok(())
        }
    }

    /// Whether containers may have addresses in `prefix`. If the config bounds the range, the rest of the network is
    /// for hosts or unused; else the whole network is for containers.
    #[must_use]
    pub fn leases(&self, prefix: Prefix) -> bool {
        let is_inside = self.network.covers(prefix);
        let in_range = prefix.first_bits() <= self.max.last_bits() && self.min.first_bits() <= prefix.last_bits();
        is_inside && (in_range || !self.is_bounded())
    }

    /// The prefixes that together cover the addresses of containers: the network, or the range if the config bounds it.
    #[must_use]
    pub fn leased(&self) -> Vec<Prefix> {
        if !self.is_bounded() {
            return vec![self.network];
        }
        let (family, bits) = (self.network.family(), self.network.family().bits());
        let (mut first, last) = (self.min.first_bits(), self.max.last_bits());
        let mut prefixes = Vec::new();
        loop {
            let begins = |prefix: &Prefix| prefix.first_bits() == first && prefix.last_bits() <= last;
            let of_len = |len| Prefix::from_bits(family, first, len).ok();
            let largest = (0..=bits).filter_map(of_len).find(begins).expect("one address always fits");
            prefixes.push(largest);
            if largest.last_bits() >= last {
                return prefixes;
            }
            first = largest.last_bits() + 1;
        }
    }

    /// Whether the config reserves a part of the network for other uses. By default only the first subnet is left out.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        let before = (self.min.first_bits() - self.network.first_bits()) >> self.host_bits();
        before > 1 || self.max.last_bits() != self.network.last_bits()
    }

    /// Whether the current config lets a host lease `subnet`.
    #[must_use]
    pub fn offers(&self, subnet: Prefix) -> bool {
        subnet.len() == self.subnet_len && self.min <= subnet && subnet <= self.max && self.network.covers(subnet)
    }

    fn host_bits(&self) -> u8 {
        self.network.family().bits() - self.subnet_len
    }
}

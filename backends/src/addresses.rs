//! Public addresses of hosts that have something in common. Pure.

use std::net::IpAddr;

use imbl::OrdMap;
use wire_net::Prefix;

/// A set of addresses. Several leases may have one, so each is counted. A copy costs nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(OrdMap<IpAddr, usize>);

impl Addresses {
    /// The number of different addresses.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The addresses, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &IpAddr> {
        self.0.keys()
    }

    /// True if the address is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.0.contains_key(&address)
    }

    /// True if one of them lies in the prefix.
    #[must_use]
    pub fn lies_in(&self, prefix: Prefix) -> bool {
        self.0.range(prefix.network()..=prefix.last()).next().is_some()
    }

    /// True if nothing was changed since one was copied from the other, or both are empty. Takes the same time for any number of addresses.
    #[must_use]
    pub fn is_copy_of(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0) || (self.is_empty() && other.is_empty())
    }

    pub(crate) fn add(&mut self, address: IpAddr) {
        *self.0.entry(address).or_default() += 1;
    }

    pub(crate) fn remove(&mut self, address: IpAddr) {
        let Some(times) = self.0.get_mut(&address) else { return };
        *times -= 1;
        if *times == 0 {
            self.0.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_there_until_each_lease_that_has_it_is_gone() {
        let [one, other] = ["192.0.2.1", "192.0.2.9"].map(|text| text.parse::<IpAddr>().unwrap());
        let mut addresses = Addresses::default();
        assert!(addresses.is_copy_of(&Addresses::default()));
        [one, one, other].into_iter().for_each(|address| addresses.add(address));
        let before = addresses.clone();
        assert!(before.is_copy_of(&addresses));
        addresses.remove(one);
        assert!(addresses.contains(one) && addresses.lies_in("192.0.2.0/30".parse().unwrap()));
        addresses.remove(one);
        assert!(!before.is_copy_of(&addresses) && !addresses.lies_in("192.0.2.0/30".parse().unwrap()));
        assert_eq!(addresses.iter().collect::<Vec<_>>(), [&other]);
        assert_eq!((before.len(), addresses.len()), (2, 1));
    }
}

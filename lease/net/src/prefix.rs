//! A network prefix of either family.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::Family;

/// A prefix whose host bits are zero. Ordered by family, first address, length.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    family: Family,
    /// The first address as a number, in bytes: they need no alignment, so tables of prefixes are half as large. The
    /// most significant byte comes first, which keeps the order.
    first: [u8; 16],
    len: u8,
}

/// A value that is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The text does not have the form `address/length`.
    #[error("{0:?} is not a prefix like 10.5.0.0/16 or fd00:5::/48")]
    Syntax(String),
    /// The length is larger than an address of the family.
    #[error("length {len} is more than the {bits} bits of {family}")]
    Length {
        /// The requested length.
        len: u8,
        /// The largest length of the family.
        bits: u8,
        /// The family.
        family: Family,
    },
}

impl Prefix {
    /// The prefix of length `len` that contains `address`; host bits are cleared.
    ///
    /// # Errors
    /// If `len` is larger than an address of the family.
    pub fn new(address: IpAddr, len: u8) -> Result<Self, PrefixError> {
        Self::from_bits(Family::of(address), bits_of(address), len)
    }

    /// Like [`Prefix::new`], with the address as a number (an IPv4 address is below 2^32).
    ///
    /// # Errors
    /// If `len` is larger than an address of the family.
    pub fn from_bits(family: Family, address: u128, len: u8) -> Result<Self, PrefixError> {
        let bits = family.bits();
        if len > bits {
            return Err(PrefixError::Length { len, bits, family });
        }
        Ok(Self { family, first: (address & !host_mask(bits - len)).to_be_bytes(), len })
    }

    /// The host prefix of an address: /32 or /128.
    #[must_use]
    pub const fn host(address: IpAddr) -> Self {
        let family = Family::of(address);
        Self { family, first: bits_of(address).to_be_bytes(), len: family.bits() }
    }

    /// The address family.
    #[must_use]
    pub const fn family(self) -> Family {
        self.family
    }

    /// The length in bits.
    // Length zero is the default route, not an empty prefix.
    #[allow(clippy::len_without_is_empty, reason = "a prefix is never empty; its length is a number of bits")]
    #[must_use]
    pub const fn len(self) -> u8 {
        self.len
    }

    /// The first address: the network address.
    #[must_use]
    pub fn network(self) -> IpAddr {
        address_of(self.family, self.first_bits())
    }

    /// The second address, which a bridge gets: `10.5.52.1` in `10.5.52.0/24`. In a host prefix, the address itself.
    #[must_use]
    pub fn gateway(self) -> IpAddr {
        address_of(self.family, self.first_bits() + u128::from(self.len < self.family.bits()))
    }

    /// The first address as a number.
    #[must_use]
    pub const fn first_bits(self) -> u128 {
        u128::from_be_bytes(self.first)
    }

    /// The last address.
    #[must_use]
    pub fn last(self) -> IpAddr {
        address_of(self.family, self.last_bits())
    }

    /// The last address as a number.
    #[must_use]
    pub fn last_bits(self) -> u128 {
        self.first_bits() | host_mask(self.family.bits() - self.len)
    }

    /// Whether it contains `address`.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let bits = bits_of(address);
        Family::of(address) == self.family && self.first_bits() <= bits && bits <= self.last_bits()
    }

    /// Whether it contains all of `other`.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.family == other.family && self.first <= other.first && other.last_bits() <= self.last_bits()
    }

    /// Whether both contain a common address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.covers(other) || other.covers(self)
    }
}

fn host_mask(host_bits: u8) -> u128 {
    1u128.checked_shl(u32::from(host_bits)).map_or(u128::MAX, |size| size - 1)
}

const fn bits_of(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits() as u128,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address_of(family: Family, bits: u128) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from_bits(u32::try_from(bits).expect("an IPv4 prefix is below 2^32")).into(),
        Family::V6 => Ipv6Addr::from_bits(bits).into(),
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network(), self.len)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let syntax = || PrefixError::Syntax(text.chars().take(64).collect());
        let (address, len) = text.split_once('/').ok_or_else(syntax)?;
        Self::new(address.parse().map_err(|_| syntax())?, len.parse().map_err(|_| syntax())?)
    }
}

impl From<Prefix> for IpNetwork {
    fn from(prefix: Prefix) -> Self {
        Self::new(prefix.network(), prefix.len).expect("a prefix's length fits its family")
    }
}

impl From<IpNetwork> for Prefix {
    fn from(network: IpNetwork) -> Self {
        Self::new(network.ip(), network.prefix()).expect("a network's length fits its family")
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    #[test]
    fn host_bits_are_masked_off() {
        assert_eq!(prefix("10.5.52.7/24").to_string(), "10.5.52.0/24");
        assert_eq!(prefix("fd00:1::5/64").to_string(), "fd00:1::/64");
        assert_eq!(prefix("::/0").last_bits(), u128::MAX);
        assert_eq!(prefix("10.5.52.0/24").gateway().to_string(), "10.5.52.1");
        assert_eq!(prefix("255.255.255.255/32").gateway().to_string(), "255.255.255.255");
    }

    #[test]
    fn they_are_small_and_ordered_by_family_address_and_length() {
        assert_eq!(size_of::<Prefix>(), 18);
        let ordered = ["9.255.0.0/16", "10.0.0.0/8", "10.0.0.0/9", "10.1.0.0/16", "::/0", "1::/16", "f000::/16"];
        assert!(ordered.map(prefix).is_sorted());
    }

    #[test]
    fn prefixes_overlap_when_one_covers_the_other() {
        assert!(prefix("10.0.0.0/8").overlaps(prefix("10.5.0.0/16")));
        assert!(!prefix("10.4.0.0/16").overlaps(prefix("10.5.0.0/16")));
        assert!(!prefix("0.0.0.0/0").overlaps(prefix("::/0")));
        assert!(!prefix("0.0.0.0/0").contains("::1".parse().unwrap()));
    }
}

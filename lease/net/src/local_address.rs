//! The addresses of this host on its links: no other host has them, nor those that lead to a whole link. Pure.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use crate::{Family, Prefix};

/// An address of this host, with the prefix that it reaches on its link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// What is reached on the link: around the other end's address where that is another.
    pub prefix: Prefix,
    /// The broadcast address that was given with it. The prefix has its own even without.
    pub broadcast: Option<IpAddr>,
}

/// Why an address is no other host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalUse {
    /// This host has it.
    Own,
    /// All hosts of a link listen to it.
    Broadcast(Prefix),
    /// It names a link: old hosts take it as a broadcast.
    Network(Prefix),
    /// Any router of a link answers to it, RFC 4291 §2.6.1: this host, too, where it forwards.
    AnyRouter(Prefix),
}

impl LocalAddress {
    /// An address and the length of the prefix around it; `None` where that is too long for the family.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        Some(Self { address, prefix: Prefix::new(address, len).ok()?, broadcast: None })
    }

    /// The addresses that no other host has because of this one. A link of two, RFC 3021 and RFC 6164, has no others.
    fn uses(&self) -> impl Iterator<Item = (IpAddr, LocalUse)> {
        let prefix = self.prefix;
        let (first, last) = (prefix.network(), prefix.last());
        let of_prefix = match prefix.family() {
            family if prefix.len() + 2 > family.bits() => [None, None],
            Family::V4 => [Some((first, LocalUse::Network(prefix))), Some((last, LocalUse::Broadcast(prefix)))],
            Family::V6 => [Some((first, LocalUse::AnyRouter(prefix))), None],
        };
        let given = self.broadcast.map(|broadcast| (broadcast, LocalUse::Broadcast(prefix)));
        of_prefix.into_iter().flatten().chain(given)
    }

    /// The addresses that are no other host's, and why. An address that this host has is its own first of all.
    #[must_use]
    pub fn uses_of(local: &[Self]) -> BTreeMap<IpAddr, LocalUse> {
        let links = local.iter().flat_map(Self::uses);
        links.chain(local.iter().map(|local| (local.address, LocalUse::Own))).collect()
    }
}

impl fmt::Display for LocalUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own => f.write_str("an address of this host"),
            Self::Broadcast(prefix) => write!(f, "the broadcast address of {prefix}, which this host is on"),
            Self::Network(prefix) => write!(f, "the address of {prefix} itself, which this host is on"),
            Self::AnyRouter(prefix) => write!(f, "any router's address on {prefix}, which this host is on"),
        }
    }
}

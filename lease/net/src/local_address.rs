//! The addresses of this host on its links, and the addresses that no other host can have because of them. Pure.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use crate::{Family, Prefix};

/// An address of this host, with its on-link prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address.
    pub address: IpAddr,
    /// The on-link prefix; on a point-to-point link with a peer address, the prefix of the peer.
    pub prefix: Prefix,
    /// The broadcast address configured with it. The prefix has its own even if this is `None`.
    pub broadcast: Option<IpAddr>,
}

/// The reason why no other host can have an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalUse {
    /// This host has the address.
    Own,
    /// The broadcast address of a link.
    Broadcast(Prefix),
    /// The network address of a link: old hosts treat it as a broadcast address, too.
    Network(Prefix),
    /// The Subnet-Router anycast address of a link, RFC 4291 §2.6.1: this host answers to it if it forwards.
    AnyRouter(Prefix),
}

impl LocalAddress {
    /// An address with a prefix length; `None` if that is too large for the family.
    #[must_use]
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        Some(Self { address, prefix: Prefix::new(address, len).ok()?, broadcast: None })
    }

    /// The addresses that no other host can have because of this one. A link of two hosts (RFC 3021, RFC 6164) has
    /// none.
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

    /// The addresses that no other host can have, each with the reason. For this host's own addresses that is `Own`.
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

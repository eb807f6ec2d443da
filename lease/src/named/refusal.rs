//! The reasons for which records are not admitted although each is valid alone.

use std::net::IpAddr;

use wire_net::{AddressKey, BlockKey, HostId, MemberKey, NetworkName, Prefix, Vni};

/// Addresses that no network by name may have, and their use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Occupied {
    /// The addresses.
    pub prefix: Prefix,
    /// Their use.
    pub by: Occupant,
}

impl Occupied {
    /// The addresses on the way to etcd: a host without it learns no more of any network.
    pub fn by_etcd(endpoints: &[IpAddr]) -> impl Iterator<Item = Self> {
        endpoints.iter().map(|address| Self { prefix: Prefix::host(*address), by: Occupant::WayToEtcd })
    }
}

/// The use of addresses that are no network's by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Occupant {
    /// A flat network leases its subnets from them.
    FlatNetwork,
    /// A host has leased them.
    Lease,
    /// The hosts themselves are there.
    Underlay,
    /// etcd, or a DNS server that its names need, is there.
    WayToEtcd,
    /// This host has a route to them.
    Route,
}

impl std::fmt::Display for Occupant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::FlatNetwork => "the flat network",
            Self::Lease => "the lease of a host",
            Self::Underlay => "the underlay",
            Self::WayToEtcd => "an address of etcd, or of a DNS server that its name needs",
            Self::Route => "a route of this host",
        })
    }
}

/// The reason why a network is not admitted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkRefusal {
    /// A pool overlaps addresses with another use.
    #[error("its pool {pool} overlaps {}, {}: remove it, and make it with another --subnet", .occupied.prefix, .occupied.by)]
    Occupied {
        /// The pool.
        pool: Prefix,
        /// The other use.
        occupied: Occupied,
    },
    /// A pool overlaps that of an older network.
    #[error("its pool {pool} overlaps that of the older network {other}: remove one of them")]
    Pool {
        /// The pool.
        pool: Prefix,
        /// The older network.
        other: NetworkName,
    },
    /// An older network has its VNI.
    #[error("the older network {other} has its VNI {vni} too: remove one of them")]
    Vni {
        /// The VNI.
        vni: Vni,
        /// The older network.
        other: NetworkName,
    },
}

/// A record of a host on a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostKey {
    /// A member.
    Member(MemberKey),
    /// A block.
    Block(BlockKey),
    /// A single address.
    Address(AddressKey),
}

impl std::fmt::Display for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Member(key) => key.fmt(f),
            Self::Block(key) => key.fmt(f),
            Self::Address(key) => key.fmt(f),
        }
    }
}

/// The reason why a record of a host is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostRefusal {
    /// A member's address on the underlay lies in the network.
    #[error("{0}, its address on the underlay, lies in the network itself")]
    PublicInside(IpAddr),
    /// No host of the network may have this address.
    #[error("{0} is no address that the network gives to hosts and containers")]
    NoAddress(IpAddr),
    /// The prefix is no block of the network.
    #[error("{block} is no block of the network, whose blocks are /{len} in {pool}")]
    NoBlock {
        /// The prefix.
        block: Prefix,
        /// The right length.
        len: u8,
        /// Where blocks lie.
        pool: Prefix,
    },
    /// The IPv6 address goes with an IPv4 address.
    #[error("{0} belongs to the IPv4 address with the same last 32 bits, and is claimed with it")]
    BelongsToV4(IpAddr),
    /// Another host has a container with the MAC address.
    #[error("its MAC address is that of a container of the host {0}")]
    MacTaken(HostId),
    /// The MAC address belongs to an address that the host does not have.
    #[error("its MAC address belongs to another IP address, which its host does not have")]
    MacOfOther,
}

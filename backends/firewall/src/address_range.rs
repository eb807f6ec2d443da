//! Ranges of addresses. Pure.

use std::{fmt, net::IpAddr};

use wire_net::{Family, Pool, Prefix};

/// A range of addresses of one family.
#[derive(Clone, Copy, Debug)]
pub(super) enum AddressRange {
    Prefix(Prefix),
    /// From the first address of one subnet to the last of another.
    Between {
        first: Prefix,
        last: Prefix,
    },
}

impl AddressRange {
    /// The addresses that hosts may lease. If the config bounds them, hosts themselves may have addresses in the rest
    /// of the network.
    pub(super) fn leased_in(pool: &Pool) -> Self {
        if pool.is_bounded() { Self::Between { first: pool.min, last: pool.max } } else { Self::Prefix(pool.network) }
    }

    pub(super) const fn family(self) -> Family {
        match self {
            Self::Prefix(prefix) | Self::Between { first: prefix, .. } => prefix.family(),
        }
    }

    pub(super) fn contains(self, address: IpAddr) -> bool {
        match self {
            Self::Prefix(prefix) => prefix.contains(address),
            Self::Between { first, last } => first.network() <= address && address <= last.last(),
        }
    }
}

impl From<Prefix> for AddressRange {
    fn from(prefix: Prefix) -> Self {
        Self::Prefix(prefix)
    }
}

/// In the syntax of nft and of the iptables match `iprange`, which is the same.
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefix(prefix) => prefix.fmt(f),
            Self::Between { first, last } => write!(f, "{}-{}", first.network(), last.last()),
        }
    }
}

//! The addresses of one family's overlay, in the words of nft and of iptables. Pure.

use std::{fmt, net::IpAddr};

use wire_net::{Pool, Prefix};

/// The addresses that the config leases. Where it bounds them, hosts themselves may live in the rest of the network.
#[derive(Clone, Copy, Debug)]
pub(super) enum Overlay {
    /// All of the network.
    Whole(Prefix),
    /// The addresses between two subnets, and those of both.
    Range(Prefix, Prefix),
}

impl Overlay {
    pub(super) fn of(pool: &Pool) -> Self {
        if pool.is_bounded() { Self::Range(pool.min, pool.max) } else { Self::Whole(pool.network) }
    }

    /// As iptables-save has it, addresses first: what comes from here and does not go to `group`.
    pub(super) fn leaving(self, group: &str) -> String {
        match self {
            Self::Whole(network) => format!("-s {network} ! -d {group}"),
            Self::Range(..) => format!("! -d {group} -m iprange --src-range {self}"),
        }
    }

    /// What comes from elsewhere and goes here.
    pub(super) fn entering(self) -> String {
        match self {
            Self::Whole(network) => format!("! -s {network} -d {network}"),
            Self::Range(..) => format!("-m iprange ! --src-range {self} --dst-range {self}"),
        }
    }

    pub(super) fn holds(self, address: IpAddr) -> bool {
        match self {
            Self::Whole(network) => network.contains(address),
            Self::Range(min, max) => min.network() <= address && address <= max.last(),
        }
    }

    /// What comes from `own` and goes here.
    pub(super) fn within(self, own: Prefix) -> String {
        match self {
            Self::Whole(network) => format!("-s {own} -d {network}"),
            Self::Range(..) => format!("-s {own} -m iprange --dst-range {self}"),
        }
    }
}

/// As nft and iptables' iprange have it.
impl fmt::Display for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(network) => network.fmt(f),
            Self::Range(min, max) => {
                let last = Prefix::from_bits(max.family(), max.last_bits(), max.family().bits());
                write!(f, "{}-{}", min.network(), last.expect("the last address of a prefix is one").network())
            }
        }
    }
}

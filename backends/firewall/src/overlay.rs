//! The address range of one family's overlay, written for nft and for iptables. Pure.

use std::{fmt, net::IpAddr};

use wire_net::{Pool, Prefix};

/// The addresses that hosts may lease. If the config bounds them, hosts themselves may have addresses in the rest of
/// the network.
#[derive(Clone, Copy, Debug)]
pub(super) enum Overlay {
    /// The whole network.
    Whole(Prefix),
    /// From the first address of one subnet to the last of another.
    Range(Prefix, Prefix),
}

impl Overlay {
    pub(super) fn of(pool: &Pool) -> Self {
        if pool.is_bounded() { Self::Range(pool.min, pool.max) } else { Self::Whole(pool.network) }
    }

    /// Matches packets from the overlay that do not go to `group`, in the order of iptables-save: addresses first.
    pub(super) fn leaving(self, group: &str) -> String {
        match self {
            Self::Whole(network) => format!("-s {network} ! -d {group}"),
            Self::Range(..) => format!("! -d {group} -m iprange --src-range {self}"),
        }
    }

    /// Matches packets that enter the overlay.
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

    /// Matches packets from `own` to the overlay.
    pub(super) fn within(self, own: Prefix) -> String {
        match self {
            Self::Whole(network) => format!("-s {own} -d {network}"),
            Self::Range(..) => format!("-s {own} -m iprange --dst-range {self}"),
        }
    }
}

/// In the syntax of nft and of the iptables match `iprange`.
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

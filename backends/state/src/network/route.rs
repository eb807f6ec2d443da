//! Routes, and by what they are found.

use std::{fmt, net::IpAddr};

use wire_net::{Family, LinkName, Prefix};

use super::Owner;

/// The routing protocol number of our routes, by which they are known after a restart
/// (linux/rtnetlink.h leaves numbers above `RTPROT_STATIC` to their users).
pub const PROTOCOL: u8 = 91;

/// The index of a routing table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// The table's number; 254 is main.
    pub table: u32,
    /// What it leads to.
    pub destination: Prefix,
    /// The metric (`RTA_PRIORITY`); the lowest wins.
    pub metric: u32,
}

/// Where a route of ours leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Through a gateway.
    Gateway {
        /// The gateway's address.
        gateway: IpAddr,
        /// The link it is on.
        link: LinkName,
        /// Whether the gateway is taken to be on the link though no route says so.
        onlink: bool,
    },
    /// Straight on to a link.
    Link(LinkName),
    /// Nowhere: packets are dropped.
    Blackhole,
}

/// A route as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedRoute {
    /// Where it leads.
    pub via: Via,
    /// Who made it, by the number of /etc/iproute2/rt_protos.
    pub protocol: u8,
    /// Whose it is.
    pub owner: Owner,
}

/// Where a route that was found leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// Where one of ours may lead too.
    NextHop(NextHop),
    /// Anything else, described.
    Other(String),
}

impl RouteKey {
    /// The number of the main table (`RT_TABLE_MAIN`).
    pub const MAIN: u32 = 254;

    /// The key of a route in the main table with the metric the kernel gives one that names none:
    /// 0 for IPv4, 1024 (`IP6_RT_PRIO_USER`) for IPv6.
    #[must_use]
    pub fn main(destination: Prefix) -> Self {
        let metric = match destination.family() {
            Family::V4 => 0,
            Family::V6 => 1024,
        };
        Self { table: Self::MAIN, destination, metric }
    }
}

impl NextHop {
    /// Whether packets take the same way: `onlink` is a word for the kernel's check alone.
    #[must_use]
    pub fn leads_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Gateway { gateway: a, link: on, .. }, Self::Gateway { gateway: b, link: at, .. }) => {
                a == b && on == at
            }
            (Self::Link(a), Self::Link(b)) => a == b,
            (Self::Blackhole, Self::Blackhole) => true,
            (Self::Gateway { .. } | Self::Link(_) | Self::Blackhole, _) => false,
        }
    }

    /// The link it leads through, where it is one.
    #[must_use]
    pub const fn link(&self) -> Option<LinkName> {
        match self {
            Self::Gateway { link, .. } | Self::Link(link) => Some(*link),
            Self::Blackhole => None,
        }
    }
}

impl Via {
    /// Whether packets take the way of that next hop.
    #[must_use]
    pub fn leads_as(&self, other: &NextHop) -> bool {
        self.next_hop().is_some_and(|hop| hop.leads_as(other))
    }

    /// The next hop, if it is one that a route of ours may have.
    #[must_use]
    pub const fn next_hop(&self) -> Option<&NextHop> {
        match self {
            Self::NextHop(hop) => Some(hop),
            Self::Other(_) => None,
        }
    }

    /// The link it leads through, where it is one.
    #[must_use]
    pub fn link(&self) -> Option<LinkName> {
        self.next_hop().and_then(NextHop::link)
    }
}

impl ObservedRoute {
    /// A route of ours.
    #[must_use]
    pub const fn ours(hop: NextHop) -> Self {
        Self { via: Via::NextHop(hop), protocol: PROTOCOL, owner: Owner::Ours }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.destination.fmt(f)?;
        if self.table != Self::MAIN {
            write!(f, " table {}", self.table)?;
        }
        if self.metric != Self::main(self.destination).metric {
            write!(f, " metric {}", self.metric)?;
        }
        Ok(())
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NextHop(hop) => hop.fmt(f),
            Self::Other(text) => f.write_str(text),
        }
    }
}

impl fmt::Display for NextHop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway { gateway, link, onlink } => {
                write!(f, "via {gateway} dev {link}{}", if *onlink { " onlink" } else { "" })
            }
            Self::Link(link) => write!(f, "dev {link}"),
            Self::Blackhole => f.write_str("blackhole"),
        }
    }
}

//! Routes and their keys.

use std::{fmt, net::IpAddr, ops::Bound};

use imbl::OrdMap;
use wire_net::{Family, LinkName, Prefix};

use super::Owner;

/// The routing protocol number of our routes. It identifies them after a restart
/// (linux/rtnetlink.h leaves numbers above `RTPROT_STATIC` to their users).
pub const PROTOCOL: u8 = 91;

/// `RTPROT_BOOT` of linux/rtnetlink.h: the protocol of flannel's routes, and of those of an operator who names none.
pub(crate) const BOOT: u8 = 3;

/// The key of a route. The kernel holds one route with each key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// The table's number; 254 is main.
    pub table: u32,
    /// The destination prefix.
    pub destination: Prefix,
    /// The metric (`RTA_PRIORITY`); the lowest wins.
    pub metric: u32,
}

/// The next hop of a route of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// Through a gateway.
    Gateway {
        /// The gateway's address.
        gateway: IpAddr,
        /// The link on which the gateway is.
        link: LinkName,
        /// Whether the kernel accepts the gateway though no route leads to it (`RTNH_F_ONLINK`).
        onlink: bool,
    },
    /// Directly on a link, without a gateway.
    Link(LinkName),
    /// None: packets are dropped.
    Blackhole,
}

/// A route as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedRoute {
    /// Its next hop.
    pub via: Via,
    /// The routing protocol that made it, a number of /etc/iproute2/rt_protos.
    pub protocol: u8,
    /// Whether it refers to a nexthop object (ip-nexthop(8)), as it was read. Of a route that was written since then, this is not known:
    /// it counts as plain.
    pub uses_nexthop: bool,
    /// Whether it is ours.
    pub owner: Owner,
}

/// The form in which the kernel should hold our routes. Packets take the same path with each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DesiredForm {
    /// Any: a route that leads as desired is not written.
    #[default]
    Any,
    /// Plain, as flannel writes it: the route itself names its gateway and its link. A driver must write routes so.
    Plain,
}

/// The next hop of a route that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// One that a route of ours may have.
    NextHop(NextHop),
    /// Any other, as text for people.
    Other(String),
}

impl RouteKey {
    /// The number of the main table (`RT_TABLE_MAIN`).
    pub const MAIN: u32 = 254;

    /// The key of a route in the main table with the kernel's default metric: 0 for IPv4, 1024 (`IP6_RT_PRIO_USER`) for IPv6.
    #[must_use]
    pub fn main(destination: Prefix) -> Self {
        let metric = match destination.family() {
            Family::V4 => 0,
            Family::V6 => 1024,
        };
        Self { table: Self::MAIN, destination, metric }
    }
}

/// The entry with the longest prefix that covers the destination of `end`, among those of the same table that come before `end`.
///
/// Prefixes are ordered by their first address, then by their length. So the last entry before `end` is the one, or it and the
/// destination have leading bits in common, and no prefix that covers the destination has more bits than those.
pub(crate) fn innermost<R: Clone>(routes: &OrdMap<RouteKey, R>, end: Bound<RouteKey>) -> Option<(&RouteKey, &R)> {
    let (Bound::Included(RouteKey { table, destination, .. }) | Bound::Excluded(RouteKey { table, destination, .. })) =
        end
    else {
        return None;
    };
    let (mut end, mut len) = (end, destination.len());
    loop {
        let (before, route) = routes.range((Bound::Unbounded, end)).next_back()?;
        if before.table != table || before.destination.family() != destination.family() {
            return None;
        }
        if before.destination.covers(destination) {
            return Some((before, route));
        }
        len = common_len(before.destination, destination).min(len.checked_sub(1)?);
        let outer = Prefix::new(destination.network(), len).ok()?;
        end = Bound::Included(RouteKey { table, destination: outer, metric: u32::MAX });
    }
}

/// The number of leading bits that two prefixes of one family have in common.
fn common_len(one: Prefix, other: Prefix) -> u8 {
    let bits = one.family().bits();
    let leading = (one.first_bits() ^ other.first_bits()).leading_zeros() - (u128::BITS - u32::from(bits));
    u8::try_from(leading).map_or(bits, |leading| leading.min(bits))
}

impl NextHop {
    /// Whether packets take the same path. `onlink` only matters to the kernel's check when the route is added.
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

    /// True if it is through a gateway in a prefix that need not be routed, on another link than this.
    pub(super) fn is_onlink_beside(&self, other: LinkName, prefix: Prefix) -> bool {
        match self {
            Self::Gateway { gateway, link, onlink } => *onlink && *link != other && prefix.contains(*gateway),
            Self::Link(_) | Self::Blackhole => false,
        }
    }

    /// The link that packets leave by; `None` for a blackhole.
    #[must_use]
    pub const fn link(&self) -> Option<LinkName> {
        match self {
            Self::Gateway { link, .. } | Self::Link(link) => Some(*link),
            Self::Blackhole => None,
        }
    }
}

impl ObservedRoute {
    /// Whether the kernel deletes it when it is told to delete `other`, which was read before with the same key: it compares next hop and
    /// protocol.
    pub(crate) fn is_deleted_as(&self, other: &Self) -> bool {
        let leads_as = other.via.next_hop().map_or(self.via == other.via, |hop| self.via.leads_as(hop));
        leads_as && self.protocol == other.protocol
    }
}

impl Via {
    /// Whether packets take the same path as with that next hop.
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

    /// The link that packets leave by, if it is known and there is one.
    #[must_use]
    pub fn link(&self) -> Option<LinkName> {
        self.next_hop().and_then(NextHop::link)
    }
}

impl ObservedRoute {
    /// A route of ours with that next hop.
    #[must_use]
    pub const fn ours(hop: NextHop) -> Self {
        Self { via: Via::NextHop(hop), protocol: PROTOCOL, uses_nexthop: false, owner: Owner::Ours }
    }

    /// True if it leads as desired and is as flannel writes its routes on the underlay's link. The agent makes it its own by writing it
    /// again in place (docs/adr/0019).
    #[must_use]
    pub fn is_flannels(&self, hop: &NextHop) -> bool {
        self.owner == Owner::Foreign && self.protocol == BOOT && !self.uses_nexthop && self.via.leads_as(hop)
    }

    /// True if it needs no change if it cannot be made ours: it leads as desired, and has the desired form. The form of a foreign route is
    /// not our concern.
    #[must_use]
    pub fn serves_as(&self, hop: &NextHop, form: DesiredForm) -> bool {
        let has_form = match form {
            DesiredForm::Any => true,
            DesiredForm::Plain => !self.uses_nexthop || self.owner == Owner::Foreign,
        };
        has_form && self.via.leads_as(hop)
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

//! Links: as they are found, and as they are desired.

mod ipip;
mod macvlan;
mod veth;
mod vlan;
mod vxlan;

use std::fmt;

use wire_net::{LinkName, MacAddr, Mtu, Prefix};

use super::{Namespace, Owner, Tunnel};

pub use self::{
    ipip::Ipip,
    macvlan::{Macvlan, MacvlanMode},
    veth::Veth,
    vlan::Vlan,
    vxlan::{DesiredVxlan, Extra, ObservedVxlan},
};

/// A link that was found. One that is renamed is the same, so only namespace and number are compared.
#[derive(Clone, Copy, Debug, Eq)]
pub struct LinkId {
    /// The namespace it is in.
    pub namespace: Namespace,
    /// The kernel's number of it in that namespace.
    pub index: u32,
    /// Its name, for people.
    pub name: LinkName,
}

impl PartialEq for LinkId {
    fn eq(&self, other: &Self) -> bool {
        (self.namespace, self.index) == (other.namespace, other.index)
    }
}

/// The place of a link: no two links have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkPlace {
    /// The namespace.
    pub namespace: Namespace,
    /// The name in that namespace.
    pub name: LinkName,
}

/// Another link that a desired one is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRef {
    /// One that is not ours and was found on the host.
    Found(LinkId),
    /// One that is desired too. It is made first.
    Desired(LinkPlace),
}

/// A link as it should be. It is always up.
///
/// `K` is what it is: of all kinds, or of those that one part of a driver makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredLink<K = DesiredKind> {
    /// What it is.
    pub kind: K,
    /// Its Ethernet address; `None` leaves it to the kernel.
    pub mac: Option<MacAddr>,
    /// Its MTU.
    pub mtu: Mtu,
    /// The bridge whose port it is, in the same namespace; `None` leaves that as it is.
    pub master: Option<LinkName>,
}

/// A link as it should be: who makes it, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredKind {
    /// The kernel makes it, and moves its packets.
    Kernel(KernelKind),
    /// The kernel makes a TUN device, and we move its packets.
    Tunnel(Tunnel),
}

/// The kinds of links that the kernel makes for us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelKind {
    /// A VXLAN device, RFC 7348.
    Vxlan(DesiredVxlan),
    /// A bridge (IEEE 802.1D), without its spanning tree protocol.
    Bridge,
    /// One end of a pair of virtual Ethernet devices, veth(4).
    Veth(Veth<LinkPlace>),
    /// A VLAN of another link, IEEE 802.1Q.
    Vlan(Vlan<LinkRef>),
    /// A link with a MAC of its own on another link.
    Macvlan(Macvlan<LinkRef>),
    /// IPv4 in IPv4, RFC 2003.
    Ipip(Ipip<LinkRef>),
}

/// A link as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedLink {
    /// What it is.
    pub kind: ObservedKind,
    /// Its Ethernet address, where it has one.
    pub mac: Option<MacAddr>,
    /// Its MTU.
    pub mtu: Mtu,
    /// True if it is administratively up (`IFF_UP`).
    pub up: bool,
    /// The link whose port it is.
    pub master: Option<LinkId>,
    /// Its alias says that we made it (`IFLA_IFALIAS`, see [`super::ALIAS`]).
    pub is_marked: bool,
    /// Whose it is.
    pub owner: Owner,
    /// The kernel's number of it.
    pub index: u32,
}

/// What a link was found to be. A link that it is bound to is `None` if that is in a namespace we do not look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedKind {
    /// A VXLAN device.
    Vxlan(ObservedVxlan),
    /// A TUN device that is made as ours are, with what we do with its packets; `None` if no tunnel of this agent works it.
    Tun(Option<Tunnel>),
    /// A bridge.
    Bridge,
    /// One end of a pair.
    Veth(Veth<Option<LinkId>>),
    /// A VLAN of another link.
    Vlan(Vlan<Option<LinkId>>),
    /// A link with a MAC of its own on another link.
    Macvlan(Macvlan<Option<LinkId>>),
    /// IPv4 in IPv4.
    Ipip(Ipip<LinkId>),
    /// Any other, by the kernel's name of the kind (`dummy`, `wireguard`, …), empty for hardware.
    Other(String),
}

impl DesiredLink {
    /// The same device with `own` as our part of the network, if it is one that we work ourselves.
    #[must_use]
    pub fn with_own(&self, own: Option<Prefix>) -> Self {
        let mut link = self.clone();
        match &mut link.kind {
            DesiredKind::Tunnel(tunnel) => tunnel.own = own,
            DesiredKind::Kernel(_) => {}
        }
        link
    }
}

impl<K> DesiredLink<K> {
    /// A link without a MAC of its own, on no bridge.
    #[must_use]
    pub const fn new(kind: K, mtu: Mtu) -> Self {
        Self { kind, mac: None, mtu, master: None }
    }
}

impl LinkPlace {
    /// A place in the host's namespace.
    #[must_use]
    pub const fn in_host(name: LinkName) -> Self {
        Self { namespace: Namespace::Host, name }
    }
}

impl LinkRef {
    /// Its name, in its namespace.
    #[must_use]
    pub const fn name(self) -> LinkName {
        match self {
            Self::Found(LinkId { name, .. }) | Self::Desired(LinkPlace { name, .. }) => name,
        }
    }
}

impl DesiredKind {
    /// The links that must be there before this one can be made; of a pair, `place` is where this end goes.
    pub(crate) fn needs(&self, place: LinkPlace) -> Option<LinkPlace> {
        let lower = match self {
            Self::Tunnel(_) | Self::Kernel(KernelKind::Bridge) => None,
            // The end that comes first makes both.
            Self::Kernel(KernelKind::Veth(Veth { peer })) => return Some(*peer).filter(|peer| *peer < place),
            Self::Kernel(KernelKind::Vxlan(vxlan)) => vxlan.parent,
            Self::Kernel(KernelKind::Vlan(vlan)) => Some(vlan.parent),
            Self::Kernel(KernelKind::Macvlan(macvlan)) => Some(macvlan.parent),
            Self::Kernel(KernelKind::Ipip(ipip)) => ipip.parent,
        };
        match lower? {
            LinkRef::Desired(place) => Some(place),
            LinkRef::Found(_) => None,
        }
    }
}

impl ObservedLink {
    /// The link that it sends through, or the other end of its pair: the kernel takes it away with that.
    #[must_use]
    pub const fn bound_to(&self) -> Option<LinkId> {
        match &self.kind {
            ObservedKind::Vxlan(vxlan) => vxlan.parent,
            ObservedKind::Veth(veth) => veth.peer,
            ObservedKind::Vlan(vlan) => vlan.parent,
            ObservedKind::Macvlan(macvlan) => macvlan.parent,
            // It outlives the link it sends through (`ipip` of net/ipv4 hears of none).
            ObservedKind::Ipip(_) | ObservedKind::Tun(_) | ObservedKind::Bridge | ObservedKind::Other(_) => None,
        }
    }

    /// The links that this one names.
    pub fn named_mut(&mut self) -> impl Iterator<Item = &mut LinkId> {
        let lower = match &mut self.kind {
            ObservedKind::Vxlan(vxlan) => vxlan.parent.as_mut(),
            ObservedKind::Veth(veth) => veth.peer.as_mut(),
            ObservedKind::Vlan(vlan) => vlan.parent.as_mut(),
            ObservedKind::Macvlan(macvlan) => macvlan.parent.as_mut(),
            ObservedKind::Ipip(ipip) => ipip.parent.as_mut(),
            ObservedKind::Tun(_) | ObservedKind::Bridge | ObservedKind::Other(_) => None,
        };
        lower.into_iter().chain(self.master.as_mut())
    }

    /// Whether this device can be made into `want` without making it anew; `is` compares a link that is wanted with one that was
    /// found. flannel asks the same of VXLAN devices (`vxlanLinksIncompat` of its pkg/backend/vxlan/device.go), so that each takes
    /// over the other's.
    pub(crate) fn serves_as(&self, want: &DesiredKind, is: impl Fn(LinkRef, LinkId) -> bool) -> bool {
        let same = |want: Option<LinkRef>, have: Option<LinkId>| match (want, have) {
            (Some(want), Some(have)) => is(want, have),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        match (&self.kind, want) {
            (ObservedKind::Vxlan(have), DesiredKind::Kernel(KernelKind::Vxlan(want))) => {
                same(want.parent, have.parent) && have.serves_as(want)
            }
            // Whose the other end of a pair is, the plan looks at.
            (ObservedKind::Tun(_), DesiredKind::Tunnel(_))
            | (ObservedKind::Bridge, DesiredKind::Kernel(KernelKind::Bridge))
            | (ObservedKind::Veth(_), DesiredKind::Kernel(KernelKind::Veth(_))) => true,
            (ObservedKind::Vlan(have), DesiredKind::Kernel(KernelKind::Vlan(want))) => {
                have.id == want.id && same(Some(want.parent), have.parent)
            }
            (ObservedKind::Macvlan(have), DesiredKind::Kernel(KernelKind::Macvlan(want))) => {
                have.mode == want.mode && same(Some(want.parent), have.parent)
            }
            (ObservedKind::Ipip(have), DesiredKind::Kernel(KernelKind::Ipip(want))) => {
                have.local == want.local && same(want.parent, have.parent)
            }
            (
                ObservedKind::Vxlan(_)
                | ObservedKind::Tun(_)
                | ObservedKind::Bridge
                | ObservedKind::Veth(_)
                | ObservedKind::Vlan(_)
                | ObservedKind::Macvlan(_)
                | ObservedKind::Ipip(_)
                | ObservedKind::Other(_),
                _,
            ) => false,
        }
    }

    /// Whether all that can be set in place is as desired, of a device that [`Self::serves_as`] the desired one.
    pub(crate) fn is_set_as(&self, want: &DesiredLink) -> bool {
        let learns = |vxlan: &ObservedVxlan| vxlan.learning;
        let learning = match (&self.kind, &want.kind) {
            (ObservedKind::Vxlan(have), DesiredKind::Kernel(KernelKind::Vxlan(want))) => learns(have) == want.learning,
            (_, DesiredKind::Kernel(_) | DesiredKind::Tunnel(_)) => true,
        };
        self.has_mac_of(want)
            && self.mtu == want.mtu
            && self.up
            && want.master.is_none_or(|master| self.master.is_some_and(|found| found.name == master))
            && learning
            && self.has_tunnel_of(&want.kind)
    }

    pub(crate) fn has_mac_of<K>(&self, want: &DesiredLink<K>) -> bool {
        want.mac.is_none_or(|mac| self.mac == Some(mac))
    }

    /// Whether the tunnel behind it is the one wanted. Another one begins with an empty table.
    pub(crate) fn has_tunnel_of(&self, want: &DesiredKind) -> bool {
        match (&self.kind, want) {
            (ObservedKind::Tun(have), DesiredKind::Tunnel(want)) => have.as_ref() == Some(want),
            (_, DesiredKind::Kernel(_) | DesiredKind::Tunnel(_)) => true,
        }
    }
}

impl ObservedKind {
    /// The kernel's name of the kind (`IFLA_INFO_KIND`), empty for hardware.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Vxlan(_) => "vxlan",
            Self::Tun(_) => "tun",
            Self::Bridge => "bridge",
            Self::Veth(_) => "veth",
            Self::Vlan(_) => "vlan",
            Self::Macvlan(_) => "macvlan",
            Self::Ipip(_) => "ipip",
            Self::Other(kind) => kind,
        }
    }
}

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.namespace)
    }
}

impl fmt::Display for LinkPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.name, self.namespace)
    }
}

impl fmt::Display for LinkRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found(link) => link.fmt(f),
            Self::Desired(place) => place.fmt(f),
        }
    }
}

impl fmt::Display for KernelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vxlan(vxlan) => vxlan.fmt(f),
            Self::Bridge => f.write_str("bridge"),
            Self::Veth(veth) => write!(f, "veth peer {}", veth.peer),
            Self::Vlan(vlan) => write!(f, "{vlan} dev {}", vlan.parent),
            Self::Macvlan(macvlan) => write!(f, "{macvlan} dev {}", macvlan.parent),
            Self::Ipip(ipip) => ipip.fmt(f),
        }
    }
}

impl fmt::Display for DesiredKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(kind) => kind.fmt(f),
            Self::Tunnel(tunnel) => write!(f, "tun {tunnel}"),
        }
    }
}

impl fmt::Display for ObservedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vxlan(vxlan) => vxlan.fmt(f),
            Self::Tun(Some(tunnel)) => write!(f, "tun {tunnel}"),
            Self::Vlan(vlan) => vlan.fmt(f),
            Self::Macvlan(macvlan) => macvlan.fmt(f),
            Self::Ipip(ipip) => ipip.fmt(f),
            Self::Tun(None) | Self::Bridge | Self::Veth(_) => f.write_str(self.name()),
            Self::Other(kind) => f.write_str(if kind.is_empty() { "hardware" } else { kind }),
        }
    }
}

impl<K: fmt::Display> fmt::Display for DesiredLink<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        write_common(f, self.mac, self.mtu, true)?;
        self.master.map_or(Ok(()), |master| write!(f, " master {master}"))
    }
}

impl fmt::Display for ObservedLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        write_common(f, self.mac, self.mtu, self.up)?;
        self.master.map_or(Ok(()), |master| write!(f, " master {master}"))
    }
}

fn write_common(f: &mut fmt::Formatter<'_>, mac: Option<MacAddr>, mtu: Mtu, up: bool) -> fmt::Result {
    if let Some(mac) = mac {
        write!(f, " mac {mac}")?;
    }
    write!(f, " mtu {mtu} {}", if up { "up" } else { "down" })
}

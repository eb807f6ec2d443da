//! Links (network interfaces): as observed and as desired.

mod bridge;
mod ipip;
mod macvlan;
mod port;
mod veth;
mod vlan;
mod vxlan;

use std::fmt;

use wire_net::{LinkName, MacAddr, Mtu, Prefix};

use super::{ALIAS, Namespace, Owner, Tunnel};

pub use self::{
    bridge::Bridge,
    ipip::Ipip,
    macvlan::{Macvlan, MacvlanMode},
    port::{PortFlag, PortFlags},
    veth::Veth,
    vlan::Vlan,
    vxlan::{DesiredVxlan, ObservedVxlan, ReceiveFlag},
};

/// Identifies a link that was found. A renamed link is the same link, so only the namespace and the index are compared.
#[derive(Clone, Copy, Debug, Eq)]
pub struct LinkId {
    /// The namespace that it is in.
    pub namespace: Namespace,
    /// The kernel's interface index in that namespace.
    pub index: u32,
    /// Its name, for messages only.
    pub name: LinkName,
}

impl PartialEq for LinkId {
    fn eq(&self, other: &Self) -> bool {
        (self.namespace, self.index) == (other.namespace, other.index)
    }
}

/// A link's namespace and name. No two links have both in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkPlace {
    /// The namespace.
    pub namespace: Namespace,
    /// The name in that namespace.
    pub name: LinkName,
}

/// A link that a desired one refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkRef {
    /// A foreign link that was found on the host.
    Found(LinkId),
    /// A link that is desired too. It is made first.
    Desired(LinkPlace),
}

/// A desired link. It is always up.
///
/// `K` is the type of its kind: all kinds, or only those that one part of a driver makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredLink<K = DesiredKind> {
    /// Its kind, with the settings of that kind.
    pub kind: K,
    /// Its Ethernet address; with `None` the kernel chooses it.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: Mtu,
    /// The bridge whose port it is, in the same namespace; `None` does not change it.
    pub master: Option<LinkName>,
    /// Its flags as a port of that bridge; `None` does not change it.
    pub port: Option<PortFlags>,
}

/// The kind of a desired link, and who moves its packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesiredKind {
    /// A link of the kernel, which moves its packets.
    Kernel(KernelKind),
    /// A TUN device, whose packets the agent moves.
    Tunnel(Tunnel),
}

/// The kinds of links that the agent makes and whose packets the kernel moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelKind {
    /// A VXLAN device, RFC 7348.
    Vxlan(DesiredVxlan),
    /// A bridge, IEEE 802.1D.
    Bridge(Bridge),
    /// One end of a pair of virtual Ethernet devices, veth(4).
    Veth(Veth<LinkPlace>),
    /// A VLAN on another link, IEEE 802.1Q.
    Vlan(Vlan<LinkRef>),
    /// A link on another link, with a MAC of its own.
    Macvlan(Macvlan<LinkRef>),
    /// IPv4 in IPv4, RFC 2003.
    Ipip(Ipip<LinkRef>),
}

/// A link as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedLink {
    /// Its kind, with the settings of that kind.
    pub kind: ObservedKind,
    /// Its Ethernet address, if it has one.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: Mtu,
    /// Whether it is administratively up (`IFF_UP`).
    pub up: bool,
    /// The bridge or bond whose port it is.
    pub master: Option<LinkId>,
    /// Its flags as a port of a bridge.
    pub port: Option<PortFlags>,
    /// Whether its alias says that the agent made it (`IFLA_IFALIAS`, see [`super::ALIAS`]).
    pub is_marked: bool,
    /// Whether it is ours.
    pub owner: Owner,
    /// The kernel's interface index.
    pub index: u32,
}

/// The kind of a link that was read. A link that it refers to is `None` if that is in a namespace that is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedKind {
    /// A VXLAN device.
    Vxlan(ObservedVxlan),
    /// A TUN device with the settings of ours, and the tunnel that moves its packets; `None` if this agent runs no tunnel on it.
    Tun(Option<Tunnel>),
    /// A bridge.
    Bridge(Bridge),
    /// One end of a pair of virtual Ethernet devices.
    Veth(Veth<Option<LinkId>>),
    /// A VLAN on another link.
    Vlan(Vlan<Option<LinkId>>),
    /// A link on another link, with a MAC of its own.
    Macvlan(Macvlan<Option<LinkId>>),
    /// IPv4 in IPv4, RFC 2003.
    Ipip(Ipip<LinkId>),
    /// Any other kind, by the kernel's name for it (`dummy`, `wireguard`, …); empty for hardware.
    Other(String),
}

impl DesiredLink {
    /// A copy of the link with `own` as this host's subnet, if the agent moves its packets.
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
    /// A link without a desired MAC or bridge.
    #[must_use]
    pub const fn new(kind: K, mtu: Mtu) -> Self {
        Self { kind, mac: None, mtu, master: None, port: None }
    }
}

impl LinkPlace {
    /// A place in the host's namespace.
    #[must_use]
    pub const fn in_host(name: LinkName) -> Self {
        Self { namespace: Namespace::Host, name }
    }
}

impl DesiredLink<KernelKind> {
    /// The alias by which the link is known as ours (`IFLA_IFALIAS`). VXLAN devices as flannel has them have none: their MAC or their
    /// settings identify them, see [`super::Marks`]. flannel's are no ports of bridges.
    #[must_use]
    pub const fn alias(&self) -> Option<&'static str> {
        match &self.kind {
            KernelKind::Vxlan(_) if self.master.is_none() => None,
            KernelKind::Vxlan(_)
            | KernelKind::Bridge(_)
            | KernelKind::Veth(_)
            | KernelKind::Vlan(_)
            | KernelKind::Macvlan(_)
            | KernelKind::Ipip(_) => Some(ALIAS),
        }
    }
}

impl LinkRef {
    /// Its name in its namespace.
    #[must_use]
    pub const fn name(self) -> LinkName {
        match self {
            Self::Found(LinkId { name, .. }) | Self::Desired(LinkPlace { name, .. }) => name,
        }
    }

    /// The place of a link that is desired too.
    pub(crate) const fn desired(self) -> Option<LinkPlace> {
        match self {
            Self::Desired(place) => Some(place),
            Self::Found(_) => None,
        }
    }
}

impl DesiredKind {
    /// The link that must exist before this one, which goes to `place`, can be made.
    pub(crate) fn needs(&self, place: LinkPlace) -> Option<LinkPlace> {
        let lower = match self {
            Self::Tunnel(_) | Self::Kernel(KernelKind::Bridge(_)) => None,
            // Making one end of a pair makes both; the end that is first in order does it.
            Self::Kernel(KernelKind::Veth(Veth { peer })) => return Some(*peer).filter(|peer| *peer < place),
            Self::Kernel(KernelKind::Vxlan(vxlan)) => vxlan.parent,
            Self::Kernel(KernelKind::Vlan(vlan)) => Some(vlan.parent),
            Self::Kernel(KernelKind::Macvlan(macvlan)) => Some(macvlan.parent),
            Self::Kernel(KernelKind::Ipip(ipip)) => ipip.parent,
        };
        lower?.desired()
    }
}

impl ObservedLink {
    /// The link that it sends through, or its veth peer. The kernel removes it together with that one.
    #[must_use]
    pub const fn bound_to(&self) -> Option<LinkId> {
        match &self.kind {
            ObservedKind::Vxlan(vxlan) => vxlan.parent,
            ObservedKind::Veth(veth) => veth.peer,
            ObservedKind::Vlan(vlan) => vlan.parent,
            ObservedKind::Macvlan(macvlan) => macvlan.parent,
            // It outlives the link it sends through (`ipip` of net/ipv4 receives no notification of the removal).
            ObservedKind::Ipip(_) | ObservedKind::Tun(_) | ObservedKind::Bridge(_) | ObservedKind::Other(_) => None,
        }
    }

    /// The links that this one refers to.
    pub fn named_mut(&mut self) -> impl Iterator<Item = &mut LinkId> {
        let lower = match &mut self.kind {
            ObservedKind::Vxlan(vxlan) => vxlan.parent.as_mut(),
            ObservedKind::Veth(veth) => veth.peer.as_mut(),
            ObservedKind::Vlan(vlan) => vlan.parent.as_mut(),
            ObservedKind::Macvlan(macvlan) => macvlan.parent.as_mut(),
            ObservedKind::Ipip(ipip) => ipip.parent.as_mut(),
            ObservedKind::Tun(_) | ObservedKind::Bridge(_) | ObservedKind::Other(_) => None,
        };
        lower.into_iter().chain(self.master.as_mut())
    }

    /// Whether this device can be changed into `want` without making it anew; `is` compares a desired link with a found one.
    /// flannel's rule for VXLAN devices is the same (`vxlanLinksIncompat` of its pkg/backend/vxlan/device.go), so flannel and the
    /// agent each take over the other's device.
    pub(crate) fn serves_as(&self, want: &DesiredKind, is: impl Fn(LinkRef, LinkId) -> bool) -> bool {
        match want {
            DesiredKind::Tunnel(_) => matches!(self.kind, ObservedKind::Tun(_)),
            DesiredKind::Kernel(want) => self.serves_as_kernels(want, is),
        }
    }

    fn serves_as_kernels(&self, want: &KernelKind, is: impl Fn(LinkRef, LinkId) -> bool) -> bool {
        let (have, same) = (&self.kind, |want, have| is_same_parent(want, have, &is));
        match want {
            KernelKind::Vxlan(want) => {
                matches!(have, ObservedKind::Vxlan(have) if same(want.parent, have.parent) && have.serves_as(want))
            }
            KernelKind::Bridge(_) => matches!(have, ObservedKind::Bridge(_)),
            // The plan checks the peer of a veth.
            KernelKind::Veth(_) => matches!(have, ObservedKind::Veth(_)),
            KernelKind::Vlan(want) => {
                matches!(have, ObservedKind::Vlan(have) if have.id == want.id && same(Some(want.parent), have.parent))
            }
            KernelKind::Macvlan(want) => {
                let is_it = |have: &Macvlan<_>| have.mode == want.mode && same(Some(want.parent), have.parent);
                matches!(have, ObservedKind::Macvlan(have) if is_it(have))
            }
            KernelKind::Ipip(want) => {
                matches!(have, ObservedKind::Ipip(have) if have.local == want.local && same(want.parent, have.parent))
            }
        }
    }

    /// Whether all settings that can be changed in place are as desired, for a device that [`Self::serves_as`] the desired one.
    pub(crate) fn is_set_as(&self, want: &DesiredLink) -> bool {
        let of_kind = match (&self.kind, &want.kind) {
            (ObservedKind::Vxlan(have), DesiredKind::Kernel(KernelKind::Vxlan(want))) => have.learning == want.learning,
            (ObservedKind::Bridge(have), DesiredKind::Kernel(KernelKind::Bridge(want))) => have == want,
            (_, DesiredKind::Kernel(_) | DesiredKind::Tunnel(_)) => true,
        };
        self.has_mac_of(want)
            && self.mtu == want.mtu
            && self.up
            && !self.moves_to(want)
            && want.port.is_none_or(|flags| want.master.is_none() || self.port == Some(flags))
            && of_kind
            && self.has_tunnel_of(&want.kind)
    }

    /// True if it becomes a port of another bridge. Then no entry of a bridge's FDB leads to it.
    pub(crate) fn moves_to<K>(&self, want: &DesiredLink<K>) -> bool {
        want.master.is_some_and(|master| self.master.is_none_or(|found| found.name != master))
    }

    pub(crate) fn has_mac_of<K>(&self, want: &DesiredLink<K>) -> bool {
        want.mac.is_none_or(|mac| self.mac == Some(mac))
    }

    /// Whether the tunnel that moves its packets is the desired one. A new tunnel starts with an empty forwarding table.
    pub(crate) fn has_tunnel_of(&self, want: &DesiredKind) -> bool {
        match (&self.kind, want) {
            (ObservedKind::Tun(have), DesiredKind::Tunnel(want)) => have.as_ref() == Some(want),
            (_, DesiredKind::Kernel(_) | DesiredKind::Tunnel(_)) => true,
        }
    }
}

impl ObservedKind {
    /// True if entries of a bridge may lead to it for the endpoints of other hosts.
    #[must_use]
    pub const fn leads_to_hosts(&self) -> bool {
        match self {
            Self::Vxlan(_) | Self::Tun(_) => true,
            Self::Bridge(_) | Self::Veth(_) | Self::Vlan(_) | Self::Macvlan(_) | Self::Ipip(_) | Self::Other(_) => {
                false
            }
        }
    }

    /// The kernel's name for the kind (`IFLA_INFO_KIND`); empty for hardware.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Vxlan(_) => "vxlan",
            Self::Tun(_) => "tun",
            Self::Bridge(_) => "bridge",
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
            Self::Bridge(bridge) => bridge.fmt(f),
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
            Self::Bridge(bridge) => bridge.fmt(f),
            Self::Tun(None) | Self::Veth(_) => f.write_str(self.name()),
            Self::Other(kind) => f.write_str(if kind.is_empty() { "hardware" } else { kind }),
        }
    }
}

impl<K: fmt::Display> fmt::Display for DesiredLink<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        write_common(f, self.mac, self.mtu, true)?;
        write_port(f, self.master, self.port)
    }
}

impl fmt::Display for ObservedLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)?;
        write_common(f, self.mac, self.mtu, self.up)?;
        write_port(f, self.master, self.port)
    }
}

fn is_same_parent(want: Option<LinkRef>, have: Option<LinkId>, is: impl Fn(LinkRef, LinkId) -> bool) -> bool {
    match (want, have) {
        (Some(want), Some(have)) => is(want, have),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

fn write_port<M: fmt::Display>(f: &mut fmt::Formatter<'_>, master: Option<M>, port: Option<PortFlags>) -> fmt::Result {
    let Some(master) = master else { return Ok(()) };
    write!(f, " master {master}")?;
    port.map_or(Ok(()), |flags| write!(f, "{flags}"))
}

fn write_common(f: &mut fmt::Formatter<'_>, mac: Option<MacAddr>, mtu: Mtu, up: bool) -> fmt::Result {
    if let Some(mac) = mac {
        write!(f, " mac {mac}")?;
    }
    write!(f, " mtu {mtu} {}", if up { "up" } else { "down" })
}

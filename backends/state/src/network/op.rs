//! One change of a host's network.

use std::fmt;

use wire_net::{LinkName, MacAddr};

use super::{
    Address, BridgeFdbKey, DesiredKind, DesiredLink, FdbKey, FdbTarget, FloodEntry, Forward, ForwardKey, KernelKind,
    LinkPlace, Namespace, NeighbourKey, NextHop, ObservedKind, ObservedLink, ObservedRoute, RouteKey, Setting, Tunnel,
    apart,
};
use crate::{Key, Operation};

/// One change of a host's network, by the part of the driver that carries it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A change of the kernel's state in a namespace.
    Kernel(Namespace, KernelOp),
    /// A change of the tunnels that the agent runs, all in the host's namespace.
    Tunnel(TunnelOp),
}

/// One change of the kernel's state in a network namespace. A plan may have hundreds of thousands, nearly all for peers: what is large and
/// rare is boxed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelOp {
    /// Makes a link and sets it up.
    CreateLink(LinkName, Box<DesiredLink<KernelKind>>),
    /// Changes the settings of a link that can be changed in place: MAC, MTU, master, learning, up, those of a bridge or of its port.
    ChangeLink(LinkName, Box<DesiredLink<KernelKind>>),
    /// Removes a link with all entries on it.
    DeleteLink(LinkName),
    /// Writes a setting in `/proc/sys/net`.
    Set(Setting, u32),
    /// Adds an address to a link.
    PutAddress(Address),
    /// Removes an address from a link.
    DeleteAddress(Address),
    /// Sets the destination of a MAC in the FDB, and replaces an existing one.
    PutFdb(FdbKey, FdbTarget),
    /// Removes a MAC from the FDB.
    DeleteFdb(FdbKey),
    /// Adds a destination for flooded frames to the existing ones.
    PutFlood(FloodEntry),
    /// Removes a destination for flooded frames.
    DeleteFlood(FloodEntry),
    /// Sets the port of a MAC in the FDB of a bridge, and replaces an existing one.
    PutBridgeFdb(BridgeFdbKey, LinkName),
    /// Removes a MAC from the FDB of a bridge, if it leads to this port.
    DeleteBridgeFdb(BridgeFdbKey, LinkName),
    /// Sets the MAC of a neighbour, and replaces an existing one.
    PutNeighbour(NeighbourKey, MacAddr),
    /// Removes a neighbour.
    DeleteNeighbour(NeighbourKey),
    /// Adds a route. Fails if one with this key exists.
    AddRoute(RouteKey, NextHop),
    /// Replaces a route of ours in one step, so that there is no moment without a route.
    ReplaceRoute(RouteKey, NextHop),
    /// Removes a route, given as it was read.
    DeleteRoute(RouteKey, Box<ObservedRoute>),
}

/// One change of the tunnels that the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelOp {
    /// Makes a TUN device, sets it up, and starts to move its packets.
    Create(LinkName, Box<DesiredLink<Tunnel>>),
    /// Sets up an existing TUN device, and moves its packets with these settings from then on.
    Change(LinkName, Box<DesiredLink<Tunnel>>),
    /// Ends a tunnel and removes its device.
    Delete(LinkName),
    /// Sets the host to which a tunnel sends packets for a prefix, and replaces an existing one.
    PutForward(ForwardKey, Forward),
    /// Removes a prefix from a tunnel.
    DeleteForward(ForwardKey),
}

impl Op {
    /// The key of the entry that it changes.
    #[must_use]
    pub const fn key(&self) -> Key {
        match self {
            Self::Kernel(namespace, op) => op.key(*namespace),
            Self::Tunnel(op) => op.key(),
        }
    }
}

impl KernelOp {
    const fn key(&self, namespace: Namespace) -> Key {
        match self {
            Self::CreateLink(name, _) | Self::ChangeLink(name, _) | Self::DeleteLink(name) => {
                Key::Link(LinkPlace { namespace, name: *name })
            }
            Self::Set(setting, _) => Key::Setting(namespace, *setting),
            Self::PutAddress(key) | Self::DeleteAddress(key) => Key::Address(namespace, *key),
            Self::PutFdb(key, _) | Self::DeleteFdb(key) => Key::Fdb(namespace, *key),
            Self::PutFlood(key) | Self::DeleteFlood(key) => Key::Flood(namespace, *key),
            Self::PutBridgeFdb(key, _) | Self::DeleteBridgeFdb(key, _) => Key::BridgeFdb(namespace, *key),
            Self::PutNeighbour(key, _) | Self::DeleteNeighbour(key) => Key::Neighbour(namespace, *key),
            Self::AddRoute(key, _) | Self::ReplaceRoute(key, _) | Self::DeleteRoute(key, _) => {
                Key::Route(namespace, *key)
            }
        }
    }
}

impl TunnelOp {
    const fn key(&self) -> Key {
        match self {
            Self::Create(name, _) | Self::Change(name, _) | Self::Delete(name) => {
                Key::Link(LinkPlace { namespace: Namespace::Host, name: *name })
            }
            Self::PutForward(key, _) | Self::DeleteForward(key) => Key::Forward(*key),
        }
    }
}

impl Operation for Op {
    fn name(&self) -> &'static str {
        match self {
            Self::Kernel(_, op) => op.name(),
            Self::Tunnel(op) => op.name(),
        }
    }

    fn is_delete(&self) -> bool {
        match self {
            Self::Kernel(_, op) => op.is_delete(),
            Self::Tunnel(op) => op.is_delete(),
        }
    }
}

impl KernelOp {
    const fn name(&self) -> &'static str {
        match self {
            Self::CreateLink(..) => "create link",
            Self::ChangeLink(..) => "change link",
            Self::DeleteLink(_) => "delete link",
            Self::Set(..) => "set sysctl",
            Self::PutAddress(_) => "add address",
            Self::DeleteAddress(_) => "delete address",
            Self::PutFdb(..) => "set FDB entry",
            Self::DeleteFdb(_) => "delete FDB entry",
            Self::PutFlood(_) => "add flood entry",
            Self::DeleteFlood(_) => "delete flood entry",
            Self::PutBridgeFdb(..) => "set bridge FDB entry",
            Self::DeleteBridgeFdb(..) => "delete bridge FDB entry",
            Self::PutNeighbour(..) => "set neighbour",
            Self::DeleteNeighbour(_) => "delete neighbour",
            Self::AddRoute(..) => "add route",
            Self::ReplaceRoute(..) => "replace route",
            Self::DeleteRoute(..) => "delete route",
        }
    }

    const fn is_delete(&self) -> bool {
        match self {
            Self::DeleteLink(_)
            | Self::DeleteAddress(_)
            | Self::DeleteFdb(_)
            | Self::DeleteFlood(_)
            | Self::DeleteBridgeFdb(..)
            | Self::DeleteNeighbour(_)
            | Self::DeleteRoute(..) => true,
            Self::CreateLink(..)
            | Self::ChangeLink(..)
            | Self::Set(..)
            | Self::PutAddress(_)
            | Self::PutFdb(..)
            | Self::PutFlood(_)
            | Self::PutBridgeFdb(..)
            | Self::PutNeighbour(..)
            | Self::AddRoute(..)
            | Self::ReplaceRoute(..) => false,
        }
    }

    /// Whether it concerns a link itself, so that the kernel may change other entries with it.
    #[must_use]
    pub const fn is_link(&self) -> bool {
        matches!(self, Self::CreateLink(..) | Self::ChangeLink(..) | Self::DeleteLink(_))
    }
}

impl TunnelOp {
    const fn name(&self) -> &'static str {
        match self {
            Self::Create(..) => "create link",
            Self::Change(..) => "change link",
            Self::Delete(_) => "delete link",
            Self::PutForward(..) => "set forwarding",
            Self::DeleteForward(_) => "delete forwarding",
        }
    }

    const fn is_delete(&self) -> bool {
        match self {
            Self::Delete(_) | Self::DeleteForward(_) => true,
            Self::Create(..) | Self::Change(..) | Self::PutForward(..) => false,
        }
    }
}

impl Op {
    /// Makes a link, by whoever makes its kind.
    pub(crate) fn create_link(LinkPlace { namespace, name }: LinkPlace, link: DesiredLink) -> Self {
        match link.by_maker() {
            ByMaker::Kernel(link) => Self::Kernel(namespace, KernelOp::CreateLink(name, Box::new(link))),
            ByMaker::Tunnel(link) => Self::Tunnel(TunnelOp::Create(name, Box::new(link))),
        }
    }

    /// Changes a link in place, by whoever makes its kind.
    pub(crate) fn change_link(LinkPlace { namespace, name }: LinkPlace, link: DesiredLink) -> Self {
        match link.by_maker() {
            ByMaker::Kernel(link) => Self::Kernel(namespace, KernelOp::ChangeLink(name, Box::new(link))),
            ByMaker::Tunnel(link) => Self::Tunnel(TunnelOp::Change(name, Box::new(link))),
        }
    }

    /// The operation that removes a link of that kind.
    pub(crate) const fn delete_link(place: LinkPlace, found: &ObservedLink) -> Self {
        match (&found.kind, place.namespace) {
            (ObservedKind::Tun(_), Namespace::Host) => Self::Tunnel(TunnelOp::Delete(place.name)),
            (
                ObservedKind::Tun(_)
                | ObservedKind::Vxlan(_)
                | ObservedKind::Bridge(_)
                | ObservedKind::Veth(_)
                | ObservedKind::Vlan(_)
                | ObservedKind::Macvlan(_)
                | ObservedKind::Ipip(_)
                | ObservedKind::Other(_),
                namespace,
            ) => Self::Kernel(namespace, KernelOp::DeleteLink(place.name)),
        }
    }

    /// Whether it concerns a link itself, so that the kernel may change other entries with it.
    #[must_use]
    pub const fn is_link(&self) -> bool {
        match self {
            Self::Kernel(_, op) => op.is_link(),
            Self::Tunnel(op) => matches!(op, TunnelOp::Create(..) | TunnelOp::Change(..) | TunnelOp::Delete(_)),
        }
    }

    /// True if it concerns one of these links, or an entry on it.
    #[must_use]
    pub fn concerns(&self, links: &[LinkPlace]) -> bool {
        apart::concerns(self, links)
    }

    /// The link that it removes.
    #[must_use]
    pub const fn deletes_link(&self) -> Option<LinkPlace> {
        match self {
            Self::Kernel(namespace, KernelOp::DeleteLink(name)) => {
                Some(LinkPlace { namespace: *namespace, name: *name })
            }
            Self::Tunnel(TunnelOp::Delete(name)) => Some(LinkPlace::in_host(*name)),
            Self::Kernel(..) | Self::Tunnel(_) => None,
        }
    }
}

/// A desired link, by who makes it.
enum ByMaker {
    Kernel(DesiredLink<KernelKind>),
    Tunnel(DesiredLink<Tunnel>),
}

impl DesiredLink {
    fn by_maker(self) -> ByMaker {
        let Self { kind, mac, mtu, master, port } = self;
        match kind {
            DesiredKind::Kernel(kind) => ByMaker::Kernel(DesiredLink { kind, mac, mtu, master, port }),
            DesiredKind::Tunnel(kind) => ByMaker::Tunnel(DesiredLink { kind, mac, mtu, master, port }),
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(namespace, op) => write!(f, "{op}{namespace}"),
            Self::Tunnel(op) => op.fmt(f),
        }
    }
}

impl fmt::Display for KernelOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::CreateLink(name, link) | Self::ChangeLink(name, link) => write!(f, " {name}: {link}"),
            Self::DeleteLink(name) => write!(f, " {name}"),
            Self::Set(setting, value) => write!(f, " {setting} = {value}"),
            Self::PutAddress(address) | Self::DeleteAddress(address) => write!(f, " {address}"),
            Self::PutFdb(key, destination) => write!(f, " {key} dst {destination}"),
            Self::DeleteFdb(key) => write!(f, " {key}"),
            Self::PutFlood(entry) | Self::DeleteFlood(entry) => write!(f, " {entry}"),
            Self::PutBridgeFdb(key, port) => write!(f, " {key} port {port}"),
            Self::DeleteBridgeFdb(key, _) => write!(f, " {key}"),
            Self::PutNeighbour(key, mac) => write!(f, " {key} lladdr {mac}"),
            Self::DeleteNeighbour(key) => write!(f, " {key}"),
            Self::AddRoute(key, hop) | Self::ReplaceRoute(key, hop) => write!(f, " {key} {hop}"),
            Self::DeleteRoute(key, route) => write!(f, " {key} {}", route.via),
        }
    }
}

impl fmt::Display for TunnelOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Create(name, link) | Self::Change(name, link) => write!(f, " {name}: tun {link}"),
            Self::Delete(name) => write!(f, " {name}"),
            Self::PutForward(key, forward) => write!(f, " {key} {forward}"),
            Self::DeleteForward(key) => write!(f, " {key}"),
        }
    }
}

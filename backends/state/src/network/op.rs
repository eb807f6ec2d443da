//! One change of a host's network.

use std::{fmt, net::IpAddr};

use wire_net::{Family, LinkName, MacAddr, Mtu};

use super::{
    Address, DesiredKind, DesiredLink, FdbKey, FloodEntry, Forward, ForwardKey, Ipip, KernelKind, LinkId, LinkPlace,
    LinkRef, Macvlan, Namespace, NeighbourKey, NextHop, ObservedKind, ObservedLink, ObservedNet, ObservedRoute,
    ObservedVxlan, Owner, PerNamespace, RouteKey, Setting, Tunnel, Veth, Vlan,
};
use crate::Operation;

/// One change of a host's network, by the part of the driver that carries it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// A change of the kernel's state in a namespace.
    Kernel(Namespace, KernelOp),
    /// A change of the tunnels that the agent runs, all in the host's namespace.
    Tunnel(TunnelOp),
}

/// One change of the kernel's state in a network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelOp {
    /// Makes a link and sets it up.
    CreateLink(LinkName, DesiredLink<KernelKind>),
    /// Changes the settings of a link that can be changed in place: MAC, MTU, master, learning, up.
    ChangeLink(LinkName, DesiredLink<KernelKind>),
    /// Removes a link with all entries on it.
    DeleteLink(LinkName),
    /// Writes a setting in `/proc/sys/net`.
    Set(Setting, u32),
    /// Adds an address to a link.
    PutAddress(Address),
    /// Removes an address from a link.
    DeleteAddress(Address),
    /// Sets the destination of a MAC in the FDB, and replaces an existing one.
    PutFdb(FdbKey, IpAddr),
    /// Removes a MAC from the FDB.
    DeleteFdb(FdbKey),
    /// Adds a destination for flooded frames to the existing ones.
    PutFlood(FloodEntry),
    /// Removes a destination for flooded frames.
    DeleteFlood(FloodEntry),
    /// Sets the MAC of a neighbour, and replaces an existing one.
    PutNeighbour(NeighbourKey, MacAddr),
    /// Removes a neighbour.
    DeleteNeighbour(NeighbourKey),
    /// Adds a route. Fails if one with this key exists.
    AddRoute(RouteKey, NextHop),
    /// Replaces a route of ours in one step, so that there is no moment without a route.
    ReplaceRoute(RouteKey, NextHop),
    /// Removes a route, given as it was read.
    DeleteRoute(RouteKey, ObservedRoute),
}

/// One change of the tunnels that the agent runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelOp {
    /// Makes a TUN device, sets it up, and starts to move its packets.
    Create(LinkName, DesiredLink<Tunnel>),
    /// Sets up an existing TUN device, and moves its packets with these settings from then on.
    Change(LinkName, DesiredLink<Tunnel>),
    /// Ends a tunnel and removes its device.
    Delete(LinkName),
    /// Sets the host to which a tunnel sends packets for a prefix, and replaces an existing one.
    PutForward(ForwardKey, Forward),
    /// Removes a prefix from a tunnel.
    DeleteForward(ForwardKey),
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
            | Self::DeleteNeighbour(_)
            | Self::DeleteRoute(..) => true,
            Self::CreateLink(..)
            | Self::ChangeLink(..)
            | Self::Set(..)
            | Self::PutAddress(_)
            | Self::PutFdb(..)
            | Self::PutFlood(_)
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
            ByMaker::Kernel(link) => Self::Kernel(namespace, KernelOp::CreateLink(name, link)),
            ByMaker::Tunnel(link) => Self::Tunnel(TunnelOp::Create(name, link)),
        }
    }

    /// Changes a link in place, by whoever makes its kind.
    pub(crate) fn change_link(LinkPlace { namespace, name }: LinkPlace, link: DesiredLink) -> Self {
        match link.by_maker() {
            ByMaker::Kernel(link) => Self::Kernel(namespace, KernelOp::ChangeLink(name, link)),
            ByMaker::Tunnel(link) => Self::Tunnel(TunnelOp::Change(name, link)),
        }
    }

    /// The operation that removes a link of that kind.
    pub(crate) const fn delete_link(place: LinkPlace, found: &ObservedLink) -> Self {
        match (&found.kind, place.namespace) {
            (ObservedKind::Tun(_), Namespace::Host) => Self::Tunnel(TunnelOp::Delete(place.name)),
            (
                ObservedKind::Tun(_)
                | ObservedKind::Vxlan(_)
                | ObservedKind::Bridge
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
        let Self { kind, mac, mtu, master } = self;
        match kind {
            DesiredKind::Kernel(kind) => ByMaker::Kernel(DesiredLink { kind, mac, mtu, master }),
            DesiredKind::Tunnel(kind) => ByMaker::Tunnel(DesiredLink { kind, mac, mtu, master }),
        }
    }
}

impl PerNamespace<ObservedNet> {
    /// Updates the state by `op` and the changes that the kernel makes along with it: it removes the entries of a removed link, the links
    /// that are bound to it, and the neighbours of a link whose MAC changes (`neigh_changeaddr` of net/core/neighbour.c).
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Kernel(namespace, op) => self.apply_kernel(*namespace, op),
            Op::Tunnel(op) => self.apply_tunnel(op),
        }
    }

    fn apply_kernel(&mut self, namespace: Namespace, op: &KernelOp) {
        match op {
            KernelOp::CreateLink(name, link) => self.create_link(LinkPlace { namespace, name: *name }, link),
            KernelOp::ChangeLink(name, link) => {
                let master = link.master.and_then(|name| self.id(LinkPlace { namespace, name }));
                let Some(net) = self.get_mut(namespace) else { return };
                net.change_link(*name, link, master);
                if let (Some(ObservedLink { kind: ObservedKind::Vxlan(found), .. }), KernelKind::Vxlan(vxlan)) =
                    (net.links.get_mut(name), &link.kind)
                {
                    found.learning = vxlan.learning;
                }
            }
            KernelOp::DeleteLink(name) => self.delete_link(LinkPlace { namespace, name: *name }),
            KernelOp::Set(..)
            | KernelOp::PutAddress(_)
            | KernelOp::DeleteAddress(_)
            | KernelOp::PutFdb(..)
            | KernelOp::DeleteFdb(_)
            | KernelOp::PutFlood(_)
            | KernelOp::DeleteFlood(_)
            | KernelOp::PutNeighbour(..)
            | KernelOp::DeleteNeighbour(_)
            | KernelOp::AddRoute(..)
            | KernelOp::ReplaceRoute(..)
            | KernelOp::DeleteRoute(..) => {
                if let Some(net) = self.get_mut(namespace) {
                    net.apply(op);
                }
            }
        }
    }

    fn apply_tunnel(&mut self, op: &TunnelOp) {
        if let TunnelOp::Delete(name) = op {
            self.delete_link(LinkPlace::in_host(*name));
            return;
        }
        let Some(net) = self.get_mut(Namespace::Host) else { return };
        match op {
            TunnelOp::Create(name, link) => {
                let kind = ObservedKind::Tun(Some(link.kind.clone()));
                net.insert_link(*name, ObservedLink::made(kind, link.mac, link.mtu));
            }
            TunnelOp::Change(name, link) => {
                if let Some(there) = net.links.get_mut(name) {
                    let kind = ObservedKind::Tun(Some(link.kind.clone()));
                    if there.kind != kind {
                        net.forwarding.retain(|key, _| key.link != *name);
                    }
                    there.kind = kind;
                }
                net.change_link(*name, link, None);
            }
            TunnelOp::PutForward(key, forward) => {
                net.forwarding.insert(*key, *forward);
            }
            TunnelOp::DeleteForward(key) => {
                net.forwarding.remove(key);
            }
            TunnelOp::Delete(_) => {}
        }
    }

    fn create_link(&mut self, place: LinkPlace, link: &DesiredLink<KernelKind>) {
        let mut made = ObservedLink::made(self.found_as(&link.kind), link.mac, link.mtu);
        made.master = link.master.and_then(|name| self.id(LinkPlace { namespace: place.namespace, name }));
        made.is_marked = link.kind.alias().is_some();
        let Some(net) = self.get_mut(place.namespace) else { return };
        net.insert_link(place.name, made);
        if let KernelKind::Veth(Veth { peer }) = link.kind {
            self.create_peer(peer, place, link.mtu);
        }
    }

    /// Adds the other end of a veth pair, which the kernel makes along with the first and leaves down.
    fn create_peer(&mut self, place: LinkPlace, of: LinkPlace, mtu: Mtu) {
        let made = ObservedLink::made(ObservedKind::Veth(Veth { peer: self.id(of) }), None, mtu);
        let Some(net) = self.get_mut(place.namespace) else { return };
        net.insert_link(place.name, ObservedLink { up: false, is_marked: true, ..made });
        let id = self.id(place);
        let first = self.get_mut(of.namespace).and_then(|net| net.links.get_mut(&of.name));
        if let Some(first) = first {
            first.kind = ObservedKind::Veth(Veth { peer: id });
        }
    }

    /// The kind as which a link is read once it is made.
    fn found_as(&self, kind: &KernelKind) -> ObservedKind {
        let found = |link| self.resolve(link);
        match kind {
            KernelKind::Vxlan(vxlan) => ObservedKind::Vxlan(ObservedVxlan {
                parent: vxlan.parent.and_then(found),
                local: vxlan.local,
                port: vxlan.port_in_use(),
                gbp: vxlan.gbp,
                learning: vxlan.learning,
                ..ObservedVxlan::new(vxlan.vni)
            }),
            KernelKind::Bridge => ObservedKind::Bridge,
            KernelKind::Veth(Veth { peer }) => ObservedKind::Veth(Veth { peer: self.id(*peer) }),
            KernelKind::Vlan(vlan) => ObservedKind::Vlan(Vlan { parent: found(vlan.parent), id: vlan.id }),
            KernelKind::Macvlan(macvlan) => {
                ObservedKind::Macvlan(Macvlan { parent: found(macvlan.parent), mode: macvlan.mode })
            }
            KernelKind::Ipip(ipip) => {
                ObservedKind::Ipip(Ipip { parent: ipip.parent.and_then(found), local: ipip.local })
            }
        }
    }

    fn resolve(&self, link: LinkRef) -> Option<LinkId> {
        match link {
            LinkRef::Found(id) => Some(id),
            LinkRef::Desired(place) => self.id(place),
        }
    }

    fn delete_link(&mut self, place: LinkPlace) {
        let mut going = self.bound_to(place);
        going.push(place);
        for LinkPlace { namespace, name } in going {
            let id = self.id(LinkPlace { namespace, name });
            let Some(net) = self.get_mut(namespace) else { continue };
            net.forget_link(name);
            for port in net.links.values_mut().filter(|link| link.master == id) {
                port.master = None;
            }
        }
    }

    /// The links that the kernel removes together with this one: those on top of it, those on top of these, and veth peers.
    pub(crate) fn bound_to(&self, place: LinkPlace) -> Vec<LinkPlace> {
        let mut bound: Vec<LinkPlace> = Vec::new();
        let mut ids: Vec<LinkId> = self.id(place).into_iter().collect();
        while let Some(id) = ids.pop() {
            for (namespace, net) in self.iter() {
                for (name, link) in net.links.iter().filter(|(_, link)| link.bound_to() == Some(id)) {
                    let found = LinkPlace { namespace, name: *name };
                    if found != place && !bound.contains(&found) {
                        bound.push(found);
                        ids.push(LinkId { namespace, index: link.index, name: *name });
                    }
                }
            }
        }
        bound
    }

    /// The identity of the link at a place; `None` if there is none.
    #[must_use]
    pub fn id(&self, LinkPlace { namespace, name }: LinkPlace) -> Option<LinkId> {
        let link = self.get(namespace)?.links.get(&name)?;
        Some(LinkId { namespace, index: link.index, name })
    }
}

impl ObservedNet {
    fn apply(&mut self, op: &KernelOp) {
        match op {
            // These can change other namespaces, so `PerNamespace::apply` does them.
            KernelOp::CreateLink(..) | KernelOp::ChangeLink(..) | KernelOp::DeleteLink(_) => {}
            KernelOp::Set(setting, value) => {
                if let Setting::Forwarding(family) = setting {
                    self.set_forwarding_of_links(*family, *value);
                }
                self.settings.insert(*setting, *value);
            }
            KernelOp::PutAddress(address) => {
                self.addresses.insert(*address);
            }
            KernelOp::DeleteAddress(address) => {
                self.addresses.remove(address);
            }
            KernelOp::PutFdb(key, destination) => {
                self.fdb.insert(*key, *destination);
            }
            KernelOp::DeleteFdb(key) => {
                self.fdb.remove(key);
            }
            KernelOp::PutFlood(entry) => {
                self.flooding.insert(*entry);
            }
            KernelOp::DeleteFlood(entry) => {
                self.flooding.remove(entry);
            }
            KernelOp::PutNeighbour(key, mac) => {
                self.neighbours.insert(*key, *mac);
            }
            KernelOp::DeleteNeighbour(key) => {
                self.neighbours.remove(key);
            }
            KernelOp::AddRoute(key, hop) | KernelOp::ReplaceRoute(key, hop) => {
                self.routes.insert(*key, ObservedRoute::ours(*hop));
            }
            KernelOp::DeleteRoute(key, _) => {
                self.routes.remove(key);
            }
        }
    }

    /// Adds a link with an index that no other link has. The kernel's own choice is not known here; it counts from 1.
    fn insert_link(&mut self, name: LinkName, link: ObservedLink) {
        const BEYOND_THE_KERNELS: u32 = 1 << 30;
        let highest = self.links.values().map(|link| link.index).max().unwrap_or_default();
        let index = highest.max(BEYOND_THE_KERNELS) + 1;
        self.links.insert(name, ObservedLink { index, ..link });
    }

    fn change_link<K>(&mut self, name: LinkName, link: &DesiredLink<K>, master: Option<LinkId>) {
        let Some(there) = self.links.get_mut(&name) else { return };
        if !there.has_mac_of(link) {
            self.neighbours.retain(|key, _| key.link != name);
        }
        (there.mac, there.mtu, there.up) = (link.mac.or(there.mac), link.mtu, true);
        there.master = master.or(there.master);
    }

    /// Sets the forwarding of all links, as the kernel does when the host's changes (`inet_forward_change` of net/ipv4/devinet.c,
    /// `addrconf_forward_change` of net/ipv6/addrconf.c).
    fn set_forwarding_of_links(&mut self, family: Family, value: u32) {
        for (setting, there) in &mut self.settings {
            match setting {
                Setting::LinkForwarding(of, _) if *of == family => *there = value,
                Setting::LinkForwarding(..)
                | Setting::Forwarding(_)
                | Setting::DisableIpv6(_)
                | Setting::RouterAdvertisements(_) => {}
            }
        }
    }
}

impl ObservedLink {
    /// A link that was just made. Its index is not known yet.
    const fn made(kind: ObservedKind, mac: Option<MacAddr>, mtu: Mtu) -> Self {
        Self { kind, mac, mtu, up: true, master: None, is_marked: false, owner: Owner::Ours, index: 0 }
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

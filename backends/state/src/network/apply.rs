//! What a state is after an operation. Pure.

use wire_net::{Family, LinkName, MacAddr, Mtu};

use super::{
    DesiredLink, Ipip, KernelKind, KernelOp, LinkId, LinkPlace, LinkRef, Macvlan, Namespace, ObservedKind,
    ObservedLink, ObservedNet, ObservedRoute, ObservedVxlan, Op, Owner, PerNamespace, PortFlags, Setting, TunnelOp,
    Veth, Vlan, tables::retain,
};

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
                match (net.links.get_mut(name).map(|found| &mut found.kind), &link.kind) {
                    (Some(ObservedKind::Vxlan(found)), KernelKind::Vxlan(vxlan)) => found.learning = vxlan.learning,
                    (Some(ObservedKind::Bridge(found)), KernelKind::Bridge(bridge)) => *found = *bridge,
                    (Some(_) | None, _) => {}
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
            | KernelOp::PutBridgeFdb(..)
            | KernelOp::DeleteBridgeFdb(..)
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
        let master = match op {
            TunnelOp::Create(_, link) | TunnelOp::Change(_, link) => link.master,
            TunnelOp::Delete(_) | TunnelOp::PutForward(..) | TunnelOp::DeleteForward(_) => None,
        };
        let master = master.and_then(|name| self.id(LinkPlace::in_host(name)));
        let Some(net) = self.get_mut(Namespace::Host) else { return };
        match op {
            TunnelOp::Create(name, link) => {
                let kind = ObservedKind::Tun(Some(link.kind.clone()));
                let port = master.map(|_| link.port.unwrap_or(PortFlags::NEW_PORT));
                net.insert_link(*name, ObservedLink { master, port, ..ObservedLink::made(kind, link.mac, link.mtu) });
            }
            TunnelOp::Change(name, link) => {
                if let Some(there) = net.links.get_mut(name) {
                    let kind = ObservedKind::Tun(Some(link.kind.clone()));
                    if there.kind != kind {
                        retain(&mut net.forwarding, |key, _| key.link != *name);
                    }
                    there.kind = kind;
                }
                net.change_link(*name, link, master);
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
        made.port = made.master.map(|_| link.port.unwrap_or(PortFlags::NEW_PORT));
        made.is_marked = link.alias().is_some();
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
        net.insert_link(place.name, ObservedLink { up: false, ..made });
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
            KernelKind::Bridge(bridge) => ObservedKind::Bridge(*bridge),
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

    /// The link that a reference means; `None` if it is not there.
    pub(super) fn resolve(&self, link: LinkRef) -> Option<LinkId> {
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
                (port.master, port.port) = (None, None);
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
                if let (Setting::DisableIpv6(link), 1) = (setting, value) {
                    self.forget_family(*link, Family::V6);
                }
            }
            KernelOp::PutAddress(address) => {
                self.addresses.insert(*address);
            }
            KernelOp::DeleteAddress(address) => {
                let is_last =
                    |net: &Self| !net.addresses.iter().any(|own| own.link == address.link && own.address.is_ipv4());
                // `fib_inetaddr_event` of net/ipv4/fib_frontend.c.
                if self.addresses.remove(address) && address.address.is_ipv4() && is_last(self) {
                    self.forget_family(address.link, Family::V4);
                }
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
            KernelOp::PutBridgeFdb(key, port) => {
                self.bridge_fdb.insert(*key, *port);
            }
            KernelOp::DeleteBridgeFdb(key, port) => {
                if self.bridge_fdb.get(key) == Some(port) {
                    self.bridge_fdb.remove(key);
                }
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
            // Another program may have put its own in place of the one that was read.
            KernelOp::DeleteRoute(key, route) => {
                if self.routes.get(key).is_some_and(|found| found.is_deleted_as(route)) {
                    self.routes.remove(key);
                }
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
            retain(&mut self.neighbours, |key, _| key.link != name);
        }
        if master.is_some() && there.moves_to(link) {
            retain(&mut self.bridge_fdb, |_, port| *port != name);
            there.port = Some(PortFlags::NEW_PORT);
        }
        (there.mac, there.mtu, there.up) = (link.mac.or(there.mac), link.mtu, true);
        if matches!(there.kind, ObservedKind::Veth(_)) {
            // The other end of a pair is marked when it is first changed.
            (there.is_marked, there.owner) = (true, Owner::Ours);
        }
        there.master = master.or(there.master);
        there.port = link.port.filter(|_| link.master.is_some()).or(there.port);
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
        Self { kind, mac, mtu, up: true, master: None, port: None, is_marked: false, owner: Owner::Ours, index: 0 }
    }
}

//! A state that was found, as a desired one. Pure.

use std::collections::BTreeSet;

use wire_net::LinkName;

use super::{
    DesiredKind, DesiredLink, DesiredNet, DesiredVxlan, Ipip, KernelKind, LinkId, LinkPlace, LinkRef, Macvlan,
    ObservedKind, ObservedLink, ObservedNet, Owner, PerNamespace, Veth, Vlan,
};

impl PerNamespace<ObservedNet> {
    /// Returns what was found of ours as a desired state: links with all entries on them, routes, and the settings of the host and of
    /// these links.
    ///
    /// What cannot be desired is left out, so that its plan removes it: a link whose parent or peer is in a namespace that is not read, a
    /// TUN device on which this agent runs no tunnel, the entries on such a link, and routes of a form that ours never have. A link of
    /// ours that is down is desired up.
    #[must_use]
    pub fn as_desired(&self) -> PerNamespace<DesiredNet> {
        self.iter().map(|(namespace, net)| (namespace, self.net_as_desired(net))).collect()
    }

    fn net_as_desired(&self, net: &ObservedNet) -> DesiredNet {
        let ours = || net.links.iter().filter(|(_, link)| link.owner == Owner::Ours);
        let desired = |(name, link): (&LinkName, &ObservedLink)| Some((*name, self.link_as_desired(link)?));
        let mut state = DesiredNet { links: ours().filter_map(desired).collect(), ..DesiredNet::default() };
        let is_left_out = |name: &&LinkName| !state.links.contains_key(*name);
        let left_out: BTreeSet<LinkName> = ours().map(|(name, _)| name).filter(is_left_out).copied().collect();
        let stays = |link: LinkName| !left_out.contains(&link);
        state.addresses = net.addresses.iter().filter(|key| stays(key.link)).copied().collect();
        state.fdb = net.fdb.iter().filter(|(key, _)| stays(key.link)).map(|(key, to)| (*key, *to)).collect();
        state.flooding = net.flooding.iter().filter(|key| stays(key.link)).copied().collect();
        let behind = net.bridge_fdb.iter().filter(|(key, port)| stays(key.bridge) && stays(**port));
        state.bridge_fdb = behind.map(|(key, port)| (*key, *port)).collect();
        let neighbours = net.neighbours.iter().filter(|(key, _)| stays(key.link));
        state.neighbours = neighbours.map(|(key, mac)| (*key, *mac)).collect();
        let forwarding = net.forwarding.iter().filter(|(key, _)| stays(key.link));
        state.forwarding = forwarding.map(|(key, forward)| (*key, *forward)).collect();
        let routes = net.routes.iter().filter(|(_, route)| route.owner == Owner::Ours);
        let routes = routes.filter_map(|(key, route)| Some((*key, *route.via.next_hop()?)));
        state.routes = routes.filter(|(_, hop)| hop.link().is_none_or(stays)).collect();
        let settings = net
            .settings
            .iter()
            .filter(|(setting, _)| setting.link().is_none_or(|link| state.links.contains_key(&link)));
        state.settings = settings.map(|(setting, value)| (*setting, *value)).collect();
        state
    }

    fn link_as_desired(&self, found: &ObservedLink) -> Option<DesiredLink> {
        let kind = match &found.kind {
            ObservedKind::Vxlan(vxlan) => KernelKind::Vxlan(DesiredVxlan {
                vni: vxlan.vni,
                parent: vxlan.parent.map(|parent| self.reference(parent)),
                local: vxlan.local,
                port: (vxlan.port != DesiredVxlan::new(vxlan.vni).port_in_use()).then_some(vxlan.port),
                gbp: vxlan.gbp,
                learning: vxlan.learning,
            }),
            ObservedKind::Bridge(bridge) => KernelKind::Bridge(*bridge),
            ObservedKind::Veth(veth) => KernelKind::Veth(Veth { peer: veth.peer?.place() }),
            ObservedKind::Vlan(vlan) => KernelKind::Vlan(Vlan { parent: self.reference(vlan.parent?), id: vlan.id }),
            ObservedKind::Macvlan(macvlan) => {
                KernelKind::Macvlan(Macvlan { parent: self.reference(macvlan.parent?), mode: macvlan.mode })
            }
            ObservedKind::Ipip(ipip) => {
                KernelKind::Ipip(Ipip { parent: ipip.parent.map(|parent| self.reference(parent)), local: ipip.local })
            }
            ObservedKind::Tun(Some(tunnel)) => return Some(found.as_kind(DesiredKind::Tunnel(tunnel.clone()))),
            ObservedKind::Tun(None) | ObservedKind::Other(_) => return None,
        };
        Some(found.as_kind(DesiredKind::Kernel(kind)))
    }

    /// A reference to a link: by its place if it is ours, and so is desired too.
    fn reference(&self, id: LinkId) -> LinkRef {
        let place = id.place();
        let found = self.get(place.namespace).and_then(|net| net.links.get(&place.name));
        match found {
            Some(link) if link.index == id.index && link.owner == Owner::Ours => LinkRef::Desired(place),
            Some(_) | None => LinkRef::Found(id),
        }
    }
}

impl ObservedLink {
    fn as_kind(&self, kind: DesiredKind) -> DesiredLink {
        DesiredLink {
            kind,
            mac: self.mac,
            mtu: self.mtu,
            master: self.master.map(|master| master.name),
            port: self.port,
        }
    }
}

impl LinkId {
    const fn place(self) -> LinkPlace {
        LinkPlace { namespace: self.namespace, name: self.name }
    }
}

//! Our table for frames that the bridges of networks over several hosts forward: who may send at which port. Pure.
//!
//! Each port has the MACs and addresses that may send there: a container's port its own, the VXLAN device those of other hosts. What is sent
//! with others is dropped and counted, by IP, ARP and neighbour discovery; and so are frames with VLAN tags, and those to the groups of a link. A port with one of our names (`wp…`, `wv.…`)
//! that is not among them sends nothing, so it does not matter whether the port or its sender is there first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem};
use wire_net::{Family, LinkName, MacAddr};
use wire_state::{
    Attachment, DesiredNet, DesiredTable, Element, Hook, NeighbourKey, OurTable, SegmentPurpose as P, Set, SetKind,
    TableFamily,
};

use super::{
    policy::add_chain,
    rule::{Action, Addresses, Is, Links, Match, Rule},
};

/// The ports whose senders are checked.
const PORTS: &str = "ports";
/// The counter of dropped frames.
pub(super) const FORGED: &str = "forged";

/// A port of a bridge with one container behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPort {
    /// The link on the host.
    pub link: LinkName,
    /// The MAC of the container's end.
    pub mac: MacAddr,
    /// The addresses of the container.
    pub addresses: Vec<IpAddr>,
}

/// Our table for bridges, brought forward with what is desired of the host's network.
#[derive(Clone, Debug)]
pub struct BridgeTable {
    table: DesiredTable,
    /// The neighbours that the senders behind VXLAN devices were taken from.
    neighbours: OrdMap<NeighbourKey, MacAddr>,
    /// The VXLAN device of each bridge.
    overlays: Vec<(LinkName, LinkName)>,
    ports: Vec<ContainerPort>,
}

impl BridgeTable {
    /// Computes it from the desired state of the networks and the ports of containers.
    #[must_use]
    pub fn new(net: &DesiredNet, ports: &[ContainerPort]) -> Self {
        let overlays = overlays(net);
        let mut computed = Self { table: empty(), neighbours: OrdMap::new(), overlays, ports: ports.to_vec() };
        let links = computed.overlays.iter().map(|(_, overlay)| *overlay).chain(ports.iter().map(|port| port.link));
        let links: OrdSet<Element> = links.map(Element::Link).collect();
        computed.table.sets.insert(PORTS.to_owned(), Set { kind: SetKind::Links, elements: links });
        for ContainerPort { link, mac, addresses } in ports {
            addresses.iter().chain(&unspecified()).for_each(|address| computed.add(*link, *mac, *address));
            computed.add(*link, *mac, link_local(*mac));
        }
        computed.follow(&net.neighbours);
        computed
    }

    /// Brings it forward. Takes a time in proportion to the neighbours that differ, unless ports or devices do: then it is computed anew.
    pub fn update(&mut self, net: &DesiredNet, ports: &[ContainerPort]) {
        if self.ports == ports && self.overlays == overlays(net) {
            self.follow(&net.neighbours);
        } else {
            *self = Self::new(net, ports);
        }
    }

    /// The table.
    #[must_use]
    pub const fn table(&self) -> &DesiredTable {
        &self.table
    }

    /// Takes over the neighbours on bridges: these are the senders behind their VXLAN devices.
    fn follow(&mut self, neighbours: &OrdMap<NeighbourKey, MacAddr>) {
        let before = std::mem::replace(&mut self.neighbours, neighbours.clone());
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for item in before.diff(neighbours) {
            match item {
                DiffItem::Add(key, mac) => come.push((*key, *mac)),
                DiffItem::Remove(key, mac) => gone.push((*key, *mac)),
                DiffItem::Update { old: (key, old), new: (_, new) } => {
                    gone.push((*key, *old));
                    come.push((*key, *new));
                }
            }
        }
        for (NeighbourKey { link, address }, mac) in gone {
            let Some(overlay) = self.overlay_of(link) else { continue };
            self.remove(overlay, mac, address);
            // It is there as long as any address of the same sender.
            if !self.has_sender(link, mac) {
                self.remove(overlay, mac, link_local(mac));
            }
        }
        for (NeighbourKey { link, address }, mac) in come {
            let Some(overlay) = self.overlay_of(link) else { continue };
            self.add(overlay, mac, address);
            self.add(overlay, mac, link_local(mac));
        }
    }

    /// True if an address on the bridge still has the MAC: of both families, those that make it.
    fn has_sender(&self, bridge: LinkName, mac: MacAddr) -> bool {
        let overlay = self.overlay_of(bridge);
        let of = |family| self.table.sets.get(senders(family)).map(|set| &set.elements);
        let first = |address: IpAddr| overlay.map(|overlay| Element::Sender(overlay, mac, address));
        Family::ALL.into_iter().any(|family| {
            let (least, own) = (lowest(family), first(link_local(mac)));
            let (Some(elements), Some(from)) = (of(family), first(least)) else { return false };
            let same = |element: &&Element| matches!(element, Element::Sender(port, other, _) if Some(*port) == overlay && *other == mac);
            elements.range(from..).take_while(same).any(|element| Some(*element) != own)
        })
    }

    fn overlay_of(&self, bridge: LinkName) -> Option<LinkName> {
        self.overlays.iter().find(|(of, _)| *of == bridge).map(|(_, overlay)| *overlay)
    }

    fn add(&mut self, port: LinkName, mac: MacAddr, address: IpAddr) {
        if let Some(set) = self.table.sets.get_mut(senders(Family::of(address))) {
            set.elements.insert(Element::Sender(port, mac, address));
        }
    }

    fn remove(&mut self, port: LinkName, mac: MacAddr, address: IpAddr) {
        if let Some(set) = self.table.sets.get_mut(senders(Family::of(address))) {
            set.elements.remove(&Element::Sender(port, mac, address));
        }
    }
}

/// The bridges with the VXLAN device that is a port of each, or the TAP device in its place.
fn overlays(net: &DesiredNet) -> Vec<(LinkName, LinkName)> {
    let vxlan = |link: &wire_state::DesiredLink| {
        matches!(
            link.kind,
            wire_state::DesiredKind::Kernel(wire_state::KernelKind::Vxlan(_)) | wire_state::DesiredKind::Tunnel(_)
        )
    };
    net.links.iter().filter(|(_, link)| vxlan(link)).filter_map(|(name, link)| Some((link.master?, *name))).collect()
}

/// The table without ports.
pub(super) fn empty() -> DesiredTable {
    let name = OurTable { family: TableFamily::Bridge, ..OurTable::default() };
    let mut table = DesiredTable { name, ..DesiredTable::default() };
    let [v4, v6] = Family::ALL.map(senders);
    let dropped = || [Action::CountIn(FORGED), Action::Drop];
    let no_source = |family| Match::Source(family, Addresses::Is(lowest(family)));
    let rules = [
        // A port whose container is not known yet, or not any more.
        Rule::new(P::UnknownContainers.words(), [Match::FromLike("wp"), Match::From(Links::NotIn(PORTS))], dropped()),
        Rule::new(P::UnknownHosts.words(), [Match::FromLike("wv."), Match::From(Links::NotIn(PORTS))], dropped()),
        Rule::new(P::NotChecked.words(), [Match::From(Links::NotIn(PORTS))], [Action::Accept]),
        Rule::new("tags", [Match::Tagged], dropped()),
        // They pass here, because the ports are told so (`PortFlag::GroupForwarding`), and go no further.
        Rule::new("groups of a link", [Match::ToLinkGroup], dropped()),
        Rule::new(P::Senders(Family::V4).words(), [Match::Sender(Family::V4, v4)], [Action::Accept]),
        Rule::new("routers", [Match::Routers], dropped()),
        Rule::new("advertised", [Match::Advertised(Is::NotSo, v6)], dropped()),
        Rule::new(P::Senders(Family::V6).words(), [Match::Sender(Family::V6, v6)], [Action::Accept]),
        Rule::new("senders arp", [Match::ArpSender(v4)], [Action::Accept]),
        // Of no use to other hosts, where addresses are given out by us, and no sign of a forger.
        Rule::new(P::NoSource(Family::V4).words(), [Match::FromLike("wv."), no_source(Family::V4)], [Action::Drop]),
        Rule::new(P::NoSource(Family::V6).words(), [Match::FromLike("wv."), no_source(Family::V6)], [Action::Drop]),
        Rule::new(P::Forged.words(), [], dropped()),
    ];
    // Where the bridge receives a frame, before anything is learnt of it (`br_handle_frame` of net/bridge).
    add_chain(&mut table, "senders", Attachment::filter(Hook::Prerouting, -300), &rules);
    table.counters = [FORGED.to_owned()].into();
    table.sets.insert(PORTS.to_owned(), Set { kind: SetKind::Links, elements: OrdSet::new() });
    for family in Family::ALL {
        let set = Set { kind: SetKind::Senders(family), elements: OrdSet::new() };
        table.sets.insert(senders(family).to_owned(), set);
    }
    table
}

/// The name of the set of those who may send.
const fn senders(family: Family) -> &'static str {
    match family {
        Family::V4 => "senders-v4",
        Family::V6 => "senders-v6",
    }
}

/// The sources of a container that looks whether its address is free (RFC 5227, RFC 4862 §5.4), or asks for one.
const fn unspecified() -> [IpAddr; 2] {
    [lowest(Family::V4), lowest(Family::V6)]
}

const fn lowest(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The link-local address that follows from a MAC (RFC 4291, appendix A).
fn link_local(mac: MacAddr) -> IpAddr {
    let [a, b, c, d, e, f] = mac.octets();
    IpAddr::V6(Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]))
}

#[cfg(test)]
mod tests;

//! Our table for frames that the bridges of networks over several hosts forward: who may send at which port. Pure.
//!
//! Each port of a container has the MACs and addresses that may send there. What is sent with others is dropped and counted, by IP, ARP and neighbour
//! discovery; and so are frames with VLAN tags, and those to the groups of a link. What comes out of a VXLAN device was judged before it was
//! decapsulated, but for what only neighbour discovery tells; where nftables cannot do that, the device has the senders of other hosts here. A port with one of our names (`wp…`, `wv.…`)
//! that is not among them sends nothing, so it does not matter whether the port or its sender is there first.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem};
use wire_net::{Family, LinkName, MacAddr};
use wire_state::{
    Attachment, DesiredNet, DesiredTable, Element, Hook, NeighbourKey, OurTable, SegmentPurpose as P, Set, SetKind,
    TableFamily,
};

use super::{
    policy::add_chain,
    rule::{Action, Addresses, By, Is, Links, Match, Rule},
};

/// The ports whose senders are checked.
const PORTS: &str = "ports";
/// The beginning of the names of sets of addresses that other hosts may advertise.
pub(super) const ADVERTISED: &str = "advertised-";
/// The ports where the agent puts the frames of other hosts.
const TUNNELS: &str = "tunnels";
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
    judged: Overlays,
}

/// Where that is judged what comes out of VXLAN devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlays {
    /// Before it is decapsulated.
    JudgedBefore,
    /// At the device itself, by the addresses of other hosts.
    Checked,
}

impl BridgeTable {
    /// Computes it from the desired state of the networks and the ports of containers.
    #[must_use]
    pub fn new(net: &DesiredNet, ports: &[ContainerPort], judged: Overlays) -> Self {
        let overlays = overlays(net);
        let table = empty(judged, &BTreeSet::new());
        let mut computed = Self { table, neighbours: OrdMap::new(), overlays, ports: ports.to_vec(), judged };
        let links = computed.overlays.iter().map(|(_, overlay)| *overlay).chain(ports.iter().map(|port| port.link));
        let links: OrdSet<Element> = links.map(Element::Link).collect();
        computed.table.sets.insert(PORTS.to_owned(), Set { kind: SetKind::Links, elements: links });
        let tunnels = tunnels(net).map(Element::Link).collect();
        computed.table.sets.insert(TUNNELS.to_owned(), Set { kind: SetKind::Links, elements: tunnels });
        for ContainerPort { link, mac, addresses } in ports {
            addresses.iter().chain(&unspecified()).for_each(|address| computed.add(*link, *mac, *address));
            computed.add(*link, *mac, link_local(*mac));
        }
        computed.follow(&net.neighbours);
        computed
    }

    /// Brings it forward. Takes a time in proportion to the neighbours that differ, unless ports or devices do: then it is computed anew.
    pub fn update(&mut self, net: &DesiredNet, ports: &[ContainerPort]) {
        let has_tunnels = |set: &Set| set.elements == tunnels(net).map(Element::Link).collect();
        let is_same = self.ports == ports && self.overlays == overlays(net);
        if is_same && self.table.sets.get(TUNNELS).is_some_and(has_tunnels) {
            self.follow(&net.neighbours);
        } else {
            *self = Self::new(net, ports, self.judged);
        }
    }

    /// The table.
    #[must_use]
    pub const fn table(&self) -> &DesiredTable {
        &self.table
    }

    /// Takes over the neighbours on bridges: these are the senders behind their VXLAN devices.
    fn follow(&mut self, neighbours: &OrdMap<NeighbourKey, MacAddr>) {
        if self.judged == Overlays::JudgedBefore {
            return;
        }
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

/// The TAP devices on bridges: the agent itself has judged each packet whose frame it puts there, so no rule has marked it.
fn tunnels(net: &DesiredNet) -> impl Iterator<Item = LinkName> + '_ {
    let is_tunnel = |link: &wire_state::DesiredLink| matches!(link.kind, wire_state::DesiredKind::Tunnel(_));
    net.links.iter().filter(move |(_, link)| link.master.is_some() && is_tunnel(link)).map(|(name, _)| *name)
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

/// The table without ports. `lens` are those of blocks of IPv6 addresses on other hosts.
pub(super) fn empty(judged: Overlays, lens: &BTreeSet<u8>) -> DesiredTable {
    let name = OurTable { family: TableFamily::Bridge, ..OurTable::default() };
    let mut table = DesiredTable { name, ..DesiredTable::default() };
    let [v4, v6] = Family::ALL.map(senders);
    let sender =
        |family| Rule::new(P::Senders(family).words(), [Match::Sender(family, senders(family))], [Action::Accept]);
    let usual = [Match::UsualFrame, Match::Sender(Family::V4, v4)];
    // Nearly all frames: those of other hosts, and those of containers.
    let known = [Match::UsualFrame, Match::From(Links::In(PORTS))];
    let mut rules = judged_by_rules(judged, P::JudgedBefore.words(), &known);
    rules.push(Rule::new(P::Senders(Family::V4).words(), usual, [Action::Accept]));
    rules.extend(judged_by_agent(judged, P::JudgedBefore.words(), &known));
    rules.extend([
        // A port whose container is not known yet, or not any more.
        Rule::new(P::UnknownContainers.words(), [Match::FromLike("wp"), Match::From(Links::NotIn(PORTS))], dropped()),
        Rule::new(P::UnknownHosts.words(), [overlay(), Match::From(Links::NotIn(PORTS))], dropped()),
        Rule::new(P::NotChecked.words(), [Match::From(Links::NotIn(PORTS))], [Action::Accept]),
        Rule::new("tags", [Match::Tagged], dropped()),
        // They pass here, because the ports are told so (`PortFlag::GroupForwarding`), and go no further.
        Rule::new("groups of a link", [Match::ToLinkGroup], dropped()),
    ]);
    rules.extend([0x0800, 0x0806].into_iter().flat_map(|number| before(judged, &[Match::Frame(number)])));
    rules.push(sender(Family::V4));
    rules.push(Rule::new("routers", [Match::Routers], dropped()));
    rules.extend(lens.iter().flat_map(|len| advertised_by_others(judged, *len)));
    rules.push(Rule::new("advertised", [Match::Advertised(Is::NotSo, v6)], dropped()));
    rules.extend(before(judged, &[Match::Frame(0x86dd)]));
    rules.extend([sender(Family::V6), Rule::new("senders arp", [Match::ArpSender(v4)], [Action::Accept])]);
    rules.extend(without_source(judged));
    rules.push(Rule::new(P::Forged.words(), [], dropped()));
    // Where the bridge receives a frame, before anything is learnt of it (`br_handle_frame` of net/bridge).
    add_chain(&mut table, "senders", Attachment::filter(Hook::Prerouting, -300), &rules);
    table.counters = [FORGED.to_owned()].into();
    for links in [PORTS, TUNNELS] {
        table.sets.insert(links.to_owned(), Set { kind: SetKind::Links, elements: OrdSet::new() });
    }
    for family in Family::ALL {
        let set = Set { kind: SetKind::Senders(family), elements: OrdSet::new() };
        table.sets.insert(senders(family).to_owned(), set);
    }
    for len in lens {
        let set = Set { kind: SetKind::Advertised(*len), elements: OrdSet::new() };
        table.sets.insert(advertised(*len), set);
    }
    table
}

/// Accepts frames of other hosts, if they were judged before. The kernel may have decapsulated what no rule of `inet` has judged (an operator's
/// DNAT, a table that somebody has deleted or that could not be put): so a mark has to tell. It is taken away, since the frame may have a packet
/// inside that is encapsulated itself.
fn before(judged: Overlays, matches: &[Match]) -> Vec<Rule> {
    accepted_before(judged, P::JudgedBefore.words(), matches)
}

/// Accepts advertisements of addresses in the sender's block.
fn advertised_by_others(judged: Overlays, len: u8) -> Vec<Rule> {
    accepted_before(judged, "advertised by others", &[Match::AdvertisedBlock(len, advertised(len))])
}

fn accepted_before(judged: Overlays, purpose: &'static str, matches: &[Match]) -> Vec<Rule> {
    [judged_by_rules(judged, purpose, matches), judged_by_agent(judged, purpose, matches)].concat()
}

fn judged_by_rules(judged: Overlays, purpose: &'static str, matches: &[Match]) -> Vec<Rule> {
    accepted(judged, purpose, &[Match::LetIn(Is::So, By::Member), overlay()], matches)
}

fn judged_by_agent(judged: Overlays, purpose: &'static str, matches: &[Match]) -> Vec<Rule> {
    accepted(judged, purpose, &[Match::From(Links::In(TUNNELS))], matches)
}

/// None where frames of other hosts are judged by their sources.
fn accepted(judged: Overlays, purpose: &'static str, by: &[Match], matches: &[Match]) -> Vec<Rule> {
    match judged {
        Overlays::JudgedBefore => {
            vec![Rule::new(purpose, [by, matches].concat(), [Action::LetInNoMore, Action::Accept])]
        }
        Overlays::Checked => Vec::new(),
    }
}

/// Drops what is of no use to other hosts, where addresses are given out by us, and no sign of a forger.
fn without_source(judged: Overlays) -> Vec<Rule> {
    let no_source = |family| [overlay(), Match::Source(family, Addresses::Is(lowest(family)))];
    let rule = |family| Rule::new(P::NoSource(family).words(), no_source(family), [Action::Drop]);
    match judged {
        Overlays::JudgedBefore => Vec::new(),
        Overlays::Checked => Family::ALL.map(rule).into(),
    }
}

const fn overlay() -> Match {
    Match::FromLike("wv.")
}

const fn dropped() -> [Action; 2] {
    [Action::CountIn(FORGED), Action::Drop]
}

/// The name of the set of addresses of other hosts in blocks of one length.
pub(super) fn advertised(len: u8) -> String {
    format!("{ADVERTISED}{len}")
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
pub(super) fn link_local(mac: MacAddr) -> IpAddr {
    let [a, b, c, d, e, f] = mac.octets();
    IpAddr::V6(Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f]))
}

#[cfg(test)]
mod tests;

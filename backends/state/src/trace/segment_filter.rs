//! The verdicts of our rules about networks over several hosts, from the rules and sets that the kernel holds: about encapsulated packets, about
//! frames at the ports of bridges, and about what goes from one link to another.

use std::net::IpAddr;

use wire_net::{Family, LinkName, MacAddr, Prefix};

use super::{
    bridge::Frame,
    filter::{ARRIVING, CONTAINERS, Place},
    outcome::{Hop, Reason},
    packet::{Encapsulated, Packet, VxlanHeader},
    segment::{BRIDGES, OVERLAYS, is_overlay},
    walk::{Step, Walk},
};
use crate::{Attachment, ChainPolicy, Element, Hook, ObservedTable, SegmentPurpose, SetKind, TableFamily};

/// Judges encapsulated packets that come in, where the first rules of [`ARRIVING`] have not.
const MEMBERS: Place = Place { family: TableFamily::Inet, name: "segments-in", attachment: None };
/// Judges packets that go from one link to another.
const THROUGH: Place = Place::inet("segments-through", Attachment::filter(Hook::Forward, -10));
/// Changes sources of packets that leave a network.
const OUT: Place = Place::inet("segments-out", Attachment::nat(Hook::Postrouting, 98));
/// Judges frames that come in at ports.
const SENDERS: Place = Place {
    family: TableFamily::Bridge,
    name: "senders",
    attachment: Some(Attachment::filter(Hook::Prerouting, -300)),
};

/// The bridges from which nothing leads out.
const INTERNAL: &str = "segment-internal";
/// The ports whose senders are checked.
const PORTS: &str = "ports";
/// The ports where the agent puts the frames of other hosts.
const TUNNELS: &str = "tunnels";
/// The beginning of the names of ports of containers.
const CONTAINER_PORTS: &str = "wp";
/// The beginning of the names of devices of flat networks.
const FLAT: &str = "flannel";

/// What a rule does with a packet that it matches.
enum Verdict {
    Accepted,
    Dropped,
}

impl Walk<'_> {
    /// Judges an encapsulated packet that comes in by a link: of a network over several hosts, its members alone may send. Tells whether a rule has
    /// let it in by its inner source.
    pub(super) fn judge_member(&mut self, packet: &Packet, link: LinkName) -> Step<bool> {
        let Some(Encapsulated { header: Some(header), packet: inner }) = packet.inner.as_deref() else {
            return Ok(false);
        };
        let is_ours = self.host.devices().any(|device| is_overlay(device.name) && device.port == packet.udp_port);
        if !is_ours {
            return Ok(false);
        }
        let is_local = self.host.link_of(packet.destination).is_some();
        let outer = Outer { packet, header, inner, link, is_local };
        let verdict = |table: &ObservedTable, purpose| outer.verdict(table, purpose);
        let accepted = match self.judge(&ARRIVING, verdict)? {
            None if self.calls_members() => self.judge(&MEMBERS, verdict)?,
            accepted => accepted,
        };
        Ok(matches!(accepted, Some(SegmentPurpose::Inside(_))))
    }

    fn calls_members(&mut self) -> bool {
        let arriving = self.chain(&ARRIVING);
        let mut purposes = arriving.into_iter().flat_map(|(_, chain)| &chain.rules).filter_map(SegmentPurpose::of);
        purposes.any(|purpose| purpose == SegmentPurpose::ToSegments)
    }

    /// Judges a frame that comes in at a port of a bridge.
    pub(super) fn judge_sender(&mut self, frame: &Frame<'_>, port: LinkName) -> Step<()> {
        self.judge(&SENDERS, |table, purpose| at_port(table, frame, port, purpose)).map(drop)
    }

    /// Judges a packet that is forwarded.
    pub(super) fn judge_crossing(&mut self, from: LinkName, to: LinkName) -> Step<()> {
        self.judge(&THROUGH, |table, purpose| crossing(table, from, to, purpose)).map(drop)
    }

    /// The source that a forwarded packet leaves with.
    pub(super) fn masqueraded(&mut self, source: IpAddr, from: LinkName, to: LinkName) -> Option<IpAddr> {
        if !from.as_str().starts_with(BRIDGES) || to.as_str().starts_with(BRIDGES) {
            return None;
        }
        let (_, chain) = self.chain(&OUT)?;
        let mut purposes = chain.rules.iter().filter_map(SegmentPurpose::of);
        purposes.find(|purpose| *purpose == SegmentPurpose::Masquerade)?;
        self.host.address_on(to, Family::of(source))
    }

    /// Asks the rules of a chain in their order. Tells which one has accepted it.
    fn judge(
        &mut self,
        place: &Place,
        verdict: impl Fn(&ObservedTable, SegmentPurpose) -> Option<Verdict>,
    ) -> Step<Option<SegmentPurpose>> {
        let Some((table, chain)) = self.chain(place) else { return Ok(None) };
        let (table_family, name) = (place.family, place.name);
        for purpose in chain.rules.iter().filter_map(SegmentPurpose::of) {
            match verdict(table, purpose) {
                Some(Verdict::Accepted) => {
                    self.hops.push(Hop::Accepted(table_family, purpose));
                    return Ok(Some(purpose));
                }
                Some(Verdict::Dropped) => {
                    return Err(Reason::SegmentRule { table: table_family, chain: name, purpose }.into());
                }
                None => {}
            }
        }
        match chain.policy {
            ChainPolicy::Accept => Ok(None),
            ChainPolicy::Drop => Err(Reason::Policy { table: table_family, chain: name }.into()),
        }
    }
}

/// An encapsulated packet before the rules about members.
struct Outer<'a> {
    packet: &'a Packet,
    header: &'a VxlanHeader,
    inner: &'a Packet,
    link: LinkName,
    is_local: bool,
}

impl Outer<'_> {
    fn verdict(&self, table: &ObservedTable, purpose: SegmentPurpose) -> Option<Verdict> {
        use SegmentPurpose as P;
        let is_of_network = has(table, |kind| kind == SetKind::Vnis, &Element::Vni(self.header.vni));
        match purpose {
            P::ForgedInside(family) if family == Family::of(self.inner.source) => {
                self.is_of_member(table).then_some(Verdict::Dropped)
            }
            P::Inside(family) if family == Family::of(self.inner.source) => {
                (!self.is_of_container(table) && self.is_behind(table, family)).then_some(Verdict::Accepted)
            }
            P::NoSource(family) if family == Family::of(self.inner.source) => {
                (self.inner.source.is_unspecified() && self.is_of_member(table)).then_some(Verdict::Dropped)
            }
            P::Members => self.is_of_member(table).then_some(Verdict::Accepted),
            P::Forged => self.is_of_member(table).then_some(Verdict::Dropped),
            P::OnlyPassing => (is_of_network && !self.is_local).then_some(Verdict::Accepted),
            P::NoMembers => is_of_network.then_some(Verdict::Dropped),
            P::ToSegments
            | P::ForgedInside(_)
            | P::Inside(_)
            | P::UnknownContainers
            | P::UnknownHosts
            | P::NotChecked
            | P::JudgedBefore
            | P::Senders(_)
            | P::NoSource(_)
            | P::Within
            | P::Between
            | P::OutOfInternal
            | P::IntoInternal
            | P::ToFlat
            | P::FromFlat
            | P::ToFlatElsewhere
            | P::FromFlatElsewhere
            | P::Masquerade => None,
        }
    }

    /// True if a member sends it, and not a container with the address of one.
    fn is_of_member(&self, table: &ObservedTable) -> bool {
        let (public, outer) = (self.packet.source, Family::of(self.packet.source));
        !self.is_of_container(table)
            && has(table, |kind| kind == SetKind::Vteps(outer), &Element::Vtep(public, self.header.vni))
    }

    fn is_of_container(&self, table: &ObservedTable) -> bool {
        is_in(table, CONTAINERS, self.link)
    }

    /// True if the inner source and MAC may come from the outer source. A MAC that is not known counts as right.
    fn is_behind(&self, table: &ObservedTable, family: Family) -> bool {
        let outer = Family::of(self.packet.source);
        let is_it = |kind| matches!(kind, SetKind::Behind(of, inner, _) if (of, inner) == (outer, family));
        let sets = table.sets.values().filter(|set| is_it(set.kind));
        sets.flat_map(|set| &set.elements).any(|element| self.is_in(element))
    }

    fn is_in(&self, element: &Element) -> bool {
        let (public, vni) = (self.packet.source, self.header.vni);
        let has_mac = |first, block| self.header.source.is_none_or(|mac| is_of_block(mac, first, block));
        matches!(element, Element::Behind(host, of, first, block)
            if (*host, *of) == (public, vni) && block.contains(self.inner.source) && has_mac(*first, *block))
    }
}

/// True if a MAC has the leading bits of a block's first one: as many are free as in its addresses.
fn is_of_block(mac: MacAddr, first: MacAddr, block: Prefix) -> bool {
    let free = u32::from(block.family().bits() - block.len());
    let number = |mac: MacAddr| mac.octets().into_iter().fold(0_u64, |all, byte| all << 8 | u64::from(byte));
    (number(mac) ^ number(first)).checked_shr(free).unwrap_or_default() == 0
}

/// The verdict of a rule about a frame at a port of a bridge.
fn at_port(table: &ObservedTable, frame: &Frame<'_>, port: LinkName, purpose: SegmentPurpose) -> Option<Verdict> {
    use SegmentPurpose as P;
    let source = frame.packet.source;
    let (family, is_known) = (Family::of(source), is_in(table, PORTS, port));
    let is_like = |start| port.as_str().starts_with(start);
    let senders = |kind| kind == SetKind::Senders(family);
    let is_sender = |mac| has(table, senders, &Element::Sender(port, mac, source));
    match purpose {
        P::UnknownContainers => (is_like(CONTAINER_PORTS) && !is_known).then_some(Verdict::Dropped),
        P::UnknownHosts => (is_like(OVERLAYS) && !is_known).then_some(Verdict::Dropped),
        P::NotChecked => (!is_known).then_some(Verdict::Accepted),
        P::JudgedBefore => {
            let is_judged = is_like(OVERLAYS) && frame.let_in || is_in(table, TUNNELS, port);
            (is_judged && is_known).then_some(Verdict::Accepted)
        }
        P::Senders(of) if of == family => frame.source.filter(|mac| is_sender(*mac)).map(|_| Verdict::Accepted),
        P::NoSource(of) if of == family => (is_like(OVERLAYS) && source.is_unspecified()).then_some(Verdict::Dropped),
        P::Forged => Some(Verdict::Dropped),
        P::ToSegments
        | P::Senders(_)
        | P::NoSource(_)
        | P::ForgedInside(_)
        | P::Inside(_)
        | P::Members
        | P::OnlyPassing
        | P::NoMembers
        | P::Within
        | P::Between
        | P::OutOfInternal
        | P::IntoInternal
        | P::ToFlat
        | P::FromFlat
        | P::ToFlatElsewhere
        | P::FromFlatElsewhere
        | P::Masquerade => None,
    }
}

/// The verdict of a rule about a packet that goes from one link to another.
fn crossing(table: &ObservedTable, from: LinkName, to: LinkName, purpose: SegmentPurpose) -> Option<Verdict> {
    use SegmentPurpose as P;
    let is_bridge = |link: LinkName| link.as_str().starts_with(BRIDGES);
    let is_flat = |link: LinkName| is_in(table, CONTAINERS, link);
    let is_device = |link: LinkName| link.as_str().starts_with(FLAT);
    let drops = match purpose {
        P::Within => {
            let is_within = from == to && has(table, |kind| kind == SetKind::Within, &Element::Within(from));
            return is_within.then_some(Verdict::Accepted);
        }
        P::Between => is_bridge(from) && is_bridge(to),
        P::OutOfInternal => is_in(table, INTERNAL, from),
        P::IntoInternal => is_in(table, INTERNAL, to),
        P::ToFlat => is_bridge(from) && is_flat(to),
        P::FromFlat => is_flat(from) && is_bridge(to),
        P::ToFlatElsewhere => is_bridge(from) && is_device(to),
        P::FromFlatElsewhere => is_device(from) && is_bridge(to),
        P::ToSegments
        | P::ForgedInside(_)
        | P::Inside(_)
        | P::Members
        | P::OnlyPassing
        | P::NoMembers
        | P::UnknownContainers
        | P::UnknownHosts
        | P::NotChecked
        | P::JudgedBefore
        | P::Senders(_)
        | P::NoSource(_)
        | P::Forged
        | P::Masquerade => false,
    };
    drops.then_some(Verdict::Dropped)
}

fn has(table: &ObservedTable, is_it: impl Fn(SetKind) -> bool, element: &Element) -> bool {
    table.sets.values().any(|set| is_it(set.kind) && set.elements.contains(element))
}

fn is_in(table: &ObservedTable, set: &str, link: LinkName) -> bool {
    table.sets.get(set).is_some_and(|set| set.elements.contains(&Element::Link(link)))
}

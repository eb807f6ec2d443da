//! The rules of networks over several hosts in our `inet` table: which hosts may send to them, and where their packets go. Pure.
//!
//! All networks have the same few rules; what differs is in sets. So a packet costs the same with one network and with hundreds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use imbl::OrdSet;
use wire_net::{Family, LinkName, Prefix, Vni};
use wire_state::{Attachment, DesiredTable, Element, Hook, Set, SetKind};

use super::{
    policy::add_chain,
    rule::{Action, Is, Links, Match, Rule, SourcePort},
};

/// How the names of the sets of members begin.
pub(super) const VTEPS: &str = "vteps-";
/// How the names of the sets of inner sources begin.
pub(super) const BEHIND: &str = "behind-";
/// How the names of the bridges of networks begin.
const BRIDGES: &str = "wb.";
/// The VNIs of the networks.
pub(super) const VNIS: &str = "segment-vnis";
/// Offset of the inner EtherType from the UDP header, in bytes (RFC 7348 §5).
const UDP_VXLAN_AND_MACS: usize = 8 + 8 + 12;
/// The bridges, each with itself.
const WITHIN: &str = "segment-bridges";
/// The bridges of networks from which nothing leads out.
const INTERNAL: &str = "segment-internal";
/// Encapsulated packets from hosts that are no members.
const NO_MEMBERS: &str = "segment-strangers";
/// Encapsulated packets from members with sources that are not theirs.
const FORGED: &str = "segment-forged";
/// Packets from one network to another, or out of an internal one.
const CROSSING: &str = "segment-crossing";

/// A network over several hosts, as the packet filter sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentRules {
    /// Its bridge.
    pub bridge: LinkName,
    /// Its VXLAN network identifier.
    pub vni: Vni,
    /// Whether nothing leads out of it.
    pub internal: bool,
}

/// Another host of a network, as the packet filter sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentMember {
    /// The network.
    pub vni: Vni,
    /// The source of its encapsulated packets.
    pub public: IpAddr,
    /// Its blocks and single addresses.
    pub sources: Vec<Prefix>,
}

/// Our table with the rules of these networks, to be merged with the rules of others. `port` is the UDP port of encapsulated packets.
#[must_use]
pub fn segments_table(port: u16, segments: &[SegmentRules], members: &[SegmentMember]) -> DesiredTable {
    let mut table = DesiredTable::default();
    if segments.is_empty() {
        return table;
    }
    // Beside the chain that judges the packets of the other networks at -310, and also before connection tracking (-200).
    add_chain(&mut table, "segments-in", Attachment::filter(Hook::Prerouting, -309), &incoming(port));
    add_chain(&mut table, "segments-through", Attachment::filter(Hook::Forward, -10), &crossing());
    add_chain(&mut table, "segments-out", Attachment::nat(Hook::Postrouting, 98), &leaving());
    table.counters = [NO_MEMBERS, FORGED, CROSSING].map(str::to_owned).into();
    let mut set = |name: &str, kind, elements: OrdSet<Element>| {
        table.sets.insert(name.to_owned(), Set { kind, elements });
    };
    set(VNIS, SetKind::Vnis, segments.iter().map(|segment| Element::Vni(segment.vni)).collect());
    set(WITHIN, SetKind::Within, segments.iter().map(|segment| Element::Within(segment.bridge)).collect());
    let internal = segments.iter().filter(|segment| segment.internal);
    set(INTERNAL, SetKind::Links, internal.map(|segment| Element::Link(segment.bridge)).collect());
    for family in Family::ALL {
        let of_family = members.iter().filter(|member| Family::of(member.public) == family);
        let elements = of_family.map(|member| Element::Vtep(member.public, member.vni)).collect();
        set(vteps(family), SetKind::Vteps(family), elements);
        for inner in Family::ALL {
            set(&behind(family, inner), SetKind::Behind(family, inner), sources(members, family, inner));
        }
    }
    table
}

/// Encapsulated packets of a network come from its members alone.
fn incoming(port: u16) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Family::ALL.into_iter().flat_map(|family| forged(port, family)).collect();
    rules.extend(Family::ALL.map(|family| {
        Rule::new("members", [Match::VxlanTo(port), Match::Vtep(family, vteps(family))], [Action::Accept])
    }));
    let others = [Match::VxlanTo(port), Match::VniIn(VNIS)];
    rules.push(Rule::new("no members", others, [Action::CountIn(NO_MEMBERS), Action::Drop]));
    rules
}

/// Members have sources of their own inside: by IP, and by ARP. Hosts that are no members are judged as such.
fn forged(port: u16, outer: Family) -> [Rule; 3] {
    let rule = |purpose, ether_type, offset, inner| {
        let not_behind = Match::NotBehind(outer, offset, inner, behind(outer, inner));
        let ether_type = Match::EtherType(UDP_VXLAN_AND_MACS, ether_type);
        let matches = [Match::VxlanTo(port), Match::Vtep(outer, vteps(outer)), ether_type, not_behind];
        Rule::new(purpose, matches, [Action::CountIn(FORGED), Action::Drop])
    };
    // Offsets of the sources from the UDP header, in bits: 8 + 8 + 14 bytes, and then 12, 14 (RFC 826) and 8.
    [
        rule("forged v4", 0x0800, 336, Family::V4),
        rule("forged arp", 0x0806, 352, Family::V4),
        rule("forged v6", 0x86dd, 304, Family::V6),
    ]
}

/// The inner sources of members: also those of a host that looks whether an address is free, and of one on its own link.
fn sources(members: &[SegmentMember], outer: Family, inner: Family) -> OrdSet<Element> {
    let any = match inner {
        Family::V4 => vec![Prefix::host(Ipv4Addr::UNSPECIFIED.into())],
        Family::V6 => vec![Prefix::host(Ipv6Addr::UNSPECIFIED.into()), link_local()],
    };
    let mut elements = OrdSet::new();
    for SegmentMember { public, sources, .. } in members.iter().filter(|member| Family::of(member.public) == outer) {
        let own = sources.iter().filter(|source| source.family() == inner);
        // The kernel takes no ranges that overlap.
        let covered = |source: &Prefix| sources.iter().any(|other| other != source && other.covers(*source));
        let own = own.filter(|source| !covered(source));
        elements.extend(own.chain(&any).map(|source| Element::Lease(*public, *source)));
    }
    elements
}

/// RFC 4291 §2.5.6.
fn link_local() -> Prefix {
    Prefix::from_bits(Family::V6, 0xfe80 << 112, 64).expect("a length of IPv6")
}

/// Nothing leads from one network to another, or out of an internal one. What stays within one passes, where bridged packets come here at
/// all (br_netfilter).
fn crossing() -> [Rule; 4] {
    let dropped = || [Action::CountIn(CROSSING), Action::Drop];
    [
        Rule::new("within a network", [Match::Between(WITHIN)], [Action::Accept]),
        Rule::new("between networks", [Match::FromLike(BRIDGES), Match::ToLike(Is::So, BRIDGES)], dropped()),
        Rule::new("out of an internal network", [Match::From(Links::In(INTERNAL))], dropped()),
        Rule::new("into an internal network", [Match::ToIn(INTERNAL)], dropped()),
    ]
}

/// What leaves a network has this host's address.
fn leaving() -> [Rule; 1] {
    let out = [Match::FromLike(BRIDGES), Match::ToLike(Is::NotSo, BRIDGES)];
    [Rule::new("masquerade", out, [Action::Masquerade(SourcePort::Random)])]
}

fn behind(outer: Family, inner: Family) -> String {
    let name = |family| match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    };
    format!("{BEHIND}{}-{}", name(outer), name(inner))
}

const fn vteps(family: Family) -> &'static str {
    match family {
        Family::V4 => "vteps-v4",
        Family::V6 => "vteps-v6",
    }
}

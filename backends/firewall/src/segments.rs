//! The rules of networks over several hosts in our `inet` table: which hosts may send to them, and where their packets go. Pure.
//!
//! All networks have the same few rules; what differs is in sets. So a packet costs the same with one network and with hundreds.

use std::net::IpAddr;

use imbl::OrdSet;
use wire_net::{Family, LinkName, Vni};
use wire_state::{Attachment, DesiredTable, Element, Hook, Set, SetKind};

use super::{
    policy::add_chain,
    rule::{Action, Is, Links, Match, Rule, SourcePort},
};

/// How the names of the sets of members begin.
pub(super) const VTEPS: &str = "vteps-";
/// How the names of the bridges of networks begin.
const BRIDGES: &str = "wb.";
/// The VNIs of the networks.
pub(super) const VNIS: &str = "segment-vnis";
/// The bridges, each with itself.
const WITHIN: &str = "segment-bridges";
/// The bridges of networks from which nothing leads out.
const INTERNAL: &str = "segment-internal";
/// Encapsulated packets from hosts that are no members.
const NO_MEMBERS: &str = "segment-strangers";
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentMember {
    /// The network.
    pub vni: Vni,
    /// The source of its encapsulated packets.
    pub public: IpAddr,
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
    table.counters = [NO_MEMBERS, CROSSING].map(str::to_owned).into();
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
    }
    table
}

/// Encapsulated packets of a network come from its members alone.
fn incoming(port: u16) -> Vec<Rule> {
    let members = Family::ALL.map(|family| {
        Rule::new("members", [Match::VxlanTo(port), Match::Vtep(family, vteps(family))], [Action::Accept])
    });
    let others = [Match::VxlanTo(port), Match::VniIn(VNIS)];
    let others = Rule::new("no members", others, [Action::CountIn(NO_MEMBERS), Action::Drop]);
    members.into_iter().chain([others]).collect()
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

const fn vteps(family: Family) -> &'static str {
    match family {
        Family::V4 => "vteps-v4",
        Family::V6 => "vteps-v6",
    }
}

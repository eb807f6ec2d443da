//! The rules of networks over several hosts in our `inet` table: which hosts may send to them, and where their packets go. Pure. What is in the sets is
//! in [`super::segment_filter`].
//!
//! All networks have the same few rules; what differs is in sets. So a packet costs the same with one network and with hundreds.

use std::{collections::BTreeSet, net::IpAddr};

use imbl::OrdSet;
use wire_net::Family;
use wire_state::{Attachment, DesiredTable, Hook, SegmentPurpose as P, Set, SetKind};

use super::{
    family_rules::BRIDGES as CONTAINERS,
    policy::add_chain,
    rule::{Action, Is, Links, Match, Rule, SourcePort},
};

/// The beginning of the names of sets of members.
pub(super) const VTEPS: &str = "vteps-";
/// The beginning of the names of sets of inner sources.
pub(super) const BEHIND: &str = "behind-";
/// The beginning of the names of bridges of networks.
const BRIDGES: &str = "wb.";
/// The VNIs of the networks.
pub(super) const VNIS: &str = "segment-vnis";
/// Offset of the inner EtherType from the UDP header, in bytes (RFC 7348 §5).
const UDP_VXLAN_AND_MACS: usize = 8 + 8 + 12;
/// The bridges, each with itself.
pub(super) const WITHIN: &str = "segment-bridges";
/// The bridges of networks from which nothing leads out.
pub(super) const INTERNAL: &str = "segment-internal";
/// Encapsulated packets from hosts that are no members.
pub(super) const NO_MEMBERS: &str = "segment-strangers";
/// Encapsulated packets from members with sources that are not theirs.
pub(super) const FORGED: &str = "segment-forged";
/// Packets that come by the port of a bridge itself, past the bridge.
pub(super) const PAST_BRIDGES: &str = "segment-past-bridges";
/// Packets from one network to another, or out of an internal one.
pub(super) const CROSSING: &str = "segment-crossing";

/// All that the rules depend on: little, and the same for nearly all networks of a host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Foundation {
    /// The UDP ports of encapsulated packets.
    pub(super) ports: BTreeSet<u16>,
    /// The sources of this host's own.
    pub(super) local: BTreeSet<IpAddr>,
    /// True if nftables can compare inner sources.
    pub(super) checks_sources: bool,
}

impl Foundation {
    /// Our table with the rules of networks, and with sets that are empty, to be merged with the rules of others. `containers` is the set of links
    /// with containers of flat networks.
    pub(super) fn table(&self, containers: Set) -> DesiredTable {
        let mut table = DesiredTable::default();
        // Beside the chain that judges the packets of the other networks at -310, and also before connection tracking (-200).
        add_chain(&mut table, "segments-in", Attachment::filter(Hook::Prerouting, -309), &self.incoming());
        add_chain(&mut table, "segments-through", Attachment::filter(Hook::Forward, -10), &crossing());
        add_chain(&mut table, "segments-out", Attachment::nat(Hook::Postrouting, 98), &leaving());
        // After all that changes sources (100, `srcnat`).
        add_chain(&mut table, "segments-sent", Attachment::filter(Hook::Postrouting, 300), &self.translated());
        table.counters = [NO_MEMBERS, FORGED, PAST_BRIDGES, CROSSING].map(str::to_owned).into();
        let mut set = |name: &str, kind| {
            table.sets.insert(name.to_owned(), Set { kind, elements: OrdSet::new() });
        };
        set(VNIS, SetKind::Vnis);
        set(WITHIN, SetKind::Within);
        set(INTERNAL, SetKind::Links);
        for family in Family::ALL {
            set(vteps(family), SetKind::Vteps(family));
            for inner in Family::ALL.into_iter().filter(|_| self.checks_sources) {
                set(&behind(family, inner), SetKind::Behind(family, inner));
            }
        }
        table.sets.insert(CONTAINERS.to_owned(), containers);
        table
    }

    /// Encapsulated packets of a network come from its members alone, and nothing comes past the bridge of one.
    fn incoming(&self) -> Vec<Rule> {
        let mut rules = past_bridges();
        for port in self.ports.iter().copied() {
            if self.checks_sources {
                rules.extend(Family::ALL.into_iter().flat_map(|family| forged(port, family)));
            }
            rules.extend(Family::ALL.map(|family| {
                // A container that forges the address of a member is none.
                let not_of_containers = Match::From(Links::NotIn(CONTAINERS));
                let matches = [Match::VxlanTo(port), not_of_containers, Match::Vtep(family, vteps(family))];
                Rule::new(P::Members.words(), matches, [Action::Accept])
            }));
            let elsewhere = [Match::VxlanTo(port), Match::VniIn(VNIS), Match::OnlyPassing];
            rules.push(Rule::new(P::OnlyPassing.words(), elsewhere, [Action::Accept]));
            let others = [Match::VxlanTo(port), Match::VniIn(VNIS)];
            rules.push(Rule::new(P::NoMembers.words(), others, [Action::CountIn(NO_MEMBERS), Action::Drop]));
        }
        rules
    }

    /// Encapsulated packets that others send with this host's address: to other members they would look like ours.
    fn translated(&self) -> Vec<Rule> {
        let all = self.ports.iter().flat_map(|port| self.local.iter().map(move |local| (*port, *local)));
        all.map(|(port, local)| masqueraded(port, local)).collect()
    }
}

/// What this host gets of a network comes by the bridge, also for br_netfilter, and is checked there. By a port itself it comes only while the
/// port is in no bridge, or does not have the flags that are desired. Ports are known by names that others may have too, so those of containers
/// by their kind as well.
fn past_bridges() -> Vec<Rule> {
    let ports = [vec![Match::FromLike("wp"), Match::FromVeth], vec![Match::FromLike("wv.")]];
    ports.map(|port| Rule::new("past bridges", port, [Action::CountIn(PAST_BRIDGES), Action::Drop])).into()
}

fn masqueraded(port: u16, local: IpAddr) -> Rule {
    let matches = [Match::VxlanTo(port), Match::VniIn(VNIS), Match::SourceWasNot(Family::of(local), local)];
    Rule::new("masqueraded", matches, [Action::CountIn(NO_MEMBERS), Action::Drop])
}

/// Members have sources of their own inside: by IP, and by ARP. Hosts that are no members are judged as such.
fn forged(port: u16, outer: Family) -> [Rule; 3] {
    let rule = |purpose, ether_type, offset, inner| {
        let not_behind = Match::NotBehind(outer, offset, inner, behind(outer, inner));
        let ether_type = Match::EtherType(UDP_VXLAN_AND_MACS, ether_type);
        let matches = [Match::VxlanTo(port), ether_type, Match::Vtep(outer, vteps(outer)), not_behind];
        Rule::new(purpose, matches, [Action::CountIn(FORGED), Action::Drop])
    };
    // Offsets of the sources from the UDP header, in bits: 8 + 8 + 14 bytes, and then 12, 14 (RFC 826) and 8.
    [
        rule(P::ForgedInside(Family::V4).words(), 0x0800, 336, Family::V4),
        rule("forged arp", 0x0806, 352, Family::V4),
        rule(P::ForgedInside(Family::V6).words(), 0x86dd, 304, Family::V6),
    ]
}

/// Nothing leads from one network to another, the flat ones among them, or out of an internal one. What stays within one passes, where bridged
/// packets come here at all (br_netfilter); and so does what goes to a port that a container has published on this host, but for internal ones.
fn crossing() -> Vec<Rule> {
    let dropped = || [Action::CountIn(CROSSING), Action::Drop];
    let (from, to) = (|| Match::FromLike(BRIDGES), || Match::ToLike(Is::So, BRIDGES));
    let between = |purpose, matches: [Match; 2]| Rule::new(purpose, matches, dropped());
    vec![
        Rule::new(P::Within.words(), [Match::Between(WITHIN)], [Action::Accept]),
        between(P::Between.words(), [from(), to()]),
        Rule::new(P::OutOfInternal.words(), [Match::From(Links::In(INTERNAL))], dropped()),
        Rule::new(P::IntoInternal.words(), [Match::ToIn(INTERNAL)], dropped()),
        Rule::new("published", [Match::Published], [Action::Accept]),
        between(P::ToFlat.words(), [from(), Match::ToIn(CONTAINERS)]),
        between(P::FromFlat.words(), [Match::From(Links::In(CONTAINERS)), to()]),
        between(P::ToFlatElsewhere.words(), [from(), Match::ToAnyOverlay]),
        between(P::FromFlatElsewhere.words(), [Match::FromAnyOverlay, to()]),
    ]
}

/// Packets that leave a network get this host's address.
fn leaving() -> [Rule; 1] {
    let out = [Match::FromLike(BRIDGES), Match::ToLike(Is::NotSo, BRIDGES)];
    [Rule::new(P::Masquerade.words(), out, [Action::Masquerade(SourcePort::Random)])]
}

pub(super) fn behind(outer: Family, inner: Family) -> String {
    let name = |family| match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    };
    format!("{BEHIND}{}-{}", name(outer), name(inner))
}

pub(super) const fn vteps(family: Family) -> &'static str {
    match family {
        Family::V4 => "vteps-v4",
        Family::V6 => "vteps-v6",
    }
}

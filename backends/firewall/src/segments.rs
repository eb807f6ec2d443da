//! The rules of networks over several hosts in our `inet` table: which hosts may send to them, and where their packets go. Pure. What is in the sets is
//! in [`super::segment_filter`].
//!
//! All networks have the same few rules; what differs is in sets. So a packet costs the same with one network and with hundreds.

use std::{collections::BTreeSet, net::IpAddr};

use imbl::OrdSet;
use wire_net::{Family, LinkName};
use wire_state::{Attachment, DesiredTable, Hook, SegmentPurpose as P, Set, SetKind};

use super::{
    family_rules::{BRIDGES as CONTAINERS, source_kept},
    policy::{self, add_chain, lead},
    rule::{Action, Behind, By, Is, Links, Match, Rule, SourcePort},
};

/// The beginning of the names of sets of members.
pub(super) const VTEPS: &str = "vteps-";
/// The beginning of the names of sets of inner sources.
pub(super) const BEHIND: &str = "behind-";
/// The beginning of the names of bridges of networks.
const BRIDGES: &str = "wb.";
/// The VNIs of the networks.
pub(super) const VNIS: &str = "segment-vnis";
/// The UDP ports of encapsulated packets. A set, whatever their number, so that a network with another one changes no rule.
pub(super) const UDP_PORTS: &str = "segment-ports";
/// Offset of the inner EtherType from the UDP header, in bytes (RFC 7348 §5).
const UDP_VXLAN_AND_MACS: usize = 8 + 8 + 12;
/// Offset of the packet inside from the UDP header, in bits.
const INNER: usize = (UDP_VXLAN_AND_MACS + 2) * 8;
/// Offset of the inner source MAC, in bits.
const MAC: usize = (8 + 8 + 6) * 8;
/// The EtherType of ARP (RFC 826).
const ARP: u16 = 0x0806;
/// Offsets of the sender's MAC and address in ARP, in bits.
const ARP_MAC: usize = INNER + 8 * 8;
const ARP_ADDRESS: usize = INNER + 14 * 8;
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
    /// The sources of this host's own.
    pub(super) local: BTreeSet<IpAddr>,
    /// The links that encapsulated packets come by, but for those with containers.
    pub(super) underlay: BTreeSet<LinkName>,
    /// True if nftables can compare inner sources.
    pub(super) checks_sources: bool,
    /// The lengths of blocks and addresses inside.
    pub(super) lens: BTreeSet<(Family, u8)>,
    /// The families in which nobody needs encapsulated packets that come in to be tracked.
    pub(super) untracked: BTreeSet<Family>,
    /// The UDP ports of flat networks, whose rules judge what containers send to these.
    pub(super) flat_ports: BTreeSet<u16>,
}

/// The chain for encapsulated packets that the first rules of `arriving` have not let in.
const MEMBERS: &str = "segments-in";

impl Foundation {
    /// Our table with the rules of networks, and with sets that are empty, to be merged with the rules of others. `containers` is the set of links
    /// with containers of flat networks.
    pub(super) fn table(&self, containers: Set) -> DesiredTable {
        let mut table = DesiredTable::default();
        lead(&mut table, policy::ARRIVING, &self.arriving());
        policy::add(&mut table, MEMBERS, None, &self.incoming());
        add_chain(&mut table, "segments-through", Attachment::filter(Hook::Forward, -10), &crossing());
        add_chain(&mut table, "segments-out", Attachment::nat(Hook::Postrouting, 98), &leaving());
        lead(&mut table, policy::ENCAPSULATED_OUT, &self.translated());
        table.counters = [NO_MEMBERS, FORGED, PAST_BRIDGES, CROSSING].map(str::to_owned).into();
        let mut set = |name: &str, kind| {
            table.sets.insert(name.to_owned(), Set { kind, elements: OrdSet::new() });
        };
        set(VNIS, SetKind::Vnis);
        set(UDP_PORTS, SetKind::Ports);
        set(WITHIN, SetKind::Within);
        set(INTERNAL, SetKind::Links);
        for family in Family::ALL {
            set(vteps(family), SetKind::Vteps(family));
            for (inner, len) in self.lens.iter().copied().filter(|_| self.checks_sources) {
                set(&behind(family, inner, len), SetKind::Behind(family, inner, len));
            }
        }
        table.sets.insert(CONTAINERS.to_owned(), containers);
        table
    }

    /// What comes before the rules of flat networks: nearly all packets end here, and nothing comes past the bridge of a network.
    fn arriving(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.checks_sources {
            rules.extend(Family::ALL.into_iter().flat_map(|outer| self.first(outer)));
        }
        rules.extend(self.bridged());
        rules.extend(past_bridges());
        let to_members = Action::Jump(MEMBERS.to_owned());
        rules.push(Rule::new(P::ToSegments.words(), [Match::PortIn(UDP_PORTS)], [to_members]));
        rules
    }

    /// With br_netfilter each frame between containers comes here. No rule of a flat network is about these, but for encapsulated ones.
    fn bridged(&self) -> [Rule; 2] {
        let to_others = self.flat_ports.iter().copied().map(Match::PortIsNot);
        let udp = [Match::FromLike(BRIDGES), Match::PortNotIn(UDP_PORTS)].into_iter().chain(to_others);
        let tcp = vec![Match::FromLike(BRIDGES), Match::Tcp];
        [tcp, udp.collect()].map(|matches| Rule::new("bridged", matches, [Action::Accept]))
    }

    /// Encapsulated packets of a network come from its members alone. What is let in, or is none of theirs, goes on to the rules of flat networks.
    fn incoming(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        if self.checks_sources {
            rules.extend(Family::ALL.into_iter().flat_map(|outer| self.usual(outer)));
            rules.extend(Family::ALL.into_iter().flat_map(|outer| self.behind(outer, None, &LET_IN)));
        }
        rules.push(Rule::new("no header", [Match::Short], [Action::Return]));
        if self.checks_sources {
            rules.extend(Family::ALL.into_iter().flat_map(sources_of_others));
        } else {
            let all = |outer| Rule::new(P::Members.words(), of_member(outer), [Action::Return]);
            rules.extend(Family::ALL.map(all));
        }
        let elsewhere = [Match::VniIn(VNIS), Match::OnlyPassing];
        rules.push(Rule::new(P::OnlyPassing.words(), elsewhere, [Action::Return]));
        if self.checks_sources {
            // Neither IP nor ARP, or with tags.
            rules.extend(Family::ALL.map(|outer| Rule::new(P::Forged.words(), of_member(outer), forged())));
        }
        let drop = [Action::CountIn(NO_MEMBERS), Action::Drop];
        rules.push(Rule::new(P::NoMembers.words(), [Match::VniIn(VNIS)], drop));
        rules
    }

    /// Lets in what members send to this host's own address, and keeps it out of connection tracking. What only passes through this host is tracked,
    /// since rules of others about what it forwards may need that.
    fn usual(&self, outer: Family) -> Vec<Rule> {
        let to = self.to_this_host(outer);
        to.map(|to| self.behind(outer, Some(&to), &UNTRACKED)).unwrap_or_default()
    }

    /// Lets in so what comes from blocks by the underlay's link: nearly all packets. That link has no containers of flat networks, so these rules may
    /// come before all others.
    fn first(&self, outer: Family) -> Vec<Rule> {
        let Some(to) = self.to_this_host(outer) else { return Vec::new() };
        let blocks = self.lens.iter().filter(|(inner, len)| *len < inner.bits());
        let keys = blocks.map(|(inner, len)| Behind::of(outer, *inner, *len));
        let by_each = |key: Behind| self.underlay.iter().map(move |link| (key, *link)).collect::<Vec<_>>();
        keys.flat_map(by_each).map(|(key, link)| key.by(link, &to)).collect()
    }

    /// `None` if what members send has to be tracked.
    fn to_this_host(&self, outer: Family) -> Option<Match> {
        let local: BTreeSet<IpAddr> = self.local.iter().copied().filter(|local| Family::of(*local) == outer).collect();
        (!local.is_empty() && self.untracked.contains(&outer)).then_some(Match::ToOneOf(outer, local))
    }

    /// Lets in what members send from their own blocks.
    fn behind(&self, outer: Family, to: Option<&Match>, actions: &[Action]) -> Vec<Rule> {
        // Those for blocks before those for single addresses, which are few.
        let keys = self.lens.iter().map(|(inner, len)| Behind::of(outer, *inner, *len));
        let arp = keys.clone().filter(|key| key.inner == Family::V4);
        keys.map(|key| key.of_ip(to, actions)).chain(arp.map(|key| key.of_arp(to, actions))).collect()
    }

    /// Encapsulated packets that others send with this host's address: to other members they would look like ours.
    fn translated(&self) -> Vec<Rule> {
        [source_kept()].into_iter().chain(self.local.iter().copied().map(masqueraded)).collect()
    }
}

impl Behind {
    const fn of(outer: Family, inner: Family, len: u8) -> Self {
        Self { outer, inner, len, mac: MAC, source: source_of(inner) }
    }

    fn of_ip(self, to: Option<&Match>, actions: &[Action]) -> Rule {
        let matches = [ip_inside(self.inner), Match::Behind(self), not_of_containers()];
        Rule::new(P::Inside(self.inner).words(), with(to, matches), actions)
    }

    /// The conditions that most other packets do not meet come first. The name of a link is dear to compare.
    fn by(self, underlay: LinkName, to: &Match) -> Rule {
        let by = [Match::PortIn(UDP_PORTS), Match::From(Links::Is(underlay)), to.clone()];
        let matches: Vec<Match> = by.into_iter().chain([ip_inside(self.inner), Match::Behind(self)]).collect();
        Rule::new(P::Inside(self.inner).words(), matches, ACCEPTED)
    }

    /// The MAC of the frame is looked up, and the one that is told.
    fn of_arp(self, to: Option<&Match>, actions: &[Action]) -> Rule {
        let told = |mac| Match::Behind(Self { mac, source: ARP_ADDRESS, ..self });
        let matches = [inside(ARP), told(MAC), told(ARP_MAC), not_of_containers()];
        Rule::new("inside arp", with(to, matches), actions)
    }
}

fn with<const N: usize>(to: Option<&Match>, matches: [Match; N]) -> Vec<Match> {
    to.into_iter().cloned().chain(matches).collect()
}

/// Marked, so that the table for bridges knows what was judged here.
const LET_IN: [Action; 2] = [Action::LetIn(By::Member), Action::Return];
const UNTRACKED: [Action; 3] = [Action::LetIn(By::Member), Action::NoTrack, Action::Return];
/// Not for what may have come out of a flat network's device.
const ACCEPTED: [Action; 3] = [Action::LetIn(By::Member), Action::NoTrack, Action::Accept];

/// What this host gets of a network comes by the bridge, also for br_netfilter, and is checked there. By a port itself it comes only while the
/// port is in no bridge, or does not have the flags that are desired. Ports are known by names that others may have too, so those of containers
/// by their kind as well.
fn past_bridges() -> Vec<Rule> {
    let ports = [vec![Match::FromLike("wp"), Match::FromVeth], vec![Match::FromLike("wv.")]];
    ports.map(|port| Rule::new("past bridges", port, [Action::CountIn(PAST_BRIDGES), Action::Drop])).into()
}

fn masqueraded(local: IpAddr) -> Rule {
    let matches = [Match::VxlanTo(UDP_PORTS), Match::VniIn(VNIS), Match::SourceWasNot(Family::of(local), local)];
    Rule::new("masqueraded", matches, [Action::CountIn(NO_MEMBERS), Action::Drop])
}

/// Drops what members send from addresses that are not theirs. Those of a host that looks whether an address is free are of no use to other hosts,
/// where addresses are given out by us, and no sign of a forger.
fn sources_of_others(outer: Family) -> Vec<Rule> {
    let [vtep, not_of_containers] = of_member(outer);
    let no_source = |family| [ip_inside(family), Match::Unspecified(source_of(family), family)];
    let of_all = |[one, other]: [Match; 2]| [one, other, vtep.clone(), not_of_containers.clone()];
    let dropped = |purpose, matches| Rule::new(purpose, of_all(matches), [Action::Drop]);
    let others =
        |purpose, ether_type| Rule::new(purpose, [ether_type, vtep.clone(), not_of_containers.clone()], forged());
    let of_ip = |family| others(P::ForgedInside(family).words(), ip_inside(family));
    let mut rules: Vec<Rule> = Family::ALL.map(|family| dropped(P::NoSource(family).words(), no_source(family))).into();
    rules.push(dropped("no source arp", [inside(ARP), Match::Unspecified(ARP_ADDRESS, Family::V4)]));
    rules.extend(Family::ALL.map(of_ip));
    rules.push(others("forged arp", inside(ARP)));
    rules
}

/// Matches what comes from a member. A container that forges the address of one is none.
fn of_member(outer: Family) -> [Match; 2] {
    [Match::Vtep(outer, vteps(outer)), not_of_containers()]
}

const fn not_of_containers() -> Match {
    Match::From(Links::NotIn(CONTAINERS))
}

const fn forged() -> [Action; 2] {
    [Action::CountIn(FORGED), Action::Drop]
}

const fn inside(ether_type: u16) -> Match {
    Match::EtherType(UDP_VXLAN_AND_MACS, ether_type)
}

const fn ip_inside(family: Family) -> Match {
    inside(match family {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
    })
}

/// Offset of the inner source from the UDP header, in bits (RFC 791 §3.1, RFC 8200 §3).
const fn source_of(family: Family) -> usize {
    INNER
        + match family {
            Family::V4 => 12 * 8,
            Family::V6 => 8 * 8,
        }
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

/// The name of the set of blocks of one length behind hosts.
pub(super) fn behind(outer: Family, inner: Family, len: u8) -> String {
    let name = |family| match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    };
    format!("{BEHIND}{}-{}-{len}", name(outer), name(inner))
}

pub(super) const fn vteps(family: Family) -> &'static str {
    match family {
        Family::V4 => "vteps-v4",
        Family::V6 => "vteps-v6",
    }
}

//! The rules of one address family. Pure; the same code serves both families.

use std::collections::BTreeSet;

use imbl::OrdSet;
use wire_net::{Family, LinkName, Prefix};
use wire_state::{Purpose, Set, SetKind, vxlan_header};

use super::{
    address_range::AddressRange,
    nft::is_plain,
    overlay_device::{Carrier, OverlayDevice},
    policy::{ACCEPT_MARK, Senders},
    rule::{Action, Addresses, By, Header, Is, Links, Match, Pair, Rule},
};

/// The names of our table's counters. They are in the kernel of running hosts, and never change.
pub(crate) mod counter {
    use wire_net::Family;

    /// Encapsulated packets from hosts without a lease.
    pub(crate) const UNKNOWN_PEERS: &str = "strangers";
    /// Encapsulated packets from containers.
    pub(crate) const CONTAINERS: &str = "containers";
    /// Packets from the overlay with a source that their sender may not use.
    pub(crate) const SPOOFED: &str = "spoofed";
    /// Encapsulated packets that our rules accepted, a counter for each family.
    pub(crate) const fn arrived(family: Family) -> &'static str {
        match family {
            Family::V4 => "arrived-v4",
            Family::V6 => "arrived-v6",
        }
    }

    /// Encapsulated packets that the rules of all others accepted too, a counter for each family.
    pub(crate) const fn delivered(family: Family) -> &'static str {
        match family {
            Family::V4 => "delivered-v4",
            Family::V6 => "delivered-v6",
        }
    }
}

/// The set of links with containers.
pub(super) const BRIDGES: &str = "bridges";

/// The values that the rules of one family depend on.
pub(super) struct FamilyRules {
    pub(super) family: Family,
    pub(super) network: Prefix,
    /// The part of the network that hosts lease.
    pub(super) overlay: AddressRange,
    /// The length of the subnets that are leased under the current config, in bits. Older leases may have others.
    pub(super) subnet_len: u8,
    pub(super) own: Prefix,
    pub(super) device: Option<OverlayDevice>,
    /// A second device, while a former backend is spoken beside the new one.
    pub(super) beside: Option<OverlayDevice>,
    /// The underlay's link, if packets come by it without encapsulation.
    pub(super) direct: Option<LinkName>,
}

impl FamilyRules {
    /// The rules for the second device.
    pub(super) fn of_second_device(&self) -> Option<Self> {
        let Self { family, network, overlay, subnet_len, own, device, beside, .. } = *self;
        let swapped = Self { family, network, overlay, subnet_len, own, device: beside, beside: device, direct: None };
        beside.map(|_| swapped)
    }

    /// True if peers may send by another way than the overlay device, too.
    pub(super) const fn has_other_ways(&self) -> bool {
        self.direct.is_some() || self.beside.is_some()
    }

    pub(super) fn source(&self, addresses: Addresses) -> Match {
        Match::Source(self.family, addresses)
    }

    pub(super) fn destination(&self, addresses: Addresses) -> Match {
        Match::Destination(self.family, addresses)
    }

    /// Drops packets that the kernel's device has decapsulated and that no rule has let in: the kernel may deliver an
    /// encapsulated packet where our rules expect none (an operator's DNAT, another table of local addresses, a device
    /// that accepts other headers too).
    pub(super) fn not_let_in(&self) -> Option<Rule> {
        let OverlayDevice { link, .. } = self.device.filter(|device| device.in_kernel)?;
        Some(let_in_by_no_rule(self.family, [Match::From(Links::Is(link))]))
    }

    /// Drops and counts sources that are not routed back through the overlay device. The kernel's rp_filter does so for
    /// IPv4 alone, and does not count.
    pub(super) fn spoofed(&self, senders: Senders) -> Vec<Rule> {
        match self.device {
            None => Vec::new(),
            Some(_) if self.has_other_ways() => self.spoofed_beside_others(senders),
            Some(device) => {
                let matches = [Match::From(Links::Is(device.link)), Match::AnsweredElsewhere];
                let purpose = Purpose::SourcesOutsideLeases(self.family).words();
                vec![Rule::new(purpose, matches, dropped(counter::SPOOFED))]
            }
        }
    }

    /// Marks packets for Docker's nftables tables, which drop them even if our chains accept them.
    pub(super) fn marked(&self) -> Option<Rule> {
        let (all, own) = (Addresses::In(self.network.into()), Addresses::In(self.own.into()));
        let matches = [Match::From(Links::Is(self.device?.link)), self.source(all), self.destination(own)];
        Some(Rule::new("accepted by Docker", matches, [Action::SetMark(ACCEPT_MARK)]))
    }

    /// Accepts nearly all encapsulated packets that come in: from a peer's address over the underlay link, with an
    /// inner source in a subnet of the usual length that is leased to this address. Behind the rule that lets other headers pass. All others are judged by the rules
    /// of [`Self::encapsulated`], and so are all from that link if it has containers too.
    ///
    /// `tracked` says that somebody else's rules need such packets in connection tracking.
    pub(super) fn usual(&self, bridges: &BTreeSet<LinkName>, tracked: bool) -> Option<Rule> {
        let OverlayDevice { parent, local, .. } = self.device?;
        let parent = parent.filter(|parent| !bridges.contains(parent)).filter(is_plain);
        let from = Match::From(parent.map_or(Links::NotIn(BRIDGES), Links::Is));
        let mut matches = vec![from, self.destination(Addresses::Is(local?))];
        matches.extend(self.inner_type());
        matches.push(self.of_usual_len()?);
        let untracked = (!tracked).then_some(Action::NoTrack);
        let actions = [Action::Count, self.let_in_by()?].into_iter().chain(untracked).chain([Action::Accept]);
        Some(Rule::new(Purpose::Usual(self.family).words(), matches, actions.collect::<Vec<_>>()))
    }

    /// Lets in packets that `from` matches and whose inner packet is of this family.
    fn let_in(&self, from: Match) -> Rule {
        let matches = self.inner_type().into_iter().chain([from]).collect::<Vec<_>>();
        let actions = [Action::CountIn(counter::arrived(self.family))].into_iter().chain(self.let_in_by());
        Rule::new(Purpose::Peers(self.family).words(), matches, actions.chain([Action::Accept]).collect::<Vec<_>>())
    }

    fn let_in_by(&self) -> Option<Action> {
        Some(Action::LetIn(if self.device?.is_known_early() { By::Header } else { By::Port }))
    }

    /// Matches packets whose inner source is in a subnet of the usual length leased to their outer source.
    fn of_usual_len(&self) -> Option<Match> {
        let len = self.usual_len()?;
        Some(Match::Pair(self.pair(len)?, subnets(self.family_name(), len)))
    }

    /// The configured subnet length, if the leading bits are whole bytes.
    pub(super) fn usual_len(&self) -> Option<u8> {
        Some(self.subnet_len).filter(|len| is_usual_len(*len))
    }

    /// Judges encapsulated packets that come in. The overlay of a family runs over the underlay of that family.
    pub(super) fn encapsulated(&self, senders: Senders, source_check: bool) -> Vec<Rule> {
        let family = self.family_name();
        let peers = format!("peers-{family}");
        let mut rules = self.remote_containers(None);
        if senders == Senders::Peers
            && let Some(pair) = self.pair(self.family.bits())
        {
            if source_check {
                rules.extend(self.of_usual_len().map(|from| self.let_in(from)));
                rules.push(self.let_in(Match::Pair(pair.clone(), format!("leases-{family}"))));
            } else {
                rules.push(self.let_in(self.source(Addresses::Set(peers.clone()))));
            }
            let forged = [self.source(Addresses::Set(peers.clone()))];
            rules.push(Rule::new(Purpose::OtherLeases(self.family).words(), forged, dropped(counter::SPOOFED)));
            if source_check {
                let claim = [Action::NotePair(pair, format!("claims-{family}"))];
                let matches: Vec<Match> = self.inner_type().into_iter().collect();
                rules.push(Rule::new("what strangers claim is noted", matches, claim));
            }
            // A rule of its own: if the set is full, the rule ends there.
            let note = [Action::NoteSource(self.family, format!("strangers-{family}"))];
            rules.push(Rule::new("strangers are noted", [self.source(Addresses::NotInSet(peers))], note));
            let strangers = Purpose::Strangers(self.family).words();
            rules.push(Rule::new(strangers, [Match::Family(self.family)], dropped(counter::UNKNOWN_PEERS)));
        }
        rules
    }

    /// Lets in the remaining packets of this family.
    pub(super) fn all_others(&self) -> Rule {
        let actions = [Action::CountIn(counter::arrived(self.family))].into_iter().chain(self.let_in_by());
        Rule::new(Purpose::AllOthers(self.family).words(), [Match::Family(self.family)], actions.collect::<Vec<_>>())
    }

    /// Drops packets with this host's address that come by a link: this host sends nothing to itself through one, so
    /// they are forged.
    pub(super) fn as_if_from_us(&self) -> Option<Rule> {
        let from = Match::From(Links::IsNot("lo"));
        Some(containers([from, self.source(Addresses::Is(self.device?.local?))]))
    }

    /// Lets packets pass that this host only forwards.
    pub(super) fn passing(&self) -> Option<Rule> {
        let elsewhere = self.destination(Addresses::IsNot(self.device?.local?));
        Some(not_encapsulated([elsewhere, Match::OnlyPassing]))
    }

    /// Counts the remaining packets of this family.
    pub(super) fn counted(&self, purpose: &'static str, counter: &'static str) -> Rule {
        Rule::new(purpose, [Match::Family(self.family)], [Action::CountIn(counter)])
    }

    /// Matches the inner EtherType of this family. The kernel removes any number of VLAN tags with VID 0, and behind
    /// such tags the inner source is at another offset than the rules read. `None` if the inner packet has no Ethernet
    /// header.
    fn inner_type(&self) -> Option<Match> {
        let OverlayDevice { inner, vni, .. } = self.device?;
        vni?;
        // IEEE 802 numbers.
        let ether_type = match self.family {
            Family::V4 => 0x0800,
            Family::V6 => 0x86dd,
        };
        Some(Match::EtherType(inner - 2, ether_type))
    }

    /// The outer source and the first `bits` of the inner one.
    fn pair(&self, bits: u8) -> Option<Pair> {
        let OverlayDevice { inner, .. } = self.device?;
        Some(Pair { family: self.family, offset: inner * 8 + self.source_offset(), bits })
    }

    /// Offset of the source in an IP header, in bits (RFC 791 §3.1, RFC 8200 §3).
    const fn source_offset(&self) -> usize {
        match self.family {
            Family::V4 => 12 * 8,
            Family::V6 => 8 * 8,
        }
    }

    /// Drops encapsulated packets of containers that leave the overlay: masqueraded, they would look to other hosts
    /// like ours.
    pub(super) fn through(&self) -> Vec<Rule> {
        let out = self.destination(Addresses::NotIn(self.overlay));
        let local = containers([Match::From(Links::In(BRIDGES)), out.clone()]);
        std::iter::once(local).chain(self.remote_containers(Some(&out))).collect()
    }

    /// Drops what containers of other hosts send, known by a source that may be leased; and, if hosts may have
    /// addresses in the network themselves, by the overlay device it comes from. `out` is one more condition.
    fn remote_containers(&self, out: Option<&Match>) -> Vec<Rule> {
        let source = self.source(Addresses::In(self.overlay));
        let links = self.beyond().map(|link| Match::From(Links::Is(link)));
        let matches = |from: Match| [from].into_iter().chain(out.cloned()).collect::<Vec<_>>();
        links.chain([source]).map(|from| containers(matches(from))).collect()
    }

    /// Drops encapsulated packets whose source was translated on the way out. Our own have this host's address from the
    /// start.
    pub(super) fn masqueraded(&self) -> Option<Rule> {
        let matches = [Match::SourceWasNot(self.family, self.device?.local?)];
        Some(Rule::new("masqueraded containers", matches, dropped(counter::CONTAINERS)))
    }

    /// Keeps a further network apart from all others of this host: its device carries nothing from or to addresses beyond
    /// the network, and containers here exchange nothing with the devices of others, nor with the addresses of `others`, which may have none.
    pub(super) fn apart(&self, others: &BTreeSet<Prefix>) -> Vec<Rule> {
        let inside = || Addresses::In(self.network.into());
        let outside = || Addresses::NotIn(self.network.into());
        let devices = self.device.into_iter().chain(self.beside).map(|device| device.link);
        let of_devices = devices.flat_map(|link| {
            [
                vec![Match::From(Links::Is(link)), self.destination(outside())],
                vec![Match::To(link), self.source(outside())],
            ]
        });
        let of_others = [
            vec![Match::FromAnyOverlay, self.destination(inside()), self.source(outside())],
            vec![Match::ToAnyOverlay, self.source(inside()), self.destination(outside())],
        ];
        let others = others.iter().filter(|range| range.family() == self.family && !range.overlaps(self.network));
        let of_ranges = others.flat_map(|range| {
            let theirs = || Addresses::In((*range).into());
            [
                vec![self.source(theirs()), self.destination(inside())],
                vec![self.source(inside()), self.destination(theirs())],
            ]
        });
        let apart = of_devices.chain(of_others).chain(of_ranges);
        apart.map(|matches| Rule::new("another network", matches, [Action::Drop])).collect()
    }

    /// The sets that packets fill.
    pub(super) fn noted_sets(&self, source_check: bool) -> impl Iterator<Item = (String, Set)> {
        let family = self.family_name();
        let seen = (format!("strangers-{family}"), SetKind::Seen(self.family));
        let claims = source_check.then(|| (format!("claims-{family}"), SetKind::Claims(self.family)));
        let all = [seen].into_iter().chain(claims);
        all.map(|(name, kind)| (name, Set { kind, elements: OrdSet::new() }))
    }

    pub(super) const fn family_name(&self) -> &'static str {
        match self.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        }
    }
}

/// Drops decapsulated packets whose outer packet no rule has let in.
pub(super) fn let_in_by_no_rule(family: Family, from: impl IntoIterator<Item = Match>) -> Rule {
    let matches = from.into_iter().chain([Match::LetIn(Is::NotSo, By::Header)]).collect::<Vec<_>>();
    Rule::new(Purpose::LetInByNoRule(family).words(), matches, dropped(counter::UNKNOWN_PEERS))
}

/// Accepts packets that were let in before, so that none is judged twice.
pub(super) fn let_in_before() -> Rule {
    Rule::new("let in before", [Match::LetIn(Is::So, By::Port)], [Action::Accept])
}

/// Lets packets pass that are not of the form of encapsulated packets.
pub(super) fn of_carrier(device: &OverlayDevice) -> Vec<Rule> {
    let others = match device.carrier {
        Carrier::Udp { port } => vec![Match::NotUdp, Match::PortIsNot(port)],
        Carrier::Ipip => vec![Match::NotIpip],
    };
    others.into_iter().map(|matching| not_encapsulated([matching])).collect()
}

/// Lets packets of another VNI pass: another network may use the same port. One that is too short to have a VNI does not match.
pub(super) fn of_other_networks(device: &OverlayDevice) -> Option<Rule> {
    device.header().map(|header| not_encapsulated([Match::Header(Is::NotSo, header)]))
}

/// Lets packets pass that have no VXLAN header.
pub(super) fn too_short(device: &OverlayDevice) -> Option<Rule> {
    device.header().map(|_| not_encapsulated([Match::Short]))
}

/// Lets packets pass that go out with the source that they had from the start.
pub(super) fn source_kept() -> Rule {
    Rule::new("source kept", [Match::SourceKept], [Action::Accept])
}

fn not_encapsulated(matches: impl Into<Vec<Match>>) -> Rule {
    Rule::new(Purpose::NotEncapsulated.words(), matches, [Action::Accept])
}

impl OverlayDevice {
    /// The VXLAN header that this device accepts.
    fn header(&self) -> Option<Header> {
        // The kernel drops a packet with any other bit set (vxlan_rcv), except those of the group policy.
        let is_whole = self.in_kernel && !self.has_policy;
        self.vni.map(|vni| if is_whole { Header::Whole(vxlan_header(vni)) } else { Header::Vni(vni) })
    }
}

/// True if the leading bits of a subnet of this length are whole bytes.
pub(super) const fn is_usual_len(len: u8) -> bool {
    len.is_multiple_of(8) && len > 0
}

/// The name of the set of leased subnets of one length.
pub(super) fn subnets(family: &str, len: u8) -> String {
    format!("subnets-{family}-{len}")
}

/// Drops these packets as sent by containers.
pub(super) fn containers(matches: impl Into<Vec<Match>>) -> Rule {
    Rule::new(Purpose::Containers.words(), matches, dropped(counter::CONTAINERS))
}

pub(super) const fn dropped(counter: &'static str) -> [Action; 2] {
    [Action::CountIn(counter), Action::Drop]
}

//! The rules of one family. Pure; both families are this with other words.

use std::{collections::BTreeSet, net::IpAddr};

use wire_net::{Family, LinkName, Prefix};
use wire_state::{Element, Set, SetKind, vxlan_header};

use super::{
    overlay::Overlay,
    policy::{ACCEPT_MARK, KUBE_MARK, Masquerade, OverlayDevice, Peer, Senders, is_plain},
    rule::{Action, Addresses, By, Header, Is, Links, Match, Pair, Rule},
};

/// Named counters of our table: what was dropped, and what was let in.
pub(crate) mod counter {
    use wire_net::Family;

    /// Encapsulated packets from hosts that have no lease.
    pub(crate) const UNKNOWN_PEERS: &str = "strangers";
    /// Encapsulated packets from containers.
    pub(crate) const CONTAINERS: &str = "containers";
    /// Packets out of the overlay whose source is none that their sender may have.
    pub(crate) const SPOOFED: &str = "spoofed";
    /// Encapsulated packets let in by us, a counter for each family.
    pub(crate) const fn arrived(family: Family) -> &'static str {
        match family {
            Family::V4 => "arrived-v4",
            Family::V6 => "arrived-v6",
        }
    }

    /// Encapsulated packets let in by everyone else too, a counter for each family.
    pub(crate) const fn delivered(family: Family) -> &'static str {
        match family {
            Family::V4 => "delivered-v4",
            Family::V6 => "delivered-v6",
        }
    }
}

/// The set of the links that containers are on.
pub(super) const BRIDGES: &str = "bridges";

/// One family's part.
pub(super) struct FamilyRules {
    pub(super) family: Family,
    pub(super) network: Prefix,
    /// Of the network what hosts lease.
    pub(super) overlay: Overlay,
    /// The length of the subnets that are leased by the config there is, in bits. Leases of before it was changed may have others.
    pub(super) subnet_len: u8,
    pub(super) own: Prefix,
    pub(super) device: Option<OverlayDevice>,
}

impl FamilyRules {
    pub(super) fn source(&self, addresses: Addresses) -> Match {
        Match::Source(self.family, addresses)
    }

    pub(super) fn destination(&self, addresses: Addresses) -> Match {
        Match::Destination(self.family, addresses)
    }

    /// flannel's rules (the chain FLANNEL-POSTRTG), except that within the overlay a packet keeps its source whatever rules
    /// of others follow.
    pub(super) fn nat(&self, masquerade: Masquerade) -> Vec<Rule> {
        let (all, overlay, own) = (Addresses::In(self.network), Addresses::Of(self.overlay), Addresses::In(self.own));
        let (to_own, outside) = (self.destination(own.clone()), Addresses::NotIn(self.network));
        let keep =
            |matches: [Match; 2]| Rule::new("overlay keeps its sources", matches, [Action::KeepSource(self.family)]);
        let mut rules = vec![
            // A container that calls its own published port needs Docker's rule for that.
            Rule::new("within this host", [self.source(own.clone()), to_own.clone()], [Action::Return]),
            keep([self.source(own.clone()), self.destination(overlay.clone())]),
            keep([self.source(all), to_own.clone()]),
        ];
        if let Some(link) = self.beyond() {
            rules.push(keep([self.source(own), Match::To(link)]));
        }
        let random_port = match masquerade {
            Masquerade::Off => return rules,
            Masquerade::Random => true,
            Masquerade::Plain => false,
        };
        rules.push(Rule::new("containers see who calls", [self.source(outside), to_own], [Action::Return]));
        let leaving = [self.source(overlay.clone()), self.destination(Addresses::NotMulticast)];
        let entering = [self.source(Addresses::NotOf(self.overlay)), self.destination(overlay)];
        let masquerade = |matches| Rule::new("masquerade", matches, [Action::Masquerade { random_port }]);
        rules.extend([leaving, entering].map(masquerade));
        rules
    }

    /// The device behind which leases may be that the config no longer offers.
    pub(super) fn beyond(&self) -> Option<LinkName> {
        match self.overlay {
            Overlay::Whole(_) => None,
            Overlay::Range(..) => self.device.map(|device| device.link),
        }
    }

    /// What has come out of the kernel's device and was let in by no rule: the kernel may find an encapsulated packet to be for us where
    /// our rules do not (an operator's DNAT, another table of local addresses, a device that takes other headers too).
    pub(super) fn not_let_in(&self) -> Option<Rule> {
        let OverlayDevice { link, .. } = self.device.filter(|device| device.in_kernel)?;
        Some(let_in_by_no_rule([Match::From(Links::Is(link))]))
    }

    /// What the kernel's rp_filter does for IPv4, for both families and counted: a source must be one that we would answer
    /// through the device it came from.
    pub(super) fn spoofed(&self) -> Option<Rule> {
        let matches = [Match::From(Links::Is(self.device?.link)), Match::AnsweredElsewhere];
        Some(Rule::new("sources outside leases", matches, dropped(counter::SPOOFED)))
    }

    /// For Docker's tables of nftables, before which no accept of ours counts.
    pub(super) fn marked(&self) -> Option<Rule> {
        let (all, own) = (Addresses::In(self.network), Addresses::In(self.own));
        let matches = [Match::From(Links::Is(self.device?.link)), self.source(all), self.destination(own)];
        Some(Rule::new("accepted by Docker", matches, [Action::SetMark(ACCEPT_MARK)]))
    }

    /// Nearly all that comes in encapsulated: from a peer's address over the link to the other hosts, with an inner source of a subnet
    /// of the usual length that is leased to this address. All that differs is judged by the rules of [`Self::encapsulated`], and
    /// so is all of that link where containers are on it.
    ///
    /// `tracked` is whether somebody else needs to know which connection such a packet belongs to.
    pub(super) fn usual(&self, bridges: &BTreeSet<LinkName>, tracked: bool) -> Option<Rule> {
        let OverlayDevice { parent, local, .. } = self.device?;
        let parent = parent.filter(|parent| !bridges.contains(parent)).filter(is_plain);
        let from = Match::From(parent.map_or(Links::NotIn(BRIDGES), Links::Is));
        let mut matches = vec![from, self.destination(Addresses::Is(local?))];
        matches.extend(self.device?.header().map(|header| Match::Header(Is::So, header)));
        matches.extend(self.inner_type());
        matches.push(self.of_usual_len()?);
        let untracked = (!tracked).then_some(Action::NoTrack);
        let actions = [Action::Count, self.let_in_by()?].into_iter().chain(untracked).chain([Action::Accept]);
        Some(Rule::new(usual_mark(self.family), matches, actions.collect::<Vec<_>>()))
    }

    /// Lets in what `from` says, where it is a packet of this family.
    fn let_in(&self, from: Match) -> Rule {
        let matches = self.inner_type().into_iter().chain([from]).collect::<Vec<_>>();
        let actions = [Action::CountIn(counter::arrived(self.family))].into_iter().chain(self.let_in_by());
        Rule::new("peers", matches, actions.chain([Action::Accept]).collect::<Vec<_>>())
    }

    fn let_in_by(&self) -> Option<Action> {
        let OverlayDevice { vni, .. } = self.device?;
        Some(Action::LetIn(if vni.is_some() { By::Header } else { By::Port }))
    }

    /// What comes from the address that a subnet of the usual length is leased to.
    fn of_usual_len(&self) -> Option<Match> {
        let len = self.usual_len()?;
        Some(Match::Pair(self.pair(len)?, subnets(self.family_name(), len)))
    }

    /// The length of subnets whose leading bits are compared as whole bytes.
    fn usual_len(&self) -> Option<u8> {
        Some(self.subnet_len).filter(|len| is_usual_len(*len))
    }

    /// What may come in encapsulated. The overlay of a family runs over the underlay of that family.
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
            rules.push(Rule::new("sources of other leases", forged, dropped(counter::SPOOFED)));
            if source_check {
                let claim = [Action::NotePair(pair, format!("claims-{family}"))];
                let matches: Vec<Match> = self.inner_type().into_iter().collect();
                rules.push(Rule::new("what strangers claim is noted", matches, claim));
            }
            // A rule of its own: a full set ends a rule.
            let note = [Action::NoteSource(self.family, format!("strangers-{family}"))];
            rules.push(Rule::new("strangers are noted", [self.source(Addresses::NotInSet(peers))], note));
            rules.push(Rule::new("strangers", [Match::Family(self.family)], dropped(counter::UNKNOWN_PEERS)));
        }
        rules
    }

    /// Lets in what is left of this family.
    pub(super) fn all_others(&self) -> Rule {
        let actions = [Action::CountIn(counter::arrived(self.family))].into_iter().chain(self.let_in_by());
        Rule::new("all others", [Match::Family(self.family)], actions.collect::<Vec<_>>())
    }

    /// Forged: this host sends nothing to itself through a link.
    pub(super) fn as_if_from_us(&self) -> Option<Rule> {
        let from = Match::From(Links::IsNot("lo"));
        Some(containers([from, self.source(Addresses::Is(self.device?.local?))]))
    }

    /// Lets what is only on its way through this host go on.
    pub(super) fn passing(&self) -> Option<Rule> {
        let elsewhere = self.destination(Addresses::IsNot(self.device?.local?));
        Some(not_encapsulated([elsewhere, Match::OnlyPassing]))
    }

    /// Counts what is left of this family.
    pub(super) fn counted(&self, purpose: &'static str, counter: &'static str) -> Rule {
        Rule::new(purpose, [Match::Family(self.family)], [Action::CountIn(counter)])
    }

    /// Compares the inner EtherType with this family's: the kernel takes off as many VLAN tags with VID 0 as there are, and behind
    /// those the inner source lies elsewhere than we look. `None` where no Ethernet header is before an inner packet.
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

    /// The outer source and the first bits of the inner one.
    fn pair(&self, bits: u8) -> Option<Pair> {
        let OverlayDevice { inner, .. } = self.device?;
        Some(Pair { family: self.family, offset: inner * 8 + self.source_offset(), bits })
    }

    /// Where an IP header has the source, in bits (RFC 791 §3.1, RFC 8200 §3).
    const fn source_offset(&self) -> usize {
        match self.family {
            Family::V4 => 12 * 8,
            Family::V6 => 8 * 8,
        }
    }

    /// Other hosts would take a masqueraded packet of a container for ours.
    pub(super) fn through(&self) -> Vec<Rule> {
        let out = self.destination(Addresses::NotOf(self.overlay));
        let local = containers([Match::From(Links::In(BRIDGES)), out.clone()]);
        std::iter::once(local).chain(self.remote_containers(Some(&out))).collect()
    }

    /// What containers of other hosts send, told by a source that may be leased; and where hosts may live in the network themselves, by
    /// the device it comes from.
    fn remote_containers(&self, out: Option<&Match>) -> Vec<Rule> {
        let source = self.source(Addresses::Of(self.overlay));
        let link = self.beyond().map(|link| Match::From(Links::Is(link)));
        let matches = |from: Match| [from].into_iter().chain(out.cloned()).collect::<Vec<_>>();
        link.into_iter().chain([source]).map(|from| containers(matches(from))).collect()
    }

    /// What goes out with an address that it was given on the way. Our own has this host's from the start.
    pub(super) fn masqueraded(&self) -> Option<Rule> {
        let matches = [Match::SourceWasNot(self.family, self.device?.local?)];
        Some(Rule::new("masqueraded containers", matches, dropped(counter::CONTAINERS)))
    }

    pub(super) fn sets(&self, peers: &[Peer], source_check: bool) -> Vec<(String, Set)> {
        let public = |peer: &Peer| peer.public.get(self.family).copied();
        let addresses: BTreeSet<IpAddr> = peers.iter().filter_map(public).collect();
        let elements = addresses.into_iter().map(Element::Address).collect();
        let lease = |peer: &Peer| Some((public(peer)?, peer.subnet.get(self.family)?));
        let usual = self.usual_len();
        // What claims to be at an address of the overlay is none that the usual rule may take for a host.
        let is_usual =
            |(public, subnet): &(IpAddr, Prefix)| usual == Some(subnet.len()) && !self.overlay.holds(*public);
        let (pairs, others): (Vec<_>, Vec<_>) = peers.iter().filter_map(lease).partition(is_usual);
        let family = self.family_name();
        let mut sets = vec![
            (format!("peers-{family}"), Set { kind: SetKind::Addresses(self.family), elements }),
            (format!("strangers-{family}"), Set { kind: SetKind::Seen(self.family), elements: BTreeSet::new() }),
        ];
        if source_check {
            let elements = others.into_iter().map(|(public, subnet)| Element::Lease(public, subnet)).collect();
            sets.push((format!("leases-{family}"), Set { kind: SetKind::Leases(self.family), elements }));
            if let Some(len) = usual {
                let elements = pairs.into_iter().map(|(public, subnet)| Element::Subnet(public, subnet)).collect();
                sets.push((subnets(family, len), Set { kind: SetKind::Subnets(self.family, len), elements }));
            }
            let claims = Set { kind: SetKind::Claims(self.family), elements: BTreeSet::new() };
            sets.push((format!("claims-{family}"), claims));
        }
        sets
    }

    pub(super) const fn family_name(&self) -> &'static str {
        match self.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        }
    }
}

/// Drops what comes out of the kernel's device uninvited.
pub(super) fn let_in_by_no_rule(from: impl IntoIterator<Item = Match>) -> Rule {
    let matches = from.into_iter().chain([Match::LetIn(Is::NotSo, By::Header)]).collect::<Vec<_>>();
    Rule::new("let in by no rule", matches, dropped(counter::UNKNOWN_PEERS))
}

/// Judges nothing twice.
pub(super) fn let_in_before() -> Rule {
    Rule::new("let in before", [Match::LetIn(Is::So, By::Port)], [Action::Accept])
}

/// Lets all but what goes to the port of encapsulated packets go on at once.
pub(super) fn to_port(device: &OverlayDevice) -> [Rule; 2] {
    [Match::NotUdp, Match::PortIsNot(device.port)].map(|matching| not_encapsulated([matching]))
}

/// Lets what is of another network go on: it may have the same port.
pub(super) fn of_network(device: &OverlayDevice) -> Vec<Rule> {
    let rules = |header| [Match::Short, Match::Header(Is::NotSo, header)].map(|matching| not_encapsulated([matching]));
    device.header().map(rules).into_iter().flatten().collect()
}

fn not_encapsulated(matches: impl Into<Vec<Match>>) -> Rule {
    Rule::new("not encapsulated", matches, [Action::Accept])
}

impl OverlayDevice {
    /// What the headers begin with that it takes.
    fn header(&self) -> Option<Header> {
        // The kernel's drops a packet with any other bit set (vxlan_rcv), but for the group policy.
        let is_whole = self.in_kernel && !self.has_policy;
        self.vni.map(|vni| if is_whole { Header::Whole(vxlan_header(vni)) } else { Header::Vni(vni) })
    }
}

/// Leaves what others are to masquerade by a mark alone.
pub(super) fn marked_for_others() -> Rule {
    Rule::new("marked for others", [Match::Mark(KUBE_MARK)], [Action::Return])
}

/// What the rule that finds nearly all packets of a family is for.
pub(super) const fn usual_mark(family: Family) -> &'static str {
    match family {
        Family::V4 => "usual v4",
        Family::V6 => "usual v6",
    }
}

/// Whether the leading bits of a subnet of this length are compared as whole bytes.
pub(super) const fn is_usual_len(len: u8) -> bool {
    len.is_multiple_of(8) && len > 0
}

/// The name of the set of leased subnets of one length.
fn subnets(family: &str, len: u8) -> String {
    format!("subnets-{family}-{len}")
}

/// Drops what containers send.
pub(super) fn containers(matches: impl Into<Vec<Match>>) -> Rule {
    Rule::new("containers", matches, dropped(counter::CONTAINERS))
}

const fn dropped(counter: &'static str) -> [Action; 2] {
    [Action::CountIn(counter), Action::Drop]
}

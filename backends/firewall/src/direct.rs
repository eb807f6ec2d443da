//! The rules for packets that come without encapsulation, by the underlay's link itself (host-gw, and vxlan with DirectRouting). Pure.
//!
//! Only containers of peers may send so. A packet tells its source alone, so any host on the link can forge a peer's; what no peer could
//! send is dropped, before the rules that let direct packets pass Docker's.

use std::net::IpAddr;

use wire_net::{Family, LinkName, Prefix};
use wire_state::{Element, Purpose};

use super::{
    family_rules::{BRIDGES, FamilyRules, counter, dropped},
    nft::is_plain,
    policy::{ACCEPT_MARK, Senders},
    rule::{Action, Addresses, Is, Leading, Links, Match, Rule},
};

/// The first letters of the names of sets of sources.
pub(super) const DIRECT: &str = "direct-";

/// The most keys that one lease adds. One that is longer than 256 usual subnets is let in through the overlay alone.
const MOST: u32 = 256;

/// The set of subnets of peers in one family.
#[derive(Clone, Debug)]
pub(super) struct DirectSet {
    pub(super) name: String,
    /// The number of leading bits that are compared: the length of the subnets that are leased under the current config.
    pub(super) len: u8,
}

impl DirectSet {
    /// The keys of a lease. One of an earlier config may have another length: a shorter prefix is all subnets in it, and a longer one
    /// counts as the subnet that it is in.
    pub(super) fn elements(&self, leased: Prefix) -> impl Iterator<Item = Element> + use<> {
        let (len, family) = (self.len, leased.family());
        let more = u32::from(len.saturating_sub(leased.len()));
        let keys = 1_u32.checked_shl(more).filter(|keys| *keys <= MOST).unwrap_or_default();
        let step = family.bits() - len;
        let key = move |number: u32| leased.first_bits() + (u128::from(number) << step);
        (0..keys).filter_map(move |number| Prefix::from_bits(family, key(number), len).ok()).map(Element::Source)
    }
}

impl FamilyRules {
    /// The set of subnets that may send by another way than the overlay device.
    pub(super) fn direct_set(&self) -> Option<DirectSet> {
        let (family, len) = (self.family_name(), self.subnet_len);
        self.has_other_ways().then(|| DirectSet { name: format!("{DIRECT}{family}-{len}"), len })
    }

    /// Matches packets whose source is in a peer's subnet, or not.
    pub(super) fn leading(&self, is: Is) -> Option<Match> {
        let DirectSet { name, len } = self.direct_set()?;
        Some(Match::Leading(is, Leading { mask: mask(self.family, len)?, set: name }))
    }

    /// Drops and counts packets that come by the underlay's link to our subnet with a source that no peer's container has.
    pub(super) fn direct(&self, senders: Senders) -> Vec<Rule> {
        let Some(from) = self.by_parent() else { return Vec::new() };
        let to_own = self.destination(Addresses::In(self.own.into()));
        let own = [from.clone(), self.source(Addresses::In(self.own.into())), to_own.clone()];
        let own = Rule::new(Purpose::DirectOwn(self.family).words(), own, dropped(counter::SPOOFED));
        let leased =
            [from, self.source(Addresses::In(self.overlay)), to_own].into_iter().chain(self.leading(Is::NotSo));
        let outside = match senders {
            Senders::Peers => {
                let words = Purpose::DirectOutsideLeases(self.family).words();
                Some(Rule::new(words, leased.collect::<Vec<_>>(), dropped(counter::SPOOFED)))
            }
            Senders::Anyone => None,
        };
        [own].into_iter().chain(outside).collect()
    }

    /// Marks what comes by the underlay's link from containers of peers, as what comes by the overlay.
    pub(super) fn marked_direct(&self) -> Option<Rule> {
        let (all, own) = (Addresses::In(self.overlay), Addresses::In(self.own.into()));
        let matches = [self.by_parent()?, self.source(all), self.destination(own)];
        Some(Rule::new("direct, accepted by Docker", matches, [Action::SetMark(ACCEPT_MARK)]))
    }

    /// Drops and counts what comes out of the overlay device with a source that is neither routed back through it nor that of a peer:
    /// two hosts may see differently whether they are on one link, or whether one has left its former backend, so one may send by this
    /// device what the other sends elsewhere.
    pub(super) fn spoofed_beside_others(&self, senders: Senders) -> Vec<Rule> {
        let Some(device) = self.device else { return Vec::new() };
        let (own, overlay) = (Addresses::In(self.own.into()), Addresses::NotIn(self.overlay));
        let sources = match senders {
            Senders::Peers => self.leading(Is::NotSo).into_iter().collect(),
            Senders::Anyone => vec![self.source(own), self.source(overlay)],
        };
        sources.into_iter().map(|source| self.spoofed_with(device.link, source)).collect()
    }

    fn spoofed_with(&self, device: LinkName, source: Match) -> Rule {
        let matches = [Match::From(Links::Is(device)), Match::AnsweredElsewhere, source];
        Rule::new(Purpose::SourcesOutsideLeases(self.family).words(), matches, dropped(counter::SPOOFED))
    }

    /// Matches packets that come by the underlay's link. If nft would take its name for a pattern, by any link without containers.
    fn by_parent(&self) -> Option<Match> {
        let parent = Some(self.direct?).filter(is_plain);
        Some(Match::From(parent.map_or(Links::NotIn(BRIDGES), Links::Is)))
    }
}

/// The netmask of a length.
fn mask(family: Family, len: u8) -> Option<IpAddr> {
    let ones = u128::MAX >> (128 - u32::from(family.bits()));
    Prefix::from_bits(family, ones, len).ok().map(Prefix::network)
}

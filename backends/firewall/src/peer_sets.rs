//! The sets of our table that grow with the number of peers. Pure.

use std::net::IpAddr;

use imbl::OrdSet;
use wire_net::{Family, Prefix};
use wire_state::{Element, Set, SetKind};

use super::{
    address_range::AddressRange,
    direct::DirectSet,
    family_rules::{FamilyRules, subnets},
    policy::Peer,
};

/// The sets about the peers of one family, and which elements a peer adds to them.
#[derive(Clone, Debug)]
pub(crate) struct PeerSets {
    family: Family,
    overlay: AddressRange,
    addresses: Option<String>,
    pairs: Option<PairSets>,
    direct: Option<DirectSet>,
}

/// The sets by which inner sources are compared.
#[derive(Clone, Debug)]
struct PairSets {
    /// All leases but those in `subnets`.
    ranges: String,
    /// Leases of the usual length, and this length in bits.
    subnets: Option<(String, u8)>,
}

impl PeerSets {
    pub(super) fn new(rules: &FamilyRules, source_check: bool) -> Self {
        let family = rules.family_name();
        let usual = rules.usual_len().map(|len| (subnets(family, len), len));
        let through = rules.device.is_some();
        let pairs = (through && source_check).then(|| PairSets { ranges: format!("leases-{family}"), subnets: usual });
        let addresses = through.then(|| format!("peers-{family}"));
        Self { family: rules.family, overlay: rules.overlay, addresses, pairs, direct: rules.direct_set() }
    }

    /// The sets without elements.
    pub(super) fn empty(&self) -> impl Iterator<Item = (String, Set)> {
        let pairs = self.pairs.iter();
        let subnets = pairs.clone().filter_map(|pairs| pairs.subnets.clone());
        let subnets = subnets.map(|(name, len)| (name, SetKind::Subnets(self.family, len)));
        let ranges = pairs.map(|pairs| (pairs.ranges.clone(), SetKind::Leases(self.family)));
        let addresses = self.addresses.iter().map(|name| (name.clone(), SetKind::Addresses(self.family)));
        let direct = self.direct.iter().map(|set| (set.name.clone(), SetKind::Sources(self.family, set.len)));
        let all = addresses.chain(ranges).chain(subnets).chain(direct);
        all.map(|(name, kind)| (name, Set { kind, elements: OrdSet::new() }))
    }

    /// The elements of a peer, each with the name of its set.
    pub(super) fn elements(&self, peer: &Peer) -> impl Iterator<Item = (&str, Element)> {
        let public = peer.public.get(self.family).copied();
        let address = public.zip(self.addresses.as_deref()).map(|(public, set)| (set, Element::Address(public)));
        let lease = public.zip(peer.subnet.get(self.family));
        let pair = lease.zip(self.pairs.as_ref()).map(|(lease, pairs)| self.pair(pairs, lease));
        let direct = peer.subnet.get(self.family).zip(self.direct.as_ref());
        let direct = direct
            .into_iter()
            .flat_map(|(subnet, set)| set.elements(subnet).map(|element| (set.name.as_str(), element)));
        address.into_iter().chain(pair).chain(direct)
    }

    fn pair<'a>(&self, pairs: &'a PairSets, (public, subnet): (IpAddr, Prefix)) -> (&'a str, Element) {
        match &pairs.subnets {
            // A lease whose public address is in the overlay is not accepted as a host's by the usual rule.
            Some((name, len)) if *len == subnet.len() && !self.overlay.contains(public) => {
                (name, Element::Subnet(public, subnet))
            }
            Some(_) | None => (&pairs.ranges, Element::Lease(public, subnet)),
        }
    }
}

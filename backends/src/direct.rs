//! The hosts that are reached without encapsulation: those whose public address is on the underlay's own link. Pure.
//!
//! The kernel takes no route through a gateway that is not on a link, so the prefixes of the link's addresses decide for each peer.

use std::net::IpAddr;

use wire_lease::Lease;
use wire_net::{Family, LinkName, Prefix};
use wire_state::{DesiredNet, NextHop, RouteKey, Setting, Underlay};

use crate::PeerEntry;

/// The underlay's link, as the way to the hosts that are on it.
#[derive(Clone, Debug)]
pub(crate) struct Direct {
    pub(crate) link: LinkName,
    on_link: Vec<Prefix>,
}

impl Direct {
    pub(crate) fn new(underlay: &Underlay) -> Self {
        Self { link: underlay.link, on_link: underlay.on_link.clone() }
    }

    /// Lets the link forward what comes by it to containers.
    pub(crate) fn forward_packets(&self, state: &mut DesiredNet, family: Family) {
        state.settings.insert(Setting::LinkForwarding(family, self.link), 1);
    }

    /// The route to a peer's containers with the peer itself as the gateway; `None` if the peer is not on the link, or does not have
    /// this family.
    pub(crate) fn route(&self, family: Family, peer: &Lease) -> Option<PeerEntry> {
        let (gateway, subnet) = (*peer.public.get(family)?, peer.subnet.get(family)?);
        let hop = NextHop::Gateway { gateway, link: self.link, onlink: false };
        self.is_on_link(gateway).then_some(PeerEntry::Route(RouteKey::main(subnet), hop))
    }

    /// The first public address of a peer that is not on the link, if containers are behind it.
    pub(crate) fn beyond_link(&self, peer: &Lease) -> Option<IpAddr> {
        let of_containers = peer.public.iter().filter(|(family, _)| peer.subnet.get(*family).is_some());
        of_containers.map(|(_, public)| *public).find(|public| !self.is_on_link(*public))
    }

    fn is_on_link(&self, address: IpAddr) -> bool {
        self.on_link.iter().any(|prefix| prefix.contains(address))
    }
}

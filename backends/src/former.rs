//! A new backend with the former one beside it: for the time after the network config has been changed, in which other hosts that have not
//! been restarted yet speak the former one alone (docs/adr/0018-a-former-backend-beside-the-new-one.md). Pure.

use std::{borrow::Cow, collections::BTreeSet, net::IpAddr};

use wire_lease::{BackendData, Lease, NetworkConfig};
use wire_net::{LinkName, Mtu, Prefix};
use wire_state::{DesiredNet, Scope};

use crate::{Addresses, Backend, Datapath, PeerEntry, PortUse, Reaches, VxlanBy};

/// A backend that this host speaks, with the port that hosts without a record have.
pub struct Spoken {
    /// The backend.
    pub backend: Box<dyn Backend>,
    /// Its UDP port, if its packets are in UDP.
    pub port: Option<u16>,
}

/// Both backends. For each peer it has the entries of both that both hosts speak, and the route by one of them: packets that are on their
/// way when that changes arrive.
pub struct WithFormer {
    now: Spoken,
    former: Spoken,
}

impl WithFormer {
    /// Leases have to carry each port, also our own.
    #[must_use]
    pub const fn new(now: Spoken, former: Spoken) -> Self {
        Self { now, former }
    }

    /// The ways to a peer, with its lease as each is to take it. The first one is the route's. Both hosts choose the same: the
    /// new backend if it is the lease's on both; and if the network config was changed and changed back, the first in an order.
    fn ways(&self, peer: &Lease) -> Vec<(&dyn Backend, Lease)> {
        let [now, former] = [&self.now, &self.former].map(|spoken| Some((spoken, spoken.seen(peer)?)));
        let is_new_on_both = self.now.backend.reaches().has(&peer.data);
        let is_first = is_new_on_both || self.now.backend.reaches() < self.former.backend.reaches();
        let mut ways: Vec<(&Spoken, Lease)> = now.into_iter().chain(former).collect();
        if let [(_, by_now), (_, by_former)] = &ways[..] {
            let is_beyond = self.now.beyond(by_now) || !is_first;
            if is_beyond && !self.former.beyond(by_former) {
                ways.reverse();
            }
        }
        ways.into_iter().map(|(spoken, lease)| (&*spoken.backend, lease)).collect()
    }
}

impl Spoken {
    fn seen(&self, peer: &Lease) -> Option<Lease> {
        let seen = self.backend.seen(peer)?.into_owned();
        Some(Lease { port: seen.port.filter(|port| Some(*port) != self.port), ..seen })
    }

    fn beyond(&self, peer: &Lease) -> bool {
        self.backend.beyond_link(peer).is_some()
    }
}

impl Backend for WithFormer {
    fn base(&self, own: &Lease, ranges: &[Prefix]) -> DesiredNet {
        let mut net = self.former.backend.base(own, ranges);
        let DesiredNet { links, addresses, settings, routes, .. } = self.now.backend.base(own, ranges);
        net.links.extend(links);
        net.addresses.extend(addresses);
        net.settings.extend(settings);
        net.routes.extend(routes);
        net
    }

    /// None: the kernel takes no IPv6 route of vxlan while another link leads to its gateway.
    fn ranges(&self, _: &Addresses) -> Vec<Prefix> {
        Vec::new()
    }

    fn peer_entries(&self, peer: &Lease, ranges: &[Prefix], entries: &mut Vec<PeerEntry>) {
        for (rank, (backend, lease)) in self.ways(peer).into_iter().enumerate() {
            let mut added = Vec::new();
            backend.peer_entries(&lease, ranges, &mut added);
            entries.extend(added.into_iter().filter(|entry| rank == 0 || !matches!(entry, PeerEntry::Route(..))));
        }
    }

    fn data(&self) -> BackendData {
        self.now.backend.data()
    }

    fn reaches(&self) -> Reaches {
        self.now.backend.reaches()
    }

    fn former(&self) -> Option<Reaches> {
        Some(self.former.backend.reaches())
    }

    fn spare(&self) -> BTreeSet<LinkName> {
        let [now, former] = [&self.now, &self.former].map(|spoken| spoken.backend.scope().devices);
        former.difference(&now).copied().collect()
    }

    fn seen<'a>(&self, peer: &'a Lease) -> Option<Cow<'a, Lease>> {
        (!self.ways(peer).is_empty()).then_some(Cow::Borrowed(peer))
    }

    fn needs_former(&self, peer: &Lease) -> bool {
        self.now.seen(peer).is_none() && self.former.seen(peer).is_some()
    }

    fn direct(&self) -> Option<LinkName> {
        self.now.backend.direct().or_else(|| self.former.backend.direct())
    }

    /// Named also while the former backend still reaches it.
    fn beyond_link(&self, peer: &Lease) -> Option<IpAddr> {
        let beyond = |spoken: &Spoken| spoken.backend.beyond_link(&spoken.seen(peer)?);
        match self.now.seen(peer) {
            Some(_) => beyond(&self.now),
            None => beyond(&self.former),
        }
    }

    fn datapath(&self) -> Datapath {
        self.now.backend.datapath()
    }

    fn mtu(&self) -> Mtu {
        self.now.backend.mtu()
    }

    fn scope(&self) -> Scope {
        let mut scope = self.now.backend.scope();
        scope.extend(&self.former.backend.scope());
        scope.networks.sort_unstable();
        scope.networks.dedup();
        scope
    }
}

/// The reason why this host cannot speak both backends at once; `None` if it can.
#[must_use]
pub fn why_not_beside(now: &NetworkConfig, former: &NetworkConfig, vxlan: VxlanBy) -> Option<String> {
    let (now, former) = (PortUse::of(now, vxlan)?, PortUse::of(former, vxlan)?);
    (!now.goes_with(former)).then(|| format!("both have the UDP port {}", now.port))
}

#[cfg(test)]
mod tests;

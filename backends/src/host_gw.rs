//! Routes with the hosts themselves as gateways, as flannel's host-gw: no device, and no encapsulation. Hosts that are not on one link
//! do not reach each other.

use std::net::IpAddr;

use wire_lease::{BackendData, Lease, NetworkConfig};
use wire_net::{LinkName, Mtu, Prefix};
use wire_state::{DesiredNet, LinkId, Scope};

use crate::{
    Backend, Datapath, PeerEntry, Placement, Reaches, SelectError,
    backend::{Outer, blackholes, forward_packets},
    direct::Direct,
};

/// The host-gw backend on this host.
#[derive(Debug)]
pub(crate) struct HostGw {
    mtu: Mtu,
    networks: Vec<Prefix>,
    parent: LinkId,
    direct: Direct,
    blackhole: bool,
}

impl HostGw {
    pub(crate) fn new(config: &NetworkConfig, placement: &Placement) -> Result<Self, SelectError> {
        let underlay = &placement.underlay;
        for family in config.families() {
            let local = Outer::new(family, placement)?.local;
            // Peers send to the public address, and only who has it answers for it on the link.
            if let Some(public) = placement.public.get(family).filter(|public| **public != local) {
                return Err(SelectError::PublicElsewhere { link: underlay.link, local, public: *public });
            }
        }
        let networks = config.pools.iter().map(|(_, pool)| pool.network).collect();
        let (parent, direct) = (underlay.parent(), Direct::new(underlay));
        Ok(Self { mtu: underlay.mtu, networks, parent, direct, blackhole: placement.blackhole })
    }
}

impl Backend for HostGw {
    fn base(&self, own: &Lease, _: &[Prefix]) -> DesiredNet {
        let mut state = DesiredNet::default();
        for family in self.networks.iter().map(|network| network.family()) {
            forward_packets(&mut state, family);
            self.direct.forward_packets(&mut state, family);
        }
        if self.blackhole {
            state.routes.extend(blackholes(own));
        }
        state
    }

    fn peer_entries(&self, peer: &Lease, _: &[Prefix], entries: &mut Vec<PeerEntry>) {
        let families = self.networks.iter().map(|network| network.family());
        entries.extend(families.filter_map(|family| self.direct.route(family, peer)));
    }

    fn data(&self) -> BackendData {
        BackendData::HostGw
    }

    fn reaches(&self) -> Reaches {
        Reaches::HostGw
    }

    fn direct(&self) -> Option<LinkName> {
        Some(self.direct.link)
    }

    fn beyond_link(&self, peer: &Lease) -> Option<IpAddr> {
        self.direct.beyond_link(peer)
    }

    fn datapath(&self) -> Datapath {
        Datapath { name: "host-gw", is_userspace: false, reason: "the network's backend is host-gw" }
    }

    fn mtu(&self) -> Mtu {
        self.mtu
    }

    fn scope(&self) -> Scope {
        Scope { parent: Some(self.parent), networks: self.networks.clone(), direct: true, ..Scope::default() }
    }
}

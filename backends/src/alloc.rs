//! The alloc backend, which leases subnets but moves no packets between hosts.

use wire_lease::{BackendData, Lease, NetworkConfig};
use wire_net::{Mtu, Prefix};
use wire_state::{DesiredNet, Scope};

use crate::{
    Backend, Datapath, PeerEntry, Placement, Reaches,
    backend::{blackholes, forward_packets},
};

/// The alloc backend on this host, as flannel's: another program connects the subnets.
#[derive(Debug)]
pub(crate) struct Alloc {
    mtu: Mtu,
    networks: Vec<Prefix>,
    blackhole: bool,
}

impl Alloc {
    pub(crate) fn new(config: &NetworkConfig, placement: &Placement) -> Self {
        let networks = config.pools.iter().map(|(_, pool)| pool.network).collect();
        Self { mtu: placement.underlay.mtu, networks, blackhole: placement.blackhole }
    }
}

impl Backend for Alloc {
    fn base(&self, own: &Lease, _: &[Prefix]) -> DesiredNet {
        let mut state = DesiredNet::default();
        self.networks.iter().for_each(|network| forward_packets(&mut state, network.family()));
        if self.blackhole {
            state.routes.extend(blackholes(own));
        }
        state
    }

    fn peer_entries(&self, _: &Lease, _: &[Prefix], _: &mut Vec<PeerEntry>) {}

    fn data(&self) -> BackendData {
        BackendData::Untyped
    }

    fn reaches(&self) -> Reaches {
        Reaches::Nobody
    }

    fn datapath(&self) -> Datapath {
        Datapath::NONE
    }

    fn mtu(&self) -> Mtu {
        self.mtu
    }

    fn scope(&self) -> Scope {
        Scope { networks: self.networks.clone(), ..Scope::default() }
    }
}

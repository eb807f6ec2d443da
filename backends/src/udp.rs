//! IP in UDP, encapsulated by the agent as in flannel's udp backend: for each family a TUN device with one route for the whole network.
//!
//! That route would also take packets to hosts that are reached without the overlay and have an address inside the network: another
//! overlay host (whose outer packets would be encapsulated again and again), etcd, or a router. If such an address lies in the network
//! but outside the range from which subnets are leased, the routes are for that range only. If one lies in the range, they are for the
//! leased subnets only, as with VXLAN: no leased subnet contains such an address ([`LeaseTable::outside`]).

use std::net::{IpAddr, SocketAddr};

use wire_lease::{BackendData, Lease, LeaseTable, NetworkConfig};
use wire_net::{DualStack, Family, LinkName, Mtu, Overhead, Prefix};
use wire_state::{DesiredLink, DesiredNet, Framing, Marks, NextHop, RouteKey, Scope};

use crate::{
    Backend, Datapath, Identity, Placement, SelectError,
    backend::{FamilyDevice, Outer, add_device, add_forward, blackholes},
};

/// The udp backend on this host.
#[derive(Debug)]
pub(crate) struct UdpBackend {
    devices: DualStack<Device>,
    blackhole: bool,
}

#[derive(Clone, Debug)]
struct Device {
    name: LinkName,
    link: DesiredLink,
    network: Prefix,
    /// The range from which subnets are leased: the network, or the part of it that the config sets.
    leased: Vec<Prefix>,
}

impl UdpBackend {
    pub(crate) fn new(config: &NetworkConfig, port: u16, placement: &Placement) -> Result<Self, SelectError> {
        let mut devices = DualStack::default();
        for (family, pool) in config.pools.iter() {
            let outer = Outer::new(family, placement)?;
            let mtu = outer.mtu_within(Overhead::udp(family), None)?;
            let link = placement.forward.link(Framing::Raw, SocketAddr::new(outer.local, port), mtu);
            devices.set(
                family,
                Some(Device { name: device_name(family), link, network: pool.network, leased: pool.leased() }),
            );
        }
        Ok(Self { devices, blackhole: placement.blackhole })
    }
}

impl Backend for UdpBackend {
    fn desired(&self, own: &Lease, leases: &LeaseTable) -> DesiredNet {
        let mut state = DesiredNet::default();
        for (family, device) in self.devices.iter() {
            add_device(&mut state, FamilyDevice { family, name: device.name, link: &device.link }, own);
            let route = |prefix: Prefix| (RouteKey::main(prefix), NextHop::Link(device.name));
            state.routes.extend(device.led(family, own, leases).into_iter().map(route));
            for peer in peers(leases) {
                add_forward(&mut state, family, device.name, peer, None);
            }
        }
        if self.blackhole {
            state.routes.extend(blackholes(own));
        }
        state
    }

    fn data(&self) -> BackendData {
        BackendData::Untyped
    }

    fn reaches(&self) -> fn(&BackendData) -> bool {
        is_untyped
    }

    fn datapath(&self) -> Datapath {
        Datapath { name: "userspace-udp", is_userspace: true, reason: "the network's backend is udp" }
    }

    fn mtu(&self) -> Mtu {
        self.devices.iter().map(|(_, device)| device.link.mtu).min().expect("a network has a family")
    }

    fn scope(&self) -> Scope {
        Scope {
            devices: self.devices.iter().map(|(_, device)| device.name).collect(),
            marks: Marks::default(),
            parent: None,
            networks: self.devices.iter().map(|(_, device)| device.network).collect(),
        }
    }
}

impl Device {
    /// The prefixes that are routed through it: the largest that contain no address which is reached without the overlay, and the leased
    /// subnets outside of these.
    fn led(&self, family: Family, own: &Lease, leases: &LeaseTable) -> Vec<Prefix> {
        let publics = peers(leases).chain([own]).filter_map(|lease| lease.public.get(family));
        let outside: Vec<IpAddr> = publics.chain(&leases.outside).copied().collect();
        let holds_none = |prefix: &Prefix| !outside.iter().any(|address| prefix.contains(*address));
        let ranges = if holds_none(&self.network) {
            vec![self.network]
        } else if self.leased.iter().all(holds_none) {
            self.leased.clone()
        } else {
            Vec::new()
        };
        let beside = |subnet: &Prefix| !ranges.iter().any(|range| range.covers(*subnet));
        let others: Vec<Prefix> = peers(leases).filter_map(|lease| lease.subnet.get(family)).filter(beside).collect();
        [ranges, others].concat()
    }
}

fn peers(leases: &LeaseTable) -> impl Iterator<Item = &Lease> {
    leases.peers.values().map(|entry| &entry.lease).filter(|lease| is_untyped(&lease.data))
}

/// Whether a lease is one of the udp backend: neither flannel's nor ours name a type.
fn is_untyped(data: &BackendData) -> bool {
    *data == BackendData::Untyped
}

/// The properties of the backend that follow from the config alone.
pub(crate) fn identity(config: &NetworkConfig, port: u16) -> Identity {
    let devices = config.pools.map(|family, _| device_name(family));
    Identity { devices, marks: Marks::default(), port: Some(port) }
}

/// flannel's name for IPv4. Its udp backend has no IPv6, so that name is formed as for its VXLAN device.
fn device_name(family: Family) -> LinkName {
    let name = match family {
        Family::V4 => "flannel0",
        Family::V6 => "flannel-v60",
    };
    name.parse().expect("a name of less than 16 letters")
}

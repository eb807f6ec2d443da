//! IP in UDP, encapsulated by the agent as in flannel's udp backend: for each family a TUN device with one route for the whole network.
//!
//! That route would also take packets to hosts that are reached without the overlay and have an address inside the network: another
//! overlay host (whose outer packets would be encapsulated again and again), etcd, or a router. If such an address lies in the network
//! but outside the range from which subnets are leased, the routes are for that range only. If one lies in the range, they are for the
//! leased subnets only, as with VXLAN: no leased subnet contains such an address ([`wire_lease::LeaseTable::outside`]).

use std::net::SocketAddr;

use wire_lease::{BackendData, Lease, NetworkConfig};
use wire_net::{DualStack, Family, LinkName, Mtu, Overhead, Prefix};
use wire_state::{DesiredLink, DesiredNet, Framing, Marks, NextHop, RouteKey, Scope};

use crate::{
    Addresses, Backend, Datapath, Identity, PeerEntry, Placement, Reaches, SelectError,
    backend::{FamilyDevice, Outer, add_device, blackholes, forward},
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
    fn base(&self, own: &Lease, ranges: &[Prefix]) -> DesiredNet {
        let mut state = DesiredNet::default();
        for (family, device) in self.devices.iter() {
            add_device(&mut state, FamilyDevice { family, name: device.name, link: &device.link }, own);
            let ranges = ranges.iter().filter(|range| range.family() == family);
            state.routes.extend(ranges.map(|range| (RouteKey::main(*range), NextHop::Link(device.name))));
        }
        if self.blackhole {
            state.routes.extend(blackholes(own));
        }
        state
    }

    fn ranges(&self, outside: &Addresses) -> Vec<Prefix> {
        self.devices.iter().flat_map(|(_, device)| device.ranges(outside)).collect()
    }

    fn peer_entries(&self, peer: &Lease, ranges: &[Prefix], entries: &mut Vec<PeerEntry>) {
        for (family, device) in self.devices.iter() {
            entries.extend(forward(family, device.name, peer, None));
            let alone = |subnet: &Prefix| !ranges.iter().any(|range| range.covers(*subnet));
            let subnet = peer.subnet.get(family).filter(alone);
            let route = |subnet| PeerEntry::Route(RouteKey::main(subnet), NextHop::Link(device.name));
            entries.extend(subnet.map(route));
        }
    }

    fn data(&self) -> BackendData {
        BackendData::Untyped
    }

    fn reaches(&self) -> Reaches {
        Reaches::Untyped
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
            direct: false,
            networks: self.devices.iter().map(|(_, device)| device.network).collect(),
        }
    }
}

impl Device {
    /// The largest prefixes of which none contains an address that is reached without the overlay.
    fn ranges(&self, outside: &Addresses) -> Vec<Prefix> {
        if !outside.lies_in(self.network) {
            vec![self.network]
        } else if self.leased.iter().all(|range| !outside.lies_in(*range)) {
            self.leased.clone()
        } else {
            Vec::new()
        }
    }
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

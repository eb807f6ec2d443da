//! IP in UDP by ourselves, as flannel's udp backend has it: for each family a TUN device with one route for the network. Where hosts
//! live in the network, beside the range that is leased, the routes are for that range alone: flannel's one route would lead
//! packets for a host behind a router into the device, and wrap what it has wrapped without end.

use wire_lease::{BackendData, DualStack, Family, Lease, LeaseTable, NetworkConfig, Prefix};

use crate::{
    Backend, Framing, Link, LinkName, Marks, Mtu, NetState, Overhead, Placement, Route, RouteKey, Scope, SelectError,
    Via,
    backend::{Outer, add_device, add_forward, blackholes},
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
    link: Link,
    network: Prefix,
    /// What hosts lease of the network.
    leased: Vec<Prefix>,
}

impl UdpBackend {
    pub(crate) fn new(config: &NetworkConfig, port: u16, placement: &Placement) -> Result<Self, SelectError> {
        let mut devices = DualStack::default();
        for (family, pool) in config.pools.iter() {
            let outer = Outer::new(family, placement)?;
            let mtu = outer.mtu_within(Overhead::udp(family), None)?;
            let link = placement.forward.link(Framing::Raw, (outer.local, port), mtu);
            devices.set(
                family,
                Some(Device { name: device_name(family), link, network: pool.network, leased: pool.leased() }),
            );
        }
        Ok(Self { devices, blackhole: placement.blackhole })
    }
}

impl Backend for UdpBackend {
    fn desired(&self, own: &Lease, leases: &LeaseTable) -> NetState {
        let mut state = NetState::default();
        for (family, device) in self.devices.iter() {
            add_device(&mut state, family, (device.name, &device.link), own);
            let route = |prefix: Prefix| (RouteKey::main(prefix), Route::ours(Via::Link(device.name)));
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
    /// What is led into it.
    fn led(&self, family: Family, own: &Lease, leases: &LeaseTable) -> Vec<Prefix> {
        let mut publics = peers(leases).chain([own]).filter_map(|lease| lease.public.of(family));
        if !publics.any(|public| self.network.contains(*public)) {
            return vec![self.network];
        }
        // A lease beside the range is one that an older config has offered.
        let beside = |subnet: &Prefix| !self.leased.iter().any(|leased| leased.covers(*subnet));
        let others = peers(leases).filter_map(|lease| lease.subnet.of(family)).filter(beside);
        self.leased.iter().copied().chain(others).collect()
    }
}

/// Neither flannel's udp leases nor ours name a type.
fn peers(leases: &LeaseTable) -> impl Iterator<Item = &Lease> {
    leases.peers.values().map(|entry| &entry.lease).filter(|lease| lease.data == BackendData::Untyped)
}

/// flannel's name; for IPv6, which flannel's udp backend has not, made as its VXLAN device's is.
pub(crate) fn device_name(family: Family) -> LinkName {
    let name = match family {
        Family::V4 => "flannel0",
        Family::V6 => "flannel-v60",
    };
    name.parse().expect("a name of less than 16 letters")
}

//! IP in UDP by ourselves, as flannel's udp backend has it: for each family a TUN device with one route for the network.

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
}

impl UdpBackend {
    pub(crate) fn new(config: &NetworkConfig, port: u16, placement: &Placement) -> Result<Self, SelectError> {
        let mut devices = DualStack::default();
        for (family, pool) in config.pools.iter() {
            let outer = Outer::new(family, placement)?;
            let mtu = outer.mtu_within(Overhead::udp(family), None)?;
            let link = placement.forward.link(Framing::Raw, (outer.local, port), mtu);
            devices.set(family, Some(Device { name: device_name(family), link, network: pool.network }));
        }
        Ok(Self { devices, blackhole: placement.blackhole })
    }
}

impl Backend for UdpBackend {
    fn desired(&self, own: &Lease, leases: &LeaseTable) -> NetState {
        let mut state = NetState::default();
        for (family, device) in self.devices.iter() {
            add_device(&mut state, family, (device.name, &device.link), own);
            state.routes.insert(RouteKey::main(device.network), Route::ours(Via::Link(device.name)));
            // Neither flannel's udp leases nor ours name a type.
            for entry in leases.peers.values().filter(|entry| entry.lease.data == BackendData::Untyped) {
                add_forward(&mut state, family, device.name, &entry.lease, None);
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

/// flannel's name; for IPv6, which flannel's udp backend has not, made as its VXLAN device's is.
pub(crate) fn device_name(family: Family) -> LinkName {
    let name = match family {
        Family::V4 => "flannel0",
        Family::V6 => "flannel-v60",
    };
    name.parse().expect("a name of less than 16 letters")
}

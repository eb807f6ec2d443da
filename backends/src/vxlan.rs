//! VXLAN as flannel sets it up: one device for each family, and for each peer a route, a neighbour and an FDB entry, all static. If the
//! kernel has no VXLAN, a TUN device has the name of the VXLAN device, and the agent encapsulates the packets.

use std::net::{IpAddr, SocketAddr};

use wire_lease::{BackendData, Lease, NetworkConfig, Vtep, VxlanConfig};
use wire_net::{DualStack, Family, LinkName, Mtu, Overhead, Prefix, Vni};
use wire_state::{
    DesiredKind, DesiredLink, DesiredNet, DesiredVxlan, FdbKey, FdbTarget, Framing, KernelKind, LinkId, LinkRef, Marks,
    NeighbourKey, NextHop, RouteKey, Scope,
};

use crate::{
    Backend, Datapath, Identity, PeerEntry, Placement, Reaches, SelectError, VxlanBy,
    backend::{FamilyDevice, Outer, add_device, blackholes, forward},
    direct::Direct,
};

/// The vxlan backend on this host.
#[derive(Debug)]
pub(crate) struct VxlanBackend {
    vni: Vni,
    devices: DualStack<Device>,
    networks: Vec<Prefix>,
    parent: LinkId,
    marks: Marks,
    by: VxlanBy,
    blackhole: bool,
    /// The way to hosts on the underlay's link (`DirectRouting`).
    direct: Option<Direct>,
}

#[derive(Clone, Debug)]
struct Device {
    name: LinkName,
    link: DesiredLink,
    mac: wire_net::MacAddr,
}

impl VxlanBackend {
    pub(crate) fn new(config: &NetworkConfig, vxlan: &VxlanConfig, placement: Placement) -> Result<Self, SelectError> {
        let mut devices = DualStack::default();
        for family in config.families() {
            devices.set(family, Some(Device::new(family, vxlan, &placement)?));
        }
        let networks = config.pools.iter().map(|(_, pool)| pool.network).collect();
        let Placement { underlay, blackhole, forward, .. } = placement;
        let direct = vxlan.direct_routing.then(|| Direct::new(&underlay));
        let macs = devices.iter().map(|(_, device): (_, &Device)| device.mac).collect();
        let marks = Marks { macs, ..marks(vxlan) };
        let (vni, parent, by) = (vxlan.vni, underlay.parent(), forward.vxlan);
        Ok(Self { vni, devices, networks, parent, marks, by, blackhole, direct })
    }
}

impl Device {
    fn new(family: Family, config: &VxlanConfig, placement: &Placement) -> Result<Self, SelectError> {
        let outer = Outer::new(family, placement)?;
        let mac = *placement.macs.get(family).ok_or(SelectError::NoMac(family))?;
        // As in flannel, the IPv6 overlay runs over the IPv6 underlay.
        let mtu = outer.mtu_within(Overhead::vxlan(family), config.mtu.map(Mtu))?;
        let link = match placement.forward.vxlan {
            VxlanBy::AgentRequested | VxlanBy::AgentFallback => {
                let framing = Framing::Vxlan { vni: config.vni, mac };
                placement.forward.link(framing, SocketAddr::new(outer.local, port(config)), mtu)
            }
            VxlanBy::Kernel => {
                let vxlan = Self::vxlan(config, placement.underlay.parent(), outer.local);
                DesiredLink { mac: Some(mac), ..DesiredLink::new(DesiredKind::Kernel(KernelKind::Vxlan(vxlan)), mtu) }
            }
        };
        Ok(Self { name: device_name(family, config.vni)?, link, mac })
    }

    fn vxlan(config: &VxlanConfig, parent: LinkId, local: IpAddr) -> DesiredVxlan {
        DesiredVxlan {
            parent: Some(LinkRef::Found(parent)),
            local: Some(local),
            port: config.port,
            gbp: config.gbp,
            learning: config.learning,
            ..DesiredVxlan::new(config.vni)
        }
    }
}

impl Backend for VxlanBackend {
    fn base(&self, own: &Lease, _: &[Prefix]) -> DesiredNet {
        let mut state = DesiredNet::default();
        for (family, device) in self.devices.iter() {
            add_device(&mut state, FamilyDevice { family, name: device.name, link: &device.link }, own);
            if let Some(direct) = &self.direct {
                direct.forward_packets(&mut state, family);
            }
        }
        if self.blackhole {
            state.routes.extend(blackholes(own));
        }
        state
    }

    fn peer_entries(&self, peer: &Lease, _: &[Prefix], entries: &mut Vec<PeerEntry>) {
        for (family, device) in self.devices.iter() {
            add_peer(entries, family, device, peer, self.direct.as_ref());
        }
    }

    fn data(&self) -> BackendData {
        BackendData::Vxlan(self.devices.map(|_, device| Vtep { vni: Some(self.vni), mac: device.mac }))
    }

    fn reaches(&self) -> Reaches {
        Reaches::Vxlan(self.vni)
    }

    fn direct(&self) -> Option<LinkName> {
        self.direct.as_ref().map(|direct| direct.link)
    }

    fn datapath(&self) -> Datapath {
        let (name, reason) = match self.by {
            VxlanBy::Kernel => ("kernel-vxlan", "this kernel has VXLAN"),
            VxlanBy::AgentRequested => ("userspace-vxlan", "--userspace-vxlan is set"),
            VxlanBy::AgentFallback => ("userspace-vxlan", "this kernel cannot make VXLAN devices"),
        };
        Datapath { name, is_userspace: self.by != VxlanBy::Kernel, reason }
    }

    fn mtu(&self) -> Mtu {
        self.devices.iter().map(|(_, device)| device.link.mtu).min().expect("a network has a family")
    }

    fn scope(&self) -> Scope {
        Scope {
            devices: self.devices.iter().map(|(_, device)| device.name).collect(),
            marks: self.marks.clone(),
            parent: Some(self.parent),
            networks: self.networks.clone(),
            direct: self.direct.is_some(),
        }
    }
}

/// Appends the entries of one peer: its route; and its FDB entry and neighbour if the kernel encapsulates, or its entry in the forwarding
/// table if the agent does. A peer of another backend, or without this family, has none.
///
/// A peer on the underlay's link has a route over it, if `direct` is set. Its other entries stay: the peer may see itself elsewhere and
/// send encapsulated, answers that are on their way when a prefix changes arrive, and a change between both is that of one route.
fn add_peer(entries: &mut Vec<PeerEntry>, family: Family, device: &Device, peer: &Lease, direct: Option<&Direct>) {
    let BackendData::Vxlan(vteps) = &peer.data else { return };
    let (Some(vtep), Some(public), Some(subnet)) =
        (vteps.get(family), peer.public.get(family), peer.subnet.get(family))
    else {
        return;
    };
    // A record may say so. Leases with our MAC are not admitted.
    if vtep.mac == device.mac {
        return;
    }
    let (link, gateway) = (device.name, subnet.network());
    match device.link.kind {
        DesiredKind::Tunnel(_) => entries.extend(forward(family, link, peer, Some(vtep.mac))),
        DesiredKind::Kernel(_) => entries.extend([
            PeerEntry::Fdb(FdbKey { link, mac: vtep.mac }, FdbTarget { to: *public, port: peer.port }),
            PeerEntry::Neighbour(NeighbourKey { link, address: gateway }, vtep.mac),
        ]),
    }
    let encapsulated = PeerEntry::Route(RouteKey::main(subnet), NextHop::Gateway { gateway, link, onlink: true });
    entries.push(direct.and_then(|direct| direct.route(family, peer)).unwrap_or(encapsulated));
}

/// The properties of the backend that follow from the config alone.
pub(crate) fn identity(config: &NetworkConfig, vxlan: &VxlanConfig) -> Result<Identity, SelectError> {
    let mut devices = DualStack::default();
    for family in config.families() {
        devices.set(family, Some(device_name(family, vxlan.vni)?));
    }
    Ok(Identity { devices, marks: marks(vxlan), port: Some(port(vxlan)) })
}

fn marks(config: &VxlanConfig) -> Marks {
    Marks { port: Some(port(config)), learning: config.learning, ..Marks::default() }
}

fn port(config: &VxlanConfig) -> u16 {
    config.port.unwrap_or(DesiredVxlan::new(config.vni).port_in_use())
}

/// flannel's name for the device. It is too long for a link with a VNI of eight digits, and for IPv6 with one of five.
fn device_name(family: Family, vni: Vni) -> Result<LinkName, SelectError> {
    let prefix = match family {
        Family::V4 => "flannel",
        Family::V6 => "flannel-v6",
    };
    let name = format!("{prefix}.{vni}");
    name.parse().map_err(|_| SelectError::LongName { name, vni })
}

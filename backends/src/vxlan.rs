//! VXLAN by the kernel, as flannel sets it up: one device for each family, and for each peer a route, a neighbour and an FDB
//! entry, all static.

use wire_lease::{
    BackendConfig, BackendData, DualStack, Family, Lease, LeaseTable, NetworkConfig, Prefix, Vni, Vtep, VxlanConfig,
};

use crate::{
    Address, Backend, FdbKey, Link, LinkKind, LinkName, Mtu, NeighbourKey, NetState, Overhead, Owner, Placement, Route,
    RouteKey, Scope, SelectError, Via, Vxlan, backend::blackholes,
};

/// The vxlan backend on this host.
#[derive(Debug)]
pub(crate) struct VxlanBackend {
    vni: Vni,
    devices: DualStack<Device>,
    networks: Vec<Prefix>,
    parent: LinkName,
    blackhole: bool,
}

#[derive(Clone, Debug)]
struct Device {
    name: LinkName,
    link: Link,
    mac: wire_lease::MacAddr,
}

impl VxlanBackend {
    pub(crate) fn new(config: &NetworkConfig, vxlan: &VxlanConfig, placement: Placement) -> Result<Self, SelectError> {
        if vxlan.direct_routing {
            tracing::warn!("DirectRouting is not in this version: all traffic is encapsulated");
        }
        let mut devices = DualStack::default();
        for family in config.families() {
            devices.set(family, Some(Device::new(family, vxlan, &placement)?));
        }
        let networks = config.pools.iter().map(|(_, pool)| pool.network).collect();
        let Placement { underlay, blackhole, .. } = placement;
        Ok(Self { vni: vxlan.vni, devices, networks, parent: underlay.link, blackhole })
    }
}

impl Device {
    fn new(family: Family, config: &VxlanConfig, placement: &Placement) -> Result<Self, SelectError> {
        let underlay = &placement.underlay;
        let local = *underlay.addresses.of(family).ok_or(SelectError::NoUnderlay { link: underlay.link, family })?;
        let mac = *placement.macs.of(family).ok_or(SelectError::NoMac(family))?;
        // More than the link carries, the kernel would cut down, and Docker would be told what is not so.
        let outer = config.mtu.map_or(underlay.mtu, Mtu).min(underlay.mtu);
        if config.mtu.is_some_and(|asked| Mtu(asked) > outer) {
            tracing::warn!(asked = config.mtu, link = %underlay.link, %outer, "the config's MTU is more than the link's");
        }
        // As in flannel, the IPv6 overlay runs over the IPv6 underlay.
        let mtu = outer.less(Overhead::vxlan(family));
        let least = least_mtu(family);
        if mtu < least {
            return Err(SelectError::SmallMtu { link: underlay.link, outer, inner: mtu, family, least });
        }
        // What peers know us by, where this host has that address, as flannel 0.28 has it: they take packets from no other
        // (docs/adr/0007-firewall.md). Behind 1:1 NAT the link's own address becomes the public one on the way.
        let public = placement.public.of(family).copied().filter(|public| underlay.host.contains(public));
        let vxlan = Vxlan {
            parent: Some(underlay.link),
            local: Some(public.unwrap_or(local)),
            port: config.port,
            gbp: config.gbp,
            learning: config.learning,
            ..Vxlan::new(config.vni)
        };
        let kind = LinkKind::Vxlan(vxlan);
        let link = Link { kind, mac: Some(mac), mtu, up: true, owner: Owner::Ours, index: None };
        Ok(Self { name: device_name(family, config.vni)?, link, mac })
    }
}

impl Backend for VxlanBackend {
    fn desired(&self, own: &Lease, leases: &LeaseTable) -> NetState {
        let mut state = NetState::default();
        for (family, device) in self.devices.iter() {
            state.links.insert(device.name, device.link.clone());
            if let Some(subnet) = own.subnet.of(family) {
                let (address, len) = (subnet.network(), family.bits());
                state.addresses.insert(Address { link: device.name, address, len });
            }
            for entry in leases.peers.values() {
                add_peer(&mut state, family, device.name, &entry.lease);
            }
        }
        if self.blackhole {
            state.routes.extend(blackholes(own));
        }
        state
    }

    fn data(&self) -> BackendData {
        BackendData::Vxlan(self.devices.map(|_, device| Vtep { vni: Some(self.vni), mac: device.mac }))
    }

    fn mtu(&self) -> Mtu {
        self.devices.iter().map(|(_, device)| device.link.mtu).min().expect("a network has a family")
    }

    fn scope(&self) -> Scope {
        Scope {
            devices: self.devices.iter().map(|(_, device)| device.name).collect(),
            parent: Some(self.parent),
            networks: self.networks.clone(),
        }
    }
}

/// The three entries of one peer. A peer of another backend, or without this family, has none.
fn add_peer(state: &mut NetState, family: Family, link: LinkName, peer: &Lease) {
    let BackendData::Vxlan(vteps) = &peer.data else { return };
    let (Some(vtep), Some(public), Some(subnet)) = (vteps.of(family), peer.public.of(family), peer.subnet.of(family))
    else {
        return;
    };
    let gateway = subnet.network();
    state.fdb.insert(FdbKey { link, mac: vtep.mac }, *public);
    state.neighbours.insert(NeighbourKey { link, address: gateway }, vtep.mac);
    let via = Via::Gateway { gateway, link, onlink: true };
    state.routes.insert(RouteKey::main(subnet), Route::ours(via));
}

/// The names of the devices that `config` asks for; none where its backend has none.
///
/// # Errors
/// When a name would be too long.
pub fn devices(config: &NetworkConfig) -> Result<DualStack<LinkName>, SelectError> {
    let mut names = DualStack::default();
    if let BackendConfig::Vxlan(vxlan) = &config.backend {
        for family in config.families() {
            names.set(family, Some(device_name(family, vxlan.vni)?));
        }
    }
    Ok(names)
}

/// flannel's names, as far as they fit.
fn device_name(family: Family, vni: Vni) -> Result<LinkName, SelectError> {
    let prefix = match family {
        Family::V4 => "flannel",
        Family::V6 => "flannel-v6",
    };
    let name = format!("{prefix}.{vni}");
    name.parse().map_err(|_| SelectError::LongName { name, vni })
}

/// The least MTU of an IP link: RFC 791 §3.2 asks hosts to take 576 bytes, RFC 8200 §5 asks links for 1280.
const fn least_mtu(family: Family) -> Mtu {
    match family {
        Family::V4 => Mtu(576),
        Family::V6 => Mtu(1280),
    }
}

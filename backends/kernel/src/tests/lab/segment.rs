//! Networks over several hosts on one bridge each: the bridge and the VXLAN device, and two addresses on another host.

use std::net::IpAddr;

use wire_net::{LinkName, MacAddr, Mtu, Vni};
use wire_state::{
    Address, Bridge, BridgeFdbKey, DesiredKind, DesiredLink, DesiredNet, DesiredVxlan, FdbKey, FdbTarget, FloodEntry,
    FloodPath, KernelKind, LinkRef, NeighbourKey, PortFlag, PortFlags, Underlay, samples::name,
};

pub(super) fn devices(number: u8) -> [LinkName; 2] {
    let vni = 5000 + u32::from(number);
    [name(&format!("wb.{vni}")), name(&format!("wv.{vni}"))]
}

/// Adds what is desired of one of them.
pub(super) fn add(net: &mut DesiredNet, underlay: &Underlay, number: u8) {
    let [bridge, overlay] = devices(number);
    let link = |kind, last| DesiredLink {
        mac: Some(MacAddr::new([2, 0, 0, number, 5, last])),
        ..DesiredLink::new(DesiredKind::Kernel(kind), Mtu(1450))
    };
    let options = Bridge { snooping: false, spanning_tree: false };
    net.links.insert(bridge, link(KernelKind::Bridge(options), 1));
    let vxlan = DesiredVxlan {
        parent: Some(LinkRef::Found(underlay.parent())),
        local: underlay.addresses.v4,
        port: Some(8472),
        ..DesiredVxlan::new(Vni::new(5000 + u32::from(number)).unwrap())
    };
    let flags = PortFlags::NEW_PORT
        .with(PortFlag::NeighbourSuppression, true)
        .with(PortFlag::Learning, false)
        .with(PortFlag::GroupForwarding, true);
    let port = DesiredLink { master: Some(bridge), port: Some(flags), ..link(KernelKind::Vxlan(vxlan), 2) };
    net.links.insert(overlay, port);
    net.addresses.insert(Address { link: bridge, address: [10, 128 + number, 0, 1].into(), len: 20 });
    let to: IpAddr = [198, 51, 0, 1].into();
    net.flooding.insert(FloodEntry { link: overlay, mac: MacAddr::new([0; 6]), to, by: FloodPath::default() });
    for last in [5, 6] {
        let mac = MacAddr::new([2, 0x57, 10, 128 + number, 0, last]);
        net.fdb.insert(FdbKey { link: overlay, mac }, FdbTarget::from(to));
        net.bridge_fdb.insert(BridgeFdbKey { bridge, mac }, overlay);
        net.neighbours.insert(NeighbourKey { link: bridge, address: [10, 128 + number, 0, last].into() }, mac);
    }
}

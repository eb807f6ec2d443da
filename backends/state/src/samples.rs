//! States to try things with.
#![allow(clippy::unwrap_used, reason = "for tests")]

use wire_net::{LinkName, MacAddr, Mtu, Vni};

use crate::{
    Address, Capabilities, FdbKey, Forward, ForwardKey, Framing, Link, LinkKind, NeighbourKey, NetState, Owner, Parent,
    Route, RouteKey, Tunnel, Via, Vxlan,
};

/// A link's name.
#[must_use]
pub fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

/// A MAC with this last byte.
#[must_use]
pub fn mac(last: u8) -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, last])
}

/// A VXLAN device of number 1 on eth0.
#[must_use]
pub fn vxlan() -> Vxlan {
    Vxlan {
        parent: Some(Parent { index: 2, name: name("eth0") }),
        local: Some("192.0.2.1".parse().unwrap()),
        ..Vxlan::new(Vni::new(1).unwrap())
    }
}

/// That device as a link, with this last byte of its MAC.
#[must_use]
pub fn device(last: u8) -> Link {
    Link {
        kind: LinkKind::Vxlan(vxlan()),
        mac: Some(mac(last)),
        mtu: Mtu(1450),
        up: true,
        owner: Owner::Ours,
        index: None,
    }
}

/// A device with these peers: number, MAC, public IP.
#[must_use]
pub fn state(peers: &[(u8, u8, u8)]) -> NetState {
    let link = name("flannel.1");
    let mut state = NetState::default();
    state.links.insert(link, device(1));
    state.addresses.insert(Address { link, address: "10.5.0.0".parse().unwrap(), len: 32 });
    for (number, last, public) in peers {
        let gateway = format!("10.5.{number}.0").parse().unwrap();
        state.fdb.insert(FdbKey { link, mac: mac(*last) }, format!("192.0.2.{public}").parse().unwrap());
        state.neighbours.insert(NeighbourKey { link, address: gateway }, mac(*last));
        let key = RouteKey::main(format!("10.5.{number}.0/24").parse().unwrap());
        state.routes.insert(key, Route::ours(Via::Gateway { gateway, link, onlink: true }));
    }
    state
}

/// The same peers, with a device that we work ourselves.
#[must_use]
pub fn tunnelled(mut state: NetState) -> NetState {
    let link = name("flannel.1");
    let framing = Framing::Vxlan { vni: Vni::new(1).unwrap(), mac: mac(1) };
    for (key, gateway) in state.routes.iter().filter_map(|(key, route)| match route.via {
        Via::Gateway { gateway, .. } => Some((key, gateway)),
        Via::Link(_) | Via::Blackhole | Via::Other(_) => None,
    }) {
        let mac = state.neighbours.get(&NeighbourKey { link, address: gateway }).copied();
        let to = mac.and_then(|mac| state.fdb.get(&FdbKey { link, mac }).copied());
        let forward = to.map(|to| Forward { to, mac });
        state.forwarding.extend(forward.map(|forward| (ForwardKey { link, destination: key.destination }, forward)));
    }
    state.fdb.clear();
    state.neighbours.clear();
    if let Some(device) = state.links.get_mut(&link) {
        let tunnel = Tunnel {
            framing,
            local: "192.0.2.1:8472".parse().unwrap(),
            own: None,
            source_check: true,
            queues: 1,
            capabilities: Capabilities::ALL,
        };
        *device = Link { up: device.up, ..Link::ours(LinkKind::Tun(Some(tunnel)), device.mtu) };
    }
    state
}

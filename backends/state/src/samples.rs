//! Example states for tests.
#![allow(clippy::unwrap_used, reason = "for tests")]

use imbl::OrdMap;
use wire_net::{LinkName, MacAddr, Mtu, Vni};

use crate::{
    Address, Capabilities, DesiredKind, DesiredLink, DesiredNet, DesiredVxlan, FdbKey, FdbTarget, Forward, ForwardKey,
    Framing, KernelKind, LinkId, LinkRef, Namespace, NeighbourKey, Network, NextHop, ObservedNet, PerNamespace, Plan,
    RouteKey, Tunnel, plan, sim::reached,
};

/// The plan of the host's namespace alone.
#[must_use]
pub fn plan_host(have: &ObservedNet, want: &DesiredNet) -> Plan<Network> {
    plan(&PerNamespace::host(have.clone()), &PerNamespace::host(want.clone()))
}

/// Changes each value of a table.
pub fn change_each<K: Ord + Clone, V: Clone>(table: &mut OrdMap<K, V>, change: impl Fn(&mut V)) {
    let keys: Vec<K> = table.keys().cloned().collect();
    for key in keys {
        table.get_mut(&key).into_iter().for_each(&change);
    }
}

/// The host's namespace when it holds exactly the desired state.
#[must_use]
pub fn held(want: &DesiredNet) -> ObservedNet {
    reached(&PerNamespace::host(want.clone())).get(Namespace::Host).cloned().unwrap_or_default()
}

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

/// A foreign link with this index, in the host's namespace.
#[must_use]
pub fn found(text: &str, index: u32) -> LinkId {
    LinkId { namespace: Namespace::Host, index, name: name(text) }
}

/// A VXLAN device with VNI 1 on eth0.
#[must_use]
pub fn vxlan() -> DesiredVxlan {
    DesiredVxlan {
        parent: Some(LinkRef::Found(found("eth0", 2))),
        local: Some("192.0.2.1".parse().unwrap()),
        ..DesiredVxlan::new(Vni::new(1).unwrap())
    }
}

/// The device of [`vxlan`] as a link, with this last byte of its MAC.
#[must_use]
pub fn device(last: u8) -> DesiredLink {
    let kind = DesiredKind::Kernel(KernelKind::Vxlan(vxlan()));
    DesiredLink { mac: Some(mac(last)), ..DesiredLink::new(kind, Mtu(1450)) }
}

/// A device with these peers. Each is the third byte of its subnet, the last byte of its MAC, and the last byte of its public IP.
#[must_use]
pub fn state(peers: &[(u8, u8, u8)]) -> DesiredNet {
    let link = name("flannel.1");
    let mut state = DesiredNet::default();
    state.links.insert(link, device(1));
    state.addresses.insert(Address { link, address: "10.5.0.0".parse().unwrap(), len: 32 });
    for (number, last, public) in peers {
        let gateway = format!("10.5.{number}.0").parse().unwrap();
        state.fdb.insert(
            FdbKey { link, mac: mac(*last) },
            FdbTarget { to: format!("192.0.2.{public}").parse().unwrap(), port: None },
        );
        state.neighbours.insert(NeighbourKey { link, address: gateway }, mac(*last));
        let key = RouteKey::main(format!("10.5.{number}.0/24").parse().unwrap());
        state.routes.insert(key, NextHop::Gateway { gateway, link, onlink: true });
    }
    state
}

/// The same peers, with a TUN device whose packets the agent moves.
#[must_use]
pub fn tunnelled(mut state: DesiredNet) -> DesiredNet {
    let link = name("flannel.1");
    let framing = Framing::Vxlan { vni: Vni::new(1).unwrap(), mac: mac(1) };
    for (key, gateway) in state.routes.iter().filter_map(|(key, hop)| match hop {
        NextHop::Gateway { gateway, .. } => Some((key, *gateway)),
        NextHop::Link(_) | NextHop::Blackhole => None,
    }) {
        let mac = state.neighbours.get(&NeighbourKey { link, address: gateway }).copied();
        let target = mac.and_then(|mac| state.fdb.get(&FdbKey { link, mac }).copied());
        let forward = target.map(|FdbTarget { to, port }| Forward { to, port, mac });
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
        *device = DesiredLink::new(DesiredKind::Tunnel(tunnel), device.mtu);
    }
    state
}

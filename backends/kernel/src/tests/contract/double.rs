//! A host in memory.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use wire_net::Mtu;
use wire_state::{
    Bridge, BridgeFdbKey, FdbKey, FdbTarget, NeighbourKey, NextHop, ObservedKind, ObservedNet, PortFlag, Scope,
    samples::name,
};

use super::{Change, Host};
use crate::{
    Changes, HostNetwork,
    sim::{SimHost, SimKernel, SimMonitor},
};

pub(super) struct Double(SimHost);

impl Host for Double {
    type Kernel = SimKernel;
    type Monitor = SimMonitor;

    fn on_new(check: impl FnOnce(Self) + Send + 'static) {
        let host = SimHost::new("11111111-2222-3333-4444-555555555555");
        host.add_card("wb-up", "02:00:00:00:00:99".parse().unwrap(), Mtu(1500));
        host.add_address("wb-up", "192.0.2.1".parse().unwrap(), 24);
        host.add_address("wb-up", "2001:db8::1".parse().unwrap(), 64);
        let router = NextHop::Gateway { gateway: "192.0.2.254".parse().unwrap(), link: name("wb-up"), onlink: false };
        host.add_route("0.0.0.0/0".parse().unwrap(), router);
        check(Self(host));
    }

    fn facts(&self) -> HostNetwork {
        self.0.network([])
    }

    fn kernel(&self) -> SimKernel {
        self.0.driver()
    }

    fn monitor(&self, scope: Scope) -> SimMonitor {
        self.0.monitor(scope)
    }

    fn set_scope(monitor: &mut SimMonitor, scope: Scope) {
        monitor.set_scope(scope);
    }

    fn change(&self, change: Change) {
        let host = &self.0;
        match change {
            Change::AddAddress(link, address, len) => host.add_address(link, address.parse().unwrap(), len),
            Change::AddBridge(name) => host.add_link(name, ObservedKind::Bridge(Bridge::default()), None, Mtu(1500)),
            Change::AddBridgeFdb(port, mac) => host.put_bridge_fdb(port, mac.parse().unwrap()),
            Change::AddFdb(link, mac, to) => host.edit(|net| {
                net.fdb.insert(
                    FdbKey { link: name(link), mac: mac.parse().unwrap() },
                    FdbTarget { to: to.parse().unwrap(), port: None },
                );
            }),
            Change::AddNeighbour(link, address, mac) => host.edit(|net| {
                net.neighbours.insert(neighbour(link, address), mac.parse().unwrap());
            }),
            Change::AddRoute(to, link) => host.add_route(to.parse().unwrap(), NextHop::Link(name(link))),
            Change::DeleteAddress(link, address, _) => host.remove_address(link, address.parse().unwrap()),
            Change::SetFdbPort(link, mac, to, port) => host.edit(|net| {
                let key = FdbKey { link: name(link), mac: mac.parse().unwrap() };
                // The port of both devices is not named.
                let port = Some(port).filter(|port| *port != 8472);
                net.fdb.insert(key, FdbTarget { to: to.parse().unwrap(), port });
            }),
            Change::DeleteBridgeFdb(port, mac) => host.delete_bridge_fdb(port, mac.parse().unwrap()),
            Change::DeleteFdb(link, mac) => host.edit(|net| {
                net.fdb.remove(&FdbKey { link: name(link), mac: mac.parse().unwrap() });
            }),
            Change::DeleteLink(name) => host.delete_link(name),
            Change::DeleteNeighbour(link, address) => host.edit(|net| {
                net.neighbours.remove(&neighbour(link, address));
            }),
            Change::DeleteRoute("default") => host.remove_route("0.0.0.0/0".parse().unwrap()),
            Change::DeleteRoute(to) => host.remove_route(to.parse().unwrap()),
            Change::DisableIpv6(link) => host.disable_ipv6(link),
            Change::FlushFdb(link) => host.flush_fdb(link),
            Change::FlushNeighbours(link) => host.flush_neighbours(link),
            Change::FlushRoutes(link) => host.flush_routes(link),
            Change::MoveBridgeFdb(mac, bridge) => host.edit(|net| {
                let key = BridgeFdbKey { bridge: name(bridge), mac: mac.parse().unwrap() };
                net.bridge_fdb.insert(key, name("lp0"));
            }),
            Change::SetDown(name) => host.set_down(name),
            Change::SetForwarding(family, value) => host.set_forwarding(family, value),
            Change::SetMac(name, mac) => host.set_mac(name, mac.parse().unwrap()),
            Change::SetMtu(name, mtu) => host.set_mtu(name, Mtu(mtu)),
            Change::SetNoMaster(name) => host.set_no_master(name),
            Change::SetPort(name, flag, on) => host.set_port(name, |flags| flags.with(port_flag(flag), on)),
            Change::SetSnooping(name, on) => host.set_bridge(name, |bridge| bridge.snooping = on),
            Change::SetSpanningTree(name, on) => host.set_bridge(name, |bridge| bridge.spanning_tree = on),
            Change::SetUp(name) => host.set_up(name),
        }
    }

    fn heard(monitor: &mut SimMonitor, cached: &ObservedNet) -> Changes {
        match pin!(monitor.changed(cached)).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(changes) => changes.unwrap(),
            Poll::Pending => Changes::default(),
        }
    }
}

fn port_flag(name: &str) -> PortFlag {
    PortFlag::ALL.iter().find(|(_, text)| *text == name).unwrap().0
}

fn neighbour(link: &str, address: &str) -> NeighbourKey {
    NeighbourKey { link: name(link), address: address.parse().unwrap() }
}

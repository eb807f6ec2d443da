mod ipip;
mod scopes;
mod without_ipv6;

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use proptest::prelude::*;
use wire_net::Prefix;
use wire_state::{
    Address, Bridge, DesiredNet, ErrorKind, LinkId, LinkPlace, LinkRef, NextHop, Reconciler, RouteKey,
    samples::{mac, name, state, tunnelled},
};

use super::*;
use crate::Changes;

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// A host with one network card, `eth0`, and a router on it.
fn host() -> SimHost {
    let host = SimHost::new("11111111-2222-3333-4444-555555555555");
    host.add_card("eth0", mac(99), Mtu(1500));
    host.add_address("eth0", "192.0.2.1".parse().unwrap(), 24);
    let router = NextHop::Gateway { gateway: "192.0.2.254".parse().unwrap(), link: name("eth0"), onlink: false };
    host.add_route(prefix("0.0.0.0/0"), router);
    host.set_boot();
    host
}

fn scope() -> Scope {
    Scope {
        devices: [name("flannel.1")].into(),
        marks: wire_state::Marks { macs: [mac(1)].into(), port: Some(8472), learning: false },
        parent: Some(LinkId { namespace: Namespace::Host, index: 2, name: name("eth0") }),
        networks: vec![prefix("10.5.0.0/16")],
        direct: false,
    }
}

fn reconciler(host: &SimHost) -> Reconciler<SimKernel> {
    Reconciler::new(host.driver(), PerNamespace::host(scope()))
}

fn wanted(peers: &[(u8, u8, u8)]) -> PerNamespace<DesiredNet> {
    PerNamespace::host(state(peers))
}

/// Whether a host that is read anew needs no change.
fn is_reached(host: &SimHost, want: &PerNamespace<DesiredNet>) -> bool {
    let mut again = SimKernel { host: SimHost { net: host.net.restarted(), facts: host.facts.clone() } };
    let read = again.read(&PerNamespace::host(scope())).unwrap();
    wire_state::plan(&read, want).ops.is_empty()
}

/// A host that holds the device and two peers, the reconciler that made them, and a monitor.
fn settled() -> (SimHost, Reconciler<SimKernel>, SimMonitor) {
    let host = host();
    let mut reconciler = reconciler(&host);
    let report = reconciler.round(&wanted(&[(2, 20, 102), (3, 30, 103)]));
    assert!(report.converged, "{report:?}");
    // The first read after the writes, as after any notification.
    reconciler.invalidate();
    assert!(reconciler.round(&wanted(&[(2, 20, 102), (3, 30, 103)])).converged);
    let monitor = host.monitor(scope());
    (host, reconciler, monitor)
}

/// The changes that the monitor reports without waiting.
fn heard(monitor: &mut SimMonitor, reconciler: &Reconciler<SimKernel>) -> Option<Changes> {
    let cached = reconciler.cached().and_then(|cached| cached.get(Namespace::Host)).unwrap();
    match pin!(monitor.changed(cached)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(changes) => Some(changes.unwrap()),
        Poll::Pending => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_fails_by_chance_the_desired_state_is_reached_and_nothing_foreign_changes(
        seed in any::<u64>(),
        peers in proptest::collection::btree_map(2..200u8, (2..200u8, 2..250u8), 0..12),
        by_tunnel in any::<bool>(),
    ) {
        let peers: Vec<(u8, u8, u8)> = peers.into_iter().map(|(number, (mac, public))| (number, mac, public)).collect();
        let host = host();
        let before = host.foreign();
        let want = if by_tunnel { PerNamespace::host(tunnelled(state(&peers))) } else { wanted(&peers) };
        let mut reconciler = reconciler(&host);
        host.fail_by_chance(FaultRates { ops: 200, reads: 100 }, seed);
        for _ in 0..5 {
            let _ = reconciler.round(&want);
        }
        host.fail_by_chance(FaultRates::default(), seed);
        reconciler.invalidate();
        let report = reconciler.round(&want);
        prop_assert!(report.converged, "{report:?}");
        prop_assert!(is_reached(&host, &want));
        prop_assert_eq!(host.foreign(), before);
    }
}

#[test]
fn an_agent_that_ends_between_any_two_operations_is_succeeded_by_one_that_finishes() {
    let want = wanted(&[(2, 20, 102), (3, 30, 103)]);
    for ops in 0..10 {
        let host = host();
        let mut first = reconciler(&host);
        host.faults().crash_after(ops);
        let report = first.round(&want);
        assert_eq!(report.converged, ops >= 8, "after {ops}");
        let state = host.state();
        assert!(ops >= 8 || first.driver().has_crashed());
        let _ = first.round(&wanted(&[]));
        assert!(ops >= 8 || host.state() == state, "one that has ended changes nothing");
        assert!(reconciler(&host).round(&want).converged);
        assert!(is_reached(&host, &want));
    }
}

#[test]
fn a_reboot_leaves_what_the_host_has_by_itself() {
    let (host, mut reconciler, _) = settled();
    host.count(name("eth0"), DeviceCounters { received: 1, sent: 1 });
    host.reboot();
    assert!(reconciler.driver().has_crashed());
    assert!(!host.has_link(name("flannel.1")));
    assert!(host.has_link(name("eth0")));
    assert_eq!(host.state().routes.len(), 1);
    assert_eq!(host.traffic().devices[&name("eth0")], DeviceCounters::default());
}

#[test]
fn our_own_writes_are_no_news() {
    let (_, mut reconciler, mut monitor) = settled();
    assert_eq!(heard(&mut monitor, &reconciler), None);
    assert!(reconciler.round(&wanted(&[(3, 30, 103), (4, 40, 104)])).converged);
    assert_eq!(heard(&mut monitor, &reconciler), None);
}

#[test]
fn each_change_by_others_is_heard() {
    let ours = Changes { ours: true, ..Changes::default() };
    let underlay = Changes { underlay: true, ..Changes::default() };
    let in_the_way = NextHop::Link(name("eth0"));
    let device = LinkPlace::in_host(name("flannel.1"));
    type Change<'a> = &'a dyn Fn(&SimHost);
    let cases: [(&str, Changes, Change<'_>); 11] = [
        ("device deleted", ours, &|host| host.delete_link("flannel.1")),
        ("routes flushed", ours, &|host| host.flush_routes("flannel.1")),
        ("FDB flushed", ours, &|host| host.flush_fdb("flannel.1")),
        ("neighbours flushed", ours, &|host| host.flush_neighbours("flannel.1")),
        ("MAC changed", ours, &|host| host.set_mac("flannel.1", mac(77))),
        ("MTU changed", ours, &|host| host.set_mtu("flannel.1", Mtu(1400))),
        ("forwarding set", ours, &|host| host.set_forwarding(wire_net::Family::V4, 1)),
        ("foreign route inside", ours, &|host| host.add_route(prefix("10.5.9.0/24"), in_the_way)),
        ("address of the underlay", underlay, &|host| host.add_address("eth0", "192.0.2.9".parse().unwrap(), 24)),
        ("default route gone", underlay, &|host| host.remove_route(prefix("0.0.0.0/0"))),
        ("notifications lost", Changes::OVERRUN, &SimHost::lose_notifications),
    ];
    for (what, expected, change) in cases {
        let (host, reconciler, mut monitor) = settled();
        assert!(host.state().links.contains_key(&device.name));
        change(&host);
        assert_eq!(heard(&mut monitor, &reconciler), Some(expected), "{what}");
        assert_eq!(heard(&mut monitor, &reconciler), None, "{what} is told once");
    }
}

#[test]
fn a_link_of_the_underlay_that_goes_down_takes_its_routes_and_brings_them_back() {
    let (host, reconciler, mut monitor) = settled();
    let default = RouteKey::main(prefix("0.0.0.0/0"));
    host.set_down("eth0");
    assert!(heard(&mut monitor, &reconciler).unwrap().underlay);
    assert!(!host.state().routes.contains_key(&default));
    host.set_up("eth0");
    assert!(heard(&mut monitor, &reconciler).unwrap().underlay);
    assert!(host.state().routes.contains_key(&default));
}

#[test]
fn a_bridge_elsewhere_is_no_news() {
    let (host, reconciler, mut monitor) = settled();
    host.add_link("br0", ObservedKind::Bridge(Bridge::default()), Some(mac(50)), Mtu(1500));
    assert_eq!(heard(&mut monitor, &reconciler), None);
}

#[test]
fn the_devices_of_a_network_on_bridges_are_never_the_underlay() {
    let (host, ..) = settled();
    host.add_link("wb.5000", ObservedKind::Bridge(Bridge::default()), Some(mac(50)), Mtu(1450));
    host.add_link("wb.lan", ObservedKind::Bridge(Bridge::default()), Some(mac(51)), Mtu(1500));
    let network = host.network([]);
    let why = |name: &str| {
        let link = network.links.iter().find(|link| link.name.as_str() == name).unwrap();
        link.why_unusable(&wire_net::DualStack::default())
    };
    assert_eq!((why("wb.5000"), why("wb.lan")), (Some("a device of an overlay"), None));
}

#[test]
fn the_facts_of_a_host_are_those_of_its_state() {
    let (host, ..) = settled();
    let far = "198.51.100.1".parse().unwrap();
    let network = host.network([far]);
    let names: Vec<&str> = network.links.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["lo", "eth0", "flannel.1"]);
    assert!(network.links[0].is_loopback);
    assert_eq!(network.default_routes.v4, Some(vec![2]));
    assert_eq!(network.routers, [(2, "192.0.2.254".parse().unwrap())]);
    let resolved = network.resolved[&far].clone().unwrap();
    assert_eq!(resolved.link, 2);
    assert_eq!(resolved.source, Some("192.0.2.1".parse().unwrap()));
    let nics = host.nics();
    assert_eq!(nics[0].origin, MacOrigin::Card(mac(99)));
    assert_eq!(nics[1].origin, MacOrigin::Host);
    host.add_link("docker0", ObservedKind::Bridge(Bridge::default()), Some(mac(50)), Mtu(1500));
    host.add_address("docker0", "10.5.1.1".parse().unwrap(), 24);
    let links = host.container_links(&[prefix("10.5.1.0/24")]);
    assert_eq!(links.len(), 1);
    assert!(links[0].holds(&[prefix("10.5.1.0/24")]));
}

#[test]
fn a_planned_fault_fails_its_operation_alone() {
    let host = host();
    let mut reconciler = reconciler(&host);
    host.faults().fail_next("add route", ErrorKind::Permission);
    let report = reconciler.round(&wanted(&[(2, 20, 102)]));
    assert_eq!(report.failed, 1);
    assert!(report.converged, "the second attempt succeeds");
}

//! Any entry that is removed is named as the reason.

use super::*;
use crate::{FdbKey, ForwardKey, NeighbourKey};

const PEER: Peer = (7, 7, 7);

/// A host with one peer, after a fault; the packet goes to that peer's containers.
fn after(fault: impl FnOnce(&mut ObservedNet, &mut Surroundings)) -> Outcome {
    let (mut net, mut host) = (found(&state(&[PEER, (8, 8, 8)])), underlay());
    assert_eq!(sent_to(&from_container(&net, &host, ip("10.5.7.9"))), Some(public(PEER)));
    fault(&mut net, &mut host);
    from_container(&net, &host, ip("10.5.7.9")).outcome
}

fn flannel() -> LinkName {
    name("flannel.1")
}

#[test]
fn a_missing_route_is_named() {
    let outcome = after(|net, _| _ = net.routes.remove(&RouteKey::main(prefix("10.5.7.0/24"))));
    assert_eq!(outcome.to_string(), "dropped: no route to 10.5.7.9");
}

#[test]
fn a_missing_neighbour_is_named() {
    let key = NeighbourKey { link: flannel(), address: ip("10.5.7.0") };
    let outcome = after(|net, _| _ = net.neighbours.remove(&key));
    assert_eq!(outcome.to_string(), "dropped: no neighbour entry for 10.5.7.0 on flannel.1");
}

#[test]
fn a_missing_fdb_entry_is_named() {
    let key = FdbKey { link: flannel(), mac: crate::samples::mac(7) };
    let outcome = after(|net, _| _ = net.fdb.remove(&key));
    assert_eq!(outcome.to_string(), "dropped: no FDB entry for 02:00:00:00:00:07 on flannel.1");
}

#[test]
fn a_missing_entry_of_a_tunnel_is_named() {
    let mut net = found(&tunnelled(state(&[PEER])));
    net.forwarding.remove(&ForwardKey { link: flannel(), destination: prefix("10.5.7.0/24") });
    let outcome = from_container(&net, &underlay(), ip("10.5.7.9")).outcome;
    assert_eq!(outcome.to_string(), "dropped: tunnel flannel.1 knows no host for 10.5.7.9");
}

#[test]
fn a_missing_route_of_the_underlay_is_named() {
    let outcome = after(|_, host| _ = host.routes.remove(&RouteKey::main(prefix("192.0.2.0/24"))));
    assert_eq!(outcome.to_string(), "dropped: no route to 192.0.2.7");
}

#[test]
fn a_foreign_blackhole_is_named() {
    let key = RouteKey::main(prefix("10.5.7.8/30"));
    let outcome = after(|_, host| _ = host.routes.insert(key, HostRoute::Via(NextHop::Blackhole)));
    assert_eq!(outcome.to_string(), "dropped: route blackhole 10.5.7.8/30 drops it");
}

#[test]
fn a_link_that_is_down_is_named() {
    let down = |_: &mut ObservedNet, host: &mut Surroundings| {
        host.links.insert(name("eth0"), ObservedLink { up: false, ..hardware(2) });
    };
    assert_eq!(after(down).to_string(), "dropped: eth0 is down");
}

#[test]
fn a_link_without_a_carrier_is_named() {
    let outcome = after(|_, host| _ = host.without_carrier.insert(name("eth0")));
    assert_eq!(outcome.to_string(), "dropped: eth0 has no carrier");
}

#[test]
fn a_host_that_does_not_forward_is_named_by_its_setting() {
    let setting = Setting::LinkForwarding(wire_net::Family::V4, docker());
    let outcome = after(|net, _| _ = net.settings.insert(setting, 0));
    assert_eq!(outcome.to_string(), "dropped: net.ipv4.conf.docker0.forwarding is 0");
}

#[test]
fn a_source_that_is_this_hosts_own_is_named() {
    let (net, host) = (found(&state(&[PEER])), underlay());
    let state = HostState { net: &net, surroundings: &host, firewall: None };
    let way = trace(&state, &Packet::new(ip("192.0.2.1"), ip("10.5.7.9")), Entry::Link(docker()));
    assert_eq!(way.outcome, Outcome::Dropped(Reason::OwnSource(ip("192.0.2.1"), docker())));
}

#[test]
fn a_checked_link_drops_sources_that_are_answered_elsewhere() {
    let (net, mut host) = (found(&state(&[PEER])), underlay());
    host.reverse_path.insert(docker(), super::super::ReversePath::Strict);
    let state = HostState { net: &net, surroundings: &host, firewall: None };
    let way = trace(&state, &Packet::new(ip("192.0.2.9"), ip("10.5.7.9")), Entry::Link(docker()));
    assert_eq!(way.outcome, Outcome::Dropped(Reason::ReversePath(ip("192.0.2.9"), docker())));
}

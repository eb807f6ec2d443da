//! Backends that reach peers on the underlay's link without encapsulation.

use super::*;

const HOST_GW: &str = r#"{"PublicIP":"192.0.2.2","PublicIPv6":"2001:db8::2","BackendType":"host-gw"}"#;

#[test]
fn host_gw_routes_to_peers_on_the_link_and_has_no_device() {
    let behind_router = r#"{"PublicIP":"198.51.100.3","PublicIPv6":"2001:db8:3::3","BackendType":"host-gw"}"#;
    let peers = [
        ("10.5.2.0-24&fd00:5:0:2::-64", HOST_GW),
        ("10.5.3.0-24&fd00:5:0:3::-64", behind_router),
        ("10.5.4.0-24&fd00:5:0:4::-64", PEER),
    ];
    insta::assert_snapshot!(report(&config(BOTH, "host-gw"), "10.5.0.0-24&fd00:5::-64", &peers, true), @"
    mtu 1500
    set sysctl net.ipv4.ip_forward = 1
    set sysctl net.ipv6.conf.all.forwarding = 1
    set sysctl net.ipv4.conf.eth0.forwarding = 1
    set sysctl net.ipv6.conf.eth0.forwarding = 1
    add route 10.5.0.0/24 metric 4294967295 blackhole
    add route 10.5.2.0/24 via 192.0.2.2 dev eth0
    add route fd00:5::/64 metric 4294967295 blackhole
    add route fd00:5:0:2::/64 via 2001:db8::2 dev eth0
    ");
    let backend = select(&config(BOTH, "host-gw"), placement()).unwrap();
    let (_, table) = leases((peers[0].0, OWN), &peers);
    let beyond = table.peers.values().filter_map(|peer| backend.beyond_link(&peer.lease)).collect::<Vec<_>>();
    assert_eq!(beyond, [ip("198.51.100.3")], "PEER is of another backend, and on the link");
}

fn direct_routing() -> NetworkConfig {
    let json = br#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#;
    NetworkConfig::from_json(json).unwrap()
}

#[test]
fn direct_routing_takes_the_link_to_peers_that_are_on_it_and_the_overlay_to_all_others() {
    let router =
        r#"{"PublicIP":"198.51.100.3","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0a:00:00:00:00:03"}}"#;
    let peers = [("10.5.2.0-24", PEER), ("10.5.3.0-24", router)];
    insta::assert_snapshot!(report(&direct_routing(), "10.5.0.0-24", &peers, false), @"
    mtu 1450
    create link flannel.1: vxlan vni 1 dev eth0 local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:04 mtu 1450 up
    set sysctl net.ipv4.ip_forward = 1
    set sysctl net.ipv4.conf.eth0.forwarding = 1
    set sysctl net.ipv4.conf.flannel/1.forwarding = 1
    add address 10.5.0.0/32 dev flannel.1
    set FDB entry 0a:00:00:00:00:02 dev flannel.1 dst 192.0.2.2
    set FDB entry 0a:00:00:00:00:03 dev flannel.1 dst 198.51.100.3
    set neighbour 10.5.2.0 dev flannel.1 lladdr 0a:00:00:00:00:02
    set neighbour 10.5.3.0 dev flannel.1 lladdr 0a:00:00:00:00:03
    add route 10.5.2.0/24 via 192.0.2.2 dev eth0
    add route 10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink
    ");
}

/// DirectRouting on a host whose link has this prefix.
fn on(link: &str) -> Box<dyn Backend> {
    let mut placement = placement();
    placement.underlay.on_link = vec![link.parse().unwrap()];
    select(&direct_routing(), placement).unwrap()
}

#[test]
fn a_peer_that_moves_off_the_link_costs_one_route_that_is_replaced() {
    let (own, table) = leases(("10.5.0.0-24", OWN), &[("10.5.2.0-24", PEER)]);
    let desired = |on_link: &str| on(on_link).desired(&own, &table);
    let have = wire_state::samples::held(&desired("192.0.2.0/24"));
    insta::assert_snapshot!(plan_host(&have, &desired("192.0.2.0/31")), @"replace route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink");
}

#[test]
fn a_route_that_flannel_left_is_used_as_it_is_and_goes_or_changes_with_its_lease() {
    let config = config(V4, "host-gw");
    let backend = select(&config, placement()).unwrap();
    let (own, table) = leases(("10.5.0.0-24", OWN), &[("10.5.2.0-24", HOST_GW)]);
    let mut kept = crate::NetFromLeases::new(&*backend, &own, &table);
    let mut have = wire_state::samples::held(kept.net());
    let flannels = |route: &wire_state::ObservedRoute| wire_state::ObservedRoute {
        protocol: 3,
        owner: wire_state::Owner::Foreign,
        ..route.clone()
    };
    have.routes = have.routes.iter().map(|(key, route)| (*key, flannels(route))).collect();
    assert_eq!(plan_host(&have, kept.net()).ops, vec![]);
    // A stale one, of no lease that this run has seen, stays.
    kept.update(&*backend, &own, &LeaseTable::default());
    insta::assert_snapshot!(plan_host(&have, kept.net()), @"delete route 10.5.2.0/24 via 192.0.2.2 dev eth0");
    let nothing = backend.desired(&own, &LeaseTable::default());
    assert_eq!(plan_host(&have, &nothing).ops, vec![]);
    let moved = HOST_GW.replace("192.0.2.2", "192.0.2.9");
    let (_, table) = leases(("10.5.0.0-24", OWN), &[("10.5.2.0-24", &moved)]);
    kept.update(&*backend, &own, &table);
    insta::assert_snapshot!(plan_host(&have, kept.net()), @"replace route 10.5.2.0/24 via 192.0.2.9 dev eth0");
}

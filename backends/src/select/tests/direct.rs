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
fn a_route_that_flannel_left_becomes_ours_in_place_and_goes_with_its_lease_and_a_stale_one_stays() {
    let backend = select(&config(V4, "host-gw"), placement()).unwrap();
    let (own, table) = leases(("10.5.0.0-24", OWN), &[("10.5.2.0-24", HOST_GW)]);
    let wanted = backend.desired(&own, &table);
    let mut have = wire_state::samples::held(&wanted);
    wire_state::samples::change_each(&mut have.routes, |route| {
        (route.protocol, route.owner) = (3, wire_state::Owner::Foreign);
    });
    insta::assert_snapshot!(plan_host(&have, &wanted), @"replace route 10.5.2.0/24 via 192.0.2.2 dev eth0");
    // Nobody's lease has it: it is not known whose it is.
    let nothing = backend.desired(&own, &LeaseTable::default());
    assert_eq!(plan_host(&have, &nothing).ops, vec![]);
    // To another host than the lease's: it is in the way, and named.
    let moved = HOST_GW.replace("192.0.2.2", "192.0.2.9");
    let (_, elsewhere) = leases(("10.5.0.0-24", OWN), &[("10.5.2.0-24", &moved)]);
    let plan = plan_host(&have, &backend.desired(&own, &elsewhere));
    assert_eq!((plan.ops.len(), plan.findings.conflicts.len()), (0, 1));

    let ours = wire_state::samples::held(&wanted);
    insta::assert_snapshot!(plan_host(&ours, &nothing), @"delete route 10.5.2.0/24 via 192.0.2.2 dev eth0");
    // An operator's, who names a protocol: it serves, and stays.
    wire_state::samples::change_each(&mut have.routes, |route| route.protocol = 4);
    assert_eq!(plan_host(&have, &wanted), wire_state::Plan::default());
}

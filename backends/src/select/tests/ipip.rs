//! IPv4 in IPv4.

use super::*;

const IPIP: &str = r#"{"PublicIP":"192.0.2.2","PublicIPv6":null,"BackendType":"ipip"}"#;
const BEHIND_ROUTER: &str = r#"{"PublicIP":"198.51.100.3","PublicIPv6":null,"BackendType":"ipip"}"#;

fn direct_routing() -> NetworkConfig {
    let json = br#"{"Network":"10.5.0.0/16","Backend":{"Type":"ipip","DirectRouting":true}}"#;
    NetworkConfig::from_json(json).unwrap()
}

#[test]
fn ipip_has_one_device_and_a_route_with_the_public_address_as_the_gateway_for_each_peer() {
    let peers = [("10.5.2.0-24", IPIP), ("10.5.3.0-24", BEHIND_ROUTER), ("10.5.4.0-24", PEER)];
    insta::assert_snapshot!(report(&config(V4, "ipip"), "10.5.0.0-24", &peers, true), @"
    mtu 1480
    create link flannel.ipip: ipip local 192.0.2.1 mtu 1480 up
    set sysctl net.ipv4.ip_forward = 1
    set sysctl net.ipv4.conf.flannel/ipip.forwarding = 1
    add address 10.5.0.0/32 dev flannel.ipip
    add route 10.5.0.0/24 metric 4294967295 blackhole
    add route 10.5.2.0/24 via 192.0.2.2 dev flannel.ipip onlink
    add route 10.5.3.0/24 via 198.51.100.3 dev flannel.ipip onlink
    ");
    let backend = select(&config(V4, "ipip"), placement()).unwrap();
    let (own, _) = leases(("10.5.0.0-24", OWN), &[]);
    let own = Lease { data: backend.data(), public: DualStack { v4: Some(ip("192.0.2.1")), v6: None }, ..own };
    let value = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"ipip"}"#;
    assert_eq!(String::from_utf8(own.to_value()).unwrap(), value, "as flannel writes it");
    assert_eq!(identify(&config(V4, "ipip")).unwrap().devices.v4, Some("flannel.ipip".parse().unwrap()));
    assert!(!backend.scope().direct);
}

#[test]
fn direct_routing_of_ipip_takes_the_link_to_peers_that_are_on_it_and_the_device_to_all_others() {
    let peers = [("10.5.2.0-24", IPIP), ("10.5.3.0-24", BEHIND_ROUTER)];
    insta::assert_snapshot!(report(&direct_routing(), "10.5.0.0-24", &peers, false), @"
    mtu 1480
    create link flannel.ipip: ipip local 192.0.2.1 mtu 1480 up
    set sysctl net.ipv4.ip_forward = 1
    set sysctl net.ipv4.conf.eth0.forwarding = 1
    set sysctl net.ipv4.conf.flannel/ipip.forwarding = 1
    add address 10.5.0.0/32 dev flannel.ipip
    add route 10.5.2.0/24 via 192.0.2.2 dev eth0
    add route 10.5.3.0/24 via 198.51.100.3 dev flannel.ipip onlink
    ");
    let backend = select(&direct_routing(), placement()).unwrap();
    assert_eq!(backend.direct(), Some("eth0".parse().unwrap()));
    assert!(backend.scope().direct);
}

/// A route over the device is ours by its device.
#[test]
fn a_device_of_flannels_is_used_as_it_is_and_its_direct_route_becomes_ours_in_place() {
    let (own, table) = leases(("10.5.0.0-24", OWN), &[("10.5.2.0-24", IPIP), ("10.5.3.0-24", BEHIND_ROUTER)]);
    let want = select(&direct_routing(), placement()).unwrap().desired(&own, &table);
    let mut have = wire_state::samples::held(&want);
    for route in have.routes.keys().copied().collect::<Vec<_>>() {
        let found = &have.routes[&route];
        let is_direct = found.via.link() == Some(placement().underlay.link);
        let owner = if is_direct { wire_state::Owner::Foreign } else { wire_state::Owner::Ours };
        let flannels = wire_state::ObservedRoute { protocol: 3, owner, ..found.clone() };
        have.routes.insert(route, flannels);
    }
    insta::assert_snapshot!(plan_host(&have, &want), @"replace route 10.5.2.0/24 via 192.0.2.2 dev eth0");
}

/// flannel makes the device anew too if its source is not the interface's address.
#[test]
fn a_device_that_sends_from_another_address_is_made_anew() {
    let (own, table) = leases(("10.5.0.0-24", OWN), &[("10.5.2.0-24", IPIP)]);
    let desired = |placement| select(&config(V4, "ipip"), placement).unwrap().desired(&own, &table);
    let have = wire_state::samples::held(&desired(placement()));
    let mut moved = placement();
    moved.underlay.addresses.v4 = Some(ip("192.0.2.7"));
    moved.public.v4 = Some(ip("192.0.2.7"));
    insta::assert_snapshot!(plan_host(&have, &desired(moved)), @"
    delete link flannel.ipip
    create link flannel.ipip: ipip local 192.0.2.7 mtu 1480 up
    set sysctl net.ipv4.conf.flannel/ipip.forwarding = 1
    add address 10.5.0.0/32 dev flannel.ipip
    add route 10.5.2.0/24 via 192.0.2.2 dev flannel.ipip onlink
    ");
}

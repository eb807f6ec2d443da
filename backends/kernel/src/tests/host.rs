//! The host's own links and routes.

use std::net::IpAddr;

use super::lab::{self, Lab, run};
use wire_lease::NetworkConfig;
use wire_net::{DualStack, LocalAddress, Mtu, Pool};

use crate::{AddressState, HostAddress, HostLink, HostNetwork, ResolvedRoute, RouteForm};

#[test]
fn without_the_capability_the_error_says_so() {
    lab::in_namespace(|| {
        let lab = Lab::new(1);
        let mut reconciler = lab.reconciler(RouteForm::Nexthop);
        lab::drop_privileges();
        let report = reconciler.round(&lab.want());
        assert!(!report.converged);
        insta::assert_snapshot!(
            report.failures[0],
            @"create link flannel-v6.1: vxlan vni 1 dev wb-up local 2001:db8::1 port 8472 nolearning mac 02:00:00:00:00:06 mtu 1430 up: not allowed: the agent needs CAP_NET_ADMIN: Operation not permitted (os error 1) (and 1 more)"
        );
    });
}

#[test]
fn the_host_is_read_as_the_kernel_has_it() {
    lab::in_namespace(|| {
        let _lab = Lab::new(0);
        run("ip link add docker0 type bridge; ip addr add 10.5.0.1/24 dev docker0; ip link set docker0 up");
        run("ip route add default via 192.0.2.254 metric 20; ip route add default via 10.5.0.9 metric 10");
        run("ip -6 addr add 2001:db8::9/64 dev wb-up nodad preferred_lft 0");
        run(
            "ip addr add 192.0.2.9/24 broadcast 192.0.2.100 dev wb-up; ip addr add 198.51.100.1 peer 203.0.113.7/25 dev wb-up",
        );
        let target: IpAddr = "198.51.100.200".parse().unwrap();
        let host = HostNetwork::read([target]).unwrap();
        let (up, bridge) =
            (host.link("wb-up".parse().unwrap()).unwrap(), host.link("docker0".parse().unwrap()).unwrap());
        assert!(host.links.iter().filter(|link| link.is_loopback).map(|link| link.name.as_str()).eq(["lo"]));
        assert!(host.links.is_sorted_by_key(|link| link.index));
        assert_eq!(up.mtu.0, 1500);
        assert_eq!(bridge.kind.as_str(), "bridge");
        assert_eq!(host.default_routes.v4, Some(vec![bridge.index, up.index]), "by their metrics");
        let routers = ["10.5.0.9", "192.0.2.254"].map(|router| router.parse().unwrap());
        assert_eq!(host.routers, [(bridge.index, routers[0]), (up.index, routers[1])]);
        assert_eq!(
            host.resolved[&target],
            Ok(ResolvedRoute { link: bridge.index, source: Some("10.5.0.1".parse().unwrap()) })
        );
        let of = |address: &str| {
            up.addresses.iter().find(|own| own.local.address == address.parse::<IpAddr>().unwrap()).unwrap()
        };
        assert_eq!(of("192.0.2.9").state, AddressState::Stable, "not the first of its prefix, but no worse");
        assert_eq!(of("192.0.2.9").local.broadcast, Some("192.0.2.100".parse().unwrap()));
        assert_eq!(of("198.51.100.1").local.prefix, "203.0.113.0/25".parse().unwrap());
        assert_eq!(of("2001:db8::1").state, AddressState::Stable);
        assert_eq!(of("2001:db8::9").state, AddressState::Deprecated);
        run("ip route flush 0/0");
        let host = HostNetwork::read([target]).unwrap();
        assert_eq!(host.default_routes.v4, Some(Vec::new()));
        assert!(host.resolved[&target].as_ref().unwrap_err().contains("unreachable"), "{:?}", host.resolved);
    });
}

fn pools(json: &str) -> DualStack<Pool> {
    NetworkConfig::from_json(json.as_bytes()).unwrap().pools
}

/// A link of the host, by its name, kind and addresses.
fn link(index: u32, name: &str, kind: &str, addresses: &[&str]) -> HostLink {
    let address = |text: &&str| {
        let (address, len) = text.split_once('/').unwrap();
        let local = LocalAddress::new(address.parse().unwrap(), len.parse().unwrap()).unwrap();
        HostAddress { local, state: AddressState::Stable }
    };
    HostLink {
        name: name.parse().unwrap(),
        index,
        kind: kind.to_owned(),
        is_loopback: false,
        mtu: Mtu(1500),
        mac: None,
        addresses: addresses.iter().map(address).collect(),
    }
}

#[test]
fn prefixes_of_overlay_devices_are_left_out_and_those_of_bridges_are_listed_apart() {
    let host = HostNetwork {
        links: vec![
            link(2, "br0", "bridge", &["10.240.0.2/24", "fd99::2/64"]),
            link(3, "flannel0", "tun", &["10.13.0.0/32"]),
            link(4, "flannel-v6.1", "tun", &["fd00:5:0:9::/128"]),
            link(5, "flannel.7", "vxlan", &["10.14.0.0/32"]),
            link(6, "docker0", "bridge", &["10.13.0.1/20"]),
            link(7, "virbr0", "bridge", &["10.98.0.1/24"]),
            link(8, "tun0", "tun", &["10.50.0.1/24"]),
            link(9, "eth1", "", &["10.60.0.1/24"]),
            link(10, "br1", "bridge", &["10.100.0.1/24", "192.168.0.1/16"]),
            link(11, "flannel0x", "tun", &["10.51.0.1/32"]),
        ],
        routers: vec![(2, "10.11.0.1".parse().unwrap()), (6, "10.13.0.2".parse().unwrap())],
        ..HostNetwork::default()
    };
    let found = |json: &str| {
        let underlay = host.underlay(&host.links[0], DualStack::default(), &pools(json));
        let connected: Vec<String> = underlay.connected.iter().map(ToString::to_string).collect();
        let attached: Vec<String> = underlay.attached.iter().map(|(link, prefix)| format!("{link} {prefix}")).collect();
        (connected.join(" "), attached.join(" "))
    };
    let range = r#"{"Network":"10.0.0.0/8","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0"}"#;
    let (connected, attached) = found(range);
    let others = "10.50.0.0/24 10.60.0.0/24 10.100.0.0/24 192.168.0.0/16 10.51.0.1/32 10.11.0.1/32";
    assert_eq!(connected, format!("10.240.0.0/24 fd99::/64 {others}"));
    assert_eq!(attached, "docker0 10.13.0.0/20 virbr0 10.98.0.0/24");
    // The overlay was chosen inside a bridge's own prefix on purpose.
    assert_eq!(found(r#"{"Network":"192.168.0.0/16"}"#).1, "");
    assert_eq!(found(r#"{"Network":"10.98.0.0/16"}"#).1, "virbr0 10.98.0.0/24");
}

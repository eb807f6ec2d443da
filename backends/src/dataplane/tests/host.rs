//! The host around us.

use std::net::IpAddr;

use super::lab::{self, Lab, run};
use crate::{Host, RouteForm, UnderlayChoice};

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
fn the_underlay_is_found_in_each_way() {
    lab::in_namespace(|| {
        let _lab = Lab::new(0);
        run("ip link add docker0 type bridge; ip addr add 10.5.0.1/24 dev docker0; ip link set docker0 up");
        run("ip route add default via 192.0.2.254 metric 10; ip route add default via 10.5.0.9 metric 20");
        let host = Host::read().unwrap();
        let networks = ["10.5.0.0/16".parse().unwrap()];
        let reach: IpAddr = "198.51.100.1".parse().unwrap();
        for choice in [
            UnderlayChoice::Name("wb-up".parse().unwrap()),
            UnderlayChoice::Address("192.0.2.1".parse().unwrap()),
            UnderlayChoice::Reach(reach),
            UnderlayChoice::DefaultRoute,
        ] {
            let underlay = host.underlay(&choice, &networks).unwrap();
            assert_eq!((underlay.link.as_str(), underlay.mtu.0), ("wb-up", 1500), "{choice:?}");
            assert_eq!(underlay.addresses.v4, Some("192.0.2.1".parse().unwrap()));
            assert_eq!(underlay.addresses.v6, Some("2001:db8::1".parse().unwrap()));
            assert!(underlay.connected.contains(&"192.0.2.0/24".parse().unwrap()));
            assert!(!underlay.connected.contains(&"10.5.0.0/24".parse().unwrap()));
        }
        let missing = host.underlay(&UnderlayChoice::Name("eth9".parse().unwrap()), &networks).unwrap_err();
        assert!(missing.to_string().starts_with("this host has no link eth9; it has lo"), "{missing}");
        run("ip route flush 0/0");
        let none = Host::read().unwrap().underlay(&UnderlayChoice::DefaultRoute, &networks).unwrap_err();
        assert!(none.to_string().contains("--iface"), "{none}");
    });
}

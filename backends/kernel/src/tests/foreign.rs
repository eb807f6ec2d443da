//! Entries that are not ours.

use std::{net::Ipv4Addr, time::Instant};

use wire_net::Family;
use wire_state::{
    Conflict, DesiredNet, FdbKey, NextHop, Owner, RouteKey,
    samples::{device, held, plan_host, state, tunnelled},
};

use super::{
    FORMS,
    lab::{self, Lab, run, run_fails},
};
use crate::{Monitor, NetlinkDataplane, RouteForm};

#[test]
fn a_foreign_route_in_the_place_of_ours_is_named_and_not_changed() {
    for form in FORMS {
        lab::in_namespace(move || {
            let lab = Lab::new(3);
            run("ip route add 10.5.2.0/24 via 192.0.2.254 proto static");
            let mut reconciler = lab.reconciler(form);
            let report = reconciler.round(&lab.want());
            assert!(report.converged, "{report:?}");
            let said: Vec<String> = report.findings.conflicts.iter().map(ToString::to_string).collect();
            let expected = "10.5.2.0/24 is taken by a route of protocol static with metric 0: via 192.0.2.254 dev wb-up; \
                            remove it";
            assert_eq!(said, [expected]);
            assert!(run("ip route show 10.5.2.0/24").contains("via 192.0.2.254"));
            assert_eq!(lab::count("ip -j route show dev flannel.1"), 2);
            run("ip route del 10.5.2.0/24");
            reconciler.invalidate();
            assert_eq!(reconciler.round(&lab.want()).findings.conflicts, []);
            lab.assert_whole();
        });
    }
}

#[test]
fn a_route_inside_a_peers_subnet_is_named_while_it_is_there_and_stops_nothing() {
    lab::in_namespace(|| {
        let lab = Lab::new(3);
        let want = lab.want();
        let mut reconciler = lab.reconciler(RouteForm::default());
        let _ = reconciler.round(&want);
        let runtime = lab::runtime();
        let _inside = runtime.enter();
        let mut monitor = Monitor::open(reconciler.scope().clone()).unwrap();
        let v4 = "the route 10.5.2.128/25 via 192.0.2.254 dev wb-up of protocol static takes packets for 10.5.2.0/24";
        let v6 = "the route fd00:5:2::9/128 metric 5 via 2001:db8::9 dev wb-up of protocol bird takes packets for \
                  fd00:5:2::/64";
        for (route, expected) in [
            ("10.5.2.128/25 via 192.0.2.254 proto static", v4),
            ("fd00:5:2::9/128 via 2001:db8::9 proto bird metric 5", v6),
        ] {
            for (change, expected) in [("add", expected), ("del", "")] {
                lab::settle(&mut monitor, &reconciler);
                run(&format!("ip route {change} {route}"));
                assert!(monitor.drain(reconciler.cached().unwrap()).unwrap().ours, "{change} {route} wakes nobody");
                reconciler.invalidate();
                let report = reconciler.round(&want);
                assert!(report.converged, "{report:?}");
                assert!(report.findings.conflicts.is_empty(), "{report:?}");
                assert_eq!(report.written, 0, "{report:?}");
                let said = report.findings.detours.to_string();
                assert!(said.starts_with(expected), "{said}");
                assert!(said.is_empty() == expected.is_empty(), "{said}");
            }
        }
    });
}

#[test]
fn a_route_added_between_read_and_write_is_not_overwritten() {
    for form in FORMS {
        lab::in_namespace(move || {
            let lab = Lab::new(3);
            let mut reconciler = lab.reconciler(form);
            let want = lab.want();
            let mut fewer = want.clone();
            fewer.routes.clear();
            let _ = reconciler.round(&fewer);
            run("ip route add 10.5.2.0/24 via 192.0.2.254 proto static");
            let report = reconciler.round(&want);
            assert_eq!(report.findings.conflicts.len(), 1, "{report:?}");
            assert!(report.converged);
            assert_eq!(report.failed, 1);
            assert!(run("ip route show 10.5.2.0/24").contains("via 192.0.2.254"));
        });
    }
}

#[test]
fn foreign_devices_are_named_and_not_changed() {
    lab::in_namespace(|| {
        let lab = Lab::new(2);
        run(
            "ip link add flannel.1 type bridge; ip link add other6 type vxlan id 1 local 2001:db8::1 dev wb-up dstport 8472",
        );
        let mut reconciler = lab.reconciler(RouteForm::default());
        let report = reconciler.round(&lab.want());
        assert!(report.converged, "{report:?}");
        assert!(
            matches!(&report.findings.conflicts[0], Conflict::Vni { holder, .. } if holder.as_str() == "other6"),
            "{report:?}"
        );
        assert!(
            matches!(&report.findings.conflicts[1], Conflict::Name { link, .. } if link.name.as_str() == "flannel.1"),
            "{report:?}"
        );
        assert!(run("ip -d link show flannel.1").contains("bridge"));
        run("ip link del flannel.1; ip link del other6");
        reconciler.invalidate();
        assert_eq!(reconciler.round(&lab.want()).findings.conflicts, []);
        lab.assert_whole();
    });
}

/// Commands that make a foreign device with one of our names.
const FOREIGN: [&str; 6] = [
    "ip link add flannel.1 type vxlan id 7 dev wb-up dstport 8472 nolearning",
    "ip link add flannel.1 type vxlan id 1 dev wb-up dstport 4789 nolearning",
    "ip link add flannel.1 type vxlan id 1 dev wb-up remote 192.0.2.9 dstport 8472 nolearning",
    "ip link add flannel.1 type vxlan id 1 dev wb-up dstport 8472",
    "ip link add flannel.1 type vxlan external dstport 4789",
    "ip tuntap add flannel.1 mode tun",
];

#[test]
fn a_foreign_device_with_our_name_is_named_and_not_changed_nor_are_its_routes() {
    for made in FOREIGN {
        lab::in_namespace(move || {
            let lab = Lab::new(2);
            run(&format!("{made}; ip link set flannel.1 up; ip route add 10.5.77.0/24 dev flannel.1 proto static"));
            let index = lab::index("flannel.1");
            let (mut reconciler, want) = (lab.reconciler(RouteForm::default()), lab.want());
            let report = reconciler.round(&want);
            let name = |conflict: &&Conflict| matches!(conflict, Conflict::Name { link, .. } if link.name.as_str() == "flannel.1");
            assert_eq!(report.findings.conflicts.iter().filter(name).count(), 1, "{made}: {report:?}");
            assert!(
                report.findings.conflicts[0]
                    .to_string()
                    .contains("flannel.1 cannot be made, because another device has this name"),
                "{report:?}"
            );
            assert_eq!(index, lab::index("flannel.1"), "{made}");
            assert_eq!(lab::count("ip -j route show dev flannel.1"), 1, "{made}");
            // With a MAC of ours it is ours, with any settings.
            if made.contains("vxlan") {
                run("ip link set flannel.1 address 02:00:00:00:00:01");
                reconciler.invalidate();
                assert_eq!(reconciler.round(&want).findings.conflicts, [], "{made}");
                lab.assert_whole();
            }
        });
    }
}

#[test]
fn one_of_flannels_form_on_another_link_is_named_with_that_link() {
    lab::in_namespace(|| {
        let lab = Lab::new(2);
        run("ip link add wb-two type bridge; ip link set wb-two up");
        run("ip link add flannel.1 type vxlan id 1 dev wb-two dstport 8472 nolearning");
        let index = lab::index("flannel.1");
        let report = lab.reconciler(RouteForm::default()).round(&lab.want());
        let said = report.findings.conflicts[0].to_string();
        assert!(
            said.contains("sends through wb-two, and the underlay is wb-up: start wire-agent with --iface=wb-two"),
            "{said}"
        );
        assert_eq!(lab::index("flannel.1"), index);
    });
}

#[test]
fn a_parent_that_is_renamed_is_the_same() {
    lab::in_namespace(|| {
        let lab = Lab::new(2);
        let mut reconciler = lab.reconciler(RouteForm::default());
        assert!(reconciler.round(&lab.want()).converged);
        let index = lab::index("flannel.1");
        run("ip link set wb-up down; ip link set wb-up name wb-new; ip link set wb-new up");
        reconciler.invalidate();
        let report = reconciler.round(&lab.want());
        assert!(report.converged, "{report:?}");
        assert!(report.failures.is_empty(), "{report:?}");
        assert!(report.findings.conflicts.is_empty(), "{report:?}");
        assert_eq!(lab::index("flannel.1"), index);
    });
}

#[test]
fn a_device_that_has_our_udp_port_is_named_with_the_remedy() {
    let devices = [
        ("type vxlan external dstport 8472", "cx collects metadata (external) on UDP port 8472"),
        ("type vxlan id 9 gbp local 192.0.2.1 dstport 8472", "cx has group policies (gbp) on UDP port 8472"),
        ("type vxlan external gpe dstport 8472", "cx collects metadata (external) on UDP port 8472"),
        ("type vxlan id 9 udp6zerocsumrx local 192.0.2.1 dstport 8472", "(udp6zerocsumrx) on UDP port 8472"),
    ];
    for (made, said) in devices {
        lab::in_namespace(move || {
            let lab = Lab::new(1);
            run(&format!("ip link add cx {made}; ip link set cx up"));
            let (mut reconciler, want) =
                (lab.reconciler_of(RouteForm::default(), &[Family::V4]), lab.want_of(&[Family::V4]));
            let report = reconciler.round(&want);
            assert!(report.failures.is_empty(), "{report:?}");
            let conflict = report.findings.conflicts[0].to_string();
            assert!(conflict.starts_with("flannel.1 cannot be made"), "{conflict}");
            assert!(conflict.contains(said), "{conflict}");
            assert!(conflict.ends_with("remove it or set another Backend.Port in the network config"), "{conflict}");
            // A device that is down does not use its port.
            run("ip link set cx down");
            reconciler.invalidate();
            let report = reconciler.round(&want);
            assert!(report.converged, "{report:?}");
            assert!(report.findings.conflicts.is_empty(), "{report:?}");
        });
    }
}

#[test]
fn a_process_that_has_our_udp_port_is_named_and_no_capability_is() {
    lab::in_namespace(|| {
        let lab = Lab::new(1);
        let socket = std::net::UdpSocket::bind("0.0.0.0:8472").unwrap();
        let (mut reconciler, want) =
            (lab.reconciler_of(RouteForm::default(), &[Family::V4]), lab.want_of(&[Family::V4]));
        let said = reconciler.round(&want).failures[0].to_string();
        assert!(said.contains("something else holds UDP port 8472: wire_kernel"), "{said}");
        assert!(said.contains("or set another Backend.Port in the network config"), "{said}");
        drop(socket);
        assert!(reconciler.round(&want).converged);
        run("ip link show flannel.1");
    });
}

#[test]
fn a_tunnel_of_ours_shares_its_port_with_no_vxlan_device() {
    let mut others = DesiredNet::default();
    others.links.insert("vx7".parse().unwrap(), device(9));
    let mut have = held(&others);
    have.links.values_mut().for_each(|link| link.owner = Owner::Foreign);
    insta::assert_snapshot!(plan_host(&have, &tunnelled(state(&[]))), @"CONFLICT flannel.1 cannot be made: vx7 is a VXLAN device (vni 1) on UDP port 8472, and cannot share it with wire-agent's device; remove it or set another Backend.Port in the network config");
}

#[test]
fn a_drained_host_has_no_entries_of_ours_and_all_foreign_ones() {
    lab::in_namespace(|| {
        let lab = Lab::new(5);
        run("ip route add 10.5.77.0/24 via 192.0.2.254; ip route add blackhole 10.5.78.0/24 proto static");
        let mut want = lab.want();
        let key = RouteKey { metric: u32::MAX, ..RouteKey::main("10.5.0.0/24".parse().unwrap()) };
        want.routes.insert(key, NextHop::Blackhole);
        let key = RouteKey { metric: u32::MAX, ..RouteKey::main("fd00:5::/64".parse().unwrap()) };
        want.routes.insert(key, NextHop::Blackhole);
        let mut reconciler = lab.reconciler(RouteForm::Nexthop);
        assert!(reconciler.round(&want).converged);
        assert!(run("ip route").contains("blackhole 10.5.0.0/24 proto 91 metric 4294967295"));
        assert!(run("ip -6 route").contains("blackhole fd00:5::/64"));
        let mut restarted = lab.reconciler(RouteForm::Nexthop);
        assert_eq!(restarted.round(&want).written, 0);
        let report = restarted.round(&DesiredNet::default());
        assert!(report.converged, "{report:?}");
        run_fails("ip link show flannel.1");
        run_fails("ip link show flannel-v6.1");
        assert_eq!(lab::count("ip -j route show root 10.5.0.0/16"), 2);
        assert!(!run("ip -6 route").contains("fd00:5::"));
        assert_eq!(run("ip nexthop"), "");
    });
}

#[test]
fn foreign_routes_outside_the_overlay_are_not_kept_in_memory() {
    lab::in_namespace(|| {
        let lab = Lab::new(2);
        let lines: String = (0..20_000u32)
            .map(|n| format!("route add {}/32 dev wb-up\n", Ipv4Addr::from_bits(0x0b00_0000 + n)))
            .collect();
        lab::batch(&lines);
        let mut reconciler = lab.reconciler(RouteForm::Nexthop);
        let _ = reconciler.round(&lab.want());
        let from = Instant::now();
        reconciler.preview(&lab.want()).unwrap();
        eprintln!("a read beside 20 000 foreign routes: {:?}", from.elapsed());
        assert_eq!(reconciler.cached().unwrap().routes.len(), 4);
    });
}

#[test]
fn all_entries_on_our_devices_are_ours_and_no_others() {
    lab::in_namespace(|| {
        let lab = Lab::new(1);
        let mut reconciler = lab.reconciler(RouteForm::Plain);
        let _ = reconciler.round(&lab.want());
        run("ip route add 10.5.50.0/24 dev wb-up proto static; ip route add 10.5.51.0/24 dev flannel.1 proto static");
        let plan = reconciler.preview(&lab.want()).unwrap();
        insta::assert_snapshot!(plan, @"delete route 10.5.51.0/24 dev flannel.1");
        let have = reconciler.cached().unwrap();
        let key = RouteKey::main("10.5.50.0/24".parse().unwrap());
        assert_eq!(have.routes[&key].owner, Owner::Foreign);
        let link = "flannel.1".parse().unwrap();
        assert!(have.fdb.keys().all(|FdbKey { link: on, .. }| *on == link || on.as_str() == "flannel-v6.1"));
    });
}

#[test]
fn what_others_add_to_our_device_for_flooded_frames_is_removed_whatever_way_it_names() {
    lab::in_namespace(|| {
        let lab = Lab::new(1);
        let mut reconciler = lab.reconciler(RouteForm::Plain);
        assert!(reconciler.round(&lab.want()).converged);
        for way in ["", "port 4789", "vni 7", "via wb-up", "port 4789 vni 7 via wb-up"] {
            for mac in ["00:00:00:00:00:00", "01:00:5e:00:00:09"] {
                run(&format!("bridge fdb append {mac} dev flannel.1 dst 192.0.2.9 {way}"));
                run(&format!("bridge fdb append {mac} dev flannel.1 dst 192.0.2.9 port 99"));
                reconciler.invalidate();
                assert_eq!(reconciler.round(&lab.want()).removed, 2, "{mac} {way}");
                lab.assert_whole();
                reconciler.invalidate();
                assert_eq!(reconciler.round(&lab.want()).removed, 0, "{mac} {way}");
            }
        }
    });
}

#[test]
fn a_kernel_that_has_vxlan_is_asked_whether_it_lacks_it_and_nothing_is_made() {
    lab::in_namespace(|| {
        let before = run("ip -o link");
        assert!(!NetlinkDataplane::open(RouteForm::default()).unwrap().lacks_vxlan());
        assert_eq!(run("ip -o link"), before);
    });
}

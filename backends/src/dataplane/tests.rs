//! On the real kernel, each test in a fresh network namespace of its own. What is there is checked through `ip` and `bridge`.

pub(crate) mod lab;

use std::{
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use lab::{Lab, run, run_fails};
use wire_lease::Family;

use super::{Dataplane, ErrorKind, Host, Monitor, NetlinkDataplane, RouteForm, UnderlayChoice};
use crate::{Conflict, FdbKey, NetState, Op, Owner, Route, RouteKey, Via};

const FORMS: [RouteForm; 3] = [RouteForm::Auto, RouteForm::Nexthop, RouteForm::Plain];

#[test]
fn fifty_peers_of_both_families_are_exactly_what_ip_shows() {
    for form in FORMS {
        lab::in_namespace(move || {
            let lab = Lab::new(50);
            let mut reconciler = lab.reconciler(form);
            let report = reconciler.round(&lab.want());
            assert!(report.converged, "{report:?}");
            lab.assert_whole();
            assert_eq!(lab::count("ip -4 -j route show dev flannel.1"), 50);
            assert_eq!(lab::count("ip -6 -j route show dev flannel-v6.1 proto 91"), 50);
            assert_eq!(lab::count("bridge -j fdb show dev flannel.1"), 50);
            let link = run("ip -d link show flannel.1");
            for part in
                ["vxlan id 1 local 192.0.2.1 dev wb-up", "dstport 8472 nolearning", "mtu 1450", "02:00:00:00:00:01"]
            {
                assert!(link.contains(part), "{part}: {link}");
            }
            assert!(run("ip -d link show flannel-v6.1").contains("mtu 1430"));
            let address = run("ip -6 -o addr show dev flannel-v6.1 scope global");
            assert!(address.contains("fd00:5::/128") && !address.contains("tentative"), "{address}");
            assert_eq!(run("cat /proc/sys/net/ipv6/conf/flannel-v6.1/accept_ra").trim(), "0");
        });
    }
}

#[test]
fn a_second_round_and_a_restart_write_nothing() {
    for form in FORMS {
        lab::in_namespace(move || {
            let lab = Lab::new(20);
            lab.reconciler(form).round(&lab.want());
            let mut monitor = lab::Ear::open();
            let mut again = lab.reconciler(form);
            let report = again.round(&lab.want());
            assert_eq!((report.written, report.removed, report.converged), (0, 0, true), "{report:?}");
            let third = again.round(&lab.want());
            assert!(!third.read_back && third.converged);
            assert_eq!(monitor.heard(), "");
        });
    }
}

#[test]
fn what_ip_and_bridge_made_in_flannels_form_is_adopted() {
    for form in FORMS {
        lab::in_namespace(move || {
            let lab = Lab::new(3);
            run(
                "ip link add flannel.1 address 02:00:00:00:00:01 mtu 1450 type vxlan id 1 local 192.0.2.1 dev wb-up nolearning dstport 8472",
            );
            run("ip link set flannel.1 up");
            run("ip addr add 10.5.0.0/32 dev flannel.1");
            for peer in lab.peers() {
                run(&format!("ip route add {} via {} dev flannel.1 onlink", peer.v4, peer.v4.network()));
                run(&format!("ip neigh add {} lladdr {} dev flannel.1 nud permanent", peer.v4.network(), peer.mac));
                run(&format!("bridge fdb add {} dev flannel.1 dst {} self permanent", peer.mac, peer.public4));
            }
            let index = lab::index("flannel.1");
            let want = lab.want_of(&[Family::V4]);
            let report = lab.reconciler_of(form, &[Family::V4]).round(&want);
            assert_eq!((report.written, report.removed, report.converged), (0, 0, true), "{report:?}");
            assert_eq!(index, lab::index("flannel.1"));
            assert_eq!(lab::count("ip -j route show dev flannel.1 proto boot"), 3);
        });
    }
}

#[test]
fn a_peer_that_changes_its_mac_or_address_is_replaced() {
    for form in FORMS {
        lab::in_namespace(move || {
            let mut lab = Lab::new(5);
            let mut reconciler = lab.reconciler(form);
            reconciler.round(&lab.want());
            lab.change_peer(2, "0a:00:00:00:99:02", "198.51.100.77");
            let report = reconciler.round(&lab.want());
            assert!(report.converged && !report.read_back, "{report:?}");
            lab.assert_whole();
            assert!(run("bridge fdb show dev flannel.1").contains("0a:00:00:00:99:02 dst 198.51.100.77"));
            lab.remove_peer(1);
            assert!(reconciler.round(&lab.want()).converged);
            lab.assert_whole();
            // Nexthop objects go with their routes.
            let hops = run("ip nexthop").lines().count();
            assert_eq!(hops, if form == RouteForm::Nexthop { 4 } else { 0 });
        });
    }
}

#[test]
fn whatever_is_taken_away_comes_back_within_a_second() {
    let damages = [
        "ip link del flannel.1",
        "ip link set flannel.1 down",
        "ip link set flannel-v6.1 down",
        "ip link set flannel.1 address 02:00:00:00:77:77",
        "ip link set flannel.1 mtu 1300",
        // `ip route flush` cannot delete a route with a nexthop object.
        "for to in $(ip -4 route show dev flannel.1 | cut -d' ' -f1); do ip route del $to; done",
        "ip -6 route flush dev flannel-v6.1",
        "ip neigh flush dev flannel.1 nud permanent",
        "bridge fdb del 0a:00:00:00:00:02 dev flannel.1",
        "ip addr flush dev flannel.1",
        "ip nexthop flush",
        "ip neigh change 10.5.2.0 lladdr 0a:00:00:00:00:99 dev flannel.1 nud permanent",
        "ip route add 10.5.99.0/24 dev flannel.1",
        "bridge fdb add 0a:00:00:00:00:88 dev flannel.1 dst 198.51.100.1",
        "ip link del flannel.1; ip link set flannel-v6.1 down",
    ];
    for form in FORMS {
        lab::in_namespace(move || {
            let lab = Lab::new(20);
            lab::runtime().block_on(async {
                let mut reconciler = lab.reconciler(form);
                let mut monitor = Monitor::open(reconciler.scope().clone()).unwrap();
                reconciler.round(&lab.want());
                for damage in damages {
                    if damage == "ip nexthop flush" && form != RouteForm::Nexthop {
                        continue;
                    }
                    lab::settle(&mut monitor, &reconciler);
                    run(damage);
                    let from = Instant::now();
                    let woken =
                        tokio::time::timeout(Duration::from_secs(1), monitor.changed(reconciler.belief().unwrap()));
                    assert!(woken.await.expect(damage).unwrap().ours, "{damage}");
                    reconciler.doubt();
                    let report = reconciler.round(&lab.want());
                    assert!(report.converged, "{damage}: {report:?}");
                    assert!(from.elapsed() < Duration::from_secs(1), "{damage}");
                    lab.assert_whole();
                }
            });
        });
    }
}

#[test]
fn the_echo_of_our_own_writes_wakes_nobody() {
    for form in FORMS {
        lab::in_namespace(move || {
            let mut lab = Lab::new(200);
            lab::runtime().block_on(async {
                let mut reconciler = lab.reconciler(form);
                let mut monitor = Monitor::open(reconciler.scope().clone()).unwrap();
                assert!(reconciler.round(&lab.want()).converged);
                let wake = monitor.drain(reconciler.belief().unwrap()).unwrap();
                assert!(!wake.overrun);
                for round in 0..3 {
                    lab.remove_peer(round);
                    lab.change_peer(100 + round, "0a:00:00:00:99:02", "198.51.100.77");
                    assert!(reconciler.round(&lab.want()).converged);
                    std::thread::sleep(Duration::from_millis(20));
                    let wake = monitor.drain(reconciler.belief().unwrap()).unwrap();
                    assert!(!wake.any(), "round {round}");
                }
                run(
                    "ip link add wb-other type bridge; ip link set wb-other up; ip addr add 203.0.113.1/24 dev wb-other",
                );
                run("ip neigh add 203.0.113.9 lladdr 0a:00:00:00:99:99 dev wb-other");
                assert!(!monitor.drain(reconciler.belief().unwrap()).unwrap().any());
                run("ip addr add 192.0.2.77/24 dev wb-up");
                assert!(monitor.drain(reconciler.belief().unwrap()).unwrap().underlay);
                run("ip link set wb-up down");
                assert!(monitor.drain(reconciler.belief().unwrap()).unwrap().underlay);
            });
        });
    }
}

#[test]
fn an_overrun_is_noticed() {
    lab::in_namespace(|| {
        let lab = Lab::new(1);
        lab::runtime().block_on(async {
            let mut reconciler = lab.reconciler(RouteForm::Plain);
            let mut monitor = Monitor::open(reconciler.scope().clone()).unwrap();
            reconciler.round(&lab.want());
            lab::settle(&mut monitor, &reconciler);
            let lines: String = (0..15_000u32)
                .map(|n| format!("route add {}/32 dev wb-up\n", Ipv4Addr::from_bits(0x0b00_0000 + n)))
                .collect();
            lab::batch(&lines);
            lab::batch(&lines.replace("add", "del"));
            assert!(monitor.drain(reconciler.belief().unwrap()).unwrap().overrun);
            reconciler.doubt();
            assert_eq!(reconciler.round(&lab.want()).written, 0);
        });
    });
}

#[test]
fn a_foreign_route_in_the_way_is_named_and_left_alone() {
    for form in FORMS {
        lab::in_namespace(move || {
            let lab = Lab::new(3);
            run("ip route add 10.5.2.0/24 via 192.0.2.254 proto static");
            let mut reconciler = lab.reconciler(form);
            let report = reconciler.round(&lab.want());
            assert!(report.converged, "{report:?}");
            let said: Vec<String> = report.conflicts.iter().map(ToString::to_string).collect();
            let expected = "10.5.2.0/24 is taken by a route of protocol static with metric 0: via 192.0.2.254 dev wb-up; \
                            remove it";
            assert_eq!(said, [expected]);
            assert!(run("ip route show 10.5.2.0/24").contains("via 192.0.2.254"));
            assert_eq!(lab::count("ip -j route show dev flannel.1"), 2);
            run("ip route del 10.5.2.0/24");
            reconciler.doubt();
            assert_eq!(reconciler.round(&lab.want()).conflicts, []);
            lab.assert_whole();
        });
    }
}

#[test]
fn a_route_put_between_our_look_and_our_write_is_not_overwritten() {
    for form in FORMS {
        lab::in_namespace(move || {
            let lab = Lab::new(3);
            let mut reconciler = lab.reconciler(form);
            let want = lab.want();
            let mut fewer = want.clone();
            fewer.routes.clear();
            reconciler.round(&fewer);
            run("ip route add 10.5.2.0/24 via 192.0.2.254 proto static");
            let report = reconciler.round(&want);
            assert_eq!(report.conflicts.len(), 1, "{report:?}");
            assert!(report.converged && report.failed == 1);
            assert!(run("ip route show 10.5.2.0/24").contains("via 192.0.2.254"));
        });
    }
}

#[test]
fn devices_of_others_are_named_and_left_alone() {
    lab::in_namespace(|| {
        let lab = Lab::new(2);
        run(
            "ip link add flannel.1 type bridge; ip link add other6 type vxlan id 1 local 2001:db8::1 dev wb-up dstport 8472",
        );
        let mut reconciler = lab.reconciler(RouteForm::default());
        let report = reconciler.round(&lab.want());
        assert!(report.converged, "{report:?}");
        assert!(
            matches!(&report.conflicts[0], Conflict::Vni { holder, .. } if holder.as_str() == "other6"),
            "{report:?}"
        );
        assert!(
            matches!(&report.conflicts[1], Conflict::Name { link, .. } if link.as_str() == "flannel.1"),
            "{report:?}"
        );
        assert!(run("ip -d link show flannel.1").contains("bridge"));
        run("ip link del flannel.1; ip link del other6");
        reconciler.doubt();
        assert_eq!(reconciler.round(&lab.want()).conflicts, []);
        lab.assert_whole();
    });
}

#[test]
fn a_device_that_cannot_be_used_is_made_anew() {
    for wrong in
        ["id 1 local 192.0.2.9", "id 2 local 192.0.2.1", "id 1 local 192.0.2.1 l2miss", "id 1 local 192.0.2.1 gbp"]
    {
        lab::in_namespace(move || {
            let lab = Lab::new(2);
            run(&format!("ip link add flannel.1 type vxlan {wrong} dev wb-up dstport 8472"));
            assert!(lab.reconciler(RouteForm::default()).round(&lab.want()).converged, "{wrong}");
            lab.assert_whole();
        });
    }
}

#[test]
fn a_device_that_vanishes_in_the_middle_of_a_batch_comes_back() {
    for form in FORMS {
        lab::in_namespace(move || {
            let lab = Lab::new(50);
            let mut reconciler = lab.reconciler(form);
            let want = lab.want();
            let mut fewer = want.clone();
            fewer.routes.clear();
            fewer.neighbours.clear();
            reconciler.round(&fewer);
            run("ip link del flannel.1");
            let report = reconciler.round(&want);
            assert!(report.converged && report.failed > 0, "{report:?}");
            lab.assert_whole();
        });
    }
}

#[test]
fn what_is_there_or_gone_already_counts_as_done() {
    lab::in_namespace(|| {
        let lab = Lab::new(3);
        let mut dataplane = NetlinkDataplane::open(RouteForm::Plain).unwrap();
        let mut reconciler = lab.reconciler(RouteForm::Plain);
        let want = lab.want();
        reconciler.round(&want);
        dataplane.read(reconciler.scope()).unwrap();
        let address = *want.addresses.first().unwrap();
        let (fdb, to) = want.fdb.first_key_value().unwrap();
        let (neighbour, mac) = want.neighbours.first_key_value().unwrap();
        let (key, route) = want.routes.first_key_value().unwrap();
        let puts = [Op::PutAddress(address), Op::PutFdb(*fdb, *to), Op::PutNeighbour(*neighbour, *mac)];
        assert!(dataplane.apply(&puts).into_iter().all(|attempt| attempt.is_ok()));
        let add = dataplane.apply(&[Op::AddRoute(*key, route.clone())]).pop().unwrap();
        assert_eq!(add.unwrap_err().kind, ErrorKind::Exists);
        let deletes = [
            Op::DeleteRoute(*key, route.clone()),
            Op::DeleteNeighbour(*neighbour),
            Op::DeleteFdb(*fdb),
            Op::DeleteAddress(address),
        ];
        for _ in 0..2 {
            for (op, attempt) in deletes.iter().zip(dataplane.apply(&deletes)) {
                attempt.unwrap_or_else(|error| panic!("{op}: {error}: {:?}", error.source));
            }
        }
        run("ip link del flannel.1");
        for (op, attempt) in deletes.iter().zip(dataplane.apply(&deletes)) {
            attempt.unwrap_or_else(|error| panic!("{op}: {error}: {:?}", error.source));
        }
    });
}

#[test]
fn routes_that_flannel_replaced_in_place_are_understood() {
    lab::in_namespace(|| {
        let mut lab = Lab::new(4);
        let mut reconciler = lab.reconciler(RouteForm::Nexthop);
        reconciler.round(&lab.want());
        assert_eq!(run("ip nexthop").lines().count(), 4);
        run("ip route replace 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink");
        run("ip route replace 10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink");
        reconciler.doubt();
        assert_eq!(reconciler.round(&lab.want()).written, 0);
        run_fails("ip route del 10.5.1.0/24 via 10.5.1.0 dev flannel.1");
        run("ip route del 10.5.3.0/24 via 10.5.3.0 dev flannel.1");
        reconciler.doubt();
        assert_eq!(reconciler.round(&lab.want()).written, 1);
        lab.assert_whole();
        lab.remove_peer(1);
        assert!(reconciler.round(&lab.want()).converged);
        lab.assert_whole();
        // The object that no route used went along.
        assert_eq!(run("ip nexthop").lines().count(), 2);
        let belief = reconciler.belief().unwrap().clone();
        assert!(reconciler.dataplane().hand_back(&belief).into_iter().all(|attempt| attempt.is_ok()));
        assert_eq!(run("ip nexthop"), "");
        run("ip route del 10.5.4.0/24 via 10.5.4.0 dev flannel.1");
    });
}

#[test]
fn drained_hosts_keep_nothing_of_ours_and_all_of_others() {
    lab::in_namespace(|| {
        let lab = Lab::new(5);
        run("ip route add 10.5.77.0/24 via 192.0.2.254; ip route add blackhole 10.5.78.0/24 proto static");
        let mut want = lab.want();
        let key = RouteKey { metric: u32::MAX, ..RouteKey::main("10.5.0.0/24".parse().unwrap()) };
        want.routes.insert(key, Route::ours(Via::Blackhole));
        let key = RouteKey { metric: u32::MAX, ..RouteKey::main("fd00:5::/64".parse().unwrap()) };
        want.routes.insert(key, Route::ours(Via::Blackhole));
        let mut reconciler = lab.reconciler(RouteForm::Nexthop);
        assert!(reconciler.round(&want).converged);
        assert!(run("ip route").contains("blackhole 10.5.0.0/24 proto 91 metric 4294967295"));
        assert!(run("ip -6 route").contains("blackhole fd00:5::/64"));
        let mut restarted = lab.reconciler(RouteForm::Nexthop);
        assert_eq!(restarted.round(&want).written, 0);
        let report = restarted.round(&NetState::default());
        assert!(report.converged, "{report:?}");
        run_fails("ip link show flannel.1");
        run_fails("ip link show flannel-v6.1");
        assert_eq!(lab::count("ip -j route show root 10.5.0.0/16"), 2);
        assert!(!run("ip -6 route").contains("fd00:5::"));
        assert_eq!(run("ip nexthop"), "");
    });
}

#[test]
fn other_hosts_routes_are_not_even_kept_in_memory() {
    lab::in_namespace(|| {
        let lab = Lab::new(2);
        let lines: String = (0..20_000u32)
            .map(|n| format!("route add {}/32 dev wb-up\n", Ipv4Addr::from_bits(0x0b00_0000 + n)))
            .collect();
        lab::batch(&lines);
        let mut reconciler = lab.reconciler(RouteForm::Nexthop);
        reconciler.round(&lab.want());
        let from = Instant::now();
        reconciler.preview(&lab.want()).unwrap();
        eprintln!("a read beside 20 000 foreign routes: {:?}", from.elapsed());
        assert_eq!(reconciler.belief().unwrap().routes.len(), 4);
    });
}

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

#[test]
fn a_public_ip_that_the_host_has_may_be_the_devices_source() {
    lab::in_namespace(|| {
        let mut lab = Lab::new(1);
        run("ip addr add 203.0.113.5/32 dev wb-up");
        run("ip link add flannel.1 type vxlan id 1 local 203.0.113.5 dev wb-up nolearning dstport 8472");
        let index = lab::index("flannel.1");
        lab.set_public("203.0.113.5".parse().unwrap());
        assert!(lab.reconciler(RouteForm::Nexthop).round(&lab.want()).converged);
        assert_eq!(index, lab::index("flannel.1"));
    });
}

#[test]
fn what_is_read_is_ours_on_our_devices_only() {
    lab::in_namespace(|| {
        let lab = Lab::new(1);
        let mut reconciler = lab.reconciler(RouteForm::Plain);
        reconciler.round(&lab.want());
        run("ip route add 10.5.50.0/24 dev wb-up proto static; ip route add 10.5.51.0/24 dev flannel.1 proto static");
        let plan = reconciler.preview(&lab.want()).unwrap();
        insta::assert_snapshot!(plan, @"delete route 10.5.51.0/24 dev flannel.1");
        let have = reconciler.belief().unwrap();
        let key = RouteKey::main("10.5.50.0/24".parse().unwrap());
        assert_eq!(have.routes[&key].owner, Owner::Foreign);
        let link = "flannel.1".parse().unwrap();
        assert!(have.fdb.keys().all(|FdbKey { link: on, .. }| *on == link || on.as_str() == "flannel-v6.1"));
    });
}

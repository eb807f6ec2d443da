//! Notices damage by notifications, and repairs it.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use super::{
    FORMS,
    lab::{self, Lab, run},
};
use crate::{Monitor, RouteForm};

#[test]
fn each_damage_is_repaired_within_a_second() {
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
                let _ = reconciler.round(&lab.want());
                for damage in damages {
                    if damage == "ip nexthop flush" && form != RouteForm::Nexthop {
                        continue;
                    }
                    lab::settle(&mut monitor, &reconciler);
                    run(damage);
                    let from = Instant::now();
                    let woken =
                        tokio::time::timeout(Duration::from_secs(1), monitor.changed(reconciler.cached().unwrap()));
                    assert!(woken.await.expect(damage).unwrap().ours, "{damage}");
                    reconciler.invalidate();
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
fn notifications_of_our_own_writes_are_no_changes() {
    for form in FORMS {
        lab::in_namespace(move || {
            let mut lab = Lab::new(200);
            lab::runtime().block_on(async {
                let mut reconciler = lab.reconciler(form);
                let mut monitor = Monitor::open(reconciler.scope().clone()).unwrap();
                assert!(reconciler.round(&lab.want()).converged);
                let changes = monitor.drain(reconciler.cached().unwrap()).unwrap();
                assert!(!changes.overrun);
                for round in 0..3 {
                    lab.remove_peer(round);
                    lab.change_peer(100 + round, "0a:00:00:00:99:02", "198.51.100.77");
                    assert!(reconciler.round(&lab.want()).converged);
                    std::thread::sleep(Duration::from_millis(20));
                    let changes = monitor.drain(reconciler.cached().unwrap()).unwrap();
                    assert!(!changes.any(), "round {round}");
                }
                run("ip link add wb-other type bridge; ip link set wb-other up; ip addr add fe80::7/64 dev wb-other nodad");
                run("ip neigh add 203.0.113.9 lladdr 0a:00:00:00:99:99 dev wb-other");
                run("ip route add 203.0.113.0/24 dev wb-other");
                assert!(!monitor.drain(reconciler.cached().unwrap()).unwrap().any());
                for change in [
                    "addr add 203.0.113.1/24 dev wb-other",
                    "-6 addr add 2001:db8:9::1/64 dev wb-other nodad",
                    "addr del 203.0.113.1/24 dev wb-other",
                    "route add default dev wb-other",
                    "-6 route add default dev wb-other",
                    "route del default",
                ] {
                    run(&format!("ip {change}"));
                    let notified = monitor.changed(reconciler.cached().unwrap());
                    let changes = tokio::time::timeout(Duration::from_secs(5), notified).await.expect(change).unwrap();
                    assert!(changes.underlay, "{change}: {changes:?}");
                    assert!(!changes.ours, "{change}: {changes:?}");
                }
                run("ip addr add 192.0.2.77/24 dev wb-up");
                assert!(monitor.drain(reconciler.cached().unwrap()).unwrap().underlay);
                run("ip link set wb-up down");
                assert!(monitor.drain(reconciler.cached().unwrap()).unwrap().underlay);
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
            let _ = reconciler.round(&lab.want());
            lab::settle(&mut monitor, &reconciler);
            let lines: String = (0..15_000u32)
                .map(|n| format!("route add {}/32 dev wb-up\n", Ipv4Addr::from_bits(0x0b00_0000 + n)))
                .collect();
            lab::batch(&lines);
            lab::batch(&lines.replace("add", "del"));
            assert!(monitor.drain(reconciler.cached().unwrap()).unwrap().overrun);
            reconciler.invalidate();
            assert_eq!(reconciler.round(&lab.want()).written, 0);
        });
    });
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
            let _ = reconciler.round(&fewer);
            run("ip link del flannel.1");
            let report = reconciler.round(&want);
            assert!(report.converged, "{report:?}");
            assert!(report.failed > 0, "{report:?}");
            lab.assert_whole();
        });
    }
}

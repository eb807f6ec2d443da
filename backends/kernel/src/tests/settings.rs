//! Settings in `/proc/sys/net`.

use std::time::Duration;

use wire_net::Family;
use wire_state::{DesiredNet, ErrorKind, KernelOp, Setting};

use super::lab::{self, Lab, run};
use crate::{Changes, Monitor, NetlinkDataplane, OtherNamespaces, RouteForm, tests::lab::HostReconciler};

/// The values of these settings, one after the other.
fn sysctl(names: &str) -> String {
    run(&format!("sysctl -n {names}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn joined(lab: &Lab) -> (HostReconciler, DesiredNet) {
    let (mut reconciler, want) = (lab.reconciler(RouteForm::default()), lab.want());
    let report = reconciler.round(&want);
    assert!(report.converged, "{report:?}");
    assert!(report.findings.conflicts.is_empty(), "{report:?}");
    (reconciler, want)
}

const OURS: &str = "net.ipv4.ip_forward net.ipv6.conf.all.forwarding net.ipv4.conf.flannel/1.forwarding \
                    net.ipv6.conf.flannel-v6/1.forwarding net.ipv6.conf.flannel-v6/1.disable_ipv6";

#[test]
fn forwarding_and_ipv6_of_our_devices_are_switched_on_whatever_a_new_device_is_given() {
    lab::in_namespace(|| {
        let lab = Lab::new(2);
        run("sysctl -qw net.ipv4.conf.default.forwarding=0 net.ipv6.conf.default.disable_ipv6=1");
        let (mut reconciler, want) = joined(&lab);
        assert_eq!(sysctl(OURS), "1 1 1 1 0");
        lab.assert_whole();
        run("sysctl -qw net.ipv4.conf.default.forwarding=0; ip link del flannel.1; ip link del flannel-v6.1");
        reconciler.invalidate();
        assert!(reconciler.round(&want).converged);
        assert_eq!(sysctl(OURS), "1 1 1 1 0");
        lab.assert_whole();
    });
}

#[test]
fn a_setting_that_traffic_needs_is_restored_when_it_is_changed() {
    lab::in_namespace(|| {
        let lab = Lab::new(2);
        run("ip link add docker0 type bridge; ip addr add 10.5.0.1/24 dev docker0; ip link set docker0 up");
        let (mut reconciler, want) = joined(&lab);
        let runtime = lab::runtime();
        let _inside = runtime.enter();
        let mut monitor = Monitor::open(reconciler.scope().clone()).unwrap();
        let off = OURS.split(' ').map(|name| match name.ends_with("disable_ipv6") {
            true => format!("{name}=1"),
            false => format!("{name}=0"),
        });
        for what in off {
            lab::settle(&mut monitor, &reconciler);
            run(&format!("sysctl -qw {what}"));
            let cached = reconciler.cached().unwrap();
            let notified =
                runtime.block_on(async { tokio::time::timeout(Duration::from_secs(5), monitor.changed(cached)).await });
            assert!(notified.unwrap_or_else(|_| panic!("{what} wakes nobody")).unwrap().ours, "{what}");
            reconciler.invalidate();
            let report = reconciler.round(&want);
            assert!(report.converged, "{what}: {report:?}");
            assert!(report.written > 0, "{what}: {report:?}");
            assert_eq!(sysctl(OURS), "1 1 1 1 0", "{what}");
            lab.assert_whole();
            // The notifications of our own writes cause nothing.
            std::thread::sleep(Duration::from_millis(30));
            let changes = monitor.drain(reconciler.cached().unwrap()).unwrap();
            assert_eq!(changes, Changes::default(), "{what}");
        }
    });
}

#[test]
fn the_kernels_explanation_of_a_refusal_is_reported_without_a_capability() {
    lab::in_namespace(|| {
        let lab = Lab::new(1);
        let (mut reconciler, want) = joined(&lab);
        // As another program could, between our read and our write.
        run("sysctl -qw net.ipv6.conf.flannel-v6/1.disable_ipv6=1");
        let address = want.addresses.iter().find(|address| address.address.is_ipv6()).unwrap();
        let said = reconciler
            .driver()
            .apply(&[&KernelOp::PutAddress(*address)], &OtherNamespaces::default())
            .pop()
            .unwrap()
            .unwrap_err()
            .to_string();
        assert_eq!(said, "not allowed: ipv6: IPv6 is disabled on this device");
        reconciler.invalidate();
        assert!(reconciler.round(&want).converged);
    });
}

/// As with `ipv6.disable=1`, the link has no such file: its MTU is too small for IPv6 (RFC 8200 §5).
#[test]
fn ipv6_is_off_where_there_is_none_and_switching_it_on_is_refused_with_the_reason() {
    lab::in_namespace(|| {
        run("ip link add wb-small mtu 1200 type veth; test ! -e /proc/sys/net/ipv6/conf/wb-small");
        let setting = Setting::DisableIpv6("wb-small".parse().unwrap());
        let mut kernel = NetlinkDataplane::open(RouteForm::default()).unwrap();
        let mut set =
            |value| kernel.apply(&[&KernelOp::Set(setting, value)], &OtherNamespaces::default()).pop().unwrap();
        assert!(set(1).is_ok());
        let said = set(0).unwrap_err();
        assert!(said.kind == ErrorKind::Absent && said.to_string().contains("ipv6.disable=1"), "{said}");
    });
}

#[test]
fn a_container_bridge_that_does_not_forward_is_named_until_it_does() {
    lab::in_namespace(|| {
        let lab = Lab::new(1);
        let (mut reconciler, want) = joined(&lab);
        let runtime = lab::runtime();
        let _inside = runtime.enter();
        let mut monitor = Monitor::open(reconciler.scope().clone()).unwrap();
        run("ip link add br-mine type bridge; ip addr add 10.5.0.1/24 dev br-mine; ip link set br-mine up");
        assert!(monitor.drain(reconciler.cached().unwrap()).unwrap().ours, "a bridge with our subnet is looked at");
        reconciler.invalidate();
        assert_eq!(reconciler.round(&want).findings.conflicts, []);
        for (value, conflicts) in [(0, 1), (1, 0)] {
            lab::settle(&mut monitor, &reconciler);
            run(&format!("sysctl -qw net.ipv4.conf.br-mine.forwarding={value}"));
            assert!(monitor.drain(reconciler.cached().unwrap()).unwrap().ours, "{value} wakes nobody");
            reconciler.invalidate();
            let report = reconciler.round(&want);
            assert_eq!(report.findings.conflicts.len(), conflicts, "{report:?}");
            assert_eq!(report.written, 0, "{report:?}");
        }
        // Links and settings that do not concern the overlay are not reported.
        run("ip link add br-other type bridge; ip addr add 192.168.7.1/24 dev br-other");
        run("sysctl -qw net.ipv4.conf.br-other.forwarding=0 net.ipv6.conf.br-mine.forwarding=0");
        reconciler.invalidate();
        assert_eq!(reconciler.round(&want).findings.conflicts, []);
    });
}

#[test]
fn links_that_accept_router_advertisements_go_on_to_and_others_are_not_changed() {
    lab::in_namespace(|| {
        let lab = Lab::new(1);
        run(
            "for link in wb-other wb-never wb-port; do ip link add $link type veth peer name far-$link; ip link set $link up; done",
        );
        run("ip link add wb-bridge type bridge; ip link add wb-lan type bridge; ip link set wb-port master wb-bridge");
        run("ip link set wb-lan up; ip -6 route add default via fe80::9 dev wb-lan proto ra metric 900");
        let all = "net.ipv6.conf.wb-up.accept_ra net.ipv6.conf.wb-other.accept_ra net.ipv6.conf.wb-lan.accept_ra \
                   net.ipv6.conf.wb-never.accept_ra net.ipv6.conf.wb-port.accept_ra net.ipv6.conf.wb-bridge.accept_ra";
        run("sysctl -qw net.ipv6.conf.wb-never.accept_ra=0");
        // Without IPv6 this host does not forward it, so no link loses its routes.
        assert!(lab.reconciler_of(RouteForm::default(), &[Family::V4]).round(&lab.want_of(&[Family::V4])).converged);
        assert_eq!(sysctl(all), "1 1 1 0 1 1");
        let (mut reconciler, want) = joined(&lab);
        assert_eq!(sysctl(all), "2 2 2 0 1 1");
        // The values are kept, and nothing is written again.
        reconciler.invalidate();
        assert_eq!(reconciler.round(&want).written, 0);
        run("sysctl -qw net.ipv6.conf.wb-up.accept_ra=1 net.ipv6.conf.wb-lan.accept_ra=1");
        reconciler.invalidate();
        assert_eq!(reconciler.round(&want).written, 2);
        assert_eq!(sysctl(all), "2 2 2 0 1 1");
    });
}

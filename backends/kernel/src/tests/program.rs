//! Adds, adopts and replaces entries.

use wire_net::Family;
use wire_state::{Attempt, DesiredForm, DesiredNet, ErrorKind, KernelOp, Namespace, ObservedRoute, PerNamespace};

use super::{
    FORMS,
    lab::{self, Lab, run, run_fails},
};
use crate::{NetlinkDataplane, OtherNamespaces, RouteForm};

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
            assert!(address.contains("fd00:5::/128"), "{address}");
            assert!(!address.contains("tentative"), "{address}");
            assert_eq!(run("cat /proc/sys/net/ipv6/conf/flannel-v6.1/accept_ra").trim(), "0");
        });
    }
}

#[test]
fn a_second_round_and_a_restart_write_nothing() {
    for form in FORMS {
        lab::in_namespace(move || {
            let lab = Lab::new(20);
            let _ = lab.reconciler(form).round(&lab.want());
            let mut monitor = lab::IpMonitor::open();
            let mut again = lab.reconciler(form);
            let report = again.round(&lab.want());
            assert_eq!(report.written, 0, "{report:?}");
            assert_eq!(report.removed, 0, "{report:?}");
            assert!(report.converged, "{report:?}");
            let third = again.round(&lab.want());
            assert!(!third.read_back);
            assert!(third.converged);
            assert_eq!(monitor.printed(), "");
        });
    }
}

#[test]
fn what_ip_and_bridge_made_in_flannels_form_is_adopted() {
    for form in FORMS {
        lab::in_namespace(move || {
            let lab = Lab::new(3);
            run("sysctl -qw net.ipv4.ip_forward=1");
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
            assert_eq!(report.written, 0, "{report:?}");
            assert_eq!(report.removed, 0, "{report:?}");
            assert!(report.converged, "{report:?}");
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
            let _ = reconciler.round(&lab.want());
            lab.change_peer(2, "0a:00:00:00:99:02", "198.51.100.77");
            let report = reconciler.round(&lab.want());
            assert!(report.converged, "{report:?}");
            assert!(!report.read_back, "{report:?}");
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
fn a_device_of_ours_that_cannot_be_used_is_made_anew() {
    for wrong in
        ["id 1 local 192.0.2.9", "id 2 local 192.0.2.1", "id 1 local 192.0.2.1 l2miss", "id 1 local 192.0.2.1 gbp"]
    {
        lab::in_namespace(move || {
            let lab = Lab::new(2);
            let mac = "02:00:00:00:00:01";
            run(&format!("ip link add flannel.1 address {mac} type vxlan {wrong} dev wb-up dstport 8472"));
            assert!(lab.reconciler(RouteForm::default()).round(&lab.want()).converged, "{wrong}");
            lab.assert_whole();
        });
    }
}

fn apply(dataplane: &mut NetlinkDataplane, ops: &[KernelOp]) -> Vec<Attempt> {
    dataplane.apply(&ops.iter().collect::<Vec<_>>(), &OtherNamespaces::default())
}

#[test]
fn an_entry_that_exists_or_is_deleted_already_counts_as_done() {
    lab::in_namespace(|| {
        let lab = Lab::new(3);
        let mut dataplane = NetlinkDataplane::open(RouteForm::Plain).unwrap();
        let mut reconciler = lab.reconciler(RouteForm::Plain);
        let want = lab.want();
        let _ = reconciler.round(&want);
        dataplane.read(reconciler.scope()).unwrap();
        let address = *want.addresses.first().unwrap();
        let (fdb, to) = want.fdb.iter().next().unwrap();
        let (neighbour, mac) = want.neighbours.iter().next().unwrap();
        let (key, hop) = want.routes.iter().next().unwrap();
        let puts =
            [KernelOp::PutAddress(address), KernelOp::PutFdb(*fdb, *to), KernelOp::PutNeighbour(*neighbour, *mac)];
        assert!(apply(&mut dataplane, &puts).into_iter().all(|attempt| attempt.is_ok()));
        let add = apply(&mut dataplane, &[KernelOp::AddRoute(*key, *hop)]).pop().unwrap();
        assert_eq!(add.unwrap_err().kind, ErrorKind::Exists);
        let deletes = [
            KernelOp::DeleteRoute(*key, Box::new(ObservedRoute::ours(*hop))),
            KernelOp::DeleteNeighbour(*neighbour),
            KernelOp::DeleteFdb(*fdb),
            KernelOp::DeleteAddress(address),
        ];
        for _ in 0..2 {
            for (op, attempt) in deletes.iter().zip(apply(&mut dataplane, &deletes)) {
                attempt.unwrap_or_else(|error| panic!("{op}: {error}: {:?}", error.source));
            }
        }
        run("ip link del flannel.1");
        for (op, attempt) in deletes.iter().zip(apply(&mut dataplane, &deletes)) {
            attempt.unwrap_or_else(|error| panic!("{op}: {error}: {:?}", error.source));
        }
    });
}

#[test]
fn routes_that_flannel_replaced_are_read_correctly() {
    lab::in_namespace(|| {
        let mut lab = Lab::new(4);
        let mut reconciler = lab.reconciler(RouteForm::Nexthop);
        let _ = reconciler.round(&lab.want());
        assert_eq!(run("ip nexthop").lines().count(), 4);
        run("ip route replace 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink");
        run("ip route replace 10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink");
        reconciler.invalidate();
        assert_eq!(reconciler.round(&lab.want()).written, 0);
        run_fails("ip route del 10.5.1.0/24 via 10.5.1.0 dev flannel.1");
        run("ip route del 10.5.3.0/24 via 10.5.3.0 dev flannel.1");
        reconciler.invalidate();
        assert_eq!(reconciler.round(&lab.want()).written, 1);
        lab.assert_whole();
        lab.remove_peer(1);
        assert!(reconciler.round(&lab.want()).converged);
        lab.assert_whole();
        // Nexthop objects that no route used were deleted too.
        assert_eq!(run("ip nexthop").lines().count(), 2);
    });
}

#[test]
fn routes_that_are_to_be_plain_are_written_once() {
    lab::in_namespace(|| {
        let lab = Lab::new(4);
        let _ = lab.reconciler(RouteForm::Nexthop).round(&lab.want());
        run("ip route replace 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink");
        let mut reconciler = lab.reconciler(RouteForm::Plain);
        let scope = reconciler.scope().clone();
        let found = PerNamespace::host(reconciler.driver().read(&scope).unwrap());
        let plain = |want: DesiredNet| DesiredNet { route_form: DesiredForm::Plain, ..want };
        let want = plain(found.as_desired().get(Namespace::Host).unwrap().clone());
        insta::assert_snapshot!(reconciler.preview(&want).unwrap(), @"
        replace route 10.5.1.0/24 via 10.5.1.0 dev flannel.1 onlink
        replace route 10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink
        replace route 10.5.4.0/24 via 10.5.4.0 dev flannel.1 onlink
        ");
        assert_eq!(run("ip nexthop").lines().count(), 4);
        let report = reconciler.round(&want);
        assert_eq!((report.written, report.converged), (3, true), "{report:?}");
        assert_eq!(run("ip nexthop"), "");
        lab.assert_whole();
        reconciler.invalidate();
        assert_eq!(reconciler.round(&want).written, 0);
        assert_eq!(reconciler.round(&plain(lab.want())).written, 0);
        run("ip route del 10.5.4.0/24 via 10.5.4.0 dev flannel.1");
    });
}

#[test]
fn a_public_ip_that_the_host_has_is_the_devices_source_as_with_flannel() {
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
fn of_many_peers_those_beyond_a_few_hundred_have_nexthop_objects() {
    lab::in_namespace(|| {
        let mut lab = Lab::new(600);
        let mut reconciler = lab.reconciler(RouteForm::Auto);
        assert!(reconciler.round(&lab.want()).converged);
        lab.assert_whole();
        assert_eq!(run("ip nexthop").lines().count(), 600 - 512);
        for number in [1, 2, 599, 600] {
            lab.remove_peer(number);
        }
        lab.change_peer(598, "0a:00:00:00:99:02", "198.51.100.77");
        assert!(reconciler.round(&lab.want()).converged);
        lab.assert_whole();
        let mut restarted = lab.reconciler(RouteForm::Auto);
        assert_eq!(restarted.round(&lab.want()).written, 0);
        assert_eq!(run("ip nexthop").lines().count(), 600 - 512 - 2);
    });
}

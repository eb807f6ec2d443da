//! What a round leaves on a host, and what it leaves alone.

use wire_state::{
    DesiredNet, FdbTarget, KernelOp, NeighbourKey, NextHop, ObservedRoute, RouteKey,
    samples::{mac, name},
};

use super::{
    Change, Host,
    changes::ROWS,
    entries::{difference, entries, lines},
    stage::Stage,
};
use crate::Changes;

pub(super) fn all_entries_of_the_peers_are_there_after_one_round<H: Host>() {
    Stage::<H>::on_new(|mut stage| {
        let want = stage.lab.want();
        assert!(stage.round(&want).converged);
        let found: Vec<String> = entries(&stage.read()).into_iter().collect();
        let expected = "
            address 10.5.0.0/32 dev flannel.1
            address fd00:5::/128 dev flannel-v6.1
            fdb 0a:00:00:00:00:01 dev flannel-v6.1 dst 2001:db8::1:1
            fdb 0a:00:00:00:00:01 dev flannel.1 dst 198.51.0.1
            fdb 0a:00:00:00:00:02 dev flannel-v6.1 dst 2001:db8::1:2
            fdb 0a:00:00:00:00:02 dev flannel.1 dst 198.51.0.2
            link flannel-v6.1 Ours: vxlan vni 1 dev wb-up local 2001:db8::1 port 8472 nolearning mac 02:00:00:00:00:06 mtu 1430 up
            link flannel.1 Ours: vxlan vni 1 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:01 mtu 1450 up
            link wb-up Foreign: mac 02:00:00:00:00:99 mtu 1500 up
            neighbour 10.5.1.0 dev flannel.1 lladdr 0a:00:00:00:00:01
            neighbour 10.5.2.0 dev flannel.1 lladdr 0a:00:00:00:00:02
            neighbour fd00:5:1:: dev flannel-v6.1 lladdr 0a:00:00:00:00:01
            neighbour fd00:5:2:: dev flannel-v6.1 lladdr 0a:00:00:00:00:02
            route 10.5.1.0/24 via 10.5.1.0 dev flannel.1 onlink protocol 91 Ours
            route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink protocol 91 Ours
            route fd00:5:1::/64 via fd00:5:1:: dev flannel-v6.1 onlink protocol 91 Ours
            route fd00:5:2::/64 via fd00:5:2:: dev flannel-v6.1 onlink protocol 91 Ours
            setting net.ipv4.conf.flannel-v6/1.forwarding = 1
            setting net.ipv4.conf.flannel/1.forwarding = 1
            setting net.ipv4.ip_forward = 1
            setting net.ipv6.conf.all.forwarding = 1
            setting net.ipv6.conf.flannel-v6/1.disable_ipv6 = 0
            setting net.ipv6.conf.flannel-v6/1.forwarding = 1
            setting net.ipv6.conf.flannel/1.disable_ipv6 = 0
            setting net.ipv6.conf.flannel/1.forwarding = 1
            setting net.ipv6.conf.wb-up.accept_ra = 2";
        assert_eq!(found.join("\n"), lines(expected));
    });
}

pub(super) fn a_host_with_another_port_has_it_in_its_entry_and_loses_it_again<H: Host>() {
    Stage::<H>::settled(|mut stage| {
        let mut want = stage.lab.want();
        let before = stage.read();
        let (key, target) =
            want.fdb.iter().find(|(key, _)| key.link == name("flannel.1")).map(|(key, to)| (*key, *to)).unwrap();
        want.fdb.insert(key, FdbTarget { port: Some(9999), ..target });
        assert_eq!(stage.repair(&want), 1);
        let expected = "
            - fdb 0a:00:00:00:00:01 dev flannel.1 dst 198.51.0.1
            + fdb 0a:00:00:00:00:01 dev flannel.1 dst 198.51.0.1 port 9999";
        assert_eq!(difference(&before, &stage.read()), lines(expected));
        assert_eq!(stage.repair(&want), 0);
        want.fdb.insert(key, target);
        assert_eq!(stage.repair(&want), 1);
        assert_eq!(difference(&before, &stage.read()), "");
    });
}

pub(super) fn what_was_put_is_read_back_and_a_second_plan_is_empty<H: Host>() {
    Stage::<H>::on_new(|mut stage| {
        let want = stage.lab.want();
        assert!(stage.round(&want).converged);
        assert_eq!(difference(&stage.cached(), &stage.read()), "");
        assert_eq!(stage.repair(&want), 0);
    });
}

pub(super) fn our_own_writes_are_not_reported<H: Host>() {
    Stage::<H>::quiet(|mut stage| {
        stage.lab.remove_peer(1);
        stage.lab.change_peer(2, "0a:00:00:00:99:02", "198.51.100.77");
        let want = stage.lab.want();
        assert!(stage.round(&want).converged);
        assert_eq!(stage.heard(), Changes::default());
    });
}

/// The kernel's first notification of a device has it down.
pub(super) fn devices_that_we_made_are_reported<H: Host>() {
    Stage::<H>::on_new(|mut stage| {
        let want = stage.lab.want();
        assert!(stage.round(&want).converged);
        assert_eq!(stage.heard(), Changes { ours: true, ..Changes::default() });
    });
}

/// The same on a host that was looked at before: the kernel is asked what they are now.
pub(super) fn devices_that_we_make_later_are_not_reported<H: Host>() {
    Stage::<H>::on_new(|mut stage| {
        stage.reread();
        let _ = stage.heard();
        let want = stage.lab.want();
        let report = stage.round(&want);
        assert!(report.converged);
        assert!(!report.read_back, "what was made is read, and not all");
        assert_eq!(difference(&stage.cached(), &stage.read()), "");
        assert_eq!(stage.heard(), Changes::default());
    });
}

/// A removed device is no longer known when the kernel tells of it and of its addresses, and is not there when it is asked for.
pub(super) fn devices_that_we_removed_are_no_news_but_for_the_underlay<H: Host>() {
    Stage::<H>::quiet(|mut stage| {
        assert!(stage.round(&DesiredNet::default()).converged);
        assert_eq!(stage.heard(), Changes { ours: false, underlay: true, overrun: false });
    });
}

/// A scope that has one network more or less is read for what differs.
pub(super) fn another_scope_is_read_for_what_was_added_to_it<H: Host>() {
    Stage::<H>::of_segment(|mut stage| {
        let more = [name("wb.6000"), name("wv.6000")];
        stage.change_scope(|scope| scope.devices.extend(more));
        assert_eq!(difference(&stage.cached(), &stage.read()), "");
        assert!(!stage.would_read_all());
        stage.change_scope(|scope| scope.devices.retain(|name| !more.contains(name)));
        assert!(!stage.would_read_all());
        // One of these names is there: then all is read.
        stage.change(Change::AddBridge("wb.6000"));
        stage.change_scope(|scope| scope.devices.extend(more));
        assert!(stage.would_read_all());
        stage.reread();
        assert!(stage.cached().links.contains_key(&name("wb.6000")));
        // It leaves while it is there.
        stage.change_scope(|scope| scope.devices.retain(|name| !more.contains(name)));
        assert!(stage.would_read_all());
    });
}

/// A link that appears under a name that was added to the scope is reported.
pub(super) fn a_link_with_a_name_that_was_added_to_the_scope_is_reported<H: Host>() {
    Stage::<H>::of_segment(|mut stage| {
        stage.change_scope(|scope| scope.devices.extend([name("wb.6000")]));
        assert_eq!(stage.heard(), Changes::default());
        stage.change(Change::AddBridge("wb.6000"));
        assert_eq!(stage.heard(), Changes { ours: true, ..Changes::default() });
    });
}

pub(super) fn a_drained_host_keeps_foreign_entries_alone<H: Host>() {
    Stage::<H>::settled(|mut stage| {
        stage.change(Change::AddRoute("10.5.77.0/24", "wb-up"));
        stage.repair(&DesiredNet::default());
        let found: Vec<String> = entries(&stage.read()).into_iter().collect();
        let expected = "
            link wb-up Foreign: mac 02:00:00:00:00:99 mtu 1500 up
            route 10.5.77.0/24 dev wb-up protocol 16 Foreign
            setting net.ipv4.ip_forward = 1
            setting net.ipv6.conf.all.forwarding = 1
            setting net.ipv6.conf.wb-up.accept_ra = 2";
        assert_eq!(found.join("\n"), lines(expected));
    });
}

pub(super) fn a_round_repairs_each_change_by_others<H: Host>() {
    let is_of_underlay = |change| matches!(change, Change::DeleteLink("wb-up") | Change::SetDown("wb-up"));
    for row in ROWS.into_iter().filter(|row| !is_of_underlay(row.change)) {
        Stage::<H>::settled(move |mut stage| {
            let want = stage.lab.want();
            stage.change(row.change);
            stage.repair(&want);
            assert_eq!(stage.repair(&want), 0, "{:?}", row.change);
        });
    }
}

pub(super) fn a_route_is_deleted_only_if_it_is_as_it_was_read<H: Host>() {
    Stage::<H>::settled(|mut stage| {
        let key = RouteKey::main("10.5.2.0/24".parse().unwrap());
        let read = stage.read().routes[&key].clone();
        stage.change(Change::DeleteRoute("10.5.2.0/24"));
        stage.change(Change::AddRoute("10.5.2.0/24", "wb-up"));
        let before = stage.read();
        assert_eq!(stage.apply(&KernelOp::DeleteRoute(key, Box::new(read))), Ok(()));
        assert_eq!(difference(&before, &stage.read()), "");
    });
}

pub(super) fn a_route_that_is_replaced_is_ours<H: Host>() {
    Stage::<H>::settled(|mut stage| {
        let key = RouteKey::main("10.5.2.0/24".parse().unwrap());
        let NextHop::Gateway { gateway, link, .. } = stage.lab.want().routes[&key] else { panic!("no gateway") };
        let hop = NextHop::Gateway { gateway, link, onlink: true };
        stage.change(Change::DeleteRoute("10.5.2.0/24"));
        stage.change(Change::AddRoute("10.5.2.0/24", "wb-up"));
        assert_eq!(stage.apply(&KernelOp::ReplaceRoute(key, hop)), Ok(()));
        assert_eq!(stage.read().routes[&key], ObservedRoute::ours(hop));
        let key = RouteKey::main("10.5.8.0/24".parse().unwrap());
        let hop = NextHop::Link(name("flannel.1"));
        assert_eq!(stage.apply(&KernelOp::ReplaceRoute(key, hop)), Ok(()), "none was there");
        assert_eq!(stage.read().routes[&key], ObservedRoute::ours(hop));
    });
}

pub(super) fn the_last_address_of_ipv4_takes_routes_and_neighbours<H: Host>() {
    Stage::<H>::settled(|mut stage| {
        let before = stage.read();
        let v4 = *before.addresses.iter().find(|own| own.address.is_ipv4()).unwrap();
        assert_eq!(stage.apply(&KernelOp::DeleteAddress(v4)), Ok(()));
        let gone = "
            - address 10.5.0.0/32 dev flannel.1
            - neighbour 10.5.1.0 dev flannel.1 lladdr 0a:00:00:00:00:01
            - neighbour 10.5.2.0 dev flannel.1 lladdr 0a:00:00:00:00:02
            - route 10.5.1.0/24 via 10.5.1.0 dev flannel.1 onlink protocol 91 Ours
            - route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink protocol 91 Ours";
        assert_eq!(difference(&before, &stage.read()), lines(gone));
    });
}

pub(super) fn the_last_address_of_ipv6_takes_nothing<H: Host>() {
    Stage::<H>::settled(|mut stage| {
        let before = stage.read();
        let v6 = *before.addresses.iter().find(|own| own.address.is_ipv6()).unwrap();
        assert_eq!(stage.apply(&KernelOp::DeleteAddress(v6)), Ok(()));
        assert_eq!(difference(&before, &stage.read()), format!("- address {v6}"));
    });
}

pub(super) fn a_neighbour_is_taken_on_a_link_that_is_down<H: Host>() {
    Stage::<H>::settled(|mut stage| {
        stage.change(Change::SetDown("flannel.1"));
        let before = stage.read();
        let key = NeighbourKey { link: name("flannel.1"), address: [10, 5, 9, 0].into() };
        assert_eq!(stage.apply(&KernelOp::PutNeighbour(key, mac(9))), Ok(()));
        assert_eq!(difference(&before, &stage.read()), "+ neighbour 10.5.9.0 dev flannel.1 lladdr 02:00:00:00:00:09");
    });
}

pub(super) fn a_device_that_is_set_up_again_has_what_it_kept_while_down<H: Host>() {
    Stage::<H>::settled(|mut stage| {
        stage.change(Change::SetDown("flannel.1"));
        let down = stage.read();
        stage.change(Change::SetUp("flannel.1"));
        let up = lines("
            - link flannel.1 Ours: vxlan vni 1 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:01 mtu 1450 down
            + link flannel.1 Ours: vxlan vni 1 dev wb-up local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:01 mtu 1450 up");
        assert_eq!(difference(&down, &stage.read()), up);
    });
}

mod forms;
mod keys;
pub(crate) mod site;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use wire_net::{Family, MacAddr, Mtu, Vni};

use super::*;
use crate::{
    Bridge, DesiredForm, DesiredKind, FdbKey, ForwardKey, KernelKind, NeighbourKey, ObservedKind, ObservedLink,
    ObservedVxlan, Owner, RouteKey, Setting, Via,
    samples::{change_each, device, found, held, name, plan_host, state, tunnelled},
};

fn foreign_route(state: &mut ObservedNet, number: u8) {
    let key = RouteKey::main(format!("10.5.{number}.0/24").parse().unwrap());
    let via = Via::NextHop(NextHop::Link(name("eth0")));
    state.routes.insert(key, ObservedRoute { via, protocol: 4, uses_nexthop: true, owner: Owner::Foreign });
}

/// The sample device as it is read.
fn found_device(last: u8) -> ObservedLink {
    let mut want = state(&[]);
    want.links.insert(name("flannel.1"), device(last));
    held(&want).links[&name("flannel.1")].clone()
}

fn found_vxlan() -> ObservedVxlan {
    let ObservedKind::Vxlan(vxlan) = found_device(1).kind else { panic!() };
    vxlan
}

#[test]
fn a_first_start_makes_everything_in_order() {
    insta::assert_snapshot!(plan_host(&ObservedNet::default(), &state(&[(2, 20, 102), (3, 30, 103)])), @"
    create link flannel.1: vxlan vni 1 dev eth0 local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:01 mtu 1450 up
    add address 10.5.0.0/32 dev flannel.1
    set FDB entry 02:00:00:00:00:14 dev flannel.1 dst 192.0.2.102
    set FDB entry 02:00:00:00:00:1e dev flannel.1 dst 192.0.2.103
    set neighbour 10.5.2.0 dev flannel.1 lladdr 02:00:00:00:00:14
    set neighbour 10.5.3.0 dev flannel.1 lladdr 02:00:00:00:00:1e
    add route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
    add route 10.5.3.0/24 via 10.5.3.0 dev flannel.1 onlink
    ");
}

#[test]
fn a_peers_new_mac_is_known_before_it_is_used_and_the_old_one_goes_last() {
    insta::assert_snapshot!(plan_host(&held(&state(&[(2, 20, 102)])), &state(&[(2, 21, 102)])), @"
    set FDB entry 02:00:00:00:00:15 dev flannel.1 dst 192.0.2.102
    set neighbour 10.5.2.0 dev flannel.1 lladdr 02:00:00:00:00:15
    delete FDB entry 02:00:00:00:00:14 dev flannel.1
    ");
}

#[test]
fn a_peer_that_leaves_is_taken_apart_from_the_route_down() {
    insta::assert_snapshot!(plan_host(&held(&state(&[(2, 20, 102), (3, 30, 103)])), &state(&[(3, 30, 104)])), @"
    set FDB entry 02:00:00:00:00:1e dev flannel.1 dst 192.0.2.104
    delete route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
    delete neighbour 10.5.2.0 dev flannel.1
    delete FDB entry 02:00:00:00:00:14 dev flannel.1
    ");
}

/// As the kernel refuses the IPv6 route of vxlan while another link leads to its gateway.
#[test]
fn an_ipv6_route_to_a_gateway_behind_another_link_goes_before_one_on_link_comes() {
    let v6 = |text: &str| RouteKey::main(text.parse().unwrap());
    let (key, range) = (v6("fd00:5:0:2::/64"), v6("fd00:5::/32"));
    let gateway =
        |gateway: &str, link, onlink| NextHop::Gateway { gateway: gateway.parse().unwrap(), link: name(link), onlink };
    let overlay = gateway("fd00:5:0:2::", "flannel.1", true);
    let mut before = state(&[]);
    before.routes.insert(key, gateway("2001:db8::2", "eth0", false));
    let mut want = state(&[]);
    want.routes.insert(key, overlay);
    let ops = |have: &DesiredNet, want: &DesiredNet| {
        let plan = plan_host(&held(have), want);
        plan.ops.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let (deleted, added) = (
        "delete route fd00:5:0:2::/64 via 2001:db8::2 dev eth0",
        "add route fd00:5:0:2::/64 via fd00:5:0:2:: dev flannel.1 onlink",
    );
    assert_eq!(ops(&before, &want), [deleted, added]);
    // The other way round, nothing is in the way.
    assert_eq!(ops(&want, &before), ["replace route fd00:5:0:2::/64 via 2001:db8::2 dev eth0"]);
    before.routes = [(range, NextHop::Link(name("flannel0")))].into_iter().collect();
    assert_eq!(ops(&before, &want), ["delete route fd00:5::/32 dev flannel0", added]);
}

#[test]
fn foreign_entries_in_the_place_of_ours_are_reported() {
    let want = state(&[(2, 20, 102)]);
    let mut have = ObservedNet::default();
    foreign_route(&mut have, 2);
    let foreign = |kind: ObservedKind| ObservedLink { kind, owner: Owner::Foreign, ..found_device(9) };
    have.links.insert(name("flannel.1"), foreign(ObservedKind::Bridge(Bridge::default())));
    insta::assert_snapshot!(plan_host(&have, &want), @"CONFLICT flannel.1 cannot be made, because another device has this name: bridge mac 02:00:00:00:00:09 mtu 1450 up; rename or remove it");
    let elsewhere = ObservedVxlan { parent: Some(found("eth1", 3)), ..found_vxlan() };
    have.links.insert(name("flannel.1"), foreign(ObservedKind::Vxlan(elsewhere.clone())));
    insta::assert_snapshot!(plan_host(&have, &want), @"CONFLICT flannel.1 cannot be made, because another device has this name: vxlan vni 1 dev eth1 local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:09 mtu 1450 up; it sends through eth1, and the underlay is eth0: start wire-agent with --iface=eth1, as flanneld was, or remove it");
    let other = ObservedVxlan { vni: Vni::new(7).unwrap(), ..elsewhere };
    have.links.insert(name("flannel.1"), foreign(ObservedKind::Vxlan(other)));
    insta::assert_snapshot!(plan_host(&have, &want), @"CONFLICT flannel.1 cannot be made, because another device has this name: vxlan vni 7 dev eth1 local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:09 mtu 1450 up; rename or remove it");
    have.links.clear();
    have.links.insert(name("vx0"), ObservedLink { owner: Owner::Foreign, ..found_device(9) });
    insta::assert_snapshot!(plan_host(&have, &want), @"CONFLICT flannel.1 cannot be made: vx0 already has VNI 1 on UDP port 8472; remove it or change VNI or Port");
    have.links.clear();
    have.links.insert(name("flannel.1"), found_device(1));
    insta::assert_snapshot!(plan_host(&have, &want), @"
    add address 10.5.0.0/32 dev flannel.1
    set FDB entry 02:00:00:00:00:14 dev flannel.1 dst 192.0.2.102
    set neighbour 10.5.2.0 dev flannel.1 lladdr 02:00:00:00:00:14
    CONFLICT 10.5.2.0/24 is taken by a route of protocol static with metric 0: dev eth0; remove it
    ");
}

#[test]
fn a_tunnel_is_replaced_by_a_vxlan_device_and_the_other_way_round() {
    insta::assert_snapshot!(plan_host(&held(&tunnelled(state(&[(2, 20, 102)]))), &state(&[(2, 20, 102)])), @"
    delete link flannel.1
    create link flannel.1: vxlan vni 1 dev eth0 local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:01 mtu 1450 up
    add address 10.5.0.0/32 dev flannel.1
    set FDB entry 02:00:00:00:00:14 dev flannel.1 dst 192.0.2.102
    set neighbour 10.5.2.0 dev flannel.1 lladdr 02:00:00:00:00:14
    add route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
    ");
    insta::assert_snapshot!(plan_host(&held(&state(&[(2, 20, 102)])), &tunnelled(state(&[(2, 20, 102)]))), @"
    delete link flannel.1
    create link flannel.1: tun vxlan vni 1 local 192.0.2.1:8472 lladdr 02:00:00:00:00:01 mtu 1450 up
    add address 10.5.0.0/32 dev flannel.1
    set forwarding 10.5.2.0/24 dev flannel.1 to 192.0.2.102 lladdr 02:00:00:00:00:14
    add route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
    ");
}

#[test]
fn a_tun_device_of_an_earlier_run_is_used_again_and_its_table_is_filled() {
    let want = tunnelled(state(&[(2, 20, 102)]));
    let mut have = held(&want);
    have.forwarding.clear();
    have.links.get_mut(&name("flannel.1")).unwrap().kind = ObservedKind::Tun(None);
    insta::assert_snapshot!(plan_host(&have, &want), @"
    change link flannel.1: tun vxlan vni 1 local 192.0.2.1:8472 lladdr 02:00:00:00:00:01 mtu 1450 up
    set forwarding 10.5.2.0/24 dev flannel.1 to 192.0.2.102 lladdr 02:00:00:00:00:14
    ");
}

#[test]
fn a_changed_mac_of_ours_is_set_back_and_the_lost_neighbours_are_set_again() {
    let mut have = held(&state(&[(2, 20, 102)]));
    have.links.insert(name("flannel.1"), found_device(7));
    insta::assert_snapshot!(plan_host(&have, &state(&[(2, 20, 102)])), @"
    change link flannel.1: vxlan vni 1 dev eth0 local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:01 mtu 1450 up
    set neighbour 10.5.2.0 dev flannel.1 lladdr 02:00:00:00:00:14
    ");
}

/// A state with any peers, whose MACs and public addresses are from a small range so that they collide, and with foreign entries.
pub(crate) fn any_state() -> impl Strategy<Value = ObservedNet> {
    let peers = prop::collection::btree_map(1u8..8, (10u8..18, 100u8..104), 0..6);
    let device = prop_oneof![5 => Just(Some((1u8, true, false))), 1 => Just(None), 3 => (1u8..3, any::<bool>(), any::<bool>()).prop_map(Some)];
    let foreign = prop::collection::btree_set(1u8..8, 0..2);
    (peers, device, (foreign, any_settings()), any::<[bool; 3]>()).prop_map(
        |(peers, found, (foreign, settings), [plain, ours, nexthops])| {
            let peers: Vec<(u8, u8, u8)> =
                peers.into_iter().map(|(number, (last, public))| (number, last, public)).collect();
            let wanted = if ours { tunnelled(state(&peers)) } else { state(&peers) };
            let mut made = ObservedNet { settings, ..held(&wanted) };
            match found {
                None => made.forget_link(name("flannel.1")),
                Some((last, up, gbp)) => {
                    if !up {
                        made.routes.clear();
                    }
                    if !ours {
                        made.links.insert(name("flannel.1"), device_with(last, gbp));
                    }
                    made.links.values_mut().for_each(|link| link.up = up);
                }
            }
            if plain {
                change_each(&mut made.routes, |route| route.protocol = 3);
            }
            change_each(&mut made.routes, |route| route.uses_nexthop = nexthops);
            for number in foreign {
                foreign_route(&mut made, number);
            }
            made
        },
    )
}

/// Settings as they may be found. `accept_ra` of the foreign link is 0 or 2: neither value is changed by the plan.
fn any_settings() -> impl Strategy<Value = BTreeMap<Setting, u32>> {
    let found = (any::<bool>(), prop::collection::vec(0u32..2, 3));
    found.prop_map(|(always, values)| {
        let (ours, other) = (name("flannel.1"), name("eth0"));
        let settings =
            [Setting::Forwarding(Family::V6), Setting::LinkForwarding(Family::V6, ours), Setting::DisableIpv6(ours)];
        let router = (Setting::RouterAdvertisements(other), if always { 2 } else { 0 });
        settings.into_iter().zip(values).chain([router]).collect()
    })
}

fn device_with(last: u8, gbp: bool) -> ObservedLink {
    let mut link = found_device(last);
    if let ObservedKind::Vxlan(vxlan) = &mut link.kind {
        vxlan.gbp = gbp;
    }
    link
}

/// A desired state: one device and any peers.
pub(crate) fn any_want() -> impl Strategy<Value = DesiredNet> {
    let peers = prop::collection::btree_map(1u8..8, (10u8..18, 100u8..104), 0..6);
    (peers, any::<bool>(), any::<bool>()).prop_map(|(peers, ours, plain)| {
        let peers: Vec<(u8, u8, u8)> =
            peers.into_iter().map(|(number, (last, public))| (number, last, public)).collect();
        let link = name("flannel.1");
        let settings = [
            (Setting::Forwarding(Family::V6), 1),
            (Setting::LinkForwarding(Family::V6, link), 1),
            (Setting::DisableIpv6(link), 0),
        ];
        let route_form = if plain { DesiredForm::Plain } else { DesiredForm::Any };
        let wanted = DesiredNet { settings: settings.into(), route_form, ..state(&peers) };
        if ours { tunnelled(wanted) } else { wanted }
    })
}

/// The host's namespace after these operations.
fn applied(net: &ObservedNet, ops: &[Op]) -> ObservedNet {
    let mut after = PerNamespace::host(net.clone());
    ops.iter().for_each(|op| after.apply(op));
    after.get(Namespace::Host).unwrap().clone()
}

/// Asserts that `have` is `want`, except for routes in whose place there are foreign ones.
pub(crate) fn assert_reached(have: &ObservedNet, want: &DesiredNet) {
    assert_eq!(&have.addresses, &want.addresses);
    assert_eq!(&have.fdb, &want.fdb);
    assert_eq!(&have.neighbours, &want.neighbours);
    assert_eq!(have.forwarding, want.forwarding);
    for (setting, wanted) in &want.settings {
        assert_eq!(have.settings.get(setting), Some(wanted), "{setting}");
    }
    let links: BTreeSet<_> =
        have.links.iter().filter(|(_, link)| link.owner == Owner::Ours).map(|(name, _)| name).collect();
    assert_eq!(links, want.links.keys().collect());
    let links = |net: &ObservedNet| plan_host(net, &DesiredNet { links: want.links.clone(), ..DesiredNet::default() });
    let differ: Vec<Op> = links(have).ops.into_iter().filter(Op::is_link).collect();
    assert_eq!(differ, []);
    for (key, wanted) in &want.routes {
        let there = &have.routes[key];
        assert!(there.owner == Owner::Foreign || there.serves_as(wanted, want.route_form), "{key}");
    }
    for (key, there) in &have.routes {
        assert!(there.owner == Owner::Foreign || want.routes.contains_key(key), "{key}");
    }
}

proptest! {
    #[test]
    fn what_is_as_wanted_needs_nothing(want in any_want()) {
        prop_assert_eq!(plan_host(&held(&want), &want), Plan::default());
    }

    #[test]
    fn a_plan_carried_out_reaches_what_is_wanted_and_leaves_the_rest(have in any_state(), want in any_want()) {
        let plan = plan_host(&have, &want);
        let after = applied(&have, &plan.ops);
        assert_reached(&after, &want);
        prop_assert_eq!(after.foreign(), have.foreign());
        prop_assert!(plan_host(&after, &want).ops.is_empty());
    }

    #[test]
    fn nothing_is_put_after_a_deletion_but_in_place_of_a_link(have in any_state(), want in any_want()) {
        let ops = plan_host(&have, &want).ops;
        let rank = |op: &Op| match op {
            _ if op.deletes_link().is_some_and(|place| want.links.contains_key(&place.name)) => 0,
            Op::Kernel(_, KernelOp::CreateLink(..) | KernelOp::ChangeLink(..)) => 1,
            Op::Tunnel(TunnelOp::Create(..) | TunnelOp::Change(..)) => 1,
            Op::Kernel(_, KernelOp::Set(..)) => 2,
            Op::Kernel(_, KernelOp::PutAddress(_)) => 3,
            Op::Kernel(_, KernelOp::PutFdb(..)) => 4,
            Op::Kernel(_, KernelOp::PutFlood(_)) => 5,
            Op::Kernel(_, KernelOp::PutBridgeFdb(..)) => 6,
            Op::Kernel(_, KernelOp::PutNeighbour(..)) => 7,
            Op::Tunnel(TunnelOp::PutForward(..)) => 8,
            Op::Kernel(_, KernelOp::AddRoute(..) | KernelOp::ReplaceRoute(..)) => 9,
            Op::Kernel(_, KernelOp::DeleteRoute(..)) => 10,
            Op::Tunnel(TunnelOp::DeleteForward(_)) => 11,
            Op::Kernel(_, KernelOp::DeleteNeighbour(_)) => 12,
            Op::Kernel(_, KernelOp::DeleteBridgeFdb(..)) => 13,
            Op::Kernel(_, KernelOp::DeleteFlood(_)) => 14,
            Op::Kernel(_, KernelOp::DeleteFdb(_)) => 15,
            Op::Kernel(_, KernelOp::DeleteAddress(_)) => 16,
            Op::Kernel(_, KernelOp::DeleteLink(_)) | Op::Tunnel(TunnelOp::Delete(_)) => 17,
        };
        prop_assert!(ops.is_sorted_by_key(rank), "{:?}", ops);
    }

    /// A peer in both states can be reached after each operation: there are its route, the gateway's MAC, and the host of that MAC.
    #[test]
    fn a_peer_in_both_states_is_reachable_after_each_operation(have in any_want(), want in any_want()) {
        let is_ours = |net: &DesiredNet| net.links.values().any(|link| matches!(link.kind, DesiredKind::Tunnel(_)));
        // When the device is replaced by one of the other kind, there is a moment without a device.
        prop_assume!(is_ours(&have) == is_ours(&want));
        let stays: Vec<RouteKey> = want.routes.keys().filter(|key| have.routes.contains_key(*key)).copied().collect();
        let mut now = held(&have);
        for op in plan_host(&now, &want).ops {
            now = applied(&now, std::slice::from_ref(&op));
            for key in &stays {
                let Via::NextHop(NextHop::Gateway { gateway, link, .. }) = now.routes[key].via else { unreachable!() };
                if is_ours(&want) {
                    let forward = ForwardKey { link, destination: key.destination };
                    prop_assert!(now.forwarding.contains_key(&forward), "{} after {}", key, op);
                    continue;
                }
                let mac = now.neighbours[&NeighbourKey { link, address: gateway }];
                prop_assert!(now.fdb.contains_key(&FdbKey { link, mac }), "{} after {}", key, op);
            }
        }
    }
}

#[test]
fn of_four_thousand_peers_all_entries_are_planned_and_none_twice() {
    let mut want = DesiredNet::default();
    let link = name("flannel.1");
    want.links.insert(link, device(1));
    for number in 0..4_000u32 {
        let gateway = std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + (number << 8)));
        let octets = number.to_be_bytes();
        let mac = MacAddr::new([2, 0, octets[0], octets[1], octets[2], octets[3]]);
        want.fdb.insert(FdbKey { link, mac }, gateway.into());
        want.neighbours.insert(NeighbourKey { link, address: gateway }, mac);
        let key = RouteKey::main(wire_net::Prefix::new(gateway, 24).unwrap());
        want.routes.insert(key, NextHop::Gateway { gateway, link, onlink: true });
    }
    let (have, want) = (PerNamespace::host(held(&want)), PerNamespace::host(want));
    assert!(plan(&have, &want).ops.is_empty());
    assert_eq!(plan(&PerNamespace::default(), &want).ops.len(), 12_001);
}

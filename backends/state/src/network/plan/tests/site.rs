//! Properties over several namespaces and all kinds of links.

use super::*;
use crate::{
    Address, Bridge, BridgeFdbKey, DesiredLink, DesiredVxlan, FdbKey, FdbTarget, FloodEntry, FloodPath, Ipip,
    LinkPlace, LinkRef, Macvlan, MacvlanMode, ObservedLink, PortFlag, PortFlags, Veth, Vlan,
    samples::{mac, vxlan},
    sim::{Simulated, reached},
};

const GUEST: Namespace = Namespace::Guest(7);

fn in_guest(text: &str) -> LinkPlace {
    LinkPlace { namespace: GUEST, name: name(text) }
}

fn in_host(text: &str) -> LinkPlace {
    LinkPlace::in_host(name(text))
}

fn link(kind: KernelKind, last: u8) -> DesiredLink {
    DesiredLink { mac: Some(mac(last)), ..DesiredLink::new(DesiredKind::Kernel(kind), Mtu(1400)) }
}

/// A host and a container. On the host: a bridge, whose ports are a VXLAN device and one end of a veth pair, and a VLAN on the bridge. In
/// the container: the other end of the pair, a macvlan on the host's VLAN, and a VLAN on the pair. Each link is missing or has one of two
/// forms.
pub(crate) fn any_site() -> impl Strategy<Value = PerNamespace<DesiredNet>> {
    let part = || prop_oneof![1 => Just(None), 3 => (0u8..2).prop_map(Some)];
    (part(), part(), part(), part(), part(), (part(), part())).prop_map(
        |(bridge, overlay, pair, vlan, macvlan, (inner, ipip))| {
            let (mut host, mut guest) = (DesiredNet::default(), DesiredNet::default());
            let master = bridge.map(|_| name("z-bridge"));
            if let Some(form) = bridge {
                host.links.insert(name("z-bridge"), link(KernelKind::Bridge(bridge_of(form)), 30 + form));
            }
            if let Some(form) = overlay {
                let parent = if form == 0 { vxlan().parent } else { vlan.map(|_| LinkRef::Desired(in_host("m-vlan"))) };
                let kind = KernelKind::Vxlan(DesiredVxlan { parent, ..vxlan() });
                let port = (form == 1).then(|| overlay_port(form));
                host.links.insert(name("a-vxlan"), DesiredLink { master, port, ..link(kind, 40 + form) });
                add_entries(&mut host, form);
                if bridge.is_some() {
                    let bridge_fdb = (90..92 + form).map(|last| (behind(last), name("a-vxlan")));
                    host.bridge_fdb.extend(bridge_fdb);
                }
            }
            if let Some(form) = pair {
                let (one, other) =
                    if form == 0 { (in_host("wp1"), in_guest("eth1")) } else { (in_guest("a1"), in_host("wp1")) };
                for (end, peer) in [(one, other), (other, one)] {
                    let net = if end.namespace == GUEST { &mut guest } else { &mut host };
                    let master = master.filter(|_| end.namespace == Namespace::Host);
                    let end_mac = 50 + 2 * form + u8::from(end.namespace == GUEST);
                    let made = link(KernelKind::Veth(Veth { peer }), end_mac);
                    net.links.insert(end.name, DesiredLink { master, ..made });
                }
                // A MAC that moves from one port to another.
                if master.is_some() && overlay.is_none() {
                    host.bridge_fdb.insert(behind(90), name("wp1"));
                }
            }
            if let Some(form) = vlan {
                let parent = bridge.map_or(LinkRef::Found(found("eth0", 2)), |_| LinkRef::Desired(in_host("z-bridge")));
                let kind = KernelKind::Vlan(Vlan { parent, id: 7 + u16::from(form) });
                host.links.insert(name("m-vlan"), link(kind, 60));
            }
            if let Some(form) = macvlan {
                let mode = if form == 0 { MacvlanMode::Bridge } else { MacvlanMode::Private };
                let parent = vlan.map_or(LinkRef::Found(found("eth0", 2)), |_| LinkRef::Desired(in_host("m-vlan")));
                guest.links.insert(name("eth2"), link(KernelKind::Macvlan(Macvlan { parent, mode }), 70));
                let address = Address { link: name("eth2"), address: [10, 9, 0, 2 + form].into(), len: 24 };
                guest.addresses.insert(address);
                let key = RouteKey::main("10.10.0.0/16".parse().unwrap());
                guest.routes.insert(key, NextHop::Link(name("eth2")));
            }
            if let (Some(form), Some(0)) = (inner, pair) {
                let kind =
                    KernelKind::Vlan(Vlan { parent: LinkRef::Desired(in_guest("eth1")), id: 9 + u16::from(form) });
                guest.links.insert(name("eth1.9"), link(kind, 80));
            }
            if let Some(form) = ipip {
                let local = Some(std::net::Ipv4Addr::new(192, 0, 2, form));
                let kind = KernelKind::Ipip(Ipip { parent: None, local });
                let made = DesiredLink::new(DesiredKind::Kernel(kind), Mtu(1480));
                host.links.insert(name("flannel.ipip"), made);
            }
            [(Namespace::Host, host), (GUEST, guest)].into_iter().collect()
        },
    )
}

fn bridge_of(form: u8) -> Bridge {
    Bridge { snooping: form == 0, ..Bridge::default() }
}

fn overlay_port(form: u8) -> PortFlags {
    PortFlags::none().with(PortFlag::NeighbourSuppression, true).with(PortFlag::Flood, form == 1)
}

fn behind(last: u8) -> BridgeFdbKey {
    BridgeFdbKey { bridge: name("z-bridge"), mac: mac(last) }
}

fn add_entries(net: &mut DesiredNet, form: u8) {
    let link = name("a-vxlan");
    for last in [101, 102 + form] {
        net.flooding.insert(FloodEntry {
            link,
            mac: MacAddr::new([0; 6]),
            to: [192, 0, 2, last].into(),
            by: FloodPath::default(),
        });
    }
    net.fdb.insert(FdbKey { link, mac: mac(90) }, FdbTarget { to: [192, 0, 2, 101 + form].into(), port: None });
    net.addresses.insert(Address { link, address: [10, 6, 0, 1].into(), len: 24 });
}

/// Carries out a plan, and asserts before each operation that the kernel would accept it.
fn carried_out(have: &PerNamespace<ObservedNet>, plan: &Plan<Network>) -> PerNamespace<ObservedNet> {
    let mut now = have.clone();
    for op in &plan.ops {
        assert_eq!(Network::refusal(&now, op), None, "{op} of:\n{plan}");
        now.apply(op);
    }
    now
}

proptest! {
    #[test]
    fn each_operation_of_a_plan_can_be_carried_out_and_the_last_leaves_nothing_to_do(
        have in any_site(),
        want in any_site(),
    ) {
        let have = reached(&have);
        let planned = plan(&have, &want);
        prop_assert_eq!(&planned.findings.conflicts, &vec![]);
        let after = carried_out(&have, &planned);
        prop_assert_eq!(plan(&after, &want), Plan::default());
        prop_assert_eq!(after.as_desired(), reached(&want).as_desired());
    }

    #[test]
    fn a_removed_link_is_made_again_with_all_that_was_removed_with_it(want in any_site(), gone in any::<prop::sample::Index>()) {
        let mut have = reached(&want);
        let places: Vec<LinkPlace> = have.iter().flat_map(|(namespace, net)| {
            net.links.keys().map(move |name| LinkPlace { namespace, name: *name })
        }).collect();
        prop_assume!(!places.is_empty());
        let gone = gone.get(&places);
        have.apply(&Op::Kernel(gone.namespace, KernelOp::DeleteLink(gone.name)));
        let planned = plan(&have, &want);
        let after = carried_out(&have, &planned);
        prop_assert_eq!(after.as_desired(), reached(&want).as_desired());
    }

    #[test]
    fn an_observed_state_taken_as_desired_is_observed_again(want in any_site()) {
        let found = reached(&want);
        prop_assert_eq!(reached(&found.as_desired()), found);
    }
}

#[test]
fn a_container_on_a_bridge_is_attached_in_order() {
    let (mut host, mut guest) = (DesiredNet::default(), DesiredNet::default());
    host.links.insert(name("wb1"), link(KernelKind::Bridge(Bridge::default()), 1));
    let end = link(KernelKind::Veth(Veth { peer: in_guest("eth1") }), 2);
    host.links.insert(name("wp1"), DesiredLink { master: Some(name("wb1")), ..end });
    guest.links.insert(name("eth1"), link(KernelKind::Veth(Veth { peer: in_host("wp1") }), 3));
    guest.addresses.insert(Address { link: name("eth1"), address: [10, 9, 0, 2].into(), len: 24 });
    let want: PerNamespace<DesiredNet> = [(Namespace::Host, host), (GUEST, guest)].into_iter().collect();
    let nothing: PerNamespace<ObservedNet> =
        [Namespace::Host, GUEST].into_iter().map(|namespace| (namespace, ObservedNet::default())).collect();
    insta::assert_snapshot!(plan(&nothing, &want), @"
    create link wb1: bridge mac 02:00:00:00:00:01 mtu 1400 up
    create link wp1: veth peer eth1 in namespace 7 mac 02:00:00:00:00:02 mtu 1400 up master wb1
    change link eth1: veth peer wp1 mac 02:00:00:00:00:03 mtu 1400 up in namespace 7
    add address 10.9.0.2/24 dev eth1 in namespace 7
    ");
    insta::assert_snapshot!(plan(&reached(&want), &PerNamespace::default()), @"
    delete link wb1
    delete link wp1
    delete link eth1 in namespace 7
    ");
    // The namespace ends with the container: links that refer to it are not made.
    insta::assert_snapshot!(plan(&PerNamespace::default(), &want), @"
    create link wb1: bridge mac 02:00:00:00:00:01 mtu 1400 up
    CONFLICT eth1 in namespace 7 cannot be made: its namespace is gone
    ");
}

/// An agent that is killed after it has made a pair has not marked the end in the container.
#[test]
fn the_end_of_a_pair_that_was_made_and_not_marked_is_ours_and_anyone_elses_is_not() {
    let (mut host, mut guest) = (DesiredNet::default(), DesiredNet::default());
    host.links.insert(name("wp1"), link(KernelKind::Veth(Veth { peer: in_guest("eth1") }), 2));
    guest.links.insert(name("eth1"), link(KernelKind::Veth(Veth { peer: in_host("wp1") }), 3));
    let want: PerNamespace<DesiredNet> = [(Namespace::Host, host), (GUEST, guest)].into_iter().collect();
    let mut have = reached(&want);
    let far = have.get_mut(GUEST).unwrap().links.get_mut(&name("eth1")).unwrap();
    (far.owner, far.is_marked, far.up, far.mac) = (Owner::Foreign, false, false, None);
    insta::assert_snapshot!(plan(&have, &want), @"change link eth1: veth peer wp1 mac 02:00:00:00:00:03 mtu 1400 up in namespace 7");
    let far = have.get_mut(GUEST).unwrap().links.get_mut(&name("eth1")).unwrap();
    far.kind = ObservedKind::Veth(Veth { peer: None });
    insta::assert_snapshot!(plan(&have, &want), @"CONFLICT eth1 in namespace 7 cannot be made, because another device has this name: veth mtu 1400 down; rename or remove it");
}

#[test]
fn a_link_whose_parent_is_blocked_missing_or_itself_is_not_made_and_says_why_once() {
    let vlan = |parent: &str| link(KernelKind::Vlan(Vlan { parent: LinkRef::Desired(in_host(parent)), id: 7 }), 1);
    let mut want = DesiredNet::default();
    want.links.insert(name("br"), link(KernelKind::Bridge(Bridge::default()), 1));
    for (name_of, parent) in [("br.7", "br"), ("br.7.7", "br.7"), ("lost", "eth9"), ("one", "two"), ("two", "one")] {
        want.links.insert(name(name_of), vlan(parent));
    }
    let mut have = ObservedNet::default();
    have.links.insert(name("br"), ObservedLink { owner: Owner::Foreign, ..found_device(9) });
    insta::assert_snapshot!(plan_host(&have, &want), @"
    CONFLICT one cannot be made: it needs a link that itself needs this one
    CONFLICT two cannot be made: it needs a link that itself needs this one
    CONFLICT br cannot be made, because another device has this name: vxlan vni 1 dev eth0 local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:09 mtu 1450 up; rename or remove it
    CONFLICT lost cannot be made: it needs the link eth9, which is not there
    ");
}

/// A bridge of a network over several hosts, with its VXLAN device, and addresses of other hosts.
fn segment(addresses: &[u8]) -> DesiredNet {
    let (bridge, overlay) = (name("wb.5000"), name("wv.5000"));
    let mut net = DesiredNet::default();
    net.links.insert(bridge, link(KernelKind::Bridge(Bridge { snooping: false, spanning_tree: false }), 1));
    let flags = PortFlags::NEW_PORT.with(PortFlag::NeighbourSuppression, true).with(PortFlag::Learning, false);
    let device = DesiredVxlan { vni: Vni::new(5000).unwrap(), ..vxlan() };
    let device = DesiredLink { master: Some(bridge), port: Some(flags), ..link(KernelKind::Vxlan(device), 2) };
    net.links.insert(overlay, device);
    for last in addresses {
        let mac = MacAddr::new([2, 0x57, 10, 128, 0, *last]);
        net.fdb.insert(FdbKey { link: overlay, mac }, FdbTarget { to: [192, 0, 2, 102].into(), port: None });
        net.bridge_fdb.insert(BridgeFdbKey { bridge, mac }, overlay);
        net.neighbours.insert(NeighbourKey { link: bridge, address: [10, 128, 0, *last].into() }, mac);
    }
    net
}

#[test]
fn a_segment_is_made_from_the_device_up_and_an_address_that_moves_in_is_reachable_before_it_is_known() {
    insta::assert_snapshot!(plan_host(&ObservedNet::default(), &segment(&[5])), @"
    create link wb.5000: bridge mcast_snooping off mac 02:00:00:00:00:01 mtu 1400 up
    create link wv.5000: vxlan vni 5000 dev eth0 local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:02 mtu 1400 up master wb.5000 learning off neigh_suppress on
    set FDB entry 02:57:0a:80:00:05 dev wv.5000 dst 192.0.2.102
    set bridge FDB entry 02:57:0a:80:00:05 dev wb.5000 port wv.5000
    set neighbour 10.128.0.5 dev wb.5000 lladdr 02:57:0a:80:00:05
    ");
    insta::assert_snapshot!(plan_host(&held(&segment(&[5])), &segment(&[6])), @"
    set FDB entry 02:57:0a:80:00:06 dev wv.5000 dst 192.0.2.102
    set bridge FDB entry 02:57:0a:80:00:06 dev wb.5000 port wv.5000
    set neighbour 10.128.0.6 dev wb.5000 lladdr 02:57:0a:80:00:06
    delete neighbour 10.128.0.5 dev wb.5000
    delete bridge FDB entry 02:57:0a:80:00:05 dev wb.5000
    delete FDB entry 02:57:0a:80:00:05 dev wv.5000
    ");
}

#[test]
fn what_others_change_of_a_bridge_or_its_port_is_set_back_with_what_was_lost() {
    let want = segment(&[5]);
    let (bridge, overlay) = (name("wb.5000"), name("wv.5000"));
    let mut have = held(&want);
    have.links.get_mut(&bridge).unwrap().kind = ObservedKind::Bridge(Bridge::default());
    have.links.get_mut(&overlay).unwrap().port = Some(PortFlags::NEW_PORT);
    have.bridge_fdb.insert(BridgeFdbKey { bridge, mac: MacAddr::new([2, 0x57, 10, 128, 0, 5]) }, name("wp1"));
    insta::assert_snapshot!(plan_host(&have, &want), @"
    change link wb.5000: bridge mcast_snooping off mac 02:00:00:00:00:01 mtu 1400 up
    change link wv.5000: vxlan vni 5000 dev eth0 local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:02 mtu 1400 up master wb.5000 learning off neigh_suppress on
    set bridge FDB entry 02:57:0a:80:00:05 dev wb.5000 port wv.5000
    ");
    // A port that left the bridge has lost its entries there.
    let mut have = held(&want);
    let port = have.links.get_mut(&overlay).unwrap();
    (port.master, port.port) = (None, None);
    have.bridge_fdb.clear();
    insta::assert_snapshot!(plan_host(&have, &want), @"
    change link wv.5000: vxlan vni 5000 dev eth0 local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:02 mtu 1400 up master wb.5000 learning off neigh_suppress on
    set bridge FDB entry 02:57:0a:80:00:05 dev wb.5000 port wv.5000
    ");
}

#[test]
fn an_address_that_comes_costs_its_own_entries_alone() {
    let addresses: Vec<u8> = (1..250).collect();
    let before = PerNamespace::host(segment(&addresses));
    let mut after = before.get(Namespace::Host).unwrap().clone();
    let more = segment(&[251]);
    after.fdb.extend(more.fdb);
    after.bridge_fdb.extend(more.bridge_fdb);
    after.neighbours.extend(more.neighbours);
    let (link, by) = (name("wv.5000"), FloodPath::default());
    after.flooding.insert(FloodEntry { link, mac: MacAddr::new([0; 6]), to: [192, 0, 2, 9].into(), by });
    let after = PerNamespace::host(after);
    let have = reached(&before);
    let reached = Before { reached: &before, index: &ForeignRoutes::of(&have), has_conflicts: false };
    let since = Network::plan_since(&have, reached, &after).expect("entries of peers alone");
    assert_eq!(since.ops.len(), 4, "{since}");
    assert_eq!(since, plan(&have, &after));
}

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use wire_net::{DualStack, Mtu, Prefix, Vni};
use wire_state::{
    LinkId, Namespace, PerNamespace, Setting,
    samples::{held, name, plan_host},
};

use super::*;
use crate::{ForwardSettings, SegmentAgent, SegmentOuter};

fn segment() -> Segment {
    Segment {
        vni: Vni::new(5000).unwrap(),
        pools: DualStack { v4: Some("10.128.0.0/20".parse().unwrap()), v6: Some("fd57:5000::/64".parse().unwrap()) },
        broadcast: true,
        internal: false,
        mtu: None,
        own: DualStack { v4: Some([10, 128, 0, 32].into()), v6: Some("fd57:5000::a80:20".parse().unwrap()) },
        mac: MacAddr::new([2, 0, 0, 0, 5, 1]),
        outer: SegmentOuter {
            parent: LinkId { namespace: Namespace::Host, index: 2, name: name("eth0") },
            local: [192, 0, 2, 1].into(),
            port: 8472,
            mtu: Mtu(1500),
            agent: None,
        },
    }
}

fn host(last: u8, blocks: &[&str]) -> SegmentHost {
    let public = DualStack { v4: Some([192, 0, 2, last].into()), v6: None };
    let blocks = blocks.iter().map(|block| block.parse().unwrap()).collect();
    SegmentHost { public, port: 8472, blocks, addresses: BTreeMap::new() }
}

fn hosts(others: &[(&str, SegmentHost)]) -> SegmentHosts {
    let own = Arc::new(host(1, &["10.128.0.32/27", "fd57:5000::a80:20/123"]));
    let others = others.iter().map(|(id, host)| ((*id).to_owned(), Arc::new(host.clone()))).collect();
    SegmentHosts { own, others }
}

fn net(segment: &Segment, others: &[(&str, SegmentHost)]) -> DesiredNet {
    NetFromSegment::new(segment, &hosts(others)).net().clone()
}

/// The plan that makes the state on an empty host.
fn planned(net: &DesiredNet) -> String {
    plan_host(&wire_state::ObservedNet::default(), net).to_string()
}

#[test]
fn a_network_with_one_other_host_has_its_devices_its_addresses_and_the_entries_of_its_block() {
    let one = host(2, &["10.128.0.64/30", "fd57:5000::a80:40/127"]);
    insta::assert_snapshot!(planned(&net(&segment(), &[("b", one)])), @"
    create link wb.5000: bridge mcast_snooping off mac 02:57:0a:80:00:20 mtu 1450 up
    create link wv.5000: vxlan vni 5000 dev eth0 local 192.0.2.1 port 8472 nolearning mtu 1450 up master wb.5000 learning off neigh_suppress on group_fwd_mask on
    set sysctl net.ipv6.conf.wb/5000.disable_ipv6 = 0
    set sysctl net.ipv6.conf.wv/5000.disable_ipv6 = 1
    set sysctl net.ipv4.ip_forward = 1
    set sysctl net.ipv6.conf.all.forwarding = 1
    set sysctl net.ipv4.conf.wb/5000.forwarding = 1
    set sysctl net.ipv6.conf.wb/5000.forwarding = 1
    add address 10.128.0.1/32 dev wb.5000
    add address 10.128.0.32/20 dev wb.5000
    add address fd57:5000::1/64 dev wb.5000
    add address fd57:5000::a80:20/128 dev wb.5000
    set FDB entry 02:57:0a:80:00:40 dev wv.5000 dst 192.0.2.2
    set FDB entry 02:57:0a:80:00:41 dev wv.5000 dst 192.0.2.2
    set FDB entry 02:57:0a:80:00:42 dev wv.5000 dst 192.0.2.2
    set FDB entry 02:57:0a:80:00:43 dev wv.5000 dst 192.0.2.2
    add flood entry 00:00:00:00:00:00 dev wv.5000 dst 192.0.2.2
    set bridge FDB entry 02:57:0a:80:00:40 dev wb.5000 port wv.5000
    set bridge FDB entry 02:57:0a:80:00:41 dev wb.5000 port wv.5000
    set bridge FDB entry 02:57:0a:80:00:42 dev wb.5000 port wv.5000
    set bridge FDB entry 02:57:0a:80:00:43 dev wb.5000 port wv.5000
    set neighbour 10.128.0.64 dev wb.5000 lladdr 02:57:0a:80:00:40
    set neighbour 10.128.0.65 dev wb.5000 lladdr 02:57:0a:80:00:41
    set neighbour 10.128.0.66 dev wb.5000 lladdr 02:57:0a:80:00:42
    set neighbour 10.128.0.67 dev wb.5000 lladdr 02:57:0a:80:00:43
    set neighbour fd57:5000::a80:40 dev wb.5000 lladdr 02:57:0a:80:00:40
    set neighbour fd57:5000::a80:41 dev wb.5000 lladdr 02:57:0a:80:00:41
    ");
}

#[test]
fn where_the_agent_moves_packets_it_has_an_entry_for_each_address_and_the_bridge_is_the_same() {
    let agent = Some(SegmentAgent { port: 61_000, settings: ForwardSettings::default() });
    let moved = Segment { outer: SegmentOuter { agent, ..segment().outer }, ..segment() };
    let blocks = ["10.128.0.64/31", "fd57:5000::a80:40/127"];
    let others = [("b", host(2, &blocks)), ("c", SegmentHost { port: 61_000, ..host(3, &["10.128.0.96/31"]) })];
    let (kernel, agent) = (net(&segment(), &others), net(&moved, &others));
    let entries = agent.forwarding.iter().map(|(key, to)| (key.destination.to_string(), (to.to, to.port))).collect();
    let (two, three) = ((IpAddr::from([192, 0, 2, 2]), Some(8472)), (IpAddr::from([192, 0, 2, 3]), None));
    let expected: BTreeMap<String, (IpAddr, Option<u16>)> = [
        ("10.128.0.64/32".to_owned(), two),
        ("10.128.0.65/32".to_owned(), two),
        ("10.128.0.96/32".to_owned(), three),
        ("10.128.0.97/32".to_owned(), three),
        ("fd57:5000::a80:40/128".to_owned(), two),
        ("fd57:5000::a80:41/128".to_owned(), two),
    ]
    .into();
    assert_eq!(BTreeMap::<String, (IpAddr, Option<u16>)>::clone(&entries), expected);
    assert!(agent.fdb.is_empty() && agent.flooding.is_empty());
    assert_eq!((&agent.neighbours, &agent.bridge_fdb), (&kernel.neighbours, &kernel.bridge_fdb));
    assert_eq!((&agent.addresses, &agent.settings), (&kernel.addresses, &kernel.settings));
    let bridge = Segment::bridge(moved.vni);
    assert_eq!(agent.links[&bridge], kernel.links[&bridge]);
    let device = agent.links[&Segment::overlay(moved.vni)].to_string();
    let flags = "learning off flood off mcast_flood off bcast_flood off neigh_suppress on group_fwd_mask on";
    let expected = format!("tun ethernet vni 5000 local 192.0.2.1:61000 mtu 1450 up master wb.5000 {flags}");
    assert_eq!(device, expected);
    let mut changed = NetFromSegment::new(&moved, &hosts(&others));
    changed.update(&moved, &hosts(&others[1..]));
    assert_eq!(changed.net().forwarding.len(), 2);
    assert!(changed.check());
}

#[test]
fn without_broadcast_nothing_is_flooded_and_an_internal_network_is_not_forwarded() {
    let quiet =
        Segment { broadcast: false, internal: true, pools: DualStack { v6: None, ..segment().pools }, ..segment() };
    insta::assert_snapshot!(planned(&net(&quiet, &[("b", host(2, &["10.128.0.64/31"]))])), @"
    create link wb.5000: bridge mcast_snooping off mac 02:57:0a:80:00:20 mtu 1450 up
    create link wv.5000: vxlan vni 5000 dev eth0 local 192.0.2.1 port 8472 nolearning mtu 1450 up master wb.5000 learning off flood off mcast_flood off bcast_flood off neigh_suppress on group_fwd_mask on
    set sysctl net.ipv6.conf.wv/5000.disable_ipv6 = 1
    set sysctl net.ipv4.conf.wb/5000.forwarding = 0
    add address 10.128.0.1/32 dev wb.5000
    add address 10.128.0.32/20 dev wb.5000
    set FDB entry 02:57:0a:80:00:40 dev wv.5000 dst 192.0.2.2
    set FDB entry 02:57:0a:80:00:41 dev wv.5000 dst 192.0.2.2
    set bridge FDB entry 02:57:0a:80:00:40 dev wb.5000 port wv.5000
    set bridge FDB entry 02:57:0a:80:00:41 dev wb.5000 port wv.5000
    set neighbour 10.128.0.64 dev wb.5000 lladdr 02:57:0a:80:00:40
    set neighbour 10.128.0.65 dev wb.5000 lladdr 02:57:0a:80:00:41
    ");
}

#[test]
fn a_host_without_an_address_of_its_own_has_the_gateways_route_and_the_given_mac() {
    let bare = Segment { own: DualStack::default(), ..segment() };
    let state = net(&bare, &[]);
    let addresses: Vec<String> = state.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.128.0.1/20 dev wb.5000", "fd57:5000::1/64 dev wb.5000"]);
    assert_eq!(state.links[&Segment::bridge(bare.vni)].mac, Some(bare.mac));
}

#[test]
fn the_mtu_is_what_fits_into_the_underlay_or_less() {
    assert_eq!(segment().mtu(), Mtu(1450));
    assert_eq!(Segment { mtu: Some(Mtu(1400)), ..segment() }.mtu(), Mtu(1400));
    assert_eq!(Segment { mtu: Some(Mtu(9000)), ..segment() }.mtu(), Mtu(1450));
    let outer = SegmentOuter { local: "2001:db8::1".parse().unwrap(), ..segment().outer };
    assert_eq!(Segment { outer, ..segment() }.mtu(), Mtu(1430));
}

#[test]
fn an_endpoint_has_one_mac_by_both_addresses() {
    let mac = Segment::mac_of([10, 128, 3, 40].into());
    assert_eq!(mac.to_string(), "02:57:0a:80:03:28");
    assert_eq!(Segment::mac_of("fd57:5000::a80:328".parse().unwrap()), mac);
    let one = host(2, &["10.128.0.64/32", "fd57:5000::a80:40/128"]);
    let mut kept = NetFromSegment::new(&segment(), &hosts(&[("b", one)]));
    assert_eq!((kept.net().fdb.len(), kept.net().bridge_fdb.len(), kept.net().neighbours.len()), (1, 1, 2));
    // One of both is enough for the MAC to be there.
    kept.update(&segment(), &hosts(&[("b", host(2, &["fd57:5000::a80:40/128"]))]));
    assert_eq!((kept.net().fdb.len(), kept.net().bridge_fdb.len(), kept.net().neighbours.len()), (1, 1, 1));
}

#[test]
fn a_host_that_listens_elsewhere_or_is_not_in_the_underlay_is_told_apart() {
    let elsewhere = SegmentHost { port: 4789, ..host(2, &["10.128.0.64/32"]) };
    let state = net(&segment(), &[("b", elsewhere)]);
    assert_eq!(state.fdb.values().next().unwrap().port, Some(4789));
    assert_eq!(state.flooding.iter().next().unwrap().by.port, Some(4789));
    let of_ipv6 = DualStack { v4: None, v6: Some("2001:db8::2".parse().unwrap()) };
    let other = SegmentHost { public: of_ipv6, ..host(2, &["10.128.0.64/32"]) };
    let state = net(&segment(), &[("b", other)]);
    assert!(state.fdb.is_empty() && state.flooding.is_empty() && state.neighbours.is_empty());
}

#[test]
fn a_single_address_wins_over_a_block_and_one_of_ours_is_nobody_elses() {
    let block = host(2, &["10.128.0.64/31"]);
    let address: IpAddr = [10, 128, 0, 65].into();
    let mac = MacAddr::new([2, 0, 0, 0, 0, 9]);
    let single = SegmentHost { addresses: [(address, mac)].into(), ..host(3, &[]) };
    let all = [("b", block.clone()), ("c", single)];
    let state = net(&segment(), &all);
    let key = NeighbourKey { link: Segment::bridge(segment().vni), address };
    assert_eq!(state.neighbours.get(&key), Some(&mac));
    assert_eq!(state.fdb[&FdbKey { link: Segment::overlay(segment().vni), mac }].to, IpAddr::from([192, 0, 2, 3]));
    assert_eq!(state.fdb.len(), 2, "the MAC that follows from the address leads nowhere");
    let own = SegmentHost { addresses: [(address, mac)].into(), ..host(1, &[]) };
    let ours = SegmentHosts { own: Arc::new(own), ..hosts(&[("b", block)]) };
    let state = NetFromSegment::new(&segment(), &ours).net().clone();
    assert_eq!(state.neighbours.get(&key), None);
    assert_eq!((state.neighbours.len(), state.fdb.len()), (1, 1));
}

#[test]
fn addresses_that_no_other_host_can_have_lead_nowhere() {
    // The network, the gateway, this host, the last address, and one outside of the pool.
    let blocks =
        ["10.128.0.0/31", "10.128.0.32/32", "10.128.15.255/32", "10.9.0.1/32", "fd57:5000::/127", "fd00::1/128"];
    let state = net(&segment(), &[("b", host(2, &blocks))]);
    assert_eq!(state.neighbours.keys().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
    assert!(state.fdb.is_empty() && state.bridge_fdb.is_empty());
    // Nor does the MAC of this host, or a block that nobody may have.
    let own = SegmentHost {
        addresses: [([10, 128, 0, 70].into(), segment().own_mac())].into(),
        ..host(2, &["10.128.0.0/16"])
    };
    assert!(net(&segment(), &[("b", own)]).fdb.is_empty());
}

#[test]
fn a_block_that_changes_hands_leaves_no_entry_of_the_host_before() {
    let (one, other) = (["10.128.0.64/27"], [""; 0]);
    let before = net(&segment(), &[("b", host(2, &one)), ("c", host(3, &other))]);
    let after = net(&segment(), &[("b", host(2, &other)), ("c", host(3, &one))]);
    let plan = plan_host(&held(&before), &after);
    assert_eq!(plan.ops.len(), 32, "{plan}");
    assert!(after.fdb.values().all(|target| target.to == IpAddr::from([192, 0, 2, 3])));
}

/// A host that comes into a network of many costs its own entries: the next plan is made of them alone.
#[test]
fn a_host_that_comes_to_many_costs_its_own_entries() {
    let block = |number: usize| format!("10.128.{}.{}/27", number / 8, number % 8 * 32);
    let many: Vec<(String, SegmentHost)> =
        (2..100).map(|number| (number.to_string(), host(u8::try_from(number).unwrap(), &[&block(number)]))).collect();
    let refs: Vec<(&str, SegmentHost)> = many.iter().map(|(id, host)| (id.as_str(), host.clone())).collect();
    let mut all = hosts(&refs);
    let mut kept = NetFromSegment::new(&segment(), &all);
    let before = PerNamespace::host(kept.net().clone());
    let have = wire_state::sim::reached(&before);
    all.others.insert("z".to_owned(), Arc::new(host(200, &[&block(120)])));
    kept.update(&segment(), &all);
    let after = PerNamespace::host(kept.net().clone());
    let index = <wire_state::Network as wire_state::Resource>::index(&have);
    let reached = wire_state::Before { reached: &before, index: &index, has_conflicts: false };
    let since = <wire_state::Network as wire_state::Resource>::plan_since(&have, reached, &after).unwrap();
    assert_eq!(since.ops.len(), 3 * 32 + 1);
    assert_eq!(since, wire_state::plan(&have, &after));
    assert!(kept.check());
}

#[test]
fn the_devices_are_named_by_the_vni() {
    let most = Vni::new((1 << 24) - 1).unwrap();
    assert_eq!((Segment::bridge(most), Segment::overlay(most)), (name("wb.16777215"), name("wv.16777215")));
    let settings = net(&segment(), &[]).settings;
    assert_eq!(settings[&Setting::DisableIpv6(name("wv.5000"))], 1);
    assert_eq!(settings[&Setting::LinkForwarding(Family::V4, name("wb.5000"))], 1);
}

/// Each block and each single address has one holder at most, as admission demands.
fn any_hosts() -> impl Strategy<Value = SegmentHosts> {
    let holder = || prop::option::weighted(0.7, 0..4usize);
    let blocks = prop::collection::vec(holder(), 6);
    let singles = prop::collection::vec((holder(), 0..3u8), 6);
    (blocks, singles, prop::collection::vec((0..5u8, any::<bool>()), 4)).prop_map(|(blocks, singles, publics)| {
        let mut all: Vec<SegmentHost> = publics
            .iter()
            .enumerate()
            .map(|(number, (public, is_elsewhere))| {
                let number = u8::try_from(number).unwrap();
                let mut host = host(if *public == 4 { 100 } else { number + 10 }, &[]);
                host.port = if *is_elsewhere { 4789 } else { 8472 };
                if *public == 3 {
                    host.public = DualStack { v4: None, v6: Some("2001:db8::9".parse().unwrap()) };
                }
                host
            })
            .collect();
        for (number, holder) in blocks.iter().enumerate() {
            if let Some(holder) = holder {
                let (number, base) = (number % 3, 64 + 4 * (number % 3));
                let of_v4 = format!("10.128.0.{base}/30");
                let of_v6 = format!("fd57:5000::a80:{base:x}/126");
                let block: Prefix = if blocks.len() / 2 > number { of_v4 } else { of_v6 }.parse().unwrap();
                all.iter_mut().for_each(|host| host.blocks.retain(|other| *other != block));
                all[*holder].blocks.insert(block);
            }
        }
        for (number, (holder, mac)) in singles.iter().enumerate() {
            if let Some(holder) = holder {
                let last = 63 + 2 * u8::try_from(number).unwrap();
                all[*holder].addresses.insert([10, 128, 0, last].into(), MacAddr::new([2, 0, 0, 0, 0, *mac]));
            }
        }
        let own = Arc::new(all.remove(0));
        let named = all.into_iter().enumerate().map(|(number, host)| (number.to_string(), Arc::new(host)));
        SegmentHosts { own, others: named.filter(|(_, host)| **host != SegmentHost::default()).collect() }
    })
}

proptest! {
    /// Brought forward over any hosts and changes of the network, it is what is computed from all.
    #[test]
    fn brought_forward_it_is_as_computed_from_all_hosts(
        steps in prop::collection::vec((any_hosts(), 0..6u8), 1..8),
    ) {
        let mut kept = NetFromSegment::new(&segment(), &SegmentHosts::default());
        for (hosts, kind) in steps {
            let segment = Segment { broadcast: kind != 0, internal: kind == 1, ..segment() };
            kept.update(&segment, &hosts);
            let computed = NetFromSegment::new(&segment, &hosts);
            prop_assert_eq!(kept.net(), computed.net());
            prop_assert!(kept.check());
        }
    }

    /// Whatever the hosts have, each address leads to the host that has it: as a single address, or else in a block.
    #[test]
    fn each_address_leads_to_the_host_that_has_it(hosts in any_hosts()) {
        let state = NetFromSegment::new(&segment(), &hosts).net().clone();
        for last in 60..80u8 {
            let address: IpAddr = [10, 128, 0, last].into();
            let everyone = || std::iter::once(&hosts.own).chain(hosts.others.values());
            let single = everyone().find(|host| host.addresses.contains_key(&address));
            let holder = single.or_else(|| everyone().find(|host| host.blocks.iter().any(|block| block.contains(address))));
            let is_here = holder.is_some_and(|holder| Arc::ptr_eq(holder, &hosts.own));
            let reached = holder.filter(|_| !is_here).and_then(|holder| holder.public.v4);
            let key = NeighbourKey { link: name("wb.5000"), address };
            let found = state.neighbours.get(&key);
            prop_assert_eq!(found.is_some(), reached.is_some(), "{}", address);
            if let (Some(mac), Some(public)) = (found, reached) {
                let behind = BridgeFdbKey { bridge: name("wb.5000"), mac: *mac };
                prop_assert_eq!(state.bridge_fdb.get(&behind), Some(&name("wv.5000")));
                let to = state.fdb[&FdbKey { link: name("wv.5000"), mac: *mac }].to;
                let has_same_mac = |host: &&Arc<SegmentHost>| host.addresses.values().any(|other| other == mac);
                prop_assert!(to == public || everyone().filter(has_same_mac).count() > 1);
            }
        }
    }
}

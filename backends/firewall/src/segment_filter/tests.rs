use proptest::prelude::*;

use super::*;
use crate::{nft, support::Support, tests::name};

fn member(public: u8, blocks: &[u8]) -> Arc<SegmentMember> {
    let blocks = blocks.iter().map(|block| format!("10.128.0.{}/27", block * 32).parse().unwrap()).collect();
    Arc::new(SegmentMember { public: [192, 0, 2, public].into(), blocks, addresses: Vec::new() })
}

/// The network with this number, and members by their numbers, each with its public address and its blocks.
fn share(number: u32, members: &[(u8, u8, Vec<u8>)]) -> Arc<SegmentShare> {
    let members = members.iter().map(|(host, public, blocks)| (host.to_string(), member(*public, blocks)));
    Arc::new(SegmentShare {
        bridge: name(&format!("wb.{number}")),
        vni: Vni::new(number).unwrap(),
        pools: DualStack { v4: "10.128.0.0/20".parse().ok(), v6: None },
        internal: number.is_multiple_of(2),
        local: [192, 0, 2, 1].into(),
        underlay: name("eth0"),
        port: 8472,
        blocks: vec!["10.128.1.0/27".parse().unwrap()],
        members: members.collect(),
        singles: OrdSet::new(),
        net: DesiredNet::default(),
        ports: vec![ContainerPort {
            link: name(&format!("wp{number}")),
            mac: "02:57:0a:80:00:21".parse().unwrap(),
            addresses: vec![[10, 128, 0, 33].into()],
        }],
    })
}

type Networks = BTreeMap<NetworkName, Arc<SegmentShare>>;

fn networks(shares: impl IntoIterator<Item = Arc<SegmentShare>>) -> Networks {
    shares.into_iter().map(|share| (format!("n{}", share.vni).parse().unwrap(), share)).collect()
}

fn computed(networks: &Networks, facts: &HostFacts) -> SegmentFilter {
    let mut filter = SegmentFilter::default();
    filter.update(networks.iter(), facts);
    filter
}

fn facts(support: Support) -> HostFacts {
    HostFacts { bridges: [name("docker0")].into(), support, ..HostFacts::default() }
}

#[test]
fn all_networks_have_the_same_rules_and_what_differs_is_in_sets() {
    let networks = networks([share(5000, &[(2, 2, vec![1, 2])]), share(5001, &[(2, 2, vec![3]), (3, 3, vec![4])])]);
    let filter = computed(&networks, &facts(Support::default()));
    insta::assert_snapshot!(nft::put_table(filter.firewall().table.as_ref().unwrap()));
    let chains: Vec<String> =
        filter.firewall().chains.iter().map(|(name, chain)| format!("{name:?} {:?}", chain.rules)).collect();
    insta::assert_snapshot!(chains.join("\n"));
}

#[test]
fn without_networks_or_nftables_there_is_nothing_and_without_tables_for_bridges_all_else() {
    let one = networks([share(5001, &[])]);
    let of = |networks: &Networks, support| computed(networks, &facts(support)).firewall().clone();
    assert_eq!(*of(&Networks::new(), Support::default()), DesiredFirewall::default());
    let absent = Support { nftables: Nftables::Absent, ..Support::default() };
    assert_eq!(*of(&one, absent), DesiredFirewall::default());
    let whole = of(&one, Support::default());
    let share = one.values().next().unwrap();
    let of_ports = BridgeTable::new(&share.net, &share.ports, Overlays::JudgedBefore);
    let senders = |table: &DesiredTable| table.sets["senders-v4"].clone();
    assert_eq!(whole.bridge.as_ref().map(senders), Some(senders(of_ports.table())));
    let without = of(&one, Support { bridges: false, ..Support::default() });
    assert_eq!(*without, DesiredFirewall { bridge: None, ..DesiredFirewall::clone(&whole) });
    let simple = of(&one, Support { nftables: Nftables::Simple, ..Support::default() });
    let sets = &simple.table.as_ref().unwrap().sets;
    assert!(sets.contains_key("vteps-v4") && !sets.keys().any(|set| set.starts_with("behind-")));
}

#[test]
fn elements_that_several_members_want_stay_until_the_last_is_gone_and_nobody_has_the_gateways_address() {
    let mac: MacAddr = "02:00:00:00:00:09".parse().unwrap();
    let both = || {
        let mut share = SegmentShare::clone(&share(5001, &[(2, 2, vec![1]), (3, 2, vec![1, 7])]));
        let addresses = vec![([10, 128, 0, 1].into(), mac), ([10, 128, 9, 9].into(), mac)];
        let single = SegmentMember { public: [192, 0, 2, 3].into(), blocks: Vec::new(), addresses };
        share.members.insert("4".to_owned(), Arc::new(single));
        share
    };
    let of = |filter: &SegmentFilter, set: &str| {
        let set = &filter.firewall().table.as_ref().unwrap().sets[set];
        set.elements.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let facts = facts(Support::default());
    let mut all = networks([Arc::new(both())]);
    let mut filter = computed(&all, &facts);
    let (one, other) = (
        "10.128.0.32/27 from 02:57:0a:80:00:20 of 192.0.2.2 in VNI 5001",
        "10.128.0.224/27 from 02:57:0a:80:00:e0 of 192.0.2.2 in VNI 5001",
    );
    assert_eq!(of(&filter, "behind-v4-v4-27"), [one, other]);
    assert_eq!(of(&filter, "behind-v4-v4-32"), ["10.128.9.9/32 from 02:00:00:00:00:09 of 192.0.2.3 in VNI 5001"]);
    let link_local = "fe80::57:aff:fe80:20/123 from 02:57:0a:80:00:20 of 192.0.2.2 in VNI 5001";
    assert_eq!(of(&filter, "behind-v4-v6-123")[0], link_local);
    for (id, left) in [("2", vec![one, other]), ("3", vec![])] {
        let mut less = SegmentShare::clone(&all.values().next().unwrap().clone());
        less.members.remove(id);
        all.insert("n5001".parse().unwrap(), Arc::new(less));
        filter.update(all.iter(), &facts);
        assert_eq!(of(&filter, "behind-v4-v4-27"), left);
    }
    assert_eq!(filter.firewall().table.as_ref().unwrap().sets["vteps-v4"].elements.len(), 1);
}

#[test]
fn a_block_with_the_gateways_address_is_as_many_addresses_without_it() {
    let all = networks([share(5001, &[(2, 2, vec![0])])]);
    let filter = computed(&all, &facts(Support::default()));
    let sets = &filter.firewall().table.as_ref().unwrap().sets;
    assert_eq!((sets["behind-v4-v4-27"].elements.len(), sets["behind-v4-v4-32"].elements.len()), (0, 30));
    let gateway =
        |element: &&Element| matches!(element, Element::Behind(_, _, _, of) if of.contains([10, 128, 0, 1].into()));
    assert!(sets["behind-v4-v4-32"].elements.iter().find(gateway).is_none());
}

#[test]
fn a_block_around_a_single_address_of_another_host_is_as_many_addresses_without_it() {
    let facts = facts(Support::default());
    let all = networks([share(5001, &[(2, 2, vec![1])])]);
    let mut filter = computed(&all, &facts);
    let single: IpAddr = [10, 128, 0, 40].into();
    let with = |singles: OrdSet<IpAddr>| {
        let share = SegmentShare { singles, ..SegmentShare::clone(all.values().next().unwrap()) };
        networks([Arc::new(share)])
    };
    let lens = |filter: &SegmentFilter| {
        let sets = &filter.firewall().table.as_ref().unwrap().sets;
        let has = sets["behind-v4-v4-32"].elements.contains(&Element::Behind(
            [192, 0, 2, 2].into(),
            Vni::new(5001).unwrap(),
            MacAddr::of_container(single),
            Prefix::host(single),
        ));
        (sets["behind-v4-v4-27"].elements.len(), sets["behind-v4-v4-32"].elements.len(), has)
    };
    assert_eq!(lens(&filter), (1, 0, false));
    let elsewhere: IpAddr = [10, 128, 3, 40].into();
    for (singles, expected) in
        [(vec![elsewhere], (1, 0, false)), (vec![elsewhere, single], (0, 31, false)), (vec![], (1, 0, false))]
    {
        let networks = with(singles.into_iter().collect());
        filter.update(networks.iter(), &facts);
        assert_eq!(lens(&filter), expected);
        assert_eq!(filter.firewall(), computed(&networks, &facts).firewall());
    }
}

#[test]
fn a_network_with_another_port_changes_elements_alone() {
    let facts = facts(Support::default());
    let one = networks([share(5000, &[])]);
    let filter = computed(&one, &facts);
    let other = Arc::new(SegmentShare { port: 4789, ..SegmentShare::clone(&share(5001, &[])) });
    let both = networks([share(5000, &[]), other]);
    assert!(filter.differs_in_elements_alone(both.values(), &facts));
    let ports = &computed(&both, &facts).firewall().table.as_ref().unwrap().sets["segment-ports"].elements.clone();
    assert_eq!(ports.iter().copied().collect::<Vec<_>>(), [Element::Port(4789), Element::Port(8472)]);
}

#[test]
fn an_underlay_link_with_containers_has_no_rule_that_comes_before_all_others() {
    let one = networks([share(5001, &[(2, 2, vec![1])])]);
    let names_link = |bridges: &[&str]| {
        let facts = HostFacts { bridges: bridges.iter().map(|link| name(link)).collect(), ..facts(Support::default()) };
        let filter = computed(&one, &facts);
        filter.firewall().table.as_ref().unwrap().chains["arriving"]
            .rules
            .iter()
            .filter(|rule| rule.text.contains("iifname \"eth0\""))
            .count()
    };
    assert_eq!((names_link(&["docker0"]), names_link(&["docker0", "eth0"])), (2, 0));
}

fn any_networks() -> impl Strategy<Value = Networks> {
    let member = (2..6u8, prop::collection::vec(0..8u8, 0..3));
    let members = prop::collection::btree_map(2..6u8, member, 0..4);
    prop::collection::btree_map(5000..5004u32, members, 0..4).prop_map(|all| {
        networks(all.into_iter().map(|(number, members)| {
            let members: Vec<(u8, u8, Vec<u8>)> =
                members.into_iter().map(|(host, (public, blocks))| (host, public, blocks)).collect();
            share(number, &members)
        }))
    })
}

proptest! {
    /// Brought forward over any networks, it is what is computed from all; nothing is done for those that are the same.
    #[test]
    fn brought_forward_it_is_as_computed_from_all(steps in prop::collection::vec((any_networks(), any::<bool>()), 1..6)) {
        let mut kept = SegmentFilter::default();
        for (networks, bridges) in steps {
            let facts = facts(Support { bridges, ..Support::default() });
            let is_same = kept.differs_in_elements_alone(networks.values(), &facts);
            let chains = kept.firewall().table.as_ref().map(|table| table.chains.clone());
            kept.update(networks.iter(), &facts);
            let all = computed(&networks, &facts);
            prop_assert_eq!(kept.firewall(), all.firewall());
            if is_same {
                prop_assert_eq!(chains, kept.firewall().table.as_ref().map(|table| table.chains.clone()));
            }
            let before = kept.firewall().clone();
            kept.update(networks.iter(), &facts);
            prop_assert!(Arc::ptr_eq(&before, kept.firewall()));
        }
    }
}

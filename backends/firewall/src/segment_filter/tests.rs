use proptest::prelude::*;

use super::*;
use crate::{nft, support::Support, tests::name};

fn member(public: u8, blocks: &[u8]) -> Arc<SegmentMember> {
    let sources = blocks.iter().map(|block| format!("10.128.0.{}/27", block * 32).parse().unwrap()).collect();
    Arc::new(SegmentMember { public: [192, 0, 2, public].into(), sources })
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
        port: 8472,
        members: members.collect(),
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
    assert_eq!(whole.bridge.as_ref(), Some(BridgeTable::new(&share.net, &share.ports).table()));
    let without = of(&one, Support { bridges: false, ..Support::default() });
    assert_eq!(*without, DesiredFirewall { bridge: None, ..DesiredFirewall::clone(&whole) });
    let simple = of(&one, Support { nftables: Nftables::Simple, ..Support::default() });
    let sets = &simple.table.as_ref().unwrap().sets;
    assert!(sets.contains_key("vteps-v4") && !sets.keys().any(|set| set.starts_with("behind-")));
}

#[test]
fn elements_that_several_hosts_want_stay_until_the_last_is_gone_and_none_covers_another() {
    let covered = || {
        let mut share = SegmentShare::clone(&share(5001, &[(2, 2, vec![1]), (3, 2, vec![2])]));
        let more = SegmentMember { public: [192, 0, 2, 2].into(), sources: vec!["10.128.0.40/32".parse().unwrap()] };
        share.members.insert("4".to_owned(), Arc::new(more));
        share
    };
    let sources = |filter: &SegmentFilter| {
        let set = &filter.firewall().table.as_ref().unwrap().sets["behind-v4-v4"];
        set.elements.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let facts = facts(Support::default());
    let mut all = networks([Arc::new(covered())]);
    let mut filter = computed(&all, &facts);
    assert_eq!(sources(&filter), "0.0.0.0/32 of 192.0.2.2, 10.128.0.32/27 of 192.0.2.2, 10.128.0.64/27 of 192.0.2.2");
    let mut less = covered();
    less.members.remove("2");
    all.insert("n5001".parse().unwrap(), Arc::new(less));
    filter.update(all.iter(), &facts);
    assert_eq!(sources(&filter), "0.0.0.0/32 of 192.0.2.2, 10.128.0.40/32 of 192.0.2.2, 10.128.0.64/27 of 192.0.2.2");
    assert_eq!(filter.firewall().table.as_ref().unwrap().sets["vteps-v4"].elements.len(), 1);
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

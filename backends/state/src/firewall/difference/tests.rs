mod inside;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use wire_net::Family;

use super::*;
use crate::{
    Attachment, BaseChain, Call, ChainPolicy, ChainTable, ChainTableKind, Creation, DesiredChain, DesiredTable,
    Element, EmptyTables, FlannelRules, Flowtable, Hook, InternalBridge, InternalBridges, ObservedChain, ObservedRule,
    ObservedTable, Operation as _, OurTable, Place, Position, Rule, Set, SetKind, Table, TableFamily, samples::name,
};

const FILTER: ChainTable = ChainTable { family: Family::V4, kind: ChainTableKind::Filter };

fn chain_name(chain: &str) -> ChainName {
    ChainName { table: FILTER, name: chain.to_owned() }
}

fn rule(purpose: &str) -> Rule {
    Rule::new(purpose, format!("{purpose} accept"))
}

fn subnet(third: u8) -> wire_net::Prefix {
    format!("10.5.{third}.0/24").parse().unwrap()
}

fn host(last: u8) -> std::net::IpAddr {
    [192, 0, 2, last].into()
}

/// A table with each kind of part, and a peer in its sets.
fn table() -> DesiredTable {
    let rules = ["strangers", "let in before", "peers"].map(rule).into();
    let set = |kind: SetKind, element: Element| Set { kind, elements: [element].as_slice().into() };
    let devices = ["eth0", "flannel.1"].map(name).into();
    DesiredTable {
        name: OurTable::default(),
        flags: 0,
        chains: [(
            "incoming".to_owned(),
            BaseChain { attachment: Some(Attachment::filter(Hook::Input, -10)), rules, leads: false },
        )]
        .into(),
        sets: [
            ("bridges".to_owned(), set(SetKind::Links, Element::Link(name("docker0")))),
            ("leases-v4".to_owned(), set(SetKind::Leases(Family::V4), Element::Lease(host(3), subnet(3)))),
            ("peers-v4".to_owned(), set(SetKind::Addresses(Family::V4), Element::Address(host(3)))),
            ("subnets-v4-24".to_owned(), set(SetKind::Subnets(Family::V4, 24), Element::Subnet(host(4), subnet(4)))),
        ]
        .into(),
        counters: ["spoofed".to_owned()].into(),
        flowtables: [("overlay".to_owned(), Flowtable { flags: 0, priority: 0, devices })].into(),
    }
}

fn chain() -> DesiredChain {
    let call = |place: Place, rule: &str| Call { place, rule: rule.to_owned() };
    DesiredChain {
        rules: ["-s 10.5.0.0/16 -j ACCEPT", "-d 10.5.0.0/16 -j ACCEPT"].map(str::to_owned).into(),
        internal_bridges: InternalBridges::Return,
        creation: Creation::Always,
        calls: [
            ("DOCKER-USER".to_owned(), call(Place::Anywhere, "-i flannel.1 -j WIRE-FORWARD")),
            ("FORWARD".to_owned(), call(Place::First, "-j WIRE-FORWARD")),
        ]
        .into(),
    }
}

fn wanted() -> DesiredFirewall {
    DesiredFirewall {
        table: Some(table()),
        bridge: None,
        chains: [(chain_name("WIRE-FORWARD"), chain())].into(),
        flannel: FlannelRules::Delete,
        empty_tables: EmptyTables::Keep,
    }
}

/// The packet filter after `want` was put on it.
fn held(want: &DesiredFirewall) -> ObservedFirewall {
    let mut have = ObservedFirewall { callers: [chain_name("DOCKER-USER")].into(), ..ObservedFirewall::default() };
    Firewall::plan(&have, want).ops.iter().for_each(|op| have.apply(op));
    have
}

fn told(have: &ObservedFirewall, want: &DesiredFirewall) -> Vec<String> {
    Firewall::differences(have, want).iter().map(ToString::to_string).collect()
}

/// The sentence about a packet filter that was as desired until it was changed.
fn told_after(change: impl FnOnce(&mut ObservedFirewall)) -> String {
    let mut have = held(&wanted());
    assert_eq!(told(&have, &wanted()), Vec::<String>::new());
    change(&mut have);
    let told = told(&have, &wanted());
    assert_eq!(told.len(), 1, "{told:?}");
    told.concat()
}

fn told_of_chain(change: impl FnOnce(&mut ObservedChain)) -> String {
    told_after(|have| change(have.chains.get_mut(&chain_name("WIRE-FORWARD")).unwrap()))
}

#[test]
fn a_chain_of_iptables_is_named_with_the_first_rule_that_differs() {
    let chain = "chain WIRE-FORWARD of iptables filter";
    assert_eq!(told_after(|have| have.chains.clear()), format!("{chain} is missing"));
    assert_eq!(
        told_of_chain(|chain| drop(chain.rules.remove(1))),
        format!("{chain} lacks the rule \"-d 10.5.0.0/16 -j ACCEPT\"")
    );
    assert_eq!(
        told_of_chain(|chain| chain.rules.clear()),
        format!("{chain} lacks the rule \"-s 10.5.0.0/16 -j ACCEPT\" and 1 more")
    );
    assert_eq!(
        told_of_chain(|chain| chain.rules.push("-j DROP".to_owned())),
        format!("{chain} has the rule \"-j DROP\", and should not")
    );
    assert_eq!(
        told_of_chain(|chain| chain.rules.reverse()),
        format!("{chain} has its rules in another order or more than once")
    );
    assert_eq!(
        told_after(|have| {
            have.internal_bridges.insert(InternalBridge { family: Family::V4, name: "br-1".to_owned() });
        }),
        format!("{chain} lacks the rule \"-i br-1 -j RETURN\" and 1 more")
    );
}

#[test]
fn a_call_of_a_chain_is_named_with_its_caller() {
    let chain = "chain WIRE-FORWARD of iptables filter";
    assert_eq!(
        told_of_chain(|chain| drop(chain.calls.remove("FORWARD"))),
        format!("{chain} is not called from FORWARD, and should be")
    );
    assert_eq!(
        told_of_chain(|chain| chain.calls.get_mut("FORWARD").unwrap().position = Position::Behind),
        format!(
            "{chain} is called from FORWARD behind other rules, and should be called first: other rules decide before it"
        )
    );
    assert_eq!(
        told_of_chain(|chain| chain.calls.get_mut("DOCKER-USER").unwrap().rules = vec!["-j WIRE-FORWARD".to_owned()]),
        format!(
            "{chain} is called from DOCKER-USER by \"-j WIRE-FORWARD\", and should be by \"-i flannel.1 -j WIRE-FORWARD\""
        )
    );
    assert_eq!(
        told_of_chain(|chain| chain.calls.get_mut("FORWARD").unwrap().rules.push("-j WIRE-FORWARD".to_owned())),
        format!("{chain} is called from FORWARD by 2 rules, and should be by \"-j WIRE-FORWARD\" alone")
    );
    assert_eq!(
        told_of_chain(|chain| {
            chain.rules.clear();
            chain.calls.remove("FORWARD");
        }),
        format!(
            "{chain} lacks the rule \"-s 10.5.0.0/16 -j ACCEPT\" and 1 more; is not called from FORWARD, and should be"
        )
    );
}

#[test]
fn rules_that_are_left_over_are_named_with_who_left_them() {
    let left = "was left by flanneld, and should not be there";
    assert_eq!(
        told_after(|have| drop(have.chains.insert(chain_name("FLANNEL-FWD"), ObservedChain::default()))),
        format!("chain FLANNEL-FWD of iptables filter {left}")
    );
    assert_eq!(
        told_after(|have| drop(have.chains.insert(chain_name("WIRE-FORMER"), ObservedChain::default()))),
        "chain WIRE-FORMER of iptables filter should not be there"
    );
    assert_eq!(
        told_after(|have| {
            have.flannel_tables.insert(Family::V6);
        }),
        format!("table ip6 flannel-ipv6 {left}")
    );
    let none = DesiredFirewall { table: None, ..wanted() };
    assert_eq!(told(&held(&wanted()), &none), ["table inet wire-agent should not be there"]);
}

/// Some of these, in any order.
fn some_of(purposes: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop::sample::subsequence(purposes, 0..=purposes.len()).prop_shuffle()
}

pub(in crate::firewall) fn any_desired_table() -> impl Strategy<Value = DesiredTable> {
    let names = ["in", "out"].map(str::to_owned);
    let chain = (some_of(&["a", "b", "c", "d", "e"]), 0..2).prop_map(|(rules, priority)| BaseChain {
        attachment: Some(Attachment::filter(Hook::Input, priority)),
        rules: rules.into_iter().map(rule).collect(),
        leads: false,
    });
    let elements = prop::collection::btree_set((1u8..5).prop_map(|last| Element::Address(host(last))), 0..4);
    let set = (any::<bool>(), elements).prop_map(|(seen, elements)| Set {
        kind: if seen { SetKind::Leases(Family::V4) } else { SetKind::Addresses(Family::V4) },
        elements: elements.into(),
    });
    let devices = some_of(&["eth0", "eth1"]).prop_map(|links| links.into_iter().map(name).collect());
    let flowtable = (devices, 0..2).prop_map(|(devices, priority)| Flowtable { flags: 0, priority, devices });
    let map = |names: [String; 2]| prop::sample::select(names.to_vec());
    let (chains, sets) = (
        prop::collection::btree_map(map(names.clone()), chain, 0..=2),
        prop::collection::btree_map(map(names.clone()), set, 0..=2),
    );
    let counters = prop::collection::btree_set(map(names.clone()), 0..=2);
    let flowtables = prop::collection::btree_map(map(names), flowtable, 0..=2);
    (prop_oneof![5 => Just(0), 1 => 1u32..3], chains, sets, counters, flowtables).prop_map(
        |(flags, chains, sets, counters, flowtables)| DesiredTable {
            flags,
            chains,
            sets,
            counters,
            flowtables,
            ..Default::default()
        },
    )
}

/// A desired table, and how it was read after somebody changed some of its chains.
fn any_changed_table() -> impl Strategy<Value = (DesiredTable, ObservedTable)> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), 0..7_u8), 0..3);
    (any_desired_table(), changes, 0..8).prop_map(|(desired, changes, whole)| {
        let mut table = ObservedTable::from(&desired);
        for chain in table.chains.values_mut() {
            match whole {
                0 => chain.attachment = None,
                1 => chain.policy = ChainPolicy::Drop,
                _ => {}
            }
            for (at, change) in &changes {
                change_rules(&mut chain.rules, at, *change);
            }
        }
        (desired, table)
    })
}

fn change_rules(rules: &mut Vec<ObservedRule>, at: &prop::sample::Index, change: u8) {
    let end = at.index(rules.len() + 1);
    match change {
        0 => rules.insert(end, ObservedRule::Unmarked),
        1 => rules.insert(end, ObservedRule::Altered),
        2 => rules.insert(end, ObservedRule::Marked(Rule::new("a", "of old".to_owned()).mark)),
        3 => rules.insert(end, ObservedRule::Marked(rule("b").mark)),
        _ if end == rules.len() => {}
        4 => rules[end] = ObservedRule::Altered,
        5 => drop(rules.remove(end)),
        _ => rules.rotate_left(end),
    }
}

fn any_chains() -> impl Strategy<Value = BTreeMap<ChainName, DesiredChain>> {
    let name = prop::sample::select(vec!["WIRE-A", "WIRE-B", "FLANNEL-FWD"]).prop_map(chain_name);
    let rules = some_of(&["-j ACCEPT", "-j DROP", "-j RETURN"]);
    let calls = some_of(&["FORWARD", "DOCKER-USER"]);
    let chain =
        (rules, calls, any::<bool>(), any::<bool>()).prop_map(|(rules, calls, is_first, always)| DesiredChain {
            rules: rules.into_iter().map(str::to_owned).collect(),
            internal_bridges: InternalBridges::Ignore,
            creation: if always { Creation::Always } else { Creation::WhenTableIsUsed },
            calls: calls
                .into_iter()
                .map(|caller| {
                    let place = if is_first { Place::First } else { Place::Anywhere };
                    (caller.to_owned(), Call { place, rule: "-j WIRE".to_owned() })
                })
                .collect(),
        });
    prop::collection::btree_map(name, chain, 0..3)
}

pub(in crate::firewall) fn of_bridges<C>(mut table: Table<C>) -> Table<C> {
    table.name.family = TableFamily::Bridge;
    table
}

fn any_desired() -> impl Strategy<Value = DesiredFirewall> {
    let table = |share| prop::option::weighted(share, any_desired_table());
    (table(0.8), table(0.4), any_chains(), any::<bool>()).prop_map(|(table, bridge, chains, keep)| {
        let flannel = if keep { FlannelRules::Keep } else { FlannelRules::Delete };
        let bridge = bridge.map(of_bridges);
        DesiredFirewall { table, bridge, chains, flannel, empty_tables: EmptyTables::Keep }
    })
}

fn any_observed() -> impl Strategy<Value = ObservedFirewall> {
    let families = prop::collection::btree_set(prop::sample::select(Family::ALL.to_vec()), 0..2);
    let table = |share| prop::option::weighted(share, any_changed_table());
    (table(0.8), table(0.4), any_chains(), families, any::<bool>()).prop_map(
        |(table, bridge, chains, flannel_tables, has_docker)| ObservedFirewall {
            table: table.map(|(_, found)| found),
            bridge: bridge.map(|(_, found)| of_bridges(found)),
            chains: chains.into_iter().map(|(name, chain)| (name, found_as(chain))).collect(),
            flannel_tables,
            callers: has_docker.then(|| chain_name("DOCKER-USER")).into_iter().collect(),
            ..ObservedFirewall::default()
        },
    )
}

fn found_as(chain: DesiredChain) -> ObservedChain {
    let calls = chain.calls.iter().map(|(caller, call)| (caller.clone(), call.into()));
    ObservedChain { calls: calls.collect(), rules: chain.rules }
}

/// Asserts that there are differences if and only if there is something to do, and that each entry is named once.
fn assert_same_entries(have: &ObservedFirewall, want: &DesiredFirewall) {
    let ops = Firewall::plan(have, want).ops;
    let differences = Firewall::differences(have, want);
    assert_eq!(ops.is_empty(), differences.is_empty());
    let named: BTreeSet<&String> = differences.iter().map(|difference| &difference.entry).collect();
    assert_eq!(named.len(), differences.len(), "{differences:?}");
    for op in &ops {
        let one = of_op(have, want, op);
        assert!(!one.is_empty(), "{op}");
        assert!(!op.is_delete() || one.len() == 1, "{op}");
    }
    for difference in &differences {
        assert!(!difference.to_string().contains("is not as it should be"), "{difference}");
    }
}

proptest! {
    #[test]
    fn there_are_differences_if_and_only_if_there_is_something_to_do(have in any_observed(), want in any_desired()) {
        assert_same_entries(&have, &want);
    }

    #[test]
    fn a_packet_filter_as_desired_has_no_differences(want in any_desired()) {
        prop_assert_eq!(Firewall::differences(&held(&want), &want), vec![]);
    }

    #[test]
    fn each_change_of_a_table_is_named((table, changed) in any_changed_table(), other in any_desired_table()) {
        let want = DesiredFirewall { table: Some(table.clone()), ..DesiredFirewall::default() };
        let parts = [
            changed,
            ObservedTable { sets: other.sets, ..ObservedTable::from(&table) },
            ObservedTable { flowtables: other.flowtables, ..ObservedTable::from(&table) },
            ObservedTable { counters: other.counters, ..ObservedTable::from(&table) },
            ObservedTable { flags: other.flags, ..ObservedTable::from(&table) },
        ];
        for table in parts {
            assert_same_entries(&ObservedFirewall { table: Some(table), ..ObservedFirewall::default() }, &want);
        }
    }
}

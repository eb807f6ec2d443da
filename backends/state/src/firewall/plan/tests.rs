use proptest::prelude::*;

use super::*;
use crate::firewall::difference::tests::{any_desired_table, of_bridges};
use crate::{Call, ChainTableKind, EmptyTables, ErrorKind, ObservedChain, Place, Reconciler, sim::Sim};

fn name(kind: ChainTableKind, chain: &str) -> ChainName {
    ChainName { table: ChainTable { family: Family::V4, kind }, name: chain.to_owned() }
}

/// Our table, and a chain that FORWARD calls.
fn desired() -> DesiredFirewall {
    let call = Call { place: Place::First, rule: "-j WIRE-FORWARD".to_owned() };
    let chain = DesiredChain {
        rules: vec!["-i flannel.1 -j ACCEPT".to_owned()],
        internal_bridges: InternalBridges::Ignore,
        creation: Creation::Always,
        calls: [("FORWARD".to_owned(), call)].into(),
    };
    let chains = [(name(ChainTableKind::Filter, "WIRE-FORWARD"), chain)].into();
    DesiredFirewall { table: Some(DesiredTable::default()), chains, ..DesiredFirewall::default() }
}

/// A host on which iptables was switched to another variant: ours is in the former one, beside what flanneld left in both.
fn switched() -> ObservedFirewall {
    let chain = ObservedChain::default;
    ObservedFirewall {
        flannel_tables: [Family::V6].into(),
        chains: [(name(ChainTableKind::Nat, "FLANNEL-POSTRTG"), chain())].into(),
        abandoned: [name(ChainTableKind::Filter, "WIRE-FORWARD"), name(ChainTableKind::Nat, "WIRE-NAT")]
            .map(|name| (name, chain()))
            .into(),
        ..ObservedFirewall::default()
    }
}

fn operations(observed: &ObservedFirewall, desired: &DesiredFirewall) -> String {
    let ops = Firewall::plan(observed, desired).ops;
    ops.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The packet filter after the plan for a desired state.
fn after(observed: &ObservedFirewall, desired: &DesiredFirewall) -> ObservedFirewall {
    let mut after = observed.clone();
    Firewall::plan(observed, desired).ops.iter().for_each(|op| after.apply(op));
    after
}

#[test]
fn abandoned_chains_are_deleted_last() {
    insta::assert_snapshot!(operations(&switched(), &desired()), @"
    put table inet wire-agent: 0 chains, 0 rules
    put chains iptables filter: WIRE-FORWARD (1 rules) called from FORWARD
    delete chain iptables nat FLANNEL-POSTRTG
    delete table ip6 flannel-ipv6
    delete abandoned chain iptables filter WIRE-FORWARD
    delete abandoned chain iptables nat WIRE-NAT
    ");
}

#[test]
fn an_abandoned_chain_is_another_one_than_ours_of_the_same_name() {
    let after = after(&switched(), &desired());
    assert!(after.abandoned.is_empty());
    assert!(after.chains.contains_key(&name(ChainTableKind::Filter, "WIRE-FORWARD")));
    assert_eq!(operations(&after, &desired()), "");
}

#[test]
fn an_abandoned_chain_that_cannot_be_deleted_is_tried_again() {
    let sim = Sim::<Firewall>::new(switched());
    sim.fail_next("delete abandoned chain", ErrorKind::Busy);
    let mut reconciler = Reconciler::new(sim.clone(), ());
    let report = reconciler.round(&desired());
    assert!(report.converged);
    assert_eq!(report.failed, 1);
    assert!(sim.state().abandoned.is_empty());
}

#[test]
fn empty_tables_stay_unless_they_are_to_be_deleted() {
    let mut observed = after(&ObservedFirewall::default(), &desired());
    observed.abandoned = switched().abandoned;
    let nothing = |empty_tables| DesiredFirewall { empty_tables, ..DesiredFirewall::default() };
    insta::assert_snapshot!(operations(&observed, &nothing(EmptyTables::Keep)), @"
    delete chain iptables filter WIRE-FORWARD
    delete table inet wire-agent
    delete abandoned chain iptables filter WIRE-FORWARD
    delete abandoned chain iptables nat WIRE-NAT
    ");
    insta::assert_snapshot!(operations(&observed, &nothing(EmptyTables::Delete)), @"
    delete chain iptables filter WIRE-FORWARD, and its table if that is empty
    delete table inet wire-agent
    delete abandoned chain iptables filter WIRE-FORWARD, and its table if that is empty
    delete abandoned chain iptables nat WIRE-NAT, and its table if that is empty
    ");
}

#[test]
fn a_desired_chain_stays_with_its_table() {
    let observed = after(&ObservedFirewall::default(), &desired());
    let desired = DesiredFirewall { empty_tables: EmptyTables::Delete, ..desired() };
    assert_eq!(operations(&observed, &desired), "");
}

/// Another state that may be desired next: often one in which only the elements of sets differ.
fn any_next(before: DesiredFirewall) -> impl Strategy<Value = DesiredFirewall> {
    let table = |share| prop::option::weighted(share, any_desired_table());
    let other = (table(0.8), table(0.4), any::<bool>()).prop_map(|(table, bridge, keeps)| {
        let flannel = if keeps { FlannelRules::Keep } else { FlannelRules::Delete };
        DesiredFirewall { table, bridge: bridge.map(of_bridges), flannel, ..desired() }
    });
    let elements = any_desired_table().prop_map(move |other| {
        let mut next = before.clone();
        for (name, set) in next.table.iter_mut().chain(&mut next.bridge).flat_map(|table| &mut table.sets) {
            set.elements = other.sets.get(name).map(|set| set.elements.clone()).unwrap_or_default();
        }
        next
    });
    prop_oneof![1 => other, 2 => elements]
}

fn any_two() -> impl Strategy<Value = (DesiredFirewall, DesiredFirewall)> {
    let table = |share| prop::option::weighted(share, any_desired_table());
    let first = (table(0.8), table(0.4)).prop_map(|(table, bridge)| DesiredFirewall {
        table,
        bridge: bridge.map(of_bridges),
        ..desired()
    });
    first.prop_flat_map(|first| (Just(first.clone()), any_next(first)))
}

/// Whether both would be the same without the elements of their sets.
fn differ_in_elements_alone(one: &DesiredFirewall, other: &DesiredFirewall) -> bool {
    let bare = |firewall: &DesiredFirewall| {
        let mut bare = firewall.clone();
        let tables = bare.table.iter_mut().chain(&mut bare.bridge);
        tables.flat_map(|table| table.sets.values_mut()).for_each(|set| set.elements.clear());
        bare
    };
    bare(one) == bare(other)
}

proptest! {
    /// The plan since a state that was reached is the plan that compares everything, and there is one if only elements differ.
    #[test]
    fn what_differs_since_the_state_that_was_reached_is_all_that_differs((reached, desired) in any_two()) {
        let observed = after(&switched(), &reached);
        let since = Firewall::plan_since(&observed, Before { reached: &reached, index: &(), has_conflicts: false }, &desired);
        prop_assert_eq!(since.is_some(), differ_in_elements_alone(&reached, &desired));
        if let Some(since) = since {
            prop_assert_eq!(since, Firewall::plan(&observed, &desired));
        }
    }
}

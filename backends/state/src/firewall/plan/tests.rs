use super::*;
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

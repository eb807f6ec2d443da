//! The difference between the packet filter there is and the one that should be. Pure.

use std::collections::{BTreeMap, BTreeSet};

use wire_net::Family;

use super::{
    Chain, ChainName, ChainTable, Element, FirewallState, Set, Table, TableName,
    op::{ChainChange, FirewallOp, SetChange},
};
use crate::{NoFindings, Plan, Resource};

/// The packet filter of a host, as far as it concerns us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firewall {}

impl Resource for Firewall {
    type Observed = FirewallState;
    type Desired = FirewallState;
    type Scope = ();
    type Op = FirewallOp;
    type Findings = NoFindings;

    fn plan(observed: &FirewallState, desired: &FirewallState) -> Plan<Self> {
        let (mut ops, deletions) = changes(observed, desired);
        ops.extend(deletions);
        Plan { ops, findings: NoFindings }
    }

    fn apply(observed: &mut FirewallState, op: &FirewallOp) {
        observed.apply(op);
    }
}

/// Puts and deletions.
pub(crate) fn changes(have: &FirewallState, want: &FirewallState) -> (Vec<FirewallOp>, Vec<FirewallOp>) {
    let mut puts = Vec::new();
    if let Some(wanted) = want.tables.get(&TableName::Ours) {
        puts.extend(table(have.tables.get(&TableName::Ours), wanted));
    }
    puts.extend(chains(have, want));
    let tables = have.tables.keys().filter(|name| !want.tables.contains_key(name));
    let chains = have.chains.iter().filter(|(name, _)| !want.chains.contains_key(name));
    let deletions = chains
        .map(|(name, chain)| FirewallOp::DeleteChain(name.clone(), chain.clone()))
        .chain(tables.map(|name| FirewallOp::DeleteTable(*name)));
    (puts, deletions.collect())
}

fn table(have: Option<&Table>, want: &Table) -> Vec<FirewallOp> {
    let Some(have) = have.filter(|have| have.is_built_as(want)) else {
        return vec![FirewallOp::PutTable(want.clone())];
    };
    let minus = |a: &BTreeSet<Element>, b: &BTreeSet<Element>| a.difference(b).copied().collect::<BTreeSet<_>>();
    let change = |(name, wanted): (&String, &Set)| {
        let there = &have.sets.get(name)?.elements;
        let change = SetChange { add: minus(&wanted.elements, there), remove: minus(there, &wanted.elements) };
        (change != SetChange::default()).then(|| (name.clone(), change))
    };
    let changes: BTreeMap<String, SetChange> = want.sets.iter().filter_map(change).collect();
    if changes.is_empty() { Vec::new() } else { vec![FirewallOp::ChangeSets(changes)] }
}

fn chains(have: &FirewallState, want: &FirewallState) -> Vec<FirewallOp> {
    let mut tables: BTreeMap<ChainTable, Vec<ChainChange>> = BTreeMap::new();
    for (name, wanted) in &want.chains {
        if let Some(change) = chain(have, name, wanted) {
            tables.entry(name.table).or_default().push(change);
        }
    }
    tables.into_iter().map(|(table, changes)| FirewallOp::PutChains(table, changes)).collect()
}

fn chain(have: &FirewallState, name: &ChainName, want: &Chain) -> Option<ChainChange> {
    let there = have.chains.get(name);
    if want.answers_others && there.is_none() && !have.used.contains(&name.table) {
        return None;
    }
    let wanted = on_this_host(name, want, &have.internal);
    let rules = there.is_none_or(|there| there.rules != wanted).then_some(wanted);
    let is_there = |caller: &str| {
        BUILT_IN.contains(&caller) || have.callers.contains(&ChainName { table: name.table, name: caller.to_owned() })
    };
    let mut calls = BTreeMap::new();
    for (caller, call) in want.calls.iter().filter(|(caller, _)| is_there(caller)) {
        let found = there.and_then(|there| there.calls.get(caller));
        if !found.is_some_and(|found| found.serves_as(call)) {
            let old = found.map(|found| found.rules.clone()).unwrap_or_default();
            calls.insert(caller.clone(), (old, call.clone()));
        }
    }
    let differs = rules.is_some() || !calls.is_empty();
    differs.then(|| ChainChange { chain: name.name.clone(), rules, calls })
}

/// The chains that iptables makes with their table.
const BUILT_IN: [&str; 3] = ["PREROUTING", "FORWARD", "POSTROUTING"];

/// The rules of a wanted chain on a host with these internal bridges.
fn on_this_host(name: &ChainName, want: &Chain, internal: &BTreeSet<(Family, String)>) -> Vec<String> {
    let concerns = |(family, _): &&(Family, String)| want.spares_internal && *family == name.table.family;
    let left = internal.iter().filter(concerns).flat_map(|(_, link)| [format!("-i {link}"), format!("-o {link}")]);
    let left = left.map(|matching| format!("{matching} -j RETURN"));
    left.chain(want.rules.iter().cloned()).collect()
}

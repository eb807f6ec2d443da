//! The difference between the packet filter there is and the one that should be. Pure.

use std::collections::{BTreeMap, BTreeSet};

use wire_net::Family;

use super::merge::merge;
use super::{
    ChainName, ChainTable, Creation, DesiredChain, DesiredFirewall, DesiredTable, FlannelRules, InternalBridge,
    InternalBridges, ObservedFirewall, ObservedTable, OtherRules, Set, TableName,
    difference::differences,
    op::{CallChange, ChainChange, FirewallOp, SetChange},
};
use crate::{Before, Clash, Difference, Plan, Resource, Share};

/// The packet filter of a host, as far as it concerns us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firewall {}

impl Resource for Firewall {
    type Observed = ObservedFirewall;
    type Desired = DesiredFirewall;
    type Scope = ();
    type Op = FirewallOp;
    type Findings = OtherRules;
    type Index = ();
    type Part = ();

    fn index(_: &ObservedFirewall) {}

    fn merge(shares: &[Share<'_, DesiredFirewall>]) -> (DesiredFirewall, Vec<Clash>) {
        merge(shares)
    }

    /// Deletions come last: what flanneld left, and what is left in the other variant of iptables, goes once ours stands.
    fn plan(observed: &ObservedFirewall, desired: &DesiredFirewall) -> Plan<Self> {
        let tables = desired.tables().filter_map(|table| put_table(observed.table_named(&table.name), table));
        let ops = tables.chain(put_chains(observed, desired)).chain(deletions(observed, desired)).collect();
        Plan { ops, findings: observed.others.clone() }
    }

    /// Only the elements of sets follow from the leases: if anything else differs, all is compared.
    fn plan_since(
        observed: &ObservedFirewall,
        before: Before<'_, Self>,
        desired: &DesiredFirewall,
    ) -> Option<Plan<Self>> {
        // Each part by name: a new one must be thought of here.
        let DesiredFirewall { table, bridge, chains, flannel, empty_tables } = before.reached;
        let is_same = *chains == desired.chains && *flannel == desired.flannel && *empty_tables == desired.empty_tables;
        let mut ops = Vec::new();
        for (reached, desired) in [(table, &desired.table), (bridge, &desired.bridge)] {
            match (reached, desired) {
                (Some(reached), Some(desired)) if reached.is_built_like(desired) => {
                    ops.extend(change_sets(&reached.sets, desired));
                }
                (None, None) => {}
                (Some(_) | None, _) => return None,
            }
        }
        is_same.then(|| Plan { ops, findings: observed.others.clone() })
    }

    fn differences(observed: &ObservedFirewall, desired: &DesiredFirewall) -> Vec<Difference> {
        differences(observed, desired)
    }

    fn apply(observed: &mut ObservedFirewall, op: &FirewallOp) {
        observed.apply(op);
    }
}

fn put_table(observed: Option<&ObservedTable>, desired: &DesiredTable) -> Option<FirewallOp> {
    let Some(observed) = observed.filter(|observed| observed.is_built_as(desired)) else {
        return Some(FirewallOp::PutTable(desired.clone()));
    };
    change_sets(&observed.sets, desired)
}

/// The change of elements in sets that both have.
fn change_sets(sets: &BTreeMap<String, Set>, desired: &DesiredTable) -> Option<FirewallOp> {
    let mut changes = BTreeMap::new();
    for (name, set) in &desired.sets {
        let Some(there) = sets.get(name) else { continue };
        let change = SetChange::between(&there.elements, &set.elements);
        if change != SetChange::default() {
            changes.insert(name.clone(), change);
        }
    }
    (!changes.is_empty()).then(|| FirewallOp::ChangeSets(desired.name.clone(), changes))
}

/// One transaction for each table.
fn put_chains(observed: &ObservedFirewall, desired: &DesiredFirewall) -> impl Iterator<Item = FirewallOp> {
    let mut tables: BTreeMap<ChainTable, Vec<ChainChange>> = BTreeMap::new();
    for (name, chain) in &desired.chains {
        if let Some(change) = change_chain(observed, name, chain) {
            tables.entry(name.table).or_default().push(change);
        }
    }
    tables.into_iter().map(|(table, changes)| FirewallOp::PutChains(table, changes))
}

fn change_chain(observed: &ObservedFirewall, name: &ChainName, desired: &DesiredChain) -> Option<ChainChange> {
    let there = observed.chains.get(name);
    let may_be_created = match desired.creation {
        Creation::Always => true,
        Creation::WhenTableIsUsed => observed.used.contains(&name.table),
    };
    if there.is_none() && !may_be_created {
        return None;
    }
    let rules = rules_beside(&observed.internal_bridges, name.table.family, desired);
    let rules = there.is_none_or(|there| there.rules != rules).then_some(rules);
    let mut calls = BTreeMap::new();
    for (caller, call) in desired.calls.iter().filter(|(caller, _)| is_there(observed, name.table, caller)) {
        let found = there.and_then(|there| there.calls.get(caller));
        if !found.is_some_and(|found| found.serves_as(call)) {
            let remove = found.map(|found| found.rules.clone()).unwrap_or_default();
            calls.insert(caller.clone(), CallChange { remove, put: call.clone() });
        }
    }
    let differs = rules.is_some() || !calls.is_empty();
    differs.then(|| ChainChange { chain: name.name.clone(), rules, calls })
}

/// The chains that iptables creates with their table.
const BUILT_IN: [&str; 3] = ["PREROUTING", "FORWARD", "POSTROUTING"];

fn is_there(observed: &ObservedFirewall, table: ChainTable, caller: &str) -> bool {
    BUILT_IN.contains(&caller) || observed.callers.contains(&ChainName { table, name: caller.to_owned() })
}

/// The rules of a chain on a host with these internal bridges.
fn rules_beside(bridges: &BTreeSet<InternalBridge>, family: Family, chain: &DesiredChain) -> Vec<String> {
    let mut rules = Vec::new();
    match chain.internal_bridges {
        InternalBridges::Return => {
            for InternalBridge { name, .. } in bridges.iter().filter(|bridge| bridge.family == family) {
                rules.extend([format!("-i {name} -j RETURN"), format!("-o {name} -j RETURN")]);
            }
        }
        InternalBridges::Ignore => {}
    }
    rules.extend(chain.rules.iter().cloned());
    rules
}

fn deletions(observed: &ObservedFirewall, desired: &DesiredFirewall) -> Vec<FirewallOp> {
    let is_undesired = |name: &ChainName| {
        !desired.chains.contains_key(name) && (name.is_ours() || desired.flannel == FlannelRules::Delete)
    };
    let chains = observed.chains.iter().filter(|(name, _)| is_undesired(name));
    let mut ops: Vec<FirewallOp> = chains
        .map(|(name, chain)| FirewallOp::DeleteChain(name.clone(), chain.clone(), desired.empty_tables))
        .collect();
    let unwanted = observed.tables().filter(|table| desired.table_named(&table.name).is_none());
    ops.extend(unwanted.map(|table| FirewallOp::DeleteTable(TableName::Ours(table.name.clone()))));
    match desired.flannel {
        FlannelRules::Delete => {
            let tables = observed.flannel_tables.iter().map(|family| TableName::Flannel(*family));
            ops.extend(tables.map(FirewallOp::DeleteTable));
        }
        FlannelRules::Keep => {}
    }
    let abandoned = observed.abandoned.iter().map(|(name, chain)| (name.clone(), chain.clone()));
    ops.extend(abandoned.map(|(name, chain)| FirewallOp::DeleteAbandonedChain(name, chain, desired.empty_tables)));
    ops
}

#[cfg(test)]
mod tests;

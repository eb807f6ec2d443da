//! The difference of one chain of iptables. Pure.

use std::collections::BTreeMap;

use super::chain_entry;
use crate::{
    CallChange, ChainChange, ChainName, ChainTable, Difference, ObservedChain, Place, Position, difference::counted,
};

/// The difference that a change removes.
pub(super) fn difference(
    observed: &BTreeMap<ChainName, ObservedChain>,
    table: ChainTable,
    change: &ChainChange,
) -> Difference {
    let name = ChainName { table, name: change.chain.clone() };
    let entry = chain_entry(&name);
    let Some(found) = observed.get(&name) else { return Difference::missing(entry) };
    let rules = change.rules.iter().map(|rules| rules_detail(&found.rules, rules));
    let calls = change.calls.iter().map(|(caller, call)| call_detail(found, caller, call));
    let parts: Vec<String> = rules.chain(calls).collect();
    let is_behind = change.calls.iter().any(|(caller, call)| is_behind_others(found, caller, call));
    let consequence = is_behind.then(|| "other rules decide before it".to_owned());
    Difference::altered(entry, parts.join("; ")).with_consequence(consequence)
}

/// The first rule that is missing, or else the first that should not be there.
fn rules_detail(found: &[String], desired: &[String]) -> String {
    let missing = first_without(desired, found).map(|(rule, more)| format!("lacks the rule \"{rule}\"{more}"));
    let foreign =
        || first_without(found, desired).map(|(rule, more)| format!("has the rule \"{rule}\"{more}, and should not"));
    missing.or_else(foreign).unwrap_or_else(|| "has its rules in another order or more than once".to_owned())
}

/// The first rule that is not among the others, and how many more there are.
fn first_without<'a>(rules: &'a [String], others: &[String]) -> Option<(&'a String, String)> {
    let mut left = rules.iter().filter(|rule| !others.contains(rule));
    let first = left.next()?;
    let more = left.count();
    Some((first, if more > 0 { format!(" and {more} more") } else { String::new() }))
}

fn call_detail(found: &ObservedChain, caller: &str, call: &CallChange) -> String {
    match found.calls.get(caller) {
        None => format!("is not called from {caller}, and should be"),
        Some(_) if is_behind_others(found, caller, call) => {
            format!("is called from {caller} behind other rules, and should be called first")
        }
        Some(there) if there.rules.len() > 1 => {
            let times = counted(there.rules.len(), "rule", "rules");
            format!("is called from {caller} by {times}, and should be by \"{}\" alone", call.put.rule)
        }
        Some(there) => {
            let is = there.rules.first().map(String::as_str).unwrap_or_default();
            format!("is called from {caller} by \"{is}\", and should be by \"{}\"", call.put.rule)
        }
    }
}

/// Whether the chain is called, but not before all other rules as desired.
fn is_behind_others(found: &ObservedChain, caller: &str, call: &CallChange) -> bool {
    match call.put.place {
        Place::First => found.calls.get(caller).is_some_and(|there| there.position == Position::Behind),
        Place::Anywhere => false,
    }
}

//! The differences between two packet filters, as sentences for people. Pure.
//!
//! They are the operations of a plan, told in detail: an operation may replace a whole table in which one rule differs.

mod chains;
mod rules;
mod table;
#[cfg(test)]
pub(super) mod tests;

use super::{ChainName, DesiredFirewall, Firewall, FirewallOp, ObservedFirewall, TableName};
use crate::{Difference, Resource as _};

const LEFT_BY_FLANNELD: &str = "was left by flanneld";

pub(super) fn differences(observed: &ObservedFirewall, desired: &DesiredFirewall) -> Vec<Difference> {
    let ops = Firewall::plan(observed, desired).ops;
    ops.iter().flat_map(|op| of_op(observed, desired, op)).collect()
}

fn of_op(observed: &ObservedFirewall, desired: &DesiredFirewall, op: &FirewallOp) -> Vec<Difference> {
    match op {
        FirewallOp::PutTable(table) => table::differences(observed.table_named(&table.name), table),
        FirewallOp::ChangeSets(table, changes) => {
            let table = desired.table_named(table);
            let sets = changes.iter().filter_map(|(name, change)| Some((table?, name, change)));
            sets.flat_map(|(table, name, change)| table::elements(table, name, change)).collect()
        }
        FirewallOp::PutChains(table, changes) => {
            let chains = changes.iter();
            chains.map(|change| chains::difference(&observed.chains, *table, change)).collect()
        }
        FirewallOp::DeleteAbandonedChain(name, ..) => {
            let left = "was left in the variant of iptables that is not in use";
            vec![Difference::unwanted(chain_entry(name)).with_detail(left)]
        }
        FirewallOp::DeleteChain(name, ..) => {
            let difference = Difference::unwanted(chain_entry(name));
            vec![if name.is_ours() { difference } else { difference.with_detail(LEFT_BY_FLANNELD) }]
        }
        FirewallOp::DeleteTable(name) => {
            let difference = Difference::unwanted(format!("table {name}"));
            vec![match name {
                TableName::Ours(_) => difference,
                TableName::Flannel(_) => difference.with_detail(LEFT_BY_FLANNELD),
            }]
        }
    }
}

fn chain_entry(ChainName { table, name }: &ChainName) -> String {
    format!("chain {name} of {table}")
}

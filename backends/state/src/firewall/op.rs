//! One change of the packet filter.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::Operation;

use super::{Call, Chain, ChainName, ChainTable, Element, FirewallState, Table, TableName};

/// One change of the packet filter. Each is one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirewallOp {
    /// Puts our table of nftables in place of whatever has its name.
    PutTable(Table),
    /// Changes what is in sets of our table, by name.
    ChangeSets(BTreeMap<String, SetChange>),
    /// Fills chains of ours, and puts what calls them where it belongs.
    PutChains(ChainTable, Vec<ChainChange>),
    /// Removes a chain and the rules that call it, given as it was read.
    DeleteChain(ChainName, Chain),
    /// Removes a table of nftables.
    DeleteTable(TableName),
}

/// What is to be changed about a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetChange {
    /// To be added.
    pub add: BTreeSet<Element>,
    /// To be taken out.
    pub remove: BTreeSet<Element>,
}

/// What is to be changed about one chain of iptables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainChange {
    /// The chain.
    pub chain: String,
    /// Its new rules; `None` where those there are right.
    pub rules: Option<Vec<String>>,
    /// By calling chain: the rules to take away, and the call to put.
    pub calls: BTreeMap<String, (Vec<String>, Call)>,
}

impl FirewallState {
    /// What it is once `op` is carried out.
    pub fn apply(&mut self, op: &FirewallOp) {
        match op {
            FirewallOp::PutTable(table) => {
                self.tables.insert(TableName::Ours, table.clone());
            }
            FirewallOp::ChangeSets(changes) => {
                let Some(table) = self.tables.get_mut(&TableName::Ours) else { return };
                for (name, change) in changes {
                    let Some(set) = table.sets.get_mut(name) else { continue };
                    set.elements.retain(|element| !change.remove.contains(element));
                    set.elements.extend(&change.add);
                }
            }
            FirewallOp::PutChains(table, changes) => {
                for change in changes {
                    let name = ChainName { table: *table, name: change.chain.clone() };
                    let chain = self.chains.entry(name).or_default();
                    if let Some(rules) = &change.rules {
                        chain.rules.clone_from(rules);
                    }
                    chain.calls.extend(change.calls.iter().map(|(caller, (_, call))| (caller.clone(), call.clone())));
                }
            }
            FirewallOp::DeleteChain(name, _) => {
                self.chains.remove(name);
            }
            FirewallOp::DeleteTable(name) => {
                self.tables.remove(name);
            }
        }
    }
}

impl Operation for FirewallOp {
    fn name(&self) -> &'static str {
        match self {
            Self::PutTable(_) => "put table",
            Self::ChangeSets(_) => "change sets",
            Self::PutChains(..) => "put chains",
            Self::DeleteChain(..) => "delete chain",
            Self::DeleteTable(_) => "delete table",
        }
    }

    fn is_delete(&self) -> bool {
        match self {
            Self::DeleteChain(..) | Self::DeleteTable(_) => true,
            Self::PutTable(_) | Self::ChangeSets(_) | Self::PutChains(..) => false,
        }
    }
}

/// No more elements of a set are named.
const SHOWN: usize = 4;

impl fmt::Display for FirewallOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.name())?;
        match self {
            Self::PutTable(table) => {
                let rules: usize = table.chains.values().map(|chain| chain.rules.len()).sum();
                write!(f, "{}: {} chains, {rules} rules", TableName::Ours, table.chains.len())
            }
            Self::ChangeSets(changes) => {
                write!(f, "{}:", TableName::Ours)?;
                for (set, change) in changes {
                    write!(f, " {set}")?;
                    for (sign, elements) in [('+', &change.add), ('-', &change.remove)] {
                        // A line for people: of thousands, how many.
                        elements.iter().take(SHOWN).try_for_each(|element| write!(f, " {sign}{element}"))?;
                        if let Some(more) = elements.len().checked_sub(SHOWN).filter(|more| *more > 0) {
                            write!(f, " {sign}{more} more")?;
                        }
                    }
                }
                Ok(())
            }
            Self::PutChains(table, changes) => {
                write!(f, "{table}:")?;
                for change in changes {
                    write!(f, " {}", change.chain)?;
                    if let Some(rules) = &change.rules {
                        write!(f, " ({} rules)", rules.len())?;
                    }
                    change.calls.keys().try_for_each(|caller| write!(f, " called from {caller}"))?;
                }
                Ok(())
            }
            Self::DeleteChain(name, _) => write!(f, "{} {}", name.table, name.name),
            Self::DeleteTable(name) => name.fmt(f),
        }
    }
}

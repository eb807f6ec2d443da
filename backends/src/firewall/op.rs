//! One change of the packet filter.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::state::{Call, Chain, ChainName, ChainTable, Element, Firewall, Table, TableName};

/// One change of the packet filter. Each is one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirewallOp {
    /// Puts our table of nftables in place of whatever has its name.
    PutTable(Table),
    /// Changes what is in a set of our table.
    ChangeSet {
        /// The set.
        set: String,
        /// To be added.
        add: BTreeSet<Element>,
        /// To be taken out.
        remove: BTreeSet<Element>,
    },
    /// Fills chains of ours, and puts what calls them where it belongs.
    PutChains(ChainTable, Vec<ChainChange>),
    /// Removes a chain and the rules that call it, given as it was read.
    DeleteChain(ChainName, Chain),
    /// Removes a table of nftables.
    DeleteTable(TableName),
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

impl Firewall {
    /// What it is once `op` is carried out.
    pub fn apply(&mut self, op: &FirewallOp) {
        match op {
            FirewallOp::PutTable(table) => {
                self.tables.insert(TableName::Ours, table.clone());
            }
            FirewallOp::ChangeSet { set, add, remove } => {
                let Some(set) = self.tables.get_mut(&TableName::Ours).and_then(|table| table.sets.get_mut(set)) else {
                    return;
                };
                set.elements.retain(|element| !remove.contains(element));
                set.elements.extend(add);
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

impl FirewallOp {
    /// What kind of change it is, for counters.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::PutTable(_) => "put table",
            Self::ChangeSet { .. } => "change set",
            Self::PutChains(..) => "put chains",
            Self::DeleteChain(..) => "delete chain",
            Self::DeleteTable(_) => "delete table",
        }
    }

    /// Whether it takes something away.
    #[must_use]
    pub const fn is_delete(&self) -> bool {
        match self {
            Self::DeleteChain(..) | Self::DeleteTable(_) => true,
            Self::PutTable(_) | Self::ChangeSet { .. } | Self::PutChains(..) => false,
        }
    }
}

/// What follows the operation's name.
impl fmt::Display for FirewallOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutTable(table) => {
                let rules: usize = table.chains.values().map(|chain| chain.rules.len()).sum();
                write!(f, "{}: {} chains, {rules} rules", TableName::Ours, table.chains.len())
            }
            Self::ChangeSet { set, add, remove } => {
                write!(f, "{set} of {}:", TableName::Ours)?;
                add.iter().try_for_each(|element| write!(f, " +{element}"))?;
                remove.iter().try_for_each(|element| write!(f, " -{element}"))
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

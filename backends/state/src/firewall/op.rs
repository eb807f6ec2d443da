//! One change of the packet filter.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use imbl::{OrdSet, ordset::DiffItem};

use crate::Operation;

use super::{
    Call, ChainName, ChainTable, DesiredTable, Element, EmptyTables, ObservedChain, ObservedFirewall, ObservedTable,
    OurTable, TableFamily, TableName,
};

/// One change of the packet filter. Each is one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FirewallOp {
    /// Replaces our table of nftables, or any other with its name.
    PutTable(DesiredTable),
    /// Changes the elements of sets of a table of ours, by the names of the sets.
    ChangeSets(OurTable, BTreeMap<String, SetChange>),
    /// Fills chains of ours in one table, and puts their calls in place.
    PutChains(ChainTable, Vec<ChainChange>),
    /// Deletes a chain and the rules that call it.
    DeleteChain(ChainName, ObservedChain, EmptyTables),
    /// Deletes a table of nftables.
    DeleteTable(TableName),
    /// Deletes a chain of ours in the variant of iptables that is not in use, and the rules that call it.
    DeleteAbandonedChain(ChainName, ObservedChain, EmptyTables),
}

/// A change of the elements of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetChange {
    /// Elements to add.
    pub add: BTreeSet<Element>,
    /// Elements to remove.
    pub remove: BTreeSet<Element>,
}

/// A change of one chain of iptables and of its calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainChange {
    /// The chain.
    pub chain: String,
    /// Its new rules; `None` if those there are right.
    pub rules: Option<Vec<String>>,
    /// Changes of calls, by calling chain.
    pub calls: BTreeMap<String, CallChange>,
}

/// A change of the call of a chain of ours by another chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallChange {
    /// The rules to remove.
    pub remove: Vec<String>,
    /// The call to put.
    pub put: Call,
}

impl SetChange {
    /// Takes a time in proportion to the change, if one set was made from the other.
    pub(crate) fn between(observed: &OrdSet<Element>, desired: &OrdSet<Element>) -> Self {
        let mut change = Self::default();
        for item in observed.diff(desired) {
            match item {
                DiffItem::Add(element) => change.add.insert(*element),
                DiffItem::Remove(element) => change.remove.insert(*element),
            };
        }
        change
    }
}

impl ObservedFirewall {
    /// The place of our table of a family.
    pub const fn slot(&mut self, family: TableFamily) -> &mut Option<ObservedTable> {
        match family {
            TableFamily::Inet => &mut self.table,
            TableFamily::Bridge => &mut self.bridge,
        }
    }

    /// Brings it forward by an operation that was carried out.
    pub fn apply(&mut self, op: &FirewallOp) {
        match op {
            FirewallOp::PutTable(table) => {
                *self.slot(table.name.family) = Some(table.into());
            }
            FirewallOp::ChangeSets(table, changes) => {
                let found = self.slot(table.family).as_mut();
                change_sets(found.filter(|found| found.name == *table), changes);
            }
            FirewallOp::PutChains(table, changes) => {
                for change in changes {
                    let name = ChainName { table: *table, name: change.chain.clone() };
                    let chain = self.chains.entry(name).or_default();
                    if let Some(rules) = &change.rules {
                        chain.rules.clone_from(rules);
                    }
                    chain.calls.extend(change.calls.iter().map(|(caller, call)| (caller.clone(), (&call.put).into())));
                }
            }
            FirewallOp::DeleteChain(name, ..) => {
                self.chains.remove(name);
            }
            FirewallOp::DeleteAbandonedChain(name, ..) => {
                self.abandoned.remove(name);
            }
            FirewallOp::DeleteTable(TableName::Ours(table)) => {
                self.slot(table.family).take_if(|found| found.name == *table);
            }
            FirewallOp::DeleteTable(TableName::Flannel(family)) => {
                self.flannel_tables.remove(family);
            }
        }
    }
}

fn change_sets(table: Option<&mut ObservedTable>, changes: &BTreeMap<String, SetChange>) {
    let Some(table) = table else { return };
    for (name, change) in changes {
        let Some(set) = table.sets.get_mut(name) else { continue };
        for element in &change.remove {
            set.elements.remove(element);
        }
        set.elements.extend(change.add.iter().copied());
    }
}

impl Operation for FirewallOp {
    fn name(&self) -> &'static str {
        match self {
            Self::PutTable(_) => "put table",
            Self::ChangeSets(..) => "change sets",
            Self::PutChains(..) => "put chains",
            Self::DeleteChain(..) => "delete chain",
            Self::DeleteTable(_) => "delete table",
            Self::DeleteAbandonedChain(..) => "delete abandoned chain",
        }
    }

    fn is_delete(&self) -> bool {
        match self {
            Self::DeleteChain(..) | Self::DeleteTable(_) | Self::DeleteAbandonedChain(..) => true,
            Self::PutTable(_) | Self::ChangeSets(..) | Self::PutChains(..) => false,
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
                write!(f, "{}: {} chains, {rules} rules", table.name, table.chains.len())
            }
            Self::ChangeSets(table, changes) => {
                write!(f, "{table}:")?;
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
            Self::DeleteChain(name, _, tables) | Self::DeleteAbandonedChain(name, _, tables) => {
                write!(f, "{} {}", name.table, name.name)?;
                match tables {
                    EmptyTables::Keep => Ok(()),
                    EmptyTables::Delete => f.write_str(", and its table if that is empty"),
                }
            }
            Self::DeleteTable(name) => name.fmt(f),
        }
    }
}

//! Reads the packet filter, and applies changes to it.

mod abandoned;
mod counted;
mod foreign;
mod read;
mod unread;

use std::{collections::BTreeMap, io};

use wire_net::{Family, NetworkName};
use wire_state::{
    Attempt, ChainName, ChainTable, DataplaneError, DesiredTable, Driver, EmptyTables, ErrorKind, Firewall, FirewallOp,
    Flowtable, ObservedChain, ObservedFirewall, OpError, Operation as _, OurTable,
};

use self::foreign::TrackingRead;
pub use self::{
    counted::{Counted, SegmentsCounted},
    foreign::ForeignRules,
};
use super::{
    iptables, netfilter,
    netfilter::{Expressions, Netfilter, TablePlace},
    nft,
    program::{self, Programs, Variant},
};

/// The packet filter of this thread's network namespace.
pub struct FirewallDataplane {
    /// The network whose rules are ours. Those of others are not touched.
    network: NetworkName,
    /// `None` until the socket could be opened: without nftables the rest of the agent still works.
    netfilter: Option<Netfilter>,
    families: Vec<Family>,
    /// The nftables generation of the last read, increased by one for each write of our own.
    generation: Option<u32>,
    /// The compiled expressions of the rules of our tables, as last known to be right.
    expressions: BTreeMap<OurTable, Expressions>,
    programs: BTreeMap<Family, Programs>,
    /// The flowtables of our tables, from the last read or write.
    flowtables: BTreeMap<OurTable, BTreeMap<String, Flowtable>>,
    /// The parts that could not be read; nothing is written to them.
    unreadable: BTreeMap<Part, OpError>,
    /// The error of the last read for the variant of iptables that is not in use.
    abandoned_unread: Option<OpError>,
    tracking: Option<TrackingRead>,
    /// Called before each program run, which may take seconds.
    step: Box<dyn Fn() + Send>,
}

/// A part of the packet filter that is read on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Nftables,
    Iptables(Family),
    /// One table of iptables.
    Table(ChainTable),
}

impl FirewallDataplane {
    /// Creates the dataplane of one network's rules in these families. Its socket is opened at the first use, in the network namespace of the
    /// calling thread; without netlink, the parts are unreadable.
    #[must_use]
    pub fn new(network: NetworkName, families: Vec<Family>) -> Self {
        Self {
            network,
            netfilter: None,
            families,
            generation: None,
            expressions: BTreeMap::new(),
            programs: BTreeMap::new(),
            flowtables: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            abandoned_unread: None,
            tracking: None,
            step: Box::new(|| ()),
        }
    }

    /// Sets the families whose rules are read and written. If they are others than before, the packet filter is read again.
    pub fn set_families(&mut self, families: Vec<Family>) {
        if families != self.families {
            self.families = families;
            self.generation = None;
        }
    }

    /// Calls `step` before each program run. iptables waits up to five seconds for its lock, and a round runs many
    /// programs.
    pub fn set_step(&mut self, step: Box<dyn Fn() + Send>) {
        self.step = step;
    }

    /// True if the packet filter may differ from the last read. Costs one small request. Always true with
    /// iptables-legacy, which sends no notifications.
    pub fn has_changed(&mut self) -> bool {
        let legacy = self.programs.values().any(|programs| programs.variant == Variant::Legacy);
        legacy || !self.unreadable.is_empty() || !self.has_own_writes_alone()
    }

    /// True if nobody else has written to nftables since the last read: what a monitor hears then is the echo of our own writes. Costs one
    /// small request.
    pub fn has_own_writes_alone(&mut self) -> bool {
        self.generation.is_some()
            && !self.have_flowtables_changed()
            && self.netfilter().and_then(Netfilter::generation).ok() == self.generation
    }

    /// Compares the flowtables with the last read: when a link is deleted, the kernel removes it from a flowtable
    /// without a new generation of the ruleset.
    fn have_flowtables_changed(&mut self) -> bool {
        let known = self.flowtables.clone();
        known.iter().any(|(table, known)| !known.is_empty() && self.flowtables_of(table).as_ref() != Some(known))
    }

    fn flowtables_of(&mut self, table: &OurTable) -> Option<BTreeMap<String, Flowtable>> {
        self.netfilter().ok()?.flowtables(&TablePlace::of(table)).ok()
    }

    /// True if iptables-legacy may hold chains that only root can read, in a family whose rules could be listed
    /// otherwise.
    #[must_use]
    pub fn hides_legacy_tables(&self) -> bool {
        self.programs.keys().any(|family| program::hides_legacy_tables(*family))
    }

    /// Tells if nft and the kernel take our table. Nothing is written.
    #[must_use]
    pub fn accepts(&self, table: &DesiredTable) -> bool {
        (self.step)();
        program::check_nft(&nft::put_table(table)).is_ok()
    }

    fn netfilter(&mut self) -> Result<&mut Netfilter, DataplaneError> {
        if self.netfilter.is_none() {
            self.netfilter = Some(Netfilter::open(&self.network)?);
        }
        Ok(self.netfilter.as_mut().expect("it was opened above"))
    }

    fn carry_out(&mut self, op: &FirewallOp) -> Attempt {
        if let Some(error) = parts_of(op).iter().find_map(|part| self.unreadable.get(part)) {
            return Err(error.again());
        }
        (self.step)();
        match op {
            FirewallOp::PutTable(table) => self.put_table(table),
            FirewallOp::ChangeSets(table, changes) => {
                self.netfilter.as_mut().ok_or_else(not_read)?.change_sets(table, changes)?;
                self.count_own_write();
                Ok(())
            }
            FirewallOp::DeleteTable(name) => {
                program::nft(&nft::delete_table(name))?;
                self.count_own_write();
                Ok(())
            }
            FirewallOp::PutChains(table, changes) => {
                self.restore(&self.programs(table.family)?, &iptables::put(*table, changes))
            }
            FirewallOp::DeleteChain(name, chain, empty_tables) => {
                self.delete_chain(&self.programs(name.table.family)?, name, chain, *empty_tables)
            }
            FirewallOp::DeleteAbandonedChain(name, chain, empty_tables) => {
                let family = name.table.family;
                self.delete_chain(&self.programs(family)?.other(family), name, chain, *empty_tables)
            }
        }
    }

    /// Writes a table of ours, and reads it back: the expressions that nft has compiled are remembered while they are known to
    /// be right.
    fn put_table(&mut self, table: &DesiredTable) -> Attempt {
        program::nft(&nft::put_table(table))?;
        self.count_own_write();
        let made = self.netfilter().and_then(|netfilter| netfilter.table(&table.name));
        let (made, expressions) = made.unwrap_or_default();
        self.expressions.insert(table.name.clone(), expressions);
        self.flowtables.insert(table.name.clone(), made.flowtables.clone());
        if made.equals(table) {
            Ok(())
        } else {
            // Some versions before 1.0.6 do so with ranges in concatenations (its release notes).
            Err(OpError::unsupported("nft did not write the table as it was given: a newer nftables is needed"))
        }
    }

    /// The programs of the variant of iptables that is in use.
    fn programs(&self, family: Family) -> Result<Programs, OpError> {
        self.programs.get(&family).cloned().ok_or_else(not_read)
    }

    fn delete_chain(
        &mut self,
        programs: &Programs,
        name: &ChainName,
        chain: &ObservedChain,
        empty_tables: EmptyTables,
    ) -> Attempt {
        self.restore(programs, &iptables::delete(name, chain))?;
        match empty_tables {
            // With iptables-legacy too: iptables-nft may have been in use before.
            EmptyTables::Delete => self.delete_empty_table(name.table),
            EmptyTables::Keep => {}
        }
        Ok(())
    }

    /// Deletes a table of iptables-nft if nothing is left in it. One that cannot be deleted affects no packets, so that is no failure.
    fn delete_empty_table(&mut self, ChainTable { family, kind }: ChainTable) {
        if self.netfilter().is_ok_and(|netfilter| netfilter.delete_empty(family, &kind.to_string())) {
            self.count_own_write();
        }
    }

    fn restore(&mut self, programs: &Programs, input: &str) -> Attempt {
        programs.restore(input)?;
        match programs.variant {
            Variant::Nft => self.count_own_write(),
            Variant::Legacy => {}
        }
        Ok(())
    }

    /// Each transaction in nftables increases the generation by one.
    fn count_own_write(&mut self) {
        let known = self.generation.iter_mut().chain(self.tracking.iter_mut().map(|read| &mut read.generation));
        known.for_each(|generation| *generation = generation.wrapping_add(1));
    }
}

impl Driver for FirewallDataplane {
    type Resource = Firewall;

    fn read(&mut self, (): &()) -> Result<ObservedFirewall, DataplaneError> {
        self.unreadable.clear();
        self.abandoned_unread = None;
        let mut firewall = ObservedFirewall::default();
        // Read first: a change during this read then differs from it, and leads to another read.
        self.generation = self.netfilter().and_then(Netfilter::generation).ok();
        let tables = self.read_nftables(&mut firewall).unwrap_or_else(|error| {
            let source = io::Error::other(wire_net::chain(&error));
            let detail = "nftables cannot be read: is the module nf_tables loaded?".to_owned();
            self.unreadable.insert(Part::Nftables, OpError::program(ErrorKind::Unsupported, detail, source));
            netfilter::Tables::new()
        });
        self.read_iptables(&tables, &mut firewall);
        Ok(firewall)
    }

    fn apply(&mut self, ops: &[FirewallOp]) -> Vec<Attempt> {
        in_order(ops, |op| self.carry_out(op))
    }
}

/// Applies operations in order. After a failure nothing is deleted: old rules stay until the new ones are in place. No
/// rule waits for the deletion of an abandoned chain.
pub(crate) fn in_order(ops: &[FirewallOp], mut carry_out: impl FnMut(&FirewallOp) -> Attempt) -> Vec<Attempt> {
    let mut standing = true;
    let mut attempts = Vec::with_capacity(ops.len());
    for op in ops {
        let attempt = if op.is_delete() && !standing {
            let detail = "it is kept until wire-agent's own rules are in place".to_owned();
            Err(OpError::program(ErrorKind::Busy, detail, io::ErrorKind::ResourceBusy.into()))
        } else {
            carry_out(op)
        };
        standing &= attempt.is_ok() || matches!(op, FirewallOp::DeleteAbandonedChain(..));
        attempts.push(attempt);
    }
    attempts
}

/// The parts that must have been read before an operation.
fn parts_of(op: &FirewallOp) -> Vec<Part> {
    match op {
        FirewallOp::PutTable(_) | FirewallOp::ChangeSets(..) | FirewallOp::DeleteTable(_) => vec![Part::Nftables],
        FirewallOp::PutChains(table, _) => vec![Part::Iptables(table.family), Part::Table(*table)],
        FirewallOp::DeleteChain(name, ..) => vec![Part::Iptables(name.table.family), Part::Table(name.table)],
        FirewallOp::DeleteAbandonedChain(name, ..) => vec![Part::Iptables(name.table.family)],
    }
}

fn not_read() -> OpError {
    OpError::program(ErrorKind::Other, "it was not read".to_owned(), io::ErrorKind::Other.into())
}

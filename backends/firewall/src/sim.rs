//! A host's packet filter in memory, for tests.

use std::{
    future::poll_fn,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use wire_net::Family;
use wire_state::{
    Attempt, DataplaneError, DesiredTable, Driver, ErrorKind, Firewall, FirewallOp, ObservedFirewall, OpError, SetKind,
    TableFamily,
    sim::{FaultRates, Sim},
};

use crate::{Counted, DockerRules, ForeignRules, Nftables, Support, dataplane::in_order};

/// The packet filter of a host in memory. Clones are the same packet filter.
#[derive(Clone, Debug)]
pub struct SimPacketFilter {
    rules: Sim<Firewall>,
    facts: Arc<Mutex<FilterFacts>>,
}

/// The rules of others, the counters, and the abilities of the host.
#[derive(Clone, Debug)]
pub struct FilterFacts {
    /// Rules of others that ours depend on.
    pub foreign: ForeignRules,
    /// The packets counted by our table.
    pub counted: Counted,
    /// The parts of our table that the host accepts.
    pub support: Support,
    /// True if iptables-legacy is in use, which sends no notifications.
    pub is_legacy: bool,
    /// True if iptables-legacy may hold chains that only root can read.
    pub hides_legacy_tables: bool,
    /// True if the packet filter cannot be read or written.
    pub is_unreadable: bool,
    /// True if the iptables that is not in use cannot be read.
    pub is_abandoned_unreadable: bool,
}

/// The driver of one process of the agent on a [`SimPacketFilter`].
#[derive(Debug)]
pub struct SimFirewall {
    filter: SimPacketFilter,
    families: Vec<Family>,
    /// The number of changes at the last read, with those of our own writes; `None` if it must be read again.
    seen: Option<u64>,
    abandoned_unread: Option<OpError>,
}

/// Hears of changes of a [`SimPacketFilter`], as [`crate::FirewallMonitor`] does.
#[derive(Debug)]
pub struct SimFirewallMonitor {
    filter: SimPacketFilter,
    seen: u64,
}

impl Default for FilterFacts {
    fn default() -> Self {
        let foreign = ForeignRules { docker: DockerRules::default(), tracked: std::collections::BTreeMap::new() };
        Self {
            foreign,
            counted: Counted::default(),
            support: Support::default(),
            is_legacy: false,
            hides_legacy_tables: false,
            is_unreadable: false,
            is_abandoned_unreadable: false,
        }
    }
}

impl Default for SimPacketFilter {
    fn default() -> Self {
        Self { rules: Sim::new(ObservedFirewall::default()), facts: Arc::default() }
    }
}

impl SimPacketFilter {
    /// The driver of the next process of the agent. The one before has ended, if it had not yet.
    #[must_use]
    pub fn driver(&self) -> SimFirewall {
        let filter = Self { rules: self.rules.restarted(), facts: self.facts.clone() };
        SimFirewall { filter, families: Vec::new(), seen: None, abandoned_unread: None }
    }

    /// A monitor of this packet filter.
    #[must_use]
    pub fn monitor(&self) -> SimFirewallMonitor {
        SimFirewallMonitor { filter: self.clone(), seen: self.rules.changes() }
    }

    /// All that it holds.
    #[must_use]
    pub fn state(&self) -> ObservedFirewall {
        self.rules.state()
    }

    /// Changes the rules as another program would.
    pub fn edit(&self, change: impl FnOnce(&mut ObservedFirewall)) {
        self.rules.edit(change);
    }

    /// Changes what the host can do, what it has counted, or the rules of others. It is no change of the rules that concern us.
    pub fn edit_facts(&self, change: impl FnOnce(&mut FilterFacts)) {
        change(&mut self.facts());
    }

    /// Deletes all rules, as `nft flush ruleset` does.
    pub fn flush(&self) {
        self.rules.edit(|rules| *rules = ObservedFirewall::default());
        self.facts().counted = Counted::default();
    }

    /// Restarts the host: all rules are gone, and the agent has ended.
    pub fn reboot(&self) {
        self.rules.crash();
        self.flush();
    }

    /// The resource itself, for planned faults: see [`Sim::fail_next`], [`Sim::fail_reads`] and [`Sim::crash_after`].
    #[must_use]
    pub const fn faults(&self) -> &Sim<Firewall> {
        &self.rules
    }

    /// Makes operations and reads fail by chance, drawn from `seed`.
    pub fn fail_by_chance(&self, rates: FaultRates, seed: u64) {
        self.rules.fail_by_chance(rates, seed);
    }

    fn facts(&self) -> MutexGuard<'_, FilterFacts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SimFirewall {
    /// Sets the families whose rules are read and written, as [`crate::FirewallDataplane::set_families`] does.
    pub fn set_families(&mut self, families: Vec<Family>) {
        if families != self.families {
            self.families = families;
            self.seen = None;
        }
    }

    /// True if the packet filter may differ from the last read.
    pub fn has_changed(&mut self) -> bool {
        let is_doubted = {
            let facts = self.filter.facts();
            facts.is_legacy || facts.is_unreadable
        };
        is_doubted || !self.has_own_writes_alone()
    }

    /// True if nobody else has written since the last read.
    pub fn has_own_writes_alone(&mut self) -> bool {
        self.seen == Some(self.filter.rules.changes())
    }

    /// Reads the rules of others that ours depend on.
    pub fn foreign_rules(&mut self) -> ForeignRules {
        self.filter.facts().foreign.clone()
    }

    /// Reads the counters of our table.
    ///
    /// # Errors
    /// If the packet filter cannot be read.
    pub fn counted(&mut self) -> Result<Counted, DataplaneError> {
        let facts = self.filter.facts();
        if facts.is_unreadable {
            return Err(DataplaneError::Read { what: "counters", source: io::ErrorKind::Unsupported.into() });
        }
        Ok(facts.counted.clone())
    }

    /// The error of a part that the last read could not read, and that may hold rules of ours.
    pub fn unread(&mut self) -> Option<OpError> {
        self.filter.facts().is_unreadable.then(not_read)
    }

    /// The error of the last read for the variant of iptables that is not in use.
    #[must_use]
    pub const fn abandoned_unread(&self) -> Option<&OpError> {
        self.abandoned_unread.as_ref()
    }

    /// True if iptables-legacy may hold chains that only root can read.
    #[must_use]
    pub fn hides_legacy_tables(&self) -> bool {
        self.filter.facts().hides_legacy_tables
    }

    /// Tells if the host takes our table. Nothing is written.
    #[must_use]
    pub fn accepts(&self, table: &DesiredTable) -> bool {
        self.refusal(table).is_none()
    }

    /// Whether the process of this driver has ended, for example by [`Sim::crash_after`].
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        self.filter.rules.has_crashed()
    }

    fn refusal(&self, table: &DesiredTable) -> Option<OpError> {
        let Support { nftables, flowtables, bridges } = self.filter.facts().support;
        let is_source_check =
            |kind: SetKind| matches!(kind, SetKind::Leases(_) | SetKind::Subnets(..) | SetKind::Behind(..));
        let checks_sources = || table.sets.values().any(|set| is_source_check(set.kind));
        let refused =
            |kind: ErrorKind| OpError::program(kind, "refused by nft".to_owned(), io::ErrorKind::Other.into());
        match nftables {
            Nftables::Simple | Nftables::Whole if !bridges && table.name.family == TableFamily::Bridge => {
                Some(refused(ErrorKind::Program))
            }
            Nftables::Absent => Some(refused(ErrorKind::NoProgram)),
            Nftables::Simple if checks_sources() => Some(refused(ErrorKind::Program)),
            Nftables::Simple | Nftables::Whole => {
                (!flowtables && !table.flowtables.is_empty()).then(|| refused(ErrorKind::Program))
            }
        }
    }

    fn carry_out(&mut self, op: &FirewallOp) -> Attempt {
        if self.filter.facts().is_unreadable {
            return Err(not_read());
        }
        if let FirewallOp::PutTable(table) = op
            && let Some(error) = self.refusal(table)
        {
            return Err(error);
        }
        let before = self.filter.rules.changes();
        let attempt = self.filter.rules.apply(std::slice::from_ref(op)).pop().unwrap_or(Ok(()));
        // Our own write is no news, unless another program wrote too.
        if self.seen == Some(before) {
            self.seen = Some(self.filter.rules.changes());
        }
        attempt
    }
}

impl Driver for SimFirewall {
    type Resource = Firewall;

    fn read(&mut self, scope: &()) -> Result<ObservedFirewall, DataplaneError> {
        let seen = self.filter.rules.changes();
        let read = self.filter.rules.read(scope)?;
        let facts = self.filter.facts();
        self.abandoned_unread = facts.is_abandoned_unreadable.then(not_read);
        self.seen = Some(seen);
        Ok(if facts.is_unreadable { ObservedFirewall::default() } else { read })
    }

    fn apply(&mut self, ops: &[FirewallOp]) -> Vec<Attempt> {
        in_order(ops, |op| self.carry_out(op))
    }
}

impl SimFirewallMonitor {
    /// Waits for a change, by whomever.
    ///
    /// # Errors
    /// Never; the type is that of [`crate::FirewallMonitor::changed`].
    ///
    /// # Cancel safety
    /// Safe: a change that was not reported is reported by the next call.
    pub async fn changed(&mut self) -> Result<(), DataplaneError> {
        let Self { filter, seen } = self;
        poll_fn(|context| filter.rules.poll_changed(seen, context)).await;
        Ok(())
    }
}

fn not_read() -> OpError {
    OpError::program(ErrorKind::Other, "it was not read".to_owned(), io::ErrorKind::Other.into())
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    use wire_state::{Reconciler, Resource};

    use super::*;
    use crate::tests::{policy, wanted};

    fn is_heard(monitor: &mut SimFirewallMonitor) -> bool {
        pin!(monitor.changed()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_round_puts_the_rules_in_place_and_its_writes_are_no_change() {
        let filter = SimPacketFilter::default();
        let want = wanted(&policy(true), &[2, 3], &["docker0"]);
        let mut monitor = filter.monitor();
        let mut reconciler = Reconciler::new(filter.driver(), ());
        assert!(reconciler.driver().has_changed());
        assert!(reconciler.round(&want).converged);
        assert!(!reconciler.driver().has_changed());
        assert!(is_heard(&mut monitor));
        assert!(!is_heard(&mut monitor));
        filter.flush();
        assert!(is_heard(&mut monitor));
        assert!(reconciler.driver().has_changed());
        reconciler.invalidate();
        assert!(reconciler.round(&want).converged);
        assert_eq!(Firewall::plan(&filter.state(), &want).ops, []);
    }

    #[test]
    fn whatever_fails_by_chance_a_later_round_puts_the_rules_in_place() {
        for seed in 0..50 {
            let filter = SimPacketFilter::default();
            let want = wanted(&policy(true), &[2, 3], &["docker0"]);
            let mut reconciler = Reconciler::new(filter.driver(), ());
            filter.fail_by_chance(FaultRates { ops: 300, reads: 200 }, seed);
            let _ = reconciler.round(&want);
            filter.faults().crash_after(1);
            let _ = reconciler.round(&wanted(&policy(true), &[4], &[]));
            filter.fail_by_chance(FaultRates::default(), seed);
            assert!(Reconciler::new(filter.driver(), ()).round(&want).converged, "seed {seed}");
            assert_eq!(Firewall::plan(&filter.state(), &want).ops, [], "seed {seed}");
        }
    }

    #[test]
    fn a_host_without_nftables_refuses_our_table() {
        let filter = SimPacketFilter::default();
        filter.edit_facts(|facts| facts.support.nftables = Nftables::Absent);
        let want = wanted(&policy(false), &[2], &[]);
        let driver = filter.driver();
        assert!(want.table.as_ref().is_some_and(|table| !driver.accepts(table)));
        assert!(!Reconciler::new(driver, ()).round(&want).converged);
    }
}

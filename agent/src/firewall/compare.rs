//! Comparing before the first round, when no attempt to write our table has shown yet what this host supports.

use std::{collections::BTreeSet, sync::Arc};

use tokio::time::Instant;
use wire_firewall::{HostFacts, Nftables, Support};
use wire_state::{Comparison, DataplaneError, DesiredFirewall, DesiredTable, ObservedTable};

use super::{Filtered, FirewallLoop, leases::Rules};
use crate::ports::{FirewallPort, Ports};

impl<P: Ports> FirewallLoop<P> {
    /// The comparison with as much of our rules as this host supports.
    pub(super) fn compare_supported(
        &mut self,
        shares: &Filtered,
        facts: &HostFacts,
    ) -> Result<Comparison, DataplaneError> {
        let desired = |support| Rules::default().desired(shares, &HostFacts { support, ..facts.clone() }).0;
        if self.joins.is_some() {
            return self.reconciler.compare(&desired(self.probe.support(Instant::now())));
        }
        let whole = self.reconciler.compare(&desired(Support::default()))?;
        if whole.differences.is_empty() {
            return Ok(whole);
        }
        let support = self.presumed_support(&desired);
        self.reconciler.compare(&desired(support))
    }

    /// What this host supports of our table: what an earlier run of the agent could write. If there is no table, nft is asked, which does not
    /// say whether it would write the check of inner sources as it was given.
    fn presumed_support(&mut self, desired: &impl Fn(Support) -> Arc<DesiredFirewall>) -> Support {
        let cached = self.reconciler.cached();
        let (observed, has_bridges) =
            cached.map_or((None, false), |observed| (observed.table.clone(), observed.bridge.is_some()));
        let driver = self.reconciler.driver();
        let is_accepted =
            |support: &Support| desired(*support).table.as_ref().is_none_or(|table| driver.accepts(table));
        let bridges =
            has_bridges || desired(Support::default()).bridge.as_ref().is_none_or(|table| driver.accepts(table));
        let parts = [Nftables::Whole, Nftables::Simple].into_iter();
        let Some(observed) = observed else {
            let mut all =
                parts.flat_map(|nftables| [true, false].map(|flowtables| Support { nftables, flowtables, bridges }));
            return all.find(is_accepted).unwrap_or(Support {
                nftables: Nftables::Absent,
                flowtables: false,
                bridges: false,
            });
        };
        let of = |nftables| Support { nftables, bridges, ..Support::default() };
        let likest = parts.map(of).min_by_key(|support| unlike(&observed, desired(*support).table.as_ref()));
        let likest = likest.unwrap_or_default();
        let flowtables = !observed.flowtables.is_empty() || is_accepted(&likest);
        Support { flowtables, ..likest }
    }
}

/// The number of sets that only one of the tables has. Rules may have been deleted, and tell less.
fn unlike(observed: &ObservedTable, desired: Option<&DesiredTable>) -> usize {
    let observed: BTreeSet<&String> = observed.sets.keys().collect();
    let desired: BTreeSet<&String> = desired.map(|table| table.sets.keys().collect()).unwrap_or_default();
    observed.symmetric_difference(&desired).count()
}

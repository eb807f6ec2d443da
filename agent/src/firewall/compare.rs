//! Comparing before the first round, when no attempt to write our table has shown yet what this host supports.

use std::{collections::BTreeSet, time::Instant};

use wire_firewall::{HostFacts, Nftables, Support};
use wire_state::{Comparison, DataplaneError, DesiredTable, ObservedTable};

use super::{FirewallLoop, FirewallShare, desired};
use crate::reconcile_loop::Shares;

impl FirewallLoop {
    /// The comparison with the table that this host supports; of two that it may support, with the one that is there.
    pub(super) fn compare_least(
        &mut self,
        shares: &Shares<FirewallShare>,
        facts: &HostFacts,
    ) -> Result<Comparison, DataplaneError> {
        let mut least: Option<(usize, Comparison)> = None;
        for support in self.supports(shares, facts) {
            let (desired, _) = desired(shares, &HostFacts { support, ..facts.clone() });
            let comparison = self.reconciler.compare(&desired)?;
            let observed = self.reconciler.cached().and_then(|observed| observed.table.as_ref());
            let unlike = unlike(observed, desired.table.as_ref());
            if least.as_ref().is_none_or(|(before, _)| unlike < *before) {
                least = Some((unlike, comparison));
            }
        }
        Ok(least.map(|(_, comparison)| comparison).unwrap_or_default())
    }

    /// What this host may support of our table, the most first. Before the first round nft is asked. It does not say whether it would write the
    /// check of inner sources as it was given: only the table of an earlier run shows that.
    fn supports(&mut self, shares: &Shares<FirewallShare>, facts: &HostFacts) -> Vec<Support> {
        if self.has_compared {
            return vec![self.probe.support(Instant::now())];
        }
        let driver = self.reconciler.driver();
        let is_accepted = |support: &Support| {
            let (desired, _) = desired(shares, &HostFacts { support: *support, ..facts.clone() });
            desired.table.is_none_or(|table| driver.accepts(&table))
        };
        let parts = [Nftables::Whole, Nftables::Simple];
        let mut all =
            parts.into_iter().flat_map(|nftables| [true, false].map(|flowtables| Support { nftables, flowtables }));
        match all.find(is_accepted) {
            Some(whole @ Support { nftables: Nftables::Whole, .. }) => {
                vec![whole, Support { nftables: Nftables::Simple, ..whole }]
            }
            Some(less) => vec![less],
            None => vec![Support { nftables: Nftables::Absent, flowtables: false }],
        }
    }
}

/// The number of sets that only one of the tables has: rules may have been deleted, and tell less. 0 if there is no table of ours.
fn unlike(observed: Option<&ObservedTable>, desired: Option<&DesiredTable>) -> usize {
    let Some(observed) = observed else { return 0 };
    let observed: BTreeSet<&String> = observed.sets.keys().collect();
    let desired: BTreeSet<&String> = desired.map(|table| table.sets.keys().collect()).unwrap_or_default();
    observed.symmetric_difference(&desired).count()
}

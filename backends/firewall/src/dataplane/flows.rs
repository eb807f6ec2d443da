//! Our flowtable in the kernel, and the fallback for kernels that refuse it.

use std::{collections::BTreeMap, time::Instant};

use wire_state::{DesiredTable, ErrorKind, Flowtable, OpError};

use super::{FirewallDataplane, RETRY_PAUSE};
use crate::{HostFacts, netfilter::Netfilter};

#[derive(Default)]
pub(super) struct Flows {
    /// The flowtables of our table, from the last read.
    pub(super) read: BTreeMap<String, Flowtable>,
    /// Why our table could not be written with a flowtable, and since when.
    error: Option<(Instant, OpError)>,
}

impl Flows {
    /// Records the outcome of writing the table. True if it failed and may succeed without a flowtable.
    pub(super) fn have_failed(&mut self, table: &DesiredTable, error: Option<&OpError>) -> bool {
        // Without nft, the table fails with and without a flowtable.
        if table.flowtables.is_empty() || error.is_some_and(|error| error.kind == ErrorKind::NoProgram) {
            return false;
        }
        self.error = error.map(|error| (Instant::now(), error.again()));
        self.error.is_some()
    }
}

impl FirewallDataplane {
    /// False for a minute after the kernel has refused a flowtable.
    #[must_use]
    pub fn tries_flowtables(&self) -> bool {
        self.flows.error.as_ref().is_none_or(|(since, _)| since.elapsed() > RETRY_PAUSE)
    }

    /// The reason why the kernel holds no flowtable of ours.
    #[must_use]
    pub fn flowtable_error(&self) -> Option<&OpError> {
        self.flows.error.as_ref().map(|(_, error)| error)
    }

    /// True if `facts` promise more than the last write achieved: another round asks for less.
    #[must_use]
    pub fn holds_less(&self, facts: &HostFacts) -> bool {
        self.nftables < facts.nftables || (!facts.hookable.is_empty() && self.flows.error.is_some())
    }

    /// Compares the flowtables with the last read: when a link is deleted, the kernel removes it from a flowtable
    /// without a new generation of the ruleset.
    pub(super) fn have_flowtables_changed(&mut self) -> bool {
        if self.flows.read.is_empty() {
            return false;
        }
        let now = self.netfilter().and_then(Netfilter::flowtables);
        now.ok().as_ref() != Some(&self.flows.read)
    }
}

//! Our flowtable in the kernel, and kernels without any.

use std::{collections::BTreeMap, time::Instant};

use wire_state::{ErrorKind, Flowtable, OpError, Table};

use super::{FirewallDataplane, RETRY_PAUSE};
use crate::{HostFacts, netfilter::Netfilter};

#[derive(Default)]
pub(super) struct Flows {
    /// Those of our table as they were read last.
    pub(super) read: BTreeMap<String, Flowtable>,
    /// Why our table could not be put with one, and since when.
    error: Option<(Instant, OpError)>,
}

impl Flows {
    /// Notes the outcome of a put; true where it failed and may succeed without a flowtable.
    pub(super) fn have_failed(&mut self, table: &Table, error: Option<&OpError>) -> bool {
        // Where there is no nft, the whole table is what is missed.
        if table.flowtables.is_empty() || error.is_some_and(|error| error.kind == ErrorKind::NoProgram) {
            return false;
        }
        self.error = error.map(|error| (Instant::now(), error.again()));
        self.error.is_some()
    }
}

impl FirewallDataplane {
    /// Whether a flowtable is tried: not for a minute after the kernel has refused one.
    #[must_use]
    pub fn tries_flowtables(&self) -> bool {
        self.flows.error.as_ref().is_none_or(|(since, _)| since.elapsed() > RETRY_PAUSE)
    }

    /// Why the kernel holds no flowtable of ours.
    #[must_use]
    pub fn flowtable_error(&self) -> Option<&OpError> {
        self.flows.error.as_ref().map(|(_, error)| error)
    }

    /// True where these host_facts promise more than the last put could do: another round asks for less.
    #[must_use]
    pub fn holds_less(&self, facts: &HostFacts) -> bool {
        self.nftables < facts.nftables || (!facts.hookable.is_empty() && self.flows.error.is_some())
    }

    /// The kernel takes a link that goes out of a flowtable without a new generation of the ruleset.
    pub(super) fn have_flowtables_changed(&mut self) -> bool {
        if self.flows.read.is_empty() {
            return false;
        }
        let now = self.netfilter().and_then(Netfilter::flowtables);
        now.ok().as_ref() != Some(&self.flows.read)
    }
}

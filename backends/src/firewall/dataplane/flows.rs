//! Our flowtable in the kernel, and kernels without any.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use wire_net::{DualStack, LinkName};
use wire_state::{ErrorKind, Flowtable, OpError, Table};

use super::{ANOTHER_TRY, FirewallDataplane};
use crate::{OverlayDevice, Surroundings, dataplane::link_by, firewall::netfilter::Netfilter};

#[derive(Default)]
pub(super) struct Flows {
    /// Those of our table as they were read last.
    pub(super) read: BTreeMap<String, Flowtable>,
    /// Why our table could not be put with one, and since when.
    lack: Option<(Instant, OpError)>,
}

impl Flows {
    /// Notes the outcome of a put; true where it failed and may succeed without a flowtable.
    pub(super) fn have_failed(&mut self, table: &Table, error: Option<&OpError>) -> bool {
        // Where there is no nft, the whole table is what is missed.
        if table.flowtables.is_empty() || error.is_some_and(|error| error.kind == ErrorKind::NoProgram) {
            return false;
        }
        self.lack = error.map(|error| (Instant::now(), error.again()));
        self.lack.is_some()
    }
}

impl FirewallDataplane {
    /// Of these links those that a flowtable can be hooked to: the ones that are there. None for a minute after the kernel has refused.
    pub fn hookable(&mut self, devices: &DualStack<OverlayDevice>, bridges: &BTreeSet<LinkName>) -> BTreeSet<LinkName> {
        if self.flows.lack.as_ref().is_some_and(|(since, _)| since.elapsed() <= ANOTHER_TRY) {
            return BTreeSet::new();
        }
        let links = devices.iter().map(|(_, device)| device.link);
        let there = links.filter(|link| matches!(link_by(&mut self.netlink, Some(*link), 0), Ok(Some(_))));
        there.chain(bridges.iter().copied()).collect()
    }

    /// Why the kernel holds no flowtable of ours.
    #[must_use]
    pub fn lack_of_flowtables(&self) -> Option<&OpError> {
        self.flows.lack.as_ref().map(|(_, error)| error)
    }

    /// True where these surroundings promise more than the last put could do: another round asks for less.
    #[must_use]
    pub fn holds_less(&self, around: &Surroundings) -> bool {
        self.nftables < around.nftables || (!around.hookable.is_empty() && self.flows.lack.is_some())
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

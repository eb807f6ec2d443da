//! Hold-down: when all leases vanish at once, no host forgets a peer that goes on to live.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use wire_net::Prefix;
use wire_state::{KernelOp, Op};

use crate::world::{Broken, World};

/// The time for which leases that vanish together are held, and no margin.
const HELD_FOR: Duration = Duration::from_secs(29);

/// The routes that an agent has removed, with the times.
#[derive(Clone, Debug, Default)]
pub(crate) struct Removals(Arc<Mutex<Vec<Removal>>>);

#[derive(Clone, Copy, Debug)]
struct Removal {
    at: Instant,
    subnet: Prefix,
}

/// The hosts that were well when all leases vanished.
#[derive(Debug)]
pub(crate) struct Held {
    since: Instant,
    hosts: Vec<usize>,
}

impl Removals {
    /// Notes the routes that a batch of operations removes.
    pub(crate) fn note(&self, ops: &[Op]) {
        let removed = ops.iter().filter_map(removed_route);
        let at = Instant::now();
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(removed.map(|subnet| Removal { at, subnet }));
    }

    /// The first of these subnets to which a route was removed in that time.
    fn first(&self, subnets: &BTreeSet<Prefix>, from: Instant, until: Instant) -> Option<Prefix> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let in_time = |removal: &&Removal| from <= removal.at && removal.at < until;
        all.iter().filter(in_time).map(|removal| removal.subnet).find(|subnet| subnets.contains(subnet))
    }
}

const fn removed_route(op: &Op) -> Option<Prefix> {
    match op {
        Op::Kernel(_, KernelOp::DeleteRoute(key, _)) => Some(key.destination),
        Op::Kernel(..) | Op::Tunnel(_) => None,
    }
}

impl World {
    /// All leases vanish now: notes the hosts that must stay known to each other.
    pub(crate) fn expect_held(&mut self) {
        let now = Instant::now();
        let is_well = |index: &usize| {
            let host = &self.hosts[*index];
            host.is_ready() && host.disturbed_until <= now && !host.has_lost_its_lease()
        };
        if !self.may_be_wrong() {
            let hosts = (0..self.hosts.len()).filter(is_well).collect();
            self.held = Some(Held { since: now, hosts });
        }
    }

    /// No host that was well has removed a route to another while the leases that had vanished were to be held.
    ///
    /// # Errors
    /// Names the host and the subnet.
    pub(crate) fn check_held(&self) -> Result<(), Broken> {
        let Some(Held { since, hosts }) = &self.held else { return Ok(()) };
        let is_still_well = |index: &&usize| self.hosts[**index].disturbed_until <= *since;
        let well: Vec<usize> = hosts.iter().filter(is_still_well).copied().collect();
        let subnets: BTreeSet<Prefix> = well.iter().filter_map(|index| self.hosts[*index].subnet()).collect();
        for index in well {
            let host = &self.hosts[index];
            if let Some(subnet) = host.parts.removals.first(&subnets, *since, *since + HELD_FOR) {
                let number = host.number;
                return Err(Broken(format!(
                    "host {number} has not held the route to {subnet} when all leases vanished"
                )));
            }
        }
        Ok(())
    }
}

//! Gives back leases that this agent had before with another subnet, and that nobody uses any more.

use std::sync::Arc;

use tracing::{debug, info};
use wire_net::{MacAddr, chain};
use wire_store::LeaseStore;

use super::{Holder, claim::ClaimError};
use crate::{BackendData, Entries, Entry, Lease};

/// The largest number of leases to check.
const AT_MOST: usize = 4;

/// The other leases with our address or MAC.
pub(super) fn former_leases(own: &Entry, listing: &Entries) -> Vec<Arc<Entry>> {
    let former = listing.leases().filter(|entry| {
        entry.lease.subnet != own.lease.subnet
            && entry.origin.lease.is_some_and(|lease| own.origin.lease != Some(lease))
            && seems_to_be_of_one_host(&entry.lease, &own.lease)
    });
    former.take(AT_MOST).cloned().collect()
}

impl<S: LeaseStore> Holder<S> {
    /// Gives back the leases whose guards name this agent and whose owner does not answer. Without this, all hosts
    /// would refuse them until they expire a day later.
    pub(super) async fn give_back_former(&self, former: Vec<Arc<Entry>>) {
        for entry in former {
            let subnet = entry.lease.subnet;
            match self.give_back_one(&entry).await {
                Ok(true) => info!(%subnet, "a lease that this host had before is given back"),
                Ok(false) => debug!(%subnet, "a lease with this host's address or MAC is another agent's"),
                Err(ClaimError::Store(error)) => {
                    debug!(%subnet, error = %chain(&error), "a former lease is left to expire");
                }
                Err(obstacle) => debug!(%subnet, ?obstacle, "a former lease is left to its owner"),
            }
        }
    }

    async fn give_back_one(&self, entry: &Entry) -> Result<bool, ClaimError> {
        let Some(lease) = entry.origin.lease else { return Ok(false) };
        let guards = self.guards(entry.lease.subnet).await?;
        if !guards.iter().all(|guard| guard.is_ours(&self.settings.identity, lease)) {
            return Ok(false);
        }
        // If the guard's owner is a clone with the same identity, it answers.
        self.challenge(entry, self.settings.identity.as_bytes(), false).await?;
        self.store.revoke(lease).await?;
        Ok(true)
    }
}

fn seems_to_be_of_one_host(one: &Lease, other: &Lease) -> bool {
    let first = |lease: &Lease| lease.public.iter().next().map(|(_, address)| *address);
    first(one) == first(other) || macs(one).any(|mac| macs(other).any(|other| other == mac))
}

fn macs(lease: &Lease) -> impl Iterator<Item = MacAddr> {
    let vteps = match &lease.data {
        BackendData::Vxlan(vteps) => *vteps,
        BackendData::Untyped | BackendData::HostGw | BackendData::Ipip | BackendData::Other(_) => {
            wire_net::DualStack::default()
        }
    };
    [vteps.v4, vteps.v6].into_iter().flatten().map(|vtep| vtep.mac)
}

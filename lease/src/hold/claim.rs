//! The writes of our lease: create it, adopt an existing one, and undo a write that turned out to overlap.

use std::{sync::Arc, time::Duration};

use futures::future::try_join_all;
use tokio::time::Instant;
use tracing::{debug, info};
use wire_net::{DualStack, Subnet};
use wire_store::{Compare, LeaseId, LeaseStore, Revision, StoreError, Txn, Write};

use super::{
    ASKING, HoldState, Holder, Holding, Life, Offer,
    lease_write::{Guard, LeaseWrite, RecordWrite},
};
use crate::{
    Entries, Entry, Lease, Origin,
    entries::matching,
    own::{NoRoom, addresses, collides, offered, oldest, shares_address},
};

/// The time that another agent has to answer whether it is alive.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why an attempt gave no lease.
#[derive(Debug)]
pub(super) enum ClaimError {
    Store(StoreError),
    /// Something changed at the same time, as described: try again.
    Raced(String),
    Full(NoRoom, Arc<Entries>),
    /// Another host has the subnet.
    Taken(String),
    /// Another agent is alive and has a lease with our public address.
    OtherAgent(String),
}

impl From<StoreError> for ClaimError {
    fn from(error: StoreError) -> Self {
        if matches!(error, StoreError::LeaseGone(_)) { Self::Raced(error.to_string()) } else { Self::Store(error) }
    }
}

impl ClaimError {
    /// The key of `subnet` belongs to another host.
    pub(super) fn taken(subnet: Subnet, listing: &Entries) -> Self {
        Self::Taken(match listing.get(subnet).and_then(|found| found.content.as_ref().ok()) {
            Some(other) => format!("{subnet} is leased by the host {}", addresses(&other.lease)),
            None => format!("{} holds something that is not a lease: delete it", listing.shown_key(subnet)),
        })
    }

    /// Two agents write this key at the same time, or another program does.
    fn changed(key: &[u8]) -> Self {
        Self::Raced(format!("{} or its guard key is being changed by another program", shown(key)))
    }

    fn older(subnet: Subnet, older: Subnet) -> Self {
        Self::Raced(format!("{subnet} overlaps the older lease {older}"))
    }
}

impl<S: LeaseStore> Holder<S> {
    /// Creates a lease of `subnet`, which was free at the revision `listed`.
    pub(super) async fn claim(
        &mut self,
        subnet: Subnet,
        listed: Revision,
        offer: &Offer,
    ) -> Result<Holding, ClaimError> {
        let is_old = self.spare.is_some();
        let (lease, guards) = tokio::join!(self.spare_or_new(), self.guards(subnet));
        let lease = lease?;
        // Stored before anything else can fail, or each attempt would leave an unused lease behind.
        self.spare = Some(lease);
        let guards = guards?;
        let to = Lease::new(subnet, offer.public, offer.data.clone());
        let granted = Instant::now();
        let entry = self
            .write(
                &LeaseWrite { to, lease: Some(lease), from: None, guards, record: RecordWrite::of(&offer.record) },
                listed,
            )
            .await?;
        self.verify(&entry, None).await?;
        self.spare = None;
        let mut life = self.life(self.settings.ttl, granted + self.settings.ttl);
        if is_old {
            // Granted some time ago: renew it first.
            life.renew_at = granted;
        }
        Ok(Holding { entry: Arc::new(entry), life: Some(life) })
    }

    async fn spare_or_new(&self) -> Result<LeaseId, StoreError> {
        match self.spare {
            Some(lease) => Ok(lease),
            None => self.store.grant(self.settings.ttl).await,
        }
    }

    /// Adopts the entry that is already ours, and writes only if something differs.
    pub(super) async fn adopt(
        &mut self,
        mut own: Entry,
        listing: &Arc<Entries>,
        offer: &Offer,
    ) -> Result<Holding, ClaimError> {
        let Some(lease) = own.origin.lease else { return self.adopt_reservation(own, listing, offer).await };
        self.yield_to_older(&own, listing).await?;
        let subnet = self.target(&own, listing)?;
        let (life, guards, recorded) =
            tokio::try_join!(self.store.time_to_live(lease), self.guards(subnet), self.is_recorded(&own, offer))?;
        let asked = Instant::now();
        let Some((left, granted)) = life else { return Err(StoreError::LeaseGone(lease).into()) };
        if let Some(other) = self.other_owner(&guards, lease) {
            own.origin.mod_revision = self.challenge(&own, other, left < granted / 2).await?;
        }
        let wanted = Lease::new(subnet, offer.public, offer.data.clone());
        let guarded = guards.iter().all(|guard| guard.is_ours(&self.settings.identity, lease));
        // A lease written without its guards may be the question whether we are alive; writing it answers that.
        let asked_for = guards.iter().any(|guard| guard.revision() != Some(own.origin.mod_revision));
        if wanted == own.lease && recorded && guarded && !asked_for && !differs(granted, self.settings.ttl) {
            // Due for renewal at once, but usable before that: it has not expired.
            let life = Life { renew_at: asked, ..self.life(granted, asked + left) };
            return Ok(Holding { entry: Arc::new(own), life: Some(life) });
        }
        let anew = differs(granted, self.settings.ttl);
        let (attached, ttl, left) = if anew {
            let attached = self.spare_or_new().await?;
            self.spare = Some(attached);
            (attached, self.settings.ttl, self.settings.ttl)
        } else {
            (lease, granted, left)
        };
        let moved = subnet != own.lease.subnet;
        let write = LeaseWrite {
            to: wanted,
            lease: Some(attached),
            from: Some(own),
            guards,
            record: RecordWrite::of(&offer.record),
        };
        let entry = self.write(&write, listing.revision()).await?;
        if moved {
            self.verify(&entry, write.from.as_ref()).await?;
        }
        if anew {
            self.spare = None;
        }
        if anew && guarded {
            // The old lease of the store was granted to us for this key alone.
            if let Err(error) = self.store.revoke(lease).await {
                debug!(%lease, %error, "the old lease is left to expire");
            }
        }
        Ok(Holding { entry: Arc::new(entry), life: Some(Life { renew_at: asked, ..self.life(ttl, asked + left) }) })
    }

    /// Adopts a reservation. It stays one: it is never attached to a lease of the store, and needs no guard.
    async fn adopt_reservation(
        &mut self,
        own: Entry,
        listing: &Arc<Entries>,
        offer: &Offer,
    ) -> Result<Holding, ClaimError> {
        let subnet = self.target(&own, listing)?;
        let wanted = Lease::new(subnet, offer.public, offer.data.clone());
        if wanted == own.lease && self.is_recorded(&own, offer).await? {
            return Ok(Holding { entry: Arc::new(own), life: None });
        }
        let moved = subnet != own.lease.subnet;
        let write = LeaseWrite {
            to: wanted,
            lease: None,
            from: Some(own),
            guards: Vec::new(),
            record: RecordWrite::of(&offer.record),
        };
        let entry = self.write(&write, listing.revision()).await?;
        if moved {
            self.verify(&entry, write.from.as_ref()).await?;
        }
        Ok(Holding { entry: Arc::new(entry), life: None })
    }

    /// True if the record that is offered stands beside our lease, and expires with it; or if neither is there.
    pub(super) async fn is_recorded(&self, own: &Entry, offer: &Offer) -> Result<bool, StoreError> {
        let found = self.store.get(&self.settings.prefix.record(own.lease.subnet)).await?.found;
        Ok(match (found, &offer.record) {
            (Some(kv), Some(record)) => kv.lease == own.origin.lease && kv.value == record.to_value(),
            (Some(_), None) | (None, Some(_)) => false,
            (None, None) => true,
        })
    }

    /// The subnet that our entry should have: the prefixes that the config still offers, and new ones for the missing
    /// families.
    fn target(&self, own: &Entry, listing: &Arc<Entries>) -> Result<Subnet, ClaimError> {
        let kept: DualStack<_> = offered(own.lease.subnet, &self.settings.pools);
        let subnet = self.choice(kept).subnet(listing);
        let subnet = subnet.map_err(|no_room| ClaimError::Full(no_room, Arc::clone(listing)))?;
        if subnet != own.lease.subnet && listing.get(subnet).is_some() {
            return Err(ClaimError::taken(subnet, listing));
        }
        Ok(subnet)
    }

    /// Removes our lease if it overlaps an older one.
    async fn yield_to_older(&self, own: &Entry, listing: &Entries) -> Result<(), ClaimError> {
        let subnet = own.lease.subnet;
        match self.overlapping(listing, subnet) {
            Some(other) if other.origin.create_revision < own.origin.create_revision => {
                let older = other.lease.subnet;
                info!(%subnet, %older, "this host's lease overlaps an older one and is given up");
                self.undo(own, None).await?;
                Err(ClaimError::older(subnet, older))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Asks the agent named in the guards of a lease with our address whether it is alive: writes its lease unchanged,
    /// and an agent that is alive writes it again ([`Holder::keep`]). Returns the revision at which the lease is ours
    /// to take. If the lease is `neglected`, the agent is not asked: a live owner always has at least two thirds of the
    /// time to live left.
    pub(super) async fn challenge(&self, own: &Entry, other: &[u8], neglected: bool) -> Result<Revision, ClaimError> {
        let key = self.settings.prefix.lease(own.lease.subnet);
        let shown = shown(&key);
        if neglected {
            info!(key = shown, "taking over a lease with our public address that its owner no longer renews");
            return Ok(own.origin.mod_revision);
        }
        // Later attempts have a more exact reason.
        if matches!(&*self.state_out.borrow(), HoldState::Acquiring { reason } if reason == ASKING) {
            let reason = format!("checking whether another host has {}, as {shown} says", addresses(&own.lease));
            self.set_state(HoldState::Acquiring { reason });
        }
        let put = Write::Put { key: key.clone(), value: own.lease.to_value(), lease: own.origin.lease };
        let when = vec![Compare::Unchanged(key.clone(), own.origin.mod_revision)];
        let touched = self.store.commit(Txn { when, then: vec![put] }).await?;
        if !touched.succeeded {
            return Err(ClaimError::changed(&key));
        }
        let asked = Instant::now();
        while asked.elapsed() < ANSWER_TIMEOUT {
            tokio::time::sleep(ANSWER_TIMEOUT / 10).await;
            let found = self.store.get(&key).await?.found;
            let Some(kv) = found else { return Err(ClaimError::changed(&key)) };
            if kv.mod_revision != touched.revision {
                let other = other.escape_ascii();
                return Err(ClaimError::OtherAgent(format!(
                    "another agent, with the identity {other}, holds {shown} with this host's public address and \
                     lives: stop it, or give this host another address"
                )));
            }
        }
        info!(key = shown, "taking over a lease with our public address whose owner does not answer");
        Ok(touched.revision)
    }

    /// Checks that our lease may have the public address offered now: no other live host has it. Deletes the lease of a
    /// host that does not answer, or this host would find two leases of its own at its next start.
    pub(super) async fn is_free(&self, own: &Lease) -> Result<(), ClaimError> {
        let public = self.offer.borrow().public;
        let pools = &self.settings.pools;
        let has_it = |other: &Lease| other.subnet != own.subnet && shares_address(pools, &other.public, &public);
        for other in matching(&self.store, &self.directory, has_it).await? {
            let Some(lease) = other.origin.lease else { continue };
            let (life, guards) = tokio::try_join!(self.store.time_to_live(lease), self.guards(other.lease.subnet))?;
            let Some(holder) = self.other_owner(&guards, lease) else { continue };
            let neglected = life.is_none_or(|(left, granted)| left < granted / 2);
            let revision = self.challenge(&other, holder, neglected).await?;
            let key = self.settings.prefix.lease(other.lease.subnet);
            let when = vec![Compare::Unchanged(key.clone(), revision)];
            self.store.commit(Txn { when, then: vec![Write::Delete(key)] }).await?;
        }
        Ok(())
    }

    /// The identity in the guards attached to this lease of the store, if it is not ours.
    fn other_owner<'a>(&self, guards: &'a [Guard], lease: LeaseId) -> Option<&'a [u8]> {
        guards.iter().filter_map(|guard| guard.of(lease)).find(|holder| *holder != self.settings.identity.as_bytes())
    }

    pub(super) async fn guards(&self, subnet: Subnet) -> Result<Vec<Guard>, StoreError> {
        try_join_all(subnet.prefixes().map(|prefix| async move {
            let key = self.settings.prefix.guard(prefix);
            let found = self.store.get(&key).await?.found;
            Ok(Guard { key, found })
        }))
        .await
    }

    /// Makes the write if nothing has changed since the revision `listed`.
    pub(super) async fn write(&mut self, write: &LeaseWrite, listed: Revision) -> Result<Entry, ClaimError> {
        // The writer of a guard that is newer than the listing may have a lease that the listing does not show.
        let newer = |guard: &Guard| guard.found.as_ref().is_some_and(|kv| kv.mod_revision > listed);
        let key = self.settings.prefix.lease(write.to.subnet);
        if write.guards.iter().any(newer) {
            return Err(ClaimError::changed(&key));
        }
        let committed = match self.store.commit(write.txn(&self.settings.prefix, &self.settings.identity)).await {
            Err(StoreError::LeaseGone(lease)) => {
                debug!(%lease, "the store's lease is gone; the next attempt gets another");
                self.spare = None;
                return Err(StoreError::LeaseGone(lease).into());
            }
            committed => committed?,
        };
        if !committed.succeeded {
            return Err(ClaimError::changed(&key));
        }
        let same_key = |from: &&Entry| from.lease.subnet == write.to.subnet;
        let created = write.from.as_ref().filter(same_key).map(|from| from.origin.create_revision);
        let origin = Origin {
            create_revision: created.unwrap_or(committed.revision),
            mod_revision: committed.revision,
            lease: write.lease,
        };
        Ok(Entry { lease: write.to.clone(), origin })
    }

    /// Lists again and, if our new lease overlaps an older one, undoes the write.
    async fn verify(&self, entry: &Entry, from: Option<&Entry>) -> Result<(), ClaimError> {
        let subnet = entry.lease.subnet;
        let overlaps = |other: &Lease| collides(other.subnet, subnet, &self.settings.pools);
        let overlapping = matching(&self.store, &self.directory, overlaps).await?;
        match oldest(overlapping.iter()) {
            Some(other) if other.origin.create_revision < entry.origin.create_revision => {
                let older = other.lease.subnet;
                info!(%subnet, %older, "lost the race for a subnet");
                self.undo(entry, from).await?;
                Err(ClaimError::older(subnet, older))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Deletes our lease and restores the entry that it replaced.
    async fn undo(&self, entry: &Entry, from: Option<&Entry>) -> Result<(), StoreError> {
        let key = self.settings.prefix.lease(entry.lease.subnet);
        let mut txn = Txn::default();
        txn.when.push(Compare::Unchanged(key.clone(), entry.origin.mod_revision));
        txn.then.push(Write::Delete(key));
        txn.then.push(Write::Delete(self.settings.prefix.record(entry.lease.subnet)));
        if let Some(from) = from {
            let (key, lease) = (self.settings.prefix.lease(from.lease.subnet), entry.origin.lease);
            txn.when.push(Compare::Absent(key.clone()));
            txn.then.push(Write::Put { key, value: from.lease.to_value(), lease });
        }
        self.store.commit(txn).await.map(|_| ())
    }

    /// Computes the time of renewal: after a third of the time to live, or earlier if the margin requires it.
    pub(super) fn life(&self, ttl: Duration, expires: Instant) -> Life {
        let third = ttl / 3;
        let by_margin = ttl.checked_sub(self.settings.renew_margin).filter(|left| !left.is_zero()).unwrap_or(third);
        let every = third.min(by_margin).max(Duration::from_secs(1));
        Life { expires, renew_at: Instant::now() + self.settings.random.shortened(every, 0.1) }
    }
}

fn shown(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// Whether the granted time to live differs from the configured one. The store may round up.
fn differs(granted: Duration, ttl: Duration) -> bool {
    granted.abs_diff(ttl) > (ttl / 10).max(Duration::from_secs(2))
}

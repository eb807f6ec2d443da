//! Acquires a lease: the first one, or the one that was lost.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::StreamExt;
use tracing::{error, info, warn};
use wire_net::{Prefix, Subnet, chain};
use wire_store::{Backoff, Event, LeaseStore, Random, Revision, StoreError, WatchStream};

use super::{HoldState, Holder, Holding, Offer, claim::ClaimError, former::former_leases};
use crate::{
    Entries, Entry, Lease,
    own::{Choice, NoRoom, collides, offered, oldest, own_entry_without},
};

/// After an error of etcd: short at first.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
/// After many lost races in a row: then it is not a race any more.
const RACES: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
/// From this many lost races on, the reason is reported.
const MANY_RACES: u32 = 3;
/// The pause while the range is full, if no lease is seen to be released.
const FULL_AGAIN: Duration = Duration::from_secs(30);
/// The pause before asking again for a subnet that another host has.
const TAKEN_AGAIN: Duration = Duration::from_secs(3);
/// The pause before asking again whether another agent with our address is alive: this costs both a write.
pub(super) const OTHER_AGENT_AGAIN: Duration = Duration::from_secs(30);
/// The number of leases whose expiry is asked, to report when the range has room again.
const ENDS_ASKED: usize = 32;

impl<S: LeaseStore> Holder<S> {
    /// Tries until there is a lease.
    pub(super) async fn acquire(&mut self, mut listing: Option<Arc<Entries>>) -> Holding {
        let (mut pauses, mut races) = (PAUSES, Races::default());
        loop {
            let obstacle = match self.acquire_once(listing.take()).await {
                Ok((holding, listing)) => {
                    info!(subnet = %holding.entry.lease.subnet, "lease acquired");
                    if holding.entry.origin.mod_revision > listing.revision() {
                        self.announcing.acquired();
                    }
                    let former = former_leases(&holding.entry, &listing);
                    // Whoever waits for our lease then has the listing to itself.
                    drop(listing);
                    self.set_held(&holding, None);
                    self.give_back_former(former).await;
                    return holding;
                }
                Err(obstacle) => obstacle,
            };
            if !matches!(obstacle, ClaimError::Raced(_)) {
                races = Races::default();
            }
            match obstacle {
                ClaimError::Raced(reason) => {
                    pauses.reset();
                    // The next attempt starts its search at another place.
                    self.attempt = self.attempt.wrapping_add(1);
                    let pause = races.lost(&self.settings.random);
                    if races.are_many() {
                        self.report_waiting(reason);
                    }
                    tokio::time::sleep(pause).await;
                }
                ClaimError::Full(no_room, listing) => self.wait_for_room(&no_room, &listing).await,
                ClaimError::Taken(reason) => {
                    self.report_waiting(reason);
                    tokio::time::sleep(self.settings.random.shortened(TAKEN_AGAIN, 0.5)).await;
                }
                ClaimError::OtherAgent(reason) => {
                    self.report_waiting(reason);
                    tokio::time::sleep(self.settings.random.shortened(OTHER_AGENT_AGAIN, 0.5)).await;
                }
                ClaimError::Store(error) => {
                    self.report_waiting(chain(&error));
                    tokio::time::sleep(pauses.pause(&self.settings.random)).await;
                }
            }
        }
    }

    /// Makes one attempt. Also returns the listing it was based on.
    async fn acquire_once(&mut self, listing: Option<Arc<Entries>>) -> Result<(Holding, Arc<Entries>), ClaimError> {
        let listing = match listing {
            Some(listing) => listing,
            None => self.list().await?,
        };
        let offer = self.offer.borrow_and_update().clone();
        let own = match own_entry_without(&self.settings.endpoints, &listing, &offer.public, &self.settings.pools) {
            Some(own) => Some(own),
            None => self.held_last(&listing).await?,
        };
        if let Some(own) = own {
            let holding = self.adopt(own, &listing, &offer).await?;
            return Ok((holding, listing));
        }
        let subnet = self.choice(wire_net::DualStack::default()).subnet(&listing);
        match subnet {
            Ok(subnet) => Ok((self.claim(subnet, listing.revision(), &offer).await?, listing)),
            Err(no_room) => Err(ClaimError::Full(no_room, listing)),
        }
    }

    async fn list(&self) -> Result<Arc<Entries>, StoreError> {
        Entries::list(&self.store, self.directory.clone()).await.map(Arc::new)
    }

    /// Finds our own lease with another public address: it has the subnet held last, and guards that name us.
    async fn held_last(&self, listing: &Entries) -> Result<Option<Entry>, ClaimError> {
        let Some(subnet) = Subnet::new(self.settings.preferred).filter(|_| self.settings.same_host) else {
            return Ok(None);
        };
        let offers = |prefix: Prefix| self.settings.pools.get(prefix.family()).is_some_and(|pool| pool.offers(prefix));
        let Some(entry) = listing.get(subnet).and_then(|found| found.content.as_deref().ok()) else {
            return Ok(None);
        };
        let Some(lease) = entry.origin.lease.filter(|_| subnet.prefixes().all(offers)) else { return Ok(None) };
        let guards = self.guards(subnet).await?;
        let ours = guards.iter().all(|guard| guard.is_ours(&self.settings.identity, lease));
        Ok(ours.then(|| entry.clone()))
    }

    pub(super) fn choice(&self, kept: wire_net::DualStack<Prefix>) -> Choice<'_> {
        Choice {
            pools: &self.settings.pools,
            kept,
            preferred: self.settings.preferred,
            excluded: &self.settings.excluded,
            last_resort: &self.settings.last_resort,
            identity: &self.settings.identity,
            attempt: self.attempt,
        }
    }

    /// Tries until the lost lease is ours again. Never takes another subnet, because traffic uses this one.
    pub(super) async fn take_back(&mut self, lost: &Holding, why: String) -> Holding {
        warn!(subnet = %lost.entry.lease.subnet, reason = why, "lease lost; taking it back");
        self.spare = lost.entry.origin.lease;
        let (mut pauses, mut races) = (PAUSES, Races::default());
        let mut alarmed = false;
        loop {
            let (reason, pause) = match self.take_back_once(lost).await {
                Ok(holding) => {
                    info!(subnet = %holding.entry.lease.subnet, "lease taken back");
                    self.announcing.acquired();
                    self.set_held(&holding, None);
                    return holding;
                }
                Err(ClaimError::Raced(reason)) => {
                    let pause = races.lost(&self.settings.random);
                    (races.are_many().then_some(reason), pause)
                }
                Err(ClaimError::Store(error)) => (Some(chain(&error)), pauses.pause(&self.settings.random)),
                Err(ClaimError::Full(no_room, _)) => {
                    (Some(no_room.to_string()), self.settings.random.shortened(TAKEN_AGAIN, 0.5))
                }
                Err(ClaimError::Taken(reason)) => {
                    alarm_once(&mut alarmed, lost, &reason);
                    (Some(reason), self.settings.random.shortened(TAKEN_AGAIN, 0.5))
                }
                // Each question costs the other agent a write.
                Err(ClaimError::OtherAgent(reason)) => {
                    alarm_once(&mut alarmed, lost, &reason);
                    (Some(reason), self.settings.random.shortened(OTHER_AGENT_AGAIN, 0.5))
                }
            };
            if let Some(reason) = reason {
                self.set_state(HoldState::Lost { entry: Arc::clone(&lost.entry), reason });
            }
            tokio::time::sleep(pause).await;
        }
    }

    async fn take_back_once(&mut self, lost: &Holding) -> Result<Holding, ClaimError> {
        let subnet = lost.entry.lease.subnet;
        let listing = self.list().await?;
        let offer = self.offer.borrow_and_update().clone();
        if let Some(found) = listing.get(subnet) {
            let ours =
                |entry: &Entry| is_ours(&entry.lease, &lost.entry.lease, &offer) || is_from_backup(entry, &lost.entry);
            return match &found.content {
                Ok(own) if ours(own) => self.adopt((**own).clone(), &listing, &offer).await,
                Ok(_) | Err(_) => Err(ClaimError::taken(subnet, &listing)),
            };
        }
        if let Some(other) = self.overlapping(&listing, subnet) {
            return Err(ClaimError::taken(other.lease.subnet, &listing));
        }
        debug_assert!(!offered(subnet, &self.settings.pools).is_empty(), "only an offered subnet is ever acquired");
        self.claim(subnet, listing.revision(), &offer).await
    }

    /// The oldest other lease that overlaps `subnet` and can belong to this network.
    pub(super) fn overlapping<'a>(&self, listing: &'a Entries, subnet: Subnet) -> Option<&'a Entry> {
        let leases = listing.leases().map(Arc::as_ref);
        oldest(leases.filter(|entry| collides(entry.lease.subnet, subnet, &self.settings.pools)))
    }

    fn report_waiting(&self, reason: String) {
        let changed = match &*self.state_out.borrow() {
            HoldState::Acquiring { reason: before } => *before != reason,
            HoldState::Held { .. } | HoldState::Lost { .. } => true,
        };
        if changed {
            warn!(reason, "no lease yet");
            self.set_state(HoldState::Acquiring { reason });
        }
    }

    /// Waits until a lease is released, or at most [`FULL_AGAIN`].
    async fn wait_for_room(&self, no_room: &NoRoom, listing: &Entries) {
        let reason = match self.first_expiry(listing).await {
            Some(end) => format!("{no_room}; one of them ends in at most {} s", end.as_secs()),
            None => no_room.to_string(),
        };
        self.report_waiting(reason);
        let released = self.released(Revision(listing.revision().0 + 1));
        let _timed_out = tokio::time::timeout(self.settings.random.shortened(FULL_AGAIN, 0.5), released).await;
        // All hosts that wait wake at the same time: spread them.
        tokio::time::sleep(self.settings.random.shortened(Duration::from_millis(20), 1.0)).await;
    }

    async fn released(&self, from: Revision) {
        if let Ok(mut watch) = self.store.watch(&self.directory, from).await {
            while let Ok(batch) = watch.next().await {
                if batch.events.iter().any(|event| matches!(event, Event::Delete { .. })) {
                    return;
                }
            }
        }
        tokio::time::sleep(self.settings.random.shortened(Duration::from_secs(1), 0.5)).await;
    }

    async fn first_expiry(&self, listing: &Entries) -> Option<Duration> {
        let leases: BTreeSet<_> = listing.leases_of_store().take(ENDS_ASKED).collect();
        let ends = futures::stream::iter(leases).map(|lease| self.store.time_to_live(lease)).buffer_unordered(8);
        let known = ends.filter_map(|end| std::future::ready(end.ok().flatten()));
        known
            .fold(None, |first: Option<Duration>, (left, _)| async move {
                Some(first.map_or(left, |first| first.min(left)))
            })
            .await
    }
}

fn alarm_once(alarmed: &mut bool, lost: &Holding, reason: &str) {
    if !std::mem::replace(alarmed, true) {
        error!(subnet = %lost.entry.lease.subnet, reason, "this host's subnet was taken by another host");
    }
}

/// Whether a lease in place of the lost one has this host's address: the former one, or the one offered now.
fn is_ours(found: &Lease, lost: &Lease, offer: &Offer) -> bool {
    found.public.iter().next() == lost.public.iter().next() || found.public == offer.public
}

/// Whether a lease may be the lost one as it was earlier, before this host's address changed: the store was restored from
/// a backup. The guards tell whose it is; this only tells that they are worth a look.
fn is_from_backup(found: &Entry, lost: &Entry) -> bool {
    let (found, lost) = (&found.origin, &lost.origin);
    found.lease.is_some() && found.lease == lost.lease && found.mod_revision < lost.mod_revision
}

/// The number of races lost in a row, and the pauses after them.
struct Races {
    lost: u32,
    pauses: Backoff,
}

impl Default for Races {
    fn default() -> Self {
        Self { lost: 0, pauses: RACES }
    }
}

impl Races {
    /// Counts a lost race and returns the pause before the next attempt. A few milliseconds are enough after a
    /// collision by chance.
    fn lost(&mut self, random: &Random) -> Duration {
        self.lost = self.lost.saturating_add(1);
        let few = random.shortened(Duration::from_millis(10), 1.0);
        if self.are_many() { self.pauses.pause(random).max(few) } else { few }
    }

    const fn are_many(&self) -> bool {
        self.lost >= MANY_RACES
    }
}

//! Writes our lease a second time, unchanged, for flanneld: some versions (0.20) miss leases that are written at the
//! same moment, and never list them again.
//!
//! A lease without a guard is flanneld's. If there is none, nothing is written.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use imbl::ordmap::DiffItem;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info};
use wire_net::{Subnet, chain};
use wire_store::{LeaseId, LeaseStore, Random, StoreError};

use super::{
    Holder, Holding,
    lease_write::{LeaseWrite, RecordWrite},
};
use crate::{Entry, LeaseTable, clock::sleep_until};

/// The latest time of the write after our lease was acquired, or after a new lease of flanneld: between 5 s and this,
/// so that the hosts do not write at the same moment.
const AT_LATEST: Duration = Duration::from_secs(30);
const SPREAD: f64 = 5.0 / 6.0;
/// The least time between two such writes.
const AT_MOST_EVERY: Duration = Duration::from_secs(60);
/// Up to this many guards are read one by one; for more, all guards are listed.
const FEW: usize = 8;

/// Keeps track of new leases of other hosts.
pub(super) struct Announcing {
    /// The leases of other hosts, from the follower.
    leases: watch::Receiver<Option<Arc<LeaseTable>>>,
    /// The leases seen last; `None` until the first are known. Those count as old for a lease that already existed.
    seen: Option<Arc<LeaseTable>>,
    /// The leases that are new since the last check.
    fresh: Vec<Arc<Entry>>,
    check_at: Option<Instant>,
    written: Option<Instant>,
    random: Random,
}

impl Announcing {
    pub(super) const fn new(leases: watch::Receiver<Option<Arc<LeaseTable>>>, random: Random) -> Self {
        Self { leases, seen: None, fresh: Vec::new(), check_at: None, written: None, random }
    }

    /// Our lease is new, so every host with a lease may have missed it.
    pub(super) fn acquired(&mut self) {
        self.seen = Some(Arc::default());
        self.note();
    }

    /// Waits until new leases are due to be checked.
    ///
    /// # Cancel safety
    /// Safe: leases received so far are kept.
    pub(super) async fn due(&mut self) {
        loop {
            let told = tokio::select! {
                () = sleep_until(self.check_at) => return,
                told = self.leases.changed() => told,
            };
            if told.is_err() {
                // The follower has ended; the leases received before are still checked.
                return sleep_until(self.check_at).await;
            }
            self.note();
        }
    }

    fn note(&mut self) {
        let Some(table) = self.leases.borrow_and_update().clone() else { return };
        if let Some(seen) = &self.seen {
            self.fresh.extend(seen.peers.diff(&table.peers).filter_map(|item| created(&item)).cloned());
        }
        self.seen = Some(table);
        if !self.fresh.is_empty() && self.check_at.is_none() {
            self.check_later();
        }
    }

    fn check_later(&mut self) {
        let soon = Instant::now() + self.random.shortened(AT_LATEST, SPREAD);
        self.check_at = Some(self.written.map_or(soon, |written| soon.max(written + AT_MOST_EVERY)));
    }
}

/// The entry of a lease that was created, or removed and created again.
fn created<'a>(item: &DiffItem<'a, 'a, Subnet, Arc<Entry>>) -> Option<&'a Arc<Entry>> {
    match item {
        DiffItem::Add(_, entry) => Some(entry),
        DiffItem::Update { old: (_, old), new: (_, new) } => {
            (old.origin.create_revision != new.origin.create_revision).then_some(*new)
        }
        DiffItem::Remove(..) => None,
    }
}

impl<S: LeaseStore> Holder<S> {
    /// Writes our lease again, unchanged, if one of the new leases is flanneld's. Writes nothing if our lease in the
    /// store has another revision.
    pub(super) async fn announce(&mut self, holding: &mut Holding) {
        self.announcing.check_at = None;
        let fresh = std::mem::take(&mut self.announcing.fresh);
        let flannels = match self.first_unguarded(&fresh).await {
            Ok(Some(entry)) => entry.lease.subnet,
            Ok(None) => return,
            Err(error) => {
                debug!(error = %chain(&error), "cannot tell whether flanneld has a lease; looking again");
                self.announcing.fresh = fresh;
                return self.announcing.check_later();
            }
        };
        self.announcing.written = Some(Instant::now());
        let from = Entry::clone(&holding.entry);
        let subnet = from.lease.subnet;
        let guards = match from.origin.lease {
            Some(lease) => self.guards(subnet).await.map(|guards| {
                let ours = guards.iter().all(|guard| guard.is_ours(&self.settings.identity, lease));
                if ours { guards } else { Vec::new() }
            }),
            None => Ok(Vec::new()),
        };
        let Ok(guards) = guards else { return };
        let listed = from.origin.mod_revision;
        let write = LeaseWrite {
            to: from.lease.clone(),
            lease: from.origin.lease,
            from: Some(from),
            guards,
            record: RecordWrite::Keep,
        };
        match self.write(&write, listed).await {
            Ok(entry) => {
                info!(%subnet, %flannels, "lease written again, unchanged, for a flanneld that may have missed it");
                holding.entry = Arc::new(entry);
            }
            // The watch on our key shows what is wrong.
            Err(obstacle) => debug!(?obstacle, "the lease is not written again"),
        }
    }

    /// The first of these leases that no wire-agent holds. A reservation has no guard, so it counts as one.
    async fn first_unguarded<'a>(&self, entries: &'a [Arc<Entry>]) -> Result<Option<&'a Entry>, StoreError> {
        let all = if entries.len() > FEW { Some(self.all_guards().await?) } else { None };
        for entry in entries {
            if !self.is_guarded(entry, all.as_ref()).await? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    async fn is_guarded(
        &self,
        entry: &Entry,
        all: Option<&BTreeMap<Vec<u8>, Option<LeaseId>>>,
    ) -> Result<bool, StoreError> {
        let Some(mut lease) = entry.origin.lease else { return Ok(false) };
        for prefix in entry.lease.subnet.prefixes() {
            let key = self.settings.prefix.guard(prefix);
            let guard = match all {
                Some(all) => all.get(&key).copied().flatten(),
                None => self.store.get(&key).await?.found.and_then(|kv| kv.lease),
            };
            if guard != Some(lease) {
                // The follower does not report when an entry is attached to another lease of the store.
                let found = self.store.get(&self.settings.prefix.lease(entry.lease.subnet)).await?.found;
                match found.and_then(|kv| kv.lease) {
                    now @ Some(attached) if now == guard => lease = attached,
                    Some(_) | None => return Ok(false),
                }
            }
        }
        Ok(true)
    }

    async fn all_guards(&self) -> Result<BTreeMap<Vec<u8>, Option<LeaseId>>, StoreError> {
        let listing = self.store.list(&self.settings.prefix.guards()).await?;
        Ok(listing.entries.into_iter().map(|kv| (kv.key, kv.lease)).collect())
    }
}

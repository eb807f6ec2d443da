//! Following the leases: list, watch, and list again whenever the watch is in doubt.
//!
//! One task owns the state. In: the store, and [`Admission`] by a watch channel. Out: the table and the health, by watch
//! channels. Nothing is published before the first complete listing.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};
use wire_net::{Directory, chain};
use wire_store::{Backoff, LeaseStore, Listing, Revision, WatchBatch, WatchError, WatchStream, shortened};

use crate::{
    Admission, Entries, LeaseTable,
    clock::sleep_until,
    hold_down::{HELD_FOR, HoldDown},
    refusal_log::{LogLines, RefusalLog},
    task::{Beside, Start, Task},
};

/// The settings of a follower.
#[derive(Clone, Debug)]
pub struct FollowSettings {
    /// What the keys of all leases begin with, [`wire_net::KeyPrefix::leases`].
    pub directory: Directory,
    /// How often everything is listed although the watch stands: etcd has lost watch events.
    pub list_every: Duration,
    /// What was believed until now. What the first listing lacks of it has vanished just then.
    pub before: Option<Arc<LeaseTable>>,
}

/// The health of a follower.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FollowHealth {
    /// Since when the watch has stood without a break; `None` while it does not.
    pub synced: Option<Instant>,
    /// What went wrong last, with all its causes; `None` once that was put right.
    pub error: Option<String>,
    /// How many complete listings were taken, the first included.
    pub listings: u64,
}

/// The leases as they change. Following ends when this is dropped.
#[derive(Debug)]
pub struct Follow {
    /// The table; `None` until the first complete listing.
    pub table: watch::Receiver<Option<Arc<LeaseTable>>>,
    /// Its health.
    pub health: watch::Receiver<FollowHealth>,
    _task: Task,
}

/// How often everything is listed unless another time is asked for.
pub const LIST_EVERY: Duration = Duration::from_secs(5 * 60);
/// How soon a periodic listing that failed is tried again.
const LIST_AGAIN: Duration = Duration::from_secs(10);
/// Resynced within 2 s of the store's return, so the pauses stay below 1 s.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
/// How many batches are taken in before the table is published, at most.
const BATCHES: usize = 256;

impl FollowSettings {
    /// With the usual time between full listings, and nothing known before.
    #[must_use]
    pub const fn new(directory: Directory) -> Self {
        Self { directory, list_every: LIST_EVERY, before: None }
    }
}

impl Follow {
    /// Starts to follow.
    pub fn spawn<S: LeaseStore>(
        store: S,
        settings: FollowSettings,
        admission: watch::Receiver<Admission>,
        Start { listing, beside }: Start,
    ) -> Self {
        let (table_out, table) = watch::channel(None);
        let (health_out, health) = watch::channel(FollowHealth::default());
        let before = settings.before.as_deref().cloned().unwrap_or_default();
        let entries = Entries::from_table(settings.directory.clone(), &before);
        let (refusal_log, hold_down) = (RefusalLog::new(Instant::now()), before.hold_down);
        let follower = Follower { store, settings, admission, entries, hold_down, refusal_log, table_out, health_out };
        Self { table, health, _task: Task::spawn(follower.run(listing), beside) }
    }

    /// Follows no store: the leases are those of `listing`, let in by `admission` as it changes. For when the store is away
    /// and something it once said is all there is. Its health tells of no listing.
    pub fn remembered(
        directory: Directory,
        listing: &Listing,
        mut admission: watch::Receiver<Admission>,
        beside: Option<Beside>,
    ) -> Self {
        let entries = Entries::listed(directory, listing);
        let (table_out, table) = watch::channel(None);
        let (health_out, health) = watch::channel(FollowHealth::default());
        let task = async move {
            let _open = health_out;
            loop {
                let admitted = entries.admit(&admission.borrow_and_update());
                table_out.send_replace(Some(Arc::new(admitted)));
                admission_changed(&mut admission).await;
            }
        };
        Self { table, health, _task: Task::spawn(task, beside) }
    }
}

struct Follower<S: LeaseStore> {
    store: S,
    settings: FollowSettings,
    admission: watch::Receiver<Admission>,
    entries: Entries,
    hold_down: HoldDown,
    refusal_log: RefusalLog,
    table_out: watch::Sender<Option<Arc<LeaseTable>>>,
    health_out: watch::Sender<FollowHealth>,
}

enum Wake {
    Changes(Result<WatchBatch, WatchError>),
    Admission,
    /// The hold-down of some leases has ended.
    Release,
    ListingDue,
}

impl<S: LeaseStore> Follower<S> {
    async fn run(mut self, mut listing: Option<Arc<Listing>>) {
        let mut pauses = PAUSES;
        loop {
            let error = match self.sync(listing.take(), &mut pauses).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            self.note_broken(&error);
            self.pause(pauses.pause()).await;
        }
    }

    /// Lists, watches and stays with the watch until it ends.
    async fn sync(
        &mut self,
        listing: Option<Arc<Listing>>,
        pauses: &mut Backoff,
    ) -> Result<std::convert::Infallible, WatchError> {
        let listing = match listing {
            Some(listing) => listing,
            None => Arc::new(self.store.list(&self.settings.directory).await.map_err(WatchError::Ended)?),
        };
        self.take(&listing);
        let from = Revision(listing.revision.0 + 1);
        drop(listing);
        let mut watch = self.store.watch(&self.settings.directory, from).await?;
        self.health_out.send_modify(|health| {
            health.synced = Some(Instant::now());
            health.error = None;
        });
        let opened = Instant::now();
        // Not in step with all other hosts.
        let mut list_at = opened + shortened(self.settings.list_every, 0.2);
        loop {
            match self.wake(&mut watch, list_at).await {
                Wake::Changes(batch) => {
                    self.drain(&batch?, &mut watch)?;
                    pauses.reset();
                }
                Wake::Admission | Wake::Release => self.publish(),
                Wake::ListingDue => list_at = Instant::now() + self.list_again().await?,
            }
        }
    }

    async fn wake(&mut self, watch: &mut S::Watch, list_at: Instant) -> Wake {
        tokio::select! {
            batch = watch.next() => Wake::Changes(batch),
            () = admission_changed(&mut self.admission) => Wake::Admission,
            () = sleep_until(self.hold_down.next_release()) => Wake::Release,
            () = tokio::time::sleep_until(list_at) => Wake::ListingDue,
        }
    }

    /// Takes in all batches that are there already, then publishes once.
    fn drain(&mut self, first: &WatchBatch, watch: &mut S::Watch) -> Result<(), WatchError> {
        let mut changed = self.apply(first);
        let mut ended = Ok(());
        for _ in 1..BATCHES {
            match watch.next().now_or_never() {
                None => break,
                Some(Ok(batch)) => changed |= self.apply(&batch),
                Some(Err(error)) => {
                    ended = Err(error);
                    break;
                }
            }
        }
        if changed {
            self.publish();
        }
        ended
    }

    fn apply(&mut self, batch: &WatchBatch) -> bool {
        batch.events.iter().fold(false, |changed, event| self.entries.apply(event) | changed)
    }

    /// The periodic listing: says when the next is due. The watch goes on beside it.
    async fn list_again(&mut self) -> Result<Duration, WatchError> {
        match self.store.list(&self.settings.directory).await {
            Ok(listing) if listing.revision < self.entries.revision() => {
                // The store was restored from a backup: a watch from a revision it has not reached says nothing.
                Err(WatchError::Compacted(listing.revision))
            }
            Ok(listing) => {
                self.take(&listing);
                Ok(self.settings.list_every)
            }
            Err(error) => {
                debug!(error = %chain(&error), "the periodic listing failed");
                Ok(LIST_AGAIN.min(self.settings.list_every))
            }
        }
    }

    fn take(&mut self, listing: &Listing) {
        let changed = self.entries.replace(listing);
        self.health_out.send_modify(|health| health.listings += 1);
        if changed || self.table_out.borrow().is_none() {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let table = self.entries.admit_holding(&mut self.hold_down, &self.admission.borrow_and_update());
        let unchanged = self.table_out.borrow().as_ref().is_some_and(|before| before.says_the_same(&table));
        if unchanged {
            return;
        }
        let held_before = self.table_out.borrow().as_ref().map_or(0, |before| before.held);
        match (held_before, table.held) {
            (0, 1..) => {
                warn!(held = table.held, "most leases vanished at once: {HELD_FOR:?} are left them to come back");
            }
            (1.., 0) => info!(peers = table.peers.len(), "no lease is held any more that has vanished"),
            _ => {}
        }
        let LogLines { named, others } = self.refusal_log.update(&table.refused, Instant::now());
        for (key, refusal) in named {
            warn!(key, kind = ?refusal.kind, reason = refusal.reason, "lease refused");
        }
        if let Some(others) = others {
            warn!(others, "more leases are refused than are named here: wire-agent peers names more of them");
        }
        debug!(
            peers = table.peers.len(),
            refused = table.refused.total(),
            revision = table.revision.0,
            "leases changed"
        );
        self.table_out.send_replace(Some(Arc::new(table)));
    }

    fn note_broken(&self, error: &WatchError) {
        let text = chain(error);
        self.health_out.send_modify(|health| {
            if health.error.is_none() {
                info!(error = text, "lost touch with the leases; listing them again");
            }
            health.synced = None;
            health.error = Some(text);
        });
    }

    /// While the store is away a change of admission still counts.
    async fn pause(&mut self, pause: Duration) {
        let mut pause = pin!(tokio::time::sleep(pause));
        loop {
            tokio::select! {
                () = &mut pause => return,
                () = admission_changed(&mut self.admission) => {
                    if self.table_out.borrow().is_some() {
                        self.publish();
                    }
                }
            }
        }
    }
}

/// Waits for ever once nobody can change it any more.
async fn admission_changed(admission: &mut watch::Receiver<Admission>) {
    if admission.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

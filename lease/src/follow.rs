//! Follows the leases: list, watch, and list again when the watch may have missed something.
//!
//! One task owns the state. Input: the store, and [`Admission`] over a watch channel. Output: the table and the health,
//! over watch channels. Nothing is published before the first complete listing.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{sync::watch, time::Instant};
use tracing::{debug, info, warn};
use wire_net::{Directory, chain};
use wire_store::{Backoff, LeaseStore, Random, Revision, StoreError, WatchBatch, WatchError, WatchStream};

use crate::{
    Admission, Entries, LeaseTable,
    admission::Admitted,
    clock::sleep_until,
    entries::Difference,
    hold_down::{HELD_FOR, HoldDown},
    refusal_log::{LogLines, RefusalLog},
    relisting::Relisting,
    task::{Beside, Start, Task},
};

/// The settings of a follower.
#[derive(Clone, Debug)]
pub struct FollowSettings {
    /// The directory of the leases, [`wire_net::KeyPrefix::leases`].
    pub directory: Directory,
    /// The time between full listings, made although the watch is open: etcd has lost watch events.
    pub list_every: Duration,
    /// The last known table. Its leases that are missing in the first listing count as just vanished.
    pub before: Option<Arc<LeaseTable>>,
    /// Spreads the pauses and the periodic listings, so that the hosts do not act in step.
    pub random: Random,
}

/// The health of a follower.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FollowHealth {
    /// The time since which the watch has been open without a break; `None` while it is not.
    pub synced: Option<Instant>,
    /// The last error with all its causes; `None` after recovery.
    pub error: Option<String>,
    /// The number of complete listings, the first included.
    pub listings: u64,
    /// The number of these that were made since the watch had ended, or before the first one: the store may be another since.
    pub resyncs: u64,
}

/// The leases as they change. Dropping this stops following.
#[derive(Debug)]
pub struct Follow {
    /// The table; `None` until the first complete listing.
    pub table: watch::Receiver<Option<Arc<LeaseTable>>>,
    /// Its health.
    pub health: watch::Receiver<FollowHealth>,
    _task: Task,
}

/// The default time between full listings.
pub const LIST_EVERY: Duration = Duration::from_secs(5 * 60);
/// The pause after a periodic listing that failed.
const LIST_AGAIN: Duration = Duration::from_secs(10);
/// The follower must be in sync within 2 s after the store is back, so the pauses stay below 1 s.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
/// The largest number of batches to apply before the table is published.
const BATCHES: usize = 256;

impl FollowSettings {
    /// The default time between full listings, and no last known table.
    #[must_use]
    pub const fn new(directory: Directory, random: Random) -> Self {
        Self { directory, list_every: LIST_EVERY, before: None, random }
    }
}

impl Follow {
    /// Spawns the task that follows the leases.
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
        let admitted = Admitted::new(&Admission::default());
        let follower = Follower {
            store,
            settings,
            admission,
            entries,
            hold_down,
            admitted,
            relisting: None,
            refusal_log,
            table_out,
            health_out,
        };
        Self { table, health, _task: Task::spawn(follower.run(listing), beside) }
    }

    /// Follows no store: publishes the leases of `entries`, again whenever `admission` changes. For a start while the
    /// store is down, from a listing kept on disk. Its health counts no listing.
    pub fn from_listing(
        entries: Arc<Entries>,
        mut admission: watch::Receiver<Admission>,
        beside: Option<Beside>,
    ) -> Self {
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
    admitted: Admitted,
    /// The periodic listing, while it is made.
    relisting: Option<Relisting>,
    refusal_log: RefusalLog,
    table_out: watch::Sender<Option<Arc<LeaseTable>>>,
    health_out: watch::Sender<FollowHealth>,
}

enum FollowEvent {
    Changes(Result<WatchBatch, WatchError>),
    Admission,
    /// The hold-down of some leases has ended.
    Release,
    ListingDue,
    Listed(Result<Difference, StoreError>),
}

impl<S: LeaseStore> Follower<S> {
    async fn run(mut self, mut listing: Option<Arc<Entries>>) {
        let mut pauses = PAUSES;
        loop {
            let error = match self.sync(listing.take(), &mut pauses).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            self.note_broken(&error);
            let pause = pauses.pause(&self.settings.random);
            self.pause(pause).await;
        }
    }

    /// Lists, then watches until the watch ends.
    async fn sync(
        &mut self,
        listing: Option<Arc<Entries>>,
        pauses: &mut Backoff,
    ) -> Result<std::convert::Infallible, WatchError> {
        self.relisting = None;
        match listing {
            // The holder of our lease has dropped its share before there is a follower.
            Some(listing) => self.entries.replace_by(Arc::unwrap_or_clone(listing)),
            None => {
                let difference = self.entries.compare(&self.store).await.map_err(WatchError::Ended)?;
                self.entries.accept(difference)
            }
        };
        self.health_out.send_modify(|health| health.resyncs += 1);
        self.note_listing();
        let from = Revision(self.entries.revision().0 + 1);
        let mut watch = self.store.watch(&self.settings.directory, from).await?;
        self.health_out.send_modify(|health| {
            health.synced = Some(Instant::now());
            health.error = None;
        });
        let opened = Instant::now();
        // Shortened at random, so that the hosts do not list in step.
        let mut list_at = opened + self.settings.random.shortened(self.settings.list_every, 0.2);
        loop {
            match self.next_event(&mut watch, list_at).await {
                FollowEvent::Changes(batch) => {
                    self.drain(&batch?, &mut watch)?;
                    pauses.reset();
                }
                FollowEvent::Admission | FollowEvent::Release => self.publish(),
                FollowEvent::ListingDue => self.list_again(),
                FollowEvent::Listed(listing) => list_at = Instant::now() + self.take_again(listing)?,
            }
        }
    }

    async fn next_event(&mut self, watch: &mut S::Watch, list_at: Instant) -> FollowEvent {
        tokio::select! {
            batch = watch.next() => FollowEvent::Changes(batch),
            () = admission_changed(&mut self.admission) => FollowEvent::Admission,
            () = sleep_until(self.hold_down.next_release()) => FollowEvent::Release,
            () = tokio::time::sleep_until(list_at), if self.relisting.is_none() => FollowEvent::ListingDue,
            listing = Relisting::answer(&mut self.relisting) => FollowEvent::Listed(listing),
        }
    }

    /// Applies all batches that have already arrived, then publishes once.
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
        if let Some(relisting) = &mut self.relisting {
            batch.events.iter().for_each(|event| relisting.note(event));
        }
        batch.events.iter().fold(false, |changed, event| self.entries.apply(event) | changed)
    }

    /// Begins the periodic listing. The watch goes on meanwhile.
    fn list_again(&mut self) {
        self.relisting = Some(Relisting::begin(self.store.clone(), self.entries.clone()));
    }

    /// Takes the periodic listing, and returns the time until the next.
    fn take_again(&mut self, listing: Result<Difference, StoreError>) -> Result<Duration, WatchError> {
        let Some(relisting) = self.relisting.take() else { return Ok(self.settings.list_every) };
        match listing {
            Ok(difference) => {
                let read_at = difference.revision;
                // In a store that was restored from a backup, a watch from a later revision would stay silent.
                let difference = relisting.with_changes(difference).ok_or(WatchError::Compacted(read_at))?;
                self.entries.accept(difference);
                self.note_listing();
                Ok(self.settings.list_every)
            }
            Err(error) => {
                debug!(error = %chain(&error), "the periodic listing failed");
                Ok(LIST_AGAIN.min(self.settings.list_every))
            }
        }
    }

    fn note_listing(&mut self) {
        self.health_out.send_modify(|health| health.listings += 1);
        self.publish();
    }

    fn publish(&mut self) {
        let admission = self.admission.borrow_and_update();
        let table = self.admitted.update(&mut self.entries, &mut self.hold_down, &admission, Instant::now()).clone();
        drop(admission);
        let unchanged = self.table_out.borrow().as_ref().is_some_and(|before| before.says_the_same(&table));
        if unchanged {
            return;
        }
        let held_before = self.table_out.borrow().as_ref().map_or(0, |before| before.held);
        match (held_before, table.held) {
            (0, 1..) => {
                warn!(
                    held = table.held,
                    "most leases vanished at once: they are kept for {HELD_FOR:?} in case they come back"
                );
            }
            (1.., 0) => info!(peers = table.peers.len(), "the vanished leases are no longer kept"),
            _ => {}
        }
        let LogLines { named, others } = self.refusal_log.update(&table.refused, Instant::now());
        for (key, refusal) in named {
            warn!(key, kind = ?refusal.kind, reason = refusal.reason, "lease refused");
        }
        if let Some(others) = others {
            warn!(others, "more leases are refused than the log names: wire-agent peers names more of them");
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
                info!(error = text, "lost the watch on the leases; listing them again");
            }
            health.synced = None;
            health.error = Some(text);
        });
    }

    /// Pauses while the store is down; a change of admission is still applied.
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

/// Waits for a change; for ever once the sender is dropped.
async fn admission_changed(admission: &mut watch::Receiver<Admission>) {
    if admission.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

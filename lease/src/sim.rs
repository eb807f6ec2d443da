//! A store in memory, for tests: etcd's behaviour with virtual time (`tokio::time::pause`) and faults on demand.
//!
//! Every call takes a random time on its way there and back, from a seed, so that one seed is one interleaving.

mod state;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

pub use state::SimBackup;
use state::State;

use crate::{
    Committed, LeaseId, LeaseStore, Listing, Read, Revision, StoreError, Txn, WatchBatch, WatchError, WatchStream,
};

/// The store. Clones are the same store.
#[derive(Clone, Debug)]
pub struct SimStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    /// Rung whenever a watch may have something to tell.
    bell: watch::Sender<()>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    /// Watches that were opened at another epoch are broken.
    epoch: u64,
    down: bool,
    stalled_until: Option<Instant>,
    faults: Vec<(SimCall, SimFault)>,
    counts: BTreeMap<SimCall, u64>,
    random: u64,
}

/// The kinds of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimCall {
    /// [`LeaseStore::get`].
    Get,
    /// [`LeaseStore::list`].
    List,
    /// [`LeaseStore::commit`].
    Commit,
    /// [`LeaseStore::grant`].
    Grant,
    /// [`LeaseStore::keep_alive`].
    KeepAlive,
    /// [`LeaseStore::time_to_live`].
    TimeToLive,
    /// [`LeaseStore::revoke`].
    Revoke,
    /// [`LeaseStore::watch`].
    Watch,
}

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimFault {
    /// It does not reach the store.
    Unavailable,
    /// It is carried out, but its answer is lost.
    LostReply,
    /// The store refuses who we are.
    Unauthorised,
}

/// An open watch on the simulated store.
#[derive(Debug)]
pub struct SimWatch {
    store: SimStore,
    prefix: Vec<u8>,
    next: i64,
    epoch: u64,
    bell: watch::Receiver<()>,
}

/// How long a call that hangs is waited for, as in the real store.
const TIMEOUT: Duration = Duration::from_secs(5);
const OPERATION: &str = "a simulated call";

impl SimStore {
    /// An empty store whose delays follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            state: State::default(),
            epoch: 0,
            down: false,
            stalled_until: None,
            faults: Vec::new(),
            counts: BTreeMap::new(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        Self { shared: Arc::new(Shared { inner: Mutex::new(inner), bell: watch::Sender::new(()) }) }
    }

    /// Makes the next call of that kind fail. Several are met one after another.
    pub fn fail_next(&self, call: SimCall, fault: SimFault) {
        self.change(|inner| inner.faults.push((call, fault)));
    }

    /// Takes the store away, or gives it back. Watches break; leases go on ageing.
    pub fn set_down(&self, down: bool) {
        self.change(|inner| {
            inner.down = down;
            inner.epoch += u64::from(down);
        });
    }

    /// Nothing is answered for so long; calls and watches stay open.
    pub fn stall(&self, duration: Duration) {
        self.change(|inner| inner.stalled_until = Some(Instant::now() + duration));
    }

    /// Breaks all open watches.
    pub fn break_watches(&self) {
        self.change(|inner| inner.epoch += 1);
    }

    /// Hides the next change from all watches, as etcd 3.4 has done.
    pub fn lose_next_event(&self) {
        self.change(|inner| inner.state.lose_events += 1);
    }

    /// Forgets all history up to now.
    pub fn compact(&self) {
        self.change(|inner| inner.state.compact());
    }

    /// The store as it is, to be restored later.
    #[must_use]
    pub fn backup(&self) -> SimBackup {
        SimBackup(self.lock().state.clone())
    }

    /// Puts a backup in place of the store, or with `SimBackup::default()` an empty one. Revisions go back.
    pub fn restore(&self, backup: SimBackup) {
        self.change(|inner| {
            inner.state = backup.0;
            inner.epoch += 1;
        });
    }

    /// Writes a key at once, as another client would.
    pub fn put(&self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>, lease: Option<LeaseId>) -> Revision {
        self.change(|inner| inner.state.put_alone(key.into(), value.into(), lease))
    }

    /// Deletes a key at once, as another client would.
    pub fn delete(&self, key: &[u8]) {
        self.change(|inner| inner.state.delete_alone(key));
    }

    /// Grants a lease at once, as another client would.
    #[must_use]
    pub fn grant_now(&self, ttl: Duration) -> LeaseId {
        self.change(|inner| inner.state.grant(ttl))
    }

    /// Revokes a lease at once, as another client would.
    pub fn revoke_now(&self, lease: LeaseId) {
        self.change(|inner| inner.state.revoke(lease));
    }

    /// The leases that live.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseId> {
        self.change(|inner| inner.state.leases())
    }

    /// What is stored under `prefix` now.
    #[must_use]
    pub fn listing(&self, prefix: &[u8]) -> Listing {
        self.change(|inner| inner.state.list(prefix))
    }

    /// How many calls of that kind were made.
    #[must_use]
    pub fn count(&self, call: SimCall) -> u64 {
        self.lock().counts.get(&call).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let changed = {
            let mut inner = self.lock();
            inner.state.expire(Instant::now());
            change(&mut inner)
        };
        self.shared.bell.send_replace(());
        changed
    }

    /// One way between the caller and the store.
    async fn travel(&self) {
        let (delay, stall) = {
            let mut inner = self.lock();
            (Duration::from_micros(inner.random() % 2000), inner.stalled_until)
        };
        if let Some(stall) = stall {
            tokio::time::sleep_until(stall).await;
        }
        tokio::time::sleep(delay).await;
    }

    async fn call<T>(
        &self,
        call: SimCall,
        apply: impl FnOnce(&mut State) -> Result<T, StoreError> + Send,
    ) -> Result<T, StoreError>
    where
        T: Send,
    {
        let there_and_back = async {
            self.travel().await;
            let answer = self.change(|inner| {
                *inner.counts.entry(call).or_default() += 1;
                let fault = inner.fault(call);
                match fault {
                    Some(SimFault::Unauthorised) => {
                        Err(StoreError::Unauthorised { operation: OPERATION, source: "simulated".into() })
                    }
                    Some(SimFault::Unavailable) => Err(unavailable()),
                    Some(SimFault::LostReply) => apply(&mut inner.state).and_then(|_| Err(unavailable())),
                    None if inner.down => Err(unavailable()),
                    None => apply(&mut inner.state),
                }
            });
            self.travel().await;
            answer
        };
        tokio::time::timeout(TIMEOUT, there_and_back).await.unwrap_or_else(|_| Err(unavailable()))
    }
}

impl Inner {
    fn fault(&mut self, call: SimCall) -> Option<SimFault> {
        let index = self.faults.iter().position(|(of, _)| *of == call)?;
        Some(self.faults.remove(index).1)
    }

    /// xorshift64, <https://www.jstatsoft.org/article/view/v008i14>.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

impl LeaseStore for SimStore {
    type Watch = SimWatch;

    async fn get(&self, key: &[u8]) -> Result<Read, StoreError> {
        self.call(SimCall::Get, |state| Ok(state.get(key))).await
    }

    async fn list(&self, prefix: &[u8]) -> Result<Listing, StoreError> {
        self.call(SimCall::List, |state| Ok(state.list(prefix))).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        self.call(SimCall::Commit, |state| state.commit(txn)).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.call(SimCall::Grant, |state| Ok(state.grant(ttl))).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        self.call(SimCall::KeepAlive, |state| Ok(state.keep_alive(lease))).await
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<(Duration, Duration)>, StoreError> {
        self.call(SimCall::TimeToLive, |state| Ok(state.time_to_live(lease))).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call(SimCall::Revoke, |state| {
            state.revoke(lease);
            Ok(())
        })
        .await
    }

    async fn watch(&self, prefix: &[u8], from: Revision) -> Result<SimWatch, WatchError> {
        self.call(SimCall::Watch, |_| Ok(())).await.map_err(WatchError::Ended)?;
        let (epoch, bell) = (self.lock().epoch, self.shared.bell.subscribe());
        Ok(SimWatch { store: self.clone(), prefix: prefix.to_vec(), next: from.0, epoch, bell })
    }
}

impl WatchStream for SimWatch {
    async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        loop {
            // Marked as seen before the state is looked at, or a ring between the two would be missed.
            self.bell.mark_unchanged();
            let wake_at = {
                let mut inner = self.store.lock();
                let now = Instant::now();
                inner.state.expire(now);
                if inner.epoch != self.epoch {
                    return Err(WatchError::Ended(unavailable()));
                }
                match inner.stalled_until.filter(|until| *until > now) {
                    Some(until) => Some(until),
                    None => {
                        let batch = inner.state.since(&self.prefix, self.next)?;
                        self.next = self.next.max(batch.revision.0 + 1);
                        if !batch.events.is_empty() {
                            return Ok(batch);
                        }
                        inner.state.next_expiry()
                    }
                }
            };
            let waited = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = self.bell.changed() => {}
                () = waited => {}
            }
        }
    }
}

fn unavailable() -> StoreError {
    StoreError::Unavailable { operation: OPERATION, source: None }
}

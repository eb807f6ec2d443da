//! The calls of the simulated store: delayed on the way there, carried out or failed, delayed on the way back.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use super::{SimCall, SimFault, SimStore, state::State};
use crate::{
    Committed, LeaseId, LeaseStore, Listing, Read, Revision, StoreError, Txn, WatchBatch, WatchError, WatchStream,
};

/// An open watch on the simulated store.
#[derive(Debug)]
pub struct SimWatch {
    store: SimStore,
    prefix: Vec<u8>,
    next: i64,
    epoch: u64,
    bell: watch::Receiver<()>,
}

/// The time limit of a call, the same as the real store's default.
const TIMEOUT: Duration = Duration::from_secs(5);
const OPERATION: &str = "a simulated call";

impl SimStore {
    /// Delays a call on one way between client and store.
    async fn transit(&self) {
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
        let _in_flight = InFlight::begin(self, call);
        *self.own_counts().entry(call).or_default() += 1;
        let there_and_back = async {
            self.transit().await;
            let answer = self.change(|inner| {
                *inner.counts.entry(call).or_default() += 1;
                let fault = inner.fault(call);
                match fault {
                    Some(SimFault::Unauthorised) => {
                        let remedy = "simulated".to_owned();
                        Err(StoreError::Unauthorised { operation: OPERATION, remedy, source: "simulated".into() })
                    }
                    Some(SimFault::Unavailable) => Err(unavailable()),
                    Some(SimFault::LostReply) => apply(&mut inner.state).and_then(|_| Err(unavailable())),
                    None if inner.down => Err(unavailable()),
                    None => apply(&mut inner.state),
                }
            });
            self.transit().await;
            answer
        };
        tokio::time::timeout(TIMEOUT, there_and_back).await.unwrap_or_else(|_| Err(unavailable()))
    }
}

/// Counts a writing call as in flight until it is dropped.
struct InFlight<'a> {
    store: &'a SimStore,
    number: u32,
}

impl<'a> InFlight<'a> {
    fn begin(store: &'a SimStore, call: SimCall) -> Self {
        let number = u32::from(call.writes());
        let mut inner = store.lock();
        inner.writes.now += number;
        inner.writes.most = inner.writes.most.max(inner.writes.now);
        drop(inner);
        Self { store, number }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.store.lock().writes.now -= self.number;
    }
}

impl LeaseStore for SimStore {
    type Watch = SimWatch;

    fn answers(&self) -> watch::Receiver<Instant> {
        watch::channel(Instant::now()).1
    }

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
            // Mark the notification as seen before reading the state, or one sent in between would be lost.
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

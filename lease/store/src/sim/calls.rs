//! The calls of the simulated store: delayed on the way there, carried out or failed, delayed on the way back.

use std::time::Duration;

use tokio::{sync::watch, time::Instant};

use super::{Inner, SimCall, SimCut, SimFault, SimStore, SimWatch, state::State};
use crate::{Committed, KeySink, LeaseId, LeaseStore, Listing, Read, Revision, StoreError, Txn, WatchError};

/// The time limit of a call, the same as the real store's default.
const TIMEOUT: Duration = Duration::from_secs(5);
const OPERATION: &str = "a simulated call";

impl SimStore {
    /// Delays a call on one way between client and store. Returns whether it arrives, which it does not while the client
    /// is cut off.
    async fn transit(&self) -> Result<(), Lost> {
        let (delay, stall) = {
            let mut inner = self.lock();
            (Duration::from_micros(inner.random() % 2000), inner.stalled_until)
        };
        if let Some(stall) = stall {
            tokio::time::sleep_until(stall).await;
        }
        tokio::time::sleep(delay).await;
        match self.of_client(|client| client.cut) {
            None => Ok(()),
            Some((SimCut::HalfOpen, _)) => Err(Lost::Silently),
            Some((SimCut::Reset, _)) => Err(Lost::Reset),
        }
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
        self.of_client(|client| *client.counts.entry(call).or_default() += 1);
        let mut request = Request { store: self, apply: Some(apply) };
        if self.of_client(|client| client.crashed) {
            request.apply = None;
            return std::future::pending().await;
        }
        let there_and_back = async {
            self.transit().await?;
            let answer = request.arrive(call)?;
            self.transit().await?;
            Ok(answer)
        };
        let ended = tokio::time::timeout(TIMEOUT, until_answered(there_and_back)).await;
        if self.of_client(|client| client.crashed) {
            return std::future::pending().await;
        }
        let answer = ended.unwrap_or_else(|_| Err(unavailable()));
        if answer.is_ok() {
            self.of_client(|client| client.answers.send_replace(Instant::now()));
        }
        answer
    }
}

/// The way in which a call or its answer is lost.
enum Lost {
    /// The client waits for the answer until its time limit.
    Silently,
    /// The client is told that the connection is gone.
    Reset,
}

/// Waits for ever if the answer is lost silently.
async fn until_answered<T>(answer: impl Future<Output = Result<Result<T, StoreError>, Lost>>) -> Result<T, StoreError> {
    match answer.await {
        Ok(answer) => answer,
        Err(Lost::Reset) => Err(unavailable()),
        Err(Lost::Silently) => std::future::pending().await,
    }
}

/// A call on its way to the store.
struct Request<'a, F, T>
where
    F: FnOnce(&mut State) -> Result<T, StoreError>,
{
    store: &'a SimStore,
    /// `None` once it is carried out, or failed.
    apply: Option<F>,
}

impl<F, T> Request<'_, F, T>
where
    F: FnOnce(&mut State) -> Result<T, StoreError>,
{
    /// Carries the call out, or fails it.
    fn arrive(&mut self, call: SimCall) -> Result<Result<T, StoreError>, Lost> {
        let number = self.store.client;
        let Some(apply) = self.apply.take() else { return Err(Lost::Silently) };
        self.store.change(|inner| {
            *inner.counts.entry(call).or_default() += 1;
            if inner.clients[number].crashed && !inner.chance(CARRIED_OUT) {
                return Err(Lost::Silently);
            }
            let answer = inner.carry_out(call, apply);
            let lost_replies = inner.clients[number].lost_replies;
            if inner.chance(lost_replies) { Err(Lost::Silently) } else { Ok(answer) }
        })
    }
}

/// The share, in 1000, of the calls of a crashed client that reach the store nonetheless.
const CARRIED_OUT: u16 = 500;

/// A call of a crashed client may already be on the wire when its process ends.
impl<F, T> Drop for Request<'_, F, T>
where
    F: FnOnce(&mut State) -> Result<T, StoreError>,
{
    fn drop(&mut self) {
        let Some(apply) = self.apply.take() else { return };
        let number = self.store.client;
        self.store.change(|inner| {
            let client = &inner.clients[number];
            if client.crashed && client.cut.is_none() && !inner.down && inner.chance(CARRIED_OUT) {
                let _unheard = apply(&mut inner.state);
            }
        });
    }
}

impl Inner {
    fn carry_out<T>(
        &mut self,
        call: SimCall,
        apply: impl FnOnce(&mut State) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match self.fault(call) {
            Some(SimFault::Unauthorised) => {
                let remedy = "simulated".to_owned();
                Err(StoreError::Unauthorised { operation: OPERATION, remedy, source: "simulated".into() })
            }
            Some(SimFault::Unavailable) => Err(unavailable()),
            Some(SimFault::LostReply) => apply(&mut self.state).and_then(|_| Err(unavailable())),
            None if self.down => Err(unavailable()),
            None => apply(&mut self.state),
        }
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

    async fn get(&self, key: &[u8]) -> Result<Read, StoreError> {
        self.call(SimCall::Get, |state| Ok(state.get(key))).await
    }

    /// As if the history had been compacted after the first half: it begins again.
    async fn list_into(&self, prefix: &[u8], sink: &mut impl KeySink) -> Result<Revision, StoreError> {
        let Listing { entries, revision } = self.call(SimCall::List, |state| Ok(state.list(prefix))).await?;
        sink.clear();
        entries.iter().take(entries.len() / 2).for_each(|kv| sink.push(kv.clone()));
        sink.clear();
        entries.into_iter().for_each(|kv| sink.push(kv));
        Ok(revision)
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
        Ok(SimWatch::open(self, prefix, from))
    }

    fn answers(&self) -> watch::Receiver<Instant> {
        self.of_client(|client| client.answers.subscribe())
    }
}

pub(super) const fn unavailable() -> StoreError {
    StoreError::Unavailable { operation: OPERATION, source: None }
}

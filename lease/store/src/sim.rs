//! A store in memory, for tests: behaves as etcd does, with virtual time (`tokio::time::pause`) and faults on demand.
//!
//! Every call is delayed on its way there and back by a random time, drawn from a seed, so that one seed gives one
//! interleaving.

mod calls;
mod client;
mod state;
mod watches;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

pub use client::SimCut;
pub use state::SimBackup;
pub use watches::SimWatch;

use client::Client;
use state::State;
use watches::Watches;

use crate::{LeaseId, Listing, Revision};

/// A client of the store. Clones are the same client; see [`SimStore::another_client`].
#[derive(Clone, Debug)]
pub struct SimStore {
    inner: Arc<Mutex<Inner>>,
    /// The number of this client.
    client: usize,
}

#[derive(Debug)]
struct Inner {
    state: State,
    watches: Watches,
    clients: Vec<Client>,
    down: bool,
    stalled_until: Option<Instant>,
    faults: Vec<Planned>,
    counts: BTreeMap<SimCall, u64>,
    writes: WritesInFlight,
    random: u64,
}

/// Counts the writing calls that have not ended.
#[derive(Debug, Default)]
struct WritesInFlight {
    now: u32,
    /// The largest value of `now` so far.
    most: u32,
}

/// A fault to come, after `spared` calls of the same kind.
#[derive(Debug)]
struct Planned {
    call: SimCall,
    spared: u32,
    fault: SimFault,
}

/// The calls of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SimCall {
    /// [`crate::LeaseStore::get`].
    Get,
    /// [`crate::LeaseStore::list`].
    List,
    /// [`crate::LeaseStore::commit`].
    Commit,
    /// [`crate::LeaseStore::grant`].
    Grant,
    /// [`crate::LeaseStore::keep_alive`].
    KeepAlive,
    /// [`crate::LeaseStore::time_to_live`].
    TimeToLive,
    /// [`crate::LeaseStore::revoke`].
    Revoke,
    /// [`crate::LeaseStore::watch`].
    Watch,
}

impl SimCall {
    const fn writes(self) -> bool {
        match self {
            Self::Commit | Self::Grant | Self::Revoke => true,
            Self::Get | Self::List | Self::KeepAlive | Self::TimeToLive | Self::Watch => false,
        }
    }
}

/// The ways in which a call can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimFault {
    /// The call does not reach the store.
    Unavailable,
    /// The call is carried out, but its answer is lost.
    LostReply,
    /// The store refuses this client's user.
    Unauthorised,
}

impl SimStore {
    /// Makes an empty store with one client, with delays drawn from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            state: State::default(),
            watches: Watches::default(),
            clients: vec![Client::default()],
            down: false,
            stalled_until: None,
            faults: Vec::new(),
            counts: BTreeMap::new(),
            writes: WritesInFlight::default(),
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        };
        Self { inner: Arc::new(Mutex::new(inner)), client: 0 }
    }

    /// Makes the next call of that kind fail. Faults set several times apply to one call after another.
    pub fn fail_next(&self, call: SimCall, fault: SimFault) {
        self.fail_later(call, 0, fault);
    }

    /// Makes a call of that kind fail, after `spared` calls that do not.
    pub fn fail_later(&self, call: SimCall, spared: u32, fault: SimFault) {
        self.lock().faults.push(Planned { call, spared, fault });
    }

    /// Makes the store unavailable, or available again. Watches break; leases go on to expire.
    pub fn set_down(&self, down: bool) {
        let mut inner = self.lock();
        inner.down = down;
        if down {
            inner.watches.break_all();
        }
    }

    /// Delays all answers by `duration`; calls and watches stay open.
    pub fn stall(&self, duration: Duration) {
        self.lock().stalled_until = Some(Instant::now() + duration);
    }

    /// The largest number of writing calls that were in flight at once.
    #[must_use]
    pub fn most_writes_at_once(&self) -> u32 {
        self.lock().writes.most
    }

    /// Breaks all open watches.
    pub fn break_watches(&self) {
        self.lock().watches.break_all();
    }

    /// Hides the next change from all watches, as a bug of etcd 3.4 did.
    pub fn lose_next_event(&self) {
        self.lock().state.lose_events += 1;
    }

    /// The number of changes that are still to be hidden from all watches.
    #[must_use]
    pub fn changes_to_lose(&self) -> u32 {
        self.lock().state.lose_events
    }

    /// Hides no change any more that has not been hidden yet, from any watch.
    pub fn lose_no_more(&self) {
        let mut inner = self.lock();
        inner.state.lose_events = 0;
        inner.clients.iter_mut().for_each(|client| client.lose_events = 0);
    }

    /// Compacts the history up to the current revision.
    pub fn compact(&self) {
        self.change(|inner| inner.state.compact());
    }

    /// Copies the store, for [`SimStore::restore`].
    #[must_use]
    pub fn backup(&self) -> SimBackup {
        SimBackup(self.lock().state.clone())
    }

    /// Replaces the store's content by a backup, or by nothing with `SimBackup::default()`. Revisions go back.
    pub fn restore(&self, backup: SimBackup) {
        self.change(|inner| {
            inner.state.restore(backup.0);
            inner.watches.break_all();
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

    /// The leases that have not expired.
    #[must_use]
    pub fn leases(&self) -> Vec<LeaseId> {
        self.change(|inner| inner.state.leases())
    }

    /// All keys under `prefix`, without a delay.
    #[must_use]
    pub fn listing(&self, prefix: &[u8]) -> Listing {
        self.change(|inner| inner.state.list(prefix))
    }

    /// Counts the calls of that kind by all clients.
    #[must_use]
    pub fn count(&self, call: SimCall) -> u64 {
        self.lock().counts.get(&call).copied().unwrap_or(0)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        inner.expire();
        let changed = change(&mut inner);
        inner.distribute();
        changed
    }
}

impl Inner {
    fn fault(&mut self, call: SimCall) -> Option<SimFault> {
        let index = self.faults.iter().position(|planned| planned.call == call)?;
        let planned = &mut self.faults[index];
        match planned.spared.checked_sub(1) {
            Some(left) => {
                planned.spared = left;
                None
            }
            None => Some(self.faults.remove(index).fault),
        }
    }

    /// Revokes the leases that have expired.
    fn expire(&mut self) {
        self.state.expire(Instant::now());
        self.distribute();
    }

    /// Hands the changes since the last call to the watches that want them.
    fn distribute(&mut self) {
        for event in self.state.take_fresh() {
            self.watches.hand_out(&event);
        }
    }

    /// xorshift64, <https://www.jstatsoft.org/article/view/v008i14>.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// True in `per_mille` of 1000 cases.
    fn chance(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.random() % 1000 < per_mille.into()
    }
}

//! The open watches of the simulated store. A change costs only the watches that want it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::{sync::Notify, time::Instant};

use super::{Inner, SimCut, SimStore, calls::unavailable};
use crate::{Event, Revision, WatchBatch, WatchError, WatchStream};

/// An open watch on the simulated store.
#[derive(Debug)]
pub struct SimWatch {
    store: SimStore,
    number: u64,
    bell: Arc<Notify>,
    /// The time at which the events that wait arrive, if the client's events are delayed.
    arrival: Option<Instant>,
}

/// All open watches.
#[derive(Debug, Default)]
pub(super) struct Watches {
    by_number: BTreeMap<u64, Watch>,
    by_prefix: BTreeMap<Vec<u8>, BTreeSet<u64>>,
    next: u64,
}

/// The store's part of an open watch.
#[derive(Debug)]
struct Watch {
    client: usize,
    prefix: Vec<u8>,
    /// The events that the client has not received yet.
    waiting: Vec<Event>,
    /// The error that the client receives instead.
    end: Option<End>,
    bell: Arc<Notify>,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Broken,
    Compacted(Revision),
}

/// What a watch does next.
enum Step {
    Deliver(WatchBatch),
    End(WatchError),
    /// Waits for the bell, or until that time.
    Wait(Option<Instant>),
}

impl Watches {
    /// Gives the event to all watches whose prefix its key has.
    pub(super) fn hand_out(&mut self, event: &Event) {
        let key = event.key();
        for length in 0..=key.len() {
            for number in self.by_prefix.get(&key[..length]).into_iter().flatten() {
                if let Some(watch) = self.by_number.get_mut(number) {
                    watch.waiting.push(event.clone());
                    watch.bell.notify_one();
                }
            }
        }
    }

    pub(super) fn break_all(&mut self) {
        self.by_number.values_mut().for_each(Watch::break_off);
    }

    pub(super) fn break_of(&mut self, client: usize) {
        self.of(client).for_each(Watch::break_off);
    }

    pub(super) fn wake(&mut self, client: usize) {
        self.of(client).for_each(|watch| watch.bell.notify_one());
    }

    /// Removes the watches of a client that has ended.
    pub(super) fn forget(&mut self, client: usize) {
        let of_client = self.by_number.iter().filter(|(_, watch)| watch.client == client);
        let numbers: Vec<u64> = of_client.map(|(number, _)| *number).collect();
        numbers.into_iter().for_each(|number| self.remove(number));
    }

    fn of(&mut self, client: usize) -> impl Iterator<Item = &mut Watch> {
        self.by_number.values_mut().filter(move |watch| watch.client == client)
    }

    fn insert(&mut self, watch: Watch) -> u64 {
        let number = self.next;
        self.next += 1;
        self.by_prefix.entry(watch.prefix.clone()).or_default().insert(number);
        self.by_number.insert(number, watch);
        number
    }

    fn remove(&mut self, number: u64) {
        let Some(watch) = self.by_number.remove(&number) else { return };
        if let Some(numbers) = self.by_prefix.get_mut(&watch.prefix) {
            numbers.remove(&number);
            if numbers.is_empty() {
                self.by_prefix.remove(&watch.prefix);
            }
        }
    }
}

impl Watch {
    fn break_off(&mut self) {
        self.end = Some(End::Broken);
        self.bell.notify_one();
    }
}

impl SimWatch {
    pub(super) fn open(store: &SimStore, prefix: &[u8], from: Revision) -> Self {
        let bell = Arc::new(Notify::new());
        let mut inner = store.lock();
        let (waiting, end) = match inner.state.since(prefix, from.0) {
            Ok(events) => (events, None),
            Err(compacted) => (Vec::new(), Some(End::Compacted(compacted))),
        };
        let watch = Watch { client: store.client, prefix: prefix.to_vec(), waiting, end, bell: bell.clone() };
        let number = inner.watches.insert(watch);
        Self { store: store.clone(), number, bell, arrival: None }
    }

    fn step(&mut self) -> Step {
        let mut inner = self.store.lock();
        inner.expire();
        let now = Instant::now();
        let is_later = |at: &Instant| *at > now;
        let wake_at = inner.state.next_expiry();
        let client = &inner.clients[self.store.client];
        if client.crashed {
            return Step::Wait(None);
        }
        if let Some((SimCut::HalfOpen, since)) = client.cut {
            let noticed = since + SimCut::NOTICED_AFTER;
            let is_noticed = noticed <= now;
            return if is_noticed { Step::End(broken()) } else { Step::Wait(Some(noticed)) };
        }
        let Some(watch) = inner.watches.by_number.get(&self.number) else { return Step::End(broken()) };
        match watch.end {
            Some(End::Broken) => return Step::End(broken()),
            Some(End::Compacted(revision)) => return Step::End(WatchError::Compacted(revision)),
            None => {}
        }
        if let Some(until) = inner.stalled_until.filter(is_later) {
            return Step::Wait(Some(until));
        }
        if watch.waiting.is_empty() {
            return Step::Wait(wake_at);
        }
        let arrival = *self.arrival.get_or_insert_with(|| now + inner.delay_of(self.store.client));
        if is_later(&arrival) {
            return Step::Wait(Some(arrival));
        }
        self.arrival = None;
        match inner.receive(self.number) {
            Some(batch) => Step::Deliver(batch),
            None => Step::Wait(wake_at),
        }
    }
}

impl Inner {
    /// Draws the delay of the next events of a client.
    fn delay_of(&mut self, client: usize) -> std::time::Duration {
        let longest = u64::try_from(self.clients[client].longest_delay.as_micros()).unwrap_or(u64::MAX);
        let micros = if longest == 0 { 0 } else { self.random() % (longest + 1) };
        std::time::Duration::from_micros(micros)
    }

    /// Takes the events that wait, without those that the client loses.
    fn receive(&mut self, number: u64) -> Option<WatchBatch> {
        let watch = self.watches.by_number.get_mut(&number)?;
        let mut events = std::mem::take(&mut watch.waiting);
        let lost = events.len().min(self.clients[watch.client].lose_events as usize);
        events.drain(..lost);
        self.clients[watch.client].lose_events -= u32::try_from(lost).unwrap_or_default();
        (!events.is_empty()).then(|| WatchBatch { events, revision: self.state.revision() })
    }
}

impl WatchStream for SimWatch {
    async fn next(&mut self) -> Result<WatchBatch, WatchError> {
        loop {
            let wake_at = match self.step() {
                Step::Deliver(batch) => return Ok(batch),
                Step::End(error) => return Err(error),
                Step::Wait(wake_at) => wake_at,
            };
            let waited = async {
                match wake_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.bell.notified() => {}
                () = waited => {}
            }
        }
    }
}

impl Drop for SimWatch {
    fn drop(&mut self) {
        self.store.lock().watches.remove(self.number);
    }
}

fn broken() -> WatchError {
    WatchError::Ended(unavailable())
}

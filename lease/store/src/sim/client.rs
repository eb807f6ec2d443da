//! The clients of the simulated store, and the faults of one client alone.

use std::{collections::BTreeMap, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{SimCall, SimStore};

/// The state of one client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) counts: BTreeMap<SimCall, u64>,
    pub(super) answers: watch::Sender<Instant>,
    /// The cut of its connection, with the time since when.
    pub(super) cut: Option<(SimCut, Instant)>,
    /// Whether its process has ended.
    pub(super) crashed: bool,
    /// The number of next events to hide from its watches.
    pub(super) lose_events: u32,
    /// The longest delay of an event on its way to this client.
    pub(super) longest_delay: Duration,
    /// The share of its calls that are carried out, but whose answers are lost.
    pub(super) lost_replies: u16,
}

/// The ways in which a client is cut off from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimCut {
    /// Packets vanish: calls time out, and watches stay silent until the client notices by its keep-alive pings.
    HalfOpen,
    /// Connections are refused: calls fail at once, and watches break at once.
    Reset,
}

impl SimCut {
    /// The time after which a client with an open watch notices that packets vanish: the interval of its keep-alive pings
    /// and their timeout, as in the real store.
    pub const NOTICED_AFTER: Duration = Duration::from_secs(13);
}

impl Default for Client {
    fn default() -> Self {
        Self {
            counts: BTreeMap::new(),
            answers: watch::Sender::new(Instant::now()),
            cut: None,
            crashed: false,
            lose_events: 0,
            longest_delay: Duration::ZERO,
            lost_replies: 0,
        }
    }
}

impl SimStore {
    /// Makes another client of the same store. Its calls are counted separately, and it has faults of its own.
    #[must_use]
    pub fn another_client(&self) -> Self {
        let mut inner = self.lock();
        inner.clients.push(Client::default());
        Self { client: inner.clients.len() - 1, inner: self.inner.clone() }
    }

    /// Counts the calls of that kind by this client.
    #[must_use]
    pub fn own_count(&self, call: SimCall) -> u64 {
        self.of_client(|client| client.counts.get(&call).copied().unwrap_or(0))
    }

    /// Cuts this client off from the store.
    pub fn cut(&self, cut: SimCut) {
        self.of_client(|client| client.cut = Some((cut, Instant::now())));
        self.lock().cut_watches(self.client, cut);
    }

    /// Reconnects this client. Its watches that are still open get the events that they missed.
    pub fn heal(&self) {
        self.of_client(|client| client.cut = None);
        self.lock().watches.wake(self.client);
    }

    /// Whether this client is cut off.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.of_client(|client| client.cut.is_some())
    }

    /// Breaks the open watches of this client.
    pub fn break_own_watches(&self) {
        self.lock().watches.break_of(self.client);
    }

    /// Hides the next event from the watches of this client, as a bug of etcd 3.4 did.
    pub fn lose_own_event(&self) {
        self.of_client(|client| client.lose_events += 1);
    }

    /// The number of events that are still to be hidden from the watches of this client.
    #[must_use]
    pub fn own_events_to_lose(&self) -> u32 {
        self.of_client(|client| client.lose_events)
    }

    /// Delays each batch of events for this client by a random time of at most `longest`.
    pub fn delay_watches(&self, longest: Duration) {
        self.of_client(|client| client.longest_delay = longest);
    }

    /// Loses the answers of `per_mille` of 1000 calls of this client: they are carried out, and fail when they time out.
    pub fn lose_replies(&self, per_mille: u16) {
        self.of_client(|client| client.lost_replies = per_mille);
    }

    /// Ends this client for good, as a crash of its process does: no call returns any more, and none that begins later is
    /// carried out. Those that were on their way may or may not be, when they are dropped or arrive.
    pub fn crash(&self) {
        self.of_client(|client| client.crashed = true);
        self.lock().watches.forget(self.client);
    }

    pub(super) fn of_client<T>(&self, look: impl FnOnce(&mut Client) -> T) -> T {
        look(&mut self.lock().clients[self.client])
    }
}

impl super::Inner {
    fn cut_watches(&mut self, client: usize, cut: SimCut) {
        match cut {
            // They wake to wait for the time at which the client notices.
            SimCut::HalfOpen => self.watches.wake(client),
            SimCut::Reset => self.watches.break_of(client),
        }
    }
}

//! Holds our own lease: acquire it, keep it alive, take it back when lost, give it back.
//!
//! One task makes all writes, one at a time. Input: the data to publish ([`Offer`]). Output: [`HoldState`]. Both over
//! watch channels.
//!
//! Two keys of the store may name overlapping subnets (dual-stack keys that differ in one family, keys of other
//! lengths), so that "the key is absent" alone does not prevent an overlap. Three rules together do:
//! 1. Between wire-agents: each prefix has a guard key. It is written in the same transaction as the lease, and only if
//!    it has not changed since it was read; it was read before the leases were listed, or its revision is older than the
//!    listing. Only the leases tell who holds a prefix, so that a guard without a lease blocks nobody.
//! 2. With flannel, which has no guards: list after creating. Of two overlapping leases, the one with the lower
//!    create_revision stays.
//! 3. Every later write of the lease requires that its revision is still ours.

mod acquire;
mod announce;
mod claim;
mod former;
mod keep;
mod lease_write;

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use wire_net::{Directory, DualStack, KeyPrefix, Pool, Prefix, Subnet};
use wire_store::{LeaseId, LeaseStore, Random, StoreError, Txn, Write};

use self::announce::Announcing;
use crate::{
    BackendData, BackendRecord, Beside, Clock, Entries, Entry, LeaseTable,
    task::{Start, Task},
};

/// The settings of the lease to hold.
#[derive(Clone, Debug)]
pub struct HoldSettings {
    /// The prefix of the network's keys in the store.
    pub prefix: KeyPrefix,
    /// The pools of the network config.
    pub pools: DualStack<Pool>,
    /// This host's identity, which never changes and no other host has.
    pub identity: String,
    /// The time to live of the lease without renewals.
    pub ttl: Duration,
    /// The clock that shows whether the host was suspended.
    pub clock: Clock,
    /// The least time to live that is left when the lease is renewed.
    pub renew_margin: Duration,
    /// The subnet that this host held last.
    pub preferred: DualStack<Prefix>,
    /// Prefixes that must not be leased: the subnets of the underlay.
    pub excluded: Vec<Prefix>,
    /// Prefixes to lease only if nothing else is free: bridges of this host have them.
    pub last_resort: Vec<Prefix>,
    /// The addresses by which this host reaches the store. A lease that contains one is never taken as ours.
    pub endpoints: Vec<IpAddr>,
    /// Whether this is proven to be the host that held `preferred`, and not a clone of it. Its lease is then ours even
    /// with another public address.
    pub same_host: bool,
    /// Spreads pauses and renewals, so that the hosts do not act in step.
    pub random: Random,
}

/// The data that this host publishes in its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The addresses at which peers reach this host.
    pub public: DualStack<IpAddr>,
    /// The backend's data for peers.
    pub data: BackendData,
    /// The record to publish beside the lease; `None` if the backend needs none.
    pub record: Option<BackendRecord>,
}

/// The state of our lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldState {
    /// There is no lease yet.
    Acquiring {
        /// The reason, for people.
        reason: String,
    },
    /// The lease is held.
    Held {
        /// The lease.
        entry: Arc<Entry>,
        /// The time at which it expires unless it is renewed; `None` for a reservation.
        expires: Option<Instant>,
        /// The reason why it cannot be watched or renewed at the moment.
        trouble: Option<String>,
    },
    /// The lease is no longer in the store. Traffic still uses it, and taking it back is tried again and again.
    Lost {
        /// The lease as it was.
        entry: Arc<Entry>,
        /// The reason why it cannot be taken back, for people.
        reason: String,
    },
}

impl HoldState {
    /// The lease that this host's traffic uses.
    #[must_use]
    pub const fn entry(&self) -> Option<&Arc<Entry>> {
        match self {
            Self::Acquiring { .. } => None,
            Self::Held { entry, .. } | Self::Lost { entry, .. } => Some(entry),
        }
    }

    /// The subnet that this host's traffic uses.
    #[must_use]
    pub fn subnet(&self) -> Option<Subnet> {
        self.entry().map(|entry| entry.lease.subnet)
    }
}

/// The reason given until the first answer of etcd.
const ASKING: &str = "asking etcd for a subnet";

/// A lease being held. Dropping this stops the renewals; the lease stays until it expires.
#[derive(Debug)]
pub struct Hold<S> {
    /// Its state.
    pub state: watch::Receiver<HoldState>,
    leases: watch::Sender<Option<Arc<LeaseTable>>>,
    store: S,
    prefix: KeyPrefix,
    task: Task,
}

impl<S: LeaseStore> Hold<S> {
    /// Spawns the task that acquires a lease and then keeps it. When `offer` changes, the lease is written again.
    pub fn spawn(
        store: S,
        settings: HoldSettings,
        offer: watch::Receiver<Offer>,
        Start { listing, beside }: Start,
    ) -> Self {
        let state = HoldState::Acquiring { reason: ASKING.to_owned() };
        let prefix = settings.prefix.clone();
        let (holder, state, leases) = Holder::new(&store, settings, offer, state);
        Self { state, leases, store, prefix, task: Task::spawn(holder.run(listing), beside) }
    }

    /// Passes on the leases of the other hosts. If one of flanneld's is new, our lease is written again some seconds
    /// later.
    pub fn tell(&self, leases: Arc<LeaseTable>) {
        self.leases.send_replace(Some(leases));
    }

    /// Continues the work of a former [`Hold`]. If traffic uses a lease, that lease is kept or taken back, and never
    /// exchanged for another, whatever the offer is.
    pub fn resume(store: S, settings: HoldSettings, offer: watch::Receiver<Offer>, former: Former) -> Self {
        let Former { state: former, beside } = former;
        let prefix = settings.prefix.clone();
        let (holder, state, leases) = Holder::new(&store, settings, offer, former.clone());
        Self { state, leases, store, prefix, task: Task::spawn(holder.resume(former), beside) }
    }

    /// Gives the lease back, so that another host can have the subnet. A reservation stays.
    ///
    /// # Errors
    /// If the store does not answer: the lease then expires by itself.
    pub async fn release(self) -> Result<(), StoreError> {
        let Self { state, store, task, prefix, .. } = self;
        task.stop().await;
        let held = state.borrow().entry().map(|entry| (entry.lease.subnet, entry.origin.lease));
        match held {
            Some((_, Some(lease))) => store.revoke(lease).await,
            // A reservation stays, but tells of nobody who runs a backend.
            Some((subnet, None)) => {
                let then = vec![Write::Delete(prefix.record(subnet))];
                store.commit(Txn { when: Vec::new(), then }).await.map(drop)
            }
            None => Ok(()),
        }
    }
}

/// The state that a former [`Hold`] hands over.
pub struct Former {
    /// The state of its lease.
    pub state: HoldState,
    /// The future to poll along with the work, as in [`Start`].
    pub beside: Option<Beside>,
}

/// The evidence that a lease with our identity is ours: a clone has the identity of its original.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This is proven to be the host that has the identity.
    Proven,
    /// This host may be a clone: a lease is only ours if it has one of these public addresses.
    At(Vec<IpAddr>),
}

impl Owner {
    fn has(&self, public: &DualStack<IpAddr>) -> bool {
        match self {
            Self::Proven => true,
            Self::At(addresses) => public.iter().any(|(_, address)| addresses.contains(address)),
        }
    }
}

/// A lease of this host while no [`Hold`] runs.
#[derive(Clone, Copy, Debug)]
pub struct HeldLease<'a> {
    /// This host's identity.
    pub identity: &'a str,
    /// The subnet that it held last.
    pub subnet: &'a DualStack<Prefix>,
    /// The evidence that the lease is ours.
    pub owner: &'a Owner,
}

/// Gives back a lease when no [`Hold`] runs any more. Returns false if it is not in the store, belongs to another agent
/// by its guards, is a reservation, or is not ours by the evidence.
///
/// # Errors
/// If the store does not answer.
pub async fn give_back<S: LeaseStore>(store: &S, prefix: &KeyPrefix, held: &HeldLease<'_>) -> Result<bool, StoreError> {
    let HeldLease { identity, subnet, owner } = *held;
    if *owner != Owner::Proven && !owner.has(&published(store, prefix, subnet).await?) {
        return Ok(false);
    }
    for (_, part) in subnet.iter() {
        // Guard and lease are attached to the same lease of the store, so revoking it removes both.
        let guard = store.get(&prefix.guard(*part)).await?.found;
        let ours = guard.filter(|guard| guard.value == identity.as_bytes()).and_then(|guard| guard.lease);
        if let Some(lease) = ours {
            return store.revoke(lease).await.map(|()| true);
        }
    }
    Ok(false)
}

/// The public addresses in the lease of `subnet`.
async fn published<S: LeaseStore>(
    store: &S,
    prefix: &KeyPrefix,
    subnet: &DualStack<Prefix>,
) -> Result<DualStack<IpAddr>, StoreError> {
    let Some(subnet) = Subnet::new(*subnet) else { return Ok(DualStack::default()) };
    let found = store.get(&prefix.lease(subnet)).await?.found;
    Ok(found.and_then(|kv| Entry::of(subnet, &kv)).map(|entry| entry.lease.public).unwrap_or_default())
}

/// The state of the task that holds the lease.
struct Holder<S> {
    store: S,
    settings: HoldSettings,
    directory: Directory,
    offer: watch::Receiver<Offer>,
    state_out: watch::Sender<HoldState>,
    /// The number of lost races.
    attempt: u32,
    /// A granted lease of the store that has no key yet.
    spare: Option<LeaseId>,
    announcing: Announcing,
    /// True until the first look at what the former holder has published.
    is_resumed: bool,
}

/// A lease in the store that is ours.
#[derive(Clone, Debug)]
struct Holding {
    entry: Arc<Entry>,
    /// The times of expiry and renewal; `None` for a reservation.
    life: Option<Life>,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    expires: Instant,
    renew_at: Instant,
}

/// A new holder, the receiver of its state, and the sender that tells it of the other hosts' leases.
type Ends<S> = (Holder<S>, watch::Receiver<HoldState>, watch::Sender<Option<Arc<LeaseTable>>>);

impl<S: LeaseStore> Holder<S> {
    fn new(store: &S, settings: HoldSettings, offer: watch::Receiver<Offer>, state: HoldState) -> Ends<S> {
        let (state_out, state) = watch::channel(state);
        let directory = settings.prefix.leases(settings.pools.v4.is_some());
        let leases = watch::Sender::new(None);
        let announcing = Announcing::new(leases.subscribe(), settings.random.clone());
        let store = store.clone();
        (
            Self {
                store,
                settings,
                directory,
                offer,
                state_out,
                attempt: 0,
                spare: None,
                announcing,
                is_resumed: false,
            },
            state,
            leases,
        )
    }

    async fn run(mut self, listing: Option<Arc<Entries>>) {
        let holding = self.acquire(listing).await;
        self.hold(holding).await;
    }

    async fn resume(mut self, former: HoldState) {
        self.is_resumed = true;
        let holding = match former {
            HoldState::Acquiring { .. } => self.acquire(None).await,
            HoldState::Held { entry, expires, .. } => {
                let renew_at = Instant::now();
                Holding { entry, life: expires.map(|expires| Life { expires, renew_at }) }
            }
            HoldState::Lost { entry, reason } => self.take_back(&Holding { entry, life: None }, reason).await,
        };
        self.hold(holding).await;
    }

    async fn hold(mut self, mut holding: Holding) {
        loop {
            let why = self.keep(&mut holding).await;
            holding = self.take_back(&holding, why).await;
        }
    }

    fn set_state(&self, state: HoldState) {
        self.state_out.send_if_modified(|before| {
            let changed = *before != state;
            *before = state;
            changed
        });
    }

    fn set_held(&self, holding: &Holding, trouble: Option<String>) {
        let expires = holding.life.map(|life| life.expires);
        self.set_state(HoldState::Held { entry: Arc::clone(&holding.entry), expires, trouble });
    }
}

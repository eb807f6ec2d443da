//! Our own lease over its life: acquire, keep alive, take back when lost, give back.
//!
//! One task makes all writes, one at a time. In: what to publish ([`Offer`]). Out: [`HoldState`]. Both by watch channels.
//!
//! Two keys of the store may name overlapping subnets (dual-stack keys that differ in one family, keys of other lengths),
//! so that "the key is absent" alone does not prevent an overlap. Three rules together do:
//! 1. Between wire-agents: each prefix has a guard key, written in the same transaction as the lease and only if it has not
//!    changed since it was read, before the leases were listed or at an older revision than theirs. Who holds a prefix is
//!    told by the leases alone, so that a guard without its lease blocks nobody.
//! 2. With flannel, which knows no guards: after creating, list; of two that overlap the lower create_revision stays.
//! 3. Every later write compares with the revision that is ours.

mod acquire;
mod announce;
mod claim;
mod former;
mod keep;

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};
use wire_net::{Directory, DualStack, KeyPrefix, Pool, Prefix, Subnet};
use wire_store::{LeaseId, LeaseStore, Listing, StoreError};

use self::announce::Announcing;
use crate::{
    BackendData, Beside, Clock, Entry, LeaseTable,
    own::entry_of,
    task::{Start, Task},
};

/// Whose lease is held, and how.
#[derive(Clone, Debug)]
pub struct HoldSettings {
    /// The network's place in the store.
    pub prefix: KeyPrefix,
    /// The pools of the network config.
    pub pools: DualStack<Pool>,
    /// What tells this host from all others, for ever.
    pub identity: String,
    /// How long the lease lives without us.
    pub ttl: Duration,
    /// The clock that tells when it was suspended meanwhile.
    pub clock: Clock,
    /// How long before its end it is renewed at the latest.
    pub renew_margin: Duration,
    /// The subnet held last.
    pub preferred: DualStack<Prefix>,
    /// What must not be leased: the underlay's own subnets.
    pub excluded: Vec<Prefix>,
    /// What is leased only where nothing else is free: bridges of this host have it.
    pub last_resort: Vec<Prefix>,
    /// By which addresses this host reaches the store: a lease that holds one is none of ours, whoever has written it.
    pub endpoints: Vec<IpAddr>,
    /// Whether this is surely the host that held `preferred`, and no clone of it: its lease is then ours under whatever
    /// public address.
    pub same_host: bool,
}

/// This host's part of its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Where peers reach it.
    pub public: DualStack<IpAddr>,
    /// The data of the backend, for peers.
    pub data: BackendData,
}

/// The state of our lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HoldState {
    /// There is none yet.
    Acquiring {
        /// The obstacle, for people.
        reason: String,
    },
    /// It is ours.
    Held {
        /// The lease.
        entry: Arc<Entry>,
        /// When it ends unless it is renewed; `None` for a reservation.
        expires: Option<Instant>,
        /// Why it cannot be watched or renewed at the moment.
        trouble: Option<String>,
    },
    /// It was ours and is not in the store any more. Traffic goes on with it, and it is asked for again and again.
    Lost {
        /// The lease as it was.
        entry: Arc<Entry>,
        /// Why it cannot be had, for people.
        reason: String,
    },
}

impl HoldState {
    /// The lease that this host's traffic runs on.
    #[must_use]
    pub const fn entry(&self) -> Option<&Arc<Entry>> {
        match self {
            Self::Acquiring { .. } => None,
            Self::Held { entry, .. } | Self::Lost { entry, .. } => Some(entry),
        }
    }

    /// The subnet that this host's traffic runs on.
    #[must_use]
    pub fn subnet(&self) -> Option<Subnet> {
        self.entry().map(|entry| entry.lease.subnet)
    }
}

/// What is waited for as long as nothing is known.
const ASKING: &str = "asking etcd for a subnet";

/// A lease being held. When this is dropped it is held no longer, but stays until it expires.
#[derive(Debug)]
pub struct Hold<S> {
    /// Its state.
    pub state: watch::Receiver<HoldState>,
    leases: watch::Sender<Option<Arc<LeaseTable>>>,
    store: S,
    task: Task,
}

impl<S: LeaseStore> Hold<S> {
    /// Starts to acquire and then to keep. When `offer` changes, the lease is written again.
    pub fn spawn(
        store: S,
        settings: HoldSettings,
        offer: watch::Receiver<Offer>,
        Start { listing, beside }: Start,
    ) -> Self {
        let state = HoldState::Acquiring { reason: ASKING.to_owned() };
        let (holder, state, leases) = Holder::new(&store, settings, offer, state);
        Self { state, leases, store, task: Task::spawn(holder.run(listing), beside) }
    }

    /// Tells it of the leases of others. Where one of flanneld's has come, our lease is written again some seconds later.
    pub fn tell(&self, leases: Arc<LeaseTable>) {
        self.leases.send_replace(Some(leases));
    }

    /// Goes on with what a former one had. Where traffic runs on a lease, that one is kept or taken back, and never exchanged for
    /// another, whatever is offered now.
    pub fn resume(store: S, settings: HoldSettings, offer: watch::Receiver<Offer>, former: Former) -> Self {
        let Former { state: former, beside } = former;
        let (holder, state, leases) = Holder::new(&store, settings, offer, former.clone());
        Self { state, leases, store, task: Task::spawn(holder.resume(former), beside) }
    }

    /// Gives the lease back, so that another host can have the subnet. A reservation stays.
    ///
    /// # Errors
    /// When the store does not answer: the lease then ends by itself.
    pub async fn release(self) -> Result<(), StoreError> {
        let Self { state, store, task, .. } = self;
        task.stop().await;
        let lease = state.borrow().entry().and_then(|entry| entry.origin.lease);
        match lease {
            Some(lease) => store.revoke(lease).await,
            None => Ok(()),
        }
    }
}

/// The legacy of a former [`Hold`].
pub struct Former {
    /// The state of its lease.
    pub state: HoldState,
    /// As in [`Start`].
    pub beside: Option<Beside>,
}

/// How it is known that a lease with our identity is ours: a clone has its original's identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This is surely the host that has the identity.
    Proven,
    /// It may be a clone: only a lease that says one of these addresses is ours.
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

/// Gives back the lease of `subnet` that the agent with `identity` held, so that another host can have it; for when no
/// [`Hold`] is there any more. False where it holds none, or one that never ends, or is not `owner`.
///
/// # Errors
/// When the store does not answer.
pub async fn give_back<S: LeaseStore>(
    store: &S,
    prefix: &KeyPrefix,
    (identity, subnet): (&str, &DualStack<Prefix>),
    owner: &Owner,
) -> Result<bool, StoreError> {
    if *owner != Owner::Proven && !owner.has(&published(store, prefix, subnet).await?) {
        return Ok(false);
    }
    for (_, part) in subnet.iter() {
        // The guard and the lease hang on the same lease of the store, and both go with it.
        let guard = store.get(&prefix.guard(*part)).await?.found;
        let ours = guard.filter(|guard| guard.value == identity.as_bytes()).and_then(|guard| guard.lease);
        if let Some(lease) = ours {
            return store.revoke(lease).await.map(|()| true);
        }
    }
    Ok(false)
}

/// The public addresses that the lease of `subnet` says.
async fn published<S: LeaseStore>(
    store: &S,
    prefix: &KeyPrefix,
    subnet: &DualStack<Prefix>,
) -> Result<DualStack<IpAddr>, StoreError> {
    let Some(subnet) = Subnet::new(*subnet) else { return Ok(DualStack::default()) };
    let found = store.get(&prefix.lease(subnet)).await?.found;
    Ok(found.and_then(|kv| entry_of(subnet, &kv)).map(|entry| entry.lease.public).unwrap_or_default())
}

/// The task's state.
struct Holder<S> {
    store: S,
    settings: HoldSettings,
    directory: Directory,
    offer: watch::Receiver<Offer>,
    state_out: watch::Sender<HoldState>,
    /// Counts lost races.
    attempt: u32,
    /// A lease of the store that was granted to us and has no key yet.
    spare: Option<LeaseId>,
    announcing: Announcing,
}

/// A lease that is ours in the store.
#[derive(Clone, Debug)]
struct Holding {
    entry: Arc<Entry>,
    /// When it ends and when it is renewed; `None` for a reservation.
    life: Option<Life>,
}

#[derive(Clone, Copy, Debug)]
struct Life {
    expires: Instant,
    renew_at: Instant,
}

/// What a new holder says, and where it is told of the leases of others.
type Ends<S> = (Holder<S>, watch::Receiver<HoldState>, watch::Sender<Option<Arc<LeaseTable>>>);

impl<S: LeaseStore> Holder<S> {
    fn new(store: &S, settings: HoldSettings, offer: watch::Receiver<Offer>, state: HoldState) -> Ends<S> {
        let (state_out, state) = watch::channel(state);
        let directory = settings.prefix.leases(settings.pools.v4.is_some());
        let leases = watch::Sender::new(None);
        let announcing = Announcing::new(leases.subscribe());
        let store = store.clone();
        (Self { store, settings, directory, offer, state_out, attempt: 0, spare: None, announcing }, state, leases)
    }

    async fn run(mut self, listing: Option<Arc<Listing>>) {
        let holding = self.acquire(listing).await;
        self.hold(holding).await;
    }

    async fn resume(mut self, former: HoldState) {
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

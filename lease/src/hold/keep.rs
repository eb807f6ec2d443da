//! Keeps the lease: renews it and watches our key.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, info, warn};
use wire_net::chain;
use wire_store::{Backoff, KeyEvent, KeyValue, KeyWatch, LeaseStore};

use super::{
    Holder, Holding, Life,
    acquire::OTHER_AGENT_AGAIN,
    claim::ClaimError,
    lease_write::{LeaseWrite, RecordWrite},
};
use crate::{
    Entry, Lease, Origin,
    clock::{SuspendDetector, sleep_until},
    own::addresses,
};

/// The time between reads of our key, made although the watch is open: etcd has lost watch events.
const READ_EVERY: Duration = Duration::from_secs(5 * 60);
/// The time between checks whether the host was suspended.
const SUSPEND_CHECK_EVERY: Duration = Duration::from_secs(5);
/// Between failed renewals.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
/// Between writes, while another program keeps changing our entry.
const REWRITES: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(2));
/// After this time without a write, the pauses between writes start anew.
const UNDISTURBED: Duration = Duration::from_secs(30);

/// After a suspension, brings expiry and renewal nearer by its length and reads our key: no watch event has arrived
/// meanwhile.
fn after_suspension<S: LeaseStore>(holding: &mut Holding, keeping: &mut KeepState<S>) {
    let Some(suspended) = keeping.suspend.suspended() else { return };
    keeping.watch.read_again();
    let Some(life) = &mut holding.life else { return };
    let now = Instant::now();
    let earlier = |at: Instant| at.checked_sub(suspended).unwrap_or(now);
    *life = Life { expires: earlier(life.expires), renew_at: earlier(life.renew_at) };
    let seconds = suspended.as_secs();
    info!(seconds, "this host was suspended; asking etcd for its lease");
    if life.expires <= now {
        let text = format!(
            "this host was suspended for {seconds} s, longer than its lease lives: asking etcd whether the lease \
             still exists"
        );
        keeping.suspend_trouble = Some(text);
    }
}

enum KeepEvent {
    Key(KeyEvent),
    RenewalDue,
    ReadDue,
    Offer,
    /// There are new leases of other hosts.
    Others,
    SuspendCheckDue,
    /// It is time to publish an offer that could not be published before.
    PublishDue,
}

/// The state of the loop that keeps the lease, beside the lease itself.
struct KeepState<S: LeaseStore> {
    watch: KeyWatch<S>,
    read_at: Instant,
    pauses: Backoff,
    rewrites: Backoff,
    rewritten: Option<Instant>,
    /// The last write has failed, or nobody knows whether it has.
    is_unwritten: bool,
    /// The time of the next attempt to publish the offer. Until then the lease stays as it is.
    publish_at: Option<Instant>,
    watch_trouble: Option<String>,
    renew_trouble: Option<String>,
    suspend: SuspendDetector,
    /// The time of the next check for a suspension.
    suspend_check_at: Instant,
    /// Set while the lease may have expired during a suspension and etcd has not answered yet.
    suspend_trouble: Option<String>,
    write_trouble: Option<String>,
    publish_trouble: Option<String>,
}

impl<S: LeaseStore> KeepState<S> {
    fn trouble(&self) -> Option<String> {
        let Self { publish_trouble, suspend_trouble, write_trouble, renew_trouble, watch_trouble, .. } = self;
        let troubles = [publish_trouble, suspend_trouble, write_trouble, renew_trouble, watch_trouble];
        troubles.into_iter().flatten().next().cloned()
    }
}

impl<S: LeaseStore> Holder<S> {
    /// Keeps the lease until it is lost, and returns the reason.
    pub(super) async fn keep(&mut self, holding: &mut Holding) -> String {
        let key = self.settings.prefix.lease(holding.entry.lease.subnet);
        let random = self.settings.random.clone();
        let mut keeping = KeepState {
            watch: KeyWatch::new(self.store.clone(), key, holding.entry.origin.mod_revision, random.clone()),
            read_at: Instant::now() + random.shortened(READ_EVERY, 0.1),
            pauses: PAUSES,
            rewrites: REWRITES,
            rewritten: None,
            publish_at: None,
            watch_trouble: None,
            renew_trouble: None,
            suspend: SuspendDetector::new(self.settings.clock.clone()),
            suspend_check_at: Instant::now() + SUSPEND_CHECK_EVERY,
            suspend_trouble: None,
            write_trouble: None,
            publish_trouble: None,
            is_unwritten: false,
        };
        // A lease from a former holder may hold that one's offer.
        self.publish(holding, &mut keeping).await;
        loop {
            let lost = match self.next_event(holding, &mut keeping).await {
                KeepEvent::Key(KeyEvent::Broken(error)) => {
                    keeping.watch_trouble = Some(chain(&error));
                    None
                }
                KeepEvent::Key(KeyEvent::Is(found)) => {
                    keeping.watch_trouble = None;
                    self.compare(holding, &mut keeping, found).await
                }
                KeepEvent::Others => {
                    self.announce(holding).await;
                    None
                }
                KeepEvent::SuspendCheckDue => {
                    keeping.suspend_check_at = Instant::now() + SUSPEND_CHECK_EVERY;
                    after_suspension(holding, &mut keeping);
                    None
                }
                KeepEvent::RenewalDue => self.renew(holding, &mut keeping).await,
                KeepEvent::ReadDue => {
                    keeping.read_at = Instant::now() + random.shortened(READ_EVERY, 0.1);
                    keeping.watch.read_again();
                    None
                }
                KeepEvent::Offer | KeepEvent::PublishDue => {
                    self.publish(holding, &mut keeping).await;
                    None
                }
            };
            if let Some(why) = lost {
                return why;
            }
            self.set_held(holding, keeping.trouble());
        }
    }

    async fn next_event(&mut self, holding: &Holding, keeping: &mut KeepState<S>) -> KeepEvent {
        let offer = async {
            if self.offer.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = sleep_until(keeping.publish_at) => KeepEvent::PublishDue,
            event = keeping.watch.next() => KeepEvent::Key(event),
            () = sleep_until(holding.life.map(|life| life.renew_at)) => KeepEvent::RenewalDue,
            () = tokio::time::sleep_until(keeping.read_at) => KeepEvent::ReadDue,
            () = offer => KeepEvent::Offer,
            () = self.announcing.due() => KeepEvent::Others,
            () = tokio::time::sleep_until(keeping.suspend_check_at) => KeepEvent::SuspendCheckDue,
        }
    }

    fn offers_other_than(&mut self, lease: &Lease) -> bool {
        let offer = self.offer.borrow_and_update();
        offer.public != lease.public || offer.data != lease.data
    }

    async fn is_recorded_now(&self, holding: &Holding) -> bool {
        let offer = self.offer.borrow().clone();
        self.is_recorded(&holding.entry, &offer).await.unwrap_or(false)
    }

    /// Writes the current offer, unless another live host has the new public address: that host would lose its lease.
    async fn publish(&mut self, holding: &mut Holding, keeping: &mut KeepState<S>) {
        (keeping.publish_at, keeping.publish_trouble) = (None, None);
        // Of the record, only the former holder knows what it has written.
        let is_other = self.offers_other_than(&holding.entry.lease)
            || (std::mem::take(&mut self.is_resumed) && !self.is_recorded_now(holding).await);
        if !is_other {
            return;
        }
        let own = &holding.entry.lease;
        let free = if self.offer.borrow().public == own.public { Ok(()) } else { self.is_free(own).await };
        let (pause, trouble) = match free {
            Ok(()) => return self.rewrite(holding, keeping).await,
            Err(ClaimError::Store(error)) => (keeping.rewrites.pause(&self.settings.random), Some(chain(&error))),
            Err(ClaimError::Raced(_)) => (keeping.rewrites.pause(&self.settings.random), None),
            Err(ClaimError::Taken(reason) | ClaimError::OtherAgent(reason)) => (OTHER_AGENT_AGAIN, Some(reason)),
            Err(ClaimError::Full(no_room, _)) => (OTHER_AGENT_AGAIN, Some(no_room.to_string())),
        };
        keeping.publish_at = Some(Instant::now() + self.settings.random.shortened(pause, 0.5));
        keeping.publish_trouble = trouble;
        self.set_held(holding, keeping.trouble());
    }

    async fn renew(&self, holding: &mut Holding, keeping: &mut KeepState<S>) -> Option<String> {
        let (lease, life) = holding.entry.origin.lease.zip(holding.life)?;
        let asked = Instant::now();
        match self.store.keep_alive(lease).await {
            Ok(Some(ttl)) => {
                debug!(%lease, ttl = ttl.as_secs(), "lease renewed");
                holding.life = Some(self.life(ttl, asked + ttl));
                keeping.pauses = PAUSES;
                keeping.renew_trouble = None;
                None
            }
            Ok(None) => Some(format!("etcd no longer knows lease {lease}: it expired or was revoked")),
            Err(error) => {
                let renew_at =
                    Instant::now() + keeping.pauses.pause(&self.settings.random).max(Duration::from_millis(100));
                holding.life = Some(Life { renew_at, ..life });
                keeping.renew_trouble = Some(chain(&error));
                None
            }
        }
    }

    /// Compares the content of our key with our lease. Returns a reason if the lease is lost.
    async fn compare(
        &mut self,
        holding: &mut Holding,
        keeping: &mut KeepState<S>,
        found: Option<KeyValue>,
    ) -> Option<String> {
        let subnet = holding.entry.lease.subnet;
        let Some(kv) = found else { return Some("its key was deleted".to_owned()) };
        keeping.suspend_trouble = None;
        let first = |lease: &Lease| lease.public.iter().next().map(|(_, address)| *address);
        match Entry::of(subnet, &kv) {
            Some(entry) if entry == *holding.entry => {
                keeping.write_trouble = None;
                // The offer may have changed while the store did not answer, and so may its record, which is no part of the lease.
                if keeping.is_unwritten || self.offers_other_than(&holding.entry.lease) {
                    self.rewrite(holding, keeping).await;
                }
                None
            }
            Some(entry) if entry.lease == holding.entry.lease => {
                keeping.write_trouble = None;
                // Another agent of this host renewed it, or someone made it a reservation.
                info!(%subnet, reservation = entry.origin.lease.is_none(), "this host's lease was written by another \
                                                                            program");
                let asked = entry.origin.lease.is_some() && entry.origin.lease == holding.entry.origin.lease;
                self.follow_origin(holding, entry).await;
                if asked {
                    warn!(%subnet, "another agent with this host's public address asks whether this agent is alive; \
                                    answering");
                    self.rewrite(holding, keeping).await;
                }
                None
            }
            Some(entry) if first(&entry.lease) != first(&holding.entry.lease) => {
                Some(format!("the host {} wrote its own address into it", addresses(&entry.lease)))
            }
            // Changed or made unreadable: write it again, but not in a tight loop against another program.
            Some(_) | None => {
                warn!(%subnet, "this host's lease was changed by another program; writing it again");
                let origin = Origin {
                    mod_revision: kv.mod_revision,
                    create_revision: kv.create_revision,
                    ..holding.entry.origin
                };
                holding.entry = Arc::new(Entry { lease: holding.entry.lease.clone(), origin });
                self.rewrite(holding, keeping).await;
                None
            }
        }
    }

    /// Adopts the new origin of an entry with the same content.
    async fn follow_origin(&self, holding: &mut Holding, entry: Entry) {
        let life = match entry.origin.lease {
            None => None,
            Some(lease) if holding.entry.origin.lease == Some(lease) => holding.life,
            Some(lease) => {
                let left = self.store.time_to_live(lease).await.ok().flatten();
                let (left, ttl) = left.unwrap_or((self.settings.ttl, self.settings.ttl));
                Some(Life { renew_at: Instant::now(), ..self.life(ttl, Instant::now() + left) })
            }
        };
        *holding = Holding { entry: Arc::new(entry), life };
    }

    /// Writes our entry with the current offer.
    async fn rewrite(&mut self, holding: &mut Holding, keeping: &mut KeepState<S>) {
        let offer = self.offer.borrow_and_update().clone();
        if keeping.rewritten.is_some_and(|last| last.elapsed() > UNDISTURBED) {
            keeping.rewrites.reset();
        }
        tokio::time::sleep(keeping.rewrites.pause(&self.settings.random)).await;
        let to = match keeping.publish_at {
            None => Lease::new(holding.entry.lease.subnet, offer.public, offer.data),
            Some(_) => holding.entry.lease.clone(),
        };
        let from = Entry::clone(&holding.entry);
        let listed = from.origin.mod_revision;
        let write = LeaseWrite {
            to,
            lease: from.origin.lease,
            from: Some(from),
            guards: Vec::new(),
            record: RecordWrite::of(&offer.record),
        };
        let written = self.write(&write, listed).await;
        keeping.is_unwritten = written.is_err();
        match written {
            Ok(entry) => {
                holding.entry = Arc::new(entry);
                keeping.write_trouble = None;
            }
            // The read that follows shows what happened.
            Err(ClaimError::Store(error)) => keeping.write_trouble = Some(chain(&error)),
            // The store may no longer know our lease, as after a restore of a backup: the renewal shows that.
            Err(_) => {
                let renew_at = Instant::now();
                holding.life = holding.life.map(|life| Life { renew_at, ..life });
            }
        }
        keeping.rewritten = Some(Instant::now());
        keeping.watch.read_again();
    }
}

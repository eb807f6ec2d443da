//! The loop that keeps one resource of this host as desired, in a thread of its own: a call that blocks one loop does not delay the others.
//!
//! Input: the share of each network in the desired state, by the network's name. A round begins when a share changes, when the host may have
//! changed, and after a while in any case. The cause does not matter: each round compares the whole resource.

use std::{collections::BTreeMap, fmt, io, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use wire_net::NetworkName;
use wire_state::{Clash, Comparison, Resource, Share};

use crate::{ports::Ports, pulse::Heartbeat};

/// The share of each network in the desired state of a resource, by the network's name.
pub(crate) type Shares<T> = BTreeMap<NetworkName, T>;

/// The part of a loop that is different for each resource.
pub(crate) trait ResourceLoop: Send + 'static {
    /// The share of one network in the desired state, or the values that it is computed from.
    type Share: Clone + fmt::Debug + Send + Sync + 'static;
    /// The outcome of a round, for tasks that wait for it.
    type Outcome: Clone + fmt::Debug + Default + Send + Sync + 'static;

    /// Compares, changes what differs, and reports to the status. `is_new` is true if a share has changed since the previous round.
    fn round(&mut self, shares: &Shares<Self::Share>, is_new: bool) -> Round<Self::Outcome>;

    /// Compares without changing anything.
    ///
    /// # Errors
    /// The reason why the host cannot be read, for people.
    fn compare(&mut self, shares: &Shares<Self::Share>) -> Answer;

    /// Waits until something may have changed on the host. The future is dropped when anything else starts a round.
    fn changed(&mut self) -> impl Future<Output = ()>;

    /// Called before a round that begins only because its time has come ([`Round::next`]).
    fn due(&mut self);
}

/// The outcome of a round, and the time of the next one.
pub(crate) struct Round<O> {
    pub(crate) outcome: O,
    /// The time of the next round, if nothing starts one earlier.
    pub(crate) next: Instant,
    /// The pause between the change of a share and the round that follows: changes within this time share the round.
    pub(crate) batch: Duration,
}

#[derive(Debug)]
struct Wanted<T> {
    /// The number of changes so far.
    number: u64,
    shares: Shares<T>,
}

/// The outcome of the last round, and the number of the last change that the round took into account.
#[derive(Clone, Debug, Default)]
struct LastRound<O> {
    number: u64,
    /// The number of rounds so far.
    rounds: u64,
    outcome: O,
}

/// A comparison, or why there is none, for people.
pub(crate) type Answer = Result<Comparison, String>;

/// A handle on a running loop. When the last clone is dropped, the loop ends and leaves the host as it is.
pub(crate) struct LoopHandle<S, O> {
    wanted: watch::Sender<Wanted<S>>,
    last_round: watch::Receiver<LastRound<O>>,
    requests: mpsc::Sender<oneshot::Sender<Answer>>,
    /// The number of rounds that [`LoopHandle::next_round`] has returned.
    seen: u64,
}

/// A loop could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the loop of the {name}")]
pub(crate) struct StartError {
    pub(crate) name: &'static str,
    #[source]
    pub(crate) source: io::Error,
}

/// Starts a loop. Nothing is written or compared before the first share is set. With a `heartbeat`, the watchdog notices a loop that blocks, since
/// its questions are answered only while the loop waits. A loop without one may block for any time.
///
/// # Errors
/// When no runtime or no thread can be created.
pub(crate) fn start<L: ResourceLoop>(
    ports: &impl Ports,
    name: &'static str,
    resource: L,
    heartbeat: Option<Heartbeat>,
) -> Result<LoopHandle<L::Share, L::Outcome>, StartError> {
    let (wanted, shares) = watch::channel(Wanted { number: 0, shares: Shares::new() });
    let (rounds, last_round) = watch::channel(LastRound::default());
    let (requests, received) = mpsc::channel(1);
    let running = ReconcileLoop { resource, wanted: shares, last_round: rounds, requests: received };
    let run = move || async move {
        match heartbeat {
            Some(mut heartbeat) => heartbeat.during(running.run()).await,
            None => running.run().await,
        }
    };
    ports.start_loop(name, run).map_err(|source| StartError { name, source })?;
    Ok(LoopHandle { wanted, last_round, requests, seen: 0 })
}

impl<S, O> Clone for LoopHandle<S, O> {
    fn clone(&self) -> Self {
        let Self { wanted, last_round, requests, seen } = self;
        Self { wanted: wanted.clone(), last_round: last_round.clone(), requests: requests.clone(), seen: *seen }
    }
}

impl<S, O: Clone> LoopHandle<S, O> {
    /// Sets the share of a network. Returns the number of this change, for [`LoopHandle::outcome_of`].
    pub(crate) fn want(&self, network: &NetworkName, share: S) -> u64 {
        let mut number = 0;
        self.wanted.send_modify(|wanted| {
            wanted.shares.insert(network.clone(), share);
            wanted.number += 1;
            number = wanted.number;
        });
        number
    }

    /// Takes away the share of a network that has nothing on the host any more.
    pub(crate) fn forget(&self, network: &NetworkName) {
        self.wanted.send_modify(|wanted| {
            wanted.shares.remove(network);
            wanted.number += 1;
        });
    }

    /// Waits for a round that takes the change with this number into account, and returns its outcome. `None` if the thread has died.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn outcome_of(&self, number: u64) -> Option<O> {
        let mut last_round = self.last_round.clone();
        let last = last_round.wait_for(|last| last.number >= number).await;
        last.ok().map(|last| last.outcome.clone())
    }

    /// Waits for the next round that takes the change with this number into account, and returns its outcome. `None` if the thread has died.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn next_round(&mut self, number: u64) -> Option<O> {
        let seen = self.seen;
        // One wait: between two, a caller that stops waiting would lose the round.
        let last = self.last_round.wait_for(|last| last.number >= number && last.rounds > seen).await.ok()?;
        self.seen = last.rounds;
        Some(last.outcome.clone())
    }

    /// Waits until the thread has died.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn died(&self) {
        self.wanted.closed().await;
    }

    /// Compares the host with what the networks want, and changes nothing. Waits at most for `timeout`.
    ///
    /// # Errors
    /// The reason why there is no comparison, for people.
    pub(crate) async fn compare(&self, timeout: Duration) -> Answer {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.requests.send(answer).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(timeout, asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err("it has died".to_owned()),
            Err(_) => Err(format!("it has not answered for {}", humantime::format_duration(timeout))),
        }
    }
}

type Named<D> = (NetworkName, Arc<D>);

/// The shares of a loop at the last merge, and the result.
pub(crate) struct LastMerge<D> {
    shares: Vec<Named<D>>,
    /// `None` if there were clashes.
    merged: Option<Arc<D>>,
}

impl<D> Default for LastMerge<D> {
    fn default() -> Self {
        Self { shares: Vec::new(), merged: None }
    }
}

/// The desired state of all networks, from that of each; `report` gets the clashes. The state of a network that is alone is not copied, and that of
/// several is brought forward from the last one: anything else would take longer than the rest of a round.
pub(crate) fn merged<'a, R: Resource>(
    last: &mut LastMerge<R::Desired>,
    shares: impl Iterator<Item = (&'a NetworkName, Arc<R::Desired>)>,
    report: impl FnOnce(Option<Vec<Clash>>),
) -> Arc<R::Desired> {
    let shares: Vec<Named<R::Desired>> = shares.map(|(name, desired)| (name.clone(), desired)).collect();
    let (desired, clashes) = match &shares[..] {
        [(_, only)] => (only.clone(), Vec::new()),
        _ => match brought_forward::<R>(last, &shares) {
            Some(desired) => (desired, Vec::new()),
            None => {
                let (desired, clashes) = R::merge(&lent(&shares));
                (Arc::new(desired), clashes)
            }
        },
    };
    *last = LastMerge { shares, merged: clashes.is_empty().then(|| desired.clone()) };
    report((!clashes.is_empty()).then_some(clashes));
    desired
}

/// The last desired state, if the shares are the same, or as it follows from those that are not.
fn brought_forward<R: Resource>(last: &LastMerge<R::Desired>, shares: &[Named<R::Desired>]) -> Option<Arc<R::Desired>> {
    let merged = last.merged.as_ref()?;
    let mut both = last.shares.iter().zip(shares);
    let is_same = last.shares.len() == shares.len()
        && both.all(|((one, before), (other, now))| one == other && Arc::ptr_eq(before, now));
    if is_same {
        return Some(merged.clone());
    }
    R::merge_since(&lent(&last.shares), merged, &lent(shares)).map(Arc::new)
}

fn lent<D>(shares: &[Named<D>]) -> Vec<Share<'_, D>> {
    shares.iter().map(|(network, desired)| Share { network, desired: &**desired }).collect()
}

struct ReconcileLoop<L: ResourceLoop> {
    resource: L,
    wanted: watch::Receiver<Wanted<L::Share>>,
    last_round: watch::Sender<LastRound<L::Outcome>>,
    requests: mpsc::Receiver<oneshot::Sender<Answer>>,
}

impl<L: ResourceLoop> ReconcileLoop<L> {
    async fn run(mut self) {
        if self.first().await.is_none() {
            return;
        }
        let (mut known, mut rounds) = (0, 0);
        loop {
            let (number, shares) = {
                let wanted = self.wanted.borrow_and_update();
                (wanted.number, wanted.shares.clone())
            };
            let Round { outcome, next, batch } = self.resource.round(&shares, number != known);
            known = number;
            rounds += 1;
            self.last_round.send_replace(LastRound { number, rounds, outcome });
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // A sleep of no time takes until the timer's next tick, which is a millisecond.
                    if !batch.is_zero() {
                        tokio::time::sleep(batch).await;
                    }
                }
                () = self.resource.changed() => (),
                Some(request) = self.requests.recv() => {
                    // The caller may have stopped waiting.
                    let _ = request.send(self.resource.compare(&shares));
                }
                () = tokio::time::sleep_until(next) => self.resource.due(),
            }
        }
    }

    /// Waits for the first share. `None` if all handles were dropped.
    async fn first(&mut self) -> Option<()> {
        while self.wanted.borrow().number == 0 {
            tokio::select! {
                changed = self.wanted.changed() => changed.ok()?,
                Some(request) = self.requests.recv() => {
                    let _ = request.send(Err("the network is not joined yet".to_owned()));
                }
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::ports::System;

    /// Counts its rounds. A share below 0 stands for a host that cannot be read; at this one, the thread dies.
    struct Counter(Arc<AtomicUsize>);

    const DEADLY: i32 = 666;

    impl ResourceLoop for Counter {
        type Share = i32;
        type Outcome = i32;

        fn round(&mut self, shares: &Shares<i32>, _: bool) -> Round<i32> {
            self.0.fetch_add(1, Ordering::Relaxed);
            let outcome = shares.values().sum();
            assert_ne!(outcome, DEADLY, "as asked");
            Round { outcome, next: Instant::now() + Duration::from_secs(600), batch: Duration::ZERO }
        }

        fn compare(&mut self, shares: &Shares<i32>) -> Answer {
            match shares.values().all(|share| *share >= 0) {
                true => Ok(Comparison::default()),
                false => Err("routes changed each time they were read".to_owned()),
            }
        }

        fn changed(&mut self) -> impl Future<Output = ()> {
            std::future::pending()
        }

        fn due(&mut self) {}
    }

    fn running() -> (LoopHandle<i32, i32>, Arc<AtomicUsize>) {
        let rounds = Arc::<AtomicUsize>::default();
        (start(&System::default(), "counter", Counter(rounds.clone()), None).unwrap(), rounds)
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn the_desired_state_of_a_network_alone_is_not_copied() {
        let (first, second) = (NetworkName::default(), "blue".parse().unwrap());
        let only = Arc::new(wire_state::DesiredFiles::new());
        let last = &mut LastMerge::default();
        let alone = merged::<wire_state::Files>(last, [(&first, only.clone())].into_iter(), |clashes| {
            assert!(clashes.is_none());
        });
        assert!(Arc::ptr_eq(&alone, &only));
        let both = [(&first, only.clone()), (&second, only.clone())].into_iter();
        assert_eq!(merged::<wire_state::Files>(last, both, |clashes| assert!(clashes.is_none())), only);
    }

    #[tokio::test]
    async fn who_waits_for_a_thread_that_dies_is_told() {
        let (handle, _) = running();
        let number = handle.want(&NetworkName::default(), DEADLY);
        handle.died().await;
        assert_eq!(handle.outcome_of(number).await, None);
        assert_eq!(handle.compare(PATIENCE).await, Err("it has died".to_owned()));
    }

    #[tokio::test]
    async fn each_round_uses_the_shares_of_all_networks() {
        let (handle, rounds) = running();
        assert_eq!(rounds.load(Ordering::Relaxed), 0, "nothing is wanted yet");
        let (first, second) = (NetworkName::default(), "blue".parse().unwrap());
        let number = handle.want(&first, 3);
        assert_eq!(handle.outcome_of(number).await, Some(3));
        let number = handle.want(&second, 4);
        assert_eq!(handle.outcome_of(number).await, Some(7));
        let number = handle.want(&first, 5);
        assert_eq!(handle.outcome_of(number).await, Some(9));
    }

    #[tokio::test]
    async fn a_comparison_is_refused_before_a_network_is_joined_and_where_the_host_cannot_be_read() {
        let (handle, _) = running();
        assert_eq!(handle.compare(PATIENCE).await, Err("the network is not joined yet".to_owned()));
        let number = handle.want(&NetworkName::default(), 1);
        handle.outcome_of(number).await.unwrap();
        assert_eq!(handle.compare(PATIENCE).await, Ok(Comparison::default()));
        handle.want(&NetworkName::default(), -1);
        handle.outcome_of(number + 1).await.unwrap();
        let refused = handle.compare(PATIENCE).await.unwrap_err();
        assert_eq!(refused, "routes changed each time they were read");
    }
}

//! The loop that keeps one resource of this host as desired, in a thread of its own: what blocks one resource delays no other.
//!
//! In: what each network of this host wants, by its name. The loop compares when that changes, when something may have changed on the host, and
//! after a while in any case. Whatever wakes it only means "compare".

use std::{
    collections::BTreeMap,
    fmt, io, thread,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot, watch};
use wire_net::NetworkName;
use wire_state::Comparison;

use crate::pulse::Heartbeat;

/// What the networks of this host want of a resource.
pub(crate) type Shares<T> = BTreeMap<NetworkName, T>;

/// A resource as its loop keeps it.
pub(crate) trait Kept: Send + 'static {
    /// What one network wants.
    type Share: Clone + fmt::Debug + Send + Sync + 'static;
    /// What a comparison has led to, for those who wait for it.
    type Outcome: Clone + fmt::Debug + Default + Send + Sync + 'static;

    /// Compares, changes what differs, and reports. `is_new` tells that a network wants something else than in the round before.
    fn round(&mut self, shares: &Shares<Self::Share>, is_new: bool) -> Round<Self::Outcome>;

    /// Compares without changing anything.
    ///
    /// # Errors
    /// Why the host cannot be read, for people.
    fn compare(&mut self, shares: &Shares<Self::Share>) -> Answer;

    /// Waits until something may have changed on the host. It is cancelled when a network wants something else.
    fn changed(&mut self) -> impl Future<Output = ()>;

    /// Is told that nothing has changed until it was time for the next round.
    fn due(&mut self);
}

/// The end of a round.
pub(crate) struct Round<O> {
    pub(crate) outcome: O,
    /// The time of the next round, if nothing wakes the loop before.
    pub(crate) next: Instant,
    /// Networks that change what they want share a round if they do so within this time.
    pub(crate) batch: Duration,
}

#[derive(Debug)]
struct Wanted<T> {
    /// Counts the changes; 0 before the first.
    number: u64,
    shares: Shares<T>,
}

/// The outcome of the last round, and the number of the last change that it knew.
#[derive(Clone, Debug, Default)]
struct Compared<O> {
    number: u64,
    outcome: O,
}

/// A comparison, or why there is none, for people.
pub(crate) type Answer = Result<Comparison, String>;

/// A running loop. It ends with the last clone of this, and leaves the host as it is.
pub(crate) struct LoopHandle<K: Kept> {
    wanted: watch::Sender<Wanted<K::Share>>,
    compared: watch::Receiver<Compared<K::Outcome>>,
    requests: mpsc::Sender<oneshot::Sender<Answer>>,
}

/// A loop could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the {name}'s {what}")]
pub(crate) struct StartError {
    pub(crate) name: &'static str,
    /// `runtime` or `thread`.
    pub(crate) what: &'static str,
    #[source]
    pub(crate) source: io::Error,
}

/// Starts a loop. It writes nothing before a network wants something. `heartbeat` answers while the loop waits; a loop without one may block
/// for as long as it likes.
///
/// # Errors
/// When there is no thread.
pub(crate) fn start<K: Kept>(
    name: &'static str,
    kept: K,
    heartbeat: Option<Heartbeat>,
) -> Result<LoopHandle<K>, StartError> {
    let cannot = |what| move |source| StartError { name, what, source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot("runtime"))?;
    let (wanted, wishes) = watch::channel(Wanted { number: 0, shares: Shares::new() });
    let (done, compared) = watch::channel(Compared::default());
    let (requests, asked) = mpsc::channel(1);
    let running = ReconcileLoop { kept, wishes, done, asked };
    let run = move || match heartbeat {
        Some(mut heartbeat) => runtime.block_on(heartbeat.during(running.run())),
        None => runtime.block_on(running.run()),
    };
    thread::Builder::new().name(name.to_owned()).spawn(run).map_err(cannot("thread"))?;
    Ok(LoopHandle { wanted, compared, requests })
}

impl<K: Kept> Clone for LoopHandle<K> {
    fn clone(&self) -> Self {
        let Self { wanted, compared, requests } = self;
        Self { wanted: wanted.clone(), compared: compared.clone(), requests: requests.clone() }
    }
}

impl<K: Kept> LoopHandle<K> {
    /// Sets what a network wants. Returns the number of the change, see [`LoopHandle::compared`].
    pub(crate) fn want(&self, network: &NetworkName, share: K::Share) -> u64 {
        let mut number = 0;
        self.wanted.send_modify(|wanted| {
            wanted.shares.insert(network.clone(), share);
            wanted.number += 1;
            number = wanted.number;
        });
        number
    }

    /// Waits for a round that knows the change of this number, and returns its outcome. `None` if the thread has died.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn compared(&self, number: u64) -> Option<K::Outcome> {
        let mut compared = self.compared.clone();
        let compared = compared.wait_for(|compared| compared.number >= number).await;
        compared.ok().map(|compared| compared.outcome.clone())
    }

    /// Waits for the end of another round, and returns its outcome if the round knew the change of this number. `None` if the thread has died.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn next_round(&mut self, number: u64) -> Option<K::Outcome> {
        self.compared.changed().await.ok()?;
        self.compared(number).await
    }

    /// Waits until the thread has died.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn died(&self) {
        self.wanted.closed().await;
    }

    /// Compares the host with what the networks want, and changes nothing.
    ///
    /// # Errors
    /// Why there is no comparison, for people.
    pub(crate) async fn compare(&self, patience: Duration) -> Answer {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.requests.send(answer).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(patience, asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err("it has died".to_owned()),
            Err(_) => Err(format!("it has not answered for {}", humantime::format_duration(patience))),
        }
    }
}

struct ReconcileLoop<K: Kept> {
    kept: K,
    wishes: watch::Receiver<Wanted<K::Share>>,
    done: watch::Sender<Compared<K::Outcome>>,
    asked: mpsc::Receiver<oneshot::Sender<Answer>>,
}

impl<K: Kept> ReconcileLoop<K> {
    async fn run(mut self) {
        if self.first().await.is_none() {
            return;
        }
        let mut known = 0;
        loop {
            let (number, shares) = {
                let wanted = self.wishes.borrow_and_update();
                (wanted.number, wanted.shares.clone())
            };
            let Round { outcome, next, batch } = self.kept.round(&shares, number != known);
            known = number;
            self.done.send_replace(Compared { number, outcome });
            tokio::select! {
                changed = self.wishes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    tokio::time::sleep(batch).await;
                }
                () = self.kept.changed() => (),
                Some(request) = self.asked.recv() => {
                    // Nobody may wait for it any more.
                    let _ = request.send(self.kept.compare(&shares));
                }
                () = tokio::time::sleep_until(next.into()) => self.kept.due(),
            }
        }
    }

    /// Waits until a network wants something. `None` if none ever will.
    async fn first(&mut self) -> Option<()> {
        while self.wishes.borrow().number == 0 {
            tokio::select! {
                changed = self.wishes.changed() => changed.ok()?,
                Some(request) = self.asked.recv() => {
                    let _ = request.send(Err("the network is not joined yet".to_owned()));
                }
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// Counts its rounds. A share below 0 is a host that cannot be read; at this one, the thread dies.
    struct Counter(Arc<AtomicUsize>);

    const DEADLY: i32 = 666;

    impl Kept for Counter {
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

    fn running() -> (LoopHandle<Counter>, Arc<AtomicUsize>) {
        let rounds = Arc::<AtomicUsize>::default();
        (start("counter", Counter(rounds.clone()), None).unwrap(), rounds)
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn who_waits_for_a_thread_that_dies_is_told() {
        let (handle, _) = running();
        let number = handle.want(&NetworkName::default(), DEADLY);
        handle.died().await;
        assert_eq!(handle.compared(number).await, None);
        assert_eq!(handle.compare(PATIENCE).await, Err("it has died".to_owned()));
    }

    #[tokio::test]
    async fn each_round_knows_what_all_networks_want() {
        let (handle, rounds) = running();
        assert_eq!(rounds.load(Ordering::Relaxed), 0, "nothing is wanted yet");
        let (first, second) = (NetworkName::default(), "blue".parse().unwrap());
        let number = handle.want(&first, 3);
        assert_eq!(handle.compared(number).await, Some(3));
        let number = handle.want(&second, 4);
        assert_eq!(handle.compared(number).await, Some(7));
        let number = handle.want(&first, 5);
        assert_eq!(handle.compared(number).await, Some(9));
    }

    #[tokio::test]
    async fn a_comparison_is_refused_before_a_network_is_joined_and_where_the_host_cannot_be_read() {
        let (handle, _) = running();
        assert_eq!(handle.compare(PATIENCE).await, Err("the network is not joined yet".to_owned()));
        let number = handle.want(&NetworkName::default(), 1);
        handle.compared(number).await.unwrap();
        assert_eq!(handle.compare(PATIENCE).await, Ok(Comparison::default()));
        handle.want(&NetworkName::default(), -1);
        handle.compared(number + 1).await.unwrap();
        let refused = handle.compare(PATIENCE).await.unwrap_err();
        assert_eq!(refused, "routes changed each time they were read");
    }
}

//! Hundreds of hosts on one real etcd, each with a connection of its own, that all want a subnet at the same moment.
//! `WIRE_TESTS_CROWD` says how many; a thousand of them want an optimised build, since all their processor time is this process's:
//! `WIRE_TESTS_CROWD=1000 cargo test --release -p wire-lease --test suite crowd -- --nocapture --test-threads 1`.

use std::{
    collections::BTreeSet,
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use wire_lease::{Hold, HoldState};
use wire_net::Subnet;
use wire_store::{
    Committed, EtcdStore, EtcdWatch, KeySink, LeaseId, LeaseStore, Read, Revision, StoreError, Txn, WatchError,
};

use super::{Host, assert_disjoint, held_within};
use crate::common::{TestEtcd, answers};

/// The first start of all hosts together, on a machine with two cores and other tests.
const START: Duration = Duration::from_secs(120);
/// How long etcd is away.
const AWAY: Duration = Duration::from_secs(3);
/// The attempts of a host in one second at most: the first two at once, then each after twice the pause, which begins at 50 ms and is
/// shortened at random by up to a half.
const CALLS_A_SECOND: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_agents_that_start_together_in_a_range_with_room_write_about_once_each() {
    let Some(crowd) = Crowd::start(crowd(), 16.0).await else { return };
    crowd.has_disjoint_subnets();
    let [average, most] = crowd.transactions();
    println!("{} hosts, 16 times as many subnets: {average:.2} transactions on average, {most} at most", crowd.len());
    assert!(average <= 1.5, "{average} transactions of a host on average");
    assert!(most <= 6.0, "{most} transactions of one host");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_agents_that_start_together_in_a_range_that_they_nearly_fill_write_a_few_times_each() {
    let Some(crowd) = Crowd::start(crowd(), 1.05).await else { return };
    crowd.has_disjoint_subnets();
    let [average, most] = crowd.transactions();
    println!("{} hosts, 1.05 times as many subnets: {average:.2} transactions on average, {most} at most", crowd.len());
    assert!(average <= 3.0, "{average} transactions of a host on average");
    assert!(most <= 12.0, "{most} transactions of one host");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_restarts_under_hundreds_of_agents_gets_few_calls_a_second_and_no_write() {
    let Some(mut crowd) = Crowd::start(crowd() / 3, 16.0).await else { return };
    let before = crowd.subnets();
    let [written, _] = crowd.transactions();
    crowd.calls.forget();
    crowd.etcd.kill();
    tokio::time::sleep(AWAY).await;
    crowd.etcd.start_again();
    answers(&crowd.etcd.store().await).await;
    crowd.trouble_is_over().await;
    let (each_second, all) = (crowd.calls.each_second(), crowd.len() as u64 * CALLS_A_SECOND);
    println!("{} hosts, calls in each second: {each_second:?}", crowd.len());
    assert!(each_second.iter().all(|calls| *calls <= all), "{each_second:?} calls in a second");
    assert_eq!(crowd.subnets(), before);
    assert!(crowd.transactions()[0] <= written, "leases that were there were written");
}

/// Hosts that hold a lease each.
struct Crowd {
    etcd: TestEtcd,
    hosts: Vec<(Hold<Counted>, Arc<AtomicU64>)>,
    calls: Arc<Calls>,
    // Their offers, which never change.
    _hosts: Vec<Host>,
    _turn: tokio::sync::MutexGuard<'static, ()>,
}

fn crowd() -> u16 {
    std::env::var("WIRE_TESTS_CROWD").map_or(300, |count| count.parse().unwrap())
}

impl Crowd {
    /// Starts them in a range of `room` times as many subnets, and waits until each has one. `None`: etcd is not installed.
    async fn start(count: u16, room: f64) -> Option<Self> {
        static ONE_AT_A_TIME: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
        let turn = ONE_AT_A_TIME.lock().await;
        let etcd = TestEtcd::start().await?;
        let config = range_of((f64::from(count) * room).ceil() as u32);
        let calls = Arc::<Calls>::default();
        let members: Vec<Host> = (0..count).map(|number| Host::new(number, &config)).collect();
        let mut stores = Vec::new();
        for _ in &members {
            let store = Counted { store: etcd.store().await, commits: Arc::default(), calls: Arc::clone(&calls) };
            // Connected before, so that they really start together.
            store.store.get(b"a").await.unwrap();
            stores.push(store);
        }
        let began = Instant::now();
        let started = members.iter().zip(stores).map(|(host, store)| (host.spawn(&store), store.commits));
        let hosts: Vec<_> = started.collect();
        for (hold, _) in &hosts {
            held_within(hold, START.saturating_sub(began.elapsed())).await;
        }
        println!(
            "{count} hosts have a subnet each after {:?}; calls in each second: {:?}",
            began.elapsed(),
            calls.each_second()
        );
        Some(Self { etcd, hosts, calls, _hosts: members, _turn: turn })
    }

    fn len(&self) -> usize {
        self.hosts.len()
    }

    fn subnets(&self) -> Vec<Subnet> {
        self.hosts.iter().map(|(hold, _)| hold.state.borrow().subnet().unwrap()).collect()
    }

    fn has_disjoint_subnets(&self) {
        let subnets: BTreeSet<Subnet> = self.subnets().into_iter().collect();
        assert_eq!(subnets.len(), self.len());
        assert_disjoint(&subnets);
    }

    /// The transactions of a host, on average and at most.
    fn transactions(&self) -> [f64; 2] {
        let each = self.hosts.iter().map(|(_, commits)| commits.load(Ordering::Relaxed) as f64);
        [each.clone().sum::<f64>() / self.len() as f64, each.fold(0.0, f64::max)]
    }

    /// Waits until each host can watch and renew its lease.
    async fn trouble_is_over(&self) {
        for (hold, _) in &self.hosts {
            let mut state = hold.state.clone();
            let well = state.wait_for(|state| matches!(state, HoldState::Held { trouble: None, .. }));
            let well = tokio::time::timeout(Duration::from_secs(30), well).await.is_ok();
            assert!(well, "{:?}", hold.state.borrow());
        }
    }
}

/// A network config with this number of subnets to lease.
pub(super) fn range_of(subnets: u32) -> String {
    let first = u32::from_be_bytes([10, 0, 1, 0]);
    let last = std::net::Ipv4Addr::from_bits(first + (subnets - 1) * 256);
    format!(r#"{{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.0.1.0","SubnetMax":"{last}"}}"#)
}

/// When calls were made, by all hosts together.
#[derive(Default)]
struct Calls(Mutex<Vec<Instant>>);

impl Calls {
    fn note(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
    }

    fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The number of calls in each second since the first.
    fn each_second(&self) -> Vec<u64> {
        let at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seconds = Vec::new();
        for call in at.iter() {
            let second = usize::try_from(call.duration_since(at[0]).as_secs()).unwrap();
            seconds.resize(seconds.len().max(second + 1), 0);
            seconds[second] += 1;
        }
        seconds
    }
}

/// The store of one host, with its calls counted.
#[derive(Clone)]
struct Counted {
    store: EtcdStore,
    commits: Arc<AtomicU64>,
    calls: Arc<Calls>,
}

impl Deref for Counted {
    type Target = EtcdStore;

    fn deref(&self) -> &EtcdStore {
        self.calls.note();
        &self.store
    }
}

impl LeaseStore for Counted {
    type Watch = EtcdWatch;

    fn answers(&self) -> tokio::sync::watch::Receiver<tokio::time::Instant> {
        self.store.answers()
    }

    async fn get(&self, key: &[u8]) -> Result<Read, StoreError> {
        (**self).get(key).await
    }

    async fn list_into(&self, prefix: &[u8], sink: &mut impl KeySink) -> Result<Revision, StoreError> {
        (**self).list_into(prefix, sink).await
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, StoreError> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        (**self).commit(txn).await
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        (**self).grant(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        (**self).keep_alive(lease).await
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<(Duration, Duration)>, StoreError> {
        (**self).time_to_live(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        (**self).revoke(lease).await
    }

    async fn watch(&self, prefix: &[u8], from: Revision) -> Result<EtcdWatch, WatchError> {
        (**self).watch(prefix, from).await
    }
}

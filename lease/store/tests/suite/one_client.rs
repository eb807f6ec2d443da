//! Faults of one client of the simulated store alone.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use wire_store::{
    LeaseStore, Revision, SimCall, SimCut, SimStore, StoreError, Txn, WatchBatch, WatchError, WatchStream, Write,
};

const MOMENT: Duration = Duration::from_millis(100);

/// A store, and two clients of it.
fn two_clients(seed: u64) -> [SimStore; 3] {
    let store = SimStore::new(seed);
    [store.another_client(), store.another_client(), store]
}

fn values(batch: &WatchBatch) -> Vec<Vec<u8>> {
    batch.events.iter().cloned().filter_map(|event| Some(event.into_key_value()?.value)).collect()
}

fn put(value: &str) -> Txn {
    Txn { when: vec![], then: vec![Write::Put { key: b"/a".into(), value: value.into(), lease: None }] }
}

const fn is_unavailable(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable { .. })
}

#[tokio::test(start_paused = true)]
async fn a_half_open_client_hears_nothing_and_gets_all_it_missed_when_healed() {
    let [one, other, store] = two_clients(1);
    let mut watch = one.watch(b"/", Revision(1)).await.unwrap();
    let mut others = other.watch(b"/", Revision(1)).await.unwrap();
    one.cut(SimCut::HalfOpen);
    assert!(one.is_cut());
    store.put("/a", "1", None);
    assert_eq!(values(&others.next().await.unwrap()), [b"1"]);
    assert!(timeout(MOMENT, watch.next()).await.is_err());
    let begun = Instant::now();
    let refused = one.get(b"/a").await.unwrap_err();
    assert!(is_unavailable(&refused));
    assert!(begun.elapsed() >= Duration::from_secs(5), "it times out");
    assert!(other.get(b"/a").await.is_ok());
    one.heal();
    assert_eq!(values(&watch.next().await.unwrap()), [b"1"]);
    assert!(one.get(b"/a").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_client_notices_after_a_while_that_it_is_half_open() {
    let [one, ..] = two_clients(2);
    let mut watch = one.watch(b"/", Revision(1)).await.unwrap();
    let begun = Instant::now();
    one.cut(SimCut::HalfOpen);
    let ended = watch.next().await;
    assert!(matches!(ended, Err(WatchError::Ended(_))), "{ended:?}");
    assert_eq!(begun.elapsed(), SimCut::NOTICED_AFTER);
}

#[tokio::test(start_paused = true)]
async fn a_reset_client_fails_at_once_and_its_watches_break() {
    let [one, other, store] = two_clients(3);
    let mut watch = one.watch(b"/", Revision(1)).await.unwrap();
    let mut others = other.watch(b"/", Revision(1)).await.unwrap();
    one.cut(SimCut::Reset);
    assert!(timeout(MOMENT, watch.next()).await.unwrap().is_err());
    assert!(is_unavailable(&timeout(MOMENT, one.get(b"/a")).await.unwrap().unwrap_err()));
    store.put("/a", "1", None);
    assert_eq!(values(&others.next().await.unwrap()), [b"1"]);
}

#[tokio::test(start_paused = true)]
async fn an_event_is_lost_for_one_client_alone() {
    let [one, other, store] = two_clients(4);
    let mut watch = one.watch(b"/", Revision(1)).await.unwrap();
    let mut others = other.watch(b"/", Revision(1)).await.unwrap();
    one.lose_own_event();
    store.put("/a", "1", None);
    assert!(timeout(MOMENT, watch.next()).await.is_err());
    assert_eq!(values(&others.next().await.unwrap()), [b"1"]);
    store.put("/a", "2", None);
    assert_eq!(values(&watch.next().await.unwrap()), [b"2"]);
}

#[tokio::test(start_paused = true)]
async fn events_are_delayed_and_stay_in_order() {
    let [one, _, store] = two_clients(5);
    one.delay_watches(Duration::from_secs(10));
    let mut watch = one.watch(b"/", Revision(1)).await.unwrap();
    let begun = Instant::now();
    let mut seen = Vec::new();
    for number in 0..20 {
        store.put("/a", number.to_string(), None);
        seen.extend(values(&watch.next().await.unwrap()));
    }
    assert_eq!(seen, (0..20).map(|number| number.to_string().into_bytes()).collect::<Vec<_>>());
    assert!(begun.elapsed() > Duration::from_secs(20));
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_leaves_the_write_in_the_store() {
    let [one, other, _] = two_clients(6);
    one.lose_replies(1000);
    assert!(is_unavailable(&one.commit(put("1")).await.unwrap_err()));
    assert_eq!(other.get(b"/a").await.unwrap().found.unwrap().value, b"1");
    one.lose_replies(0);
    assert!(one.commit(put("2")).await.is_ok());
}

/// Whether a write is found that was on its way, dropped with its process.
async fn survives_crash(seed: u64) -> bool {
    let [one, _, store] = two_clients(seed);
    let write = tokio::spawn({
        let one = one.clone();
        async move { one.commit(put("1")).await }
    });
    tokio::task::yield_now().await;
    one.crash();
    write.abort();
    assert!(write.await.unwrap_err().is_cancelled());
    !store.listing(b"/a").entries.is_empty()
}

#[tokio::test(start_paused = true)]
async fn a_write_on_its_way_at_a_crash_may_or_may_not_be_made() {
    let mut made = 0;
    for seed in 0..40 {
        made += u32::from(survives_crash(seed).await);
    }
    assert!((5..=35).contains(&made), "{made}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_crashed_makes_no_call() {
    let [one, other, store] = two_clients(7);
    one.crash();
    assert!(timeout(Duration::from_secs(60), one.commit(put("1"))).await.is_err());
    assert_eq!(store.count(SimCall::Commit), 0);
    assert!(other.commit(put("2")).await.is_ok());
}

/// The keys and their revisions, and the time, after some clients have written and watched.
async fn course(seed: u64) -> (String, Duration) {
    let store = SimStore::new(seed);
    let begun = Instant::now();
    let tasks: Vec<_> = (0..20)
        .map(|number| {
            let client = store.another_client();
            client.lose_replies(100);
            tokio::spawn(write_twice(client, number))
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    (format!("{:?}", store.listing(b"/")), begun.elapsed())
}

async fn write_twice(client: SimStore, number: u32) {
    let lease = client.grant(Duration::from_secs(60)).await.ok();
    for value in ["1", "2"] {
        let write = Write::Put { key: format!("/k/{number}").into(), value: value.into(), lease };
        let _lost = client.commit(Txn { when: vec![], then: vec![write] }).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_seed_gives_one_course() {
    assert_eq!(course(8).await, course(8).await);
    assert_ne!(course(8).await, course(9).await);
}

#[tokio::test(start_paused = true)]
async fn a_change_costs_only_the_watches_that_want_it() {
    let store = SimStore::new(10);
    let mut watches = Vec::new();
    for number in 0..1000 {
        watches.push(store.watch(format!("/k/{number}/").as_bytes(), Revision(1)).await.unwrap());
    }
    let begun = std::time::Instant::now();
    for number in 0..20_000 {
        store.put(format!("/k/{}/x", number % 10), "1", None);
    }
    for watch in &mut watches[..10] {
        assert_eq!(watch.next().await.unwrap().events.len(), 2000);
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

//! A store that fails at each step: whoever repeats the call ends where it would have ended.

use wire_store::{SimCall, SimFault};

use super::*;

/// Each call that a change makes, failing once in each way: its kind, how many of it are spared, and how it fails.
fn each_fault(calls: &[(SimCall, u32)]) -> impl Iterator<Item = (SimCall, u32, SimFault)> {
    let faults = [SimFault::Unavailable, SimFault::LostReply, SimFault::Unauthorised];
    let each = calls.iter().flat_map(|(call, count)| (0..*count).map(|spared| (*call, spared)));
    each.flat_map(move |(call, spared)| faults.map(|fault| (call, spared, fault))).collect::<Vec<_>>().into_iter()
}

#[tokio::test(start_paused = true)]
async fn a_network_is_made_once_however_the_store_fails() {
    for (call, spared, fault) in each_fault(&[(SimCall::Get, 2), (SimCall::List, 1), (SimCall::Commit, 1)]) {
        let store = SimStore::new(1);
        let networks = networks(&store, 1);
        store.fail_later(call, spared, fault);
        let wanted = wanted("app", any("10.128.0.0/9", 20));
        let first = networks.create(&wanted, &[]).await;
        let is_lost = (call, fault) == (SimCall::Commit, SimFault::LostReply);
        assert_eq!(first.is_ok(), is_lost, "{call:?} {spared} {fault:?}: {first:?}");
        let second = networks.create(&wanted, &[]).await;
        assert!(matches!((is_lost, &second), (true, Err(NetworkError::Exists { .. })) | (false, Ok(_))), "{second:?}");
        let keys = keys(&store).await;
        assert_eq!(keys.len(), 3, "{keys:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_network_is_removed_once_however_the_store_fails() {
    let calls = [(SimCall::Get, 1), (SimCall::List, 5), (SimCall::Grant, 1), (SimCall::Commit, 1)];
    for (call, spared, fault) in each_fault(&calls) {
        let store = SimStore::new(1);
        let networks = networks(&store, 1);
        networks.create(&wanted("app", any("10.128.0.0/9", 20)), &[]).await.unwrap();
        store.fail_later(call, spared, fault);
        if networks.remove(&named("app"), false).await.is_err() {
            let second = networks.remove(&named("app"), false).await;
            assert!(
                matches!(second, Ok(()) | Err(NetworkError::Missing { .. })),
                "{call:?} {spared} {fault:?}: {second:?}"
            );
        }
        let keys = keys(&store).await;
        assert!(keys.len() == 2 && keys[1].starts_with("/n/wire/vnis/"), "{call:?} {spared} {fault:?}: {keys:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_joins_once_and_leaves_nothing_however_the_store_fails() {
    let calls = [(SimCall::Get, 3), (SimCall::List, 6), (SimCall::Commit, 2)];
    for (call, spared, fault) in each_fault(&calls) {
        let store = SimStore::new(1);
        let (networks, lease) = (networks(&store, 1), store.grant_now(Duration::from_secs(600)));
        networks.create(&wanted("app", any("10.128.0.0/9", 20)), &[]).await.unwrap();
        store.fail_later(call, spared, fault);
        let mut failures = 0;
        let joined = loop {
            match networks.join(&named("app"), &joining(1, lease)).await {
                Ok(joined) => break joined,
                Err(_) => failures += 1,
            }
        };
        assert!(failures <= 1, "{call:?} {spared} {fault:?}");
        assert_eq!(store.listing(b"/n/wire/blocks/").entries.len(), 1, "{call:?} {spared} {fault:?}");
        while networks.leave(&named("app"), host(1)).await.is_err() {}
        let keys = keys(&store).await;
        assert_eq!(keys.len(), 3, "{keys:?}");
        assert_eq!(joined.rooms.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_put_back_is_there_once_however_the_store_fails() {
    for (call, spared, fault) in each_fault(&[(SimCall::Get, 4), (SimCall::Commit, 3)]) {
        let store = SimStore::new(1);
        let (networks, lease) = (networks(&store, 1), store.grant_now(Duration::from_secs(600)));
        let made = networks.create(&wanted("app", any("10.128.0.0/9", 20)), &[]).await.unwrap();
        let joined = networks.join(&named("app"), &joining(1, lease)).await.unwrap();
        let before = keys(&store).await;
        before.iter().for_each(|key| store.delete(key.as_bytes()));
        store.fail_later(call, spared, fault);
        let kept = Kept { record: (*made.record).clone(), member: joined.member, rooms: joined.rooms };
        let outcome = loop {
            if let Ok(outcome) = networks.put_back(&named("app"), &kept, &joining(1, lease)).await {
                break outcome;
            }
        };
        assert_eq!(outcome, PutBack::There { lost: vec![] }, "{call:?} {spared} {fault:?}");
        assert_eq!(keys(&store).await, before, "{call:?} {spared} {fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_that_joins_while_the_network_is_removed_keeps_it_or_is_told_that_it_is_gone() {
    let (mut kept, mut gone) = (0, 0);
    for seed in 0..200 {
        let store = SimStore::new(seed);
        let (here, there) = (networks(&store, 1), networks(&store.another_client(), 2));
        let lease = store.grant_now(Duration::from_secs(600));
        here.create(&wanted("app", any("10.128.0.0/9", 20)), &[]).await.unwrap();
        let name = named("app");
        let late = async {
            tokio::time::sleep(Duration::from_micros(seed * 100)).await;
            there.join(&name, &joining(1, lease)).await
        };
        let (removed, joined) = tokio::join!(here.remove(&name, false), late);
        let is_there = here.network(&name).await.is_ok();
        match (&removed, &joined) {
            (Ok(()), Err(NetworkError::Missing { .. })) => {
                assert!(!is_there, "seed {seed}");
                gone += 1;
            }
            (Err(NetworkError::InUse { .. }), Ok(_)) => {
                assert!(is_there, "seed {seed}");
                kept += 1;
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    assert!(kept > 10 && gone > 10, "{kept} and {gone}");
}

#[tokio::test(start_paused = true)]
async fn keys_that_are_not_valid_keep_no_one_from_joining() {
    let store = SimStore::new(1);
    let (networks, lease) = (networks(&store, 1), store.grant_now(Duration::from_secs(600)));
    networks.create(&wanted("app", of("10.128.0.0/28")), &[]).await.unwrap();
    for key in ["blocks/app/10.128.0.2-32", "blocks/app/10.128.0.4-30", "blocks/app/x", "addresses/app/10.128.0.3"] {
        store.put(format!("/n/wire/{key}"), "spoilt", None);
    }
    let joined = networks.join(&named("app"), &joining(1, lease)).await.unwrap();
    // The network has no block of /30: that key takes nothing.
    let taken: Vec<Prefix> = ["10.128.0.2/32", "10.128.0.3/32"].iter().map(|text| text.parse().unwrap()).collect();
    assert!(taken.iter().all(|taken| !taken.overlaps(joined.rooms[0].prefix())));
    store.put("/n/wire/networks/bad", "spoilt", None);
    assert!(matches!(networks.network(&named("bad")).await, Err(NetworkError::Invalid { .. })));
    assert!(matches!(
        networks.create(&wanted("bad", of("10.129.0.0/20")), &[]).await,
        Err(NetworkError::Exists { .. })
    ));
    networks.remove(&named("bad"), false).await.unwrap();
    networks.create(&wanted("bad", of("10.129.0.0/20")), &[]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_addresses_of_a_host_that_is_gone_for_good_are_free_when_its_lease_has_ended() {
    let store = SimStore::new(1);
    let (networks, lease) = (networks(&store, 1), store.grant_now(Duration::from_secs(60)));
    networks.create(&wanted("app", of("10.128.0.0/29")), &[]).await.unwrap();
    networks.join(&named("app"), &joining(1, lease)).await.unwrap();
    assert!(networks.remove(&named("app"), false).await.is_err());
    tokio::time::sleep(Duration::from_secs(61)).await;
    networks.remove(&named("app"), false).await.unwrap();
}

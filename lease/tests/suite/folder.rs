//! Following a folder of small values.

use std::time::Duration;

use tokio::time::timeout;
use wire_lease::{Folder, FollowFolder, StoredRecord};
use wire_net::KeyPrefix;
use wire_store::{Random, SimStore};

fn folder() -> Vec<u8> {
    KeyPrefix::new("/n").records()
}

fn key(name: &str) -> Vec<u8> {
    [folder(), name.as_bytes().to_vec()].concat()
}

fn follow(store: &SimStore) -> FollowFolder<StoredRecord> {
    FollowFolder::spawn(store.clone(), folder(), None, Random::seeded(1))
}

/// Waits until the folder has exactly these ports, in order of their subnets.
async fn ports(follow: &FollowFolder<StoredRecord>, ports: &[u16], limit: Duration) -> Folder<StoredRecord> {
    let mut seen = follow.folder.clone();
    let has = |folder: &Folder<StoredRecord>| {
        folder.items.values().map(|stored| stored.record.port.unwrap()).eq(ports.to_vec())
    };
    let found = timeout(limit, seen.wait_for(|folder| folder.as_ref().is_some_and(has))).await;
    match found {
        Ok(found) => found.unwrap().clone().unwrap(),
        Err(_) => panic!("not {ports:?}: {:?}", follow.folder.borrow()),
    }
}

const SOON: Duration = Duration::from_secs(2);

#[tokio::test(start_paused = true)]
async fn changes_come_by_the_watch_also_after_the_store_was_away() {
    let store = SimStore::new(1);
    store.put(key("10.5.1.0-24"), r#"{"Port":1}"#, None);
    let follow = follow(&store);
    ports(&follow, &[1], SOON).await;
    store.put(key("10.5.2.0-24"), r#"{"Port":2}"#, None);
    ports(&follow, &[1, 2], SOON).await;
    store.delete(&key("10.5.1.0-24"));
    ports(&follow, &[2], SOON).await;
    store.set_down(true);
    store.put(key("10.5.2.0-24"), r#"{"Port":3}"#, None);
    tokio::time::sleep(Duration::from_secs(600)).await;
    store.set_down(false);
    ports(&follow, &[3], SOON).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_not_understood_is_refused_by_name_and_the_rest_goes_on() {
    let store = SimStore::new(2);
    for (name, value) in [
        ("10.5.1.0-24", r#"{"Port":1}"#),
        ("10.5.2.0-24", r#"{"Port":0}"#),
        ("10.5.3.0-24", "\u{1b}[31m"),
        ("10.5.4.1-24", r#"{"Port":4}"#),
        ("", r#"{"Port":5}"#),
    ] {
        store.put(key(name), value, None);
    }
    store.put([folder(), vec![0xff; 2000]].concat(), r#"{"Port":6}"#, None);
    store.put(key("10.5.7.0-24"), "x".repeat(100_000), None);
    for number in 0..1000 {
        store.put(key(&format!("bad-{number}")), "{}", None);
    }
    let follow = follow(&store);
    let seen = ports(&follow, &[1], SOON).await;
    assert_eq!(seen.refused.len(), 100);
    assert!(seen.refused.keys().all(|name| name.len() <= 256 && !name.contains(char::is_control)));
    // A value that is put right counts, and one that is spoilt does not any more.
    store.put(key("10.5.2.0-24"), r#"{"Port":2}"#, None);
    store.put(key("10.5.1.0-24"), "spoilt", None);
    let seen = ports(&follow, &[2], SOON).await;
    assert!(!seen.refused.contains_key("10.5.2.0-24"), "{:?}", seen.refused);
}

#[tokio::test(start_paused = true)]
async fn what_was_listed_before_is_known_at_once_and_followed_from_there() {
    let store = SimStore::new(3);
    store.put(key("10.5.1.0-24"), r#"{"Port":1}"#, None);
    let known = Folder::list(&store, &folder()).await.unwrap();
    store.put(key("10.5.2.0-24"), r#"{"Port":2}"#, None);
    let follow = FollowFolder::spawn(store.clone(), folder(), Some(known), Random::seeded(1));
    assert_eq!(follow.folder.borrow().as_ref().unwrap().items.len(), 1);
    ports(&follow, &[1, 2], SOON).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_event_is_put_right_by_the_periodic_listing_and_a_restored_store_is_believed() {
    let store = SimStore::new(4);
    let empty = store.backup();
    store.put(key("10.5.1.0-24"), r#"{"Port":1}"#, None);
    let follow = follow(&store);
    ports(&follow, &[1], SOON).await;
    store.restore(empty);
    ports(&follow, &[], Duration::from_secs(301)).await;
    store.put(key("10.5.2.0-24"), r#"{"Port":2}"#, None);
    ports(&follow, &[2], SOON).await;
}

//! The record beside a lease.

use wire_lease::BackendRecord;
use wire_store::{LeaseId, SimBackup, SimCall, SimFault};

use super::{resuming::resumed, *};

/// The records in the store: name, port, lease of the store.
pub(super) fn records(store: &SimStore) -> Vec<(String, u16, Option<LeaseId>)> {
    let folder = KeyPrefix::new(PREFIX).records();
    let listing = store.listing(&folder);
    let name = |key: &[u8]| String::from_utf8(key[folder.len()..].to_vec()).unwrap();
    let port = |value: &[u8]| BackendRecord::from_value(value).unwrap().port.unwrap();
    listing.entries.iter().map(|kv| (name(&kv.key), port(&kv.value), kv.lease)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_record_comes_with_its_lease_in_one_transaction_and_goes_with_it() {
    let store = SimStore::new(1);
    let hold = Host::new(3, V4).spawn(&store);
    let entry = held(&hold).await;
    assert_eq!(records(&store), [(entry.lease.subnet.to_string(), 8472, entry.origin.lease)]);
    let record = store.listing(&KeyPrefix::new(PREFIX).records()).entries.pop().unwrap();
    assert_eq!(record.mod_revision, entry.origin.mod_revision);
    hold.release().await.unwrap();
    assert_eq!((records(&store), keys(&store)), (Vec::new(), Vec::new()));
}

#[tokio::test(start_paused = true)]
async fn a_restart_writes_it_only_if_it_is_another() {
    let store = SimStore::new(2);
    let first = held(&Host::new(3, V4).spawn(&store)).await;
    let again = held(&Host::new(3, V4).spawn(&store)).await;
    assert_eq!(first, again);
    let host = Host::new(3, V4);
    host.offer.send_modify(|offer| offer.record = Some(BackendRecord { port: Some(9999), former: None }));
    let moved = held(&host.spawn(&store)).await;
    assert_eq!((&moved.lease, moved.origin.lease), (&first.lease, first.origin.lease));
    assert_eq!(records(&store), [(first.lease.subnet.to_string(), 9999, first.origin.lease)]);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_moves_to_another_key_takes_its_record_along() {
    let store = SimStore::new(3);
    drop(held(&Host::new(3, V4).spawn(&store)).await);
    let entry = held(&Host::new(3, DUAL).spawn(&store)).await;
    assert_eq!(records(&store), [(entry.lease.subnet.to_string(), 8472, entry.origin.lease)]);
}

#[tokio::test(start_paused = true)]
async fn a_reservation_has_a_record_until_it_is_given_back() {
    let store = SimStore::new(4);
    store.put("/coreos.com/network/subnets/10.5.9.0-24", r#"{"PublicIP":"192.168.0.3"}"#, None);
    let hold = Host::new(3, V4).spawn(&store);
    held(&hold).await;
    assert_eq!(records(&store), [("10.5.9.0-24".to_owned(), 8472, None)]);
    hold.release().await.unwrap();
    assert_eq!((records(&store), keys(&store)), (Vec::new(), vec!["10.5.9.0-24".to_owned()]));
}

#[tokio::test(start_paused = true)]
async fn it_is_written_again_with_its_lease_after_the_store_was_restored() {
    let store = SimStore::new(5);
    let empty: SimBackup = store.backup();
    let hold = Host::new(3, V4).spawn(&store);
    held(&hold).await;
    store.restore(empty);
    tokio::time::sleep(HOUR).await;
    let entry = held(&hold).await;
    assert_eq!(records(&store), [(entry.lease.subnet.to_string(), 8472, entry.origin.lease)]);
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_no_longer_offered_goes_and_another_is_written_when_the_work_is_handed_over() {
    let store = SimStore::new(6);
    let host = Host::new(3, V4);
    let mut hold = host.spawn(&store);
    let entry = held(&hold).await;
    let name = entry.lease.subnet.to_string();
    for (port, kept) in [(Some(9999), vec![(name.clone(), 9999, entry.origin.lease)]), (None, Vec::new())] {
        let record = port.map(|port| BackendRecord { port: Some(port), former: None });
        host.offer.send_modify(|offer| offer.record = record);
        hold = resumed(&store, &host, hold);
        tokio::time::sleep(HOUR / 60).await;
        assert_eq!(records(&store), kept);
        assert_eq!(held(&hold).await.lease, entry.lease);
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_whose_write_failed_is_written_later() {
    for fault in [SimFault::Unavailable, SimFault::LostReply] {
        let store = SimStore::new(7);
        let host = Host::new(3, V4);
        let hold = host.spawn(&store);
        let entry = held(&hold).await;
        host.offer.send_modify(|offer| offer.record = Some(BackendRecord { port: Some(9999), former: None }));
        store.fail_next(SimCall::Commit, fault);
        let hold = resumed(&store, &host, hold);
        tokio::time::sleep(HOUR).await;
        let held = held(&hold).await;
        assert_eq!(held.lease, entry.lease);
        assert_eq!(records(&store), [(entry.lease.subnet.to_string(), 9999, held.origin.lease)], "{fault:?}");
    }
}

//! The lease stays ours, whatever happens to its key, its etcd lease and etcd.

use std::time::Duration;

use wire_lease::{HoldState, Lease, Offer};
use wire_net::{DualStack, Family};
use wire_store::{SimBackup, SimCall, SimFault, SimStore};

use super::{DIRECTORY, DUAL, HOUR, Host, PREFIX, V4, data, held, held_anew, held_within, keys, public};

#[tokio::test(start_paused = true)]
async fn a_deleted_key_and_a_revoked_lease_are_taken_back_within_a_second() {
    let store = SimStore::new(2);
    let host = Host::new(3, V4);
    let hold = host.spawn(&store);
    let subnet = held(&hold).await.lease.subnet;
    tokio::time::sleep(HOUR).await;
    store.delete(format!("{PREFIX}/subnets/{subnet}").as_bytes());
    assert_eq!(held_anew(&hold, Duration::from_secs(1)).await.lease.subnet, subnet);
    assert_eq!(store.leases().len(), 1, "the lease that lives is used again");
    let lease = hold.state.borrow().entry().unwrap().origin.lease.unwrap();
    store.revoke_now(lease);
    let entry = held_anew(&hold, Duration::from_secs(1)).await;
    assert_eq!(entry.lease.subnet, subnet);
    assert_ne!(entry.origin.lease, Some(lease));
    assert_eq!(keys(&store), [subnet.to_string()]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_keeps_the_subnet_the_lease_and_writes_nothing() {
    let store = SimStore::new(3);
    let host = Host::new(3, DUAL);
    let first = held(&host.spawn(&store)).await;
    let (grants, commits) = (store.count(SimCall::Grant), store.count(SimCall::Commit));
    tokio::time::sleep(HOUR).await;
    let hold = host.spawn(&store);
    assert_eq!(held(&hold).await, first);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((store.count(SimCall::Grant), store.count(SimCall::Commit)), (grants, commits));
    assert_eq!(store.count(SimCall::KeepAlive), 1, "it is renewed at once");
    // Another time to live needs another lease; the old one is given back.
    let mut short = Host::new(3, DUAL);
    short.settings.ttl = HOUR;
    drop(hold);
    let entry = held(&short.spawn(&store)).await;
    assert_eq!(entry.lease, first.lease);
    assert_ne!(entry.origin.lease, first.origin.lease);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(store.leases().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_for_as_long_as_it_is_held() {
    let store = SimStore::new(4);
    let hold = Host::new(3, V4).spawn(&store);
    let entry = held(&hold).await;
    tokio::time::sleep(240 * HOUR).await;
    assert_eq!(hold.state.borrow().entry(), Some(&entry));
    assert!((30..=36).contains(&store.count(SimCall::KeepAlive)), "{}", store.count(SimCall::KeepAlive));
    drop(hold);
    tokio::time::sleep(25 * HOUR).await;
    assert!(keys(&store).is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_margin_of_more_than_two_thirds_of_the_lease_renews_it_earlier() {
    let store = SimStore::new(4);
    let mut host = Host::new(3, V4);
    host.settings.renew_margin = 20 * HOUR;
    let hold = host.spawn(&store);
    held(&hold).await;
    tokio::time::sleep(240 * HOUR).await;
    assert!((60..=70).contains(&store.count(SimCall::KeepAlive)), "{}", store.count(SimCall::KeepAlive));
}

#[tokio::test(start_paused = true)]
async fn a_reservation_is_never_attached_to_a_lease() {
    let store = SimStore::new(6);
    store.put("/coreos.com/network/subnets/10.5.9.0-24", r#"{"PublicIP":"192.168.0.3"}"#, None);
    let host = Host::new(3, V4);
    let hold = host.spawn(&store);
    let entry = held(&hold).await;
    assert_eq!((entry.lease.subnet.to_string().as_str(), entry.origin.lease), ("10.5.9.0-24", None));
    assert!(matches!(&*hold.state.borrow(), HoldState::Held { expires: None, .. }));
    // A new MAC is written without a lease too.
    host.offer.send_modify(|offer| offer.data = data(77, &DualStack { v4: Some(()), v6: None }));
    assert_eq!(held_anew(&hold, Duration::from_secs(1)).await.origin.lease, None);
    let listing = store.listing(DIRECTORY);
    assert!(listing.entries[0].lease.is_none() && String::from_utf8_lossy(&listing.entries[0].value).contains("4d:00"));
    drop(hold);
    // With IPv6 turned on it is still a reservation, of the same IPv4 subnet.
    let entry = held(&Host::new(3, DUAL).spawn(&store)).await;
    assert!(entry.lease.subnet.to_string().starts_with("10.5.9.0-24&fd00:5:"));
    assert_eq!((entry.origin.lease, keys(&store).len(), store.leases().len()), (None, 1, 0));
}

/// Every kind of call, each of its first four, each kind of fault, over a whole life: acquired, moved to a dual-stack key,
/// deleted, revoked, changed. Afterwards there is one key, and it is the one we believe in.
#[tokio::test(start_paused = true)]
async fn whichever_call_fails_the_lease_comes_out_right() {
    use SimCall::{Commit, Get, Grant, KeepAlive, List, Revoke, TimeToLive, Watch};
    for call in [Get, List, Commit, Grant, KeepAlive, TimeToLive, Revoke, Watch] {
        for (spared, fault) in (0..4).flat_map(|spared| {
            [SimFault::LostReply, SimFault::Unavailable, SimFault::Unauthorised].map(|fault| (spared, fault))
        }) {
            let store = SimStore::new(u64::from(spared));
            store.fail_later(call, spared, fault);
            let first = held(&Host::new(3, V4).spawn(&store)).await;
            store.fail_later(call, spared, fault);
            let host = Host::new(3, DUAL);
            let hold = host.spawn(&store);
            let dual = held(&hold).await;
            assert_eq!(dual.lease.subnet.get(Family::V4), first.lease.subnet.get(Family::V4));
            tokio::time::sleep(Duration::from_secs(2)).await;
            store.delete(format!("{PREFIX}/subnets/{}", dual.lease.subnet).as_bytes());
            store.fail_later(call, spared, fault);
            tokio::time::sleep(Duration::from_secs(3)).await;
            let lease = held(&hold).await.origin.lease.unwrap();
            store.revoke_now(lease);
            tokio::time::sleep(Duration::from_secs(3)).await;
            host.offer.send_modify(|offer| offer.data = data(99, &offer.public));
            tokio::time::sleep(Duration::from_secs(10)).await;
            let last = held(&hold).await;
            assert_eq!(last.lease.subnet, dual.lease.subnet, "{call:?} {spared} {fault:?}");
            let listing = store.listing(DIRECTORY);
            let [stored] = &listing.entries[..] else { panic!("{call:?} {spared} {fault:?}: {listing:?}") };
            assert_eq!(stored.value, last.lease.to_value(), "{call:?} {spared} {fault:?}");
            assert_eq!((stored.mod_revision, stored.lease), (last.origin.mod_revision, last.origin.lease));
            assert_eq!(super::recording::records(&store), [(last.lease.subnet.to_string(), 8472, last.origin.lease)]);
            // A grant whose answer is lost leaks until it expires.
            assert!(store.leases().len() <= 4, "{call:?} {spared} {fault:?}: {} leases leak", store.leases().len());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn cut_off_for_longer_than_the_lease_the_same_subnet_is_taken_again() {
    let store = SimStore::new(12);
    let hold = Host::new(3, V4).spawn(&store);
    let subnet = held(&hold).await.lease.subnet;
    store.set_down(true);
    tokio::time::sleep(25 * HOUR).await;
    store.set_down(false);
    let entry = held_anew(&hold, Duration::from_secs(6)).await;
    assert_eq!((entry.lease.subnet, keys(&store)), (subnet, vec![subnet.to_string()]));
}

#[tokio::test(start_paused = true)]
async fn a_wiped_and_a_restored_store_get_the_lease_again() {
    let store = SimStore::new(13);
    store.put("/other", "", None);
    let host = Host::new(3, V4);
    let hold = host.spawn(&store);
    let subnet = held(&hold).await.lease.subnet;
    let old = store.backup();
    // A store that goes back between a listing and its watch is noticed by the next periodic one only.
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.restore(SimBackup::default());
    assert_eq!(held_anew(&hold, Duration::from_secs(3)).await.lease.subnet, subnet);
    assert_eq!(keys(&store), [subnet.to_string()]);
    host.offer.send_modify(|offer| offer.data = data(99, &DualStack { v4: Some(()), v6: None }));
    held_anew(&hold, Duration::from_secs(3)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.restore(old);
    let entry = held_anew(&hold, Duration::from_secs(3)).await;
    assert_eq!((entry.lease.subnet, &entry.lease.data), (subnet, &data(99, &DualStack { v4: Some(()), v6: None })));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let stored = store.listing(DIRECTORY).entries.pop().unwrap();
    assert_eq!(stored.value, entry.lease.to_value(), "the old value is put right");
}

#[tokio::test(start_paused = true)]
async fn a_lease_with_this_hosts_former_address_that_a_backup_brings_back_is_this_hosts() {
    let store = SimStore::new(25);
    let host = Host::new(3, V4);
    let hold = host.spawn(&store);
    let subnet = held(&hold).await.lease.subnet;
    let backup = store.backup();
    let moved = Offer { public: public(77, &host.settings.pools), ..host.offer.borrow().clone() };
    host.offer.send_replace(moved.clone());
    held_anew(&hold, Duration::from_secs(3)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    store.restore(backup);
    // Its next revision would be the one that was lost.
    store.put("/other", "", None);
    let entry = held_anew(&hold, Duration::from_secs(3)).await;
    assert_eq!(entry.lease.subnet, subnet);
    assert_eq!(
        store.listing(DIRECTORY).entries[0].value,
        Lease { public: moved.public, ..entry.lease.clone() }.to_value()
    );
}

#[tokio::test(start_paused = true)]
async fn an_entry_changed_by_hand_is_put_right() {
    let store = SimStore::new(15);
    let hold = Host::new(3, V4).spawn(&store);
    let entry = held(&hold).await;
    let key = format!("{PREFIX}/subnets/{}", entry.lease.subnet);
    for value in ["xx{", r#"{"PublicIP":"192.168.0.3"}"#] {
        store.put(key.clone(), value, entry.origin.lease);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(store.listing(key.as_bytes()).entries[0].value, entry.lease.to_value());
    }
    // Without its lease it is a reservation from now on.
    store.put(key.clone(), entry.lease.to_value(), None);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(matches!(&*hold.state.borrow(), HoldState::Held { expires: None, .. }));
    tokio::time::sleep(48 * HOUR).await;
    assert_eq!(keys(&store).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_etcd_that_stalls_is_waited_for_with_one_write_under_way() {
    for seed in 0..10 {
        let store = SimStore::new(seed);
        store.stall(Duration::from_secs(9));
        let host = Host::new(3, V4);
        let hold = host.spawn(&store);
        let entry = held_within(&hold, Duration::from_secs(20)).await;
        store.stall(Duration::from_secs(9));
        store.revoke_now(entry.origin.lease.unwrap());
        // One more reason to write, while the first is under way.
        host.offer.send_modify(|offer| offer.data = data(99, &offer.public));
        let again = held_anew(&hold, Duration::from_secs(30)).await;
        assert_eq!((again.lease.subnet, keys(&store).len()), (entry.lease.subnet, 1));
        assert_eq!(store.most_writes_at_once(), 1);
        assert!(store.count(SimCall::Commit) <= 6, "{} writes", store.count(SimCall::Commit));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_offered_while_the_store_does_not_answer_is_written_afterwards_and_the_trouble_forgotten() {
    for seed in 0..10 {
        for away in [false, true] {
            let store = SimStore::new(seed);
            let host = Host::new(3, V4);
            let hold = host.spawn(&store);
            let subnet = held(&hold).await.lease.subnet;
            tokio::time::sleep(HOUR).await;
            let offered = data(77, &DualStack { v4: Some(()), v6: None });
            if away {
                store.set_down(true);
            } else {
                store.stall(Duration::from_secs(9));
            }
            host.offer.send_modify(|offer| offer.data = offered.clone());
            tokio::time::sleep(Duration::from_secs(9)).await;
            store.set_down(false);
            tokio::time::sleep(Duration::from_secs(5)).await;
            let state = hold.state.borrow().clone();
            let HoldState::Held { entry, trouble, .. } = &state else { panic!("{state:?}") };
            assert_eq!((entry.lease.subnet, &entry.lease.data, trouble), (subnet, &offered, &None), "seed {seed}");
            assert_eq!(store.listing(DIRECTORY).entries[0].value, entry.lease.to_value());
        }
    }
}

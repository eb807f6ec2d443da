//! A lease that another task of the same agent goes on with, as joining anew does.

use std::time::Duration;

use tokio::{sync::watch, time::timeout};
use wire_lease::{Former, Hold, HoldState, Lease};
use wire_net::Family;
use wire_store::{SimCall, SimFault, SimStore};

use super::{HOUR, Host, PREFIX, V4, flannel_lease, held, held_within, keys, public};

/// The successor of a hold, with what `host` brings now.
pub(super) fn resumed(store: &SimStore, host: &Host, former: Hold<SimStore>) -> Hold<SimStore> {
    let state = former.state.borrow().clone();
    drop(former);
    Hold::resume(store.clone(), host.settings.clone(), host.offer.subscribe(), Former { state, beside: None })
}

/// What the store says of the host's lease.
fn published(store: &SimStore, lease: &Lease) -> Lease {
    let key = format!("/coreos.com/network/subnets/{}", lease.subnet);
    let listing = store.listing(key.as_bytes());
    Lease::from_value(lease.subnet, &listing.entries[0].value).unwrap()
}

async fn troubled(hold: &Hold<SimStore>, by: &str) {
    let mut state = hold.state.clone();
    let said = |state: &HoldState| matches!(state, HoldState::Held { trouble: Some(why), .. } if why.contains(by));
    timeout(Duration::from_secs(60), state.wait_for(said)).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_is_never_exchanged_for_another_by_joining_anew() {
    let store = SimStore::new(40);
    let host = Host::new(3, V4);
    let mut hold = host.spawn(&store);
    let subnet = held(&hold).await.lease.subnet;
    store.set_down(true);
    tokio::time::sleep(25 * HOUR).await;
    let (key, value) = flannel_lease(&subnet.to_string(), 4);
    store.put(key.clone(), value, None);
    store.set_down(false);
    let mut state = hold.state.clone();
    state.wait_for(|state| matches!(state, HoldState::Lost { .. })).await.unwrap();
    for _ in 0..3 {
        hold = resumed(&store, &host, hold);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(matches!(&*hold.state.borrow(), HoldState::Lost { .. }), "{:?}", hold.state.borrow());
        assert_eq!(keys(&store), [subnet.to_string()], "the range has room, but traffic runs on this one");
    }
    store.delete(key.as_bytes());
    assert_eq!(held_within(&hold, Duration::from_secs(4)).await.lease.subnet, subnet);
}

/// Also where odd keys name the host's address, where its user may read nothing any more, and where etcd is away.
#[tokio::test(start_paused = true)]
async fn a_lease_that_is_held_is_held_on_at_once_by_joining_anew_whatever_etcd_says() {
    let store = SimStore::new(43);
    let host = Host::new(3, V4);
    let mut hold = host.spawn(&store);
    let own = held(&hold).await;
    for odd in ["10.5.9.0-024", "old/10.5.9.0-24", "10.5.9.0-24/"] {
        store.put(format!("{PREFIX}/subnets/{odd}"), own.lease.to_value(), None);
    }
    for fault in [None, Some(SimFault::Unauthorised), Some(SimFault::Unavailable)] {
        for call in [SimCall::Get, SimCall::List] {
            fault.into_iter().for_each(|fault| (0..20).for_each(|_| store.fail_next(call, fault)));
        }
        hold = resumed(&store, &host, hold);
        assert_eq!(hold.state.borrow().entry().map(|entry| entry.lease.subnet), Some(own.lease.subnet), "{fault:?}");
        tokio::time::sleep(HOUR).await;
        assert_eq!(held_within(&hold, Duration::from_millis(1)).await.lease, own.lease, "{fault:?}");
        assert_eq!(published(&store, &own.lease), own.lease, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_address_that_another_live_host_has_is_not_published_and_putting_ours_back_cures_at_once() {
    let store = SimStore::new(41);
    let (host, mut other) = (Host::new(3, V4), Host::new(4, V4));
    let (hold, owner) = (host.spawn(&store), other.spawn(&store));
    let (own, theirs) = (held(&hold).await.lease.clone(), held(&owner).await.lease.clone());
    let data = host.offer.borrow().data.clone();
    let mut moved = Host::new(3, V4);
    moved.offer = watch::Sender::new(wire_lease::Offer { public: other.offer.borrow().public, data, record: None });
    let hold = resumed(&store, &moved, hold);
    troubled(&hold, "host-4").await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(published(&store, &own), own, "no second lease says that address");
    assert_eq!(published(&store, &theirs), theirs);
    let back = resumed(&store, &host, hold);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(matches!(&*back.state.borrow(), HoldState::Held { trouble: None, .. }), "{:?}", back.state.borrow());
    assert_eq!(published(&store, &own), own);
    // The other has left its address for a third one, so that it is free.
    other.offer = Host::new(5, V4).offer;
    let owner = resumed(&store, &other, owner);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let hold = resumed(&store, &moved, back);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(published(&store, &own).public, moved.offer.borrow().public);
    assert_eq!(owner.state.borrow().subnet(), Some(theirs.subnet));
    assert_eq!(hold.state.borrow().subnet(), Some(own.subnet));
}

#[tokio::test(start_paused = true)]
async fn an_address_whose_former_host_does_not_answer_is_published_and_its_lease_is_deleted() {
    let store = SimStore::new(42);
    let (host, dead) = (Host::new(3, V4), Host::new(4, V4).spawn(&store));
    let hold = host.spawn(&store);
    let (own, theirs) = (held(&hold).await.lease.clone(), held(&dead).await.lease.clone());
    drop(dead);
    let data = host.offer.borrow().data.clone();
    host.offer.send_replace(wire_lease::Offer { public: theirs.public, data, record: None });
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(published(&store, &own).public, theirs.public);
    assert_eq!(keys(&store), [own.subnet.to_string()]);
    assert_eq!(theirs.public, public(4, &host.settings.pools));
    assert!(own.subnet.get(Family::V4).is_some());
}

//! A host that is suspended: the time of its timers stands still, that of etcd goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout};
use wire_lease::{Clock, HoldState};
use wire_store::{SimCall, SimStore};

use super::{HOUR, Host, V4, flannel_lease, held, held_anew, keys};

const SOON: Duration = Duration::from_secs(10);

/// A host, and by how many seconds its clock is ahead of its timers.
fn sleeper(number: u16) -> (Host, Arc<AtomicU64>) {
    let (mut host, slept) = (Host::new(number, V4), Arc::new(AtomicU64::new(0)));
    let (start, ahead) = (Instant::now(), slept.clone());
    host.settings.clock = Clock::new(move || start.elapsed() + Duration::from_secs(ahead.load(Ordering::Relaxed)));
    (host, slept)
}

fn sleep(slept: &AtomicU64, time: Duration) {
    slept.fetch_add(time.as_secs(), Ordering::Relaxed);
}

#[tokio::test(start_paused = true)]
async fn after_a_sleep_longer_than_the_lease_it_is_not_believed_before_etcd_has_said_so() {
    let store = SimStore::new(50);
    let (host, slept) = sleeper(3);
    let hold = host.spawn(&store);
    let entry = held(&hold).await;
    tokio::time::sleep(HOUR).await;
    // It lives on in this etcd, which was suspended too.
    sleep(&slept, 25 * HOUR);
    store.stall(Duration::from_secs(9));
    tokio::time::sleep(Duration::from_secs(6)).await;
    let state = hold.state.borrow().clone();
    assert!(
        matches!(&state, HoldState::Held { trouble: Some(why), .. } if why.contains("suspended for 90000 s, longer \
                                                                                     than its lease")),
        "{state:?}"
    );
    tokio::time::sleep(SOON).await;
    assert!(matches!(&*hold.state.borrow(), HoldState::Held { entry: now, trouble: None, .. } if *now == entry));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ended_in_the_sleep_is_taken_again_or_its_new_owner_is_named() {
    for thief in [false, true] {
        let store = SimStore::new(51);
        let (host, slept) = sleeper(3);
        let hold = host.spawn(&store);
        let entry = held(&hold).await;
        sleep(&slept, 25 * HOUR);
        // Nothing is heard of what happened meanwhile.
        store.lose_next_event();
        store.lose_next_event();
        store.lose_next_event();
        store.revoke_now(entry.origin.lease.unwrap());
        if thief {
            let (key, value) = flannel_lease(&entry.lease.subnet.to_string(), 4);
            store.put(key, value, None);
            let mut state = hold.state.clone();
            let named = state
                .wait_for(|state| matches!(state, HoldState::Lost { reason, .. } if reason.contains("192.168.0.4")));
            timeout(SOON, named).await.unwrap().unwrap();
        } else {
            assert_eq!(held_anew(&hold, SOON).await.lease.subnet, entry.lease.subnet);
        }
        assert_eq!(keys(&store), [entry.lease.subnet.to_string()]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_is_not_late_by_the_time_slept() {
    let store = SimStore::new(52);
    let (host, slept) = sleeper(3);
    let hold = host.spawn(&store);
    held(&hold).await;
    let ends = |hold: &wire_lease::Hold<SimStore>| {
        let state = hold.state.borrow();
        let HoldState::Held { expires: Some(at), trouble: None, .. } = &*state else { panic!("{state:?}") };
        at.duration_since(Instant::now())
    };
    tokio::time::sleep(HOUR).await;
    assert_eq!(store.count(SimCall::KeepAlive), 0);
    sleep(&slept, 4 * HOUR);
    tokio::time::sleep(SOON).await;
    assert!(ends(&hold) < 19 * HOUR, "{:?}", ends(&hold));
    assert_eq!(store.count(SimCall::KeepAlive), 0, "a third of 24 hours has not passed");
    sleep(&slept, 4 * HOUR);
    tokio::time::sleep(SOON).await;
    assert_eq!(store.count(SimCall::KeepAlive), 1);
    assert!(ends(&hold) > 23 * HOUR, "{:?}", ends(&hold));
}

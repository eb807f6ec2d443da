//! Keys and values that others put in the way.

use std::time::Duration;

use wire_lease::HoldState;
use wire_net::DualStack;
use wire_store::{SimCall, SimStore};

use super::{DIRECTORY, DUAL, HOUR, Host, PREFIX, V4, flannel_lease, held, held_anew, held_within, keys};

/// Keys that are another spelling of a subnet, or lie deeper; `10.5.9.0` is within the range.
const ODD: [&str; 6] = [
    "10.5.9.0-024",
    "old/10.5.9.0-24",
    "10.5.9.0-24&FD00:5:0:9::-64",
    "10.5.9.0-24/",
    "fd00:5:0:9::-64",
    "10.5.9.0-24 ",
];

#[tokio::test(start_paused = true)]
async fn a_key_that_no_agent_writes_is_nobodys_lease_whatever_its_value() {
    for (config, name) in [V4, DUAL].into_iter().flat_map(|config| ODD.map(|name| (config, name))) {
        let store = SimStore::new(30);
        let host = Host::new(3, config);
        let first = held(&host.spawn(&store)).await;
        // What the host would write itself, and with IPv6 turned on besides.
        for value in [first.lease.to_value(), flannel_lease("10.5.9.0-24&fd00:5:0:9::-64", 3).1] {
            store.put(format!("{PREFIX}/subnets/{name}"), value, None);
            let commits = store.count(SimCall::Commit);
            let again = held_within(&host.spawn(&store), Duration::from_secs(1)).await;
            assert_eq!(again, first, "{name}");
            assert_eq!(store.count(SimCall::Commit), commits, "{name}");
        }
        store.revoke_now(first.origin.lease.unwrap());
        let anew = held_within(&host.spawn(&store), Duration::from_secs(1)).await;
        assert!(keys(&store).contains(&anew.lease.subnet.to_string()), "{name}: held is what etcd has");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reservation_that_is_deleted_while_it_is_held_is_taken_again() {
    let store = SimStore::new(31);
    let (key, value) = flannel_lease("10.5.9.0-24", 3);
    store.put(key.clone(), value, None);
    let hold = Host::new(3, V4).spawn(&store);
    held(&hold).await;
    tokio::time::sleep(HOUR).await;
    store.delete(key.as_bytes());
    let entry = held_anew(&hold, Duration::from_secs(1)).await;
    assert_eq!(
        (entry.lease.subnet.to_string(), keys(&store)),
        ("10.5.9.0-24".to_owned(), vec!["10.5.9.0-24".to_owned()])
    );
    assert!(entry.origin.lease.is_some());
}

/// Somebody who writes the key between each listing and the write that follows.
#[tokio::test(start_paused = true)]
async fn a_race_that_is_lost_again_and_again_is_run_seldom_and_told() {
    let store = SimStore::new(32);
    let (key, value) = flannel_lease("10.5.9.0-24", 3);
    let lease = store.grant_now(24 * HOUR);
    store.put(key.clone(), value.clone(), Some(lease));
    let meddler = store.clone();
    tokio::spawn(async move {
        loop {
            meddler.put(key.clone(), value.clone(), Some(lease));
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    });
    let hold = Host::new(3, V4).spawn(&store);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let state = hold.state.borrow().clone();
    assert!(
        matches!(&state, HoldState::Acquiring { reason }
            if reason.contains("subnets/10.5.9.0-24") && reason.contains("by another program")),
        "{state:?}"
    );
    let commits = store.count(SimCall::Commit);
    assert!((10..40).contains(&commits), "{commits} writes in a minute");
}

#[tokio::test(start_paused = true)]
async fn what_is_no_lease_takes_its_own_key_and_nothing_else() {
    for config in [V4, DUAL] {
        let store = SimStore::new(33);
        for junk in ["10.5.0.0-17", "10.5.0.0-19", "10.5.16.0-20", "10.5.1.0-30"] {
            store.put(format!("{PREFIX}/subnets/{junk}"), "x", None);
            store.put(format!("{PREFIX}/subnets/{junk}&fd00:5::-49"), "x", None);
        }
        let first = held_within(&Host::new(3, config).spawn(&store), Duration::from_secs(1)).await;
        // The key that the next host would take first.
        let spoilt = held(&Host::new(4, config).spawn(&SimStore::new(1))).await.lease.subnet;
        store.put(format!("{PREFIX}/subnets/{spoilt}"), "x", None);
        let second = held_within(&Host::new(4, config).spawn(&store), Duration::from_secs(1)).await;
        assert!(second.lease.subnet != spoilt && second.lease.subnet != first.lease.subnet);
        assert_eq!(store.listing(format!("{PREFIX}/subnets/{spoilt}").as_bytes()).entries[0].value, b"x");
        // Older than both, and in the way of neither.
        tokio::time::sleep(HOUR).await;
        assert_eq!(held_within(&Host::new(3, config).spawn(&store), Duration::from_secs(1)).await, first);
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_range_is_full_what_takes_more_than_its_share_is_named() {
    let store = SimStore::new(34);
    let (_, value) = flannel_lease("10.5.7.0-24", 9);
    store.put(format!("{PREFIX}/subnets/10.5.0.0-20"), value.clone(), None);
    store.put(format!("{PREFIX}/subnets/10.5.16.0-21"), value, None);
    for number in 24..=29 {
        store.put(format!("{PREFIX}/subnets/10.5.{number}.0-24"), flannel_lease("10.5.7.0-24", number).1, None);
    }
    store.put(format!("{PREFIX}/subnets/10.5.30.0-24"), "x", None);
    let reason = async |host: &Host| {
        let hold = host.spawn(&store);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let HoldState::Acquiring { reason } = hold.state.borrow().clone() else { panic!("there is no room") };
        reason
    };
    let told = reason(&Host::new(3, V4)).await;
    let wanted = "all 30 subnets from 10.5.1.0/24 to 10.5.30.0/24 are taken: release one, or make the range larger \
                  (SubnetMin, SubnetMax, Network); /coreos.com/network/subnets/10.5.0.0-20 takes 15 of them; \
                  /coreos.com/network/subnets/10.5.16.0-21 takes 8 of them; /coreos.com/network/subnets/10.5.30.0-24 \
                  does not hold a lease: delete it";
    assert_eq!(told, wanted);
    let mut between = Host::new(3, V4);
    between.settings.excluded = vec!["10.5.24.0/22".parse().unwrap()];
    let told = reason(&between).await;
    assert!(told.contains("; 10.5.24.0/22, which this host reaches without the overlay, takes 4 of them"), "{told}");
    store.delete(format!("{PREFIX}/subnets/10.5.30.0-24").as_bytes());
    held_within(&Host::new(3, V4).spawn(&store), Duration::from_secs(1)).await;
}

/// The dual-stack key goes and the IPv4 key comes, which is another key.
#[tokio::test(start_paused = true)]
async fn a_lease_is_not_moved_onto_a_key_that_somebody_has() {
    let store = SimStore::new(35);
    let dual = held(&Host::new(3, DUAL).spawn(&store)).await;
    let v4 = dual.lease.subnet.prefixes().next().unwrap();
    let alone = wire_net::Subnet::new(DualStack { v4: Some(v4), v6: None }).unwrap();
    store.put(format!("{PREFIX}/subnets/{alone}"), "x", None);
    let hold = Host::new(3, V4).spawn(&store);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let state = hold.state.borrow().clone();
    let told = format!("{PREFIX}/subnets/{alone} holds something that is not a lease: delete it");
    assert!(matches!(&state, HoldState::Acquiring { reason } if *reason == told), "{state:?}");
    assert_eq!(store.listing(DIRECTORY).entries.len(), 2);
    store.delete(format!("{PREFIX}/subnets/{alone}").as_bytes());
    assert_eq!(held_within(&hold, Duration::from_secs(4)).await.lease.subnet, alone);
}

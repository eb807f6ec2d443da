//! Following the leases under faults, on the simulated store.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use wire_lease::{Admission, Entries, Follow, FollowSettings, LeaseTable, NetworkConfig, RefusalKind, Start};
use wire_net::{Directory, KeyPrefix};
use wire_store::{LeaseId, LeaseStore, Random, SimBackup, SimCall, SimFault, SimStore};

use crate::common::TestEtcd;

const DIRECTORY: &[u8] = b"/coreos.com/network/subnets/";

fn directory() -> Directory {
    KeyPrefix::new("/coreos.com/network").leases(true)
}

fn admission() -> watch::Sender<Admission> {
    let pools = NetworkConfig::from_json(br#"{"Network":"10.5.0.0/16"}"#).unwrap().pools;
    watch::Sender::new(Admission { pools, ..Admission::default() })
}

fn key(number: u8) -> Vec<u8> {
    [DIRECTORY, format!("10.5.{number}.0-24").as_bytes()].concat()
}

fn value(number: u8, address: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.168.0.{address}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{number:02x}"}}}}"#
    )
}

fn lease(store: &SimStore, number: u8) {
    store.put(key(number), value(number, number), None);
}

fn follow(store: &SimStore, admission: &watch::Sender<Admission>) -> Follow {
    Follow::spawn(
        store.clone(),
        FollowSettings::new(directory(), Random::seeded(1)),
        admission.subscribe(),
        Start::default(),
    )
}

fn subnets(table: &LeaseTable) -> Vec<String> {
    table.peers.keys().map(ToString::to_string).collect()
}

/// Waits for a table with those peers.
async fn peers(follow: &Follow, numbers: &[u8], limit: Duration) -> Arc<LeaseTable> {
    let wanted: Vec<String> = numbers.iter().map(|number| format!("10.5.{number}.0-24")).collect();
    let mut table = follow.table.clone();
    let found = table.wait_for(|table| table.as_ref().is_some_and(|table| subnets(table) == wanted));
    match timeout(limit, found).await {
        Ok(found) => Arc::clone(found.unwrap().as_ref().unwrap()),
        Err(_) => panic!("not {wanted:?} but {:?}", follow.table.borrow().as_deref().map(subnets)),
    }
}

const SOON: Duration = Duration::from_millis(100);
const SECONDS: Duration = Duration::from_secs(2);
/// How long those stay that vanish together with most others.
const HELD: Duration = Duration::from_secs(30);

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_the_first_complete_listing() {
    let store = SimStore::new(1);
    lease(&store, 7);
    store.fail_next(SimCall::List, SimFault::Unavailable);
    let admission = admission();
    let follow = follow(&store, &admission);
    assert!(follow.table.borrow().is_none());
    let table = peers(&follow, &[7], SECONDS).await;
    assert_eq!(table.revision.0, 2);
    tokio::time::sleep(SOON).await;
    let health = follow.health.borrow().clone();
    assert!(health.synced.is_some() && health.error.is_none() && health.listings == 1, "{health:?}");
}

#[tokio::test(start_paused = true)]
async fn changes_come_by_the_watch_and_renewals_cost_nothing() {
    let store = SimStore::new(2);
    lease(&store, 7);
    let admission = admission();
    let mut follow = follow(&store, &admission);
    peers(&follow, &[7], SECONDS).await;
    tokio::time::sleep(SOON).await;
    follow.table.mark_unchanged();
    for lease in [None, Some(store.grant_now(Duration::from_secs(86_400)))] {
        store.put(key(7), value(7, 7), lease);
    }
    tokio::time::sleep(SOON).await;
    assert!(!follow.table.has_changed().unwrap());
    store.put(key(7), value(7, 8), None);
    lease(&store, 9);
    let table = peers(&follow, &[7, 9], SOON).await;
    let seven = table.peers.values().next().unwrap();
    assert_eq!(seven.lease.public.v4, Some("192.168.0.8".parse().unwrap()));
    store.delete(&key(7));
    peers(&follow, &[9], SOON).await;
    assert_eq!(store.count(SimCall::List), 1);
}

#[tokio::test(start_paused = true)]
async fn changes_while_etcd_was_away_are_found_within_two_seconds_of_its_return() {
    for seed in 0..6 {
        let store = SimStore::new(seed);
        lease(&store, 1);
        lease(&store, 2);
        let admission = admission();
        let follow = follow(&store, &admission);
        peers(&follow, &[1, 2], SECONDS).await;
        store.set_down(true);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        let lists = store.count(SimCall::List);
        assert!((3600..7500).contains(&lists), "{lists} calls in an hour");
        assert!(follow.health.borrow().error.as_ref().unwrap().contains("does not answer"));
        assert_eq!(follow.health.borrow().synced, None);
        assert_eq!(follow.table.borrow().as_deref().map(subnets).unwrap().len(), 2, "no peer is removed");
        store.delete(&key(1));
        store.put(key(2), value(2, 22), None);
        lease(&store, 3);
        if seed % 2 == 0 {
            store.compact();
        }
        store.set_down(false);
        let table = peers(&follow, &[2, 3], SECONDS).await;
        assert_eq!(table.peers.values().next().unwrap().lease.public.v4, Some("192.168.0.22".parse().unwrap()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_is_opened_again_at_once() {
    let store = SimStore::new(3);
    let admission = admission();
    let follow = follow(&store, &admission);
    peers(&follow, &[], SECONDS).await;
    for number in 1..20 {
        store.break_watches();
        lease(&store, number);
        peers(&follow, &(1..=number).collect::<Vec<_>>(), SECONDS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_compaction_is_met_by_a_listing() {
    let store = SimStore::new(4);
    lease(&store, 1);
    let admission = admission();
    let listing = Arc::new(Entries::list(&store, directory()).await.unwrap());
    store.delete(&key(1));
    lease(&store, 2);
    store.put("/other", "", None);
    store.compact();
    let follow = Follow::spawn(
        store.clone(),
        FollowSettings::new(directory(), Random::seeded(1)),
        admission.subscribe(),
        Start { listing: Some(listing), ..Start::default() },
    );
    peers(&follow, &[2], SECONDS).await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_event_is_put_right_by_the_periodic_listing() {
    let store = SimStore::new(5);
    lease(&store, 1);
    let admission = admission();
    let follow = follow(&store, &admission);
    peers(&follow, &[1], SECONDS).await;
    tokio::time::sleep(SOON).await;
    store.lose_next_event();
    store.delete(&key(1));
    let lost_at = Instant::now();
    store.fail_next(SimCall::List, SimFault::Unavailable);
    peers(&follow, &[], Duration::from_secs(320)).await;
    assert!(lost_at.elapsed() > Duration::from_secs(200), "by the listing, not by the watch");
    assert!(follow.health.borrow().synced.is_some_and(|since| since < lost_at), "the watch stood all the time");
    lease(&store, 2);
    peers(&follow, &[2], SOON).await;
}

/// No listing takes back what came after it was read.
#[tokio::test(start_paused = true)]
async fn events_do_not_wait_for_the_periodic_listing() {
    for seed in 0..20 {
        let store = SimStore::new(seed);
        let mut there: Vec<u8> = (1..20).collect();
        there.iter().for_each(|number| lease(&store, *number));
        let admission = admission();
        let mut settings = FollowSettings::new(directory(), Random::seeded(seed));
        settings.list_every = Duration::from_millis(1);
        let follow = Follow::spawn(store.clone(), settings, admission.subscribe(), Start::default());
        let mut table = peers(&follow, &there, SECONDS).await;
        for number in 20..60 {
            lease(&store, number);
            there.push(number);
            if number % 5 == 0 {
                store.delete(&key(there.remove(0)));
            }
            let now = peers(&follow, &there, SOON).await;
            assert!(now.revision > table.revision, "seed {seed}");
            table = now;
            tokio::time::sleep(Duration::from_millis(u64::from(number) % 7)).await;
            assert_eq!(
                follow.table.borrow().as_ref().unwrap().peers,
                table.peers,
                "seed {seed}: nothing is taken back"
            );
        }
        assert!(follow.health.borrow().listings > 10, "{:?}", follow.health.borrow());
    }
}

#[tokio::test(start_paused = true)]
async fn a_wiped_or_restored_store_is_believed() {
    let store = SimStore::new(6);
    lease(&store, 1);
    let backup = store.backup();
    let admission = admission();
    let follow = follow(&store, &admission);
    peers(&follow, &[1], SECONDS).await;
    for number in 2..10 {
        lease(&store, number);
    }
    peers(&follow, &(1..10).collect::<Vec<_>>(), SECONDS).await;
    store.restore(backup);
    peers(&follow, &[1], HELD + SECONDS).await;
    tokio::time::sleep(SOON).await;
    store.restore(SimBackup::default());
    peers(&follow, &[], HELD + SECONDS).await;
    lease(&store, 5);
    peers(&follow, &[5], SECONDS).await;
}

#[tokio::test(start_paused = true)]
async fn most_leases_gone_at_once_are_held_for_half_a_minute_unless_a_new_one_is_in_their_way() {
    let store = SimStore::new(10);
    (1..=6).for_each(|number| lease(&store, number));
    let admission = admission();
    let follow = follow(&store, &admission);
    peers(&follow, &[1, 2, 3, 4, 5, 6], SECONDS).await;
    tokio::time::sleep(SOON).await;
    (1..=6).for_each(|number| store.delete(&key(number)));
    let gone = Instant::now();
    tokio::time::sleep(SECONDS).await;
    let table = peers(&follow, &[1, 2, 3, 4, 5, 6], SOON).await;
    assert_eq!(table.held, 6);
    // Back as it was; back with another address; and another host with a MAC that is held.
    lease(&store, 1);
    store.put(key(2), value(2, 20), None);
    store.put(key(7), value(7, 7).replace(":07\"", ":03\""), None);
    lease(&store, 8);
    let table = peers(&follow, &[1, 2, 4, 5, 6, 7, 8], SOON).await;
    assert_eq!((table.held, table.refused.len()), (3, 0));
    let moved = &table.peers[&"10.5.2.0-24".parse::<wire_net::Subnet>().unwrap()].lease;
    assert_eq!(moved.public.v4, Some("192.168.0.20".parse().unwrap()));
    peers(&follow, &[1, 2, 7, 8], HELD).await;
    let after = gone.elapsed();
    assert!(after >= HELD && after < HELD + SECONDS, "{after:?}");
}

/// A former follower of these leases has ended with this table.
fn follow_after(store: &SimStore, admission: &watch::Sender<Admission>, before: Arc<LeaseTable>) -> Follow {
    let settings = FollowSettings { before: Some(before), ..FollowSettings::new(directory(), Random::seeded(1)) };
    Follow::spawn(store.clone(), settings, admission.subscribe(), Start::default())
}

#[tokio::test(start_paused = true)]
async fn most_leases_gone_since_a_former_follower_ended_are_held_by_the_next() {
    let store = SimStore::new(12);
    (1..=6).for_each(|number| lease(&store, number));
    let admission = admission();
    let listing = Arc::new(Entries::list(&store, directory()).await.unwrap());
    // Whether it followed a store, or what was remembered of it.
    let remembered = Follow::from_listing(listing, admission.subscribe(), None);
    let formers = [follow(&store, &admission), remembered];
    let [one, other] = [&formers[0], &formers[1]].map(|former| peers(former, &[1, 2, 3, 4, 5, 6], SECONDS));
    let tables = [one.await, other.await];
    drop(formers);
    (1..=4).for_each(|number| store.delete(&key(number)));
    for before in tables {
        let gone = Instant::now();
        let follow = follow_after(&store, &admission, before);
        let table = peers(&follow, &[1, 2, 3, 4, 5, 6], SECONDS).await;
        assert_eq!(table.held, 4);
        peers(&follow, &[5, 6], HELD + SECONDS).await;
        let after = gone.elapsed();
        assert!(after >= HELD && after < HELD + SECONDS, "{after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_former_follower_holds_is_held_on_for_no_longer_though_most_are_back() {
    let store = SimStore::new(13);
    (1..=6).for_each(|number| lease(&store, number));
    let admission = admission();
    let mut follower = follow(&store, &admission);
    peers(&follower, &[1, 2, 3, 4, 5, 6], SECONDS).await;
    tokio::time::sleep(SOON).await;
    (1..=6).for_each(|number| store.delete(&key(number)));
    let gone = Instant::now();
    for back in [&[][..], &[1], &[2, 3, 4]] {
        back.iter().for_each(|number| lease(&store, *number));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let table = peers(&follower, &[1, 2, 3, 4, 5, 6], SOON).await;
        follower = follow_after(&store, &admission, table);
    }
    assert_eq!(peers(&follower, &[1, 2, 3, 4, 5, 6], SOON).await.held, 2);
    peers(&follower, &[1, 2, 3, 4], HELD).await;
    let after = gone.elapsed();
    assert!(after >= HELD && after < HELD + SECONDS, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_admission_counts_even_while_etcd_is_away() {
    let store = SimStore::new(7);
    lease(&store, 1);
    lease(&store, 2);
    let admission = admission();
    let follow = follow(&store, &admission);
    peers(&follow, &[1, 2], SECONDS).await;
    admission.send_modify(|admission| admission.own = Some("10.5.1.0-24".parse().unwrap()));
    peers(&follow, &[2], SOON).await;
    store.set_down(true);
    tokio::time::sleep(Duration::from_secs(60)).await;
    admission.send_modify(|admission| admission.public.v4 = Some("192.168.0.2".parse().unwrap()));
    let table = peers(&follow, &[], SECONDS).await;
    let refusal = table.refused.values().next().unwrap();
    assert_eq!(refusal.kind, RefusalKind::Own);
    // What refuses no lease is told, too.
    let endpoint: IpAddr = "10.5.9.5".parse().unwrap();
    admission.send_modify(|admission| admission.endpoints = vec![endpoint]);
    let mut table = follow.table.clone();
    let told = table.wait_for(|table| table.as_ref().is_some_and(|table| table.outside == [endpoint]));
    assert!(timeout(SECONDS, told).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn what_is_remembered_is_let_in_by_the_same_rules_and_needs_no_store() {
    let store = SimStore::new(9);
    lease(&store, 1);
    lease(&store, 2);
    store.put(key(3), value(3, 3).replace("192.168.0.3", "127.0.0.1"), None);
    let listing = Arc::new(Entries::list(&store, directory()).await.unwrap());
    let admission = admission();
    let follow = Follow::from_listing(listing, admission.subscribe(), None);
    let table = peers(&follow, &[1, 2], SOON).await;
    let kinds: Vec<RefusalKind> = table.refused.values().map(|refusal| refusal.kind).collect();
    assert_eq!(kinds, [RefusalKind::PublicIp]);
    admission.send_modify(|admission| admission.own = Some("10.5.1.0-24".parse().unwrap()));
    peers(&follow, &[2], SOON).await;
    lease(&store, 4);
    tokio::time::sleep(SECONDS).await;
    peers(&follow, &[2], SOON).await;
    assert_eq!(*follow.health.borrow(), wire_lease::FollowHealth::default());
}

#[tokio::test(start_paused = true)]
async fn a_peer_added_after_a_bad_entry_is_let_in() {
    let store = SimStore::new(8);
    lease(&store, 1);
    let admission = admission();
    let follow = follow(&store, &admission);
    peers(&follow, &[1], SECONDS).await;
    let many = vec![b'x'; 1_500_000];
    for (name, value) in [(&b"10.5.2.0-24"[..], &b"xx{"[..]), (b"\xff\xfe", b""), (b"10.5.3.0-24", &many), (b"", b"x")]
    {
        store.put([DIRECTORY, name].concat(), value, None::<LeaseId>);
    }
    lease(&store, 4);
    let table = peers(&follow, &[1, 4], SOON).await;
    let refused: Vec<_> = table.refused.iter().map(|(key, refusal)| (key.as_str(), refusal.kind)).collect();
    let path = |name: &str| format!("/coreos.com/network/subnets/{name}");
    let wanted = [
        (path(""), RefusalKind::Key),
        (path("10.5.2.0-24"), RefusalKind::Value),
        (path("10.5.3.0-24"), RefusalKind::Value),
        (path(r"\xff\xfe"), RefusalKind::Key),
    ];
    assert_eq!(refused, wanted.each_ref().map(|(key, kind)| (key.as_str(), *kind)));
}

#[tokio::test]
async fn a_real_etcd_is_followed_through_a_restart() {
    let Some(mut etcd) = TestEtcd::start().await else { return };
    let store = etcd.store().await;
    let put = async |number: u8| {
        let write = wire_store::Write::Put { key: key(number), value: value(number, number).into_bytes(), lease: None };
        store.commit(wire_store::Txn { when: vec![], then: vec![write] }).await
    };
    put(1).await.unwrap();
    let admission = admission();
    let follow = Follow::spawn(
        store.clone(),
        FollowSettings::new(directory(), Random::seeded(1)),
        admission.subscribe(),
        Start::default(),
    );
    peers(&follow, &[1], SECONDS).await;
    put(2).await.unwrap();
    peers(&follow, &[1, 2], SECONDS).await;
    etcd.kill();
    let mut health = follow.health.clone();
    timeout(SECONDS, health.wait_for(|health| health.error.is_some())).await.unwrap().unwrap();
    etcd.start_again();
    crate::common::answers(&store).await;
    put(3).await.unwrap();
    peers(&follow, &[1, 2, 3], SECONDS).await;
}

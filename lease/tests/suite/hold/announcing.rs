//! Beside flanneld our lease is written a second time; beside nobody but wire-agents it is not.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use wire_lease::{Admission, Entries, Hold, HoldState};
use wire_store::{KeyValue, Random, SimCall, SimStore};

use super::{DIRECTORY, DUAL, HOUR, Host, PREFIX, V4, flannel_lease, held, keys};

const SECOND: Duration = Duration::from_secs(1);

/// What whoever follows the leases would tell now.
fn tell(store: &SimStore, host: &Host, hold: &Hold<SimStore>) {
    let settings = &host.settings;
    let admission = Admission { pools: settings.pools, own: hold.state.borrow().subnet(), ..Admission::default() };
    let entries = Entries::listed(settings.prefix.leases(true), &store.listing(DIRECTORY));
    hold.tell(Arc::new(entries.admit(&admission)));
}

/// A flanneld takes this subnet of the range.
fn flanneld(store: &SimStore, number: u16) {
    let (key, value) = flannel_lease(&format!("10.5.{number}.0-24"), 100 + number);
    store.put(key, value, Some(store.grant_now(24 * HOUR)));
}

fn stored(store: &SimStore, key: &str) -> KeyValue {
    store.listing(key.as_bytes()).entries.remove(0)
}

#[tokio::test(start_paused = true)]
async fn where_flanneld_has_a_lease_ours_is_written_once_more_unchanged_after_5_to_30_seconds() {
    let mut seconds = BTreeSet::new();
    for (seed, config) in (0..20).flat_map(|seed| [V4, DUAL].map(|config| (seed, config))) {
        let store = SimStore::new(seed);
        flanneld(&store, 1);
        let mut host = Host::new(3, config);
        host.settings.random = Random::seeded(seed);
        let hold = host.spawn(&store);
        let first = held(&hold).await;
        tell(&store, &host, &hold);
        let key = format!("{PREFIX}/subnets/{}", first.lease.subnet);
        let (before, commits) = (stored(&store, &key), store.count(SimCall::Commit));
        let mut waited = 0;
        while store.count(SimCall::Commit) == commits {
            assert!(waited < 31, "never written again");
            tokio::time::sleep(SECOND).await;
            waited += 1;
        }
        assert!(waited >= 5, "after {waited} s");
        seconds.insert(waited);
        let after = stored(&store, &key);
        assert!(after.mod_revision > before.mod_revision);
        assert_eq!(after, KeyValue { mod_revision: after.mod_revision, ..before });
        let guards = store.listing(format!("{PREFIX}/wire/guards/").as_bytes()).entries;
        assert!(guards.iter().all(|guard| guard.mod_revision == after.mod_revision && guard.lease == after.lease));
        // The same leases told again are no news, and a restart finds all as it should be.
        tell(&store, &host, &hold);
        tokio::time::sleep(HOUR).await;
        assert_eq!(hold.state.borrow().entry().unwrap().origin.mod_revision, after.mod_revision);
        drop(hold);
        let again = host.spawn(&store);
        held(&again).await;
        tell(&store, &host, &again);
        tokio::time::sleep(HOUR).await;
        assert_eq!(store.count(SimCall::Commit), commits + 1);
    }
    assert!(seconds.len() > 8, "not all at the same moment: {seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn a_flanneld_that_comes_later_is_told_and_many_of_them_once_a_minute() {
    let store = SimStore::new(1);
    let host = Host::new(3, V4);
    let hold = host.spawn(&store);
    held(&hold).await;
    tell(&store, &host, &hold);
    tokio::time::sleep(HOUR).await;
    let commits = store.count(SimCall::Commit);
    let free = (1..=30).filter(|number| !keys(&store).contains(&format!("10.5.{number}.0-24")));
    for number in free.take(24) {
        flanneld(&store, number);
        tell(&store, &host, &hold);
        tokio::time::sleep(10 * SECOND).await;
    }
    tokio::time::sleep(2 * HOUR).await;
    let written = store.count(SimCall::Commit) - commits;
    assert!((3..=5).contains(&written), "{written} writes for 24 that came in 4 minutes");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_of_wire_agents_alone_writes_nothing_more() {
    for config in [V4, DUAL] {
        let store = SimStore::new(2);
        // Few, whose guards are read one by one, and many, whose guards are listed.
        for range in [0..4u16, 4..28] {
            let hosts: Vec<Host> = range.map(|number| Host::new(number, config)).collect();
            let holds: Vec<_> = hosts.iter().map(|host| host.spawn(&store)).collect();
            for hold in &holds {
                held(hold).await;
            }
            let commits = store.count(SimCall::Commit);
            for _ in 0..10 {
                hosts.iter().zip(&holds).for_each(|(host, hold)| tell(&store, host, hold));
                tokio::time::sleep(60 * SECOND).await;
            }
            assert_eq!(store.count(SimCall::Commit), commits);
            // With another time to live it is attached to another lease, which the table told does not show.
            let mut short = Host::new(0, config);
            short.settings.ttl = HOUR;
            tell(&store, &hosts[1], &holds[1]);
            held(&short.spawn(&store)).await;
            tokio::time::sleep(60 * SECOND).await;
            let written = store.count(SimCall::Commit) - commits;
            assert!(written <= 2, "{written} writes, of which those of the host itself are no more than 2");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_lost_is_not_brought_back_by_writing_it_again() {
    for seed in 0..20 {
        let store = SimStore::new(seed);
        flanneld(&store, 1);
        let host = Host::new(3, V4);
        let hold = host.spawn(&store);
        let entry = held(&hold).await;
        tell(&store, &host, &hold);
        // It hears nothing until after it would write.
        store.stall(40 * SECOND);
        store.revoke_now(entry.origin.lease.unwrap());
        let (key, value) = flannel_lease(&entry.lease.subnet.to_string(), 99);
        store.put(key.clone(), value.clone(), None);
        tokio::time::sleep(120 * SECOND).await;
        assert_eq!(stored(&store, &key).value, value);
        assert!(matches!(&*hold.state.borrow(), HoldState::Lost { reason, .. } if reason.contains("192.168.0.99")));
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_taken_back_is_written_once_more_too() {
    let store = SimStore::new(1);
    flanneld(&store, 1);
    let host = Host::new(3, V4);
    let hold = host.spawn(&store);
    let entry = held(&hold).await;
    tell(&store, &host, &hold);
    tokio::time::sleep(120 * SECOND).await;
    store.revoke_now(entry.origin.lease.unwrap());
    tokio::time::sleep(SECOND).await;
    let key = format!("{PREFIX}/subnets/{}", entry.lease.subnet);
    let back = stored(&store, &key);
    assert!(back.mod_revision == back.create_revision && back.create_revision > entry.origin.mod_revision);
    tokio::time::sleep(120 * SECOND).await;
    let again = stored(&store, &key);
    assert!(again.mod_revision > back.mod_revision);
    assert_eq!(again, KeyValue { mod_revision: again.mod_revision, ..back });
}

#[tokio::test(start_paused = true)]
async fn a_reservation_of_ours_is_written_again_as_one() {
    let store = SimStore::new(3);
    let (key, value) = flannel_lease("10.5.9.0-24", 3);
    store.put(key.clone(), value, None);
    let host = Host::new(3, V4);
    let hold = host.spawn(&store);
    held(&hold).await;
    tell(&store, &host, &hold);
    tokio::time::sleep(HOUR).await;
    let before = stored(&store, &key);
    flanneld(&store, 1);
    tell(&store, &host, &hold);
    tokio::time::sleep(31 * SECOND).await;
    let after = stored(&store, &key);
    assert!(after.mod_revision > before.mod_revision && after.lease.is_none());
    assert!(matches!(&*hold.state.borrow(), HoldState::Held { expires: None, trouble: None, .. }));
}

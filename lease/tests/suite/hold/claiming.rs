//! Which subnet a host gets at first, and how.

use std::{collections::BTreeSet, time::Duration};

use wire_lease::{Hold, HoldState};
use wire_net::Family;
use wire_store::{EtcdStore, LeaseStore, Revision, SimCall, SimFault, SimStore};

use super::{DUAL, HOUR, Host, PREFIX, V4, assert_disjoint, crowd::range_of, flannel_lease, held, held_within, keys};
use crate::common::TestEtcd;

#[tokio::test(start_paused = true)]
async fn a_first_lease_is_one_grant_and_one_write_and_is_flannels_byte_for_byte() {
    let store = SimStore::new(1);
    let host = Host::new(3, r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.52.0","SubnetMax":"10.5.52.0"}"#);
    let hold = host.spawn(&store);
    let entry = held(&hold).await;
    let listing = store.listing(PREFIX.as_bytes());
    let [lease, record, guard] = &listing.entries[..] else { panic!("{listing:?}") };
    assert_eq!(lease.key, b"/coreos.com/network/subnets/10.5.52.0-24");
    let value = r#"{"PublicIP":"192.168.0.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:03:00"}}"#;
    assert_eq!(String::from_utf8_lossy(&lease.value), value);
    assert_eq!(record.key, b"/coreos.com/network/wire/backends/10.5.52.0-24");
    assert_eq!((record.value.as_slice(), record.lease), (&br#"{"Port":8472}"#[..], lease.lease));
    assert_eq!(guard.key, b"/coreos.com/network/wire/guards/10.5.52.0-24");
    assert_eq!(guard.value, b"host-3");
    assert!(lease.lease.is_some() && lease.lease == guard.lease && entry.origin.lease == lease.lease);
    assert_eq!((store.count(SimCall::Grant), store.count(SimCall::Commit)), (1, 1));
    assert_eq!((store.count(SimCall::List), store.count(SimCall::Get)), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn thirty_hosts_share_thirty_subnets_without_overlap_whatever_the_order() {
    for seed in 0..40 {
        let store = SimStore::new(seed);
        // Runs of IPv4 hosts, of dual-stack hosts, and both together.
        let config = |number: u16| match seed % 3 {
            0 => V4,
            1 => DUAL,
            _ if number.is_multiple_of(2) => V4,
            _ => DUAL,
        };
        let hosts: Vec<Host> = (0..30).map(|number| Host::new(number, config(number))).collect();
        let holds: Vec<_> = hosts.iter().map(|host| host.spawn(&store)).collect();
        let mut subnets = BTreeSet::new();
        for hold in &holds {
            subnets.insert(held(hold).await.lease.subnet);
        }
        assert_eq!(subnets.len(), 30, "seed {seed}");
        assert_disjoint(&subnets);
        assert_eq!(keys(&store).len(), 30);
        assert!(store.count(SimCall::Grant) <= 31, "{} grants", store.count(SimCall::Grant));
        let late = Host::new(30, config(30));
        let late = late.spawn(&store);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let full = "all 30 subnets from 10.5.1.0/24 to 10.5.30.0/24 are taken";
        let state = late.state.borrow().clone();
        assert!(
            matches!(&state, HoldState::Acquiring { reason } if reason.contains(full) && reason.contains("ends in at most 86")),
            "{state:?}"
        );
        holds.into_iter().next().unwrap().release().await.unwrap();
        assert_disjoint(&BTreeSet::from([held_within(&late, Duration::from_secs(1)).await.lease.subnet]));
    }
}

#[tokio::test]
async fn thirty_hosts_share_thirty_subnets_of_a_real_etcd() {
    let Some(etcd) = TestEtcd::start().await else { return };
    let mut holds: Vec<Hold<EtcdStore>> = Vec::new();
    for number in 0..30 {
        let host = Host::new(number, if number.is_multiple_of(2) { V4 } else { DUAL });
        holds.push(host.spawn(&etcd.store().await));
        // Its offer never changes again.
        drop(host);
    }
    let mut subnets = BTreeSet::new();
    for hold in &holds {
        subnets.insert(held(hold).await.lease.subnet);
    }
    assert_eq!(subnets.len(), 30);
    assert_disjoint(&subnets);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_flannel_wrote_is_adopted_with_its_etcd_lease() {
    let store = SimStore::new(5);
    let (key, value) = flannel_lease("10.5.7.0-24", 3);
    let lease = store.grant_now(24 * HOUR);
    store.put(key, value, Some(lease));
    let entry = held(&Host::new(3, V4).spawn(&store)).await;
    assert_eq!(entry.lease.subnet.to_string(), "10.5.7.0-24");
    assert_eq!(entry.origin.lease, Some(lease));
    assert_eq!(store.listing(b"/coreos.com/network/wire/").entries[0].lease, Some(lease));
}

#[tokio::test(start_paused = true)]
async fn turning_ipv6_on_keeps_the_ipv4_subnet_and_turning_it_off_too() {
    let store = SimStore::new(8);
    let first = held(&Host::new(3, V4).spawn(&store)).await;
    let dual = held(&Host::new(3, DUAL).spawn(&store)).await;
    assert_eq!(dual.lease.subnet.get(Family::V4), first.lease.subnet.get(Family::V4));
    assert!(dual.lease.subnet.get(Family::V6).is_some());
    assert_eq!(dual.origin.lease, first.origin.lease);
    assert_eq!(keys(&store), [dual.lease.subnet.to_string()]);
    let back = held(&Host::new(3, V4).spawn(&store)).await;
    assert_eq!(back.lease.subnet, first.lease.subnet);
    assert_eq!(keys(&store), [first.lease.subnet.to_string()]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_leaks_neither_a_subnet_nor_a_lease() {
    for call in [SimCall::Commit, SimCall::Grant, SimCall::List, SimCall::Get] {
        for fault in [SimFault::LostReply, SimFault::Unavailable, SimFault::Unauthorised] {
            let store = SimStore::new(9);
            store.fail_next(call, fault);
            let hold = Host::new(3, V4).spawn(&store);
            let entry = held_within(&hold, Duration::from_secs(2)).await;
            assert_eq!(keys(&store), [entry.lease.subnet.to_string()], "{call:?} {fault:?}");
        }
    }
}

#[tokio::test]
async fn in_a_real_etcd_a_first_lease_is_one_write_and_a_restart_none() {
    let Some(etcd) = TestEtcd::start().await else { return };
    for number in 0..3 {
        let store = etcd.store().await;
        let host = Host::new(number, V4);
        let revision = async || store.get(b"a").await.unwrap().revision;
        let before = revision().await;
        let entry = held(&host.spawn(&store)).await;
        assert_eq!(revision().await, Revision(before.0 + 1));
        assert_eq!(held(&host.spawn(&etcd.store().await)).await, entry);
        assert_eq!(revision().await, Revision(before.0 + 1));
    }
}

/// As many hosts as subnets but a few, all at the same moment. `WIRE_TESTS_CROWD` sets how many.
#[tokio::test(start_paused = true)]
async fn hundreds_of_hosts_that_start_together_share_no_subnet_and_write_a_few_times_each() {
    let count = std::env::var("WIRE_TESTS_CROWD").map_or(250, |count| count.parse().unwrap());
    let config = range_of(u32::from(count) + 5);
    let store = SimStore::new(60);
    let clients: Vec<SimStore> = (0..count).map(|_| store.another_client()).collect();
    let hosts: Vec<Host> = (0..count).map(|number| Host::new(number, &config)).collect();
    let holds: Vec<_> = hosts.iter().zip(&clients).map(|(host, client)| host.spawn(client)).collect();
    let mut subnets = BTreeSet::new();
    for hold in &holds {
        subnets.insert(held(hold).await.lease.subnet);
    }
    assert_eq!(subnets.len(), usize::from(count));
    assert_disjoint(&subnets);
    let writes = |client: &SimStore| client.own_count(SimCall::Commit) + client.own_count(SimCall::Grant);
    let (most, all) = (clients.iter().map(writes).max().unwrap(), clients.iter().map(writes).sum::<u64>());
    println!("{count} hosts: {:.2} writes each on average, {most} at most", all as f64 / f64::from(count));
    assert!(most <= 20, "{most} writes of one host");
    assert!(all <= u64::from(count) * 4, "{all} writes of {count} hosts");
    assert_eq!(store.leases().len(), usize::from(count));
}

#[tokio::test(start_paused = true)]
async fn while_etcd_is_away_a_host_waits_and_says_so() {
    let store = SimStore::new(16);
    store.set_down(true);
    let hold = Host::new(3, V4).spawn(&store);
    tokio::time::sleep(HOUR).await;
    assert!(matches!(&*hold.state.borrow(), HoldState::Acquiring { reason } if reason.contains("does not answer")));
    let asked = store.count(SimCall::List);
    assert!((3600..7500).contains(&asked), "{asked} calls in an hour");
    store.set_down(false);
    held_within(&hold, Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn ipv6_only_leases_have_a_directory_of_their_own() {
    let store = SimStore::new(17);
    let only_v6 = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/48"}"#;
    let entry = held(&Host::new(3, only_v6).spawn(&store)).await;
    assert!(keys(&store).is_empty());
    let stored = store.listing(b"/coreos.com/network/wire/subnets/").entries.pop().unwrap();
    assert!(String::from_utf8(stored.key).unwrap().ends_with(&entry.lease.subnet.to_string()));
    assert!(String::from_utf8(stored.value).unwrap().starts_with(r#"{"PublicIP":"0.0.0.0","PublicIPv6":"fd99::3""#));
}

#[tokio::test(start_paused = true)]
async fn a_full_range_has_room_again_when_a_lease_expires() {
    let store = SimStore::new(19);
    let one = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.1.0"}"#;
    let first = Host::new(3, one).spawn(&store);
    held(&first).await;
    drop(first);
    let waiting = Host::new(4, one).spawn(&store);
    let started = tokio::time::Instant::now();
    held_within(&waiting, 25 * HOUR).await;
    assert!(started.elapsed() > 23 * HOUR, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_underlay_is_never_leased_and_the_subnet_held_last_is_preferred() {
    let store = SimStore::new(20);
    let two = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.2.0"}"#;
    let mut host = Host::new(3, two);
    host.settings.excluded = vec!["10.5.1.64/26".parse().unwrap()];
    host.settings.preferred.v4 = Some("10.5.1.0/24".parse().unwrap());
    assert_eq!(held(&host.spawn(&store)).await.lease.subnet.to_string(), "10.5.2.0-24");
    let mut other = Host::new(4, V4);
    other.settings.preferred.v4 = Some("10.5.23.0/24".parse().unwrap());
    assert_eq!(held(&other.spawn(&store)).await.lease.subnet.to_string(), "10.5.23.0-24");
}

#[tokio::test(start_paused = true)]
async fn an_overlay_cut_out_of_the_underlay_has_room() {
    let store = SimStore::new(22);
    let mut host = Host::new(3, V4);
    host.settings.excluded = vec!["10.0.0.0/8".parse().unwrap(), "10.5.0.0/16".parse().unwrap()];
    held_within(&host.spawn(&store), Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_role_that_may_not_read_guards_costs_one_lease_and_no_more() {
    let store = SimStore::new(24);
    for _ in 0..20 {
        store.fail_next(SimCall::Get, SimFault::Unauthorised);
    }
    held_within(&Host::new(3, V4).spawn(&store), Duration::from_secs(60)).await;
    assert_eq!(store.leases().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_names_the_whole_world_takes_nothing() {
    let store = SimStore::new(21);
    let (_, value) = flannel_lease("10.5.7.0-24", 9);
    store.put("/coreos.com/network/subnets/0.0.0.0-0", value.clone(), None);
    store.put("/coreos.com/network/subnets/10.0.0.0-8", value, None);
    store.put("/coreos.com/network/subnets/fruit", "xx{", None);
    held_within(&Host::new(3, V4).spawn(&store), Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn no_lease_is_taken_that_holds_an_address_of_the_store_whoever_has_written_it_for_this_host() {
    let store = SimStore::new(43);
    let mut host = Host::new(3, V4);
    let endpoint = "10.5.9.5".parse().unwrap();
    host.settings.endpoints = vec![endpoint];
    host.settings.excluded = vec!["10.5.9.5/32".parse().unwrap()];
    host.settings.preferred.v4 = Some("10.5.9.0/24".parse().unwrap());
    let (key, value) = flannel_lease("10.5.9.0-24", 3);
    store.put(key, value, None);
    let entry = held(&host.spawn(&store)).await;
    assert!(entry.lease.subnet.prefixes().all(|prefix| !prefix.contains(endpoint)), "{}", entry.lease.subnet);
}

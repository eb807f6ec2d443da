//! Holding a lease: on the simulated store with many seeds, and once on a real etcd.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use wire_lease::{
    BackendData, DualStack, EtcdStore, Family, Hold, HoldSettings, HoldState, KeyPrefix, Lease, LeaseStore,
    NetworkConfig, Offer, Prefix, SimBackup, SimCall, SimFault, SimStore, Subnet, Vni, Vtep,
};

use crate::common::TestEtcd;

const PREFIX: &str = "/coreos.com/network";
const DIRECTORY: &[u8] = b"/coreos.com/network/subnets/";
const HOUR: Duration = Duration::from_secs(3600);

const V4: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.30.0"}"#;
const DUAL: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.30.0","EnableIPv6":true,
    "IPv6Network":"fd00:5::/48","IPv6SubnetMin":"fd00:5:0:1::","IPv6SubnetMax":"fd00:5:0:1e::"}"#;

/// One host: what it brings to its lease.
struct Host {
    settings: HoldSettings,
    offer: watch::Sender<Offer>,
}

impl Host {
    fn new(number: u16, config: &str) -> Self {
        let pools = NetworkConfig::from_json(config.as_bytes()).unwrap().pools;
        let settings = HoldSettings {
            prefix: KeyPrefix::new(PREFIX),
            pools,
            identity: format!("host-{number}"),
            ttl: 24 * HOUR,
            renew_margin: HOUR,
            preferred: DualStack::default(),
            avoid: Vec::new(),
            same_host: true,
        };
        let offer = Offer { public: public(number, &pools), data: data(number, &pools) };
        Self { settings, offer: watch::Sender::new(offer) }
    }

    fn spawn<S: LeaseStore>(&self, store: &S) -> Hold<S> {
        Hold::spawn(store.clone(), self.settings.clone(), self.offer.subscribe(), None)
    }
}

fn public<T>(number: u16, families: &DualStack<T>) -> DualStack<IpAddr> {
    families.map(|family, _| match family {
        Family::V4 => Ipv4Addr::from_bits(0xc0a8_0000 + u32::from(number)).into(),
        Family::V6 => Ipv6Addr::from_bits((0xfd99 << 112) + u128::from(number)).into(),
    })
}

fn data<T>(number: u16, families: &DualStack<T>) -> BackendData {
    let [high, low] = number.to_be_bytes();
    let mac = |last| wire_lease::MacAddr::local([2, 0, 0, high, low, last]);
    BackendData::Vxlan(families.map(|family, _| Vtep { vni: Vni::new(1), mac: mac(u8::from(family == Family::V6)) }))
}

async fn held<S>(hold: &Hold<S>) -> Arc<wire_lease::Entry> {
    held_within(hold, Duration::from_secs(60)).await
}

async fn held_within<S>(hold: &Hold<S>, limit: Duration) -> Arc<wire_lease::Entry> {
    let mut state = hold.state.clone();
    let held = state.wait_for(|state| matches!(state, HoldState::Held { .. }));
    match timeout(limit, held).await {
        Ok(state) => Arc::clone(state.unwrap().entry().unwrap()),
        Err(_) => panic!("not held: {:?}", hold.state.borrow()),
    }
}

/// Waits until it was written again.
async fn held_anew<S>(hold: &Hold<S>, limit: Duration) -> Arc<wire_lease::Entry> {
    let before = hold.state.borrow().entry().unwrap().origin.mod_revision;
    let mut state = hold.state.clone();
    let anew =
        state.wait_for(|state| matches!(state, HoldState::Held { entry, .. } if entry.origin.mod_revision != before));
    match timeout(limit, anew).await {
        Ok(state) => Arc::clone(state.unwrap().entry().unwrap()),
        Err(_) => panic!("not held anew: {:?}", hold.state.borrow()),
    }
}

fn assert_disjoint<'a>(subnets: impl IntoIterator<Item = &'a Subnet>) {
    let mut all: Vec<Prefix> = subnets.into_iter().flat_map(Subnet::prefixes).collect();
    all.sort_unstable();
    for pair in all.windows(2) {
        assert!(!pair[0].overlaps(pair[1]), "{} and {}", pair[0], pair[1]);
    }
}

fn keys(store: &SimStore) -> Vec<String> {
    let listing = store.listing(DIRECTORY);
    let name = |key: &[u8]| String::from_utf8(key[DIRECTORY.len()..].to_vec()).unwrap();
    listing.entries.iter().map(|kv| name(&kv.key)).collect()
}

fn flannel_lease(subnet: &str, number: u16) -> (String, Vec<u8>) {
    let subnet: Subnet = subnet.parse().unwrap();
    let families = DualStack::from_fn(|family| subnet.of(family));
    let lease = Lease { subnet, public: public(number, &families), data: data(number, &families) };
    (format!("{PREFIX}/subnets/{subnet}"), lease.to_value())
}

#[tokio::test(start_paused = true)]
async fn a_first_lease_is_one_grant_and_one_write_and_is_flannels_byte_for_byte() {
    let store = SimStore::new(1);
    let host = Host::new(3, r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.52.0","SubnetMax":"10.5.52.0"}"#);
    let hold = host.spawn(&store);
    let entry = held(&hold).await;
    let listing = store.listing(PREFIX.as_bytes());
    let [lease, guard] = &listing.entries[..] else { panic!("{listing:?}") };
    assert_eq!(lease.key, b"/coreos.com/network/subnets/10.5.52.0-24");
    let value = r#"{"PublicIP":"192.168.0.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:03:00"}}"#;
    assert_eq!(String::from_utf8_lossy(&lease.value), value);
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

#[tokio::test(start_paused = true)]
async fn turning_ipv6_on_keeps_the_ipv4_subnet_and_turning_it_off_too() {
    let store = SimStore::new(8);
    let first = held(&Host::new(3, V4).spawn(&store)).await;
    let dual = held(&Host::new(3, DUAL).spawn(&store)).await;
    assert_eq!(dual.lease.subnet.of(Family::V4), first.lease.subnet.of(Family::V4));
    assert!(dual.lease.subnet.of(Family::V6).is_some());
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
            assert_eq!(dual.lease.subnet.of(Family::V4), first.lease.subnet.of(Family::V4));
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
            // A grant whose answer is lost leaks until it expires.
            assert!(store.leases().len() <= 4, "{call:?} {spared} {fault:?}: {} leases leak", store.leases().len());
        }
    }
}

#[tokio::test]
async fn a_first_lease_of_a_real_etcd_takes_a_few_milliseconds() {
    let Some(etcd) = TestEtcd::start().await else { return };
    for number in 0..3 {
        let store = etcd.store().await;
        let host = Host::new(number, V4);
        let started = std::time::Instant::now();
        let hold = host.spawn(&store);
        held(&hold).await;
        let fresh = started.elapsed();
        drop(hold);
        let store = etcd.store().await;
        let started = std::time::Instant::now();
        held(&host.spawn(&store)).await;
        println!("first lease held after {fresh:?}, after a restart {:?} (with the connection)", started.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_that_overlap_the_older_one_stays() {
    // flannel knows no guards: its dual-stack key and our IPv4 key differ, and share addresses.
    let store = SimStore::new(10);
    let one = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.2.0"}"#;
    let mut host = Host::new(3, one);
    host.settings.preferred.v4 = Some("10.5.1.0/24".parse().unwrap());
    let listing = store.list(DIRECTORY).await.unwrap();
    let (key, value) = flannel_lease("10.5.1.0-24&fd00:5:0:1::-64", 4);
    store.put(key, value, None);
    // The listing does not show it.
    let hold = Hold::spawn(store.clone(), host.settings.clone(), host.offer.subscribe(), Some(listing));
    assert_eq!(held(&hold).await.lease.subnet.to_string(), "10.5.2.0-24");
    assert_eq!(keys(&store), ["10.5.1.0-24&fd00:5:0:1::-64", "10.5.2.0-24"]);
}

#[tokio::test(start_paused = true)]
async fn a_thief_is_named_and_the_subnet_taken_back_when_it_leaves() {
    let store = SimStore::new(11);
    let hold = Host::new(3, V4).spawn(&store);
    let subnet = held(&hold).await.lease.subnet;
    // Cut off for longer than the lease; meanwhile another host gets the subnet.
    store.set_down(true);
    tokio::time::sleep(25 * HOUR).await;
    assert!(matches!(&*hold.state.borrow(), HoldState::Held { trouble: Some(_), .. }), "traffic goes on");
    let (key, value) = flannel_lease(&subnet.to_string(), 4);
    store.put(key.clone(), value, None);
    store.set_down(false);
    let mut state = hold.state.clone();
    let named =
        state.wait_for(|state| matches!(state, HoldState::Lost { reason, .. } if reason.contains("192.168.0.4")));
    timeout(Duration::from_secs(10), named).await.unwrap().unwrap();
    assert_eq!(hold.state.borrow().subnet(), Some(subnet));
    store.delete(key.as_bytes());
    assert_eq!(held_within(&hold, Duration::from_secs(4)).await.lease.subnet, subnet);
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
async fn two_agents_with_one_public_address_do_not_share_a_lease() {
    let store = SimStore::new(14);
    let hold = Host::new(3, V4).spawn(&store);
    let subnet = held(&hold).await.lease.subnet;
    let mut twin = Host::new(3, V4);
    twin.settings.identity = "twin".to_owned();
    let twin = twin.spawn(&store);
    tokio::time::sleep(2 * HOUR).await;
    let state = twin.state.borrow().clone();
    assert!(matches!(&state, HoldState::Acquiring { reason } if reason.contains("host-3")), "{state:?}");
    assert_eq!(hold.state.borrow().subnet(), Some(subnet));
    // An owner that does not answer is not waited for: a host that was installed anew gets its subnet back.
    drop(hold);
    let entry = held_within(&twin, Duration::from_secs(45)).await;
    assert_eq!(entry.lease.subnet, subnet);
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
async fn a_guard_without_its_lease_blocks_nobody() {
    let store = SimStore::new(18);
    let one = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.1.0"}"#;
    let first = Host::new(3, one).spawn(&store);
    held(&first).await;
    // Dead, and its key deleted by an operator; the guard stays for a day.
    drop(first);
    store.delete(b"/coreos.com/network/subnets/10.5.1.0-24");
    assert_eq!(store.listing(b"/coreos.com/network/wire/").entries.len(), 1);
    held_within(&Host::new(4, one).spawn(&store), Duration::from_secs(1)).await;
    assert_eq!(store.listing(b"/coreos.com/network/wire/").entries[0].value, b"host-4");
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
async fn an_etcd_that_stalls_is_waited_for_with_one_write_under_way() {
    for seed in 0..10 {
        let store = SimStore::new(seed);
        store.stall(Duration::from_secs(9));
        let hold = Host::new(3, V4).spawn(&store);
        let entry = held_within(&hold, Duration::from_secs(20)).await;
        store.stall(Duration::from_secs(9));
        store.revoke_now(entry.origin.lease.unwrap());
        let again = held_anew(&hold, Duration::from_secs(30)).await;
        assert_eq!((again.lease.subnet, keys(&store).len()), (entry.lease.subnet, 1));
        assert!(store.count(SimCall::Commit) <= 6, "{} writes", store.count(SimCall::Commit));
    }
}

#[tokio::test(start_paused = true)]
async fn the_underlay_is_never_leased_and_the_subnet_held_last_is_preferred() {
    let store = SimStore::new(20);
    let two = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.2.0"}"#;
    let mut host = Host::new(3, two);
    host.settings.avoid = vec!["10.5.1.64/26".parse().unwrap()];
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
    host.settings.avoid = vec!["10.0.0.0/8".parse().unwrap(), "10.5.0.0/16".parse().unwrap()];
    held_within(&host.spawn(&store), Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn the_lease_under_a_former_address_is_kept_by_this_host_and_left_by_its_clone() {
    let store = SimStore::new(23);
    let first = Host::new(3, V4);
    let subnet = held(&first.spawn(&store)).await.lease.subnet;
    let mut moved = Host::new(4, V4);
    moved.settings.identity.clone_from(&first.settings.identity);
    moved.settings.preferred.v4 = subnet.of(Family::V4);
    moved.settings.same_host = false;
    let clone = held(&moved.spawn(&store)).await;
    assert_ne!(clone.lease.subnet, subnet);
    moved.settings.same_host = true;
    let mut moved_again = Host::new(5, V4);
    moved_again.settings = moved.settings;
    assert_eq!(held(&moved_again.spawn(&store)).await.lease.subnet, subnet);
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

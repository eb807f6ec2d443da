//! The transactions on networks by name, on the simulated store and on a real etcd.

mod crowd;
mod faults;

use std::{collections::BTreeSet, time::Duration};

use wire_lease::{
    NetworkRange,
    named::{
        Joined, Joining, Kept, Labels, NetworkChange, NetworkError, NetworkStore, NewNetwork, NothingFree, Occupant,
        Occupied, PutBack, Room, SubnetWish,
    },
};
use wire_net::{DualStack, HostId, KeyPrefix, NetworkName, Prefix};
use wire_store::{LeaseId, LeaseStore, Random, SimStore, Txn, Write};

use crate::common::TestEtcd;

fn named(name: &str) -> NetworkName {
    name.parse().unwrap()
}

fn host(number: u8) -> HostId {
    HostId::new(number.into())
}

fn networks<S: LeaseStore>(store: &S, seed: u64) -> NetworkStore<S> {
    NetworkStore::new(store.clone(), KeyPrefix::new("/n"), Random::seeded(seed))
}

fn any(range: &str, len: u8) -> SubnetWish {
    SubnetWish::From(NetworkRange { range: range.parse().unwrap(), len })
}

fn of(prefix: &str) -> SubnetWish {
    SubnetWish::Of(prefix.parse().unwrap())
}

fn wanted(name: &str, v4: SubnetWish) -> NewNetwork {
    NewNetwork {
        name: named(name),
        subnets: DualStack { v4: Some(v4), v6: None },
        internal: false,
        broadcast: true,
        mtu: 0,
        labels: Labels::new(),
        created: "2026-01-31T12:00:00Z".to_owned(),
    }
}

fn joining(number: u8, lease: LeaseId) -> Joining {
    let public = DualStack { v4: Some([192, 0, 2, number].into()), v6: None };
    Joining { host: host(number), public, port: 8472, lease: Some(lease) }
}

async fn granted<S: LeaseStore>(store: &S) -> LeaseId {
    store.grant(Duration::from_secs(600)).await.unwrap()
}

async fn keys<S: LeaseStore>(store: &S) -> Vec<String> {
    let listing = store.list(b"/n/wire/").await.unwrap();
    listing.entries.into_iter().map(|kv| String::from_utf8(kv.key).unwrap()).collect()
}

fn prefixes(rooms: &[Room]) -> Vec<Prefix> {
    rooms.iter().map(Room::prefix).collect()
}

#[tokio::test(start_paused = true)]
async fn the_simulated_store_keeps_the_promises_of_networks() {
    let store = SimStore::new(3);
    all(&store).await;
}

#[tokio::test]
async fn etcd_keeps_the_promises_of_networks() {
    let Some(etcd) = TestEtcd::start().await else { return };
    all(&etcd.store().await).await;
}

async fn all<S: LeaseStore>(store: &S) {
    a_life(store).await;
    two_at_once(store).await;
    conflicts(store).await;
    exhausted(store).await;
    fixed_addresses(store).await;
    strange_claims(store).await;
    claimed_inside_a_block(store).await;
    removed_although_invalid(store).await;
    memberships(store).await;
    wiped(store).await;
}

/// Made, joined, changed, left, removed: nothing is left but the VNI, for a day.
async fn a_life<S: LeaseStore>(store: &S) {
    let (networks, lease) = (networks(store, 1), granted(store).await);
    let made = networks.create(&wanted("app", any("10.128.0.0/9", 20)), &[]).await.unwrap();
    assert_eq!(made.record.pools.prefixes().collect::<Vec<_>>(), ["10.128.0.0/20".parse().unwrap()]);
    assert_eq!(networks.network(&named("app")).await.unwrap(), made);
    let vni = format!("/n/wire/vnis/{}", made.record.vni);
    assert_eq!(
        keys(store).await,
        ["/n/wire/networks-changed".to_owned(), "/n/wire/networks/app".to_owned(), vni.clone()]
    );

    let joined = networks.join(&named("app"), &joining(1, lease)).await.unwrap();
    assert_eq!(joined.rooms.len(), 1);
    let (block, own) = (joined.rooms[0].prefix(), joined.member.own.v4.unwrap());
    assert!(block.len() == 27 && block.contains(own) && own != made.record.pools.claimed().gateway());
    for folder in ["/n/wire/members/app/", "/n/wire/blocks/app/"] {
        let listing = store.list(folder.as_bytes()).await.unwrap();
        assert_eq!(listing.entries.iter().map(|kv| kv.lease).collect::<Vec<_>>(), [Some(lease)]);
        assert_eq!(listing.entries[0].create_revision, listing.entries[0].mod_revision);
    }
    let revisions: BTreeSet<i64> =
        store.list(b"/n/wire/").await.unwrap().entries.iter().map(|kv| kv.create_revision.0).collect();
    assert_eq!(revisions.len(), 2, "the network is one transaction, the first endpoint another");
    let before = store.get(b"x").await.unwrap().revision;
    assert_eq!(networks.join(&named("app"), &joining(1, lease)).await.unwrap(), joined);
    assert_eq!(store.get(b"x").await.unwrap().revision, before, "whoever is a member writes nothing");
    membership(store, &joined, lease).await;
    changes(&networks).await;
    removal(store, &vni).await;
}

/// A member gets more addresses, and keeps what it has when its own address or its store's lease is another.
async fn membership<S: LeaseStore>(store: &S, joined: &Joined, lease: LeaseId) {
    let networks = networks(store, 1);
    let more = networks.more(&named("app"), host(1), lease).await.unwrap();
    assert!(!more.prefix().overlaps(joined.rooms[0].prefix()));
    let moved =
        Joining { public: DualStack { v4: Some([192, 0, 2, 9].into()), v6: None }, ..joining(1, granted(store).await) };
    let again = networks.join(&named("app"), &moved).await.unwrap();
    assert_eq!((again.rooms.len(), again.member.own, again.member.public), (2, joined.member.own, moved.public));
    for kv in store.list(b"/n/wire/blocks/").await.unwrap().entries {
        assert_eq!(kv.lease, moved.lease, "blocks go with the new lease");
    }
    assert!(networks.release(&named("app"), host(1), more).await.unwrap());
    assert!(!networks.release(&named("app"), host(1), more).await.unwrap(), "it has it no more");
}

async fn changes<S: LeaseStore>(networks: &NetworkStore<S>) {
    let labels = [("a".to_owned(), Some("b".to_owned())), ("x".to_owned(), None)].into();
    let changed = networks.update(&named("app"), &NetworkChange { labels, broadcast: Some(false) }).await.unwrap();
    assert!(!changed.broadcast && changed.labels["a"] == "b");
    assert_eq!(*networks.network(&named("app")).await.unwrap().record, changed);
    let bad = [("a\n".to_owned(), Some(String::new()))].into();
    assert!(networks.update(&named("app"), &NetworkChange { labels: bad, broadcast: None }).await.is_err());
}

/// Removed once nobody has an endpoint on it.
async fn removal<S: LeaseStore>(store: &S, vni: &str) {
    let (networks, lease) = (networks(store, 1), granted(store).await);
    let error = networks.remove(&named("app"), false).await.unwrap_err().to_string();
    assert!(error.contains("in use on 192.0.2.9 (00000000000000000000000000000001)"), "{error}");
    networks.leave(&named("app"), host(1)).await.unwrap();
    assert!(matches!(networks.more(&named("app"), host(1), lease).await, Err(NetworkError::NoMember { .. })));
    networks.remove(&named("app"), false).await.unwrap();
    assert_eq!(keys(store).await, ["/n/wire/networks-changed", vni]);
    let rest = store.get(vni.as_bytes()).await.unwrap().found.unwrap().lease.unwrap();
    let (left, _) = store.time_to_live(rest).await.unwrap().unwrap();
    assert!(left > Duration::from_secs(23 * 3600), "{left:?}");
    assert!(matches!(networks.remove(&named("app"), false).await, Err(NetworkError::Missing { .. })));
    assert!(matches!(networks.network(&NetworkName::default()).await, Err(NetworkError::Default)));
}

/// Hosts that do the same at the same moment.
async fn two_at_once<S: LeaseStore>(store: &S) {
    let (one, other) = (networks(store, 2), networks(store, 3));
    let (here, there) = (wanted("twice", any("10.128.0.0/9", 20)), wanted("twice", any("10.128.0.0/9", 24)));
    let both = tokio::join!(one.create(&here, &[]), other.create(&there, &[]));
    let made = match both {
        (Ok(made), Err(NetworkError::Exists { .. })) | (Err(NetworkError::Exists { .. }), Ok(made)) => made,
        other => panic!("{other:?}"),
    };
    assert_eq!(one.network(&named("twice")).await.unwrap(), made);

    let crowd: Vec<_> = (0..10u64)
        .map(|number| (networks(store, number % 2), wanted(&format!("c{number}"), any("10.160.0.0/12", 16))))
        .collect();
    let made = futures::future::join_all(crowd.iter().map(|(networks, wanted)| networks.create(wanted, &[]))).await;
    let made: Vec<_> = made.into_iter().map(Result::unwrap).collect();
    let subnets: BTreeSet<Prefix> = made.iter().flat_map(|made| made.record.pools.prefixes()).collect();
    let vnis: BTreeSet<_> = made.iter().map(|made| made.record.vni).collect();
    assert_eq!((subnets.len(), vnis.len()), (10, 10), "also with the same randomness");

    let leases = futures::future::join_all((0..8).map(|_| granted(store))).await;
    let name = named("c1");
    let join = async |number: u8, lease: LeaseId| {
        let networks = networks(store, number.into());
        let joined = networks.join(&name, &joining(number, lease)).await.unwrap();
        let more = networks.more(&name, host(number), lease).await.unwrap();
        (joined, more)
    };
    let joined = futures::future::join_all((0..8u8).map(|number| join(number, leases[usize::from(number)]))).await;
    let rooms: BTreeSet<Prefix> =
        joined.iter().flat_map(|(joined, more)| [joined.rooms[0].prefix(), more.prefix()]).collect();
    assert_eq!(rooms.len(), 16);
    let error = one.remove(&name, false).await.unwrap_err().to_string();
    assert!(error.contains("and 3 more"), "{error}");
    one.remove(&name, true).await.unwrap();
    assert_eq!(keys(store).await.iter().filter(|key| key.contains("/c1")).count(), 0, "forced, nothing is left");
}

async fn conflicts<S: LeaseStore>(store: &S) {
    let networks = networks(store, 4);
    networks.create(&wanted("k1", of("10.200.0.0/20")), &[]).await.unwrap();
    let occupied = [Occupied { prefix: "10.201.0.0/16".parse().unwrap(), by: Occupant::Route }];
    for (wish, reason) in [
        (of("10.200.8.0/24"), "overlaps that of the older network k1"),
        (of("10.201.0.0/20"), "overlaps 10.201.0.0/16, a route of this host"),
        (of("10.202.0.0/30"), "from /8 to /29"),
        (of("127.0.0.0/20"), "loopback"),
        (any("10.201.0.0/16", 20), "no /20 is free in 10.201.0.0/16"),
    ] {
        let error = networks.create(&wanted("k2", wish), &occupied).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let around = networks.create(&wanted("k2", any("10.200.0.0/15", 20)), &occupied).await.unwrap();
    assert_eq!(around.record.pools.prefixes().collect::<Vec<_>>(), ["10.200.16.0/20".parse().unwrap()]);
    let wrong = NewNetwork { mtu: 20, ..wanted("k3", of("10.203.0.0/20")) };
    assert!(matches!(networks.create(&wrong, &[]).await, Err(NetworkError::Record(_))));
    let default = NewNetwork { name: NetworkName::default(), ..wanted("k3", of("10.203.0.0/20")) };
    assert!(matches!(networks.create(&default, &[]).await, Err(NetworkError::Default)));
    let none = NewNetwork { subnets: DualStack::default(), ..wanted("k3", of("10.203.0.0/20")) };
    assert!(matches!(networks.create(&none, &[]).await, Err(NetworkError::Pool(_))));
}

async fn exhausted<S: LeaseStore>(store: &S) {
    let (networks, lease) = (networks(store, 5), granted(store).await);
    let name = named("tiny");
    networks.create(&wanted("tiny", of("10.210.0.0/29")), &[]).await.unwrap();
    let mut all = BTreeSet::new();
    for number in 1..=5 {
        let Joined { rooms, .. } = networks.join(&name, &joining(number, lease)).await.unwrap();
        all.extend(prefixes(&rooms));
    }
    assert_eq!(all.len(), 5);
    let full = NothingFree::Addresses("10.210.0.0/29".parse().unwrap());
    assert!(matches!(networks.join(&name, &joining(6, lease)).await, Err(NetworkError::Full(found)) if found == full));
    assert!(matches!(networks.more(&name, host(1), lease).await, Err(NetworkError::Full(_))));
    networks.leave(&name, host(3)).await.unwrap();
    networks.join(&name, &joining(6, lease)).await.unwrap();
}

async fn fixed_addresses<S: LeaseStore>(store: &S) {
    let (networks, lease) = (networks(store, 6), granted(store).await);
    let name = named("fixed");
    networks.create(&wanted("fixed", of("10.220.0.0/20")), &[]).await.unwrap();
    let here = networks.join(&name, &joining(1, lease)).await.unwrap();
    networks.join(&name, &joining(2, lease)).await.unwrap();
    let (mac, mine) = ("02:00:00:00:00:07".parse().unwrap(), (host(2), lease));
    let inside = here.rooms[0].prefix().last();
    for (address, reason) in [
        ("10.220.0.1".parse().unwrap(), "the gateway's"),
        ("10.221.0.1".parse().unwrap(), "outside the network"),
        ("fd57::1".parse().unwrap(), "outside the network"),
        (inside, "the host 00000000000000000000000000000001 has it"),
    ] {
        let error = networks.claim_address(&name, mine, address, mac).await.unwrap_err().to_string();
        assert!(error.contains(reason), "{address}: {error}");
    }
    let free = Room::Address("10.220.15.7".parse().unwrap(), mac);
    let Room::Address(address, _) = free else { unreachable!() };
    assert_eq!(networks.claim_address(&name, mine, address, mac).await.unwrap(), free);
    assert_eq!(networks.claim_address(&name, mine, address, mac).await.unwrap(), free, "again is no error");
    let error = networks.claim_address(&name, (host(1), lease), address, mac).await.unwrap_err().to_string();
    assert!(error.contains("the host 00000000000000000000000000000002 has it"), "{error}");
    assert!(matches!(
        networks.claim_address(&name, (host(3), lease), address, mac).await,
        Err(NetworkError::NoMember { .. })
    ));
    networks.leave(&name, host(2)).await.unwrap();
    networks.leave(&name, host(1)).await.unwrap();
    networks.remove(&name, false).await.unwrap();
}

/// Blocks and addresses that the network does not have give a host nothing, and take nothing from it.
async fn strange_claims<S: LeaseStore>(store: &S) {
    let (networks, lease) = (networks(store, 7), granted(store).await);
    let name = named("strange");
    networks.create(&wanted("strange", of("10.221.0.0/20")), &[]).await.unwrap();
    let of_victim = r#"{"Host":"00000000000000000000000000000001"}"#;
    let of_member = r#"{"PublicIP":"192.0.2.1","Port":8472,"Own":{"IPv4":"1.1.1.1"}}"#;
    for (key, value) in [
        ("blocks/strange/1.1.1.0-27", of_victim),
        ("blocks/strange/10.221.0.0-20", r#"{"Host":"00000000000000000000000000000002"}"#),
        ("members/strange/00000000000000000000000000000001", of_member),
    ] {
        let write = Write::Put { key: format!("/n/wire/{key}").into(), value: value.into(), lease: None };
        store.commit(Txn { when: Vec::new(), then: vec![write] }).await.unwrap();
    }
    let joined = networks.join(&name, &joining(1, lease)).await.unwrap();
    let pool: Prefix = "10.221.0.0/20".parse().unwrap();
    assert!(joined.rooms.iter().all(|room| pool.covers(room.prefix())), "{joined:?}");
    assert!(joined.member.own.v4.is_some_and(|own| pool.contains(own)), "{joined:?}");
    networks.leave(&name, host(1)).await.unwrap();
    assert!(!keys(store).await.iter().any(|key| key.contains("1.1.1.0")), "what names the host goes with it");
    networks.remove(&name, true).await.unwrap();
}

/// A host that gets a block does not take the address in it that another host has claimed before.
async fn claimed_inside_a_block<S: LeaseStore>(store: &S) {
    let (networks, lease) = (networks(store, 8), granted(store).await);
    let name = named("inside");
    networks.create(&wanted("inside", of("10.222.0.0/20")), &[]).await.unwrap();
    let here = networks.join(&name, &joining(1, lease)).await.unwrap();
    let own = here.member.own.v4.unwrap();
    let key = format!("/n/wire/addresses/inside/{own}");
    let value = r#"{"Host":"00000000000000000000000000000002","MAC":"02:00:00:00:00:07"}"#;
    let write = Write::Put { key: key.into(), value: value.into(), lease: None };
    store.commit(Txn { when: Vec::new(), then: vec![write] }).await.unwrap();
    let again = networks.join(&name, &joining(1, lease)).await.unwrap();
    assert_eq!(again.foreign, [own]);
    assert!(again.member.own.v4.is_some_and(|other| other != own && here.rooms[0].prefix().contains(other)));
    networks.leave(&name, host(1)).await.unwrap();
    networks.remove(&name, true).await.unwrap();
}

/// The VNI of a network whose record is not valid rests too, and a network of that name can be made again.
async fn removed_although_invalid<S: LeaseStore>(store: &S) {
    let networks = networks(store, 9);
    let name = named("spoilt");
    let made = networks.create(&wanted("spoilt", of("10.223.0.0/20")), &[]).await.unwrap();
    let write = Write::Put { key: "/n/wire/networks/spoilt".into(), value: b"{".to_vec(), lease: None };
    store.commit(Txn { when: Vec::new(), then: vec![write] }).await.unwrap();
    networks.remove(&name, true).await.unwrap();
    let vni = store.get(format!("/n/wire/vnis/{}", made.record.vni).as_bytes()).await.unwrap().found.unwrap();
    let (left, _) = store.time_to_live(vni.lease.expect("it goes in the end")).await.unwrap().unwrap();
    assert!(left > Duration::from_secs(23 * 3600), "{left:?}");
    networks.create(&wanted("spoilt", of("10.223.0.0/20")), &[]).await.unwrap();
    networks.remove(&name, false).await.unwrap();
}

/// The memberships of a host are told from those of others, also where a network's record is not valid.
async fn memberships<S: LeaseStore>(store: &S) {
    let (networks, lease) = (networks(store, 10), granted(store).await);
    for (name, pool) in [("m1", "10.224.0.0/24"), ("m2", "10.224.1.0/24")] {
        networks.create(&wanted(name, of(pool)), &[]).await.unwrap();
        networks.join(&named(name), &joining(41, lease)).await.unwrap();
    }
    networks.join(&named("m1"), &joining(42, lease)).await.unwrap();
    let none = BTreeSet::new();
    let valid = |found: Vec<(NetworkName, Option<Kept>)>| -> Vec<(String, bool)> {
        found.into_iter().map(|(name, kept)| (name.to_string(), kept.is_some())).collect()
    };
    assert_eq!(valid(networks.memberships(host(42), &none).await.unwrap()), [("m1".to_owned(), true)]);
    assert_eq!(valid(networks.memberships(host(43), &none).await.unwrap()), []);
    let write = Write::Put { key: "/n/wire/networks/m2".into(), value: b"{".to_vec(), lease: None };
    store.commit(Txn { when: Vec::new(), then: vec![write] }).await.unwrap();
    let both = valid(networks.memberships(host(41), &none).await.unwrap());
    assert_eq!(both, [("m1".to_owned(), true), ("m2".to_owned(), false)]);
    let others = valid(networks.memberships(host(41), &[named("m1")].into()).await.unwrap());
    assert_eq!(others, [("m2".to_owned(), false)], "what is known is not asked for");
    for name in ["m1", "m2"] {
        networks.remove(&named(name), true).await.unwrap();
    }
}

/// A store that has lost all of it gets it back from the disk of a host, and nothing of what others have made since is overwritten.
async fn wiped<S: LeaseStore>(store: &S) {
    let (networks, lease) = (networks(store, 7), granted(store).await);
    let name = named("kept");
    let made = networks.create(&wanted("kept", of("10.230.0.0/20")), &[]).await.unwrap();
    let joined = networks.join(&name, &joining(1, lease)).await.unwrap();
    let Joined { member, rooms, .. } = joined.clone();
    let kept = Kept { record: (*made.record).clone(), member, rooms };
    let before = store.get(b"x").await.unwrap().revision;
    let there = networks.put_back(&name, &kept, &joining(1, lease)).await.unwrap();
    assert_eq!(there, PutBack::There { lost: vec![] });
    assert_eq!(store.get(b"x").await.unwrap().revision, before, "what is there is not written");

    networks.remove(&name, true).await.unwrap();
    networks.put_back(&name, &kept, &joining(1, lease)).await.unwrap();
    let again = networks.join(&name, &joining(1, lease)).await.unwrap();
    assert_eq!(
        (again.member, &again.rooms, &again.network.record),
        (joined.member, &joined.rooms, &joined.network.record)
    );
    let vni = store.get(format!("/n/wire/vnis/{}", made.record.vni).as_bytes()).await.unwrap().found.unwrap();
    assert_eq!(vni.lease, None, "the VNI is in use again");

    networks.leave(&name, host(1)).await.unwrap();
    let thief = wire_lease::named::Record::to_value(&wire_lease::named::BlockRecord { host: host(2) });
    let key = joined.rooms[0].key(&KeyPrefix::new("/n"), &name);
    let put = Write::Put { key, value: thief, lease: None };
    store.commit(Txn { when: vec![], then: vec![put] }).await.unwrap();
    let lost = networks.put_back(&name, &kept, &joining(1, lease)).await.unwrap();
    assert_eq!(lost, PutBack::There { lost: joined.rooms });

    networks.remove(&name, true).await.unwrap();
    networks.create(&wanted("kept", of("10.231.0.0/20")), &[]).await.unwrap();
    assert_eq!(networks.put_back(&name, &kept, &joining(1, lease)).await.unwrap(), PutBack::Other);
    assert_eq!(store.list(b"/n/wire/members/kept/").await.unwrap().entries.len(), 0);
}

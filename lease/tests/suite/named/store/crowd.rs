//! More hosts and containers than a pool has blocks.

use std::net::IpAddr;

use wire_lease::named::choose_own;

use super::*;

/// A host with the addresses that it has given away, its own included.
struct Member {
    number: u8,
    joined: Joined,
    given: BTreeSet<IpAddr>,
}

/// A host joins, and gives addresses to containers: from its rooms, and from further ones where these are used up.
async fn member(store: &SimStore, number: u8, lease: LeaseId, containers: usize) -> Member {
    let (networks, name) = (networks(&store.another_client(), number.into()), named("app"));
    let mut joined = networks.join(&name, &joining(number, lease)).await.unwrap();
    let mut given: BTreeSet<IpAddr> = joined.member.own.iter().map(|(_, own)| *own).collect();
    assert_eq!(given.len(), 1, "host {number} has an address of its own");
    let pool = *joined.network.record.pools.claimed();
    for _ in 0..containers {
        let address = loop {
            let in_use = given.iter().chain(&joined.foreign).copied().collect();
            match choose_own(&pool, &prefixes(&joined.rooms), &in_use, &[]) {
                Some(address) => break address,
                None => joined.rooms.push(networks.more(&name, host(number), lease).await.unwrap()),
            }
        };
        given.insert(address);
    }
    Member { number, joined, given }
}

/// So many hosts at once, each with so many containers.
async fn crowd(pool: &str, hosts: u8, containers: usize) -> Vec<Member> {
    let store = SimStore::new(5);
    networks(&store, 0).create(&wanted("app", of(pool)), &[]).await.unwrap();
    let lease = granted(&store).await;
    let members = (1..=hosts).map(|number| member(&store, number, lease, containers));
    futures::future::join_all(members).await
}

/// No address is given twice, and no block is that of two hosts. A block may hold a single address of another that is older.
fn assert_apart(members: &[Member], pool: &str) {
    let pool: Prefix = pool.parse().unwrap();
    let mut rooms: BTreeSet<Prefix> = BTreeSet::new();
    for Member { number, joined, given } in members {
        assert!(given.iter().all(|address| pool.contains(*address)));
        for room in prefixes(&joined.rooms) {
            assert!(rooms.insert(room), "{room} of host {number} is another's too");
        }
    }
    let count: usize = members.iter().map(|member| member.given.len()).sum();
    let apart: BTreeSet<&IpAddr> = members.iter().flat_map(|member| &member.given).collect();
    assert_eq!(apart.len(), count, "an address is given twice");
}

#[tokio::test(start_paused = true)]
async fn twenty_hosts_that_come_at_once_have_two_hundred_containers_in_a_24() {
    let members = crowd("10.128.0.0/24", 20, 10).await;
    assert_apart(&members, "10.128.0.0/24");
    assert_eq!(members.iter().map(|member| member.given.len()).sum::<usize>(), 220);
}

#[tokio::test(start_paused = true)]
async fn a_20_with_128_blocks_is_enough_for_130_hosts_with_containers() {
    let members = crowd("10.128.0.0/20", 130, 3).await;
    assert_apart(&members, "10.128.0.0/20");
    let has_block = |member: &&Member| member.joined.rooms.iter().any(|room| matches!(room, Room::Block(_)));
    let with_block = members.iter().filter(has_block).count();
    assert!((64..128).contains(&with_block), "the others have single addresses: {with_block}");
}

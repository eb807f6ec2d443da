use wire_lease::named::BlockRecord;

use super::*;
use crate::named::samples::{LEASE, app, host, joining, kept, record, records, stored};

fn lack(records: &NamedRecords) -> Option<Lack> {
    Lack::of(&app(), &kept(1), &joining(1), records)
}

#[test]
fn nothing_is_lacking_where_all_is_as_it_was_written() {
    assert_eq!(lack(&records(&[1, 2])), None);
}

#[test]
fn each_thing_that_is_gone_is_named_and_counts_as_a_loss() {
    let block = kept(1).rooms[0].prefix();
    let mut without = records(&[1]);
    without.blocks.clear();
    assert_eq!(lack(&without), Some(Lack::Room(block)));
    without.members.clear();
    assert_eq!(lack(&without), Some(Lack::Member));
    without.networks.clear();
    assert_eq!(lack(&without), Some(Lack::Network));
    assert!([Lack::Room(block), Lack::Member, Lack::Network].into_iter().all(Lack::is_loss));
}

#[test]
fn a_host_without_any_address_lacks_some_whatever_the_store_has() {
    let bare = Kept { rooms: Vec::new(), ..kept(1) };
    assert_eq!(Lack::of(&app(), &bare, &joining(1), &records(&[1])), Some(Lack::Bare));
    assert!(!Lack::Bare.is_loss());
}

#[test]
fn another_network_of_the_name_and_another_owner_of_a_block_are_no_loss() {
    let mut other = records(&[1]);
    let mut network = record();
    network.vni = wire_net::Vni::new(5001).unwrap();
    other.networks.insert(app(), stored(network, None));
    assert_eq!(lack(&other), Some(Lack::Other));
    let mut taken = records(&[1]);
    let block = kept(1).rooms[0].prefix();
    taken.blocks.insert(BlockKey { network: app(), block }, stored(BlockRecord { host: host(2) }, Some(LEASE)));
    assert_eq!(lack(&taken), Some(Lack::Lost(block)));
    assert!(!Lack::Other.is_loss() && !Lack::Lost(block).is_loss());
}

#[test]
fn a_new_lease_or_another_address_of_this_host_lets_all_be_written_again() {
    let renewed = Joining { lease: Some(LeaseId(8)), ..joining(1) };
    assert_eq!(Lack::of(&app(), &kept(1), &renewed, &records(&[1])), Some(Lack::Stale));
    let moved = Joining { public: joining(2).public, ..joining(1) };
    assert_eq!(Lack::of(&app(), &kept(1), &moved, &records(&[1])), Some(Lack::Stale));
    let forever = Joining { lease: None, ..joining(1) };
    assert_eq!(Lack::of(&app(), &kept(1), &forever, &records(&[1])), Some(Lack::Stale));
}

use proptest::prelude::*;
use wire_lease::{
    Origin,
    named::{NamedAdmission, NamedRecords, Record, Records},
};
use wire_net::NetworkName;
use wire_store::Revision;

use super::*;

/// A record that is put, or removed, of one of four hosts.
#[derive(Clone, Debug)]
enum Change {
    Member(u8, Option<u8>),
    Block(u8, Option<u8>),
    Address(u8, Option<u8>),
}

fn any_change() -> impl Strategy<Value = Change> {
    let maybe = || proptest::option::of(0..4u8);
    prop_oneof![
        (0..4u8, maybe()).prop_map(|(host, last)| Change::Member(host, last)),
        (0..6u8, maybe()).prop_map(|(block, host)| Change::Block(block, host)),
        (0..6u8, maybe()).prop_map(|(address, host)| Change::Address(address, host)),
    ]
}

fn put<R: Record>(records: &mut Records<R>, key: &str, json: Option<String>) {
    let key = R::parse_key(key.as_bytes()).unwrap();
    let origin = Origin { create_revision: Revision(1), mod_revision: Revision(1), lease: None };
    match json {
        Some(json) => {
            let record = Arc::new(R::from_value(json.as_bytes()).unwrap());
            records.insert(key, Stored { record, origin });
        }
        None => drop(records.remove(&key)),
    }
}

fn host(number: u8) -> HostId {
    HostId::new(number.into())
}

fn apply(records: &mut NamedRecords, change: &Change) {
    let of = |owner: &u8| format!(r#"{{"Host":"{}"}}"#, host(*owner));
    match change {
        Change::Member(number, last) => {
            let member = last.map(|last| format!(r#"{{"PublicIP":"192.0.2.{}","Port":8472}}"#, last + 1));
            put(&mut records.members, &format!("app/{}", host(*number)), member);
        }
        Change::Block(number, owner) => {
            put(&mut records.blocks, &format!("app/10.128.1.{}-27", number * 32), owner.as_ref().map(of));
        }
        Change::Address(number, owner) => {
            let address =
                owner.map(|owner| format!(r#"{{"Host":"{}","MAC":"02:00:00:00:01:{number:02x}"}}"#, host(owner)));
            put(&mut records.addresses, &format!("app/10.128.2.{}", number + 1), address);
        }
    }
}

fn with_network() -> NamedRecords {
    let mut records = NamedRecords::default();
    let network = r#"{"VNI":5000,"IPv4":{"Pool":"10.128.0.0/20"},"IPv6":{"Pool":"fd57:1::/64","Block":123}}"#;
    put(&mut records.networks, "app", Some(network.to_owned()));
    records
}

/// The hosts, computed from all records.
fn computed(network: &NamedNetwork) -> SegmentHosts {
    let mut hosts = HostsOfNetwork::new(host(0));
    hosts.update(network);
    hosts.hosts().clone()
}

fn app() -> NetworkName {
    "app".parse().unwrap()
}

proptest! {
    #[test]
    fn hosts_brought_forward_are_those_computed_from_all_records(changes in proptest::collection::vec(any_change(), 1..40)) {
        let (mut records, mut admission) = (with_network(), NamedAdmission::default());
        let mut hosts = HostsOfNetwork::new(host(0));
        for change in &changes {
            apply(&mut records, change);
            let network = admission.update(&records, &[]).networks[&app()].clone();
            hosts.update(&network);
            prop_assert_eq!(hosts.hosts(), &computed(&network));
        }
    }

    /// An entry that is kept while the store has lost something is dropped later, as if it had never been kept.
    #[test]
    fn nothing_that_was_kept_stays_for_ever(changes in proptest::collection::vec((any_change(), any::<bool>()), 1..40)) {
        let (mut records, mut admission) = (with_network(), NamedAdmission::default());
        let mut hosts = HostsOfNetwork::new(host(0));
        for (change, keep) in &changes {
            apply(&mut records, change);
            let network = admission.update(&records, &[]).networks[&app()].clone();
            if *keep { hosts.update_and_keep(&network) } else { hosts.update(&network) }
        }
        let network = admission.networks().networks[&app()].clone();
        hosts.update(&network);
        prop_assert_eq!(hosts.hosts(), &computed(&network));
    }
}

#[test]
fn a_host_counts_while_it_is_a_member_and_has_the_blocks_of_both_families() {
    let (mut records, mut admission) = (with_network(), NamedAdmission::default());
    let mut hosts = HostsOfNetwork::new(host(0));
    apply(&mut records, &Change::Block(1, Some(2)));
    hosts.update(&admission.update(&records, &[]).networks[&app()].clone());
    assert!(hosts.hosts().others.is_empty());
    apply(&mut records, &Change::Member(2, Some(7)));
    hosts.update(&admission.update(&records, &[]).networks[&app()].clone());
    let other = &hosts.hosts().others[&host(2).to_string()];
    let blocks: Vec<String> = other.blocks.iter().map(ToString::to_string).collect();
    assert_eq!(blocks, ["10.128.1.32/27", "fd57:1::a80:120/123"]);
    assert_eq!(other.public.v4, Some([192, 0, 2, 8].into()));
}

#[test]
fn what_the_store_has_lost_is_kept_unless_another_host_has_it() {
    let (mut records, mut admission) = (with_network(), NamedAdmission::default());
    let mut hosts = HostsOfNetwork::new(host(0));
    for change in
        [Change::Member(1, Some(1)), Change::Block(1, Some(1)), Change::Member(2, Some(2)), Change::Block(2, Some(2))]
    {
        apply(&mut records, &change);
    }
    hosts.update(&admission.update(&records, &[]).networks[&app()].clone());
    let before = hosts.hosts().clone();
    for change in [Change::Member(1, None), Change::Block(1, None), Change::Member(2, None), Change::Block(2, None)] {
        apply(&mut records, &change);
    }
    hosts.update_and_keep(&admission.update(&records, &[]).networks[&app()].clone());
    assert_eq!(hosts.hosts(), &before);
    apply(&mut records, &Change::Block(1, Some(2)));
    hosts.update_and_keep(&admission.update(&records, &[]).networks[&app()].clone());
    let blocks = |number: u8| hosts.hosts().others[&host(number).to_string()].blocks.len();
    assert_eq!((blocks(1), blocks(2)), (0, 4));
}

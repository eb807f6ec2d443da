//! Which records of networks by name are admitted.

use std::sync::Arc;

use proptest::prelude::*;
use wire_lease::{
    Origin,
    named::{MOST_NETWORKS, NamedAdmission, NamedNetworks, NamedRecords, Occupant, Occupied, Record, Records, Stored},
};
use wire_net::{HostId, NetworkName};
use wire_store::Revision;

fn stored<R: Record>(json: &str, revision: i64) -> Stored<R> {
    let origin = Origin { create_revision: Revision(revision), mod_revision: Revision(revision), lease: None };
    Stored { record: Arc::new(R::from_value(json.as_bytes()).unwrap()), origin }
}

fn put<R: Record>(records: &mut Records<R>, key: &str, json: &str, revision: i64) {
    records.insert(R::parse_key(key.as_bytes()).unwrap(), stored(json, revision));
}

fn named(name: &str) -> NetworkName {
    name.parse().unwrap()
}

fn host(number: u8) -> HostId {
    HostId::new(number.into())
}

fn network(vni: u32, v4: &str) -> String {
    format!(r#"{{"VNI":{vni},"IPv4":{{"Pool":"{v4}"}}}}"#)
}

fn block(number: u8) -> String {
    format!(r#"{{"Host":"{}"}}"#, host(number))
}

fn address(number: u8, mac: &str) -> String {
    format!(r#"{{"Host":"{}","MAC":"{mac}"}}"#, host(number))
}

const MEMBER: &str = r#"{"PublicIP":"192.0.2.1","Port":8472}"#;

/// The names of the admitted networks, and the refusals of the others.
fn outcome(networks: &NamedNetworks) -> (Vec<String>, Vec<String>) {
    let names = networks.networks.keys().map(ToString::to_string).collect();
    let hosts = networks.refused_hosts().map(|(_, refusal)| refusal.to_string());
    let refused = networks.refused.iter().map(|(name, refusal)| format!("{name}: {refusal}"));
    (names, refused.chain(hosts).collect())
}

#[test]
fn of_two_networks_in_conflict_the_older_one_is_admitted_whatever_their_names() {
    let mut records = NamedRecords::default();
    put(&mut records.networks, "z", &network(5000, "10.128.0.0/20"), 1);
    put(&mut records.networks, "b", &network(5001, "10.128.15.0/24"), 2);
    put(&mut records.networks, "a", &network(5000, "10.129.0.0/20"), 3);
    put(&mut records.networks, "c", &network(5001, "10.128.16.0/20"), 4);
    let (names, refused) = outcome(&NamedNetworks::of(&records, &[]));
    assert_eq!(names, ["c", "z"], "whoever is refused claims nothing");
    assert!(refused[0].starts_with("a: the older network z has its VNI 5000 too"), "{refused:?}");
    assert!(refused[1].starts_with("b: its pool 10.128.15.0/24 overlaps that of the older network z"), "{refused:?}");
}

#[test]
fn a_network_over_the_flat_network_or_the_underlay_is_refused_by_name() {
    let mut records = NamedRecords::default();
    put(&mut records.networks, "a", &network(5000, "10.5.16.0/20"), 1);
    put(&mut records.networks, "b", &network(5001, "10.0.0.0/8"), 2);
    put(&mut records.networks, "c", &network(5002, "10.128.0.0/20"), 3);
    let occupied = [("10.5.0.0/16", Occupant::FlatNetwork), ("10.64.0.0/24", Occupant::Underlay)];
    let occupied = occupied.map(|(prefix, by)| Occupied { prefix: prefix.parse().unwrap(), by });
    let (names, refused) = outcome(&NamedNetworks::of(&records, &occupied));
    assert_eq!(names, ["c"]);
    assert!(refused[0].starts_with("a: its pool 10.5.16.0/20 overlaps 10.5.0.0/16, the flat network"), "{refused:?}");
    assert!(refused[1].starts_with("b: its pool 10.0.0.0/8 overlaps 10.5.0.0/16, the flat network"), "{refused:?}");
}

#[test]
fn a_hundred_thousand_networks_are_bounded_and_counted() {
    let records = NamedRecords {
        networks: (0..100_000u32)
            .map(|number| {
                let pool = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number * 64);
                let record = stored(&network(4096 + number, &format!("{pool}/26")), i64::from(number));
                (format!("n{number}").parse().unwrap(), record)
            })
            .collect(),
        ..NamedRecords::default()
    };
    let networks = NamedNetworks::of(&records, &[]);
    assert_eq!((networks.networks.len(), networks.too_many), (MOST_NETWORKS, 100_000 - MOST_NETWORKS));
    assert!(networks.networks.keys().all(|name| name.as_str()[1..].parse::<usize>().unwrap() < MOST_NETWORKS));
}

#[test]
fn each_hostile_record_of_a_host_is_refused_alone() {
    let mut records = NamedRecords::default();
    let both = r#"{"VNI":5000,"IPv4":{"Pool":"10.128.0.0/20"},"IPv6":{"Pool":"fd57::/64","Block":123}}"#;
    put(&mut records.networks, "a", both, 1);
    put(&mut records.members, &format!("a/{}", host(1)), MEMBER, 2);
    put(&mut records.members, &format!("a/{}", host(2)), r#"{"PublicIP":"10.128.0.9","Port":1}"#, 2);
    put(
        &mut records.members,
        &format!("a/{}", host(3)),
        r#"{"PublicIP":"192.0.2.3","Port":1,"Own":{"IPv4":"10.128.0.1"}}"#,
        2,
    );
    put(&mut records.members, &format!("other/{}", host(3)), MEMBER, 2);
    put(&mut records.blocks, "a/10.128.0.0-27", &block(1), 3);
    put(&mut records.blocks, "a/10.128.0.32-28", &block(1), 3);
    put(&mut records.blocks, "a/10.129.0.0-27", &block(1), 3);
    put(&mut records.blocks, "a/fd57::a80:0-123", &block(1), 3);
    put(&mut records.addresses, "a/10.128.0.1", &address(1, "02:00:00:00:00:01"), 4);
    put(&mut records.addresses, "a/10.128.15.255", &address(1, "02:00:00:00:00:02"), 4);
    put(&mut records.addresses, "a/fd57::a80:328", &address(1, "02:00:00:00:00:03"), 4);
    put(&mut records.addresses, "a/10.128.2.9", &address(1, "02:00:00:00:00:04"), 4);
    put(&mut records.addresses, "a/10.128.2.10", &address(2, "02:00:00:00:00:04"), 5);
    put(&mut records.addresses, "a/fd57::9", &address(1, "02:00:00:00:00:04"), 6);
    let networks = NamedNetworks::of(&records, &[]);
    let network = &networks.networks[&named("a")];
    assert_eq!(network.members.keys().copied().collect::<Vec<_>>(), [host(1)]);
    assert_eq!(network.blocks.keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.128.0.0/27"]);
    assert_eq!(network.addresses.keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.128.2.9", "fd57::9"]);
    let (_, refused) = outcome(&networks);
    for reason in [
        "10.128.0.9, its address on the underlay, lies in the network itself",
        "10.128.0.1 is no address that the network gives",
        "10.128.0.32/28 is no block of the network, whose blocks are /27 in 10.128.0.0/20",
        "10.129.0.0/27 is no block",
        "fd57::a80:0/123 is no block",
        "10.128.15.255 is no address",
        "fd57::a80:328 belongs to the IPv4 address",
        "is that of a container of the host 00000000000000000000000000000001",
    ] {
        assert!(refused.iter().any(|refusal| refusal.contains(reason)), "{reason}: {refused:#?}");
    }
    assert_eq!(refused.len(), 9);
}

#[test]
fn a_mac_address_that_follows_from_an_address_is_its_hosts_alone() {
    let mut records = NamedRecords::default();
    let both = r#"{"VNI":5000,"IPv4":{"Pool":"10.128.0.0/20"},"IPv6":{"Pool":"fd57::/64","Block":123}}"#;
    put(&mut records.networks, "a", both, 1);
    put(&mut records.addresses, "a/fd57::9", &address(2, "02:57:0a:80:03:28"), 2);
    let mut admission = NamedAdmission::default();
    let refused = |admission: &mut NamedAdmission, records: &NamedRecords| outcome(admission.update(records, &[])).1;
    assert_eq!(refused(&mut admission, &records).len(), 1, "nobody has 10.128.3.40");
    put(&mut records.blocks, "a/10.128.3.32-27", &block(1), 3);
    assert!(refused(&mut admission, &records)[0].contains("of the host 00000000000000000000000000000001"));
    put(&mut records.blocks, "a/10.128.3.32-27", &block(2), 4);
    assert_eq!(refused(&mut admission, &records).len(), 0, "a container of host 2 has both addresses");
    put(&mut records.addresses, "a/10.128.3.40", &address(1, "02:57:0a:80:03:28"), 5);
    assert_eq!(refused(&mut admission, &records).len(), 1, "a single address counts before the block");
    let network = &admission.networks().networks[&named("a")];
    for (address, owner) in [
        ("10.128.3.40", Some(1)),
        ("10.128.3.41", Some(2)),
        ("fd57::a80:328", Some(1)),
        ("fd57::a80:329", Some(2)),
        ("fd57::9", None),
    ] {
        assert_eq!(network.host_of(address.parse().unwrap()), owner.map(host), "{address}");
    }
}

/// A change of one record: a key, and a value or none.
#[derive(Clone, Debug)]
enum Step {
    Network(String, Option<String>),
    Member(String, Option<String>),
    Block(String, Option<String>),
    Address(String, Option<String>),
    Occupied(bool),
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(str::to_owned)
}

fn step() -> impl Strategy<Value = Step> {
    const POOLS: [&str; 4] = [
        r#""IPv4":{"Pool":"10.128.0.0/24"}"#,
        r#""IPv4":{"Pool":"10.128.1.0/24"}"#,
        r#""IPv4":{"Pool":"10.128.0.0/23"},"IPv6":{"Pool":"fd57::/64","Block":125}"#,
        r#""IPv6":{"Pool":"fd57::/64"}"#,
    ];
    let network = (name(), 5000u32..5003, prop::sample::select(&POOLS[..]), prop::option::of(any::<bool>()));
    let network = network.prop_map(|(name, vni, pool, internal)| {
        Step::Network(name, internal.map(|internal| format!(r#"{{"VNI":{vni},{pool},"Internal":{internal}}}"#)))
    });
    let members = [
        MEMBER,
        r#"{"PublicIP":"10.128.1.9","Port":1}"#,
        r#"{"PublicIP":"192.0.2.1","Port":1,"Own":{"IPv4":"10.128.0.9"}}"#,
    ];
    let member = (name(), 0u8..3, prop::option::of(prop::sample::select(members.to_vec())))
        .prop_map(|(name, number, value)| Step::Member(format!("{name}/{}", host(number)), value.map(str::to_owned)));
    let blocks = ["10.128.0.0-30", "10.128.0.8-30", "10.128.1.8-30", "10.128.0.8-29", "fd57::a80:0-120"];
    let block = (name(), prop::sample::select(blocks.to_vec()), prop::option::of(0u8..3))
        .prop_map(|(name, key, number)| Step::Block(format!("{name}/{key}"), number.map(block)));
    let addresses = ["10.128.0.1", "10.128.0.9", "10.128.0.10", "10.128.1.9", "fd57::9", "fd57::a80:9", "fd57::a"];
    let macs = ["02:57:0a:80:00:09", "02:57:0a:80:01:09", "02:57:00:00:00:09", "02:00:00:00:00:01"];
    let address = (
        name(),
        prop::sample::select(addresses.to_vec()),
        prop::option::of((0u8..3, prop::sample::select(macs.to_vec()))),
    )
        .prop_map(|(name, key, value)| {
            Step::Address(format!("{name}/{key}"), value.map(|(number, mac)| address(number, mac)))
        });
    prop_oneof![4 => network, 3 => member, 6 => block, 8 => address, 1 => any::<bool>().prop_map(Step::Occupied)]
}

fn apply<R: Record>(records: &mut Records<R>, key: &str, value: Option<&String>, revision: i64) {
    let key = R::parse_key(key.as_bytes()).unwrap();
    match value {
        None => drop(records.remove(&key)),
        Some(json) => {
            let mut record: Stored<R> = stored(json, revision);
            if let Some(former) = records.get(&key) {
                record.origin.create_revision = former.origin.create_revision;
            }
            records.insert(key, record);
        }
    }
}

fn occupied(is_on: bool) -> Vec<Occupied> {
    let prefix = "10.128.1.0/28".parse().unwrap();
    if is_on { vec![Occupied { prefix, by: Occupant::Lease }] } else { Vec::new() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Also: the outcome depends on what there is, not on the order in which it came.
    #[test]
    fn the_admission_brought_forward_is_the_one_computed_in_full(steps in prop::collection::vec(step(), 1..60), together in 1usize..4) {
        let (mut records, mut is_occupied) = (NamedRecords::default(), false);
        let mut admission = NamedAdmission::default();
        for (number, step) in steps.iter().enumerate() {
            let revision = i64::try_from(number).unwrap() + 1;
            match step {
                Step::Network(key, value) => apply(&mut records.networks, key, value.as_ref(), revision),
                Step::Member(key, value) => apply(&mut records.members, key, value.as_ref(), revision),
                Step::Block(key, value) => apply(&mut records.blocks, key, value.as_ref(), revision),
                Step::Address(key, value) => apply(&mut records.addresses, key, value.as_ref(), revision),
                Step::Occupied(is_on) => is_occupied = *is_on,
            }
            if number % together == 0 {
                admission.update(&records, &occupied(is_occupied));
            }
        }
        let brought = admission.update(&records, &occupied(is_occupied));
        let full = NamedNetworks::of(&records, &occupied(is_occupied));
        prop_assert_eq!(brought, &full);
        for (name, network) in &full.networks {
            let pools = full.networks.iter().filter(|(other, _)| *other != name).flat_map(|(_, other)| other.record().pools.prefixes());
            let pools: Vec<_> = pools.collect();
            prop_assert!(network.record().pools.prefixes().all(|pool| pools.iter().all(|other| !other.overlaps(pool))));
        }
    }
}

#[test]
fn a_change_of_one_address_touches_one_network_alone() {
    let mut records = NamedRecords::default();
    for number in 0..50u32 {
        put(
            &mut records.networks,
            &format!("n{number}"),
            &network(5000 + number, &format!("10.128.{number}.0/24")),
            i64::from(number),
        );
    }
    let mut admission = NamedAdmission::default();
    let before = admission.update(&records, &[]).clone();
    put(&mut records.addresses, "n7/10.128.7.9", &address(1, "02:57:0a:80:07:09"), 100);
    let after = admission.update(&records, &[]);
    let is_same = |(name, network)| Arc::ptr_eq(network, &after.networks[name]);
    assert_eq!(before.networks.iter().filter(|item| is_same(*item)).count(), 49);
}

//! Properties of the choice of a subnet, in small ranges and in ones of 2^64.

use std::{collections::BTreeSet, time::Instant};

use proptest::prelude::*;
use wire_lease::{Full, NetworkConfig, Preference, Taken, allocate};
use wire_net::{DualStack, Family, Pool, Prefix};

fn pools(json: &str) -> DualStack<Pool> {
    NetworkConfig::from_json(json.as_bytes()).unwrap().pools
}

/// Sixteen subnets of each family, and a range of 2^64 less one.
fn pool(choice: u8) -> Pool {
    let small = r#"{"Network":"10.5.0.0/19","SubnetMin":"10.5.8.0","SubnetMax":"10.5.23.0","EnableIPv6":true,
        "IPv6Network":"fd00:5::/59","IPv6SubnetMin":"fd00:5:0:8::","IPv6SubnetMax":"fd00:5:0:17::"}"#;
    let large = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/16","IPv6SubnetLen":80}"#;
    match choice {
        0 => pools(small).v4.unwrap(),
        1 => pools(small).v6.unwrap(),
        _ => pools(large).v6.unwrap(),
    }
}

fn preference(identity: &str, attempt: u32) -> Preference<'_> {
    Preference { preferred: None, identity, attempt, last_resort: &[] }
}

#[test]
fn the_preferred_subnet_comes_first_if_it_is_offered_and_free() {
    let pool = pool(0);
    let prefix = |text: &str| text.parse::<Prefix>().unwrap();
    let wanted = |preferred: &str, taken: &[&str]| {
        let taken: Taken = taken.iter().map(|text| prefix(text)).collect();
        allocate(&pool, &taken, Preference { preferred: Some(prefix(preferred)), ..preference("a", 0) })
            .unwrap()
            .to_string()
    };
    assert_eq!(wanted("10.5.9.0/24", &[]), "10.5.9.0/24");
    for (preferred, taken) in
        [("10.5.9.0/24", &["10.5.9.128/25"][..]), ("10.5.1.0/24", &[]), ("10.5.9.0/25", &[]), ("fd00:5:0:9::/64", &[])]
    {
        assert_ne!(wanted(preferred, taken), preferred, "taken, out of range, of another length, of another family");
    }
}

#[test]
fn the_choice_is_the_same_on_every_machine_and_in_every_version() {
    let chosen =
        |number, identity| allocate(&pool(number), &Taken::default(), preference(identity, 0)).unwrap().to_string();
    let all = [chosen(0, "host-1"), chosen(1, "host-1"), chosen(2, "host-1")];
    assert_eq!(all, ["10.5.20.0/24", "fd00:5:0:14::/64", "fd00:18e3:a1b2:236b:e36f::/80"]);
}

#[test]
fn a_full_range_is_named() {
    let pool = pool(0);
    let taken: Taken = [pool.network].into_iter().collect();
    let full = allocate(&pool, &taken, preference("a", 0)).unwrap_err();
    assert_eq!(full, Full { min: pool.min, max: pool.max, size: 16 });
    let text = "all 16 subnets from 10.5.8.0/24 to 10.5.23.0/24 are taken: release one, or make the range larger (SubnetMin, SubnetMax, Network)";
    assert_eq!(full.to_string(), text);
}

#[test]
fn hosts_begin_at_places_that_are_spread_over_the_range() {
    let pool = pools(r#"{"Network":"10.0.0.0/8"}"#).v4.unwrap();
    let chosen: BTreeSet<Prefix> = (0..1000)
        .map(|host| allocate(&pool, &Taken::default(), preference(&format!("host-{host}"), 0)).unwrap())
        .collect();
    assert!(chosen.len() > 980, "{} different ones of 1000 in 65535", chosen.len());
}

#[test]
fn a_range_of_65_000_leases_is_searched_in_no_time() {
    let pool = pools(r#"{"Network":"10.0.0.0/8"}"#).v4.unwrap();
    let mut taken: Taken = (0..65_000).map(|number| pool.nth(number).unwrap()).collect();
    let started = Instant::now();
    for host in 0..500 {
        let subnet = allocate(&pool, &taken, preference(&format!("host-{host}"), 0)).unwrap();
        taken.insert(subnet);
    }
    let took = started.elapsed();
    println!("500 choices among 65 000 leases: {took:?}");
    assert!(took.as_millis() < 500, "{took:?}");
}

fn taken_prefixes(pool: Pool) -> impl Strategy<Value = Vec<Prefix>> {
    let size = pool.size().min(18);
    let one = (0..size, 0u8..4).prop_map(move |(number, longer)| {
        let subnet = pool.nth(number).unwrap_or(pool.max);
        // Leases of older configs are shorter or longer than today's.
        Prefix::from_bits(subnet.family(), subnet.first_bits(), subnet.len() + longer - 1).unwrap()
    });
    proptest::collection::vec(one, 0..40)
}

proptest! {
    #[test]
    fn what_is_chosen_is_free_and_offered_and_found_if_there_is_one(
        (choice, prefixes) in (0u8..3).prop_flat_map(|choice| (Just(choice), taken_prefixes(pool(choice)))),
        identity in ".{0,12}",
        attempt in any::<u32>(),
    ) {
        let pool = pool(choice);
        let taken: Taken = prefixes.iter().copied().collect();
        let is_free = |subnet: Prefix| prefixes.iter().all(|prefix| !prefix.overlaps(subnet));
        let chosen = allocate(&pool, &taken, preference(&identity, attempt));
        prop_assert_eq!(&chosen, &allocate(&pool, &taken, preference(&identity, attempt)));
        match chosen {
            Ok(subnet) => prop_assert!(pool.offers(subnet) && is_free(subnet), "{}", subnet),
            Err(_) => prop_assert!((0..pool.size()).all(|number| !is_free(pool.nth(number).unwrap()))),
        }
    }

    #[test]
    fn what_is_taken_is_what_was_inserted(prefixes in taken_prefixes(pool(0)), probe in 0u128..8192, len in 20u8..=32) {
        let taken: Taken = prefixes.iter().copied().collect();
        let probe = Prefix::from_bits(Family::V4, 0x0a05_0000 + probe, len).unwrap();
        prop_assert_eq!(taken.overlapping(probe).is_some(), prefixes.iter().any(|prefix| prefix.overlaps(probe)));
        let backwards: Taken = prefixes.iter().rev().copied().collect();
        prop_assert_eq!(taken, backwards);
    }
}

#[test]
fn what_bridges_of_the_host_have_is_leased_only_where_nothing_else_is_free_or_it_was_held_last() {
    let pool =
        pools(r#"{"Network":"192.168.0.0/16","SubnetMin":"192.168.121.0","SubnetMax":"192.168.122.0"}"#).v4.unwrap();
    let prefix = |text: &str| text.parse::<Prefix>().unwrap();
    let bridges = [prefix("192.168.122.0/24"), prefix("172.17.0.0/16")];
    for attempt in 0..20 {
        let get = |preferred: Option<&str>, taken: &[&str], last_resort: &[Prefix]| {
            let taken: Taken = taken.iter().map(|text| prefix(text)).collect();
            let preference = Preference { preferred: preferred.map(prefix), identity: "a", attempt, last_resort };
            allocate(&pool, &taken, preference).map(|subnet| subnet.to_string())
        };
        let (first, second) = (Ok("192.168.121.0/24".to_owned()), Ok("192.168.122.0/24".to_owned()));
        assert_eq!(get(None, &[], &bridges), first);
        assert_eq!(get(None, &["192.168.121.0/24"], &bridges), second, "nothing else is free");
        assert_eq!(get(Some("192.168.122.0/24"), &[], &bridges), second, "it was held last");
        assert_eq!(get(None, &[], &[prefix("192.168.120.0/22")]), get(None, &[], &[]), "all alike");
        assert!(get(None, &["192.168.121.0/24", "192.168.122.0/24"], &bridges).is_err());
    }
}

#[test]
fn the_edges_of_the_address_space_are_no_trouble() {
    let prefix = |text: &str| text.parse::<Prefix>().unwrap();
    let mut taken = Taken::default();
    for text in ["::/0", "ffff::/16", "0.0.0.0/0", "255.255.255.255/32", "::/1"] {
        taken.insert(prefix(text));
    }
    assert_eq!(taken.overlapping(prefix("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128")), Some(u128::MAX));
    assert!(taken.overlapping(prefix("0.0.0.0/32")).is_some());
    // No config has such a network.
    let (min, max) = (prefix("::4/126"), prefix("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc/126"));
    let whole = Pool { network: prefix("::/0"), subnet_len: 126, min, max };
    assert_eq!(whole.size(), (1 << 126) - 1);
    assert!(allocate(&whole, &taken, preference("a", 0)).is_err());
    assert!(allocate(&whole, &Taken::default(), preference("a", 0)).is_ok());
}

//! Which entries are let in: a table of hostile ones, and properties over many.

use std::{collections::BTreeMap, net::IpAddr};

use proptest::prelude::*;
use wire_lease::{Admission, Entries, LeaseTable, NetworkConfig, RefusalKind};
use wire_net::{DualStack, Family, KeyPrefix, LocalAddress, Prefix};
use wire_store::{KeyValue, Listing, Revision};

const DIRECTORY: &str = "/coreos.com/network/subnets/";

fn admission(config: &str) -> Admission {
    Admission {
        pools: NetworkConfig::from_json(config.as_bytes()).unwrap().pools,
        own: Some("10.5.1.0-24".parse().unwrap()),
        public: DualStack { v4: Some("192.168.0.1".parse().unwrap()), v6: Some("fd99::1".parse().unwrap()) },
        local: local(&[
            "127.0.0.1/8",
            "192.168.0.1/16",
            "172.17.0.1/16",
            "10.5.1.0/32",
            "203.0.113.1/31",
            "fd99::1/64",
        ]),
        macs: DualStack { v4: Some("02:00:00:00:00:01".parse().unwrap()), v6: None },
        endpoints: Vec::new(),
        underlay: vec!["10.5.200.0/24".parse().unwrap(), "192.168.0.0/16".parse().unwrap()],
    }
}

fn local(addresses: &[&str]) -> Vec<LocalAddress> {
    let address = |text: &&str| {
        let (address, len) = text.split_once('/').unwrap();
        LocalAddress::new(address.parse().unwrap(), len.parse().unwrap()).unwrap()
    };
    addresses.iter().map(address).collect()
}

const V4: &str = r#"{"Network":"10.5.0.0/16"}"#;
const DUAL: &str = r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/48"}"#;

fn kv(name: &str, value: &str, created: i64) -> KeyValue {
    let revision = Revision(created);
    let key = format!("{DIRECTORY}{name}").into_bytes();
    KeyValue { key, value: value.into(), create_revision: revision, mod_revision: revision, lease: None }
}

fn vxlan(public: &str, mac: &str) -> String {
    format!(r#"{{"PublicIP":"{public}","BackendType":"vxlan","BackendData":{{"VtepMAC":"{mac}"}}}}"#)
}

fn dual(public: &str, public6: &str, mac: &str) -> String {
    format!(
        r#"{{"PublicIP":"{public}","PublicIPv6":"{public6}","BackendType":"vxlan","BackendData":{{"VtepMAC":"{mac}"}},"BackendV6Data":{{"VtepMAC":"{mac}"}}}}"#
    )
}

fn admit(entries: Vec<KeyValue>, admission: &Admission) -> LeaseTable {
    let listing = Listing { entries, revision: Revision(1000) };
    Entries::listed(KeyPrefix::new("/coreos.com/network").leases(true), &listing).admit(admission)
}

fn peers(table: &LeaseTable) -> Vec<String> {
    table.peers.keys().map(ToString::to_string).collect()
}

#[test]
fn each_hostile_entry_is_refused_alone_with_its_kind_and_a_reason() {
    use RefusalKind::{Key, Mac, Overlap, Own, PublicIp, Subnet, Value};
    const GOOD: &str = "02:00:00:00:00:22";
    let public = |public: &str| ("10.5.9.0-24", vxlan(public, GOOD));
    let mac = |mac: &str| ("10.5.9.0-24", vxlan("192.168.0.9", mac));
    let subnet = |name: &'static str| (name, vxlan("192.168.0.9", GOOD));
    for ((name, value), kind, reason) in [
        (("10.5.9.0-24", "xx{".to_owned()), Value, "not a JSON object"),
        (("10.5.9.0-24", String::new()), Value, "not a JSON object"),
        (("fruit", vxlan("192.168.0.9", GOOD)), Key, "the form"),
        (subnet("10.5.9.1-24"), Key, "host bits"),
        (subnet("0.0.0.0-0"), Subnet, "does not lie in the network 10.5.0.0/16"),
        (subnet("10.6.9.0-24"), Subnet, "does not lie in"),
        (subnet("10.5.0.0-16"), Subnet, "all of the network"),
        (subnet("10.0.0.0-8"), Subnet, "does not lie in"),
        (subnet("10.5.9.0-31"), Subnet, "longer than /30"),
        (subnet("fd00:5::-64"), Key, "none of this network's families"),
        (subnet("10.5.9.0-024"), Key, "another spelling of 10.5.9.0-24"),
        (subnet("old/10.5.9.0-24"), Key, "the form"),
        (subnet("10.5.9.0-24&FD00:5:0:9::-64"), Key, "another spelling of 10.5.9.0-24&fd00:5:0:9::-64"),
        (("fd00:5::-64", r#"{"PublicIPv6":"fd99::9"}"#.to_owned()), Key, "none of this network's families"),
        (subnet("10.5.1.0-25"), Overlap, "this host's own subnet"),
        (subnet("10.5.0.0-23"), Overlap, "this host's own subnet"),
        (subnet("10.5.200.0-24"), Overlap, "the underlay's own subnet"),
        (subnet("10.5.128.0-17"), Overlap, "the underlay's own subnet"),
        (public("127.0.0.1"), PublicIp, "loopback"),
        (public("0.1.2.3"), PublicIp, "0/8"),
        (public("224.0.0.1"), PublicIp, "multicast"),
        (public("255.255.255.255"), PublicIp, "broadcast"),
        (public("250.0.0.1"), PublicIp, "240/4"),
        (public("169.254.169.254"), PublicIp, "link-local"),
        (public("192.168.0.1"), Own, "this host's own"),
        (public("10.5.77.7"), PublicIp, "inside the overlay"),
        (public("10.5.0.7"), PublicIp, "inside the overlay"),
        (public("192.168.255.255"), PublicIp, "the broadcast address of 192.168.0.0/16"),
        (public("192.168.0.0"), PublicIp, "the address of 192.168.0.0/16 itself"),
        (public("172.17.0.1"), PublicIp, "an address of this host"),
        (public("172.17.255.255"), PublicIp, "the broadcast address of 172.17.0.0/16"),
        (public("203.0.113.1"), PublicIp, "an address of this host"),
        (mac("ff:ff:ff:ff:ff:ff"), Mac, "group address"),
        (mac("01:00:5e:00:00:01"), Mac, "group address"),
        (mac("00:00:00:00:00:00"), Mac, "zero"),
        (mac("02:00:00:00:00:01"), Mac, "this host's own device"),
        (mac("02:00:00:00:00:02"), Mac, "belongs to 192.168.0.2 by the older lease 10.5.2.0-24"),
    ] {
        let good = [
            kv("10.5.1.0-24", &vxlan("192.168.0.1", "02:00:00:00:00:01"), 1),
            kv("10.5.2.0-24", &vxlan("192.168.0.2", "02:00:00:00:00:02"), 2),
            kv("10.5.3.0-24", &vxlan("192.168.0.3", "02:00:00:00:00:03"), 4),
        ];
        let table = admit([&good[..], &[kv(name, &value, 3)]].concat(), &admission(V4));
        assert_eq!(peers(&table), ["10.5.2.0-24", "10.5.3.0-24"], "{name} {value}");
        let (key, refusal) = table.refused.first_key_value().unwrap_or_else(|| panic!("{name} {value} was let in"));
        assert_eq!((key, refusal.kind), (&format!("{DIRECTORY}{name}"), kind), "{value}: {}", refusal.reason);
        assert!(refusal.reason.contains(reason), "{name} {value}: {:?} does not say {reason:?}", refusal.reason);
    }
}

#[test]
fn a_peer_is_no_broadcast_and_no_address_of_this_host_in_either_family_and_a_link_of_two_has_no_broadcast() {
    let refused = |public: &str, public6: &str, local: Vec<LocalAddress>| {
        let value = dual(public, public6, "02:00:00:00:00:22");
        let table = admit(vec![kv("10.5.9.0-24&fd00:5:0:9::-64", &value, 3)], &Admission { local, ..admission(DUAL) });
        table.refused.values().next().map(|refusal| refusal.reason.clone())
    };
    let links = |all: &[&str]| local(all);
    let of = |v4: &str, v6: &str, all: &[&str]| refused(v4, v6, links(all)).unwrap_or_default();
    let (v4, v6) = ("198.51.100.9", "2001:db8::9");
    assert_eq!(of(v4, v6, &["198.51.100.1/24", "2001:db8::1/64"]), "");
    assert!(of("198.51.100.127", v6, &["198.51.100.1/25"]).contains("broadcast address of 198.51.100.0/25"));
    assert_eq!(of("198.51.100.127", v6, &["198.51.100.1/24"]), "", "the broadcast of no prefix of ours");
    for pair in ["198.51.100.8/31", "198.51.100.8/32"] {
        assert_eq!(of("198.51.100.9", v6, &[pair]), "", "{pair}");
    }
    assert!(of(v4, "2001:db8::", &["2001:db8::1/64"]).contains("any router's address on 2001:db8::/64"));
    assert_eq!(of(v4, "2001:db8::ffff:ffff:ffff:ffff", &["2001:db8::1/64"]), "", "IPv6 has no broadcast");
    assert_eq!(of(v4, "2001:db8::", &["2001:db8::1/127"]), "");
    assert!(of(v4, "2001:db8:7::1", &["2001:db8:7::1/128"]).contains("an address of this host"));
    let given = LocalAddress { broadcast: Some("198.51.100.9".parse().unwrap()), ..links(&["198.51.100.1/16"])[0] };
    assert!(refused(v4, v6, vec![given]).unwrap().contains("broadcast address"), "one that was given by hand");
    let far = LocalAddress { prefix: "198.51.100.0/24".parse().unwrap(), ..links(&["192.0.2.1/24"])[0] };
    assert!(refused("198.51.100.255", v6, vec![far]).is_some(), "the other end's prefix");
}

#[test]
fn hosts_inside_the_network_are_let_in_beside_the_range_that_is_leased_and_nowhere_else() {
    let flannels = r#"{"Network":"10.0.0.0/8","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0"}"#;
    let bounded = |entries: Vec<KeyValue>| {
        let own = Some("10.13.240.0-20".parse().unwrap());
        let public = DualStack { v4: Some("10.240.0.2".parse().unwrap()), v6: None };
        let underlay = vec!["10.240.0.0/24".parse().unwrap()];
        let local = local(&["10.240.0.2/24"]);
        admit(entries, &Admission { own, public, local, underlay, ..admission(flannels) })
    };
    let lease =
        |name: &str, public: &str, created| kv(name, &vxlan(public, &format!("02:00:00:00:00:{created:02x}")), created);
    for public in ["10.240.0.3", "10.240.1.9", "10.9.255.255", "10.100.0.0", "192.168.0.9"] {
        assert_eq!(peers(&bounded(vec![lease("10.20.0.0-20", public, 3)])), ["10.20.0.0-20"], "{public}");
    }
    for public in ["10.10.0.0", "10.20.0.5", "10.99.15.255", "10.240.0.255", "10.240.0.2"] {
        let table = bounded(vec![lease("10.20.0.0-20", public, 3)]);
        let kind = if public == "10.240.0.2" { RefusalKind::Own } else { RefusalKind::PublicIp };
        assert_eq!(table.refused.values().next().unwrap().kind, kind, "{public}");
    }
    // A lease of an older config may lie where hosts do: the older of the two stands, and no host is inside what it leads to.
    let (host, beside) = (
        |created| lease("10.20.0.0-20", "10.240.17.3", created),
        |created| lease("10.240.16.0-20", "10.9.0.9", created),
    );
    assert_eq!(peers(&bounded(vec![host(3), beside(4)])), ["10.20.0.0-20"]);
    assert_eq!(peers(&bounded(vec![host(4), beside(3)])), ["10.240.16.0-20"]);
    assert!(peers(&bounded(vec![lease("10.240.16.0-20", "10.240.17.3", 3)])).is_empty());
    assert!(peers(&bounded(vec![lease("10.240.0.0-20", "10.9.0.9", 3)])).is_empty(), "this host's own address");
}

#[test]
fn of_two_that_conflict_the_older_one_is_let_in() {
    let admission = admission(V4);
    let with = |first: i64, second: i64| {
        let entries = vec![
            kv("10.5.8.0-23", &vxlan("192.168.0.8", "02:00:00:00:00:08"), first),
            kv("10.5.9.0-24", &vxlan("192.168.0.9", "02:00:00:00:00:09"), second),
        ];
        peers(&admit(entries, &admission))
    };
    assert_eq!(with(5, 6), ["10.5.8.0-23"]);
    assert_eq!(with(6, 5), ["10.5.9.0-24"]);
    let same_mac = |public: &str, second: i64| {
        let entries = vec![
            kv("10.5.8.0-24", &vxlan("192.168.0.8", "02:00:00:00:00:08"), 10),
            kv("10.5.9.0-24", &vxlan(public, "02:00:00:00:00:08"), second),
        ];
        peers(&admit(entries, &admission))
    };
    assert_eq!(same_mac("192.168.0.8", 11), ["10.5.8.0-24", "10.5.9.0-24"], "a host's own stale lease");
    assert_eq!(same_mac("192.168.0.9", 11), ["10.5.8.0-24"]);
    assert_eq!(same_mac("192.168.0.9", 9), ["10.5.9.0-24"]);
}

#[test]
fn a_refused_entry_claims_nothing() {
    // The oldest is refused for its address, so that the one it overlaps and the one with its MAC stand.
    let entries = vec![
        kv("10.5.8.0-23", &vxlan("127.0.0.1", "02:00:00:00:00:08"), 1),
        kv("10.5.9.0-24", &vxlan("192.168.0.9", "02:00:00:00:00:08"), 2),
    ];
    assert_eq!(peers(&admit(entries, &admission(V4))), ["10.5.9.0-24"]);
}

#[test]
fn a_peer_is_used_in_the_families_this_host_has() {
    let entries = || {
        vec![
            kv("10.5.8.0-24&fd00:5:0:8::-64", &dual("192.168.0.8", "fd99::8", "02:00:00:00:00:08"), 1),
            kv("10.5.9.0-24", &vxlan("192.168.0.9", "02:00:00:00:00:09"), 2),
            kv("10.5.7.0-24&fd00:5:0:7::-64", &dual("192.168.0.7", "fe80::7", "02:00:00:00:00:07"), 3),
        ]
    };
    let table = admit(entries(), &admission(V4));
    assert_eq!(
        peers(&table),
        ["10.5.7.0-24", "10.5.8.0-24", "10.5.9.0-24"],
        "a bad IPv6 part is no concern of an IPv4 host"
    );
    let cut = &table.peers[&"10.5.8.0-24".parse::<wire_net::Subnet>().unwrap()].lease;
    assert_eq!((cut.public.v6, cut.subnet.get(Family::V6)), (None, None));
    let table = admit(entries(), &admission(DUAL));
    assert_eq!(peers(&table), ["10.5.8.0-24&fd00:5:0:8::-64", "10.5.9.0-24"]);
    assert_eq!(table.refused.values().next().unwrap().kind, RefusalKind::PublicIp);
}

#[test]
fn an_overlay_cut_out_of_the_underlay_is_no_conflict_and_link_local_hosts_have_link_local_peers() {
    let mut admission = admission(V4);
    admission.underlay = vec!["10.0.0.0/8".parse().unwrap()];
    admission.public.v4 = Some("169.254.0.1".parse().unwrap());
    let entries = vec![kv("10.5.9.0-24", &vxlan("169.254.0.9", "02:00:00:00:00:09"), 2)];
    assert_eq!(peers(&admit(entries, &admission)), ["10.5.9.0-24"]);
}

#[test]
fn four_thousand_entries_are_admitted_and_the_same_again_is_no_change() {
    let entries: Vec<KeyValue> = (0..4000u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            let value = vxlan(&format!("172.16.{high}.{low}"), &format!("02:00:00:00:{high:02x}:{low:02x}"));
            kv(&format!("10.{}.{low}.0-24", high + 16), &value, i64::from(number) * 7919 % 4001 + 1)
        })
        .collect();
    let mut admission = admission(r#"{"Network":"10.0.0.0/8"}"#);
    (admission.own, admission.macs) = (None, DualStack::default());
    admission.underlay = vec!["172.31.0.0/16".parse().unwrap()];
    let listing = Listing { entries, revision: Revision(5000) };
    let mut decoded = Entries::new(KeyPrefix::new("/coreos.com/network").leases(true));
    assert!(decoded.replace(&listing));
    assert!(!decoded.replace(&listing), "the same again is no change");
    let table = decoded.admit(&admission);
    assert!(table.says_the_same(&decoded.admit(&admission)));
    assert_eq!((table.peers.len(), table.refused.len()), (4000, 0), "{:?}", table.refused.first_key_value());
}

/// Few enough values that entries conflict often.
fn entries() -> impl Strategy<Value = Vec<KeyValue>> {
    let entry = (0u32..64, 22u8..=27, 0u8..6, 0u8..6, 0u8..12).prop_map(|(block, len, public, mac, odd)| {
        let prefix = Prefix::from_bits(Family::V4, u128::from(0x0a05_0000 + block * 128), len).unwrap();
        let value = match odd {
            0 => "xx{".to_owned(),
            1 => vxlan("127.0.0.1", "02:00:00:00:00:0a"),
            2 => vxlan("192.168.0.9", "ff:ff:ff:ff:ff:ff"),
            _ => vxlan(&format!("192.168.0.{}", public + 1), &format!("02:00:00:00:00:{:02x}", mac + 1)),
        };
        (format!("{}-{}", prefix.network(), prefix.len()), value)
    });
    let unique = proptest::collection::btree_map(Just(()).prop_flat_map(move |()| entry.clone()), 0i64..1000, 0..24);
    unique.prop_map(|entries| {
        let by_name: BTreeMap<String, (String, i64)> =
            entries.into_iter().map(|((name, value), created)| (name, (value, created))).collect();
        by_name.into_iter().map(|(name, (value, created))| kv(&name, &value, created)).collect()
    })
}

proptest! {
    #[test]
    fn no_two_peers_overlap_each_other_or_this_host(entries in entries()) {
        let admission = admission(V4);
        let table = admit(entries.clone(), &admission);
        let mut prefixes: Vec<Prefix> = table.peers.keys().chain(&admission.own).flat_map(wire_net::Subnet::prefixes).collect();
        prefixes.sort_unstable();
        for pair in prefixes.windows(2) {
            prop_assert!(!pair[0].overlaps(pair[1]), "{} {}", pair[0], pair[1]);
        }
        let own = entries.iter().filter(|kv| kv.key.ends_with(b"/10.5.1.0-24") && kv.value != b"xx{").count();
        prop_assert_eq!(table.peers.len() + table.refused.len() + own, entries.len(), "each entry is let in or named");
    }

    #[test]
    fn the_order_in_which_entries_come_does_not_matter(entries in entries(), seed in any::<u64>()) {
        let admission = admission(V4);
        let mut shuffled = entries.clone();
        shuffled.sort_by_key(|kv| kv.key.iter().fold(seed, |hash, byte| hash.wrapping_mul(31) ^ u64::from(*byte)));
        prop_assert_eq!(admit(entries, &admission), admit(shuffled, &admission));
    }

    #[test]
    fn an_entry_that_is_bad_by_itself_changes_nothing_for_the_others(entries in entries(), at in any::<prop::sample::Index>()) {
        let admission = admission(V4);
        let before = admit(entries.clone(), &admission);
        let names = ["0.0.0.0-0", "fruit", "10.5.0.0-16", "10.5.64.0-31"];
        let mut more = entries;
        more.push(kv(names[at.index(names.len())], &vxlan("192.168.0.200", "02:00:00:00:00:c8"), 0));
        more.push(kv("10.5.128.0-24", &vxlan("127.0.0.1", "02:00:00:00:00:02"), 0));
        let after = admit(more, &admission);
        prop_assert_eq!(&before.peers, &after.peers);
        prop_assert_eq!(after.refused.len(), before.refused.len() + 2);
    }
}

#[test]
fn a_lease_that_holds_an_address_of_the_store_is_refused_and_named() {
    let value = |number: u8| format!(r#"{{"PublicIP":"192.168.0.{number}"}}"#);
    let entries = vec![kv("10.5.9.0-24", &value(9), 3), kv("10.5.8.0-24", &value(8), 4)];
    let endpoints = vec!["10.5.9.5".parse().unwrap(), "192.0.2.1".parse().unwrap()];
    let table = admit(entries, &Admission { endpoints, ..admission(V4) });
    assert_eq!(table.peers.len(), 1);
    let reasons: Vec<&str> = table.refused.values().map(|refusal| refusal.reason.as_str()).collect();
    assert_eq!(reasons, ["10.5.9.0/24 contains 10.5.9.5, through which this host reaches etcd"]);
    assert_eq!(table.outside, [IpAddr::from([10, 5, 9, 5])], "the other one lies in no network of ours");
}

#[test]
fn a_router_that_lies_in_the_network_is_on_no_lease_and_outside() {
    let value = |number: u8| format!(r#"{{"PublicIP":"192.168.0.{number}"}}"#);
    let entries = vec![kv("10.5.9.0-24", &value(9), 3), kv("10.5.8.0-24", &value(8), 4)];
    let underlay =
        ["10.5.9.1/32", "10.5.1.1/32", "10.5.200.0/24", "192.0.2.1/32"].map(|prefix| prefix.parse().unwrap());
    let table = admit(entries, &Admission { underlay: underlay.to_vec(), ..admission(V4) });
    assert_eq!(peers(&table), ["10.5.8.0-24"]);
    assert_eq!(table.outside, [IpAddr::from([10, 5, 9, 1])], "neither what is in our own subnet nor a whole link");
}

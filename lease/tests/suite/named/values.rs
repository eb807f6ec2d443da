//! The records of networks by name, written and parsed.

use wire_lease::named::{AddressRecord, BlockRecord, MemberRecord, NetworkPools, NetworkRecord, Record};
use wire_net::{DualStack, Family, Prefix};

const HOST: &str = "00ff6e4f0c8a4d2b9e5f1a2b3c4d5e6f";

fn network(json: &str) -> Result<NetworkRecord, String> {
    NetworkRecord::from_value(json.as_bytes())
}

/// That network, with one more field.
fn with(field: &str) -> Result<NetworkRecord, String> {
    network(&format!(r#"{{"VNI":5000,"IPv4":{{"Pool":"10.128.0.0/20","Block":27}},{field}}}"#))
}

fn pools(v4: &str, v6: &str) -> NetworkPools {
    let all: Vec<Prefix> = [v4, v6].iter().filter_map(|text| text.parse().ok()).collect();
    let of = |family| all.iter().copied().find(|prefix| prefix.family() == family);
    NetworkPools::of(DualStack::from_fn(of)).unwrap()
}

#[test]
fn a_network_is_written_as_it_is_parsed() {
    let json = r#"{"VNI":5000,"IPv4":{"Pool":"10.128.0.0/20","Block":27},"IPv6":{"Pool":"fd57::/64","Block":123},"Internal":true,"Broadcast":false,"MTU":1400,"Labels":{"a":"b"},"Created":"2026-01-31T12:00:00Z"}"#;
    let record = network(json).unwrap();
    assert_eq!(String::from_utf8(record.to_value()).unwrap(), json);
    assert_eq!((record.internal, record.broadcast, record.mtu), (true, false, 1400));
    let least = network(r#"{"VNI":4096,"IPv4":{"Pool":"10.128.0.0/20"},"Later":[1,{}]}"#).unwrap();
    assert_eq!((least.internal, least.broadcast, least.mtu, least.labels.len()), (false, true, 0, 0));
    assert_eq!(least.pools, pools("10.128.0.0/20", ""));
}

#[test]
fn the_length_of_blocks_follows_the_pool() {
    for (pool, len) in [
        ("10.128.0.0/9", 27),
        ("10.128.0.0/16", 27),
        ("10.128.0.0/20", 27),
        ("10.128.0.0/22", 28),
        ("10.128.0.0/24", 30),
        ("10.128.0.0/26", 32),
        ("10.128.0.0/29", 32),
        ("fd57::/48", 120),
        ("fd57::/64", 120),
        ("fd57::/96", 120),
        ("fd57::/120", 126),
        ("fd57::/125", 128),
    ] {
        let pools = pools(pool, "");
        assert_eq!(pools.claimed().block_len, len, "{pool}");
    }
    assert_eq!(pools("10.128.0.0/24", "fd57::/64").get(Family::V6).unwrap().block_len, 126);
}

#[test]
fn an_ipv6_address_has_the_bits_of_the_ipv4_address_that_it_belongs_to() {
    let pools = pools("10.128.0.0/20", "fd57:1::/64");
    let block = pools.of_both("10.128.3.32/27".parse().unwrap());
    assert_eq!(block.v6, "fd57:1::a80:320/123".parse().ok());
    assert_eq!(block.v4, "10.128.3.32/27".parse().ok());
    for (address, belongs) in
        [("fd57:1::a80:328", true), ("fd57:1::5", false), ("fd57:1:0:0:1::a80:328", false), ("10.128.3.40", false)]
    {
        assert_eq!(pools.belongs_to_v4(address.parse().unwrap()), belongs, "{address}");
    }
}

#[test]
fn no_one_gets_the_gateway_the_first_or_the_last_address_of_a_pool() {
    let v4 = pools("10.128.0.0/29", "");
    let pool = v4.claimed();
    assert_eq!(pool.gateway().to_string(), "10.128.0.1");
    let free: Vec<String> = pool.addresses_of(pool.prefix).map(|address| address.to_string()).collect();
    assert_eq!(free, ["10.128.0.2", "10.128.0.3", "10.128.0.4", "10.128.0.5", "10.128.0.6"]);
    assert!(!pool.has_block("10.128.0.1/32".parse().unwrap()) && pool.has_block("10.128.0.2/32".parse().unwrap()));
    assert!(!pool.has_block("10.128.0.8/32".parse().unwrap()) && !pool.has_block("10.128.0.4/30".parse().unwrap()));
    let v6 = pools("", "fd57::/64");
    let pool = v6.claimed();
    assert!(pool.has_address("fd57::2".parse().unwrap()) && pool.has_address("fd57::ffff:ffff".parse().unwrap()));
    for other in ["fd57::", "fd57::1", "fd57::1:0:0", "fd58::2", "10.0.0.1"] {
        assert!(!pool.has_address(other.parse().unwrap()), "{other}");
    }
}

#[test]
fn each_hostile_network_is_refused_with_a_reason() {
    let labels = |count: usize| {
        let labels: Vec<String> = (0..count).map(|number| format!(r#""{number}":"x""#)).collect();
        format!(r#""Labels":{{{}}}"#, labels.join(","))
    };
    let long: Vec<String> = (0..10).map(|number| format!(r#""{number}":"{}""#, "x".repeat(1000))).collect();
    for (json, reason) in [
        (String::new(), "EOF"),
        ("[[[[".repeat(100), "invalid type"),
        ("x".repeat(100_000), "more than 16384 bytes"),
        (r#"{"IPv4":{"Pool":"10.128.0.0/20"}}"#.to_owned(), "missing field `VNI`"),
        (r#"{"VNI":"5000","IPv4":{"Pool":"10.128.0.0/20"}}"#.to_owned(), "invalid type"),
        (r#"{"VNI":-1,"IPv4":{"Pool":"10.128.0.0/20"}}"#.to_owned(), "invalid value"),
        (r#"{"VNI":5000,"VNI":5001,"IPv4":{"Pool":"10.128.0.0/20"}}"#.to_owned(), "duplicate field"),
        (r#"{"VNI":5000}"#.to_owned(), "needs a pool"),
        (r#"{"VNI":5000,"IPv4":null,"IPv6":null}"#.to_owned(), "needs a pool"),
        (r#"{"VNI":5000,"IPv4":"10.128.0.0/20"}"#.to_owned(), "invalid type"),
    ] {
        let error = network(&json).expect_err(&json);
        assert!(error.contains(reason), "{json}: {error}");
    }
    for vni in [0u64, 1, 4095, 1 << 24, 1 << 32, u64::MAX] {
        let error = network(&format!(r#"{{"VNI":{vni},"IPv4":{{"Pool":"10.128.0.0/20"}}}}"#)).unwrap_err();
        assert!(error.contains("must be from 4096 to 16777215"), "{error}");
    }
    for (field, reason) in [
        (r#""MTU":67"#.to_owned(), "from 68 to 65535"),
        (r#""MTU":1279,"IPv6":{"Pool":"fd57::/64"}"#.to_owned(), "not /120"),
        (r#""MTU":1279,"IPv6":{"Pool":"fd57::/64","Block":123}"#.to_owned(), "from 1280 to 65535"),
        (r#""MTU":4294968576"#.to_owned(), "from 68 to 65535"),
        (r#""Internal":1"#.to_owned(), "invalid type"),
        (labels(65), "65 labels, more than 64"),
        (r#""Labels":{"":"x"}"#.to_owned(), "cannot be kept"),
        (r#""Labels":{"a\u001b[31m":"x"}"#.to_owned(), "cannot be kept"),
        (r#""Labels":{"a":"\n"}"#.to_owned(), "cannot be kept"),
        (format!(r#""Labels":{{"a":"{}"}}"#, "x".repeat(2049)), "cannot be kept"),
        (format!(r#""Labels":{{{}}}"#, long.join(",")), "10010 bytes together"),
        (r#""Labels":[]"#.to_owned(), "invalid type"),
        (r#""Created":"\u001b[31m""#.to_owned(), "no time"),
        (format!(r#""Created":"{}""#, "1".repeat(41)), "no time"),
    ] {
        let error = with(&field).expect_err(&field);
        assert!(error.contains(reason), "{field}: {error}");
        assert!(!error.contains(char::is_control), "{error}");
    }
}

#[test]
fn each_hostile_pool_is_refused_with_a_reason() {
    for (pool, block, reason) in [
        ("", "27", "no IPv4 prefix"),
        ("10.128.0.0", "27", "no IPv4 prefix"),
        ("fd57::/64", "120", "no IPv4 prefix"),
        ("10.128.0.1/20", "27", "holds host bits: the prefix is 10.128.0.0/20"),
        ("10.128.0.0/30", "32", "from /8 to /29"),
        ("10.128.0.0/32", "32", "from /8 to /29"),
        ("0.0.0.0/0", "27", "from /8 to /29"),
        ("127.0.0.0/20", "27", "loopback"),
        ("224.0.0.0/8", "27", "for multicast"),
        ("0.0.0.0/8", "27", "this host"),
        ("10.128.0.0/20", "20", "from /24 to /32"),
        ("10.128.0.0/20", "33", "from /24 to /32"),
        ("10.128.0.0/20", "256", "invalid value"),
        ("10.0.0.0/8", "8", "from /24 to /32"),
        ("10.128.0.0/28", "29", "from /30 to /32"),
    ] {
        let json = format!(r#"{{"VNI":5000,"IPv4":{{"Pool":"{pool}","Block":{block}}}}}"#);
        let error = network(&json).expect_err(&json);
        assert!(error.contains(reason), "{json}: {error}");
    }
    for (pool, block, reason) in [
        ("10.128.0.0/20", "27", "no IPv6 prefix"),
        ("fd57::1/64", "120", "host bits"),
        ("fd57::/126", "128", "from /32 to /125"),
        ("fe80::/64", "120", "link-local"),
        ("fd57::/64", "96", "from /120 to /128"),
    ] {
        let json = format!(r#"{{"VNI":5000,"IPv6":{{"Pool":"{pool}","Block":{block}}}}}"#);
        let error = network(&json).expect_err(&json);
        assert!(error.contains(reason), "{json}: {error}");
    }
    let error = with(r#""IPv6":{"Pool":"fd57::/100"}"#).unwrap_err();
    assert!(error.contains("must be /96 or shorter"), "{error}");
    let error = with(r#""IPv6":{"Pool":"fd57::/64","Block":120}"#).unwrap_err();
    assert!(error.contains("IPv6 blocks are /123"), "{error}");
}

#[test]
fn the_records_of_a_host_are_written_as_they_are_parsed() {
    let member = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"Port":8472,"Own":{"IPv4":"10.128.3.32"}}"#;
    assert_eq!(MemberRecord::from_value(member.as_bytes()).unwrap().to_value(), member.as_bytes());
    let v6 = r#"{"PublicIP":null,"PublicIPv6":"2001:db8::1","Port":8472}"#;
    assert_eq!(MemberRecord::from_value(v6.as_bytes()).unwrap().to_value(), v6.as_bytes());
    let block = format!(r#"{{"Host":"{HOST}"}}"#);
    assert_eq!(BlockRecord::from_value(block.as_bytes()).unwrap().to_value(), block.as_bytes());
    let address = format!(r#"{{"Host":"{HOST}","MAC":"02:57:0a:80:03:28"}}"#);
    assert_eq!(AddressRecord::from_value(address.as_bytes()).unwrap().to_value(), address.as_bytes());
}

#[test]
fn each_hostile_record_of_a_host_is_refused_with_a_reason() {
    for (json, reason) in [
        (r#"{"Port":8472}"#, "neither PublicIP nor PublicIPv6"),
        (r#"{"PublicIP":"192.0.2.1","Port":0}"#, "Port is 0"),
        (r#"{"PublicIP":"192.0.2.1","Port":65536}"#, "invalid value"),
        (r#"{"PublicIP":"192.0.2.1"}"#, "missing field `Port`"),
        (r#"{"PublicIP":"127.0.0.1","Port":8472}"#, "loopback"),
        (r#"{"PublicIP":"2001:db8::1","Port":8472}"#, "invalid IPv4 address"),
        (r#"{"PublicIPv6":"::","Port":8472}"#, "unspecified"),
        (r#"{"PublicIP":"192.0.2.1","Port":8472,"Own":{"IPv4":"fd57::1"}}"#, "invalid IPv4 address"),
    ] {
        let error = MemberRecord::from_value(json.as_bytes()).expect_err(json);
        assert!(error.contains(reason), "{json}: {error}");
    }
    for wrong in ["", "{}", r#"{"Host":"x"}"#, r#"{"Host":7}"#] {
        assert!(BlockRecord::from_value(wrong.as_bytes()).is_err(), "{wrong}");
    }
    for mac in ["ff:ff:ff:ff:ff:ff", "00:00:00:00:00:00", "01:00:5e:00:00:01", "02:57"] {
        let json = format!(r#"{{"Host":"{HOST}","MAC":"{mac}"}}"#);
        assert!(AddressRecord::from_value(json.as_bytes()).is_err(), "{mac}");
    }
    let long = format!(r#"{{"Host":"{HOST}","x":"{}"}}"#, "x".repeat(5000));
    assert!(BlockRecord::from_value(long.as_bytes()).unwrap_err().contains("more than 4096 bytes"));
}

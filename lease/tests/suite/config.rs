//! Every rule of the network config, and that each refusal names the field, the value and the rule.

use proptest::prelude::*;
use wire_lease::{BackendConfig, ConfigError, NetworkConfig, VxlanConfig};
use wire_net::Vni;

fn parse(json: &str) -> NetworkConfig {
    NetworkConfig::from_json(json.as_bytes()).unwrap_or_else(|error| panic!("{json}: {error}"))
}

fn v4(rest: &str) -> String {
    format!(r#"{{"Network":"10.5.0.0/16"{rest}}}"#)
}

#[test]
fn defaults_follow_the_size_of_the_network() {
    for (network, subnet_len, min, max) in [
        ("10.5.0.0/16", 24, "10.5.1.0", "10.5.255.0"),
        ("10.5.7.9/16", 24, "10.5.1.0", "10.5.255.0"),
        ("10.5.0.0/22", 24, "10.5.1.0", "10.5.3.0"),
        ("10.5.0.0/23", 25, "10.5.0.128", "10.5.1.128"),
        ("10.5.0.0/28", 30, "10.5.0.4", "10.5.0.12"),
        ("10.0.0.0/8", 24, "10.0.1.0", "10.255.255.0"),
    ] {
        let pool = parse(&format!(r#"{{"Network":"{network}"}}"#)).pools.v4.unwrap();
        let found = (pool.subnet_len, pool.min.network().to_string(), pool.max.network().to_string());
        assert_eq!(found, (subnet_len, min.to_owned(), max.to_owned()), "{network}");
    }
    for (network, subnet_len, min, max) in [
        ("fd00:5::/48", 64, "fd00:5:0:1::", "fd00:5:0:ffff::"),
        ("fd00:5::/62", 64, "fd00:5:0:1::", "fd00:5:0:3::"),
        ("fd00:5::/63", 65, "fd00:5:0:0:8000::", "fd00:5:0:1:8000::"),
        ("fd00:5::/124", 126, "fd00:5::4", "fd00:5::c"),
    ] {
        let json = format!(r#"{{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"{network}"}}"#);
        let config = parse(&json);
        let pool = config.pools.v6.unwrap();
        assert!(config.pools.v4.is_none());
        let found = (pool.subnet_len, pool.min.network().to_string(), pool.max.network().to_string());
        assert_eq!(found, (subnet_len, min.to_owned(), max.to_owned()), "{network}");
    }
}

#[test]
fn keys_of_any_letter_case_are_read_and_unknown_ones_named() {
    let json = r#"{"network":"10.5.0.0/16","SUBNETLEN":26,"subnetmin":"10.5.1.64","backEND":{"tYPE":"VxLan","vni":7},"Fruit":1,
        "enableNFTables":true}"#;
    let config = parse(json);
    let pool = config.pools.v4.unwrap();
    assert_eq!((pool.subnet_len, pool.min.to_string()), (26, "10.5.1.64/26".to_owned()));
    assert!(matches!(&config.backend, BackendConfig::Vxlan(vxlan) if vxlan.vni == Vni::new(7).unwrap()));
    assert!(config.nftables);
    assert_eq!(config.ignored, ["Fruit"]);
}

#[test]
fn backends_are_told_apart() {
    let backend = |json: &str| parse(&v4(&format!(",{json}"))).backend;
    assert_eq!(parse(&v4("")).backend, BackendConfig::Udp { port: 8285 }, "flannel takes an absent Backend as udp");
    assert_eq!(backend(r#""Backend":{"Type":"udp","Port":9000}"#), BackendConfig::Udp { port: 9000 });
    assert_eq!(backend(r#""Backend":{"Type":"Host-GW"}"#), BackendConfig::HostGw);
    assert_eq!(backend(r#""Backend":{"Type":"wireguard","PSK":"x"}"#), BackendConfig::Wireguard);
    assert_eq!(backend(r#""Backend":{"Type":"alloc"}"#), BackendConfig::Alloc);
    assert_eq!(backend(r#""Backend":{"Type":"ipip"}"#), BackendConfig::Ipip { direct_routing: false });
    let direct = r#""Backend":{"Type":"IPIP","directrouting":true}"#;
    assert_eq!(backend(direct), BackendConfig::Ipip { direct_routing: true });
    let defaults = VxlanConfig {
        vni: Vni::new(1).unwrap(),
        port: None,
        mtu: None,
        gbp: false,
        learning: false,
        direct_routing: false,
    };
    assert_eq!(backend(r#""Backend":{"Type":"vxlan"}"#), BackendConfig::Vxlan(defaults.clone()));
    assert_eq!(backend(r#""Backend":{"Type":"vxlan","Port":0,"MTU":0}"#), BackendConfig::Vxlan(defaults));
    let all = r#""Backend":{"Type":"vxlan","VNI":16777215,"Port":4789,"MTU":9000,"GBP":true,"Learning":true,"DirectRouting":true}"#;
    assert_eq!(
        backend(all),
        BackendConfig::Vxlan(VxlanConfig {
            vni: Vni::new(16_777_215).unwrap(),
            port: Some(4789),
            mtu: Some(9000),
            gbp: true,
            learning: true,
            direct_routing: true,
        })
    );
}

/// What is refused, and what the message must name: field, value, rule.
#[test]
fn every_refusal_names_the_field_the_value_and_the_rule() {
    let in_24 = |rest: &str| format!(r#"{{"Network":"10.5.1.0/24"{rest}}}"#);
    let v6 = |rest: &str| format!(r#"{{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/48"{rest}}}"#);
    let vxlan = |rest: &str| v4(&format!(r#","Backend":{{"Type":"vxlan"{rest}}}"#));
    let cases: Vec<(String, [&str; 3])> = vec![
        ("xx{".to_owned(), ["network config", "not JSON", "line 1"]),
        (String::new(), ["network config", "not JSON", "EOF"]),
        ("[]".to_owned(), ["network config", "no JSON object", ""]),
        ("null".to_owned(), ["network config", "no JSON object", ""]),
        ("{}".to_owned(), ["Network", "has no", "10.5.0.0/16"]),
        (r#"{"Network":""}"#.to_owned(), ["Network", "has no", "10.5.0.0/16"]),
        (r#"{"Network":10}"#.to_owned(), ["Network", "10", "text in quotes"]),
        (r#"{"Network":"10.5.0.0"}"#.to_owned(), ["Network", "10.5.0.0", "not a prefix"]),
        (r#"{"Network":"10.5.0.0/33"}"#.to_owned(), ["Network", "/33", "32 bits"]),
        (r#"{"Network":"fd00::/48"}"#.to_owned(), ["Network", "fd00::/48", "IPv4 prefix"]),
        (r#"{"Network":"10.5.0.0/29"}"#.to_owned(), ["Network", "10.5.0.0/29", "not be longer than /28"]),
        (r#"{"EnableIPv4":false}"#.to_owned(), ["EnableIPv4", "false", "no address is left"]),
        (v4(r#","EnableIPv4":1"#), ["EnableIPv4", "1", "true or false"]),
        (v4(r#","EnableIPv6":true"#), ["IPv6Network", "has no", "fd00:5::/48"]),
        (v4(r#","SubnetLen":8"#), ["SubnetLen", "8", "from 18 (four subnets) to 30"]),
        (v4(r#","SubnetLen":17"#), ["SubnetLen", "17", "from 18"]),
        (v4(r#","SubnetLen":31"#), ["SubnetLen", "31", "to 30"]),
        (v4(r#","SubnetLen":"24""#), ["SubnetLen", r#""24""#, "without quotes"]),
        (v4(r#","SubnetLen":-1"#), ["SubnetLen", "-1", "whole number"]),
        (in_24(r#","SubnetLen":25"#), ["SubnetLen", "25", "in 10.5.1.0/24 it must be from 26"]),
        (
            v4(r#","SubnetMin":"10.5.9.0","SubnetMax":"10.5.8.0""#),
            ["SubnetMin", "10.5.9.0", "above SubnetMax, 10.5.8.0"],
        ),
        (v4(r#","SubnetMin":"10.6.0.0""#), ["SubnetMin", "10.6.0.0", "lie in 10.5.0.0/16"]),
        (v4(r#","SubnetMin":"10.5.1.7""#), ["SubnetMin", "10.5.1.7", "here 10.5.1.0"]),
        (v4(r#","SubnetMin":"x""#), ["SubnetMin", "x", "must be an address"]),
        (v4(r#","SubnetMax":"fd00::""#), ["SubnetMax", "fd00::", "lie in 10.5.0.0/16"]),
        (v6(r#","IPv6SubnetLen":127"#), ["IPv6SubnetLen", "127", "to 126"]),
        (v6(r#","IPv6SubnetMin":"fd00:6::""#), ["IPv6SubnetMin", "fd00:6::", "lie in fd00:5::/48"]),
        (
            r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00::/125"}"#.to_owned(),
            ["IPv6Network", "fd00::/125", "/124"],
        ),
        (vxlan(r#","VNI":"1""#), ["Backend.VNI", r#""1""#, "0 to 16777215, without quotes"]),
        (vxlan(r#","VNI":16777216"#), ["Backend.VNI", "16777216", "0 to 16777215"]),
        (vxlan(r#","VNI":-1"#), ["Backend.VNI", "-1", "0 to 16777215"]),
        (vxlan(r#","VNI":1.5"#), ["Backend.VNI", "1.5", "whole number"]),
        (vxlan(r#","Port":65536"#), ["Backend.Port", "65536", "0 to 65535"]),
        (vxlan(r#","GBP":"yes""#), ["Backend.GBP", "yes", "true or false"]),
        (v4(r#","Backend":"vxlan""#), ["Backend", "vxlan", "must be an object"]),
        (v4(r#","Backend":{}"#), ["Backend.Type", "has no", r#"{"Type":"vxlan"}"#]),
        (v4(r#","Backend":{"Type":"carrier-pigeon"}"#), ["Backend.Type", "carrier-pigeon", "one of vxlan"]),
        (v4(r#","Backend":{"Type":"cloudflare-mesh"}"#), ["Backend.Type", "cloudflare-mesh", "one of vxlan"]),
    ];
    for (json, parts) in cases {
        let error = NetworkConfig::from_json(json.as_bytes()).expect_err(&json).to_string();
        for part in parts {
            assert!(error.contains(part), "{json}: {error:?} does not name {part:?}");
        }
    }
}

#[test]
fn networks_that_no_container_can_be_in_are_refused_and_all_others_are_not() {
    for (network, reserved) in [
        ("0.0.0.0/0", "0.0.0.0/8"),
        ("0.0.0.0/8", "0.0.0.0/8"),
        ("127.0.0.0/8", "127.0.0.0/8"),
        ("127.5.0.0/16", "127.0.0.0/8"),
        ("64.0.0.0/2", "127.0.0.0/8"),
        ("224.0.0.0/8", "224.0.0.0/4"),
        ("239.1.0.0/16", "224.0.0.0/4"),
        ("128.0.0.0/1", "224.0.0.0/4"),
    ] {
        let error = NetworkConfig::from_json(format!(r#"{{"Network":"{network}"}}"#).as_bytes()).unwrap_err();
        let named = format!("Network is \"{network}\" in the network config: {reserved} is ");
        assert!(error.to_string().starts_with(&named), "{error}");
    }
    for network in ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15", "240.0.0.0/8"] {
        parse(&format!(r#"{{"Network":"{network}"}}"#));
    }
    let v6 = |network: &str| format!(r#"{{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"{network}"}}"#);
    for (network, reserved) in [
        ("::/0", "::/127"),
        ("::/64", "::/127"),
        ("::1/120", "::/127"),
        ("::ffff:10.5.0.0/112", "::ffff:0.0.0.0/96"),
        ("fe80::/10", "fe80::/10"),
        ("fe80::/64", "fe80::/10"),
        ("ff00::/8", "ff00::/8"),
        ("f000::/4", "fe80::/10"),
    ] {
        let error = NetworkConfig::from_json(v6(network).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(&format!("{reserved} is ")), "{network}: {error}");
    }
    for network in ["fd00::/8", "2001:db8::/32", "64:ff9b::/96", "fec0::/10"] {
        parse(&v6(network));
    }
}

#[test]
fn what_flannel_cannot_tell_from_absent_is_absent() {
    let config = parse(&v4(r#","SubnetLen":0,"SubnetMin":"0.0.0.0","SubnetMax":"","EnableIPv6":null,"Backend":null"#));
    assert_eq!(config, parse(&v4("")));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _read: Result<NetworkConfig, ConfigError> = NetworkConfig::from_json(&bytes);
    }

    #[test]
    fn every_pool_is_sound(len in 1u8..=32, subnet_len in 0u8..=32, address in any::<u32>(), number in any::<u128>()) {
        let address = std::net::Ipv4Addr::from_bits(address);
        let json = format!(r#"{{"Network":"{address}/{len}","SubnetLen":{subnet_len}}}"#);
        if let Ok(config) = NetworkConfig::from_json(json.as_bytes()) {
            let pool = config.pools.v4.unwrap();
            let subnet = pool.nth(number % pool.size()).unwrap();
            prop_assert!(pool.offers(subnet) && pool.admits(subnet).is_ok());
            prop_assert_eq!(pool.nth(pool.size()), None);
            prop_assert_eq!(pool.nth(pool.size() - 1), Some(pool.max));
        }
    }
}

#[test]
fn what_containers_may_have_is_the_range_where_it_is_bounded_and_else_the_network() {
    let leased = |rest: &str| {
        let pool = parse(&v4(rest)).pools.v4.unwrap();
        let text: Vec<String> = pool.leased().iter().map(ToString::to_string).collect();
        text.join(" ")
    };
    assert_eq!(leased(""), "10.5.0.0/16");
    assert_eq!(leased(r#","SubnetMin":"10.5.1.0","SubnetMax":"10.5.255.0""#), "10.5.0.0/16", "flannel's own bounds");
    assert_eq!(leased(r#","SubnetMin":"10.5.8.0","SubnetMax":"10.5.15.0""#), "10.5.8.0/21");
    assert_eq!(leased(r#","SubnetMin":"10.5.7.0","SubnetMax":"10.5.10.0""#), "10.5.7.0/24 10.5.8.0/23 10.5.10.0/24");
    assert_eq!(leased(r#","SubnetMin":"10.5.254.0""#), "10.5.254.0/23");
    let pool = parse(&v4(r#","SubnetMin":"10.5.7.0","SubnetMax":"10.5.10.0""#)).pools.v4.unwrap();
    for (prefix, leases) in [
        ("10.5.7.0/32", true),
        ("10.5.10.255/32", true),
        ("10.5.6.255/32", false),
        ("10.5.11.0/32", false),
        ("10.5.0.0/18", true),
        ("10.5.0.0/22", false),
        ("10.0.0.0/8", false),
        ("fd00::/8", false),
    ] {
        assert_eq!(pool.leases(prefix.parse().unwrap()), leases, "{prefix}");
    }
    let whole = parse(r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"2000::/3","IPv6SubnetLen":126}"#);
    assert_eq!(whole.pools.v6.unwrap().leased().len(), 1);
}

#[test]
fn a_byte_order_mark_before_the_config_is_named() {
    let json = r#"{"Network":"10.5.0.0/16"}"#;
    let wide: Vec<u8> = "\u{feff}".encode_utf16().chain(json.encode_utf16()).flat_map(u16::to_le_bytes).collect();
    for (text, encoding) in [(format!("\u{feff}{json}").into_bytes(), "UTF-8"), (wide, "UTF-16")] {
        let error = NetworkConfig::from_json(&text).unwrap_err().to_string();
        assert!(error.contains(&format!("begins with a byte order mark ({encoding})")), "{error}");
    }
}

#[test]
fn flannels_other_backends_are_known_by_name_whatever_their_options() {
    for name in ["ipsec", "extension", "tencent-vpc", "ali-vpc", "aws-vpc", "gce"] {
        let options = r#""PSK":"x","DirectRouting":true,"AccessKeyID":"x","RouteTableID":"x","UDPEncap":true"#;
        let config = parse(&v4(&format!(r#","Backend":{{"Type":"{name}",{options}}}"#)));
        assert_eq!(config.backend, BackendConfig::Foreign(name.to_owned()));
    }
}

#[test]
fn options_of_vxlan_on_windows_change_nothing() {
    let config = parse(&v4(r#","Backend":{"Type":"vxlan","MacPrefix":"0E-2A","Name":"flannel.4096"}"#));
    assert_eq!(config, parse(&v4(r#","Backend":{"Type":"vxlan"}"#)));
}

//! Where the subnets of networks by name come from.

use wire_lease::{NetworkConfig, NetworkRange};
use wire_net::{DualStack, KeyPrefix};

fn ranges(networks: &str) -> Result<DualStack<NetworkRange>, String> {
    let json = format!(r#"{{"Network":"10.5.0.0/16"{networks}}}"#);
    NetworkRange::of_config(json.as_bytes(), &KeyPrefix::new("/n")).map_err(|error| error.to_string())
}

fn shown(ranges: DualStack<NetworkRange>) -> Vec<String> {
    ranges.iter().map(|(_, range)| format!("{} /{}", range.range, range.len)).collect()
}

#[test]
fn without_a_word_in_the_config_there_are_ranges_that_neither_docker_nor_homes_use() {
    let usual = shown(ranges("").unwrap());
    assert_eq!(usual[0], "10.128.0.0/9 /20");
    assert!(usual[1].starts_with("fd57:") && usual[1].ends_with("::/48 /64"), "{usual:?}");
    let other = NetworkRange::of_config(br#"{"Network":"10.5.0.0/16"}"#, &KeyPrefix::new("/m")).unwrap();
    assert_ne!(shown(other)[1], usual[1], "other prefixes have other ranges");
}

#[test]
fn the_config_sets_ranges_and_is_refused_by_field() {
    let set = r#","Networks":{"IPv4Pool":"10.64.0.0/12","IPv4Len":24,"IPv6Pool":"fd00:7::/48","IPv6Len":96}"#;
    assert_eq!(shown(ranges(set).unwrap()), ["10.64.0.0/12 /24", "fd00:7::/48 /96"]);
    assert_eq!(shown(ranges(r#","networks":{"ipv4pool":"10.64.0.0/24"}"#).unwrap())[0], "10.64.0.0/24 /24");
    for (wrong, reason) in [
        (r#","Networks":7"#, "Networks is 7 in the network config: it must be an object"),
        (r#","Networks":{"IPv4Pool":"fd00::/48"}"#, "Networks.IPv4Pool is \"fd00::/48\""),
        (r#","Networks":{"IPv4Pool":"224.0.0.0/8"}"#, "for multicast"),
        (
            r#","Networks":{"IPv4Len":30}"#,
            "Networks.IPv4Len is 30 in the network config: it must be a whole number from 9 to 29",
        ),
        (r#","Networks":{"IPv6Len":20}"#, "from 48 to 125"),
    ] {
        let error = ranges(wrong).expect_err(wrong);
        assert!(error.contains(reason), "{wrong}: {error}");
    }
    let config = NetworkConfig::from_json(br#"{"Network":"10.5.0.0/16","Networks":{}}"#).unwrap();
    assert!(config.ignored.is_empty());
}

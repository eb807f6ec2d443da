//! A network with a name is kept apart from all others of the host.

use super::*;

/// The rules of the chain `apart`, without their marks.
fn apart(policy: &FirewallPolicy, devices: &DualStack<OverlayDevice>) -> Vec<String> {
    apart_from(&[], policy, devices)
}

/// The same beside other networks.
fn apart_from(others: &[&str], policy: &FirewallPolicy, devices: &DualStack<OverlayDevice>) -> Vec<String> {
    let peers = all_of(&[2, 3], false).into_iter();
    let others = others.iter().map(|range| range.parse().unwrap()).collect();
    let wanted = policy.desired(peer(1, false).subnet, &peers, devices, &HostFacts { others, ..HostFacts::default() });
    let table = wanted.table.as_ref().unwrap();
    let rules = table.chains.get("apart").map(|chain| chain.rules.as_slice()).unwrap_or_default();
    rules.iter().map(|rule| rule.text.split(" comment ").next().unwrap_or_default().to_owned()).collect()
}

fn devices() -> DualStack<OverlayDevice> {
    OverlayDevice::of(&devices_over(false, None))
}

fn blue() -> FirewallPolicy {
    FirewallPolicy { network: "blue".parse().unwrap(), ..policy(false) }
}

/// With the devices of all networks.
const BY_ADDRESS: [&str; 2] = [
    r#"iifname "flannel*" ip daddr 10.5.0.0/16 ip saddr != 10.5.0.0/16 drop"#,
    r#"oifname "flannel*" ip saddr 10.5.0.0/16 ip daddr != 10.5.0.0/16 drop"#,
];

#[test]
fn the_default_network_has_no_such_rules() {
    assert!(apart(&policy(false), &devices()).is_empty());
}

#[test]
fn neither_device_of_a_network_with_a_name_carries_what_is_not_of_it() {
    let second = OverlayDevice { link: name("flannel.7"), ..devices().v4.unwrap() };
    let policy = FirewallPolicy { beside: DualStack { v4: Some(second), v6: None }, ..blue() };
    let rules = apart(&policy, &devices());
    for device in ["flannel.1", "flannel.7"] {
        assert!(rules.contains(&format!(r#"iifname "{device}" ip daddr != 10.5.0.0/16 drop"#)), "{rules:?}");
        assert!(rules.contains(&format!(r#"oifname "{device}" ip saddr != 10.5.0.0/16 drop"#)), "{rules:?}");
    }
    assert_eq!(rules[4..], BY_ADDRESS);
}

#[test]
fn two_networks_without_devices_are_told_apart_by_their_addresses() {
    let direct = FirewallPolicy { direct: Some(name("eth0")), ..blue() };
    let rules = apart_from(&["10.6.0.0/16", "fd00:6::/48"], &direct, &DualStack::default());
    assert_eq!(rules[..2], BY_ADDRESS);
    assert_eq!(
        rules[2..],
        ["ip saddr 10.6.0.0/16 ip daddr 10.5.0.0/16 drop", "ip saddr 10.5.0.0/16 ip daddr 10.6.0.0/16 drop"]
    );
    // Of a range that is claimed although it is in this network, nothing would arrive here any more.
    assert_eq!(apart_from(&["10.5.128.0/17"], &direct, &DualStack::default()), BY_ADDRESS);
    // The default network has no rules that depend on others.
    assert!(apart_from(&["10.6.0.0/16"], &policy(false), &devices()).is_empty());
}

#[test]
fn a_network_without_a_device_is_kept_from_the_devices_of_others() {
    let policy = FirewallPolicy { direct: Some(name("eth0")), ..blue() };
    assert_eq!(apart(&policy, &DualStack::default()), BY_ADDRESS);
}

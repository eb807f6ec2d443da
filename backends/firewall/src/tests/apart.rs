//! A network with a name is kept apart from all others of the host.

use super::*;

/// The rules of the chain `apart`, without their marks.
fn apart(policy: &FirewallPolicy, devices: &DualStack<OverlayDevice>) -> Vec<String> {
    let peers = all_of(&[2, 3], false).into_iter();
    let wanted = policy.desired(peer(1, false).subnet, &peers, devices, &HostFacts::default());
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
fn a_network_without_a_device_is_kept_from_the_devices_of_others() {
    let policy = FirewallPolicy { direct: Some(name("eth0")), ..blue() };
    assert_eq!(apart(&policy, &DualStack::default()), BY_ADDRESS);
}

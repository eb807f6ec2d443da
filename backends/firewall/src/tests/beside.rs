//! The rules while a former backend is spoken beside the new one: those for each device, and sources of peers by either.

use super::*;

/// The devices of a second vxlan network of another VNI, and what a backend with both wants.
fn both() -> (DualStack<OverlayDevice>, DualStack<OverlayDevice>) {
    let mut net = devices_over(true, Some("eth0"));
    for (old, new) in [("flannel.1", "flannel.7"), ("flannel-v6.1", "flannel-v6.7")] {
        let mut link = net.links[&name(old)].clone();
        let DesiredKind::Kernel(KernelKind::Vxlan(vxlan)) = &mut link.kind else { panic!("{link:?}") };
        vxlan.vni = Vni::new(7).unwrap();
        net.links.insert(name(new), link);
    }
    (OverlayDevice::of(&net), OverlayDevice::beside(&net))
}

#[test]
fn each_family_has_two_devices_in_the_order_of_their_names() {
    let (first, second) = both();
    let names = |devices: DualStack<OverlayDevice>| devices.map(|_, device| device.link.to_string());
    assert_eq!(names(first), DualStack { v4: Some("flannel.1".to_owned()), v6: Some("flannel-v6.1".to_owned()) });
    assert_eq!(names(second), DualStack { v4: Some("flannel.7".to_owned()), v6: Some("flannel-v6.7".to_owned()) });
    assert_eq!(OverlayDevice::beside(&devices_over(true, None)), DualStack::default());
}

/// A rule of the first device, as that of the second one.
fn renamed(text: &str) -> String {
    let pairs = [
        ("flannel.1", "flannel.7"),
        ("flannel-v6.1", "flannel-v6.7"),
        ("0x0800000000000100", "0x0800000000000700"),
        ("jump decapsulated", "jump decapsulated-beside"),
    ];
    pairs.iter().fold(text.to_owned(), |text, (first, second)| text.replace(first, second))
}

#[test]
fn what_comes_by_the_second_device_is_judged_as_what_comes_by_the_first() {
    let (first, second) = both();
    let policy = FirewallPolicy { beside: second, ..policy(true) };
    let peers = all_of(&[2, 3], true).into_iter();
    let facts = HostFacts { docker: DockerRules::Marked, ..HostFacts::default() };
    let with = policy.desired(peer(1, true).subnet, &peers, &first, &facts);
    let table = with.table.as_ref().unwrap();
    for chain in ["arriving", "decapsulated", "encapsulated-out"] {
        let rules = |name: &str| table.chains[name].rules.iter().map(|rule| rule.text.clone()).collect::<Vec<_>>();
        let expected: Vec<String> = rules(chain).iter().map(|rule| renamed(rule)).collect();
        assert_eq!(rules(&format!("{chain}-beside")), expected, "{chain}");
    }
    let text = scripts(&with);
    // A source of a peer is taken by either device, wherever its route leads.
    assert!(text.contains("fib saddr . iif oif 0 ip saddr & 255.255.255.0 != @direct-v4-24"), "{text}");
    // Nothing comes without encapsulation.
    assert!(!text.contains("iifname \"eth0\" ip saddr"), "{text}");
    for device in ["flannel.1", "flannel.7"] {
        assert!(text.contains(&format!("-i {device} -j ACCEPT")), "{text}");
    }
}

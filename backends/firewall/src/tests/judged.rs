//! The rules by which encapsulated packets are judged.

use super::*;

/// The texts of one chain's rules.
fn rules_of(chain: &str, devices: &DesiredNet, nftables: Nftables) -> Vec<String> {
    let facts = HostFacts { support: Support { nftables, ..Support::default() }, ..HostFacts::default() };
    let devices = OverlayDevice::of(devices);
    let firewall = policy(true).desired(peer(1, true).subnet, &all_of(&[2], true).into_iter(), &devices, &facts);
    let chain = firewall.table.unwrap().chains.remove(chain).unwrap();
    chain.rules.into_iter().map(|rule| rule.text).collect()
}

#[test]
fn no_inner_source_is_looked_at_but_behind_the_inner_ether_type_of_its_family() {
    let rules = |devices: &DesiredNet, nftables| rules_of("arriving", devices, nftables);
    let starts = |rules: &[String], start: &str| rules.iter().any(|rule| rule.starts_with(start));
    let whole = rules(&devices(true), Nftables::Whole);
    assert!(starts(&whole, "@th,224,16 0x0800 ip saddr . @th,336,32 @leases-v4 "), "{whole:#?}");
    assert!(starts(&whole, "@th,224,16 0x86dd ip6 saddr . @th,304,128 @leases-v6 "), "{whole:#?}");
    assert!(starts(&whole, "@th,224,16 0x0800 ip saddr . @th,336,24 @subnets-v4-24 "), "{whole:#?}");
    assert!(starts(&whole, "@th,224,16 0x86dd ip6 saddr . @th,304,64 @subnets-v6-64 "), "{whole:#?}");
    let over_eth0 = rules(&devices_over(true, Some("eth0")), Nftables::Whole);
    let over_a_bridge = wanted_over(
        &policy(true),
        &[2],
        &HostFacts { bridges: [name("br0")].into(), ..HostFacts::default() },
        Some("br0"),
    );
    let over_a_bridge = &over_a_bridge.table.unwrap().chains["arriving"].rules;
    assert!(over_a_bridge.iter().all(|rule| !rule.text.contains("iifname \"br0\"")), "{over_a_bridge:#?}");
    for (rules, link) in [(&whole, "iifname != @bridges"), (&over_eth0, "iifname \"eth0\"")] {
        // First of all, behind what is no packet to the port, or has not the header of VNI 1 and nothing else.
        let port = rules.iter().position(|rule| rule == "udp dport != 8472 accept").unwrap();
        assert_eq!(rules[port + 1], "@th,64,64 != 0x0800000000000100 accept");
        let [first, second] = [&rules[port + 2], &rules[port + 3]];
        let v4 = format!("{link} ip daddr 192.0.2.1 @th,224,16 0x0800 ip saddr . @th,336,24 @subnets-v4-24 ");
        let v6 = format!("{link} ip6 daddr 2001:db8::1 @th,224,16 0x86dd ip6 saddr . @th,304,64 @subnets-v6-64 ");
        assert!(first.starts_with(&v4) && second.starts_with(&v6), "{rules:#?}");
    }
    // Even if inner sources are not compared, packets with VLAN tags that would hide them are not let in.
    let simple = rules(&devices(true), Nftables::Simple);
    assert!(starts(&simple, "@th,224,16 0x0800 ip saddr @peers-v4 "), "{simple:#?}");
    for rules in [whole, simple] {
        for (ip, family) in [("ip", "v4"), ("ip6", "v6")] {
            assert!(rules.contains(&format!("{ip} saddr @peers-{family} counter name \"spoofed\" drop")), "{rules:#?}");
        }
    }
    // flannel's udp has no inner Ethernet.
    let local = "192.0.2.1:8285".parse().unwrap();
    let tunnel = wire_state::Tunnel {
        framing: wire_state::Framing::Raw,
        local,
        own: None,
        source_check: true,
        queues: 1,
        capabilities: wire_state::Capabilities::without([]).unwrap(),
    };
    let link = DesiredLink::new(DesiredKind::Tunnel(tunnel), Mtu(1472));
    let raw = DesiredNet { links: [(name("flannel0"), link)].into(), ..DesiredNet::default() };
    // It has no header either, by which other packets are recognized before connection tracking.
    let judged = rules_of("encapsulated-in", &raw, Nftables::Whole);
    // Of those to our port alone, and not by what the kernel's VXLAN was let in with: the packet inside has that too.
    assert_eq!(judged[1..3], ["udp dport != 8285 accept", "meta priority 7769:1 accept"], "{judged:#?}");
    assert!(starts(&judged, "ip saddr . @th,160,32 @leases-v4 "), "{judged:#?}");
    let usual =
        "iifname != @bridges ip daddr 192.0.2.1 ip saddr . @th,160,24 @subnets-v4-24 counter meta priority set 7769:1 ";
    let arriving = rules(&raw, Nftables::Whole);
    assert!(arriving.last().is_some_and(|rule| rule.starts_with(usual)), "{arriving:#?}");
}

#[test]
fn what_comes_in_is_tracked_only_in_the_family_in_which_somebody_needs_that() {
    let of = |tracked: &[Family]| {
        let tracked = tracked.iter().map(|family| (*family, TrackingReason::Unreadable)).collect();
        let facts = HostFacts { tracked, ..HostFacts::default() };
        let firewall = wanted_around(&policy(true), &[2], &facts);
        let rules = &firewall.table.unwrap().chains["arriving"].rules;
        ["v4", "v6"].map(|family| {
            let usual = |rule: &&Rule| rule.text.contains("daddr") && rule.text.contains(&format!("@subnets-{family}"));
            rules.iter().find(usual).unwrap().text.ends_with(" notrack accept")
        })
    };
    assert_eq!(of(&[]), [true, true]);
    assert_eq!(of(&[Family::V4]), [false, true]);
    assert_eq!(of(&[Family::V6]), [true, false]);
}

#[test]
fn a_lease_of_another_length_or_at_an_address_of_containers_is_none_that_one_hash_finds() {
    let at = |subnet: &str, public: &str| Peer {
        subnet: Subnet::new(DualStack { v4: Some(subnet.parse().unwrap()), v6: None }).unwrap(),
        public: DualStack { v4: Some(public.parse().unwrap()), v6: None },
    };
    let peers = [peer(2, false), at("10.5.3.0/25", "192.0.2.3"), at("10.5.4.0/24", "10.5.9.9")];
    let sets = |subnet_len| {
        let mut policy = policy(false);
        policy.pools.v4.as_mut().unwrap().subnet_len = subnet_len;
        let devices = OverlayDevice::of(&devices(false));
        let firewall = policy.desired(peer(1, false).subnet, &peers.into_iter(), &devices, &HostFacts::default());
        firewall.table.unwrap().sets
    };
    let pair = |public: &str, subnet: &str| (public.parse().unwrap(), subnet.parse().unwrap());
    let ranges = [pair("192.0.2.3", "10.5.3.0/25"), pair("10.5.9.9", "10.5.4.0/24")];
    let (public, subnet) = pair("192.0.2.2", "10.5.2.0/24");
    let usual = sets(24);
    assert_eq!(usual["subnets-v4-24"].elements, [Element::Subnet(public, subnet)].into_iter().collect());
    let ranges = ranges.map(|(public, subnet)| Element::Lease(public, subnet));
    assert_eq!(usual["leases-v4"].elements, ranges.into_iter().collect());
    // Half a byte is compared by no set of whole keys.
    let none = sets(20);
    assert_eq!((none.keys().any(|name| name.starts_with("subnets")), none["leases-v4"].elements.len()), (false, 3));
}

#[test]
fn what_others_let_in_is_counted_where_they_are_doubted() {
    let counts = |doubted: &[Family]| {
        let facts = HostFacts { doubted: doubted.iter().copied().collect(), ..HostFacts::default() };
        let firewall = wanted_around(&policy(true), &[2], &facts);
        let table = &firewall.table.unwrap();
        let chain = table.chains.get("encapsulated-delivered").map_or(0, |chain| chain.rules.len());
        (chain, ["v4", "v6"].map(|family| table.counters.contains(&format!("delivered-{family}"))))
    };
    assert_eq!(counts(&[]), (0, [false, false]));
    assert_eq!(counts(&[Family::V6]), (5, [false, true]));
    assert_eq!(counts(&Family::ALL), (6, [true, true]));
}

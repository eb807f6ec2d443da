//! What comes out of a VXLAN device where its sender was judged before it was decapsulated: only what neighbour discovery tells is left.

use std::sync::Arc;

use wire_net::{DualStack, NetworkName};

use super::*;
use crate::{HostFacts, Nftables, SegmentFilter, SegmentMember, SegmentShare, Support};

/// The rules for a network of which the other host has 10.128.0.64/27, and 10.128.9.9 with a MAC of its own.
fn desired() -> DesiredFirewall {
    desired_with(8472, Support::default())
}

fn desired_with(udp_port: u16, support: Support) -> DesiredFirewall {
    let kind = DesiredKind::Kernel(KernelKind::Vxlan(DesiredVxlan::new(Vni::new(5000).unwrap())));
    let link = DesiredLink { master: Some(name("wb.5000")), ..DesiredLink::new(kind, Mtu(1450)) };
    let net = DesiredNet { links: [(name("wv.5000"), link)].into_iter().collect(), ..DesiredNet::default() };
    let port = |last: u8| ContainerPort {
        link: name(&format!("wp{last}")),
        mac: mac(last),
        addresses: addresses(last).into(),
    };
    let member = SegmentMember {
        public: [192, 0, 2, 2].into(),
        blocks: vec!["10.128.0.64/27".parse().unwrap(), "fd57:5000::a80:40/123".parse().unwrap()],
        addresses: vec![([10, 128, 9, 9].into(), single()), ("fd57:5000::909".parse().unwrap(), single())],
    };
    let share = SegmentShare {
        bridge: name("wb.5000"),
        vni: Vni::new(5000).unwrap(),
        pools: DualStack { v4: "10.128.0.0/20".parse().ok(), v6: "fd57:5000::/64".parse().ok() },
        internal: false,
        local: [192, 0, 2, 1].into(),
        underlay: name("lo"),
        port: udp_port,
        blocks: Vec::new(),
        members: [("other".to_owned(), Arc::new(member))].into_iter().collect(),
        singles: [IpAddr::from([10, 128, 9, 9])].into_iter().collect(),
        net,
        ports: vec![port(33), port(34)],
    };
    let (network, share): (NetworkName, _) = ("blue".parse().unwrap(), Arc::new(share));
    let mut filter = SegmentFilter::default();
    filter.update([(&network, &share)].into_iter(), &HostFacts { support, ..HostFacts::default() });
    DesiredFirewall { chains: [].into(), ..DesiredFirewall::clone(filter.firewall()) }
}

fn single() -> MacAddr {
    MacAddr::new([2, 0, 0, 0, 0, 9])
}

/// An advertisement behind an extension header (hop by hop, RFC 8200 §4.3).
fn behind_options(from: MacAddr, source: IpAddr, about: IpAddr) -> Vec<u8> {
    let mut frame = icmpv6(from, source, 136, about);
    frame[14 + 5] += 8;
    frame[14 + 6] = 0;
    frame.splice(14 + 40..14 + 40, [58, 0, 1, 4, 0, 0, 0, 0]);
    frame
}

#[test]
fn what_a_member_advertises_is_its_own_whatever_stands_before_it_and_it_is_no_router() {
    in_namespace(|| {
        let bridge = Bridge::new();
        let mut first = reconciler();
        let report = first.round(&desired());
        assert!(report.converged, "{report:?}");
        let mut again = reconciler();
        assert_eq!(again.round(&desired()).written, 0);
        let address = |text: &str| -> IpAddr { text.parse().unwrap() };
        let (own, local) = (address("fd57:5000::a80:40"), address("fe80::57:aff:fe80:40"));
        let (lone, lone_local) = (address("fd57:5000::909"), address("fe80::ff:fe00:9"));
        let [_, others] = addresses(34);
        for (what, frame) in [
            ("IPv4", ipv4(mac(64), [10, 128, 0, 64].into())),
            ("ARP", arp(mac(64), mac(64), [10, 128, 0, 64].into())),
            ("IPv6", icmpv6(mac(64), own, 128, own)),
            ("a solicitation", icmpv6(mac(64), local, 135, others)),
            ("an advertisement", icmpv6(mac(64), own, 136, own)),
            ("one behind options", behind_options(mac(64), own, own)),
            ("one of a link-local address", icmpv6(mac(64), local, 136, local)),
            ("one of a single address", icmpv6(single(), lone, 136, lone)),
            ("one of its link-local address", icmpv6(single(), lone_local, 136, lone_local)),
        ] {
            bridge.assert_arrives(what, &frame);
        }
        assert_eq!(forged(), 0);
        for (what, frame) in [
            ("a container's address", icmpv6(mac(64), own, 136, others)),
            ("one behind options", behind_options(mac(64), own, others)),
            ("a single address, from a block", icmpv6(mac(64), own, 136, lone)),
            ("an address of a block, from a single one", icmpv6(single(), lone, 136, own)),
            ("the gateway's address", icmpv6(mac(64), own, 136, address("fd57:5000::1"))),
            ("another block's link-local address", icmpv6(mac(64), local, 136, address("fe80::57:aff:fe80:60"))),
            ("a router", icmpv6(mac(64), local, 134, own)),
            ("a redirection", icmpv6(mac(64), local, 137, own)),
        ] {
            bridge.assert_dropped(what, &frame);
        }
        // Containers send on.
        for address in addresses(34) {
            assert!(bridge.reaches(0, address), "{address}");
        }
        run("ip link set wv.5000 name wv.5001");
        bridge.assert_dropped("a device that is not known", &ipv4(mac(64), [10, 128, 0, 64].into()));
    });
}

/// A stranger, for whom an operator leads another UDP port to that of VXLAN.
fn redirected_stranger() -> OwnedFd {
    let stranger = new_namespace();
    let peer = format!("/proc/{}/fd/{}", std::process::id(), stranger.as_raw_fd());
    run(&format!("ip link add out type veth peer name eth0 netns {peer}; ip link set out up"));
    run("ip addr add 203.0.113.1/24 dev out; nft add table ip operator");
    run("nft 'add chain ip operator in { type nat hook prerouting priority dstnat; }'");
    run("nft add rule ip operator in udp dport 7777 redirect to :8472");
    run_in(&stranger, "ip link set eth0 up; ip addr add 203.0.113.2/24 dev eth0");
    stranger
}

#[test]
fn what_somebody_brings_to_the_device_past_the_rules_reaches_nobody() {
    in_namespace(|| {
        let (bridge, stranger) = (Bridge::new(), redirected_stranger());
        let (v4, v6): (IpAddr, IpAddr) = ([10, 128, 0, 64].into(), "fd57:5000::a80:40".parse().unwrap());
        let packet = |frame: &[u8]| [&[8, 0, 0, 0, 0, 0x13, 0x88, 0], frame].concat();
        let bring = |frame: &[u8]| send_from(&stranger, "203.0.113.1:7777", &packet(frame));
        let frames = [
            ("IPv4", ipv4(mac(64), v4)),
            ("ARP", arp(mac(64), mac(64), v4)),
            ("IPv6", icmpv6(mac(64), v6, 128, v6)),
            ("an advertisement", icmpv6(mac(64), v6, 136, v6)),
        ];
        let before = bridge.arrived();
        wait_until("without rules", || {
            bring(&frames[0].1);
            bridge.arrived() > before
        });
        let report = reconciler().round(&desired());
        assert!(report.converged, "{report:?}");
        for (what, frame) in &frames {
            bridge.assert_arrives(what, frame);
            let (arrived, dropped) = (bridge.arrived(), forged());
            bring(frame);
            wait_until(what, || forged() > dropped);
            assert_eq!((bridge.arrived(), forged()), (arrived, dropped + 1), "{what}");
        }
    });
}

#[test]
fn while_no_rule_judges_packets_their_frames_reach_nobody() {
    in_namespace(|| {
        let bridge = Bridge::new();
        let whole = desired();
        let frame = ipv4(mac(64), [10, 128, 0, 64].into());
        assert!(reconciler().round(&whole).converged);
        bridge.assert_arrives("all rules", &frame);
        run("nft delete table inet wire-agent");
        bridge.assert_dropped("a table that somebody has deleted", &frame);
        let simple = desired_with(8472, Support { nftables: Nftables::Simple, ..Support::default() });
        let mixed = |one: &DesiredFirewall, other: &DesiredFirewall| DesiredFirewall {
            bridge: other.bridge.clone(),
            ..one.clone()
        };
        // One of both tables could not be put when nftables was asked again, or the port was changed.
        assert!(reconciler().round(&mixed(&simple, &whole)).converged);
        bridge.assert_dropped("rules that compare no inner source", &frame);
        assert!(reconciler().round(&mixed(&whole, &simple)).converged);
        bridge.assert_dropped("no sender at the device", &frame);
        assert!(reconciler().round(&desired_with(4789, Support::default())).converged);
        bridge.assert_dropped("rules for another port", &frame);
        assert!(reconciler().round(&whole).converged);
        bridge.assert_arrives("all rules again", &frame);
    });
}

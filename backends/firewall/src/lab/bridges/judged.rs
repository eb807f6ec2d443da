//! What comes out of a VXLAN device where its sender was judged before it was decapsulated: only what neighbour discovery tells is left.

use std::sync::Arc;

use wire_net::{DualStack, NetworkName};

use super::*;
use crate::{HostFacts, SegmentFilter, SegmentMember, SegmentShare};

/// The rules for a network of which the other host has 10.128.0.64/27, and 10.128.9.9 with a MAC of its own.
fn desired() -> DesiredFirewall {
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
        port: 8472,
        blocks: Vec::new(),
        members: [("other".to_owned(), Arc::new(member))].into_iter().collect(),
        net,
        ports: vec![port(33), port(34)],
    };
    let (network, share): (NetworkName, _) = ("blue".parse().unwrap(), Arc::new(share));
    let mut filter = SegmentFilter::default();
    filter.update([(&network, &share)].into_iter(), &HostFacts::default());
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
        // The same rules are at the ports of containers as before.
        for address in addresses(34) {
            assert!(bridge.reaches(0, address), "{address}");
        }
        run("ip link set wv.5000 name wv.5001");
        bridge.assert_dropped("a device that is not known", &ipv4(mac(64), [10, 128, 0, 64].into()));
    });
}

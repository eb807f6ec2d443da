//! Packets that go by IPIP.

use super::*;
use crate::{DesiredKind, DesiredLink, Encapsulated, Ipip, KernelKind};

/// A host with the subnet 10.5.1.0/24, and the peer 192.0.2.7 with 10.5.7.0/24 behind it.
fn net() -> ObservedNet {
    let link = name("flannel.ipip");
    let ipip = Ipip { parent: None, local: Some([192, 0, 2, 1].into()) };
    let mut want = DesiredNet::default();
    want.links.insert(link, DesiredLink::new(DesiredKind::Kernel(KernelKind::Ipip(ipip)), Mtu(1480)));
    let hop = NextHop::Gateway { gateway: ip("192.0.2.7"), link, onlink: true };
    want.routes.insert(RouteKey::main(prefix("10.5.7.0/24")), hop);
    found(&want)
}

/// The outer packet of a peer, with these contents.
fn outer(to: &str) -> Packet {
    let inner = Encapsulated { header: None, packet: Packet::new(ip("10.5.7.9"), ip("10.5.1.2")) };
    Packet { inner: Some(Box::new(inner)), ..Packet::new(ip("192.0.2.7"), ip(to)) }
}

#[test]
fn a_packet_to_a_peer_goes_to_the_gateway_of_its_route() {
    let way = from_container(&net(), &underlay(), ip("10.5.7.9"));
    let mut lines: Vec<String> = way.hops.iter().map(Hop::to_string).collect();
    lines.push(way.outcome.to_string());
    insta::assert_snapshot!(lines.join("\n"), @"
    comes in by docker0
    route 10.5.7.0/24 via 192.0.2.7 dev flannel.ipip onlink
    outer packet from 192.0.2.1 to 192.0.2.7, IPIP
    route 192.0.2.0/24 dev eth0
    sent to 192.0.2.7 by eth0, whose MAC is asked for
    ");
}

#[test]
fn a_packet_of_a_peer_is_taken_out_by_the_device_with_its_address_and_delivered() {
    let (net, host) = (net(), underlay());
    let fate = |net: &ObservedNet, packet: &Packet| {
        let state = HostState { net, surroundings: &host, firewall: None };
        trace(&state, packet, Entry::Link(name("eth0"))).outcome
    };
    let delivered = Outcome::Delivered(super::super::Delivery::OnLink(docker(), ip("10.5.1.2")));
    assert_eq!(fate(&net, &outer("192.0.2.1")), delivered);
    let no_device = Outcome::Dropped(Reason::NoDevice { port: None, vni: None });
    assert_eq!(fate(&net, &outer("10.5.1.1")), no_device, "the device has another address");
    let mut down = net.clone();
    down.links.get_mut(&name("flannel.ipip")).unwrap().up = false;
    assert_eq!(fate(&down, &outer("192.0.2.1")), no_device);
}

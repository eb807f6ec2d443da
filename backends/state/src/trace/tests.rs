//! Properties of traces, over networks in memory.

mod faults;
mod ipip;
mod lookup;
mod receiving;

use std::net::IpAddr;

use proptest::prelude::*;
use wire_net::{LinkName, MacAddr, Mtu, Prefix};

use super::{Entry, Gap, Hop, HostRoute, HostState, Outcome, Packet, Reason, Sending, Surroundings, Trace, trace};
use crate::{
    DesiredNet, NextHop, ObservedKind, ObservedLink, ObservedNet, Owner, RouteKey, Setting,
    samples::{held, name, state, tunnelled},
};

/// A peer: the third byte of its subnet, the last byte of its MAC, and the last byte of its public address.
type Peer = (u8, u8, u8);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

/// Peers that have nothing in common.
fn any_peers() -> impl Strategy<Value = Vec<Peer>> {
    prop::collection::btree_set(2u8..250, 1..20)
        .prop_map(|numbers| numbers.into_iter().map(|number| (number, number, number)).collect())
}

fn hardware(index: u32) -> ObservedLink {
    let kind = ObservedKind::Other(String::new());
    let mac = Some(MacAddr::new([2, 0x64, 0, 0, 0, 1]));
    ObservedLink {
        kind,
        mac,
        mtu: Mtu(1500),
        up: true,
        master: None,
        port: None,
        is_marked: false,
        owner: Owner::Foreign,
        index,
    }
}

/// The host 192.0.2.1, whose subnet is 10.5.1.0/24 on docker0.
fn underlay() -> Surroundings {
    let mut host = Surroundings::default();
    for (link, index, route) in [("eth0", 2, "192.0.2.0/24"), ("docker0", 3, "10.5.1.0/24")] {
        host.links.insert(name(link), hardware(index));
        host.routes.insert(RouteKey::main(prefix(route)), HostRoute::Via(NextHop::Link(name(link))));
    }
    host.addresses.extend([(ip("192.0.2.1"), name("eth0")), (ip("10.5.1.1"), name("docker0"))]);
    host
}

/// What the kernel holds of a desired network, on a host that forwards.
fn found(want: &DesiredNet) -> ObservedNet {
    let mut net = held(want);
    net.settings.insert(Setting::Forwarding(wire_net::Family::V4), 1);
    net
}

/// The trace of a packet from a container.
fn from_container(net: &ObservedNet, host: &Surroundings, to: IpAddr) -> Trace {
    let state = HostState { net, surroundings: host, firewall: None };
    trace(&state, &Packet::new(ip("10.5.1.2"), to), Entry::Link(docker()))
}

fn docker() -> LinkName {
    name("docker0")
}

fn sent_to(trace: &Trace) -> Option<IpAddr> {
    match &trace.outcome {
        Outcome::Sent(Sending { packet, .. }) => Some(packet.destination),
        Outcome::Delivered(_) | Outcome::Dropped(_) | Outcome::Unknown(_) => None,
    }
}

fn public((_, _, public): Peer) -> IpAddr {
    IpAddr::from([192, 0, 2, public])
}

proptest! {
    #[test]
    fn each_address_of_a_peers_subnet_leads_to_that_peer(
        peers in any_peers(),
        last in any::<u8>(),
        in_agent in any::<bool>(),
    ) {
        let want = state(&peers);
        let net = found(&if in_agent { tunnelled(want) } else { want });
        let host = underlay();
        for peer in peers {
            let way = from_container(&net, &host, IpAddr::from([10, 5, peer.0, last]));
            prop_assert_eq!(sent_to(&way), Some(public(peer)), "{:?}", way);
        }
    }

    #[test]
    fn an_address_of_no_peer_is_dropped_for_want_of_a_route(peers in any_peers(), last in any::<u8>()) {
        let net = found(&state(&peers));
        let destination = IpAddr::from([10, 6, 0, last]);
        let way = from_container(&net, &underlay(), destination);
        prop_assert_eq!(way.outcome, Outcome::Dropped(Reason::NoRoute(destination)));
    }
}

#[test]
fn a_trace_reads_as_sentences() {
    let net = found(&state(&[(7, 7, 7)]));
    let way = from_container(&net, &underlay(), ip("10.5.7.9"));
    let mut lines: Vec<String> = way.hops.iter().map(Hop::to_string).collect();
    lines.push(way.outcome.to_string());
    insta::assert_snapshot!(lines.join("\n"), @"
    comes in by docker0
    route 10.5.7.0/24 via 10.5.7.0 dev flannel.1 onlink
    neighbour 10.5.7.0 on flannel.1 has MAC 02:00:00:00:00:07
    FDB entry of 02:00:00:00:00:07 on flannel.1 leads to host 192.0.2.7
    outer packet from 192.0.2.1 to 192.0.2.7, UDP port 8472, VNI 1, inner destination MAC 02:00:00:00:00:07
    route 192.0.2.0/24 dev eth0
    sent to 192.0.2.7 by eth0, whose MAC is asked for
    ");
}

#[test]
fn a_packet_for_this_host_is_delivered_here() {
    let net = found(&state(&[]));
    let way = from_container(&net, &underlay(), ip("192.0.2.1"));
    assert_eq!(way.outcome, Outcome::Delivered(super::Delivery::Here(ip("192.0.2.1"))));
}

#[test]
fn a_packet_for_a_container_is_delivered_on_its_link() {
    let net = found(&state(&[]));
    let host = underlay();
    let state = HostState { net: &net, surroundings: &host, firewall: None };
    let way = trace(&state, &Packet::new(ip("10.5.1.1"), ip("10.5.1.2")), Entry::Here);
    assert_eq!(way.outcome, Outcome::Delivered(super::Delivery::OnLink(docker(), ip("10.5.1.2"))));
}

#[test]
fn what_was_not_looked_at_is_named() {
    let net = found(&state(&[(7, 7, 7)]));
    let way = from_container(&net, &underlay(), ip("10.5.7.9"));
    assert_eq!(way.not_looked_at, ["the packet filter of this host"]);
}

#[test]
fn a_neighbour_that_the_device_asks_for_is_not_known() {
    let mut net = found(&state(&[(7, 7, 7)]));
    net.neighbours.clear();
    let link = name("flannel.1");
    let by = crate::FloodPath::default();
    net.flooding.insert(crate::FloodEntry { link, mac: MacAddr::new([0; 6]), to: ip("192.0.2.7"), by });
    let way = from_container(&net, &underlay(), ip("10.5.7.9"));
    let key = crate::NeighbourKey { link, address: ip("10.5.7.0") };
    assert_eq!(way.outcome, Outcome::Unknown(Gap::Asked(key)));
}

//! A trace judges packets as our policy means it, by the table that the kernel would hold.

use std::net::IpAddr;

use wire_net::{MacAddr, Prefix};
use wire_state::{
    Delivery, Encapsulated, Entry, HostRoute, HostState, NextHop, ObservedKind, ObservedLink, ObservedNet, Outcome,
    Owner, Packet, Purpose, Reason, RouteKey, Setting, Surroundings, VxlanHeader, trace,
};

use super::*;

/// Two families of addresses of the same host or container.
struct Sender {
    public: [&'static str; 2],
    inner: [&'static str; 2],
}

const PEER: Sender = Sender { public: ["192.0.2.2", "2001:db8::2"], inner: ["10.5.2.9", "fd00:5:0:2::9"] };
const FORGER: Sender = Sender { public: PEER.public, inner: ["10.5.3.9", "fd00:5:0:3::9"] };
const STRANGER: Sender = Sender { public: ["192.0.2.77", "2001:db8::77"], inner: PEER.inner };

fn of<T: std::str::FromStr<Err: std::fmt::Debug>>(both: [&str; 2], family: Family) -> T {
    let [v4, v6] = both;
    let text = match family {
        Family::V4 => v4,
        Family::V6 => v6,
    };
    text.parse().unwrap()
}

/// The fate of an encapsulated packet on the host 192.0.2.1, whose only peer is 192.0.2.2.
fn fate(policy: &FirewallPolicy, facts: &HostFacts, family: Family, sender: &Sender) -> Outcome {
    let desired = devices(true);
    let overlay = OverlayDevice::of(&desired);
    let wanted = policy.desired(peer(1, true).subnet, &all_of(&[2], true).into_iter(), &overlay, facts);
    let table = wanted.table.as_ref().map(ObservedTable::from);
    let firewall = ObservedFirewall { table, ..ObservedFirewall::default() };
    let mut net: ObservedNet = wire_state::samples::held(&desired);
    let inner_mac = MacAddr::new([2, 0, 0, 0, 0, 1]);
    for link in net.links.values_mut() {
        (link.mac, link.owner) = (Some(inner_mac), Owner::Ours);
    }
    let device = overlay.get(family).unwrap().link;
    let mut around = Surroundings::default();
    for (index, link) in [(2, "eth0"), (3, "docker0")] {
        let kind = ObservedKind::Other(String::new());
        let (mac, mtu, owner) = (None, Mtu(1500), Owner::Foreign);
        let made = ObservedLink { kind, mac, mtu, up: true, master: None, port: None, is_marked: false, owner, index };
        around.links.insert(name(link), made);
    }
    let routes: [(Prefix, LinkName); 3] = [
        (of(["10.5.1.0/24", "fd00:5:0:1::/64"], family), name("docker0")),
        (of(["10.5.2.0/24", "fd00:5:0:2::/64"], family), device),
        (of(["0.0.0.0/0", "::/0"], family), name("eth0")),
    ];
    around.routes.extend(routes.map(|(to, link)| (RouteKey::main(to), HostRoute::Via(NextHop::Link(link)))));
    let local: IpAddr = of(["192.0.2.1", "2001:db8::1"], family);
    around.addresses.insert(local, name("eth0"));
    net.settings.extend(Family::ALL.map(|family| (Setting::Forwarding(family), 1)));
    let inner = Packet::new(of(sender.inner, family), of(["10.5.1.9", "fd00:5:0:1::9"], family));
    let header = Some(VxlanHeader { vni: Vni::new(1).unwrap(), source: None, destination: inner_mac });
    let inner = Some(Box::new(Encapsulated { header, packet: inner }));
    let outer = Packet { udp_port: Some(8472), inner, ..Packet::new(of(sender.public, family), local) };
    let host = HostState { net: &net, surroundings: &around, firewall: Some(&firewall) };
    trace(&host, &outer, Entry::Link(name("eth0"))).outcome
}

fn dropped_by(purpose: Purpose) -> Outcome {
    dropped_in("arriving", purpose)
}

fn dropped_in(chain: &'static str, purpose: Purpose) -> Outcome {
    Outcome::Dropped(Reason::Rule { chain, purpose })
}

fn is_delivered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Delivered(Delivery::OnLink(..)))
}

/// What this host can hold: all of our table, or one that does not compare inner sources.
fn facts() -> [HostFacts; 2] {
    [Nftables::Whole, Nftables::Simple].map(|nftables| {
        let support = Support { nftables, ..Support::default() };
        HostFacts { support, ..HostFacts::default() }
    })
}

#[test]
fn a_packet_of_a_peer_is_delivered() {
    for (facts, family) in facts().iter().flat_map(|facts| Family::ALL.map(|family| (facts, family))) {
        let fate = fate(&policy(true), facts, family, &PEER);
        assert!(is_delivered(&fate), "{fate} ({family})");
    }
}

#[test]
fn a_packet_of_a_host_without_a_lease_is_dropped_by_the_rule_about_strangers() {
    for (facts, family) in facts().iter().flat_map(|facts| Family::ALL.map(|family| (facts, family))) {
        assert_eq!(fate(&policy(true), facts, family, &STRANGER), dropped_by(Purpose::Strangers(family)));
    }
}

#[test]
fn a_packet_of_a_peer_with_a_source_of_another_lease_is_dropped() {
    let [whole, _] = facts();
    for family in Family::ALL {
        assert_eq!(fate(&policy(true), &whole, family, &FORGER), dropped_by(Purpose::OtherLeases(family)));
    }
}

#[test]
fn where_inner_sources_are_not_compared_the_way_back_is() {
    let [_, simple] = facts();
    for family in Family::ALL {
        let fate = fate(&policy(true), &simple, family, &FORGER);
        assert_eq!(fate, dropped_in("decapsulated", Purpose::SourcesOutsideLeases(family)));
    }
}

#[test]
fn where_anyone_may_send_a_stranger_is_let_in() {
    let [whole, _] = facts();
    let open = FirewallPolicy { senders: Senders::Anyone, ..policy(true) };
    for family in Family::ALL {
        let fate = fate(&open, &whole, family, &STRANGER);
        assert!(is_delivered(&fate), "{fate} ({family})");
    }
}

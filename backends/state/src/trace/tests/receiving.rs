//! Two hosts: what one sends is taken by the other, or dropped there by the rule that is named.

use std::collections::BTreeMap;

use wire_net::Family;

use super::*;
use crate::{
    Attachment, ChainPolicy, Element, Hook, ObservedBaseChain, ObservedFirewall, ObservedRule, ObservedTable, Purpose,
    Rule, Set, SetKind,
    samples::mac,
    trace::{Journey, trace_across},
};

/// A host of the site.
struct Member {
    net: ObservedNet,
    around: Surroundings,
    firewall: ObservedFirewall,
}

/// Host number `own` of a network of two. Its table has the rules of our policy.
fn member(own: u8, other: u8) -> Member {
    let mut net = found(&state(&[(other, other, other)]));
    let device = net.links.get_mut(&name("flannel.1")).unwrap();
    (device.mac, device.owner) = (Some(mac(own)), Owner::Ours);
    if let ObservedKind::Vxlan(vxlan) = &mut device.kind {
        vxlan.local = Some(public((own, own, own)));
    }
    net.addresses = [crate::Address { link: name("flannel.1"), address: [10, 5, own, 0].into(), len: 32 }].into();
    let mut around = Surroundings::default();
    let subnet = format!("10.5.{own}.0/24");
    for (link, index, route) in [("eth0", 2, "192.0.2.0/24"), ("docker0", 3, subnet.as_str())] {
        let mac = Some(MacAddr::new([2, 0x64, 0, 0, u8::try_from(index).unwrap(), own]));
        around.links.insert(name(link), ObservedLink { mac, ..hardware(index) });
        around.routes.insert(RouteKey::main(prefix(route)), HostRoute::Via(NextHop::Link(name(link))));
    }
    around.addresses.extend([(public((own, own, own)), name("eth0")), (IpAddr::from([10, 5, own, 1]), docker())]);
    Member { net, around, firewall: firewall(other) }
}

fn firewall(peer: u8) -> ObservedFirewall {
    let purposes = [
        Purpose::LetInByNoRule(Family::V4),
        Purpose::SourcesOutsideLeases(Family::V4),
        Purpose::NotEncapsulated,
        Purpose::Usual(Family::V4),
        Purpose::Containers,
        Purpose::Peers(Family::V4),
        Purpose::OtherLeases(Family::V4),
        Purpose::Strangers(Family::V4),
    ];
    let rules = purposes.map(|purpose| ObservedRule::Marked(Rule::new(purpose.words(), String::new()).mark)).into();
    let attachment = Some(Attachment::filter(Hook::Prerouting, -310));
    let chain = ObservedBaseChain { attachment, policy: ChainPolicy::Accept, rules };
    let address = public((peer, peer, peer));
    let subnet = Element::Subnet(address, prefix(&format!("10.5.{peer}.0/24")));
    let set = |kind, element| Set { kind, elements: [element].as_slice().into() };
    let sets = BTreeMap::from([
        ("bridges".to_owned(), set(SetKind::Links, Element::Link(docker()))),
        ("peers-v4".to_owned(), set(SetKind::Addresses(Family::V4), Element::Address(address))),
        ("subnets-v4-24".to_owned(), set(SetKind::Subnets(Family::V4, 24), subnet)),
        ("leases-v4".to_owned(), Set { kind: SetKind::Leases(Family::V4), elements: imbl::OrdSet::new() }),
    ]);
    let chains = BTreeMap::from([("arriving".to_owned(), chain)]);
    ObservedFirewall { table: Some(ObservedTable { chains, sets, ..ObservedTable::default() }), ..Default::default() }
}

/// A packet from a container of the first host to one of the second, after a fault on the second.
fn journey(fault: impl FnOnce(&mut Member)) -> Journey<usize> {
    journey_of("10.5.1.2", fault)
}

fn journey_of(source: &str, fault: impl FnOnce(&mut Member)) -> Journey<usize> {
    let mut members = [member(1, 2), member(2, 1)];
    fault(&mut members[1]);
    let site: Vec<HostState<'_>> = members
        .iter()
        .map(|member| HostState { net: &member.net, surroundings: &member.around, firewall: Some(&member.firewall) })
        .collect();
    trace_across(site.as_slice(), &0, &Packet::new(ip(source), ip("10.5.2.2")), Entry::Link(docker()))
}

fn end(journey: &Journey<usize>) -> String {
    let (host, outcome) = journey.end().unwrap();
    format!("{host}: {outcome}")
}

fn table(member: &mut Member) -> &mut ObservedTable {
    member.firewall.table.as_mut().unwrap()
}

#[test]
fn a_packet_between_two_hosts_arrives() {
    assert_eq!(end(&journey(|_| ())), "1: delivered to 10.5.2.2 on docker0");
}

#[test]
fn without_the_sender_in_the_sets_it_is_dropped_as_a_strangers() {
    let journey = journey(|host| table(host).sets.values_mut().for_each(|set| set.elements.clear()));
    assert_eq!(end(&journey), "1: dropped: rule 'strangers v4' in chain arriving of table inet wire-agent drops it");
}

#[test]
fn with_an_inner_source_of_another_lease_it_is_dropped() {
    let journey = journey_of("10.5.9.9", |_| ());
    assert_eq!(
        end(&journey),
        "1: dropped: rule 'sources of other leases v4' in chain arriving of table inet wire-agent drops it"
    );
}

#[test]
fn without_a_rule_that_lets_it_in_it_is_dropped_inside() {
    let journey = journey(|host| {
        let chain = table(host).chains.get_mut("arriving").unwrap();
        chain.rules.retain(|rule| matches!(Purpose::of(rule), Some(Purpose::LetInByNoRule(_))));
    });
    assert_eq!(
        end(&journey),
        "1: dropped: rule 'let in by no rule v4' in chain arriving of table inet wire-agent drops it"
    );
}

#[test]
fn a_dormant_table_drops_nothing() {
    let journey = journey(|host| {
        table(host).flags = 1;
        table(host).sets.clear();
    });
    assert!(journey.arrives());
}

#[test]
fn a_device_with_another_mac_takes_no_frame() {
    let journey = journey(|host| host.net.links.get_mut(&name("flannel.1")).unwrap().mac = Some(mac(99)));
    assert_eq!(end(&journey), "1: dropped: the frame is for 02:00:00:00:00:02, which is not the MAC of flannel.1");
}

#[test]
fn a_device_with_another_vni_takes_no_packet() {
    let journey = journey(|host| {
        let ObservedKind::Vxlan(vxlan) = &mut host.net.links.get_mut(&name("flannel.1")).unwrap().kind else {
            panic!()
        };
        vxlan.vni = wire_net::Vni::new(7).unwrap();
    });
    assert_eq!(end(&journey), "1: dropped: no device takes packets to UDP port 8472 with VNI 1");
}

#[test]
fn a_host_without_a_route_to_its_containers_drops_it() {
    let journey = journey(|host| _ = host.around.routes.remove(&RouteKey::main(prefix("10.5.2.0/24"))));
    assert_eq!(end(&journey), "1: dropped: no route to 10.5.2.2");
}

#[test]
fn nobody_takes_a_packet_to_a_host_that_is_gone() {
    let journey = journey(|host| host.around.addresses.clear());
    assert_eq!(end(&journey), "0: dropped: no host has the address 192.0.2.2");
}

#[test]
fn a_container_that_encapsulates_itself_is_stopped_on_its_own_host() {
    let member = member(1, 2);
    let state = HostState { net: &member.net, surroundings: &member.around, firewall: Some(&member.firewall) };
    let packet = Packet { udp_port: Some(8472), ..Packet::new(ip("10.5.1.2"), ip("192.0.2.1")) };
    let way = trace(&state, &packet, Entry::Link(docker()));
    assert_eq!(way.outcome, Outcome::Dropped(Reason::Rule { chain: "arriving", purpose: Purpose::Containers }));
}

#[test]
fn a_policy_that_drops_spares_what_is_not_encapsulated() {
    let journey = journey(|host| table(host).chains.get_mut("arriving").unwrap().policy = ChainPolicy::Drop);
    assert!(journey.arrives());
}

/// The fate on host 1 of a packet that comes to it by eth0 without encapsulation.
fn direct(source: &str, is_known: bool) -> Trace {
    let mut host = member(1, 2);
    let purposes = [Purpose::DirectOwn(Family::V4), Purpose::DirectOutsideLeases(Family::V4)];
    let chain = table(&mut host).chains.get_mut("arriving").unwrap();
    chain.rules = purposes.map(|purpose| ObservedRule::Marked(Rule::new(purpose.words(), String::new()).mark)).into();
    let elements = [Element::Source(prefix("10.5.2.0/24"))].as_slice().into();
    table(&mut host).sets.insert("direct-v4-24".to_owned(), Set { kind: SetKind::Sources(Family::V4, 24), elements });
    let (own, leased) = (prefix("10.5.1.0/24"), [ip("10.5.1.0"), ip("10.5.15.255")]);
    let known = crate::DirectNetwork { link: name("eth0"), own, leased };
    host.around.direct = is_known.then_some(known).into_iter().collect();
    let state = HostState { net: &host.net, surroundings: &host.around, firewall: Some(&host.firewall) };
    trace(&state, &Packet::new(ip(source), ip("10.5.1.2")), Entry::Link(name("eth0")))
}

#[test]
fn a_direct_packet_is_judged_by_its_source() {
    let fate = |source| direct(source, true).outcome.to_string();
    // A peer's, and a host's beside the range that is leased.
    for source in ["10.5.2.9", "10.5.200.1", "192.0.2.9"] {
        assert_eq!(fate(source), "delivered to 10.5.1.2 on docker0", "{source}");
    }
    let dropped = |rule: &str| format!("dropped: rule '{rule}' in chain arriving of table inet wire-agent drops it");
    assert_eq!(fate("10.5.3.9"), dropped("direct sources outside leases v4"));
    assert_eq!(fate("10.5.1.9"), dropped("own sources from outside v4"));
    assert_eq!(direct("10.5.2.9", true).not_looked_at, Vec::<String>::new());
    let unknown = direct("10.5.3.9", false);
    let said = "the sources of packets without encapsulation, since this host's subnet is not known";
    assert_eq!(unknown.not_looked_at, [said]);
}

//! The way of packets in networks by name, as `trace` follows it over hosts that hold what is desired of them.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use wire_backends::{ForwardSettings, NetFromSegment, Segment, SegmentAgent, SegmentHost, SegmentHosts, SegmentOuter};
use wire_firewall::{ContainerPort, HostFacts, SegmentFilter};
use wire_net::{DualStack, Family, LinkName, MacAddr, Mtu, NetworkName, Prefix, Vni};
use wire_state::{
    BridgeFdbKey, Entry, FdbKey, HostRoute, HostState, LinkId, Namespace, NeighbourKey, NextHop, ObservedFirewall,
    ObservedKind, ObservedLink, ObservedNet, ObservedTable, Owner, Packet, PortFlags, RouteKey, Setting, Surroundings,
    samples, trace, trace_across,
};

use super::{Members, share};

/// The numbers of two networks, of which the second is internal.
const NETWORKS: [u16; 2] = [5000, 5001];

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn pools(network: u16) -> DualStack<Prefix> {
    let v4 = format!("10.{}.0.0/20", network - 4900).parse().ok();
    DualStack { v4, v6: format!("fd57:{network}::/64").parse().ok() }
}

/// The address with this number of a host, in a network.
fn address(network: u16, host: u8, number: u8, family: Family) -> IpAddr {
    let (block, low) = (network - 4900, host * 32 + number);
    match family {
        Family::V4 => IpAddr::from([10, u8::try_from(block).unwrap(), 0, low]),
        Family::V6 => format!("fd57:{network}::{:x}:{low:x}", 0x0a00 + block).parse().unwrap(),
    }
}

fn public(host: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, host])
}

/// A container of each host: its fifth address.
fn container(network: u16, host: u8, family: Family) -> IpAddr {
    address(network, host, 5, family)
}

fn port(network: u16, host: u8) -> LinkName {
    name(&format!("wp{network:06x}{host:02x}"))
}

fn member(network: u16, host: u8) -> SegmentHost {
    let block = |family, len| Prefix::new(address(network, host, 0, family), len).unwrap();
    let blocks = [block(Family::V4, 27), block(Family::V6, 123)].into();
    let public = DualStack { v4: Some(public(host)), v6: None };
    SegmentHost { public, port: 8472, blocks, addresses: BTreeMap::new() }
}

fn segment(network: u16, host: u8, broadcast: bool) -> Segment {
    Segment {
        vni: Vni::new(network.into()).unwrap(),
        pools: pools(network),
        broadcast,
        internal: network == NETWORKS[1],
        mtu: None,
        own: DualStack {
            v4: Some(address(network, host, 0, Family::V4)),
            v6: Some(address(network, host, 0, Family::V6)),
        },
        mac: MacAddr::new([2, 0, 0, 0, 5, host]),
        outer: SegmentOuter {
            parent: LinkId { namespace: Namespace::Host, index: 2, name: name("eth0") },
            local: public(host),
            port: 8472,
            mtu: Mtu(1500),
            agent: None,
        },
    }
}

/// A host that holds what is desired of it.
struct Host {
    net: ObservedNet,
    around: Surroundings,
    firewall: ObservedFirewall,
}

impl Host {
    /// Host 1 or 2, with a container in each of these networks.
    fn new(host: u8, networks: &[u16], broadcast: bool) -> Self {
        Self::of(host, networks, |network| segment(network, host, broadcast))
    }

    fn of(host: u8, networks: &[u16], segment: impl Fn(u16) -> Segment) -> Self {
        let (mut net, mut shares) = (ObservedNet::default(), BTreeMap::new());
        for network in networks.iter().copied() {
            let (segment, hosts) = (segment(network), hosts(network, host));
            let computed = NetFromSegment::new(&segment, &hosts);
            let (held, at_port) = (samples::held(computed.net()), container_port(network, host));
            let overlay = &held.links[&Segment::overlay(segment.vni)];
            let port = ObservedLink { kind: ObservedKind::Other("veth".to_owned()), ..overlay.clone() };
            net.links.insert(at_port.link, ObservedLink { port: Some(PortFlags::NEW_PORT), ..port });
            net.links.extend(held.links);
            net.settings.extend(held.settings);
            net.addresses.extend(held.addresses);
            net.neighbours.extend(held.neighbours);
            net.fdb.extend(held.fdb);
            net.forwarding.extend(held.forwarding);
            net.bridge_fdb.extend(held.bridge_fdb);
            net.flooding.extend(held.flooding);
            let share = share(&segment, &computed, (&mut Members::default(), &hosts), &[at_port]);
            shares.insert(format!("n{network}").parse::<NetworkName>().unwrap(), Arc::new(share));
        }
        let mut filter = SegmentFilter::default();
        filter.update(shares.iter(), &HostFacts::default());
        let (table, bridge) = (filter.firewall().table.as_ref(), filter.firewall().bridge.as_ref());
        let (table, bridge) = (table.map(ObservedTable::from), bridge.map(ObservedTable::from));
        let around = surroundings(host, &net);
        Self { net, around, firewall: ObservedFirewall { table, bridge, ..ObservedFirewall::default() } }
    }

    fn state(&self) -> HostState<'_> {
        HostState { net: &self.net, surroundings: &self.around, firewall: Some(&self.firewall) }
    }
}

/// The hosts of a network, as one of them sees them.
fn hosts(network: u16, host: u8) -> SegmentHosts {
    let other = 3 - host;
    let others = [(other.to_string(), Arc::new(member(network, other)))].into_iter().collect();
    SegmentHosts { own: Arc::new(member(network, host)), others }
}

fn container_port(network: u16, host: u8) -> ContainerPort {
    let addresses = Family::ALL.map(|family| container(network, host, family));
    ContainerPort { link: port(network, host), mac: Segment::mac_of(addresses[0]), addresses: addresses.into() }
}

/// The underlay with a router, and the routes to the networks of all addresses.
fn surroundings(host: u8, net: &ObservedNet) -> Surroundings {
    let mut around = Surroundings::default();
    let kind = ObservedKind::Other(String::new());
    let (mac, mtu, owner) = (Some(MacAddr::new([2, 0x64, 0, 0, 0, host])), Mtu(1500), Owner::Foreign);
    let card = ObservedLink { kind, mac, mtu, up: true, master: None, port: None, is_marked: false, owner, index: 2 };
    around.links.insert(name("eth0"), card);
    let own = [public(host), format!("fd00::{host}").parse().unwrap()];
    around.addresses.extend(own.map(|own| (own, name("eth0"))));
    for everywhere in ["0.0.0.0/0", "::/0"] {
        let hop = HostRoute::Via(NextHop::Link(name("eth0")));
        around.routes.insert(RouteKey::main(everywhere.parse().unwrap()), hop);
    }
    for own in &net.addresses {
        let hop = HostRoute::Via(NextHop::Link(own.link));
        around.routes.insert(RouteKey::main(Prefix::new(own.address, own.len).unwrap()), hop);
    }
    around
}

/// Two hosts, after a fault on the first one.
fn two(broadcast: bool, fault: impl FnOnce(&mut Host)) -> [Host; 2] {
    let mut hosts = [1, 2].map(|host| Host::new(host, &NETWORKS, broadcast));
    fault(&mut hosts[0]);
    hosts
}

/// The steps of a packet of the first host, with the number of the host before each.
fn way(hosts: &[Host; 2], source: IpAddr, to: IpAddr) -> Vec<String> {
    let site: Vec<HostState<'_>> = hosts.iter().map(Host::state).collect();
    let entry = site[0].entry_of(source, to).unwrap();
    let journey = trace_across(site.as_slice(), &0, &Packet::new(source, to), entry);
    let lines = journey.legs.iter().flat_map(|leg| {
        assert_eq!(leg.trace.not_looked_at.iter().filter(|what| !what.starts_with("the routes of")).count(), 0);
        let hops = leg.trace.hops.iter().map(ToString::to_string);
        hops.chain([leg.trace.outcome.to_string()]).map(|line| format!("{}: {line}", leg.host + 1)).collect::<Vec<_>>()
    });
    lines.collect()
}

fn end(hosts: &[Host; 2], source: IpAddr, to: IpAddr) -> String {
    way(hosts, source, to).pop().unwrap()
}

#[test]
fn the_way_from_a_container_to_one_on_another_host_reads_as_sentences() {
    let [from, to] = [1, 2].map(|host| container(5000, host, Family::V4));
    let expected = [
        "1: comes in by wp00138801",
        "1: neighbour 10.100.0.69 on wb.5000 has MAC 02:57:0a:64:00:45",
        "1: rule 'senders v4' of table bridge wire-agent lets it pass",
        "1: FDB entry of 02:57:0a:64:00:45 on bridge wb.5000 leads to wv.5000",
        "1: FDB entry of 02:57:0a:64:00:45 on wv.5000 leads to host 192.0.2.2",
        "1: outer packet from 192.0.2.1 to 192.0.2.2, UDP port 8472, VNI 5000, inner destination MAC 02:57:0a:64:00:45",
        "1: route 0.0.0.0/0 dev eth0",
        "1: sent to 192.0.2.2 by eth0, whose MAC is asked for",
        "2: comes in by eth0",
        "2: rule 'inside v4' of table inet wire-agent lets it pass",
        "2: wv.5000 takes out the inner packet from 10.100.0.37 to 10.100.0.69",
        "2: rule 'judged before' of table bridge wire-agent lets it pass",
        "2: the container with MAC 02:57:0a:64:00:45 is behind wp00138802",
        "2: delivered to 10.100.0.69 behind wp00138802",
    ];
    assert_eq!(way(&two(true, |_| ()), from, to), expected);
}

#[test]
fn the_way_of_packets_that_agents_move_leads_by_the_entries_of_their_tunnels() {
    let by_agent = |network, host| {
        let segment = segment(network, host, true);
        let agent = Some(SegmentAgent { port: 8472, settings: ForwardSettings::default() });
        Segment { outer: SegmentOuter { agent, ..segment.outer }, ..segment }
    };
    let mut hosts = [1, 2].map(|host| Host::of(host, &NETWORKS, |network| by_agent(network, host)));
    let [from, to] = [1, 2].map(|host| container(5000, host, Family::V4));
    let mut expected = way(&two(true, |_| ()), from, to);
    expected[4] = "1: tunnel wv.5000 has 10.100.0.69/32 to 192.0.2.2".to_owned();
    assert_eq!(way(&hosts, from, to), expected);
    hosts[1].net.forwarding.clear();
    assert!(end(&hosts, from, to).ends_with("10.100.0.37 is not in a subnet of host 192.0.2.1"));
}

#[test]
fn the_way_in_ipv6_from_the_host_and_on_one_host_reads_as_sentences() {
    let hosts = two(true, |_| ());
    let (own, there) = (address(5000, 1, 0, Family::V6), container(5000, 2, Family::V6));
    let expected = [
        "1: route fd57:5000::/64 dev wb.5000",
        "1: neighbour fd57:5000::a64:45 on wb.5000 has MAC 02:57:0a:64:00:45",
        "1: FDB entry of 02:57:0a:64:00:45 on bridge wb.5000 leads to wv.5000",
        "1: FDB entry of 02:57:0a:64:00:45 on wv.5000 leads to host 192.0.2.2",
        "1: outer packet from 192.0.2.1 to 192.0.2.2, UDP port 8472, VNI 5000, inner destination MAC 02:57:0a:64:00:45",
        "1: route 0.0.0.0/0 dev eth0",
        "1: sent to 192.0.2.2 by eth0, whose MAC is asked for",
        "2: comes in by eth0",
        "2: rule 'inside v6' of table inet wire-agent lets it pass",
        "2: wv.5000 takes out the inner packet from fd57:5000::a64:20 to fd57:5000::a64:45",
        "2: rule 'judged before' of table bridge wire-agent lets it pass",
        "2: the container with MAC 02:57:0a:64:00:45 is behind wp00138802",
        "2: delivered to fd57:5000::a64:45 behind wp00138802",
    ];
    assert_eq!(way(&hosts, own, there), expected);
    let here = container(5000, 1, Family::V6);
    let expected = [
        "1: route fd57:5000::/64 dev wb.5000",
        "1: fd57:5000::a64:25 is behind wp00138801 and has MAC 02:57:0a:64:00:25",
        "1: the container with MAC 02:57:0a:64:00:25 is behind wp00138801",
        "1: delivered to fd57:5000::a64:25 behind wp00138801",
    ];
    assert_eq!(way(&hosts, own, here), expected);
}

#[test]
fn containers_reach_their_gateway_the_host_and_the_outside() {
    let hosts = two(true, |_| ());
    for family in Family::ALL {
        let from = container(5000, 1, family);
        let gateway = pools(5000).get(family).unwrap().gateway();
        for own in [gateway, address(5000, 1, 0, family)] {
            assert_eq!(end(&hosts, from, own), format!("1: delivered: {own} is an address of this host"));
        }
        let far = address(5000, 2, 0, family);
        assert_eq!(end(&hosts, from, far), format!("2: delivered: {far} is an address of this host"));
    }
    let outside = [198, 51, 100, 7].into();
    let expected = [
        "1: comes in by wp00138801",
        "1: rule 'senders v4' of table bridge wire-agent lets it pass",
        "1: comes in by wb.5000",
        "1: route 0.0.0.0/0 dev eth0",
        "1: masqueraded: it gets the source 192.0.2.1",
        "1: delivered to 198.51.100.7 on eth0",
    ];
    assert_eq!(way(&hosts, container(5000, 1, Family::V4), outside), expected);
}

#[test]
fn nothing_leads_from_one_network_to_another_or_out_of_an_internal_one() {
    let hosts = two(true, |_| ());
    let dropped =
        |rule: &str| format!("1: dropped: rule '{rule}' in chain segments-through of table inet wire-agent drops it");
    for family in Family::ALL {
        let [one, internal] = NETWORKS.map(|network| container(network, 1, family));
        let far = container(5001, 2, family);
        for to in [internal, far] {
            assert_eq!(end(&hosts, one, to), dropped("between networks"));
        }
        let end = end(&hosts, internal, one);
        let expected = match family {
            Family::V4 => {
                format!("1: dropped: {} is 0", Setting::LinkForwarding(family, name("wb.5001")))
            }
            Family::V6 => dropped("between networks"),
        };
        assert_eq!(end, expected);
    }
    let outside: IpAddr = "2001:db8::7".parse().unwrap();
    assert_eq!(end(&hosts, container(5001, 1, Family::V6), outside), dropped("out of an internal network"));
}

#[test]
fn a_host_without_a_part_in_the_network_sends_nothing_there() {
    let mut hosts = two(true, |_| ());
    hosts[0] = Host::new(1, &[5001], true);
    hosts[0].around.routes.clear();
    let (from, to) = (public(1), container(5000, 2, Family::V4));
    let state = hosts[0].state();
    assert_eq!(
        trace(&state, &Packet::new(from, to), Entry::Here).outcome.to_string(),
        format!("dropped: no route to {to}")
    );
}

#[test]
fn who_forges_a_source_is_dropped_by_the_rule_that_is_named() {
    let hosts = two(true, |_| ());
    let site: Vec<HostState<'_>> = hosts.iter().map(Host::state).collect();
    let dropped = |rule: &str, chain: &str| format!("dropped: rule '{rule}' in chain {chain} wire-agent drops it");
    for family in Family::ALL {
        let to = container(5000, 2, family);
        let end = |source, entry| {
            let journey = trace_across(site.as_slice(), &0, &Packet::new(source, to), entry);
            journey.end().map(|(_, outcome)| outcome.to_string()).unwrap()
        };
        // A container as its neighbour; the host as a container of the other's.
        let at_port = dropped("forged", "senders of table bridge");
        assert_eq!(end(address(5000, 1, 6, family), Entry::Link(port(5000, 1))), at_port);
        let words = match family {
            Family::V4 => "forged v4",
            Family::V6 => "forged v6",
        };
        assert_eq!(end(container(5000, 2, family), Entry::Here), dropped(words, "segments-in of table inet"));
        // A host is bound to its blocks, not to one address of these.
        assert!(end(container(5000, 1, family), Entry::Here).starts_with("delivered to"));
    }
}

#[test]
fn the_sets_of_the_receiver_decide_who_is_a_member_and_which_ports_are_known() {
    let [from, to] = [1, 2].map(|host| container(5000, host, Family::V4));
    let without = |sets: &[&str]| {
        let mut hosts = two(true, |_| ());
        let ObservedFirewall { table, bridge, .. } = &mut hosts[1].firewall;
        for table in table.iter_mut().chain(bridge) {
            let cleared = table.sets.iter_mut().filter(|(name, _)| sets.contains(&name.as_str()));
            cleared.for_each(|(_, set)| set.elements.clear());
        }
        end(&hosts, from, to)
    };
    for (sets, rule) in [
        (&["vteps-v4", "behind-v4-v4-27"][..], "'no members' in chain segments-in of table inet"),
        (&["behind-v4-v4-27"], "'forged v4' in chain segments-in of table inet"),
        (&["ports"], "'hosts not known' in chain senders of table bridge"),
    ] {
        assert_eq!(without(sets), format!("2: dropped: rule {rule} wire-agent drops it"), "{sets:?}");
    }
}

#[test]
fn an_entry_that_is_removed_is_named_unless_frames_for_all_go_to_the_host_that_it_led_to() {
    let [from, to] = [1, 2].map(|host| container(5000, host, Family::V4));
    let (bridge, link, mac) = (name("wb.5000"), name("wv.5000"), Segment::mac_of(to));
    let arrives = format!("2: delivered to {to} behind {}", port(5000, 2));
    let no_fdb = |host: &mut Host| _ = host.net.fdb.remove(&FdbKey { link, mac });
    let no_bridge_fdb = |host: &mut Host| _ = host.net.bridge_fdb.remove(&BridgeFdbKey { bridge, mac });
    let no_neighbour = |host: &mut Host| _ = host.net.neighbours.remove(&NeighbourKey { link: bridge, address: to });
    assert_eq!(end(&two(true, no_fdb), from, to), arrives);
    assert_eq!(end(&two(true, no_bridge_fdb), from, to), arrives);
    assert_eq!(
        end(&two(true, no_neighbour), from, to),
        format!("1: not known: which host answers on wb.5000 for {to}")
    );
    assert_eq!(end(&two(false, no_fdb), from, to), format!("1: dropped: no FDB entry for {mac} on wv.5000"));
    let nobody = format!("1: dropped: no FDB entry for {mac} on bridge wb.5000, and no container has it");
    assert_eq!(end(&two(false, no_bridge_fdb), from, to), nobody);
    assert_eq!(end(&two(false, no_neighbour), from, to), format!("1: dropped: no neighbour entry for {to} on wb.5000"));
}

#[test]
fn an_address_of_a_block_that_no_container_has_ends_on_its_host() {
    let hosts = two(true, |_| ());
    let (from, free) = (container(5000, 1, Family::V4), address(5000, 2, 9, Family::V4));
    let mac = Segment::mac_of(free);
    let nobody = format!("2: dropped: no FDB entry for {mac} on bridge wb.5000, and no container has it");
    assert_eq!(end(&hosts, from, free), nobody);
}

#[test]
fn the_place_where_a_packet_begins_follows_from_its_source() {
    let hosts = two(true, |_| ());
    let state = hosts[0].state();
    for family in Family::ALL {
        let [here, there] = [1, 2].map(|host| container(5000, host, family));
        let entry = |source| state.entry_of(source, here);
        assert_eq!(entry(here), Some(Entry::Link(port(5000, 1))));
        assert_eq!(entry(there), Some(Entry::Decapsulated(name("wv.5000"))));
        assert_eq!(entry(address(5000, 1, 0, family)), Some(Entry::Here));
        assert_eq!(entry(address(5000, 1, 9, family)), None);
        let way = trace(&state, &Packet::new(there, here), Entry::Decapsulated(name("wv.5000")));
        assert_eq!(way.outcome.to_string(), format!("delivered to {here} behind {}", port(5000, 1)));
    }
}

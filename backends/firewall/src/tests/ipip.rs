//! The rules about packets of IP protocol 4.

use std::net::IpAddr;

use wire_state::{
    Delivery, Encapsulated, Entry, HostRoute, HostState, Ipip, NextHop, ObservedKind, ObservedLink, Outcome, Owner,
    Packet, Purpose, Reason, RouteKey, Setting, Surroundings, trace,
};

use super::*;

/// The device of a host whose backend is ipip.
fn device() -> DesiredNet {
    let ipip = Ipip { parent: None, local: Some([192, 0, 2, 1].into()) };
    let link = DesiredLink::new(DesiredKind::Kernel(KernelKind::Ipip(ipip)), Mtu(1480));
    let mut net = DesiredNet::default();
    net.links.insert(name("flannel.ipip"), link);
    net
}

/// The same, as the rules see it.
pub(crate) fn devices() -> DualStack<OverlayDevice> {
    OverlayDevice::of(&device())
}

fn wanted_by(policy: &FirewallPolicy, facts: &HostFacts) -> DesiredFirewall {
    policy.desired(peer(1, false).subnet, &all_of(&[2], false).into_iter(), &devices(), facts)
}

#[test]
fn what_is_encapsulated_is_told_by_the_protocol_and_the_inner_source_stands_right_behind_the_outer_header() {
    let facts = HostFacts { docker: DockerRules::Marked, ..HostFacts::default() };
    let firewall = wanted_by(&policy(false), &facts);
    let table = firewall.table.unwrap();
    let arriving: Vec<&str> = table.chains["arriving"].rules.iter().map(|rule| rule.text.as_str()).collect();
    insta::assert_snapshot!(arriving.join("\n"), @r#"
    iifname "flannel*" jump decapsulated
    meta l4proto != 4 accept
    iifname != @bridges ip daddr 192.0.2.1 ip saddr . @th,96,24 @subnets-v4-24 counter meta priority set 7769:0 notrack accept
    iifname != "lo" ip saddr 192.0.2.1 counter name "containers" drop
    iifname @bridges ip daddr != 10.5.0.0/16 counter name "containers" drop
    ip saddr 10.5.0.0/16 ip daddr != 10.5.0.0/16 counter name "containers" drop
    ip daddr != 192.0.2.1 fib daddr type unicast accept
    iifname @bridges counter name "containers" drop
    ip saddr 10.5.0.0/16 counter name "containers" drop
    ip saddr . @th,96,24 @subnets-v4-24 counter name "arrived-v4" meta priority set 7769:0 accept
    ip saddr . @th,96,32 @leases-v4 counter name "arrived-v4" meta priority set 7769:0 accept
    ip saddr @peers-v4 counter name "spoofed" drop
    update @claims-v4 { ip saddr . @th,96,32 }
    ip saddr != @peers-v4 update @strangers-v4 { ip saddr }
    meta nfproto ipv4 counter name "strangers" drop
    "#);
    assert!(!table.chains.contains_key("encapsulated-in"), "all is judged before connection tracking");
    let out: Vec<&str> = table.chains["encapsulated-out"].rules.iter().map(|rule| rule.text.as_str()).collect();
    insta::assert_snapshot!(out.join("\n"), @r#"
    ct status & snat == 0 accept
    meta l4proto != 4 accept
    ct status snat ct original ip saddr != 192.0.2.1 counter name "containers" drop
    "#);
}

#[test]
fn ipip_is_let_through_what_docker_drops_as_the_overlay_is() {
    let chains = |firewall: &DesiredFirewall| format!("{:?}", firewall.chains);
    let vxlan = wanted(&policy(false), &[2], &[]);
    let ipip = wanted_by(&policy(false), &HostFacts::default());
    assert_eq!(chains(&ipip), chains(&vxlan).replace("flannel.1", "flannel.ipip"));
}

#[test]
fn a_flowtable_is_not_tried_with_ipip() {
    let policy = FirewallPolicy { flowtable: true, ..policy(false) };
    let links = || ["docker0", "flannel.ipip"].map(name);
    let facts = HostFacts { bridges: [name("docker0")].into(), hookable: links().into(), ..HostFacts::default() };
    assert!(wanted_by(&policy, &facts).table.unwrap().flowtables.is_empty());
}

/// The fate of a packet of protocol 4 on the host 192.0.2.1, whose peers are 192.0.2.2 and 192.0.2.3, by the trace.
fn fate(outer: &str, inner: &str) -> Outcome {
    let policy = policy(false);
    let wanted =
        policy.desired(peer(1, false).subnet, &all_of(&[2, 3], false).into_iter(), &devices(), &HostFacts::default());
    let table = wanted.table.as_ref().map(ObservedTable::from);
    let firewall = ObservedFirewall { table, ..ObservedFirewall::default() };
    let mut net = wire_state::samples::held(&device());
    net.links.values_mut().for_each(|link| link.owner = Owner::Ours);
    net.settings.insert(Setting::Forwarding(Family::V4), 1);
    let mut around = Surroundings::default();
    for (index, link) in [(2, "eth0"), (3, "docker0")] {
        let (kind, mac, owner) = (ObservedKind::Other(String::new()), None, Owner::Foreign);
        let made = ObservedLink {
            kind,
            mac,
            mtu: Mtu(1500),
            up: true,
            master: None,
            is_marked: false,
            port: None,
            owner,
            index,
        };
        around.links.insert(name(link), made);
    }
    for (to, link) in [("10.5.1.0/24", "docker0"), ("10.5.0.0/16", "flannel.ipip"), ("0.0.0.0/0", "eth0")] {
        around.routes.insert(RouteKey::main(to.parse().unwrap()), HostRoute::Via(NextHop::Link(name(link))));
    }
    let local: IpAddr = [192, 0, 2, 1].into();
    around.addresses.insert(local, name("eth0"));
    let inside = Encapsulated { header: None, packet: Packet::new(inner.parse().unwrap(), [10, 5, 1, 9].into()) };
    let packet = Packet { inner: Some(Box::new(inside)), ..Packet::new(outer.parse().unwrap(), local) };
    let host = HostState { net: &net, surroundings: &around, firewall: Some(&firewall) };
    trace(&host, &packet, Entry::Link(name("eth0"))).outcome
}

#[test]
fn a_trace_judges_ipip_as_the_table_does() {
    let dropped = |purpose| Outcome::Dropped(Reason::Rule { chain: "arriving", purpose });
    let delivered = fate("192.0.2.2", "10.5.2.9");
    assert!(matches!(delivered, Outcome::Delivered(Delivery::OnLink(..))), "{delivered}");
    assert_eq!(fate("192.0.2.2", "10.5.3.9"), dropped(Purpose::OtherLeases(Family::V4)));
    assert_eq!(fate("192.0.2.77", "10.5.2.9"), dropped(Purpose::Strangers(Family::V4)));
}

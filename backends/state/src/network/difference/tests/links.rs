//! Sentences about links.

use wire_net::{Mtu, Vni};

use super::*;
use crate::{
    Bridge, BridgeFdbKey, Capabilities, DesiredKind, DesiredLink, DesiredVxlan, Framing, Ipip, KernelKind, LinkRef,
    Macvlan, MacvlanMode, ObservedKind, ObservedLink, ObservedVxlan, PortFlag, PortFlags, Tunnel, Veth, Vlan,
    samples::{found, vxlan},
};

const GUEST: Namespace = Namespace::Guest(7);

/// The sentence about the device after it was changed.
fn told_of_link(want: &DesiredNet, change: impl FnOnce(&mut ObservedLink)) -> String {
    told_after(want, |have| change(have.links.get_mut(&device()).unwrap()))
}

fn told_of_vxlan(change: impl FnOnce(&mut ObservedVxlan)) -> String {
    told_of_link(&state(&[(60, 20, 3)]), |link| {
        let ObservedKind::Vxlan(vxlan) = &mut link.kind else { panic!() };
        change(vxlan);
    })
}

const CUT_OFF: &str = ": no host can be reached through it";

#[test]
fn a_missing_link_is_named_with_the_number_of_its_entries() {
    // An address, a setting of each kind, and the peer's FDB entry, flood entry, neighbour and route.
    assert_eq!(
        told_after(&wanted(), |have| have.forget_link(device())),
        format!("device flannel.1 is missing, and 8 entries on it{CUT_OFF}")
    );
    let mut alone = state(&[]);
    assert_eq!(told_after(&alone, |have| have.forget_link(device())), "device flannel.1 is missing, and 1 entry on it");
    alone.addresses.clear();
    assert_eq!(told_after(&alone, |have| have.forget_link(device())), "device flannel.1 is missing");
}

#[test]
fn an_unwanted_link_is_named_without_its_entries() {
    assert_eq!(told(&held(&wanted()), &DesiredNet::default())[0], "device flannel.1 should not be there");
    let want = state(&[(60, 20, 3)]);
    assert_eq!(told(&held(&want), &DesiredNet::default()), ["device flannel.1 should not be there"]);
}

#[test]
fn each_property_that_can_be_set_is_named() {
    let want = state(&[(60, 20, 3)]);
    assert_eq!(told_of_link(&want, |link| link.mtu = Mtu(1400)), "device flannel.1 has MTU 1400, and should have 1450");
    assert_eq!(
        told_of_link(&want, |link| link.up = false),
        format!("device flannel.1 is down, and should be up{CUT_OFF}")
    );
    assert_eq!(
        told_of_vxlan(|vxlan| vxlan.learning = true),
        "device flannel.1 learns FDB entries from packets, and should not"
    );
    assert_eq!(
        told_of_link(&want, |link| (link.mtu, link.up) = (Mtu(1400), false)),
        format!("device flannel.1 has MTU 1400, and should have 1450; is down, and should be up{CUT_OFF}")
    );
    // The kernel forgets the neighbours of a link whose MAC changes.
    assert_eq!(
        told_of_link(&want, |link| link.mac = Some(mac(9))),
        format!(
            "device flannel.1 has MAC 02:00:00:00:00:09, and should have 02:00:00:00:00:01; 1 entry on it must be set \
             again{CUT_OFF}"
        )
    );
}

#[test]
fn each_property_that_cannot_be_set_is_named_with_the_entries_that_are_lost() {
    let anew = "; it must be made anew, and 4 entries on it";
    let (group, other) = (Some([239, 1, 1, 1].into()), Some([192, 0, 2, 9].into()));
    assert_eq!(
        told_of_vxlan(|vxlan| vxlan.vni = Vni::new(2).unwrap()),
        format!("device flannel.1 has VNI 2, and should have 1{anew}{CUT_OFF}")
    );
    assert_eq!(
        told_of_vxlan(|vxlan| vxlan.local = other),
        format!("device flannel.1 sends from 192.0.2.9, and should send from 192.0.2.1{anew}{CUT_OFF}")
    );
    assert_eq!(
        told_of_vxlan(|vxlan| vxlan.parent = Some(found("eth1", 3))),
        format!("device flannel.1 sends through eth1, and should send through eth0{anew}{CUT_OFF}")
    );
    assert_eq!(
        told_of_vxlan(|vxlan| vxlan.parent = Some(found("eth0", 3))),
        format!("device flannel.1 sends through eth0, and should send through the new eth0{anew}{CUT_OFF}")
    );
    assert_eq!(
        told_of_vxlan(|vxlan| vxlan.group = group),
        format!("device flannel.1 has the default destination 239.1.1.1, and should have none{anew}{CUT_OFF}")
    );
    assert_eq!(
        told_of_vxlan(|vxlan| vxlan.gbp = true),
        format!("device flannel.1 has group policies (gbp), and should not{anew}")
    );
    assert_eq!(
        told_of_vxlan(|vxlan| vxlan.l2miss = true),
        format!("device flannel.1 reports missing FDB entries (l2miss), and should not{anew}")
    );
}

#[test]
fn a_udp_port_that_is_not_the_desired_one_is_named() {
    let mut want = state(&[]);
    let kind = KernelKind::Vxlan(DesiredVxlan { port: Some(4789), ..vxlan() });
    want.links.get_mut(&device()).unwrap().kind = DesiredKind::Kernel(kind);
    let sentence = told_of_link(&want, |link| {
        let ObservedKind::Vxlan(vxlan) = &mut link.kind else { panic!() };
        vxlan.port = 8472;
    });
    assert_eq!(
        sentence,
        "device flannel.1 uses UDP port 8472, and should use 4789; it must be made anew, and 1 entry on it"
    );
}

#[test]
fn a_link_of_another_kind_is_named_with_both_kinds() {
    let (overlay, tunnel) = (state(&[(60, 20, 3)]), tunnelled(state(&[(60, 20, 3)])));
    let anew = format!("; it must be made anew, and 4 entries on it{CUT_OFF}");
    assert_eq!(
        told(&held(&tunnel), &overlay),
        [format!("device flannel.1 is a TUN device, and should be a VXLAN device{anew}")]
    );
    let anew = format!("; it must be made anew, and 3 entries on it{CUT_OFF}");
    for (kind, found) in [("dummy", "of kind dummy"), ("", "hardware")] {
        let mut have = held(&tunnel);
        have.links.get_mut(&device()).unwrap().kind = ObservedKind::Other(kind.to_owned());
        assert_eq!(told(&have, &tunnel), [format!("device flannel.1 is {found}, and should be a TUN device{anew}")]);
    }
}

/// The sentence about a tunnel after it was changed, without the name of the device.
fn told_of_tunnel(change: impl FnOnce(&mut Tunnel)) -> String {
    let sentence = told_of_link(&tunnelled(state(&[(60, 20, 3)])), |link| {
        let ObservedKind::Tun(Some(tunnel)) = &mut link.kind else { panic!() };
        change(tunnel);
    });
    sentence.strip_prefix("device flannel.1 ").unwrap().to_owned()
}

#[test]
fn each_setting_of_a_tunnel_is_named() {
    // A new tunnel starts with an empty forwarding table.
    let again = "; 1 entry on it must be set again";
    let ours = "a header with VNI 1 and MAC 02:00:00:00:00:01";
    assert_eq!(
        told_of_tunnel(|tunnel| tunnel.framing = Framing::Raw),
        format!("adds no header, and should add {ours}{again}{CUT_OFF}")
    );
    assert_eq!(
        told_of_tunnel(|tunnel| tunnel.framing = Framing::Vxlan { vni: Vni::new(2).unwrap(), mac: mac(1) }),
        format!("adds a header with VNI 2 and MAC 02:00:00:00:00:01, and should add {ours}{again}{CUT_OFF}")
    );
    assert_eq!(
        told_of_tunnel(|tunnel| tunnel.local = "192.0.2.9:8472".parse().unwrap()),
        format!("sends from 192.0.2.9:8472, and should send from 192.0.2.1:8472{again}{CUT_OFF}")
    );
    assert_eq!(
        told_of_tunnel(|tunnel| tunnel.own = Some("10.5.9.0/24".parse().unwrap())),
        format!("accepts packets for 10.5.9.0/24, and should accept packets for all subnets{again}{CUT_OFF}")
    );
    assert_eq!(
        told_of_tunnel(|tunnel| tunnel.source_check = false),
        format!("does not check sources, and should{again}")
    );
    assert_eq!(told_of_tunnel(|tunnel| tunnel.queues = 2), format!("has 2 queues, and should have 1{again}"));
    let capabilities = Capabilities { uso: false, tso: false, ..Capabilities::ALL };
    assert_eq!(
        told_of_tunnel(|tunnel| tunnel.capabilities = capabilities),
        format!("uses offloads: gso gro, and should use offloads: uso tso gso gro{again}")
    );
    assert_eq!(
        told_of_link(&tunnelled(state(&[(60, 20, 3)])), |link| link.kind = ObservedKind::Tun(None)),
        format!("device flannel.1 has no tunnel of this agent, and should have one{again}{CUT_OFF}")
    );
}

/// On the host, a bridge with a VLAN on it and one end of a veth pair in it, and an IPIP device. In the container, the other end and a
/// macvlan.
fn site() -> PerNamespace<DesiredNet> {
    let (mut host, mut guest) = (DesiredNet::default(), DesiredNet::default());
    let link = |kind: KernelKind| DesiredLink::new(DesiredKind::Kernel(kind), Mtu(1400));
    let bridge = LinkPlace::in_host(name("br"));
    let (outer, inner) = (LinkPlace::in_host(name("wp1")), LinkPlace { namespace: GUEST, name: name("eth1") });
    host.links.insert(bridge.name, link(KernelKind::Bridge(Bridge::default())));
    host.links.insert(name("br.7"), link(KernelKind::Vlan(Vlan { parent: LinkRef::Desired(bridge), id: 7 })));
    let end = link(KernelKind::Veth(Veth { peer: inner }));
    host.links.insert(outer.name, DesiredLink { master: Some(bridge.name), ..end });
    guest.links.insert(inner.name, link(KernelKind::Veth(Veth { peer: outer })));
    let parent = LinkRef::Found(found("eth0", 2));
    guest.links.insert(name("eth2"), link(KernelKind::Macvlan(Macvlan { parent, mode: MacvlanMode::Bridge })));
    let ipip = Ipip { parent: None, local: Some([192, 0, 2, 1].into()) };
    host.links.insert(name("ipip"), link(KernelKind::Ipip(ipip)));
    let gateway = [192, 0, 2, 3].into();
    host.routes.insert(peer_route(), NextHop::Gateway { gateway, link: name("ipip"), onlink: true });
    guest.addresses.insert(Address { link: inner.name, address: [10, 9, 0, 2].into(), len: 24 });
    guest.routes.insert(RouteKey::main("10.10.0.0/16".parse().unwrap()), NextHop::Link(inner.name));
    [(Namespace::Host, host), (GUEST, guest)].into_iter().collect()
}

/// The sentences about the site after it was changed.
fn told_of_site(change: impl FnOnce(&mut PerNamespace<ObservedNet>)) -> Vec<String> {
    let mut have = reached(&site());
    change(&mut have);
    Network::differences(&have, &site()).iter().map(ToString::to_string).collect()
}

fn found_in(net: &mut PerNamespace<ObservedNet>, namespace: Namespace, link: &str) -> ObservedLink {
    net.get(namespace).unwrap().links[&name(link)].clone()
}

fn put_in(net: &mut PerNamespace<ObservedNet>, namespace: Namespace, link: &str, found: ObservedLink) {
    net.get_mut(namespace).unwrap().links.insert(name(link), found);
}

fn told_of_kind(namespace: Namespace, link: &str, kind: ObservedKind) -> Vec<String> {
    told_of_site(|net| {
        let found = found_in(net, namespace, link);
        put_in(net, namespace, link, ObservedLink { kind, ..found });
    })
}

#[test]
fn an_entry_of_a_container_is_named_with_its_namespace() {
    assert_eq!(
        told_of_site(|net| net.get_mut(GUEST).unwrap().addresses.clear()),
        ["address 10.9.0.2/24 on eth1 in namespace 7 is missing"]
    );
    assert_eq!(
        told_of_site(|net| net.get_mut(GUEST).unwrap().routes.clear()),
        ["route 10.10.0.0/16 in namespace 7 is missing"]
    );
}

#[test]
fn the_properties_of_each_kind_are_named() {
    let host = Namespace::Host;
    let bridge = reached(&site()).id(LinkPlace::in_host(name("br")));
    assert_eq!(
        told_of_kind(host, "br.7", ObservedKind::Vlan(Vlan { parent: bridge, id: 8 })),
        ["device br.7 has VLAN ID 8, and should have 7; it must be made anew"]
    );
    assert_eq!(
        told_of_kind(host, "br.7", ObservedKind::Vlan(Vlan { parent: Some(found("eth1", 3)), id: 7 })),
        ["device br.7 is on eth1, and should be on br; it must be made anew"]
    );
    let macvlan = Macvlan { parent: Some(found("eth0", 2)), mode: MacvlanMode::Private };
    assert_eq!(
        told_of_kind(GUEST, "eth2", ObservedKind::Macvlan(macvlan)),
        ["device eth2 in namespace 7 is macvlan mode private, and should be macvlan mode bridge; it must be made anew"]
    );
    assert_eq!(
        told_of_kind(host, "ipip", ObservedKind::Ipip(Ipip { parent: None, local: None })),
        [
            "device ipip sends from any address, and should send from 192.0.2.1; it must be made anew, and 1 entry on it: \
          no host can be reached through it"
        ]
    );
    assert_eq!(
        told_of_site(|net| {
            let port = found_in(net, host, "wp1");
            put_in(net, host, "wp1", ObservedLink { master: None, ..port });
        }),
        ["device wp1 is in no bridge, and should be in br"]
    );
    assert_eq!(
        told_of_kind(host, "wp1", ObservedKind::Veth(Veth { peer: None })),
        [
            "device wp1 is a pair with a link in another namespace, and should be a pair with eth1 in namespace 7; it must be \
             made anew",
            "device eth1 in namespace 7 must be made anew together with wp1, and 2 entries on it",
        ]
    );
}

#[test]
fn links_that_go_with_another_are_named_with_it() {
    assert_eq!(
        told_of_kind(Namespace::Host, "br", ObservedKind::Other("dummy".to_owned())),
        [
            "device br is of kind dummy, and should be a bridge; it must be made anew",
            "device br.7 must be made anew together with br",
            "device wp1 must be put into br again, which must be made anew",
        ]
    );
}

#[test]
fn the_options_of_a_bridge_the_flags_of_its_port_and_its_entries_are_named() {
    let (bridge, port) = (name("br"), name("flannel.1"));
    let mut want = state(&[(60, 20, 3)]);
    let options = KernelKind::Bridge(Bridge { snooping: false, spanning_tree: false });
    want.links.insert(bridge, DesiredLink::new(DesiredKind::Kernel(options), Mtu(1450)));
    let flags = PortFlags::NEW_PORT.with(PortFlag::NeighbourSuppression, true).with(PortFlag::Learning, false);
    let device = want.links.get_mut(&port).unwrap();
    (device.master, device.port) = (Some(bridge), Some(flags));
    let behind = BridgeFdbKey { bridge, mac: mac(20) };
    want.bridge_fdb.insert(behind, port);
    let told_of_bridge =
        |kind: Bridge| told_after(&want, |have| have.links.get_mut(&bridge).unwrap().kind = ObservedKind::Bridge(kind));
    assert_eq!(
        told_of_bridge(Bridge::default()),
        "device br sends multicast only to ports that asked for it, and should not"
    );
    assert_eq!(
        told_of_bridge(Bridge { snooping: false, spanning_tree: true }),
        "device br takes part in the spanning tree protocol, and should not"
    );
    assert_eq!(
        told_of_link(&want, |link| link.port = Some(PortFlags::NEW_PORT.with(PortFlag::Isolated, true))),
        "device flannel.1 has learning on in its bridge, and should have it off; has neigh_suppress off in its bridge, and \
         should have it on; has isolated on in its bridge, and should have it off"
    );
    let unreachable = ": host 192.0.2.3 cannot be reached";
    let entry = "bridge FDB entry 02:00:00:00:00:14 on br";
    assert_eq!(told_after(&want, |have| have.bridge_fdb.clear()), format!("{entry} is missing{unreachable}"));
    assert_eq!(
        told_after(&want, |have| change_each(&mut have.bridge_fdb, |found| *found = name("wp1"))),
        format!("{entry} leads to port wp1, and should lead to flannel.1{unreachable}")
    );
    assert_eq!(
        told_after(&want, |have| have.bridge_fdb.extend([(BridgeFdbKey { mac: mac(9), ..behind }, port)])),
        "bridge FDB entry 02:00:00:00:00:09 on br should not be there"
    );
}

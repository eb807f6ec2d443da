//! Links of all kinds, in two namespaces.

use std::os::fd::OwnedFd;

use wire_net::{LinkName, MacAddr, Mtu, Vni};
use wire_netlink::Batch;
use wire_state::{
    Address, Bridge, DesiredKind, DesiredLink, DesiredNet, DesiredVxlan, FloodEntry, FloodPath, Ipip, KernelKind,
    LinkId, LinkPlace, LinkRef, Macvlan, MacvlanMode, Namespace, NextHop, ObservedKind, Owner, PerNamespace,
    Reconciler, RouteKey, Scope, Setting, Veth, Vlan,
};

use super::lab::{self, KernelAlone, new_namespace, run, run_fails, run_inside};
use crate::{
    KernelDataplane, RouteForm, decode,
    encode::{self, BoundLinks, Lower},
};

pub(super) const GUEST: Namespace = Namespace::Guest(7);

/// Changes by others of the devices of [`attached`]; true: in the container's namespace.
pub(super) const HARMS: [(bool, &str); 9] = [
    (false, "ip link del wp1"),
    (false, "ip link del z-bridge"),
    (false, "ip link set wp1 nomaster down"),
    (false, "ip link del a-vxlan"),
    (false, "bridge fdb del 00:00:00:00:00:00 dev a-vxlan dst 192.0.2.101"),
    (true, "ip link del eth1"),
    (true, "ip link set eth1 address 02:00:00:00:09:99"),
    (true, "ip link del eth2"),
    (true, "ip addr del 10.9.0.2/24 dev eth1; sysctl -q -w net.ipv4.ip_forward=0"),
];

fn name(text: &str) -> LinkName {
    text.parse().unwrap()
}

fn link(kind: KernelKind, last: u8) -> DesiredLink {
    let mac = Some(MacAddr::new([2, 0, 0, 0, 9, last]));
    DesiredLink { mac, ..DesiredLink::new(DesiredKind::Kernel(kind), Mtu(1400)) }
}

fn uplink() -> LinkRef {
    let index = u32::try_from(lab::index("wb-up")).unwrap();
    LinkRef::Found(LinkId { namespace: Namespace::Host, index, name: name("wb-up") })
}

/// A container with a veth on a bridge, whose other port is a VXLAN device, and with a macvlan on the host's uplink.
pub(super) fn attached() -> PerNamespace<DesiredNet> {
    let (mut host, mut guest) = (DesiredNet::default(), DesiredNet::default());
    let master = Some(name("z-bridge"));
    host.links.insert(name("z-bridge"), link(KernelKind::Bridge(Bridge::default()), 1));
    let vxlan = DesiredVxlan { parent: Some(uplink()), port: Some(8472), ..DesiredVxlan::new(Vni::new(5000).unwrap()) };
    host.links.insert(name("a-vxlan"), DesiredLink { master, ..link(KernelKind::Vxlan(vxlan), 2) });
    for last in [101, 102] {
        let (link, mac) = (name("a-vxlan"), MacAddr::new([0; 6]));
        host.flooding.insert(FloodEntry { link, mac, to: [192, 0, 2, last].into(), by: FloodPath::default() });
    }
    let inside = LinkPlace { namespace: GUEST, name: name("eth1") };
    let outside = LinkPlace::in_host(name("wp1"));
    host.links.insert(outside.name, DesiredLink { master, ..link(KernelKind::Veth(Veth { peer: inside }), 3) });
    guest.links.insert(inside.name, link(KernelKind::Veth(Veth { peer: outside }), 4));
    guest.addresses.insert(Address { link: inside.name, address: [10, 9, 0, 2].into(), len: 24 });
    guest.routes.insert(RouteKey::main("10.10.0.0/16".parse().unwrap()), gateway(inside.name));
    let macvlan = KernelKind::Macvlan(Macvlan { parent: uplink(), mode: MacvlanMode::Bridge });
    guest.links.insert(name("eth2"), link(macvlan, 5));
    guest.settings.insert(Setting::Forwarding(wire_net::Family::V4), 1);
    [(Namespace::Host, host), (GUEST, guest)].into_iter().collect()
}

fn gateway(link: LinkName) -> NextHop {
    NextHop::Gateway { gateway: [10, 9, 0, 1].into(), link, onlink: true }
}

fn reconciler(guest: &OwnedFd) -> Reconciler<KernelAlone> {
    let mut kernel = KernelDataplane::open(RouteForm::Plain).unwrap();
    kernel.add(GUEST, guest.try_clone().unwrap()).unwrap();
    reconciler_of(kernel)
}

pub(super) fn reconciler_of(kernel: KernelDataplane) -> Reconciler<KernelAlone> {
    let scope = |names: &[&str]| Scope {
        devices: names.iter().map(|text| name(text)).collect(),
        // The MAC identifies the VXLAN device as ours.
        marks: wire_state::Marks { macs: [MacAddr::new([2, 0, 0, 0, 9, 2])].into(), ..wire_state::Marks::default() },
        ..Scope::default()
    };
    let of_host = ["z-bridge", "a-vxlan", "wp1", "wb-up.7", "flannel.ipip"];
    let scopes = [(Namespace::Host, scope(&of_host)), (GUEST, scope(&["eth1", "eth2"]))];
    Reconciler::new(KernelAlone(kernel), scopes.into_iter().collect())
}

pub(super) fn assert_attached(guest: &OwnedFd) {
    for (port, kind) in [("a-vxlan", "vxlan id 5000"), ("wp1", "veth")] {
        let said = run(&format!("ip -d link show {port}"));
        assert!(said.contains("master z-bridge"), "{said}");
        assert!(said.contains(kind), "{said}");
    }
    let flooding = run("bridge fdb show dev a-vxlan");
    for host in ["192.0.2.101", "192.0.2.102"] {
        assert!(flooding.contains(&format!("00:00:00:00:00:00 dst {host}")), "{flooding}");
    }
    let inside = run_inside(guest, "ip -d link; ip addr; ip route; sysctl net.ipv4.ip_forward");
    for part in [
        "eth1@",
        "02:00:00:00:09:04",
        "inet 10.9.0.2/24",
        "10.10.0.0/16 via 10.9.0.1 dev eth1 proto 91",
        "macvlan mode bridge",
        "net.ipv4.ip_forward = 1",
    ] {
        assert!(inside.contains(part), "no {part} in {inside}");
    }
}

pub(super) fn do_harm(guest: &OwnedFd, is_inside: bool, harm: &str) {
    if is_inside {
        run_inside(guest, harm);
    } else {
        run(harm);
    }
}

pub(super) fn in_lab(test: impl FnOnce(OwnedFd) + Send + 'static) {
    lab::in_namespace(|| {
        let _ = lab::Lab::new(0);
        test(new_namespace());
    });
}

#[test]
fn a_container_is_attached_is_recognized_after_a_restart_and_is_detached() {
    in_lab(|guest| {
        let want = attached();
        let report = reconciler(&guest).round(&want);
        assert!(report.converged, "{:?}", report.failures);
        assert_attached(&guest);
        let mut restarted = reconciler(&guest);
        let report = restarted.round(&want);
        assert_eq!(report.written, 0, "{}", report.named());
        assert_eq!(report.removed, 0, "{}", report.named());
        assert!(report.converged, "{}", report.named());
        let nothing: PerNamespace<DesiredNet> =
            [(Namespace::Host, DesiredNet::default()), (GUEST, DesiredNet::default())].into_iter().collect();
        let report = restarted.round(&nothing);
        assert!(report.converged, "{:?}", report.failures);
        for link in ["z-bridge", "a-vxlan", "wp1"] {
            run_fails(&format!("ip link show {link}"));
        }
        assert_eq!(run_inside(&guest, "ip -o link").lines().count(), 1, "lo alone");
        run("ip link show wb-up");
    });
}

/// A container that comes and goes beside others has itself read, and not all of the host.
#[test]
fn a_container_that_is_attached_and_detached_has_its_own_links_read_alone() {
    in_lab(|guest| {
        let mut reconciler = reconciler(&guest);
        let all_scopes = reconciler.scope().clone();
        let of_host = attached().get(Namespace::Host).unwrap().clone();
        let without = |name_of: &str| {
            let mut net = of_host.clone();
            net.links.remove(&name(name_of));
            net
        };
        let alone = PerNamespace::host(without("wp1"));
        let mut scopes = PerNamespace::host(all_scopes.get(Namespace::Host).unwrap().clone());
        scopes.get_mut(Namespace::Host).unwrap().devices.remove(&name("wp1"));
        reconciler.set_scope(scopes.clone());
        assert!(reconciler.round(&alone).converged);
        for _ in 0..2 {
            reconciler.set_scope(all_scopes.clone());
            let report = reconciler.round(&attached());
            assert!(report.converged, "{:?}", report.failures);
            assert!(!report.read_back, "{}", report.named());
            assert_attached(&guest);
            assert_known(&mut reconciler);
            let nothing: PerNamespace<DesiredNet> =
                [(Namespace::Host, without("wp1")), (GUEST, DesiredNet::default())].into_iter().collect();
            let report = reconciler.round(&nothing);
            assert!(report.converged && !report.read_back, "{}: {:?}", report.named(), report.failures);
            assert_known(&mut reconciler);
            reconciler.set_scope(scopes.clone());
            let report = reconciler.round(&alone);
            assert!(report.converged && !report.read_back, "{}", report.named());
            assert_eq!((report.written, report.removed), (0, 0), "{}", report.named());
            assert_known(&mut reconciler);
        }
    });
}

/// The state that is known is the one that a full read finds.
fn assert_known(reconciler: &mut Reconciler<KernelAlone>) {
    let (known, scope) = (reconciler.cached().unwrap().clone(), reconciler.scope().clone());
    assert_eq!(known, reconciler.driver().0.read(&scope).unwrap());
}

#[test]
fn links_and_entries_removed_or_changed_in_either_namespace_are_restored() {
    in_lab(|guest| {
        let want = attached();
        let mut reconciler = reconciler(&guest);
        assert!(reconciler.round(&want).converged);
        for (is_inside, harm) in HARMS {
            do_harm(&guest, is_inside, harm);
            reconciler.invalidate();
            let report = reconciler.round(&want);
            assert!(report.converged, "{harm}: {:?}", report.failures);
            assert!(report.written > 0, "{harm}: {:?}", report.failures);
            assert_attached(&guest);
        }
    });
}

#[test]
fn a_foreign_bridge_is_named_and_not_changed() {
    in_lab(|guest| {
        run("ip link add z-bridge type bridge");
        let report = reconciler(&guest).round(&attached());
        let said: Vec<String> = report.findings.conflicts.iter().map(ToString::to_string).collect();
        assert!(
            said.iter()
                .any(|said| said.starts_with("z-bridge cannot be made, because another device has this name: bridge")),
            "{said:?}"
        );
        run_fails("ip link show wp1");
        run("ip link show z-bridge");
    });
}

#[test]
fn a_namespace_that_is_gone_or_unknown_has_no_state_and_stops_no_other() {
    in_lab(|guest| {
        let mut reconciler = reconciler(&guest);
        reconciler.driver().0.remove(GUEST);
        let report = reconciler.round(&attached());
        let said: Vec<String> = report.findings.conflicts.iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                "eth1 in namespace 7 cannot be made: its namespace is gone",
                "eth2 in namespace 7 cannot be made: its namespace is gone",
            ]
        );
        assert!(report.converged, "{:?}", report.failures);
        assert!(run("ip link show a-vxlan").contains("master z-bridge"));
    });
}

#[test]
#[ignore = "needs VLANs and ipip, which not every kernel has: make test-kernel"]
fn a_vlan_with_links_on_it_and_ipip_are_made_known_again_and_let_go() {
    in_lab(|guest| {
        let (mut host, mut inside) = (DesiredNet::default(), DesiredNet::default());
        host.links.insert(name("wb-up.7"), link(KernelKind::Vlan(Vlan { parent: uplink(), id: 7 }), 1));
        let vlan = LinkRef::Desired(LinkPlace::in_host(name("wb-up.7")));
        let vxlan = DesiredVxlan { parent: Some(vlan), port: Some(8472), ..DesiredVxlan::new(Vni::new(5000).unwrap()) };
        // The kernel takes no more than what fits into the link below.
        host.links.insert(name("a-vxlan"), DesiredLink { mtu: Mtu(1350), ..link(KernelKind::Vxlan(vxlan), 2) });
        let macvlan = KernelKind::Macvlan(Macvlan { parent: vlan, mode: MacvlanMode::Bridge });
        inside.links.insert(name("eth2"), link(macvlan, 5));
        let local = Some([192, 0, 2, 1].into());
        let ipip = DesiredKind::Kernel(KernelKind::Ipip(Ipip { parent: Some(uplink()), local }));
        host.links.insert(name("flannel.ipip"), DesiredLink::new(ipip, Mtu(1400)));
        let key = RouteKey::main("10.5.2.0/24".parse().unwrap());
        let gateway = [192, 0, 2, 2].into();
        host.routes.insert(key, NextHop::Gateway { gateway, link: name("flannel.ipip"), onlink: true });
        let want: PerNamespace<DesiredNet> = [(Namespace::Host, host), (GUEST, inside)].into_iter().collect();
        let report = reconciler(&guest).round(&want);
        assert!(report.converged, "{:?} {}", report.failures, report.findings);
        assert!(run("ip -d link show wb-up.7").contains("vlan protocol 802.1Q id 7"));
        assert!(run("ip -d link show flannel.ipip").contains("ipip ipip remote any local 192.0.2.1"));
        assert!(run("ip route").contains("10.5.2.0/24 via 192.0.2.2 dev flannel.ipip"));
        assert!(run_inside(&guest, "ip -d link show eth2").contains("macvlan mode bridge"));
        let mut restarted = reconciler(&guest);
        let report = restarted.round(&want);
        assert_eq!((report.written, report.removed), (0, 0), "{}", report.named());
        // What is on it goes with it.
        run("ip link del wb-up.7");
        restarted.invalidate();
        let report = restarted.round(&want);
        assert!(report.converged && report.written >= 3, "{}: {:?}", report.named(), report.failures);
        assert!(run("ip -d link show a-vxlan").contains("dev wb-up.7"));
        assert!(run_inside(&guest, "ip -d link show eth2").contains("macvlan mode bridge"));
        let nothing: PerNamespace<DesiredNet> =
            [(Namespace::Host, DesiredNet::default()), (GUEST, DesiredNet::default())].into_iter().collect();
        assert!(restarted.round(&nothing).converged);
        run_fails("ip link show wb-up.7");
        run_fails("ip link show flannel.ipip");
        run_fails("ip link show a-vxlan");
    });
}

/// Compares encoder and decoder without the kernel, which may have neither VLANs nor ipip.
#[test]
fn the_message_for_a_new_link_decodes_to_the_same_link() {
    let place = |text| LinkPlace::in_host(name(text));
    let id = |index| LinkId { namespace: Namespace::Host, index, name: name("eth0") };
    let parent = LinkRef::Found(id(3));
    let options = Bridge { snooping: false, spanning_tree: true };
    let kinds = [
        (KernelKind::Bridge(options), ObservedKind::Bridge(options)),
        (KernelKind::Vlan(Vlan { parent, id: 4094 }), ObservedKind::Vlan(Vlan { parent: Some(id(3)), id: 4094 })),
        (
            KernelKind::Macvlan(Macvlan { parent, mode: MacvlanMode::Vepa }),
            ObservedKind::Macvlan(Macvlan { parent: Some(id(3)), mode: MacvlanMode::Vepa }),
        ),
        (
            KernelKind::Ipip(Ipip { parent: Some(parent), local: Some([192, 0, 2, 1].into()) }),
            ObservedKind::Ipip(Ipip { parent: Some(id(3)), local: Some([192, 0, 2, 1].into()) }),
        ),
        (KernelKind::Veth(Veth { peer: place("eth1") }), ObservedKind::Veth(Veth { peer: None })),
    ];
    for (kind, expected) in kinds {
        let mut batch = Batch::default();
        let lower = Some(Lower { index: 3, namespace: None });
        let is_pair = matches!(kind, KernelKind::Veth(_));
        let bound = BoundLinks { lower: lower.filter(|_| !is_pair), peer: None, master: Some(8) };
        let DesiredLink { mac, mtu, .. } = link(KernelKind::Bridge(Bridge::default()), 1);
        encode::create_link(&mut batch, name("new"), &DesiredLink { mac, ..DesiredLink::new(kind, mtu) }, &bound);
        let is_bridge = matches!(expected, ObservedKind::Bridge(_));
        let (found, read) = decode::link(batch.bodies().next().unwrap(), &decode::Namespaces::HOST).unwrap();
        assert_eq!(read.kind, expected);
        assert_eq!(found, name("new"));
        assert_eq!(read.mac, mac);
        assert_eq!(read.mtu, if is_bridge { Mtu(0) } else { mtu }, "a bridge gets it later");
        assert!(read.up);
        assert_eq!(read.master.map(|master| master.index), Some(8));
        assert_eq!(read.owner, Owner::Foreign);
        let (_, marked) = decode::link(batch.bodies().nth(1).unwrap(), &decode::Namespaces::HOST).unwrap();
        assert!(marked.is_marked);
        assert!(!is_bridge || marked.mtu == mtu);
    }
}

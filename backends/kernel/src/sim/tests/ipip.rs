//! The device of the backend ipip, as flannel leaves it.

use wire_net::Family;
use wire_state::{DesiredKind, DesiredLink, Ipip, KernelKind};

use super::*;

const DEVICE: &str = "flannel.ipip";

fn through_device(public: [u8; 4]) -> NextHop {
    NextHop::Gateway { gateway: public.into(), link: name(DEVICE), onlink: true }
}

fn ipip(local: [u8; 4]) -> Ipip<LinkRef> {
    Ipip { parent: None, local: Some(local.into()) }
}

/// The host 192.0.2.1 with 10.5.0.0/24, and the peer 192.0.2.2 with 10.5.2.0/24.
fn wanted(local: [u8; 4]) -> PerNamespace<DesiredNet> {
    let mut net = DesiredNet::default();
    net.links.insert(name(DEVICE), DesiredLink::new(DesiredKind::Kernel(KernelKind::Ipip(ipip(local))), Mtu(1480)));
    net.addresses.insert(Address { link: name(DEVICE), address: [10, 5, 0, 0].into(), len: 32 });
    net.settings.insert(Setting::Forwarding(Family::V4), 1);
    net.settings.insert(Setting::LinkForwarding(Family::V4, name(DEVICE)), 1);
    net.routes.insert(RouteKey::main(prefix("10.5.2.0/24")), through_device([192, 0, 2, 2]));
    PerNamespace::host(net)
}

/// flannel's device and its routes, without our marks.
fn flannels() -> SimHost {
    let host = host();
    host.edit_net(|net| net.settings.insert(Setting::Forwarding(Family::V4), 1));
    let kind = ObservedKind::Ipip(Ipip { parent: None, local: Some([192, 0, 2, 1].into()) });
    host.add_link(DEVICE, kind, None, Mtu(1480));
    host.add_address(DEVICE, [10, 5, 0, 0].into(), 32);
    host.edit_net(|net| net.addresses.insert(Address { link: name(DEVICE), address: [10, 5, 0, 0].into(), len: 32 }));
    host.add_route(prefix("10.5.2.0/24"), through_device([192, 0, 2, 2]));
    host
}

fn reconciler(host: &SimHost) -> Reconciler<SimKernel> {
    let scope = Scope { devices: [name(DEVICE)].into(), ..scope() };
    Reconciler::new(host.driver(), PerNamespace::host(scope))
}

#[test]
fn flannels_device_and_routes_are_used_as_they_are_and_go_with_the_host() {
    let host = flannels();
    let mut reconciler = reconciler(&host);
    let before = host.state();
    let report = reconciler.round(&wanted([192, 0, 2, 1]));
    assert!(report.converged && report.written + report.removed == 0, "{report:?}");
    assert_eq!(host.state(), before);
    // A host that leaves.
    let report = reconciler.round(&PerNamespace::default());
    assert!(report.converged, "{report:?}");
    let left = host.state();
    assert!(!left.links.contains_key(&name(DEVICE)), "{left:?}");
    assert!(!left.routes.contains_key(&RouteKey::main(prefix("10.5.2.0/24"))), "{left:?}");
}

#[test]
fn whatever_is_done_to_the_device_is_made_good_and_another_address_makes_it_anew() {
    let host = flannels();
    let mut reconciler = reconciler(&host);
    assert!(reconciler.round(&wanted([192, 0, 2, 1])).converged);
    host.edit_net(|net| net.forget_link(name(DEVICE)));
    reconciler.invalidate();
    let report = reconciler.round(&wanted([192, 0, 2, 1]));
    assert!(report.converged && report.written > 0, "{report:?}");
    let report = reconciler.round(&wanted([192, 0, 2, 7]));
    assert!(report.converged, "{report:?}");
    let held = &host.state().links[&name(DEVICE)];
    assert!(matches!(&held.kind, ObservedKind::Ipip(ipip) if ipip.local == Some([192, 0, 2, 7].into())), "{held:?}");
}

#[test]
fn a_device_with_a_fixed_remote_host_is_not_ours_and_is_left_alone() {
    let host = host();
    // Read as a kind that we do not make.
    host.add_link(DEVICE, ObservedKind::Other("ipip".to_owned()), None, Mtu(1480));
    let before = host.state().links[&name(DEVICE)].clone();
    let report = reconciler(&host).round(&wanted([192, 0, 2, 1]));
    assert_eq!(report.findings.conflicts.len(), 1, "{report:?}");
    assert_eq!(host.state().links[&name(DEVICE)], before);
}

//! Operations that the kernel refuses, with the kinds of its errors.

use wire_net::Mtu;
use wire_state::{
    Address, DesiredLink, ErrorKind, FdbKey, FdbTarget, FloodEntry, FloodPath, KernelKind, KernelOp, NeighbourKey,
    NextHop, ObservedRoute, RouteKey, Setting,
    samples::{mac, name, vxlan},
};

use super::{Change, Host, stage::Stage};

fn device() -> DesiredLink<KernelKind> {
    DesiredLink {
        mac: Some(mac(9)),
        ..DesiredLink::new(KernelKind::Vxlan(wire_state::DesiredVxlan { parent: None, ..vxlan() }), Mtu(1450))
    }
}

fn address(link: &str, address: &str) -> Address {
    let address: std::net::IpAddr = address.parse().unwrap();
    Address { link: name(link), address, len: if address.is_ipv4() { 32 } else { 128 } }
}

fn neighbour(link: &str, address: &str) -> NeighbourKey {
    NeighbourKey { link: name(link), address: address.parse().unwrap() }
}

fn key(destination: &str) -> RouteKey {
    RouteKey::main(destination.parse().unwrap())
}

fn hop(link: &str) -> NextHop {
    NextHop::Gateway { gateway: "10.5.9.0".parse().unwrap(), link: name(link), onlink: true }
}

fn fdb(link: &str) -> FdbKey {
    FdbKey { link: name(link), mac: mac(9) }
}

fn flood(link: &str) -> FloodEntry {
    let by = FloodPath::default();
    FloodEntry { link: name(link), mac: wire_net::MacAddr::new([0; 6]), to: [192, 0, 2, 9].into(), by }
}

/// An operation that is refused after some changes.
struct Refusal {
    what: &'static str,
    before: &'static [Change],
    op: KernelOp,
    kind: ErrorKind,
}

fn refusals() -> Vec<Refusal> {
    let refused = |what, before, op, kind| Refusal { what, before, op, kind };
    let down: &[Change] = &[Change::SetDown("flannel.1")];
    let gone: &[Change] = &[Change::DeleteLink("flannel.1")];
    let without_ipv6: &[Change] = &[Change::DisableIpv6("flannel-v6.1")];
    let to = FdbTarget { to: [192, 0, 2, 9].into(), port: None };
    vec![
        refused(
            "a link of the same name",
            &[],
            KernelOp::CreateLink(name("flannel.1"), Box::new(device())),
            ErrorKind::Exists,
        ),
        refused(
            "a link of the same VNI",
            &[],
            KernelOp::CreateLink(name("other"), Box::new(device())),
            ErrorKind::Exists,
        ),
        refused(
            "a change of no link",
            &[],
            KernelOp::ChangeLink(name("none"), Box::new(device())),
            ErrorKind::NoDevice,
        ),
        refused("FDB of no link", &[], KernelOp::PutFdb(fdb("none"), to), ErrorKind::NoDevice),
        refused("FDB of a link that is gone", gone, KernelOp::PutFdb(fdb("flannel.1"), to), ErrorKind::NoDevice),
        refused("flooding of no link", &[], KernelOp::PutFlood(flood("none")), ErrorKind::NoDevice),
        refused("an address of no link", &[], KernelOp::PutAddress(address("none", "10.5.0.9")), ErrorKind::NoDevice),
        refused(
            "a neighbour on no link",
            &[],
            KernelOp::PutNeighbour(neighbour("none", "10.5.9.0"), mac(9)),
            ErrorKind::NoDevice,
        ),
        refused(
            "a neighbour on a link that is gone",
            gone,
            KernelOp::PutNeighbour(neighbour("flannel.1", "10.5.9.0"), mac(9)),
            ErrorKind::NoDevice,
        ),
        refused("a route on no link", &[], KernelOp::AddRoute(key("10.5.9.0/24"), hop("none")), ErrorKind::NoDevice),
        refused(
            "a route on a link that is gone",
            gone,
            KernelOp::AddRoute(key("10.5.9.0/24"), hop("flannel.1")),
            ErrorKind::NoDevice,
        ),
        refused(
            "a route on a link that is down",
            down,
            KernelOp::AddRoute(key("10.5.9.0/24"), hop("flannel.1")),
            ErrorKind::Other,
        ),
        refused(
            "a replaced route on a link that is down",
            down,
            KernelOp::ReplaceRoute(key("10.5.9.0/24"), hop("flannel.1")),
            ErrorKind::Other,
        ),
        refused(
            "a route of ours that is there",
            &[],
            KernelOp::AddRoute(key("10.5.2.0/24"), hop("flannel.1")),
            ErrorKind::Exists,
        ),
        refused(
            "a foreign route that is there",
            &[Change::AddRoute("10.5.9.0/24", "wb-up")],
            KernelOp::AddRoute(key("10.5.9.0/24"), hop("flannel.1")),
            ErrorKind::Exists,
        ),
        refused(
            "an IPv6 address on a link without IPv6",
            without_ipv6,
            KernelOp::PutAddress(address("flannel-v6.1", "fd00:5::9")),
            ErrorKind::Permission,
        ),
        refused("a setting of no link", &[], KernelOp::Set(Setting::DisableIpv6(name("none")), 0), ErrorKind::Absent),
        refused(
            "a setting of IPv6 on a link that has none",
            &[Change::SetMtu("flannel.1", 1200)],
            KernelOp::Set(Setting::DisableIpv6(name("flannel.1")), 0),
            ErrorKind::Absent,
        ),
    ]
}

pub(super) fn each_operation_that_is_refused_fails_with_its_kind<H: Host>() {
    for Refusal { what, before, op, kind } in refusals() {
        Stage::<H>::settled(move |mut stage| {
            before.iter().for_each(|change| stage.change(*change));
            assert_eq!(stage.apply(&op), Err(kind), "{what}");
        });
    }
}

pub(super) fn what_is_there_or_gone_already_counts_as_done<H: Host>() {
    Stage::<H>::settled(|mut stage| {
        let before = stage.read();
        let own = *before.addresses.first().unwrap();
        let (fdb_key, to) = before.fdb.iter().next().map(|(key, to)| (*key, *to)).unwrap();
        let (neighbour_key, lladdr) = before.neighbours.iter().next().map(|(key, mac)| (*key, *mac)).unwrap();
        let ops = [
            KernelOp::PutAddress(own),
            KernelOp::PutFdb(fdb_key, to),
            KernelOp::PutNeighbour(neighbour_key, lladdr),
            KernelOp::DeleteLink(name("none")),
            KernelOp::DeleteAddress(address("none", "10.5.0.9")),
            KernelOp::DeleteAddress(address("flannel.1", "10.5.0.9")),
            KernelOp::DeleteFdb(fdb("none")),
            KernelOp::DeleteFdb(fdb("flannel.1")),
            KernelOp::DeleteFlood(flood("none")),
            KernelOp::DeleteFlood(flood("flannel.1")),
            KernelOp::DeleteNeighbour(neighbour("none", "10.5.9.0")),
            KernelOp::DeleteNeighbour(neighbour("flannel.1", "10.5.9.0")),
            KernelOp::DeleteRoute(key("10.5.9.0/24"), Box::new(ObservedRoute::ours(hop("none")))),
            KernelOp::DeleteRoute(key("10.5.9.0/24"), Box::new(ObservedRoute::ours(hop("flannel.1")))),
            KernelOp::Set(Setting::RouterAdvertisements(name("none")), 0),
            KernelOp::Set(Setting::DisableIpv6(name("none")), 1),
        ];
        for op in ops {
            assert_eq!(stage.apply(&op), Ok(()), "{op}");
        }
        assert_eq!(super::entries::difference(&before, &stage.read()), "");
    });
}

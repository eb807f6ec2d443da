use nix::errno::Errno;
use proptest::prelude::*;
use wire_net::{LinkName, Mtu, Vni};

use super::*;
use crate::{
    Attempt, Bridge, Capabilities, DataplaneError, DesiredKind, DesiredLink, DesiredNet, DesiredVxlan, ErrorKind,
    Framing, KernelKind, KernelOp, LinkPlace, Namespace, Network, NextHop, ObservedNet, Op, OpError, PerNamespace,
    Scope, Tunnel, TunnelOp, Veth, Via,
    network::plan::tests::{any_state, any_want, assert_reached},
    samples::{change_each, device, held, mac, state},
    sim::Sim,
};

const ERRORS: [ErrorKind; 5] =
    [ErrorKind::Permission, ErrorKind::NoBuffers, ErrorKind::NoDevice, ErrorKind::Busy, ErrorKind::Lost];

fn reconciler(have: &ObservedNet) -> (Sim<Network>, Reconciler<Sim<Network>>) {
    let sim = Sim::of_host(have.clone());
    (sim.clone(), Reconciler::new(sim, PerNamespace::default()))
}

/// A round with that desired state of the host's namespace.
fn round<D: Driver<Resource = Network>>(reconciler: &mut Reconciler<D>, want: &DesiredNet) -> Report<Network> {
    reconciler.round(&PerNamespace::host(want.clone()))
}

#[test]
fn a_second_round_uses_the_cached_state_and_writes_nothing() {
    let (sim, mut reconciler) = reconciler(&ObservedNet::default());
    let want = state(&[(2, 20, 102)]);
    let first = round(&mut reconciler, &want);
    assert!(first.converged);
    assert!(first.read_back);
    assert_eq!(first.written, 5);
    assert_eq!(first.removed, 0);
    let reads = sim.read_times();
    assert!(round(&mut reconciler, &want).converged);
    assert!(round(&mut reconciler, &state(&[(3, 30, 103)])).converged);
    assert_eq!(sim.read_times(), reads);
    assert_reached(&sim.host(), &state(&[(3, 30, 103)]));
}

#[test]
fn a_round_names_the_first_of_what_it_changed_and_how_many_more() {
    let (sim, mut reconciler) = reconciler(&held(&state(&[])));
    let report = round(&mut reconciler, &state(&[(2, 20, 102), (3, 30, 103)]));
    assert_eq!(report.written, 6);
    assert_eq!(report.changes.len(), NAMED);
    assert!(report.named().starts_with("set FDB entry "), "{}", report.named());
    assert!(report.named().ends_with("; and 2 more"), "{}", report.named());
    // Only the change of this round is listed.
    let address = crate::Address { link: "flannel.1".parse().unwrap(), address: [169, 254, 9, 9].into(), len: 16 };
    sim.edit_host(|state| state.addresses.extend([address]));
    reconciler.invalidate();
    let report = round(&mut reconciler, &state(&[(2, 20, 102), (3, 30, 103)]));
    assert_eq!(report.named(), "delete address 169.254.9.9/16 dev flannel.1");
}

#[test]
fn the_cached_state_is_what_the_kernel_holds() {
    let (sim, mut reconciler) = reconciler(&ObservedNet::default());
    for want in [state(&[(2, 20, 102)]), state(&[(2, 21, 103), (3, 30, 103)]), state(&[]), DesiredNet::default()] {
        assert!(round(&mut reconciler, &want).converged);
        assert_eq!(reconciler.cached().unwrap().get(Namespace::Host), Some(&sim.host()));
    }
    assert_eq!(sim.host(), ObservedNet::default());
}

/// Every kind of operation fails with every kind of error, one to four times: a later round converges.
#[test]
fn whatever_fails_the_next_round_converges() {
    let link = "flannel.1".parse().unwrap();
    let mut renamed = state(&[]);
    renamed.links.insert(link, device(7));
    let mut changed = state(&[(2, 20, 102), (3, 30, 103), (4, 40, 104)]);
    changed.addresses.insert(crate::Address { link, address: "10.5.9.0".parse().unwrap(), len: 32 });
    let mut changed = held(&changed);
    change_each(&mut changed.routes, |route| route.via = Via::NextHop(NextHop::Link(link)));
    let full = state(&[(2, 21, 102), (5, 50, 105)]);
    // The observed state, the desired state, and the operations between them.
    let puts = ["create link", "add address", "set FDB entry", "set neighbour", "add route"];
    let deletes = ["replace route", "delete route", "delete neighbour", "delete FDB entry", "delete address"];
    let nothing = DesiredNet::default();
    let ways: [(ObservedNet, &DesiredNet, &[&'static str]); 4] = [
        (ObservedNet::default(), &full, &puts),
        (changed, &full, &deletes),
        (held(&renamed), &full, &["change link"]),
        (held(&full), &nothing, &["delete link"]),
    ];
    let mut tried = 0;
    for (have, want, ops) in ways {
        for &op in ops {
            for error in ERRORS {
                for times in [1, 2, 3, 4] {
                    let (sim, mut reconciler) = reconciler(&have);
                    (0..times).for_each(|_| sim.fail_next(op, error));
                    let first = round(&mut reconciler, want);
                    assert!(first.failed > 0, "{op} never met {error:?}");
                    let said = first.converged || !first.failures.is_empty();
                    assert!(said, "{op} {error:?} {times}: {first:?}");
                    let mut rounds = 1;
                    while !round(&mut reconciler, want).converged {
                        rounds += 1;
                        assert!(rounds < 4, "{op} {error:?} {times}");
                    }
                    assert_reached(&sim.host(), want);
                    tried += 1;
                }
            }
        }
    }
    assert_eq!(tried, 12 * 5 * 4);
}

#[test]
fn a_failure_stops_no_other_and_is_reported_once_for_its_kind() {
    let (sim, mut reconciler) = reconciler(&held(&state(&[])));
    let want = state(&[(2, 20, 102), (3, 30, 103), (4, 40, 104)]);
    (0..9).for_each(|_| sim.fail_next("set neighbour", ErrorKind::NoBuffers));
    let report = round(&mut reconciler, &want);
    assert!(!report.converged);
    assert_eq!(sim.host().routes.len(), 3);
    insta::assert_snapshot!(report.failures[0], @"set neighbour 10.5.2.0 dev flannel.1 lladdr 02:00:00:00:00:14: the kernel has no memory for it: No buffer space available (os error 105) (and 2 more)");
    assert_eq!(report.failures.len(), 1);
    assert!(round(&mut reconciler, &want).converged);
}

/// A pair of links between the host and a container, with an address inside.
fn container(number: u8) -> [(Namespace, DesiredNet); 2] {
    let (guest, port, inside) =
        (Namespace::Guest(number.into()), format!("wp{number}").parse().unwrap(), "eth1".parse().unwrap());
    let end = |namespace, name, last| {
        let kind = DesiredKind::Kernel(KernelKind::Veth(Veth { peer: LinkPlace { namespace, name } }));
        DesiredLink { mac: Some(mac(last)), ..DesiredLink::new(kind, Mtu(1450)) }
    };
    let (mut host, mut net) = (DesiredNet::default(), DesiredNet::default());
    host.links.insert(port, end(guest, inside, number));
    net.links.insert(inside, end(Namespace::Host, port, number + 100));
    net.addresses.insert(crate::Address { link: inside, address: [10, 128, 0, number].into(), len: 20 });
    [(Namespace::Host, host), (guest, net)]
}

/// A kernel that makes no link of this name, as long as there is one.
struct Refusing {
    sim: Sim<Network>,
    refused: Option<LinkName>,
}

const fn made(op: &Op) -> Option<LinkName> {
    match op {
        Op::Kernel(_, KernelOp::CreateLink(name, _)) | Op::Tunnel(TunnelOp::Create(name, _)) => Some(*name),
        Op::Kernel(..) | Op::Tunnel(_) => None,
    }
}

impl Driver for Refusing {
    type Resource = Network;

    fn read(&mut self, scope: &PerNamespace<Scope>) -> Result<PerNamespace<ObservedNet>, DataplaneError> {
        self.sim.read(scope)
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Attempt> {
        let refused: Vec<bool> = ops.iter().map(|op| made(op).is_some_and(|made| Some(made) == self.refused)).collect();
        let each = ops.iter().zip(refused).map(|(op, is_refused)| match is_refused {
            true => Err(OpError::of(Errno::EEXIST)),
            false => self.sim.apply(std::slice::from_ref(op)).remove(0),
        });
        each.collect()
    }
}

#[test]
fn a_container_that_cannot_have_its_link_stops_no_other_container_and_no_network() {
    let guests = [1, 2].map(|number| (Namespace::Guest(number), ObservedNet::default()));
    let sim = Sim::<Network>::new(guests.into_iter().chain([(Namespace::Host, held(&state(&[])))]).collect());
    let driver = Refusing { sim: sim.clone(), refused: "wp1".parse().ok() };
    let mut reconciler = Reconciler::new(driver, PerNamespace::default());
    let [(_, bad), (bad_guest, bad_net)] = container(1);
    let [(_, good), (good_guest, good_net)] = container(2);
    let mut host = state(&[(2, 20, 102)]);
    host.links.extend(bad.links.into_iter().chain(good.links));
    let want: PerNamespace<DesiredNet> =
        [(Namespace::Host, host), (bad_guest, bad_net), (good_guest, good_net)].into_iter().collect();
    // A route that nobody wants is removed too.
    sim.edit_host(|host| host.routes = held(&state(&[(3, 30, 103)])).routes);
    let report = reconciler.round(&want);
    assert!(!report.converged, "{report:?}");
    let failed: Vec<String> = report.failed_ops.iter().map(ToString::to_string).collect();
    let is_of_bad = failed.iter().skip(1).all(|op| op.ends_with("in namespace 1"));
    assert!(failed[0].starts_with("create link wp1") && is_of_bad, "{failed:?}");
    let found = sim.state();
    assert!(found.get(good_guest).is_some_and(|net| net.addresses.len() == 1), "{found:?}");
    assert!(found.get(bad_guest).is_none_or(|net| net.links.is_empty() && net.addresses.is_empty()));
    assert_eq!(sim.host().routes.len(), 1, "the default network is as it should be");
    reconciler.driver().refused = None;
    reconciler.try_again();
    assert!(reconciler.round(&want).converged);
    assert!(sim.state().get(bad_guest).is_some_and(|net| net.addresses.len() == 1));
}

#[test]
fn what_has_failed_apart_is_neither_read_nor_tried_again_as_others_change_but_when_it_changes_itself() {
    let guest = Namespace::Guest(1);
    let sim = Sim::<Network>::new(
        [(guest, ObservedNet::default()), (Namespace::Host, held(&state(&[])))].into_iter().collect(),
    );
    let driver = Refusing { sim: sim.clone(), refused: "wp1".parse().ok() };
    let mut reconciler = Reconciler::new(driver, PerNamespace::default());
    let want = |peers: &[(u8, u8, u8)], mtu: u16| -> PerNamespace<DesiredNet> {
        let [(_, ports), (guest, inside)] = container(1);
        let mut host = state(peers);
        host.links
            .extend(ports.links.into_iter().map(|(name, port)| (name, DesiredLink { mtu: Mtu(mtu.into()), ..port })));
        [(Namespace::Host, host), (guest, inside)].into_iter().collect()
    };
    let first = reconciler.round(&want(&[], 1450));
    assert!(!first.converged && first.fails_apart());
    let (reads, written) = (sim.read_times(), sim.written());
    for peers in [vec![(2, 20, 102)], vec![(2, 20, 102), (3, 30, 103)], vec![]] {
        let report = reconciler.round(&want(&peers, 1450));
        assert!(!report.converged && report.fails_apart() && !report.read_back, "{report:?}");
        assert_eq!(report.failed_ops, first.failed_ops, "it is still said");
        assert_eq!(report.failures[0].to_string(), first.failures[0].to_string());
        assert_eq!(sim.host().routes.len(), peers.len(), "what others want is done");
    }
    assert_eq!(sim.read_times(), reads);
    assert_eq!(sim.written() - written, 12, "three entries for each peer that came or went");
    // It is refused no longer, which nobody tells; it is to be made in another way.
    reconciler.driver().refused = None;
    assert!(!reconciler.round(&want(&[], 1450)).converged);
    assert!(reconciler.round(&want(&[], 1400)).converged);
    assert!(sim.state().get(guest).is_some_and(|net| net.addresses.len() == 1));
}

fn by_kernel(vni: u32) -> DesiredKind {
    DesiredKind::Kernel(KernelKind::Vxlan(DesiredVxlan::new(Vni::new(vni).unwrap())))
}

fn by_agent(vni: u32) -> DesiredKind {
    let port = u16::try_from(56_000 + vni).unwrap();
    DesiredKind::Tunnel(Tunnel {
        framing: Framing::Ethernet { vni: Vni::new(vni).unwrap() },
        local: ([192, 0, 2, 1], port).into(),
        own: None,
        source_check: true,
        queues: 1,
        capabilities: Capabilities::ALL,
    })
}

/// A network on a bridge: the bridge and a device that is its port and leads to other hosts.
fn bridged(vni: u32, by: fn(u32) -> DesiredKind) -> DesiredNet {
    let [bridge, overlay]: [LinkName; 2] = [format!("wb.{vni}"), format!("wv.{vni}")].map(|name| name.parse().unwrap());
    let link = |kind| DesiredLink::new(kind, Mtu(1450));
    let mut net = DesiredNet::default();
    let options = Bridge { snooping: false, spanning_tree: false };
    net.links.insert(bridge, link(DesiredKind::Kernel(KernelKind::Bridge(options))));
    net.links.insert(overlay, DesiredLink { master: Some(bridge), ..link(by(vni)) });
    let last = u8::try_from(vni % 100).unwrap();
    net.addresses.insert(crate::Address { link: bridge, address: [10, 128, last, 1].into(), len: 24 });
    net
}

#[test]
fn a_network_whose_bridge_or_device_cannot_be_made_stops_no_other() {
    let ways: [fn(u32) -> DesiredKind; 2] = [by_kernel, by_agent];
    for (refused, by) in ways.into_iter().flat_map(|by| [("wb.5001", by), ("wv.5001", by)]) {
        let sim = Sim::of_host(held(&state(&[])));
        let driver = Refusing { sim: sim.clone(), refused: refused.parse().ok() };
        let mut reconciler = Reconciler::new(driver, PerNamespace::default());
        let mut want = state(&[(2, 20, 102)]);
        for vni in [5001, 5002] {
            let net = bridged(vni, by);
            want.links.extend(net.links);
            want.addresses.extend(net.addresses);
        }
        let report = round(&mut reconciler, &want);
        assert!(!report.converged && report.is_whole() && report.fails_apart(), "{refused}: {report:?}");
        let found = sim.host();
        assert_eq!(found.routes.len(), 1, "the default network is as it should be");
        assert!(found.addresses.iter().any(|address| address.link.as_str() == "wb.5002"), "{refused}: {found:?}");
        reconciler.driver().refused = None;
        reconciler.try_again();
        assert!(round(&mut reconciler, &want).converged);
        assert!(sim.host().addresses.iter().any(|address| address.link.as_str() == "wb.5001"));
    }
}

#[test]
fn a_round_that_stops_at_a_device_says_that_the_rest_was_not_tried() {
    let sim = Sim::of_host(ObservedNet::default());
    let driver = Refusing { sim: sim.clone(), refused: "flannel.1".parse().ok() };
    let mut reconciler = Reconciler::new(driver, PerNamespace::default());
    let report = round(&mut reconciler, &state(&[(2, 20, 102)]));
    assert!(report.is_cut_short && !report.is_whole() && !report.fails_apart());
    reconciler.driver().refused = None;
    let report = round(&mut reconciler, &state(&[(2, 20, 102)]));
    assert!(report.converged && report.is_whole());
}

#[test]
fn a_kernel_that_cannot_be_read_is_not_written() {
    let (sim, mut reconciler) = reconciler(&ObservedNet::default());
    sim.fail_reads(3);
    let report = round(&mut reconciler, &state(&[]));
    assert!(!report.converged);
    assert_eq!(sim.written(), 0);
    insta::assert_snapshot!(report.failures[0], @"cannot read the simulation from the kernel: No buffer space available (os error 105)");
    assert!(round(&mut reconciler, &state(&[])).converged);
}

#[test]
fn a_device_that_is_removed_or_set_down_is_restored_with_all_entries() {
    let want = state(&[(2, 20, 102), (3, 30, 103)]);
    let link = "flannel.1".parse().unwrap();
    let (sim, mut reconciler) = reconciler(&ObservedNet::default());
    let _ = round(&mut reconciler, &want);
    sim.edit_host(|state| state.forget_link(link));
    reconciler.invalidate();
    assert!(round(&mut reconciler, &want).converged);
    assert_reached(&sim.host(), &want);
    sim.set_down(link);
    reconciler.invalidate();
    assert!(round(&mut reconciler, &want).converged);
    assert_reached(&sim.host(), &want);
}

proptest! {
    #[test]
    fn any_failures_anywhere_converge_and_touch_nothing_foreign(
        have in any_state(),
        wants in prop::collection::vec(any_want(), 1..4),
        faults in prop::collection::vec((0usize..12, 0usize..5), 0..6),
    ) {
        const NAMES: [&str; 12] = [
            "create link", "change link", "delete link", "add address", "delete address", "set FDB entry",
            "delete FDB entry", "set neighbour", "delete neighbour", "add route", "replace route", "delete route",
        ];
        let (sim, mut reconciler) = reconciler(&have);
        for want in &wants {
            for (name, error) in &faults {
                sim.fail_next(NAMES[*name], ERRORS[*error]);
            }
            let rounds = (0..8).take_while(|_| !round(&mut reconciler, want).converged).count();
            prop_assert!(rounds < 8);
            assert_reached(&sim.host(), want);
        }
        prop_assert_eq!(sim.host().foreign(), have.foreign());
    }
}

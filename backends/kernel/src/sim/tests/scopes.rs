//! Networks that come and go: the observed state brought forward is the one that a full read finds.

use wire_net::{MacAddr, Vni};
use wire_state::{
    BridgeFdbKey, DesiredKind, DesiredLink, DesiredVxlan, FdbKey, FdbTarget, KernelKind, LinkRef, NeighbourKey,
    PortFlag, PortFlags,
};

use super::*;

/// A step of a host's life.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// It takes part in a network, or no longer.
    Take(u8),
    /// The names of a network's links come into the scope, or leave it, whatever is there.
    Scope(u8),
    /// One more address, or one less, in all networks.
    Addresses(u8),
    /// Somebody else makes or removes a bridge that has a network's name.
    Other(u8),
    /// Somebody else removes a network's device.
    Harm(u8),
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_u8).prop_map(Step::Take),
        2 => (0..4_u8).prop_map(Step::Scope),
        2 => (0..4_u8).prop_map(Step::Addresses),
        1 => (0..4_u8).prop_map(Step::Other),
        1 => (0..4_u8).prop_map(Step::Harm),
    ]
}

fn bridge(number: u8) -> LinkName {
    name(&format!("wb.{number}"))
}

fn overlay(number: u8) -> LinkName {
    name(&format!("wv.{number}"))
}

/// A network on a bridge, with that many addresses of another host.
fn add_network(net: &mut DesiredNet, number: u8, addresses: u8) {
    let (bridge, overlay) = (bridge(number), overlay(number));
    let link = |kind, last| DesiredLink {
        mac: Some(MacAddr::new([2, 0, 0, 0, number, last])),
        ..DesiredLink::new(DesiredKind::Kernel(kind), Mtu(1450))
    };
    net.links.insert(bridge, link(KernelKind::Bridge(Bridge { snooping: false, spanning_tree: false }), 1));
    let parent = scope().parent.map(LinkRef::Found);
    let vxlan = DesiredVxlan { parent, ..DesiredVxlan::new(Vni::new(5000 + u32::from(number)).unwrap()) };
    let port = Some(PortFlags::NEW_PORT.with(PortFlag::Learning, false));
    net.links.insert(overlay, DesiredLink { master: Some(bridge), port, ..link(KernelKind::Vxlan(vxlan), 2) });
    net.addresses.insert(Address { link: bridge, address: [10, number, 0, 1].into(), len: 24 });
    net.settings.insert(Setting::LinkForwarding(wire_net::Family::V4, bridge), 1);
    for last in 2..2 + addresses {
        let mac = MacAddr::new([2, 0x57, 10, number, 0, last]);
        net.fdb.insert(FdbKey { link: overlay, mac }, FdbTarget { to: [192, 0, 2, 102].into(), port: None });
        net.bridge_fdb.insert(BridgeFdbKey { bridge, mac }, overlay);
        net.neighbours.insert(NeighbourKey { link: bridge, address: [10, number, 0, last].into() }, mac);
    }
}

/// A host with the networks that it takes part in, and the names that its scope has beside theirs.
struct Life {
    host: SimHost,
    reconciler: Reconciler<SimKernel>,
    taken: Vec<u8>,
    named: Vec<u8>,
    addresses: u8,
}

impl Life {
    fn new() -> Self {
        let host = host();
        let mut reconciler = reconciler(&host);
        assert!(reconciler.round(&wanted(&[(2, 20, 102)])).converged);
        Self { host, reconciler, taken: Vec::new(), named: Vec::new(), addresses: 2 }
    }

    fn scope(&self) -> PerNamespace<Scope> {
        let mut all = scope();
        all.devices.extend(self.taken.iter().chain(&self.named).flat_map(|number| [bridge(*number), overlay(*number)]));
        PerNamespace::host(all)
    }

    fn want(&self) -> PerNamespace<DesiredNet> {
        let mut net = state(&[(2, 20, 102), (3, 30, 103)]);
        self.taken.iter().for_each(|number| add_network(&mut net, *number, self.addresses));
        PerNamespace::host(net)
    }

    /// True if others may have changed something, of which a monitor tells.
    fn take(&mut self, step: Step) -> bool {
        match step {
            Step::Take(number) => turn(&mut self.taken, number),
            Step::Scope(number) => turn(&mut self.named, number),
            Step::Addresses(addresses) => self.addresses = addresses,
            Step::Other(number) => {
                let name = format!("wb.{number}");
                if self.host.has_link(bridge(number)) {
                    self.host.delete_link(&name);
                } else {
                    self.host.add_link(&name, ObservedKind::Bridge(Bridge::default()), Some(mac(50)), Mtu(1500));
                }
                return true;
            }
            Step::Harm(number) if self.host.has_link(overlay(number)) => {
                self.host.delete_link(&format!("wv.{number}"));
                return true;
            }
            Step::Harm(_) => {}
        }
        false
    }

    /// The state that the agent takes the host to have is what a full read finds.
    fn assert_known(&mut self, when: &str) {
        let mut again = self.reconciler.driver().clone();
        let Some(cached) = self.reconciler.cached() else { return };
        assert_eq!(*cached, again.read(self.reconciler.scope()).unwrap(), "{when}");
    }
}

fn turn(numbers: &mut Vec<u8>, number: u8) {
    match numbers.iter().position(|there| *there == number) {
        Some(index) => drop(numbers.remove(index)),
        None => numbers.push(number),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn after_a_change_of_scope_the_observed_state_brought_forward_equals_the_one_read_in_full(
        steps in proptest::collection::vec(any_step(), 1..24),
    ) {
        let mut life = Life::new();
        for step in steps {
            if life.take(step) {
                life.reconciler.invalidate();
            }
            life.reconciler.set_scope(life.scope());
            life.assert_known(&format!("the scope of {step:?}"));
            let report = life.reconciler.round(&life.want());
            prop_assert!(report.converged, "{step:?}: {report:?}");
            life.assert_known(&format!("the round of {step:?}"));
            let plan = wire_state::plan(life.reconciler.cached().unwrap(), &life.want());
            prop_assert_eq!(plan.ops, vec![], "{:?}", step);
        }
    }
}

#[test]
fn a_network_that_comes_and_one_that_goes_do_not_have_all_read() {
    let mut life = Life::new();
    for step in [Step::Take(1), Step::Take(2), Step::Addresses(3)] {
        let _ = life.take(step);
        life.reconciler.set_scope(life.scope());
        let report = life.reconciler.round(&life.want());
        assert!(report.converged && !report.read_back, "{step:?}: {report:?}");
    }
    // One that is left: first its links go, then their names leave the scope.
    let scope = life.scope();
    let _ = life.take(Step::Take(1));
    life.reconciler.set_scope(scope);
    let report = life.reconciler.round(&life.want());
    assert!(report.converged && report.removed > 0 && !report.read_back, "{report:?}");
    life.reconciler.set_scope(life.scope());
    assert!(!life.reconciler.round(&life.want()).read_back);
    life.assert_known("the end");
}

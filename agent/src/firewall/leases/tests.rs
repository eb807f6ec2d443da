use wire_firewall::{FirewallPolicy, Masquerade, OverlayDevice, Senders};
use wire_lease::{BackendData, Lease, LeaseTable, Origin};
use wire_net::{DualStack, NetworkName, Pool, Subnet};
use wire_state::{Attempt, DataplaneError, FirewallOp, ObservedFirewall, sim::Sim};
use wire_store::Revision;

use super::*;

/// A packet filter that counts what it is asked for.
struct Counting {
    filter: Sim<Firewall>,
    reads: usize,
    batches: Vec<Vec<FirewallOp>>,
}

impl Driver for Counting {
    type Resource = Firewall;

    fn read(&mut self, scope: &()) -> Result<ObservedFirewall, DataplaneError> {
        self.reads += 1;
        self.filter.read(scope)
    }

    fn apply(&mut self, ops: &[FirewallOp]) -> Vec<Attempt> {
        self.batches.push(ops.to_vec());
        self.filter.apply(ops)
    }
}

fn entry(number: u8, host: u8) -> (Subnet, Arc<Entry>) {
    let v4 = format!("10.5.{number}.0/24").parse().ok();
    let subnet = Subnet::new(DualStack { v4, v6: None }).unwrap();
    let public = DualStack { v4: format!("192.0.2.{host}").parse().ok(), v6: None };
    let origin = Origin { create_revision: Revision(1), mod_revision: Revision(1), lease: None };
    (subnet, Arc::new(Entry { lease: Lease::new(subnet, public, BackendData::Untyped), origin }))
}

fn policy() -> FirewallPolicy {
    let parsed = |text: &str| text.parse().unwrap();
    let (network, min, max) = (parsed("10.5.0.0/16"), parsed("10.5.1.0/24"), parsed("10.5.255.0/24"));
    let v4 = Some(Pool { network, subnet_len: 24, min, max });
    FirewallPolicy {
        network: NetworkName::default(),
        pools: DualStack { v4, v6: None },
        masquerade: Masquerade::Random,
        forward: true,
        senders: Senders::Peers,
        flowtable: false,
        direct: None,
        beside: DualStack::default(),
    }
}

fn device() -> OverlayDevice {
    OverlayDevice {
        link: "flannel.1".parse().unwrap(),
        parent: None,
        carrier: wire_firewall::Carrier::Udp { port: 8472 },
        vni: wire_net::Vni::new(1),
        local: "192.0.2.1".parse().ok(),
        in_kernel: true,
        has_policy: false,
        inner: 30,
    }
}

/// The share of a host with lease 1 among these leases, each with the number of its host.
fn share(peers: &[(u8, u8)]) -> FirewallShare {
    let mut leases = LeaseTable::default();
    leases.peers = peers.iter().map(|(peer, host)| entry(*peer, *host)).collect();
    FirewallShare {
        policy: Arc::new(policy()),
        own: entry(1, 1).1,
        leases: Arc::new(leases),
        devices: DualStack { v4: Some(device()), v6: None },
        docker_options: Arc::default(),
        mtu: 1450,
        is_userspace: false,
        joins: 1,
    }
}

fn among(peers: &[(u8, u8)], share: &FirewallShare) -> Filtered {
    let leases = self::share(peers).leases;
    let flat = [(NetworkName::default(), FirewallShare { leases, ..share.clone() })].into();
    Filtered { flat, ..Filtered::default() }
}

/// A loop that has put the rules for the leases 2 and 3, which are of one host.
fn settled(share: &FirewallShare) -> (Reconciler<Counting>, Rules) {
    let filter = Counting { filter: Sim::new(ObservedFirewall::default()), reads: 0, batches: Vec::new() };
    let (mut reconciler, mut rules) = (Reconciler::new(filter, ()), Rules::default());
    let (desired, _) = rules.desired(&among(&[(2, 2), (3, 2)], share), &HostFacts::default());
    assert!(reconciler.round(&desired).converged);
    reconciler.driver().batches.clear();
    (reconciler, rules)
}

#[test]
fn one_lease_costs_one_request_which_names_its_elements_alone() {
    let share = share(&[]);
    let (mut reconciler, mut rules) = settled(&share);
    let reads = reconciler.driver().reads;
    let followed = follow(&mut reconciler, &mut rules, &among(&[(2, 2), (3, 2), (4, 4)], &share)).unwrap();
    assert!(followed.report.converged && !followed.report.read_back);
    let followed = follow(&mut reconciler, &mut rules, &among(&[(3, 2), (4, 4)], &share)).unwrap();
    assert!(followed.report.converged && !followed.report.read_back);
    let batches: Vec<Vec<String>> = reconciler.driver().batches.iter().map(|ops| names(ops)).collect();
    let joined = "change sets inet wire-agent: peers-v4 +192.0.2.4 subnets-v4-24 +10.5.4.0/24 of 192.0.2.4";
    let left = "change sets inet wire-agent: subnets-v4-24 -10.5.2.0/24 of 192.0.2.2";
    assert_eq!(batches, [[joined], [left]]);
    assert_eq!(reconciler.driver().reads, reads);
}

fn names(ops: &[FirewallOp]) -> Vec<String> {
    ops.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_brought_forward_is_what_all_leases_give_and_what_the_filter_holds() {
    let share = share(&[]);
    let (mut reconciler, mut rules) = settled(&share);
    for peers in [&[(2, 2), (4, 2)][..], &[(2, 7), (4, 2)], &[], &[(5, 5), (6, 5), (7, 5)], &[(6, 5)]] {
        let shares = among(peers, &share);
        follow(&mut reconciler, &mut rules, &shares).unwrap();
        let (all, _) = Rules::default().desired(&shares, &HostFacts::default());
        assert_eq!(rules.merged().0, all, "{peers:?}");
        let observed = reconciler.driver().filter.state();
        assert!(observed.table.unwrap().equals(all.table.as_ref().unwrap()), "{peers:?}");
    }
}

#[test]
fn other_changes_than_leases_need_a_look() {
    let share = share(&[]);
    let peers = [(2, 2), (3, 2), (4, 4)];
    let shares = [
        FirewallShare { policy: Arc::new(policy()), ..share.clone() },
        FirewallShare { own: entry(9, 1).1, ..share.clone() },
        FirewallShare { devices: DualStack::default(), ..share.clone() },
        FirewallShare { docker_options: Arc::default(), ..share.clone() },
        FirewallShare { mtu: 1400, ..share.clone() },
        FirewallShare { is_userspace: true, ..share.clone() },
        FirewallShare { joins: 2, ..share.clone() },
    ];
    for changed in shares {
        let (mut reconciler, mut rules) = settled(&share);
        assert!(follow(&mut reconciler, &mut rules, &among(&peers, &changed)).is_none(), "{changed:?}");
    }
    let (mut reconciler, mut rules) = settled(&share);
    reconciler.invalidate();
    assert!(follow(&mut reconciler, &mut rules, &among(&peers, &share)).is_none(), "the filter must be read");
    let mut two = among(&peers, &share);
    two.flat.insert("blue".parse().unwrap(), share.clone());
    let (mut reconciler, mut rules) = settled(&share);
    assert!(follow(&mut reconciler, &mut rules, &two).is_none(), "another network");
}

#[test]
fn a_set_that_another_program_has_deleted_is_read_and_put_again() {
    let share = share(&[]);
    let (mut reconciler, mut rules) = settled(&share);
    reconciler.driver().filter.edit(|filter| filter.table = None);
    let shares = among(&[(2, 2), (3, 2), (4, 4)], &share);
    let report = follow(&mut reconciler, &mut rules, &shares).unwrap().report;
    assert!(report.converged && report.read_back);
    let (all, _) = Rules::default().desired(&shares, &HostFacts::default());
    assert!(reconciler.driver().filter.state().table.unwrap().equals(all.table.as_ref().unwrap()));
}

#[test]
fn ports_of_flat_networks_are_those_of_all_their_devices() {
    let beside = OverlayDevice { carrier: wire_firewall::Carrier::Udp { port: 8285 }, ..device() };
    let of_ipip = OverlayDevice { carrier: wire_firewall::Carrier::Ipip, ..device() };
    let with = |beside| FirewallShare {
        policy: Arc::new(FirewallPolicy { beside: DualStack { v4: Some(beside), v6: None }, ..policy() }),
        ..share(&[])
    };
    for (device, expected) in [(beside, vec![8285, 8472]), (of_ipip, vec![8472])] {
        let mut rules = Rules::default();
        rules.desired(&among(&[], &with(device)), &HostFacts::default());
        assert_eq!(rules.of.1.flat_ports.into_iter().collect::<Vec<_>>(), expected);
    }
}

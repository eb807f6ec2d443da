use proptest::prelude::*;
use wire_lease::{BackendData, NetworkConfig, Origin, Vtep};
use wire_net::{DualStack, Subnet, Vni};
use wire_store::Revision;

use super::*;
use crate::{ForwardSettings, Placement, VxlanBy, select, select::tests::placement};

const CONFIGS: [&str; 7] = [
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#,
    r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/32","Backend":{"Type":"vxlan"}}"#,
    r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/32","Backend":{"Type":"udp"}}"#,
    r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.0.0","SubnetMax":"10.5.3.0","Backend":{"Type":"udp"}}"#,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"alloc"}}"#,
    r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/32","Backend":{"Type":"host-gw"}}"#,
    r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","DirectRouting":true}}"#,
];

/// A peer of few possible ones: its subnet, its host, whether it has IPv6, and its backend. Two leases of one host have the same MAC and
/// the same public addresses, as admission demands.
#[derive(Clone, Copy, Debug)]
struct Peer {
    subnet: u8,
    host: u8,
    dual: bool,
    backend: u8,
}

impl Peer {
    fn lease(self) -> Lease {
        let Self { subnet, host, dual, backend } = self;
        let v4 = Prefix::new([10, 5, subnet, 0].into(), 24).unwrap();
        let v6 = Prefix::new(format!("fd00:5:0:{subnet}::").parse().unwrap(), 64).unwrap();
        // The last two hosts are inside the network: one beside the range that is leased, one in it.
        let public: IpAddr = match host {
            0..=2 => [192, 0, 2, 100 + host].into(),
            // Behind a router.
            3 => [198, 51, 100, 3].into(),
            4 => [10, 5, 200, 1].into(),
            _ => [10, 5, 3, 1].into(),
        };
        let public_v6: IpAddr = format!("2001:db8::{host}").parse().unwrap();
        let vtep = Vtep { vni: Vni::new(1), mac: MacAddr::new([2, 0, 0, 0, 1, host]) };
        let data = match backend {
            0..=3 => BackendData::Vxlan(DualStack { v4: Some(vtep), v6: dual.then_some(vtep) }),
            4..=6 => BackendData::Untyped,
            _ => BackendData::HostGw,
        };
        let subnet = Subnet::new(DualStack { v4: Some(v4), v6: dual.then_some(v6) }).unwrap();
        Lease::new(subnet, DualStack { v4: Some(public), v6: dual.then_some(public_v6) }, data)
    }
}

fn any_peer() -> impl Strategy<Value = Peer> {
    let parts = (0..6u8, 0..6u8, any::<bool>(), 0..8u8);
    parts.prop_map(|(subnet, host, dual, backend)| Peer { subnet, host, dual, backend })
}

/// A table with at most one lease for each IPv4 prefix, as admission makes it.
fn table(peers: &[Peer], outside: Option<IpAddr>) -> LeaseTable {
    let mut by_prefix = BTreeMap::new();
    for peer in peers {
        by_prefix.insert(peer.subnet, peer.lease());
    }
    let origin = Origin { create_revision: Revision(1), mod_revision: Revision(1), lease: None };
    let entry = |lease: Lease| (lease.subnet, Arc::new(Entry { lease, origin }));
    let mut table = LeaseTable::default();
    table.outside = outside.into_iter().collect();
    table.peers = by_prefix.into_values().map(entry).collect();
    table
}

proptest! {
    /// Brought forward over any tables, and over changes of our own lease, it is what is computed from all leases.
    #[test]
    fn brought_forward_it_is_as_computed_from_all_leases(
        config in 0..CONFIGS.len(),
        is_userspace in any::<bool>(),
        steps in prop::collection::vec((prop::collection::vec(any_peer(), 0..8), 0..12u8), 1..8),
    ) {
        let config = NetworkConfig::from_json(CONFIGS[config].as_bytes()).unwrap();
        let vxlan = if is_userspace { VxlanBy::AgentRequested } else { VxlanBy::Kernel };
        let forward = ForwardSettings { vxlan, ..ForwardSettings::default() };
        let backend = select(&config, Placement { blackhole: true, forward, ..placement() }).unwrap();
        let own = Peer { subnet: 9, host: 0, dual: true, backend: 0 };
        let mut kept = NetFromLeases::new(&*backend, &own.lease(), &LeaseTable::default());
        for (peers, other) in steps {
            // Seldom our own address changes, or an address of etcd is inside the network.
            let own = Peer { host: if other == 0 { 3 } else { 0 }, ..own }.lease();
            let table = table(&peers, (other == 1).then(|| [10, 5, 77, 7].into()));
            kept.update(&*backend, &own, &table);
            prop_assert_eq!(kept.net(), &backend.desired(&own, &table));
            let computed = NetFromLeases::new(&*backend, &own, &table);
            prop_assert_eq!(kept.beyond_link(), computed.beyond_link());
            prop_assert!(kept.check(&*backend));
        }
    }
}

#[test]
fn one_of_two_leases_of_a_host_takes_along_only_what_is_its_own() {
    let backend = select(&NetworkConfig::from_json(CONFIGS[0].as_bytes()).unwrap(), placement()).unwrap();
    let peer = |subnet| Peer { subnet, host: 1, dual: false, backend: 0 };
    let own = Peer { subnet: 9, host: 0, dual: false, backend: 0 }.lease();
    let mut kept = NetFromLeases::new(&*backend, &own, &table(&[peer(1), peer(2)], None));
    assert_eq!((kept.net().fdb.len(), kept.net().routes.len()), (1, 2));
    kept.update(&*backend, &own, &table(&[peer(2)], None));
    assert_eq!((kept.net().fdb.len(), kept.net().routes.len()), (1, 1), "the other lease needs the FDB entry");
    kept.update(&*backend, &own, &table(&[], None));
    assert_eq!((kept.net().fdb.len(), kept.net().routes.len()), (0, 0));
}

#[test]
fn a_check_finds_an_entry_that_should_not_be_there() {
    let backend = select(&NetworkConfig::from_json(CONFIGS[0].as_bytes()).unwrap(), placement()).unwrap();
    let own = Peer { subnet: 9, host: 0, dual: false, backend: 0 }.lease();
    let mut kept = NetFromLeases::new(&*backend, &own, &LeaseTable::default());
    kept.add(PeerEntry::Route(RouteKey::main(Prefix::new([10, 5, 1, 0].into(), 24).unwrap()), NextHop::Blackhole));
    assert!(!kept.check(&*backend));
    assert_eq!(kept.net(), &backend.desired(&own, &LeaseTable::default()));
}

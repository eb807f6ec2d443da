use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use wire_lease::{Entry, FormerBackend, LeaseTable, Origin, Vtep};
use wire_net::{DualStack, MacAddr, Subnet, Vni};
use wire_state::NextHop;
use wire_store::Revision;

use super::*;
use crate::{ForwardSettings, NetFromLeases, Placement, identify, select, select::tests::placement};

const BACKENDS: [&str; 6] = [
    r#"{"Type":"vxlan"}"#,
    r#"{"Type":"vxlan","VNI":7}"#,
    r#"{"Type":"udp"}"#,
    r#"{"Type":"host-gw"}"#,
    r#"{"Type":"ipip","DirectRouting":true}"#,
    r#"{"Type":"vxlan","VNI":9,"Port":4790,"DirectRouting":true}"#,
];

fn config(backend: usize) -> NetworkConfig {
    config_with(BACKENDS[backend])
}

fn config_with(backend: &str) -> NetworkConfig {
    NetworkConfig::from_json(format!(r#"{{"Network":"10.5.0.0/16","Backend":{backend}}}"#).as_bytes()).unwrap()
}

fn spoken(backend: usize) -> Spoken {
    let config = config(backend);
    let placement = Placement { blackhole: true, forward: ForwardSettings::default(), ..placement() };
    Spoken { backend: select(&config, placement).unwrap(), port: identify(&config).unwrap().port }
}

/// The data that a host publishes which speaks such a backend.
fn data(backend: usize, host: u8) -> FormerBackend {
    let vtep = |vni| Vtep { vni: Vni::new(vni), mac: MacAddr::new([2, 0, 0, 0, 1, host]) };
    let vxlan = |vni| BackendData::Vxlan(DualStack { v4: Some(vtep(vni)), v6: None });
    let (data, port) = match backend {
        0 => (vxlan(1), Some(8472)),
        1 => (vxlan(7), Some(8472)),
        2 => (BackendData::Untyped, Some(8285)),
        3 => (BackendData::HostGw, None),
        4 => (BackendData::Ipip, None),
        _ => (vxlan(9), Some(4790)),
    };
    FormerBackend { data, port }
}

/// A peer's lease. The fourth host is behind a router.
fn lease(host: u8, now: usize, former: Option<usize>) -> Lease {
    let subnet = Subnet::new(DualStack { v4: Some(Prefix::new([10, 5, host, 0].into(), 24).unwrap()), v6: None });
    let public: IpAddr = if host == 4 { [198, 51, 100, 4].into() } else { [192, 0, 2, 100 + host].into() };
    let FormerBackend { data: own, port } = data(now, host);
    let former = former.map(|former| Box::new(data(former, host)));
    let public = DualStack { v4: Some(public), v6: None };
    Lease { port, former, ..Lease::new(subnet.unwrap(), public, own) }
}

fn table(peers: &[Lease]) -> LeaseTable {
    let origin = Origin { create_revision: Revision(1), mod_revision: Revision(1), lease: None };
    let mut by_subnet = BTreeMap::new();
    for lease in peers {
        by_subnet.insert(lease.subnet, Arc::new(Entry { lease: lease.clone(), origin }));
    }
    let mut table = LeaseTable::default();
    table.peers = by_subnet.into_iter().collect();
    table
}

/// The link of the route to a host, as one sees it that speaks `now` and `former`.
fn link_to(now: usize, former: usize, peer: &Lease) -> Option<String> {
    let both = WithFormer::new(spoken(now), spoken(former));
    let net = both.desired(&lease(9, now, None), &table(std::slice::from_ref(peer)));
    let subnet = peer.subnet.prefixes().next().unwrap();
    let route = net
        .routes
        .iter()
        .filter(|(key, _)| key.destination.covers(subnet))
        .max_by_key(|(key, _)| key.destination.len());
    route.and_then(|(_, hop)| hop.link()).map(|link| link.to_string())
}

#[test]
fn a_peer_is_reached_by_the_new_backend_if_it_has_it_and_else_by_the_former_one() {
    let rows = [
        (1, 0, lease(1, 0, None), "flannel.1"),
        (1, 0, lease(1, 1, Some(0)), "flannel.7"),
        (1, 0, lease(1, 1, None), "flannel.7"),
        (3, 0, lease(1, 0, None), "flannel.1"),
        (3, 0, lease(1, 3, Some(0)), "eth0"),
        (0, 3, lease(1, 3, None), "eth0"),
        (0, 2, lease(1, 2, None), "flannel0"),
        (0, 2, lease(1, 0, Some(2)), "flannel.1"),
        (2, 0, lease(1, 0, None), "flannel.1"),
        (2, 0, lease(1, 2, Some(0)), "flannel0"),
        // Not on the link: by the former backend while both speak it.
        (3, 0, lease(4, 3, Some(0)), "flannel.1"),
    ];
    for (now, former, peer, link) in rows {
        assert_eq!(link_to(now, former, &peer).as_deref(), Some(link), "{now} after {former}: {peer:?}");
    }
    // The network config was changed twice, and that host has not seen the second.
    assert_eq!(link_to(1, 3, &lease(1, 0, None)), None);
}

#[test]
fn a_host_that_was_not_restarted_yet_reaches_one_that_was_by_what_both_speak() {
    for (old, new) in [(0, 1), (0, 3), (3, 0), (0, 2), (2, 0), (0, 4), (1, 5)] {
        let Spoken { backend, .. } = spoken(old);
        let (peer, other) = (lease(1, new, Some(old)), lease(1, new, None));
        let peer = Lease {
            port: None,
            former: peer.former.map(|former| Box::new(FormerBackend { port: None, ..*former })),
            ..peer
        };
        let own = lease(9, old, None);
        let before = backend.desired(&own, &table(&[Lease { port: None, ..lease(1, old, None) }]));
        assert_eq!(backend.desired(&own, &table(&[peer])), before, "{old} {new}");
        assert_eq!(backend.desired(&own, &table(&[other])), backend.desired(&own, &table(&[])), "{old} {new}");
    }
}

#[test]
fn both_hosts_choose_one_way_also_if_the_config_was_changed_back() {
    for (one, other) in [(0, 1), (0, 3), (2, 0), (1, 2)] {
        let here = link_to(one, other, &lease(1, other, Some(one)));
        let there = link_to(other, one, &lease(1, one, Some(other)));
        assert!(here.is_some() && here == there, "{here:?} {there:?}");
    }
}

#[test]
fn a_host_behind_a_router_is_named_as_soon_as_it_has_left_the_backend_that_reaches_it() {
    let both = WithFormer::new(spoken(3), spoken(0));
    assert_eq!(both.beyond_link(&lease(4, 0, None)), None);
    assert_eq!(both.beyond_link(&lease(4, 3, Some(0))), Some([198, 51, 100, 4].into()));
    assert_eq!(both.beyond_link(&lease(1, 3, Some(0))), None);
}

#[test]
fn the_former_backend_is_needed_while_a_peer_is_reached_by_it_alone() {
    let both = WithFormer::new(spoken(1), spoken(0));
    assert!(both.needs_former(&lease(1, 0, None)) && both.needs_former(&lease(1, 3, Some(0))));
    assert!(!both.needs_former(&lease(1, 1, Some(0))) && !both.needs_former(&lease(1, 0, Some(1))));
    assert!(!both.needs_former(&lease(1, 2, None)));
}

#[test]
fn two_that_want_one_port_are_not_spoken_at_once_unless_the_kernel_can() {
    assert_eq!(why_not_beside(&config(1), &config(0), VxlanBy::Kernel), None);
    assert_eq!(why_not_beside(&config(3), &config(0), VxlanBy::AgentFallback), None);
    let with_policy = config_with(r#"{"Type":"vxlan","VNI":7,"GBP":true}"#);
    let on_the_same_port = config_with(r#"{"Type":"udp","Port":8472}"#);
    for (now, vxlan) in
        [(&config(1), VxlanBy::AgentFallback), (&with_policy, VxlanBy::Kernel), (&on_the_same_port, VxlanBy::Kernel)]
    {
        let why = why_not_beside(now, &config(0), vxlan);
        assert_eq!(why.as_deref(), Some("both have the UDP port 8472"), "{now:?}");
    }
}

#[test]
fn an_entry_for_our_own_mac_is_not_made() {
    let both = WithFormer::new(spoken(1), spoken(0));
    let mut peer = lease(1, 1, Some(0));
    let own =
        BackendData::Vxlan(DualStack { v4: placement().macs.v4.map(|mac| Vtep { vni: Vni::new(1), mac }), v6: None });
    peer.former = Some(Box::new(FormerBackend { data: own, port: None }));
    let net = both.desired(&lease(9, 1, None), &table(&[peer]));
    assert!(net.fdb.keys().all(|key| key.link.as_str() == "flannel.7"), "{:?}", net.fdb);
}

fn any_lease() -> impl Strategy<Value = Lease> {
    let parts = (1..6_u8, 0..BACKENDS.len(), prop::option::of((0..BACKENDS.len(), 1..6_u8)));
    // Records may claim MACs of other hosts.
    parts.prop_map(|(host, now, former)| Lease {
        former: former.map(|(former, claimed)| Box::new(data(former, claimed))),
        ..lease(host, now, None)
    })
}

proptest! {
    /// Whichever two backends, and whatever peers speak: brought forward, it is what follows from all leases; no route leads to a link that
    /// is not there; each peer has a way if and only if it is reached, and its entries are on links of ours.
    #[test]
    fn brought_forward_it_is_as_computed_from_all_leases(
        now in 0..BACKENDS.len(),
        former in 0..BACKENDS.len(),
        steps in prop::collection::vec(prop::collection::vec(any_lease(), 0..6), 1..8),
    ) {
        prop_assume!(now != former);
        let both = WithFormer::new(spoken(now), spoken(former));
        let own = lease(9, now, Some(former));
        let mut kept = NetFromLeases::new(&both, &own, &LeaseTable::default());
        for peers in steps {
            let table = table(&peers);
            kept.update(&both, &own, &table);
            let net = kept.net().clone();
            prop_assert_eq!(&net, &both.desired(&own, &table));
            prop_assert!(kept.check(&both));
            let is_ours = |link: &LinkName| net.links.contains_key(link) || link.as_str() == "eth0";
            prop_assert!(net.routes.values().filter_map(NextHop::link).all(|link| is_ours(&link)));
            prop_assert!(net.fdb.keys().all(|key| net.links.contains_key(&key.link)));
            // Whoever has the same backends has entries for the same peers on each device as with one of them alone.
            for entry in table.peers.values() {
                let alone = [&both.now, &both.former].map(|spoken| spoken.backend.seen(&entry.lease).is_some());
                prop_assert_eq!(both.seen(&entry.lease).is_some(), alone.contains(&true));
            }
        }
    }
}

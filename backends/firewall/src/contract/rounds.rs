//! What a round leaves in the packet filter.

use wire_net::Family;
use wire_state::{
    ChainName, ChainTable, ChainTableKind, DesiredFirewall, DesiredNet, Driver as _, Element, EmptyTables, ErrorKind,
    Firewall, FirewallOp, ObservedChain, ObservedFirewall, Operation as _, OurTable, Reconciler, Resource as _,
    SetChange, TableName,
};

use super::{Change, Host};
use crate::{
    BridgeTable, ContainerPort, Overlays,
    tests::{name, policy, wanted},
};

/// The rules of a host with these peers.
pub(super) fn want(peers: &[u8]) -> DesiredFirewall {
    let port = ContainerPort {
        link: name("wp1"),
        mac: "02:57:0a:80:00:21".parse().unwrap(),
        addresses: vec![[10, 128, 0, 33].into(), "fd57:5000::21".parse().unwrap()],
    };
    let bridge = Some(BridgeTable::new(&DesiredNet::default(), &[port], Overlays::JudgedBefore).table().clone());
    DesiredFirewall { bridge, ..wanted(&policy(true), peers, &["docker0"]) }
}

/// An agent that has put the rules of a host with two peers.
pub(super) fn settled<H: Host>(host: &H) -> Reconciler<H::Filter> {
    let mut reconciler = Reconciler::new(host.filter(), ());
    let report = reconciler.round(&want(&[2, 3]));
    assert!(report.converged, "{report:?}");
    reconciler
}

/// The packet filter as its driver reads it.
pub(super) fn read<D: wire_state::Driver<Resource = Firewall>>(reconciler: &mut Reconciler<D>) -> ObservedFirewall {
    reconciler.driver().read(&()).unwrap()
}

pub(super) fn what_was_put_is_read_back_and_a_second_plan_is_empty<H: Host>() {
    H::on_new(|host| {
        let mut reconciler = settled(&host);
        let cached = reconciler.cached().unwrap().clone();
        assert_eq!(read(&mut reconciler), cached);
        let plan = Firewall::plan(&cached, &want(&[2, 3]));
        assert_eq!(plan.ops, []);
    });
}

pub(super) fn peers_that_change_change_the_sets_alone<H: Host>() {
    H::on_new(|host| {
        let mut reconciler = settled(&host);
        let plan = reconciler.preview(&want(&[3, 4])).unwrap();
        let ops: Vec<&str> = plan.ops.iter().map(FirewallOp::name).collect();
        assert_eq!(ops, ["change sets"]);
        assert!(reconciler.round(&want(&[3, 4])).converged);
        let peers = &read(&mut reconciler).table.unwrap().sets["peers-v4"].elements;
        let expected = ["192.0.2.3", "192.0.2.4"].map(|peer| Element::Address(peer.parse().unwrap()));
        assert_eq!(*peers, expected.into_iter().collect());
    });
}

pub(super) fn our_own_writes_are_heard_and_are_no_change<H: Host>() {
    H::on_new(|host| {
        let mut monitor = host.monitor();
        let mut reconciler = Reconciler::new(host.filter(), ());
        assert!(H::has_changed(reconciler.driver()), "before the first read");
        assert!(reconciler.round(&want(&[2])).converged);
        assert!(host.has_heard(&mut monitor), "heard");
        assert!(!host.has_heard(&mut monitor), "heard once");
        assert!(!H::has_changed(reconciler.driver()), "no change");
        assert!(reconciler.round(&want(&[2, 3])).converged);
        assert!(!H::has_changed(reconciler.driver()), "no change by an element");
        assert!(host.has_heard(&mut monitor), "an element is heard");
        assert!(H::has_own_writes_alone(reconciler.driver()), "it was our own");
        host.change(Change::AddForeignTable);
        assert!(reconciler.round(&want(&[2])).written > 0);
        assert!(H::has_changed(reconciler.driver()), "another wrote in between");
        assert!(!H::has_own_writes_alone(reconciler.driver()), "not all were our own");
    });
}

pub(super) fn rules_that_are_no_longer_desired_are_gone<H: Host>() {
    H::on_new(|host| {
        let mut reconciler = settled(&host);
        assert!(reconciler.round(&DesiredFirewall::default()).converged);
        let found = read(&mut reconciler);
        assert_eq!((found.table, found.bridge), (None, None));
        assert_eq!(found.chains.len(), 0);
    });
}

fn change_peers(add: &[&str], remove: &[&str]) -> FirewallOp {
    change_set("peers-v4", add, remove)
}

fn change_set(set: &str, add: &[&str], remove: &[&str]) -> FirewallOp {
    let elements = |texts: &[&str]| texts.iter().map(|text| Element::Address(text.parse().unwrap())).collect();
    FirewallOp::ChangeSets(
        OurTable::default(),
        [(set.to_owned(), SetChange { add: elements(add), remove: elements(remove) })].into(),
    )
}

fn apply<H: Host>(reconciler: &mut Reconciler<H::Filter>, op: FirewallOp) -> Result<(), ErrorKind> {
    reconciler.driver().apply(&[op]).pop().unwrap().map_err(|error| error.kind)
}

pub(super) fn a_change_of_sets_that_cannot_be_made_is_refused_as_a_whole<H: Host>() {
    H::on_new(|host| {
        let mut reconciler = settled(&host);
        let before = read(&mut reconciler);
        let absent = change_peers(&["192.0.2.77"], &["192.0.2.66"]);
        assert_eq!(apply::<H>(&mut reconciler, absent), Err(ErrorKind::Absent), "an element that is not there");
        let no_set = change_set("peers-v5", &["192.0.2.77"], &[]);
        assert_eq!(apply::<H>(&mut reconciler, no_set), Err(ErrorKind::Absent), "a set that is not there");
        assert_eq!(read(&mut reconciler), before, "all is as before");
        let again = change_peers(&["192.0.2.2"], &[]);
        assert_eq!(apply::<H>(&mut reconciler, again), Ok(()), "an element that is there");
        host.change(Change::DeleteTable);
        let no_table = change_peers(&["192.0.2.77"], &[]);
        assert_eq!(apply::<H>(&mut reconciler, no_table), Err(ErrorKind::Absent), "a table that is not there");
    });
}

pub(super) fn what_is_gone_already_can_be_deleted<H: Host>() {
    H::on_new(|host| {
        let mut reconciler = settled(&host);
        host.change(Change::FlushAll);
        read(&mut reconciler);
        assert_eq!(
            apply::<H>(&mut reconciler, FirewallOp::DeleteTable(TableName::Ours(OurTable::default()))),
            Ok(()),
            "the table"
        );
        let table = ChainTable { family: Family::V4, kind: ChainTableKind::Filter };
        let name = ChainName { table, name: "WIRE-FORWARD".to_owned() };
        let chain = FirewallOp::DeleteChain(name, ObservedChain::default(), EmptyTables::Keep);
        assert_eq!(apply::<H>(&mut reconciler, chain), Ok(()), "a chain");
    });
}

//! What others do to the packet filter.

use wire_state::{Firewall, Operation as _, Reconciler, Resource as _};

use super::{
    Host,
    rounds::{read, settled, want},
};

/// A change by another program, to our table if nothing else is said.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    /// Deletes all rules of nftables and iptables.
    FlushAll,
    DeleteTable,
    FlushChain(&'static str),
    FlushSet(&'static str),
    AddElement(&'static str, &'static str),
    DeleteElement(&'static str, &'static str),
    /// Removes the rules of a chain of iptables.
    FlushChains(&'static str),
    AddForeignRule,
    AddForeignTable,
}

/// Changes, with the operations that put things right.
const CHANGES: [(Change, &[&str]); 11] = [
    (Change::FlushAll, &["put table", "put table", "put chains", "put chains"]),
    (Change::DeleteTable, &["put table"]),
    (Change::FlushChain("sources"), &["put table"]),
    (Change::FlushSet("peers-v4"), &["change sets"]),
    (Change::AddElement("peers-v4", "192.0.2.66"), &["change sets"]),
    (Change::AddElement("peers-v6", "2001:db8::66"), &["change sets"]),
    (Change::DeleteElement("peers-v4", "192.0.2.2"), &["change sets"]),
    (Change::FlushChains("WIRE-FORWARD"), &["put chains"]),
    (Change::FlushChains("FORWARD"), &["put chains"]),
    (Change::AddForeignRule, &[]),
    (Change::AddForeignTable, &[]),
];

pub(super) fn each_change_by_others_is_heard_and_read_again<H: Host>() {
    for (change, _) in CHANGES {
        H::on_new(move |host| {
            let mut reconciler = settled(&host);
            let mut monitor = host.monitor();
            host.change(change);
            assert!(host.has_heard(&mut monitor), "{change:?} is heard");
            assert!(!host.has_heard(&mut monitor), "{change:?} is heard once");
            assert!(H::has_changed(reconciler.driver()), "{change:?} is a change");
        });
    }
}

pub(super) fn each_change_by_others_needs_its_repair<H: Host>() {
    for (change, repair) in CHANGES {
        H::on_new(move |host| {
            let mut reconciler: Reconciler<H::Filter> = settled(&host);
            host.change(change);
            let found = read(&mut reconciler);
            let plan = Firewall::plan(&found, &want(&[2, 3]));
            let ops: Vec<&str> = plan.ops.iter().map(wire_state::FirewallOp::name).collect();
            assert_eq!(ops, repair, "{change:?}");
            reconciler.invalidate();
            assert!(reconciler.round(&want(&[2, 3])).converged, "{change:?}");
            let plan = Firewall::plan(&read(&mut reconciler), &want(&[2, 3]));
            assert_eq!(plan.ops, [], "{change:?} is put right");
        });
    }
}

//! Several flat networks on one host: each one's packet filter reads, writes and deletes its own tables alone.

use wire_net::{Family, NetworkName};
use wire_netlink::lab::{in_namespace, run};
use wire_state::{DesiredFirewall, Driver as _, OurTable, Reconciler, Resource as _, TableFamily};

use super::{bridges, policy, reconciler, repair, segments, wanted};
use crate::{FirewallDataplane, FirewallPolicy};

fn blue() -> NetworkName {
    "blue".parse().unwrap()
}

/// The rules of the default network and of networks by name.
fn of_default() -> DesiredFirewall {
    let by_name = DesiredFirewall { bridge: bridges::desired(&[64]).bridge, ..segments::desired() };
    let network = NetworkName::default();
    let shares = [wanted(&policy(true), &[2, 3], &["docker0"]), by_name];
    let shares = shares.each_ref().map(|desired| wire_state::Share { network: &network, desired });
    let (merged, clashes) = wire_state::Firewall::merge(&shares);
    assert!(clashes.is_empty(), "{clashes:?}");
    merged
}

fn tables() -> String {
    run("nft -s list table inet wire-agent; nft -s list table bridge wire-agent")
}

#[test]
fn a_further_flat_network_neither_reads_nor_deletes_the_tables_of_the_default_network_and_of_networks_by_name() {
    in_namespace(|| {
        let (mut default, want) = (reconciler(), of_default());
        assert!(default.round(&want).converged);
        let before = tables();
        assert!(before.contains("set vteps-v4") && before.contains("set senders-v4"), "{before}");

        let mut further = Reconciler::new(FirewallDataplane::new(blue(), Family::ALL.to_vec()), ());
        let found = further.driver().read(&()).unwrap();
        assert_eq!((&found.table, &found.bridge), (&None, &None));
        let report = further.round(&DesiredFirewall::default());
        assert!(report.converged && report.written == 0, "{report:?}");

        let of_blue = wanted(&FirewallPolicy { network: blue(), ..policy(true) }, &[2], &["docker0"]);
        assert!(further.round(&of_blue).converged);
        assert!(run("nft list tables").contains("table inet wire-agent-blue"));
        assert!(repair(&mut further, &DesiredFirewall::default()).converged);
        assert!(!run("nft list tables").contains("wire-agent-blue"));
        assert_eq!(tables(), before);
        let report = repair(&mut default, &want);
        assert!(report.converged && report.written == 0, "{report:?}");
    });
}

#[test]
fn the_default_network_neither_reads_nor_deletes_the_tables_of_a_further_one_in_any_family() {
    in_namespace(|| {
        let mut further = Reconciler::new(FirewallDataplane::new(blue(), Family::ALL.to_vec()), ());
        let of_blue = TableFamily::ALL.map(|family| OurTable { family, network: blue() });
        let [inet, bridge] = of_blue.map(|name| wire_state::DesiredTable { name, ..Default::default() });
        let want = DesiredFirewall { table: Some(inet), bridge: Some(bridge), ..DesiredFirewall::default() };
        assert!(further.round(&want).converged);
        let mut default = reconciler();
        assert!(default.round(&of_default()).converged && default.round(&DesiredFirewall::default()).converged);
        let left = run("nft list tables");
        let left: Vec<&str> = left.lines().filter(|line| line.contains("wire-agent")).collect();
        assert_eq!(left, ["table inet wire-agent-blue", "table bridge wire-agent-blue"]);
        let report = repair(&mut further, &want);
        assert!(report.converged && report.written == 0, "{report:?}");
    });
}

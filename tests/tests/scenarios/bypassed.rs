//! Rules of ip-rule(8) by which packets for peers never come to the agent's routes.

use wire_tests::{Family, Result, check, eventually, lab};

use crate::cluster::{Node, START, V4, cluster, put_peers};

#[test]
fn a_routing_rule_that_leads_packets_for_peers_elsewhere_is_named_until_it_leads_none() -> Result {
    let lab = lab!();
    let (etcd, [node]) = cluster::<1>(&lab, V4)?;
    put_peers(&etcd, 1, &[Family::V4])?;
    let told = |expected: bool| {
        eventually(START, || {
            let said = node.agent.status()?.rest["warnings"].to_string();
            let is_told = said.contains("100: from 10.5.0.0/16 lookup 99") && said.contains("past the table main");
            check(is_told == expected, || format!("{said}\n{}", node.agent.log()))
        })
    };
    // The table has no route for peers.
    change(&node, "ip rule add from 10.5.0.0/16 lookup 99 priority 100; ip route add 192.0.2.0/24 dev eth0 table 99")?;
    told(false)?;
    change(&node, "ip route add default dev eth0 table 99")?;
    told(true)?;
    check(node.agent.status()?.phase == "ready", || "an operator may want it so".to_owned())?;
    // What the remedy says.
    change(&node, "ip rule add to 10.5.0.0/16 lookup main priority 99")?;
    told(false)?;
    change(&node, "ip rule delete priority 99; ip route replace default dev flannel.1 table 99")?;
    told(false)?;
    change(&node, "ip route delete default table 99; ip route add unreachable default table 99")?;
    told(true).map(drop)
}

/// Of rules and of routes in other tables nobody notifies: the address that comes with them has the agent look at once, not within a minute.
fn change(node: &Node, script: &str) -> Result {
    let nudge = "ip address add 203.0.113.9/32 dev eth0; ip address delete 203.0.113.9/32 dev eth0";
    node.host.namespace().sh(&format!("{script}; {nudge}")).map(drop)
}

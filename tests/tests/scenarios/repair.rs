//! What anyone breaks in the kernel is whole again within a second.

use std::time::Instant;

use wire_tests::{Family, Host, Monitor, Result, check, eventually, lab, measured};

use crate::cluster::{DUAL, Node, PROMPT, cluster, device, exact, put_peers, settle};

/// Each way to break it, as a shell script run on the host for each device `$D` of family `-$F`.
const BREAKS: [(&str, &str); 9] = [
    ("device deleted", "ip link delete $D"),
    ("device down", "ip link set $D down"),
    ("MAC changed", "ip link set $D address 02:de:ad:00:00:01"),
    ("MTU changed", "ip link set $D mtu 1300"),
    ("addresses flushed", "ip -$F address flush dev $D scope global"),
    ("routes flushed", "ip -$F route flush dev $D scope global"),
    ("neighbours flushed", "ip -$F neighbour flush dev $D nud permanent"),
    (
        "FDB flushed",
        "bridge fdb show dev $D | while read mac rest; do bridge fdb delete $mac dev $D $(echo $rest | grep -o 'dst [^ ]*'); done",
    ),
    (
        "all of them",
        "ip -$F route flush dev $D scope global; ip -$F neighbour flush dev $D nud permanent; ip link set $D down; ip link delete $D",
    ),
];

#[test]
fn whatever_is_broken_in_the_kernel_is_whole_again_within_a_second() -> Result {
    let lab = lab!();
    let (etcd, [node, other]) = cluster::<2>(&lab, DUAL)?;
    put_peers(&etcd, 50, &Family::ALL)?;
    settle(&etcd, &[&node], &Family::ALL)?;
    let whole = links(&node.host)?;
    for (what, script) in BREAKS {
        for family in Family::ALL {
            let monitor = Monitor::listen(node.host.namespace())?;
            let number = if family == Family::V4 { 4 } else { 6 };
            let start = Instant::now();
            node.host.namespace().sh(&format!("D={}; F={number}; {script}", device(family)))?;
            let broken = || format!("{what}, {family}\n{}", node.agent.log());
            let again = eventually(PROMPT * 3, || {
                exact(&etcd, &[&node], &Family::ALL)?;
                check(links(&node.host)? == whole, || format!("{:?} instead of {whole:?}", links(&node.host)))
            });
            again.map_err(|error| wire_tests::LabError::Wrong(format!("{error:?}\n{}", broken())))?;
            let last = monitor.changes()?.last().map(|change| change.at - start).unwrap_or_default();
            measured("kernel-repaired", last)?;
            check(last < PROMPT, || format!("the last write came after {last:?}: {}", broken()))?;
            check(!last.is_zero(), || format!("nothing was broken: {}", broken()))?;
        }
        let reaches = Family::ALL.iter().all(|family| other.vtep(*family).is_ok_and(|vtep| node.host.reaches(vtep)));
        check(reaches, || format!("no traffic after {what}"))?;
    }
    Ok(())
}

/// What must be as it was: address, MTU, flags and kind of our devices, and their addresses, but not their index.
fn links(host: &Host) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for family in Family::ALL {
        let link = host.kernel().link(device(family))?;
        let link = link.map(|link| (link.address, link.mtu, link.flags.contains(&"UP".to_owned()), link.linkinfo));
        let addresses = host.kernel().addresses(device(family))?;
        let addresses: Vec<_> = addresses.into_iter().filter(|address| address.scope == "global").collect();
        lines.push(format!("{link:?} {addresses:?}"));
    }
    Ok(lines)
}

#[test]
fn an_uplink_that_flaps_ten_times_is_no_storm_of_writes() -> Result {
    let lab = lab!();
    let (etcd, [node, other]) = cluster::<2>(&lab, DUAL)?;
    let monitor = Monitor::listen(node.host.namespace())?;
    for _ in 0..10 {
        node.host.set_carrier(false)?;
        node.host.set_carrier(true)?;
    }
    eventually(PROMPT, || {
        exact(&etcd, &[&node], &Family::ALL)?;
        check(node.host.pings(other.vtep(Family::V4)?), || "no traffic after the flaps".to_owned())
    })?;
    let index = node.host.kernel().link(device(Family::V4))?.unwrap().index;
    let writes = monitor.changes()?.iter().filter(|change| change.device == index).count();
    check(writes < 20, || format!("{writes} changes of our device"))
}

#[test]
fn a_foreign_route_in_the_way_or_inside_a_peers_subnet_is_left_alone_and_named() -> Result {
    let lab = lab!();
    let (etcd, [node]) = cluster::<1>(&lab, crate::cluster::V4)?;
    let peers = put_peers(&etcd, 3, &[Family::V4])?;
    settle(&etcd, &[&node], &[Family::V4])?;
    let subnet = peers[0].subnet;
    etcd.delete(&peers[0].key())?;
    settle(&etcd, &[&node], &[Family::V4])?;
    node.host.namespace().ip(&format!("route add {subnet}/24 via 192.168.64.254 dev eth0 proto static"))?;
    etcd.put(&peers[0].key(), &peers[0].value())?;
    eventually(PROMPT, || named(&node, &subnet.to_string()))?;
    let routes = node.host.kernel().routes(Family::V4)?;
    let foreign = routes.iter().find(|route| route.destination == format!("{subnet}/24")).unwrap();
    check(foreign.protocol == "static", || format!("{foreign:?}"))?;
    // Out of the way, ours comes.
    node.host.namespace().ip(&format!("route delete {subnet}/24 dev eth0"))?;
    eventually(PROMPT * 2, || exact(&etcd, &[&node], &[Family::V4]))?;
    // One that is longer stands in the way of packets alone.
    for (change, warned) in [("add", true), ("delete", false)] {
        node.host.namespace().ip(&format!("route {change} {subnet}/32 via 192.168.64.254 dev eth0"))?;
        eventually(PROMPT, || {
            let status = node.agent.status()?;
            let said = status.rest["warnings"].to_string();
            let right = said.contains(&format!("packets for {subnet}/24")) == warned && status.phase == "ready";
            check(right, || format!("{}: {said}", status.phase))
        })?;
    }
    Ok(())
}

fn named(node: &Node, subnet: &str) -> Result {
    let reason = node.agent.status()?.reason.unwrap_or_default();
    check(reason.contains(subnet) && reason.contains("static"), || format!("the status says {reason:?}"))
}

//! A network by name whose entries are more than the kernel's notifications of them find room for.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use wire_tests::{Etcd, Host, Lab, LabError, LargeNetwork, Monitor, Result, check, eventually, lab, measured};

use crate::{
    cluster::{Node, START, V4, cluster},
    named::{network, silent},
};

/// The time within which all is there on a busy machine with a debug build. Even without a cause all is compared each minute.
const LARGE: Duration = Duration::from_secs(30);
/// Of each member 32 addresses, with three entries each: about forty thousand in all.
const NETWORK: LargeNetwork = LargeNetwork { members: 400 };

/// A host of a cluster with the records of a large network that it has no part in.
fn beside(lab: &Lab) -> Result<(Etcd, Node)> {
    let (etcd, [node]) = cluster::<1>(lab, V4)?;
    etcd.put_all(&NETWORK.records())?;
    Ok((etcd, node))
}

/// The entries of each table that lead to other hosts.
fn entries(host: &Host) -> Result<[usize; 3]> {
    let vni = LargeNetwork::VNI;
    let counted = host.namespace().sh(&format!(
        "bridge fdb show dev wv.{vni} | grep -c 'dst 172.20' || true
         bridge fdb show dev wv.{vni} | grep 'master wb.{vni}' | grep -c '02:57:' || true
         ip neigh show dev wb.{vni} nud permanent | wc -l"
    ))?;
    let counted: Vec<usize> = counted.lines().filter_map(|line| line.trim().parse().ok()).collect();
    counted.try_into().map_err(|counted| LabError::Wrong(format!("{counted:?}")))
}

fn is_whole(host: &Host) -> Result {
    let all = NETWORK.addresses().count();
    let there = entries(host)?;
    check(there == [all; 3], || format!("{there:?} of {all}"))
}

#[test]
fn what_a_stranger_changes_while_a_large_network_is_written_is_found_and_healed() -> Result {
    let lab = lab!();
    let (_etcd, node) = beside(&lab)?;
    let host = &node.host;
    let (vni, first) = (LargeNetwork::VNI, NETWORK.addresses().next().unwrap());
    let mac = first.mac.map(|byte| format!("{byte:02x}")).join(":");
    // As soon as the first entry is there it is deleted. Says how many neighbours are there then: they are written last.
    let damage = format!(
        "until bridge fdb delete {mac} dev wv.{vni} dst {} 2> /dev/null; do :; done
         ip neigh show dev wb.{vni} nud permanent | wc -l",
        first.public
    );
    let monitor = Monitor::listen(host.namespace())?;
    let (written, damaged) = thread::scope(|scope| {
        let damaged = scope.spawn(|| Ok((host.namespace().sh(&damage)?, Instant::now())));
        network(&node, &format!("expose {}", LargeNetwork::NAME))?;
        damaged.join().expect("a thread that does not panic")
    })?;
    let all = NETWORK.addresses().count();
    let is_early = written.trim().parse::<usize>().is_ok_and(|written| written < all);
    check(is_early, || format!("{written} of {all} neighbours were written before the damage"))?;
    eventually(LARGE, || is_whole(host))?;
    let healed = monitor.last()?.map(|last| last.saturating_duration_since(damaged)).unwrap_or_default();
    measured("large-network-healed", healed)?;
    check(!healed.is_zero() && healed < LARGE, || format!("the last write came {healed:?} after the damage"))?;
    silent(&[&node])?;

    // What is changed later is heard of as always, and nothing else is written.
    monitor.forget();
    host.namespace().ip(&format!("neigh delete {} dev wb.{vni}", first.address))?;
    eventually(START, || is_whole(host))?;
    let changes = monitor.naming(&[first.mac.to_vec()])?;
    check(!changes.is_empty() && changes.len() < 5, || format!("{changes:?}"))?;
    silent(&[&node])
}

#[test]
fn a_large_network_takes_nothing_from_a_stranger_while_it_is_written() -> Result {
    let lab = lab!();
    let (_etcd, node) = beside(&lab)?;
    let (vni, name) = (LargeNetwork::VNI, LargeNetwork::NAME);
    let first = NETWORK.addresses().next().unwrap();
    let stranger = lab.host("stranger")?;
    // A frame each 2 milliseconds, from before the device is there until all is written.
    stranger.namespace().sh(&format!(
        "ip link add vx type vxlan id {vni} dev eth0 local {} dstport 8472 nolearning; ip link set vx up
         ip address add {}/16 dev vx; ip neighbour add 11.0.255.1 lladdr 02:57:0b:00:ff:01 dev vx
         bridge fdb append 02:57:0b:00:ff:01 dev vx dst {} self permanent",
        stranger.v4(),
        first.address,
        node.host.v4(),
    ))?;
    let words = ["-i", "0.002", "-q", "11.0.255.1"].map(str::to_owned);
    let mut pings = stranger.start("ping", &words, "pings")?;
    network(&node, &format!("expose {name}"))?;
    eventually(LARGE, || is_whole(&node.host))?;
    pings.kill();
    let link = node.host.namespace().ip(&format!("-s -j link show wv.{vni}"))?;
    let link: Value = serde_json::from_str(&link).map_err(|error| LabError::Wrong(format!("{error}: {link}")))?;
    let taken = &link[0]["stats64"]["rx"]["packets"];
    check(*taken == 0, || format!("{taken} packets of a stranger were let in"))?;
    let dropped = || {
        let dropped = node.agent.status()?.rest["firewall"]["networks"]["strangers"].as_u64();
        check(dropped.is_some_and(|dropped| dropped > 0), || format!("{dropped:?} were dropped"))
    };
    eventually(START, dropped)?;
    silent(&[&node])
}

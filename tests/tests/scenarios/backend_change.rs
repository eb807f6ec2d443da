//! Another backend, or other settings of it, in a live network: the config is written, then hosts are restarted one by one.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use wire_tests::{Etcd, Family, Pings, Result, check, eventually, lab};

use crate::{
    cluster::{DUAL, Node, PROMPT, START, V4, cluster, cluster_of, phase, put_peers, settle},
    datapath::{DUAL_UDP, Datapath},
};

/// The most that a pair may lose when one of its hosts is restarted: one second of a hundred pings a second.
pub(crate) const LOST_AT_A_RESTART: usize = 100;
/// The pause between two pings, in milliseconds.
const PING_MILLIS: u128 = 10;
/// For how long the pairs are watched after a restart.
const WATCHED: Duration = Duration::from_secs(2);

/// Each pair of hosts, in the families of the network. A ping and its answer go both ways.
fn pairs(families: &[Family]) -> Vec<(usize, usize, Family)> {
    let ways = |family| (0..3).flat_map(move |from| (0..3).map(move |to| (from, to, family)));
    families.iter().flat_map(|family| ways(*family)).filter(|(from, to, _)| from < to).collect()
}

fn vtep(node: &Node, family: Family) -> Result<IpAddr> {
    let subnet = node.subnet(family)?;
    let (address, _) = subnet.split_once('/').unwrap_or_default();
    // subnet.env names the first address behind that of the overlay's device.
    let first: IpAddr = address.parse().map_err(|_| wire_tests::LabError::Wrong(subnet.clone()))?;
    Ok(match first {
        IpAddr::V4(first) => IpAddr::from((u32::from(first) - 1).to_be_bytes()),
        IpAddr::V6(first) => IpAddr::from((u128::from(first) - 1).to_be_bytes()),
    })
}

/// Restarts one host after the other while each pair pings from one overlay device to the other.
fn restart_one_by_one(
    nodes: &mut [Node; 3],
    families: &[Family],
    after_first: impl FnOnce(&[Node; 3]) -> Result,
) -> Result {
    restart_between(nodes, families, vtep, after_first)
}

/// Restarts one host after the other while each pair pings from one's address to the other's. A pair of the restarted host loses little,
/// the others nothing.
pub(crate) fn restart_between(
    nodes: &mut [Node; 3],
    families: &[Family],
    address: fn(&Node, Family) -> Result<IpAddr>,
    after_first: impl FnOnce(&[Node; 3]) -> Result,
) -> Result {
    let mut after_first = Some(after_first);
    for restarted in 0..3 {
        let pings = ping_each_other(nodes, families, address)?;
        let stopped = Instant::now();
        nodes[restarted].agent.terminate()?;
        nodes[restarted].agent.restart()?;
        nodes[restarted].agent.wait_ready(START)?;
        // Without a service manager that keeps its descriptors, nobody moves the packets of udp until the agent is back.
        let is_moved_by_it = nodes[restarted].agent.log().contains("tunnel started");
        let away = if is_moved_by_it { stopped.elapsed().as_millis() / PING_MILLIS } else { 0 };
        let most_at_restart = LOST_AT_A_RESTART + usize::try_from(away).unwrap_or(usize::MAX);
        thread::sleep(WATCHED);
        for (from, to, family, running) in pings {
            let seen = running.stop()?;
            let (lost, most) = (seen.lost(), if [from, to].contains(&restarted) { most_at_restart } else { 0 });
            println!("restart of {restarted}: {from} to {to}, {family}: {} of {} lost", lost.len(), seen.sent);
            check(seen.sent > 100 && lost.len() <= most, || {
                let log = nodes[restarted].agent.log();
                format!("restart of {restarted}: {from} to {to}, {family}: of {} lost {lost:?}\n{log}", seen.sent)
            })?;
        }
        after_first.take().map_or(Ok(()), |look| look(nodes))?;
    }
    Ok(())
}

/// A pair of hosts that pings, by their numbers.
pub(crate) type Pinging = (usize, usize, Family, Pings);

/// Each pair pings from one's address to the other's.
pub(crate) fn ping_each_other(
    nodes: &[Node; 3],
    families: &[Family],
    address: fn(&Node, Family) -> Result<IpAddr>,
) -> Result<Vec<Pinging>> {
    let mut pings = Vec::new();
    for (from, to, family) in pairs(families) {
        let (source, target) = (address(&nodes[from], family)?, address(&nodes[to], family)?);
        let running = Pings::start(&nodes[from].host.namespace().path(), Some(source), target)?;
        running.wait_answered()?;
        pings.push((from, to, family, running));
    }
    Ok(pings)
}

/// Checks that a host sends to so many others by a port that is not its own, and by that one.
fn sends_to(node: &Node, families: &[Family], port: u16, hosts: usize) -> Result {
    let ports = other_ports(node, families)?;
    let is_all = ports.len() == families.len() * hosts && ports.iter().all(|(_, found)| *found == port);
    check(is_all, || format!("{ports:?}"))
}

/// The ports that the FDB entries of a host's devices name, beside the devices' own.
fn other_ports(node: &Node, families: &[Family]) -> Result<Vec<(String, u16)>> {
    let mut ports = Vec::new();
    for family in families {
        let fdb = node.host.kernel().fdb(node.datapath.device(*family))?;
        ports.extend(fdb.into_iter().filter_map(|entry| Some((entry.destination?.to_string(), entry.port?))));
    }
    Ok(ports)
}

/// The records beside the leases: each of a host with a lease, and with that lease's port.
pub(crate) fn recorded(etcd: &Etcd) -> Result<Vec<String>> {
    let records = etcd.list("/coreos.com/network/wire/backends/")?;
    Ok(records.into_iter().map(|record| String::from_utf8_lossy(&record.value).into_owned()).collect())
}

#[test]
fn with_another_port_all_pairs_talk_while_hosts_are_restarted_one_by_one() -> Result {
    let lab = lab!();
    let (etcd, mut nodes) = cluster::<3>(&lab, DUAL)?;
    // One that publishes no port, as flannel does not.
    put_peers(&etcd, 1, &Family::ALL)?;
    settle(&etcd, &nodes.each_ref(), &Family::ALL)?;
    check(recorded(&etcd)? == [r#"{"Port":8472}"#; 3], || format!("{:?}", recorded(&etcd)))?;
    etcd.put_config(&DUAL.replace(r#""Type":"vxlan""#, r#""Type":"vxlan","Port":4790"#))?;
    phase(&nodes[0].agent, "degraded")?;
    restart_one_by_one(&mut nodes, &Family::ALL, |nodes| {
        // flannel's host has the port of the config that each run began with.
        sends_to(&nodes[0], &Family::ALL, 8472, 2)?;
        sends_to(&nodes[1], &Family::ALL, 4790, 1)?;
        sends_to(&nodes[2], &Family::ALL, 4790, 1)
    })?;

    settle(&etcd, &nodes.each_ref(), &Family::ALL)?;
    eventually(PROMPT, || check(recorded(&etcd)? == [r#"{"Port":4790}"#; 3], || format!("{:?}", recorded(&etcd))))?;
    for node in &nodes {
        let ports = other_ports(node, &Family::ALL)?;
        check(ports.is_empty(), || format!("{}: {ports:?}", node.host.name()))?;
        phase(&node.agent, "ready")?;
    }
    Ok(())
}

#[test]
fn with_another_port_of_the_udp_backend_all_pairs_talk_while_hosts_are_restarted_one_by_one() -> Result {
    let lab = lab!();
    let (etcd, mut nodes) = cluster_of::<3>(&lab, DUAL_UDP, [Datapath::UserspaceUdp; 3], &[])?;
    etcd.put_config(&DUAL_UDP.replace("8285", "8300"))?;
    restart_one_by_one(&mut nodes, &Family::ALL, |_| Ok(()))?;
    settle(&etcd, &nodes.each_ref(), &Family::ALL)?;
    check(recorded(&etcd)? == [r#"{"Port":8300}"#; 3], || format!("{:?}", recorded(&etcd)))
}

#[test]
fn with_another_mtu_all_pairs_talk_while_hosts_are_restarted_one_by_one() -> Result {
    let lab = lab!();
    let (etcd, mut nodes) = cluster::<3>(&lab, V4)?;
    etcd.put_config(&V4.replace(r#""Type":"vxlan""#, r#""Type":"vxlan","MTU":1400"#))?;
    restart_one_by_one(&mut nodes, &[Family::V4], |_| Ok(()))?;
    settle(&etcd, &nodes.each_ref(), &[Family::V4])?;
    for node in &nodes {
        let link = node.host.kernel().link("flannel.1")?;
        check(link.as_ref().is_some_and(|link| link.mtu == 1350), || format!("{link:?}"))?;
    }
    Ok(())
}

#[test]
fn a_start_while_etcd_is_away_has_the_ports_that_were_known() -> Result {
    let lab = lab!();
    let (mut etcd, mut nodes) = cluster::<3>(&lab, V4)?;
    etcd.put_config(&V4.replace(r#""Type":"vxlan""#, r#""Type":"vxlan","Port":4790"#))?;
    nodes[0].agent.terminate()?;
    nodes[0].agent.restart()?;
    nodes[0].agent.wait_ready(START)?;
    eventually(START, || sends_to(&nodes[0], &[Family::V4], 8472, 2))?;
    nodes[0].agent.terminate()?;
    etcd.kill(0);
    nodes[0].host.namespace().ip("link delete flannel.1")?;
    nodes[0].agent.restart()?;
    nodes[0].agent.wait_ready(START)?;
    eventually(START, || sends_to(&nodes[0], &[Family::V4], 8472, 2))?;
    let target = vtep(&nodes[1], Family::V4)?;
    eventually(PROMPT * 3, || check(nodes[0].host.pings(target), || nodes[0].agent.log())).map(drop)
}

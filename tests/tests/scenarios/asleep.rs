//! An agent that was stopped and goes on in another world leaves to others what became theirs; a wall clock that jumps changes nothing.

use std::{fs, thread, time::Duration};

use nix::sys::signal::Signal;
use wire_tests::{
    AgentSpec, Etcd, Family, LabError, Monitor, PeerLease, Result, check, eventually, faketime, lab, measured, steadily,
};

use crate::{
    cluster::{Node, PROMPT, START, V4, cluster, device, exact, peer, phase, put_peers, settle},
    etcd_away::own_key,
};

/// How long it may take from its going on until it knows how its lease stands.
const AWAKE: Duration = Duration::from_secs(5);

#[test]
fn a_host_that_slept_while_its_subnet_was_taken_says_so_and_leaves_it_to_the_other() -> Result {
    let lab = lab!();
    let (mut etcd, [a, b]) = cluster::<2>(&lab, V4)?;
    let (own, before) = (own_key(&etcd, &a)?, a.agent.subnet_env()?);
    let thief = thief_of(&a)?;
    sleeps(&mut etcd, &a, &own, Some(&thief))?;
    let theirs = etcd.get(&own)?;
    a.agent.signal(Signal::SIGCONT)?;
    eventually(AWAKE, || {
        let status = a.agent.status()?;
        let reason = status.reason.unwrap_or_default();
        check(status.phase == "degraded" && reason.contains(&thief.public_ip.to_string()), || reason)
    })?;
    steadily(PROMPT * 2, || check(etcd.get(&own)? == theirs, || format!("{theirs:?} was written over")))?;
    check(a.agent.subnet_env()? == before, || "it has told Docker of another subnet".to_owned())?;
    // Once it is free it is ours again, and everybody knows.
    etcd.delete(&own)?;
    eventually(AWAKE, || check(own_key(&etcd, &a)? == own, || a.agent.log()))?;
    settle(&etcd, &[&a, &b], &[Family::V4])?;
    phase(&a.agent, "ready").map(drop)
}

#[test]
fn a_host_that_slept_while_its_lease_ended_has_the_same_subnet_again() -> Result {
    let lab = lab!();
    let (mut etcd, [a, b]) = cluster::<2>(&lab, V4)?;
    let (own, before) = (own_key(&etcd, &a)?, a.agent.subnet_env()?);
    sleeps(&mut etcd, &a, &own, None)?;
    let monitor = Monitor::listen(a.host.namespace())?;
    a.agent.signal(Signal::SIGCONT)?;
    eventually(AWAKE, || check(etcd.get(&own)?.is_some(), || a.agent.log()))?;
    settle(&etcd, &[&a, &b], &[Family::V4])?;
    phase(&a.agent, "ready")?;
    let writes = monitor.writes(a.host.kernel().link(device(Family::V4))?.unwrap().index)?;
    check(writes.is_empty(), || format!("the kernel was written: {writes:?}"))?;
    check(a.agent.subnet_env()? == before, || "it has another subnet".to_owned())
}

/// A host that has the same subnet.
fn thief_of(node: &Node) -> Result<PeerLease> {
    let subnet = node.subnet(Family::V4)?;
    let subnet = subnet.strip_suffix(".1/24").and_then(|subnet| format!("{subnet}.0").parse().ok());
    let subnet = subnet.ok_or_else(|| LabError::Wrong("its subnet is no /24".to_owned()))?;
    Ok(PeerLease { subnet, ..peer(77, &[Family::V4]) })
}

/// Stops an agent for longer than its lease lives. As after a long sleep, no connection outlives it.
fn sleeps(etcd: &mut Etcd, node: &Node, own: &str, thief: Option<&PeerLease>) -> Result {
    let lease = etcd.get(own)?.map(|stored| stored.lease).unwrap_or_default();
    node.agent.signal(Signal::SIGSTOP)?;
    etcd.revoke(lease)?;
    if let Some(thief) = thief {
        check(thief.key() == own, || format!("{} is not {own}", thief.key()))?;
        etcd.put_all(&[thief.entry()])?;
    }
    etcd.kill(0);
    etcd.restart(0)
}

#[test]
fn a_wall_clock_that_jumps_a_day_either_way_changes_nothing() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let host = lab.host("a")?;
    let clock = host.dir().join("clock");
    let set = |offset: &str| fs::write(&clock, offset).map_err(LabError::io("cannot set the clock"));
    set("+0")?;
    let spec = AgentSpec::new(etcd.agent_flags())
        .env("LD_PRELOAD", &faketime()?.display().to_string())
        .env("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string())
        .env("FAKETIME_NO_CACHE", "1")
        // A clock that is set moves this one alone.
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let mut node = Node::with(host, spec)?;
    put_peers(&etcd, 5, &[Family::V4])?;
    settle(&etcd, &[&node], &[Family::V4])?;
    let lease = || etcd.get(&own_key(&etcd, &node)?);
    let before = lease()?;
    let monitor = Monitor::listen(node.host.namespace())?;
    let index = node.host.kernel().link(device(Family::V4))?.unwrap().index;
    let days = || days_in(&node.agent.log());
    for (offset, number) in [("+1d", 20), ("-1d", 21), ("+0", 22)] {
        let known = days().len();
        set(offset)?;
        thread::sleep(PROMPT);
        check(lease()? == before, || format!("{offset}: the lease was written again: {:?}", lease()))?;
        let writes = monitor.writes(index)?;
        check(writes.is_empty(), || format!("{offset}: the kernel was written: {writes:?}"))?;
        let newcomer = peer(number, &[Family::V4]);
        etcd.put(&newcomer.key(), &newcomer.value())?;
        eventually(PROMPT * 2, || exact(&etcd, &[&node], &[Family::V4]))?;
        phase(&node.agent, "ready")?;
        // The agent's log shows that its clock was another one.
        check(offset == "+0" || days().len() > known, || format!("{offset}: its clock has not jumped: {:?}", days()))?;
        monitor.forget();
    }
    let before = lease()?;
    set("-1d")?;
    node.agent.terminate()?;
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    let after = etcd.get(&own_key(&etcd, &node)?)?;
    check(after == before, || format!("{before:?} became {after:?}"))?;
    exact(&etcd, &[&node], &[Family::V4])
}

/// The days that lines of a log were written at.
fn days_in(log: &str) -> std::collections::BTreeSet<String> {
    let day = |line: &str| line.split_once('T').map(|(day, _)| day.to_owned());
    log.lines().filter_map(day).filter(|day| day.starts_with("20") && day.len() == 10).collect()
}

#[test]
fn changes_that_a_stopped_agent_could_not_hear_are_read_anew_and_its_memory_stays_small() -> Result {
    const CHANGES: u32 = 15_000;
    /// What one reading of such a kernel may need, in kB.
    const ROOM: u64 = 24 << 10;
    let lab = lab!();
    let (etcd, [node]) = cluster::<1>(&lab, V4)?;
    put_peers(&etcd, 100, &[Family::V4])?;
    settle(&etcd, &[&node], &[Family::V4])?;
    let rounds = || Ok::<_, LabError>(node.agent.status()?.rest["dataplane"]["rounds"].as_u64().unwrap_or_default());
    let (memory, before) = (peak(&node)?, rounds()?);
    let route = |number: u32| format!("{}/32 dev eth0", std::net::Ipv4Addr::from_bits(0x0b00_0000 + number));
    let lines = |verb: &str| (0..CHANGES).map(|number| format!("route {verb} {}\n", route(number))).collect::<String>();
    let batch = node.host.dir().join("batch");
    fs::write(&batch, lines("add") + &lines("del")).map_err(LabError::io("cannot write a batch"))?;
    let ours = node.host.kernel().routes_through(device(Family::V4), Family::V4)?;

    node.agent.signal(Signal::SIGSTOP)?;
    node.host.namespace().ip(&format!("-batch {}", batch.display()))?;
    // Nobody hears of this one.
    node.host.namespace().ip(&format!("route delete {}", ours[0].destination))?;
    let lost = lost(&node)?;
    check(lost > 0, || "its socket has lost nothing".to_owned())?;
    let monitor = Monitor::listen(node.host.namespace())?;
    let awake = std::time::Instant::now();
    node.agent.signal(Signal::SIGCONT)?;
    eventually(PROMPT * 3, || exact(&etcd, &[&node], &[Family::V4]))?;
    let last = monitor.changes()?.last().map(|change| change.at - awake).unwrap_or_default();
    check(!last.is_zero() && last < PROMPT, || format!("the last write came after {last:?}"))?;
    let (used, rounds) = (peak(&node)? - memory, rounds()? - before);
    measured("repaired-after-lost-notifications", last)?;
    println!("{lost} lost, {used} kB more, {rounds} rounds");
    check(used < ROOM, || format!("{used} kB more"))?;
    check(rounds < 10, || format!("{rounds} comparisons with the kernel"))
}

/// The most memory a node's agent has had, in kB.
fn peak(node: &Node) -> Result<u64> {
    let file = format!("/proc/{}/status", node.agent.pid()?);
    let text = fs::read_to_string(&file).map_err(LabError::io(file))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok());
    number.ok_or_else(|| LabError::Wrong("the kernel does not say how much memory it had".to_owned()))
}

/// How many messages the netlink sockets of a host have lost: the ninth column of /proc/net/netlink.
fn lost(node: &Node) -> Result<u64> {
    let text = node.host.exec("cat /proc/net/netlink")?;
    Ok(text.lines().filter_map(|line| line.split_whitespace().nth(8)?.parse::<u64>().ok()).sum())
}

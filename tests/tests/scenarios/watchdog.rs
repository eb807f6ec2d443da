//! systemd's watchdog hears from the agent while each of its parts goes on, and no longer.

use std::{
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use wire_tests::{
    Agent, AgentSpec, Etcd, Family, Host, LabError, LossMeter, Path, Result, Underlay, check, eventually, lab,
};

use crate::{
    cluster::{DUAL, Node, START, V4, path, phase, settle},
    datapath::Datapath,
};

/// systemd's `WatchdogSec`: who is not heard for that long is killed. Half of it without a step is a hang, which this machine must
/// not take for one because it is busy.
const INTERVAL: Duration = Duration::from_secs(6);
/// So long each program of a slow firewall takes: half of a hang.
const SLOW: Duration = Duration::from_millis(1500);
/// systemd's `TimeoutStopSec` is longer.
const STOP: Duration = Duration::from_secs(10);
/// A packet that a worker has read and not yet written when it is killed goes with it: of a hundred pings a second that is one.
const IN_HAND: usize = 1;
/// Joining anew waits that long for an etcd that is away.
const PATIENCE: Duration = Duration::from_secs(5);

const BEAT: &str = "WATCHDOG=1";

fn watched(etcd: &Etcd) -> AgentSpec {
    let interval = INTERVAL.as_micros().to_string();
    AgentSpec::new(etcd.agent_flags()).env("WATCHDOG_USEC", &interval).flag("--healthz-port=9099")
}

/// Checks that systemd would not have killed the agent, from its start until now.
fn never_silent(agent: &Agent) -> Result {
    let mut heard = vec![agent.started()];
    heard.extend(agent.notified_at(BEAT));
    heard.push(Instant::now());
    let longest = heard.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
    println!("{} beats, {longest:?} at most between two", heard.len() - 2);
    check(longest < INTERVAL, || format!("silent for {longest:?}\n{}", agent.log()))
}

/// What `/healthz` says: whether all is well, and its text or the error.
fn health(host: &Host) -> (bool, String) {
    match host.exec(&format!("busybox wget -q -O - http://{}:9099/healthz", host.v4())) {
        Ok(text) => (true, text),
        Err(error) => (false, error.to_string()),
    }
}

#[test]
fn beats_go_on_before_the_network_is_there_without_etcd_and_while_it_is_joined_anew() -> Result {
    let lab = lab!();
    let mut etcd = Etcd::start(&lab)?;
    let host = lab.host("a")?;
    let mut agent = Agent::spawn(&host, watched(&etcd))?;
    phase(&agent, "waiting")?;
    lab.rest(INTERVAL * 3 / 2);
    never_silent(&agent)?;
    etcd.put_config(V4)?;
    agent.wait_ready(START)?;
    for _ in 0..3 {
        let before = agent.log().matches("joining anew").count();
        agent.signal(Signal::SIGHUP)?;
        let again = || check(agent.log().matches("joining anew").count() > before, || agent.log());
        eventually(START, again)?;
    }
    lab.rest(INTERVAL);
    etcd.kill(0);
    phase(&agent, "degraded")?;
    lab.rest(INTERVAL);
    agent.signal(Signal::SIGHUP)?;
    lab.rest(PATIENCE + INTERVAL);
    never_silent(&agent)?;
    check(health(&host).0, || format!("without etcd, {}", health(&host).1))?;
    etcd.restart(0)?;
    phase(&agent, "ready")?;
    never_silent(&agent)?;
    // Four in each interval, and more than five intervals have passed.
    let beats = agent.notified_at(BEAT).len();
    check(beats > 15, || format!("{beats} beats"))
}

/// iptables waits for others that hold its lock, and many programs are run: together for longer than the whole interval.
#[test]
fn beats_go_on_while_the_programs_of_the_firewall_are_slow() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    let host = lab.host("a")?;
    let bin = host.dir().join("slow");
    host.namespace().sh(&format!(
        "mkdir {bin}; for p in nft iptables-save iptables-restore ip6tables-save ip6tables-restore; do
         printf '#!/bin/sh\\nsleep {slow}; echo %s >>{bin}/run; exec %s \"$@\"' $p $(command -v $p) >{bin}/$p; chmod +x {bin}/$p; done",
        bin = bin.display(),
        slow = SLOW.as_secs_f32()
    ))?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let node = Node::with(host, watched(&etcd).env("PATH", &path).flag("--ip-masq"))?;
    let programs = || std::fs::read_to_string(bin.join("run")).unwrap().lines().count();
    let before = programs();
    // Of others in all tables, so that all of ours are put.
    node.host
        .namespace()
        .sh("nft flush ruleset; for t in iptables ip6tables; do $t -t raw -A OUTPUT -o other0 -j DROP; done")?;
    lab.rest(INTERVAL * 3);
    never_silent(&node.agent)?;
    let took = SLOW * u32::try_from(programs() - before).unwrap();
    check(took > INTERVAL, || format!("only {took:?} for all that put it back"))?;
    check(!node.agent.log().contains("hangs"), || node.agent.log())
}

/// A host for each part, on the userspace path, which has all of them, and one that sends to the others.
#[test]
fn each_part_that_hangs_ends_the_beats_is_named_and_is_started_again_with_nothing_lost_but_what_was_in_hand() -> Result
{
    const PARTS: [&str; 6] = ["dataplane", "firewall", "follower", "holder", "session", "worker"];
    let lab = lab!();
    let datapath = Datapath::UserspaceUdp;
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(datapath.config())?;
    let spec = AgentSpec { hand_over: true, ..watched(&etcd) };
    let sender = Node::by(datapath, lab.host("sender")?, spec.clone())?;
    let nodes: Vec<Node> =
        PARTS.iter().map(|part| Node::by(datapath, lab.host(part)?, spec.clone())).collect::<Result<_>>()?;
    settle(&etcd, &nodes.iter().chain([&sender]).collect::<Vec<_>>(), &Family::ALL)?;
    thread::scope(|scope| {
        let (lab, sender) = (&lab, &sender);
        let each = PARTS.iter().zip(nodes).map(|(part, node)| scope.spawn(move || hangs(lab, sender, node, part)));
        let each: Vec<_> = each.collect();
        let ended = each.into_iter().zip(PARTS).map(|(part, name)| {
            let ended = part.join().map_err(|_| LabError::Wrong(format!("{name}: a panic")))?;
            ended.map_err(|error| LabError::Wrong(format!("{name}: {error}")))
        });
        // Each is waited for, also behind one that failed.
        ended.collect::<Vec<Result>>().into_iter().collect()
    })
}

fn hangs(lab: &Underlay, sender: &Node, mut node: Node, part: &str) -> Result {
    let path = Path {
        encapsulation: node.datapath.encapsulation(),
        ..path(lab, (&sender.host, sender.vtep(Family::V4)?), (&node.host, node.vtep(Family::V4)?))
    };
    let meter = LossMeter::start(&path)?;
    thread::sleep(INTERVAL);
    never_silent(&node.agent)?;
    check(health(&node.host).0, || health(&node.host).1)?;
    let hung = hang(&node, part)?;
    let named = format!("the {part} hangs: restart wire-agent");
    eventually(INTERVAL * 2, || {
        let (well, said) = health(&node.host);
        check(!well && said.contains("503"), || format!("/healthz: {said}"))
    })?;
    let status = node.agent.status()?;
    let reason = status.reason.unwrap_or_default();
    check(status.phase == "degraded" && reason == named, || format!("{} {reason}", status.phase))?;
    let told = node.agent.status_line().unwrap_or_default();
    check(told.contains(&named), || format!("systemd is told {told:?}"))?;

    thread::sleep((INTERVAL * 2).saturating_sub(hung.elapsed()));
    let last = node.agent.notified_at(BEAT).into_iter().next_back().unwrap_or(hung).saturating_duration_since(hung);
    println!("{part}: the last beat came {last:?} after the hang");
    check(last < INTERVAL, || format!("a beat {last:?} after the hang"))?;

    // What systemd does then.
    node.agent.signal(Signal::SIGABRT)?;
    node.agent.wait(STOP)?;
    well_again(&mut node)?;
    // A worker that hangs moves no packet, and more of them come than the kernel keeps.
    if part != "worker" {
        let loss = meter.stop()?;
        check(loss.lost.len() <= IN_HAND, || format!("{loss:?}"))?;
    }

    // It ends all the same when it is asked to.
    hang(&node, part)?;
    let (status, took) = node.agent.terminate()?;
    check(status.success() && took < STOP, || format!("SIGTERM ended it with {status} after {took:?}"))?;
    well_again(&mut node)
}

fn hang(node: &Node, part: &str) -> Result<Instant> {
    node.agent.ctl(&["debug", "hang", part])?;
    // A worker waits for packets, and may do so for ever.
    node.host.namespace().sh("ping -c 1 -W 1 10.5.200.9 || true")?;
    Ok(Instant::now())
}

fn well_again(node: &mut Node) -> Result {
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    check(health(&node.host).0, || health(&node.host).1)?;
    phase(&node.agent, "ready").map(drop)
}

/// Without systemd nobody starts it again, but all can see that it has ended.
#[test]
fn a_thread_or_a_task_that_dies_ends_the_agent_with_status_70() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let mut node = Node::with(lab.host("a")?, watched(&etcd))?;
    let named = [("follower", "follower of the leases"), ("holder", "holder of the lease")]
        .into_iter()
        .chain(["dataplane", "firewall"].map(|part| (part, part)));
    for (part, name) in named {
        node.agent.ctl(&["debug", "panic", part])?;
        let status = node.agent.wait(STOP)?;
        check(status.code() == Some(70), || format!("{part}: {status}"))?;
        let log = node.agent.log();
        check(log.contains(&format!("the {name} has died")), || log)?;
        node.agent.restart()?;
        node.agent.wait_ready(START)?;
    }
    phase(&node.agent, "ready")?;
    // There is no such thread where the kernel moves the packets.
    let refused = node.agent.ctl(&["debug", "panic", "worker"]);
    check(refused.as_ref().is_err_and(|error| error.to_string().contains("there is no worker")), || {
        format!("{refused:?}")
    })
}

//! The userspace path over a restart: the device, its routes and the lease outlive the agent, and what is lost while no agent
//! runs is no more than that; nothing is, where the descriptors are kept meanwhile.

use std::{
    thread,
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;
use wire_tests::{
    AgentSpec, Etcd, Family, Lab, LossMeter, Path, Result, check, control_run, eventually, lab, measured,
};

use crate::{
    cluster::{Node, START, cluster_of, exact, phase, settle},
    datapath::Datapath,
};

/// How long no agent runs, at least.
const GAP: Duration = Duration::from_millis(300);
/// What a restart may lose besides: pings that were on their way, and two busy cores.
const SPARE: Duration = Duration::from_millis(500);
/// How long packets may wait for an agent that goes on with what was handed over, on two busy cores.
const PATIENCE: Duration = Duration::from_secs(4);

#[test]
fn raw_udp_goes_on_after_a_restart_and_loses_what_was_sent_in_between() -> Result {
    restart(&lab!(), Datapath::UserspaceUdp)
}

#[test]
fn userspace_vxlan_goes_on_after_a_restart_and_loses_what_was_sent_in_between() -> Result {
    restart(&lab!(), Datapath::UserspaceVxlan)
}

fn restart(lab: &Lab, datapath: Datapath) -> Result {
    let (etcd, [mut a, b]) = cluster_of(lab, datapath.config(), [datapath; 2], &[])?;
    let (from, to) = (b.vtep(Family::V4)?, a.vtep(Family::V4)?);
    let before = remembered(&a, &etcd)?;
    // Pings that share a message would be counted as one on the underlay.
    b.host.cut_frames()?;
    for kill in [true, false] {
        let path =
            Path { underlay: lab, from: (&b.host, from), to: (&a.host, to), encapsulation: datapath.encapsulation() };
        control_run(&path)?;
        let meter = LossMeter::start(&path)?;
        let start = Instant::now();
        if kill {
            a.agent.kill();
        } else {
            a.agent.terminate()?;
        }
        exact(&etcd, &[&a], &Family::ALL)?;
        thread::sleep(GAP);
        a.agent.restart()?;
        a.agent.wait_ready(START)?;
        let away = start.elapsed();
        thread::sleep(SPARE);
        let loss = meter.stop()?;
        let lost = Duration::from_millis(10 * u64::try_from(loss.lost.len()).unwrap());
        println!("{}: no agent for {away:?}, pings lost for {lost:?}", datapath.kind());
        check(lost <= away + SPARE, || format!("pings were lost for {lost:?}, the agent was away for {away:?}"))?;
        check(lost >= GAP / 2, || format!("pings were lost for {lost:?} only: who has answered the others?"))?;

        let meter = LossMeter::start(&path)?;
        thread::sleep(Duration::from_secs(1));
        meter.stop_without_loss()?;
        let after = remembered(&a, &etcd)?;
        check(after == before, || format!("before the restart {before:?}, after it {after:?}"))?;
        exact(&etcd, &[&a, &b], &Family::ALL)?;
    }
    Ok(())
}

#[test]
fn raw_udp_that_is_handed_over_loses_nothing_in_a_restart_with_etcd_or_without() -> Result {
    handed_over(&lab!(), Datapath::UserspaceUdp)
}

#[test]
fn userspace_vxlan_that_is_handed_over_loses_nothing_in_a_restart_with_etcd_or_without() -> Result {
    handed_over(&lab!(), Datapath::UserspaceVxlan)
}

/// systemd keeps device and sockets, and packets wait in them.
fn handed_over(lab: &Lab, datapath: Datapath) -> Result {
    let mut etcd = Etcd::start(lab)?;
    etcd.put_config(datapath.config())?;
    let [one, other] = lab.hosts::<2>()?;
    let spec = || AgentSpec { hand_over: true, ..AgentSpec::new(etcd.agent_flags()) };
    let mut a = Node::by(datapath, one, spec())?;
    let b = Node::by(datapath, other, spec())?;
    settle(&etcd, &[&a, &b], &Family::ALL)?;
    b.host.cut_frames()?;
    let (from, to) = (b.vtep(Family::V4)?, a.vtep(Family::V4)?);
    let path =
        Path { underlay: lab, from: (&b.host, from), to: (&a.host, to), encapsulation: datapath.encapsulation() };
    control_run(&path)?;
    for etcd_answers in [true, false] {
        if !etcd_answers {
            etcd.kill(0);
        }
        let meter = LossMeter::start(&path)?;
        a.agent.terminate()?;
        thread::sleep(GAP);
        a.agent.restart()?;
        let ready = a.agent.wait_ready(START)?;
        thread::sleep(SPARE);
        let loss = meter.stop_without_loss()?;
        println!("{}: {} pings, etcd answers: {etcd_answers}", datapath.kind(), loss.sent);
        measured("ready-after-hand-over", ready)?;
        check(ready < PATIENCE, || format!("packets waited for {ready:?}"))?;
        // An etcd that is slow to answer is not waited for either.
        let went_by_it = a.agent.log().contains("using the network state saved on disk");
        check(etcd_answers || went_by_it, || a.agent.log())?;
    }
    check(a.agent.status()?.phase == "degraded", || a.agent.log())?;
    etcd.restart(0)?;
    phase(&a.agent, "ready")?;
    exact(&etcd, &[&a, &b], &Family::ALL)
}

#[test]
fn raw_udp_loses_nothing_while_its_network_is_joined_anew() -> Result {
    hangup(&lab!(), Datapath::UserspaceUdp)
}

#[test]
fn userspace_vxlan_loses_nothing_while_its_network_is_joined_anew() -> Result {
    hangup(&lab!(), Datapath::UserspaceVxlan)
}

/// The agent lives, and its tunnels go on beside the network that is joined anew.
fn hangup(lab: &Lab, datapath: Datapath) -> Result {
    let (etcd, [a, b]) = cluster_of(lab, datapath.config(), [datapath; 2], &[])?;
    let before = remembered(&a, &etcd)?;
    b.host.cut_frames()?;
    for family in Family::ALL {
        let (from, to) = (b.vtep(family)?, a.vtep(family)?);
        let path =
            Path { underlay: lab, from: (&b.host, from), to: (&a.host, to), encapsulation: datapath.encapsulation() };
        control_run(&path)?;
        let meter = LossMeter::start(&path)?;
        for _ in 0..3 {
            let joined = || a.agent.log().matches("datapath chosen").count();
            let earlier = joined();
            a.agent.signal(Signal::SIGHUP)?;
            eventually(START, || check(joined() == earlier + 1, || a.agent.log()))?;
            thread::sleep(GAP);
        }
        let loss = meter.stop_without_loss()?;
        println!("{}: {} pings, three hangups", datapath.kind(), loss.sent);
    }
    let after = remembered(&a, &etcd)?;
    check(after == before, || format!("before the hangups {before:?}, after them {after:?}"))?;
    exact(&etcd, &[&a, &b], &Family::ALL)
}

#[test]
fn a_worker_of_raw_udp_that_dies_has_a_successor_at_once() -> Result {
    worker_dies(&lab!(), Datapath::UserspaceUdp)
}

#[test]
fn a_worker_of_userspace_vxlan_that_dies_has_a_successor_at_once() -> Result {
    worker_dies(&lab!(), Datapath::UserspaceVxlan)
}

/// Nothing else tells of its end: device, routes and addresses stay as they are.
fn worker_dies(lab: &Lab, datapath: Datapath) -> Result {
    let (etcd, [a, b]) = cluster_of(lab, datapath.config(), [datapath; 2], &[])?;
    let (from, to) = (b.vtep(Family::V4)?, a.vtep(Family::V4)?);
    let before = remembered(&a, &etcd)?;
    b.host.cut_frames()?;
    let path =
        Path { underlay: lab, from: (&b.host, from), to: (&a.host, to), encapsulation: datapath.encapsulation() };
    control_run(&path)?;
    for deaths in 1..=3 {
        let meter = LossMeter::start(&path)?;
        a.agent.ctl(&["debug", "panic", "worker"])?;
        thread::sleep(SPARE * 2);
        let loss = meter.stop()?;
        let log = a.agent.log();
        let ended = format!("a tunnel has ended link={} why=\"it panicked\"", datapath.device(Family::V4));
        check(log.matches(&ended).count() == deaths, || log.clone())?;
        // The one it had in its hands, and what came before the successor took the socket is kept in it.
        println!("{}: worker died {deaths} times, lost {:?} of {}", datapath.kind(), loss.lost, loss.sent);
        check(loss.lost.len() <= 3, || format!("lost {:?}\n{log}", loss.lost))?;
    }
    let after = remembered(&a, &etcd)?;
    check(after == before, || format!("before {before:?}, after it {after:?}"))?;
    check(a.agent.status()?.phase == "ready", || a.agent.log())?;
    exact(&etcd, &[&a, &b], &Family::ALL)
}

/// What must outlive a restart: subnets, the devices' indexes, kinds and MTUs, and the leases.
#[derive(Debug, PartialEq)]
struct Remembered {
    subnets: Vec<String>,
    devices: Vec<(u32, String, u32)>,
    leases: Vec<wire_tests::Stored>,
}

fn remembered(node: &Node, etcd: &Etcd) -> Result<Remembered> {
    let device = |family: &Family| {
        let link = node.host.kernel().link(node.datapath.device(*family))?;
        Ok(link.map(|link| (link.index, link.linkinfo.kind, link.mtu)).unwrap_or_default())
    };
    Ok(Remembered {
        subnets: Family::ALL.iter().map(|family| node.subnet(*family)).collect::<Result<_>>()?,
        devices: Family::ALL.iter().map(device).collect::<Result<_>>()?,
        leases: etcd.leases()?,
    })
}

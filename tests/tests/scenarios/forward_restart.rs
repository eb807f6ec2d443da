//! Row 3 of the userspace path: the device, its routes and the lease outlive the agent, and what is lost while no agent runs is no
//! more than that.

use std::{
    thread,
    time::{Duration, Instant},
};

use wire_tests::{Family, Lab, LossMeter, Path, Result, check, control_run, lab};

use crate::{
    cluster::{Node, START, cluster_of, exact},
    datapath::Datapath,
};

/// How long no agent runs, at least.
const GAP: Duration = Duration::from_millis(300);
/// What a restart may lose besides: pings that were on their way, and two busy cores.
const SPARE: Duration = Duration::from_millis(500);

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

/// What must outlive a restart: subnets, the devices' indexes, kinds and MTUs, and the leases.
#[derive(Debug, PartialEq)]
struct Remembered {
    subnets: Vec<String>,
    devices: Vec<(u32, String, u32)>,
    leases: Vec<wire_tests::Stored>,
}

fn remembered(node: &Node, etcd: &wire_tests::Etcd) -> Result<Remembered> {
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

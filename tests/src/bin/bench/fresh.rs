//! The marks of a small network: a start with a fresh lease, and what an agent uses while etcd is away.

use std::{
    thread,
    time::{Duration, Instant},
};

use wire_tests::{Agent, AgentSpec, Etcd, Family, Lab, LabError, ProcessStat, Result};

use crate::{
    leases::{Way, config},
    options::Options,
    report::{Goal, Report, millis},
};

/// How long etcd is away, in seconds.
const AWAY: u64 = 30;
/// How many fresh starts are timed.
const STARTS: u8 = 10;

/// From the start of the process to subnet.env and to READY=1, on new hosts, with an etcd that has answered before.
pub(crate) fn start_to_files(report: &mut Report) -> Result {
    let lab = Lab::new()?;
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(config(Family::V4, Way::Vxlan))?;
    let (mut files, mut readies) = (Vec::new(), Vec::new());
    for number in 0..STARTS {
        let host = lab.host(&format!("start{number}"))?;
        let mut agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()))?;
        let file = agent.subnet_file();
        let limit = Duration::from_secs(10);
        while !file.exists() {
            if agent.started().elapsed() > limit {
                return Err(LabError::Late { after: limit, last: format!("no subnet.env\n{}", agent.log()) });
            }
            thread::sleep(Duration::from_micros(100));
        }
        files.push(millis(agent.started().elapsed()));
        readies.push(millis(agent.wait_ready(limit)?));
        agent.terminate()?;
    }
    report.times("start to subnet.env, fresh lease", &files, Goal { ours: "p50 < 25 ms", flannel: "49 ms" });
    report.times("start to READY=1, fresh lease", &readies, Goal::default());
    Ok(())
}

/// What an agent uses while etcd is away.
pub(crate) fn etcd_away(options: &Options, report: &mut Report) -> Result {
    let lab = Lab::new()?;
    let mut etcd = Etcd::start(&lab)?;
    etcd.put_config(config(Family::V4, Way::Vxlan))?;
    let host = lab.host("away")?;
    let mut agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()))?;
    agent.wait_ready(Duration::from_secs(60))?;
    etcd.kill(0);
    // It takes a moment to find out.
    thread::sleep(Duration::from_secs(3));
    let pid = agent.pid()?;
    let share = share_of_processor(&[pid], options.for_seconds(AWAY))?[0];
    report.number("etcd away: share of a processor", share, "%", Goal::ours("< 1 %"));
    Ok(())
}

/// What processes use of a processor, with their children, in per cent.
pub(crate) fn share_of_processor(pids: &[u32], period: Duration) -> Result<Vec<f64>> {
    let (before, began) = (used(pids)?, Instant::now());
    thread::sleep(period);
    shares(&before, &used(pids)?, began.elapsed())
}

/// The processor time that each process has used, with its children.
pub(crate) fn used(pids: &[u32]) -> Result<Vec<Duration>> {
    pids.iter().map(|pid| ProcessStat::read(*pid).map(|stat| stat.own + stat.reaped)).collect()
}

pub(crate) fn shares(before: &[Duration], after: &[Duration], period: Duration) -> Result<Vec<f64>> {
    let share = |(before, after): (&Duration, &Duration)| {
        after.saturating_sub(*before).as_secs_f64() / period.as_secs_f64() * 100.0
    };
    Ok(before.iter().zip(after).map(share).collect())
}

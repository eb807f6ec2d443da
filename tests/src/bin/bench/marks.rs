//! The marks, one function each.

use std::{
    thread,
    time::{Duration, Instant},
};

use wire_tests::{
    Agent, AgentSpec, Change, Etcd, Family, Host, Lab, LabError, Monitor, PeerLease, ProcessStat, Result, check,
    eventually, expect_peers, wait_quiet,
};

use crate::report::{Goal, Report};

/// Room for all leases that are put.
pub(crate) const CONFIG: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#;
/// How many leases a large network has.
pub(crate) const MANY: u16 = 4_000;
/// How long etcd is away.
const AWAY: Duration = Duration::from_secs(30);
/// How many leases are added one by one.
const SINGLE: u16 = 200;
/// How many fresh starts are timed.
const STARTS: u8 = 10;
/// How long after READY a restart must be seen to write nothing.
const RESTART_WATCH: Duration = Duration::from_secs(10);

/// From the start of the process to subnet.env and to READY=1, on new hosts, with an etcd that has answered before.
pub(crate) fn start_to_files(lab: &Lab, etcd: &Etcd, report: &mut Report) -> Result {
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
        files.push(agent.started().elapsed());
        readies.push(agent.wait_ready(limit)?);
        agent.terminate()?;
    }
    report.times("start to subnet.env, fresh lease", &files, Goal { ours: "p50 < 25 ms", flannel: "49 ms" });
    report.times("start to READY=1, fresh lease", &readies, Goal::default());
    Ok(())
}

/// One lease: from etcd's answer to the put, to the kernel's last notification.
pub(crate) fn one_lease(lab: &Lab, etcd: &Etcd, report: &mut Report) -> Result {
    let host = lab.host("single")?;
    let _agent = Agent::start(&host, AgentSpec::new(etcd.agent_flags()))?;
    let device = device(&host)?;
    let monitor = Monitor::listen(host.namespace())?;
    let mut gateway = etcd.gateway()?;
    let (mut after_answer, mut after_put) = (Vec::new(), Vec::new());
    for number in 1..=SINGLE {
        let (key, value) = PeerLease::numbered(number).entry();
        monitor.forget();
        let put = Instant::now();
        gateway.put(&key, &value)?;
        let answer = Instant::now();
        eventually(Duration::from_secs(2), || whole(&monitor, device))?;
        // Whatever else comes for this lease comes now.
        thread::sleep(Duration::from_millis(10));
        let last = monitor.writes(device)?.last().map_or(answer, |change| change.at);
        // The watch may be quicker than the answer: that counts as no time at all.
        after_answer.push(last.saturating_duration_since(answer));
        after_put.push(last.duration_since(put));
    }
    let ours = "p50 < 1 ms, p99 < 4 ms";
    report.times("one lease: put answered to last notification", &after_answer, Goal { ours, flannel: "" });
    report.times(
        "one lease: put sent to last notification",
        &after_put,
        Goal { ours: "", flannel: "3.2 / 11.8 ms, of it the put 2.4 / 6.3" },
    );
    Ok(())
}

/// Many leases that are there already when an agent starts, and the same agent killed and started again.
pub(crate) fn many_leases(lab: &Lab, etcd: &Etcd, report: &mut Report) -> Result {
    let peers: Vec<_> = (1..=MANY).map(PeerLease::numbered).collect();
    etcd.put_all(&peers.iter().map(PeerLease::entry).collect::<Vec<_>>())?;
    let expected: Vec<_> = peers.iter().filter_map(|peer| peer.expected(Family::V4)).collect();
    let host = lab.host("many")?;
    let monitor = Monitor::listen(host.namespace())?;
    let mut agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()))?;
    // Not by looking at the tables, which would take the agent's processor time: by the kernel's own word, and one look after.
    eventually(Duration::from_secs(60), || {
        let (routes, _) = monitor.count(Change::NEW_ROUTE);
        check(routes >= usize::from(MANY), || format!("{routes} of {MANY} routes"))
    })?;
    wait_quiet(&monitor, Duration::from_millis(300), Duration::from_secs(60))?;
    let used = (cpu(agent.pid()?)?, ProcessStat::peak_memory(agent.pid()?)?);
    let last = monitor.changes()?.last().map_or_else(Instant::now, |change| change.at);
    let ready = agent.wait_ready(Duration::from_secs(60))?;
    eventually(Duration::from_secs(10), || expect_peers(&host, "flannel.1", Family::V4, &expected))?;
    let all = last.duration_since(agent.started());
    report.times("4 000 leases: start to last entry", &[all], Goal { ours: "< 300 ms", flannel: "6 100 ms" });
    report.times("4 000 leases: start to READY=1", &[ready], Goal { ours: "", flannel: "2 500 ms (subnet.env)" });
    report.times("4 000 leases: CPU", &[used.0], Goal { ours: "< 300 ms", flannel: "3 700 ms" });
    report.number("4 000 leases: peak memory", used.1, "MB", Goal { ours: "< 40 MB", flannel: "27 MB" });

    // The kernel's own checks of link-local addresses take a second or two.
    wait_quiet(&monitor, Duration::from_secs(2), Duration::from_secs(20))?;
    let device = device(&host)?;
    agent.kill();
    monitor.forget();
    agent.restart()?;
    let ready = agent.wait_ready(Duration::from_secs(60))?;
    thread::sleep(RESTART_WATCH);
    report.times("4 000 leases: restart to READY=1", &[ready], Goal::default());
    report.times("4 000 leases: CPU of a restart", &[cpu(agent.pid()?)?], Goal::default());
    let changes = monitor.writes(device)?;
    for change in &changes {
        eprintln!(
            "bench: heard after the restart: message {} of device {}: {:02x?}",
            change.kind, change.device, change.body
        );
    }
    let changes = count(changes.len());
    report.number("4 000 leases: kernel changes by a restart", changes, "", Goal { ours: "0", flannel: "" });

    // The kernel says nothing of a write that changes nothing, so the writes themselves are counted too: in a trace, which
    // takes time, so on a start of its own.
    agent.kill();
    agent.spec_mut().traced = true;
    agent.restart()?;
    agent.wait_ready(Duration::from_secs(60))?;
    thread::sleep(RESTART_WATCH);
    let writes = count(agent.kernel_writes()?.len());
    report.number("4 000 leases: netlink writes by a restart", writes, "", Goal { ours: "0", flannel: "" });
    Ok(())
}

/// What an agent uses while etcd is away.
pub(crate) fn etcd_away(lab: &Lab, etcd: &mut Etcd, report: &mut Report) -> Result {
    let host = lab.host("away")?;
    let mut agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()))?;
    agent.wait_ready(Duration::from_secs(60))?;
    etcd.kill(0);
    // It takes a moment to find out.
    thread::sleep(Duration::from_secs(3));
    let used = || ProcessStat::read(agent.pid()?).map(|stat| stat.own + stat.reaped);
    let (before, began) = (used()?, Instant::now());
    thread::sleep(AWAY);
    let share = (used()? - before).as_secs_f64() / began.elapsed().as_secs_f64();
    report.number("etcd away: share of a processor", share * 100.0, "%", Goal { ours: "< 1 %", flannel: "" });
    Ok(())
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

/// Whether all that one lease needs was heard: a route, a neighbour and an FDB entry.
fn whole(monitor: &Monitor, device: u32) -> Result {
    let changes = monitor.writes(device)?;
    let count = |kind| changes.iter().filter(|change| change.kind == kind).count();
    let (routes, neighbours) = (count(Change::NEW_ROUTE), count(Change::NEW_NEIGHBOUR));
    check(routes >= 1 && neighbours >= 2, || format!("{routes} routes, {neighbours} neighbours and FDB entries"))
}

fn device(host: &Host) -> Result<u32> {
    let link = host.kernel().link("flannel.1")?;
    link.map(|link| link.index).ok_or_else(|| LabError::Wrong("there is no flannel.1".to_owned()))
}

/// The processor time of all its threads, user and system.
fn cpu(pid: u32) -> Result<Duration> {
    ProcessStat::read(pid).map(|stat| stat.own)
}

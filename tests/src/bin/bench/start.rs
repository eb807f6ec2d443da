//! A start among leases that are there, and a restart in place.

use std::{thread, time::Duration};

use wire_tests::{Agent, LabError, ProcessStat, Result, median, wait_quiet};

use crate::{
    bare, iproute2,
    one_lease::among,
    options::Options,
    report::{Goal, Report, Yardstick, millis},
    stage::{Contestant, LIMIT, Stage},
};

/// How many turns each has.
const TURNS: u8 = 3;
/// How long after READY a restart must be seen to write nothing, in seconds.
const RESTART_WATCH: u64 = 10;

/// The median time to the last entry for each peer, in microseconds.
pub(crate) struct TimeOfAPeer {
    pub(crate) peers: usize,
    pub(crate) micros: f64,
}

/// Starts of the agent, of the bare client and of iproute2, each on a new host: A B C A B C A B C.
pub(crate) fn start(stage: &Stage, report: &mut Report) -> Result<TimeOfAPeer> {
    let peers = stage.leases.len();
    let (mut ours, mut theirs, mut iproute2) = (Vec::new(), Vec::new(), Vec::new());
    let (mut readies, mut cpu, mut memory) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let (agents, bare) = stage.start_in_turn(turn, |agent| {
            readies.push(millis(agent.agent()?.ready_after().unwrap_or_default()));
            cpu.push(millis(ProcessStat::read(agent.pid()?)?.own));
            memory.push(ProcessStat::peak_memory(agent.pid()?)?);
            Ok(())
        })?;
        ours.push(millis(agents));
        theirs.push(millis(bare));
        iproute2.push(millis(iproute2::batch(&stage.host(&format!("iproute{turn}"))?, &stage.leases)?));
    }
    let mark = |what: &str| format!("start: {what}, {}", among(stage));
    let yardstick = Yardstick { name: "listing and bare batches", times: &theirs };
    report.against(mark("to last entry"), &ours, &yardstick, time_goal(peers));
    let yardstick = Yardstick { name: "iproute2's batches alone", times: &iproute2 };
    report.against(mark("to last entry, beside iproute2"), &ours, &yardstick, Goal::default());
    report.times(mark("to READY=1"), &readies, Goal::default());
    report.times(mark("CPU"), &cpu, cpu_goal(peers));
    report.number(mark("peak memory"), median(&memory), "MB", memory_goal(peers));
    let micros = median(&ours) * 1000.0;
    let count = u32::try_from(peers).expect("there are 64 000 at most");
    Ok(TimeOfAPeer { peers, micros: micros / f64::from(count) })
}

/// How the time of a peer grows from 4 000 to the most.
pub(crate) fn growth(times: &[TimeOfAPeer], report: &mut Report) {
    for TimeOfAPeer { peers, micros } in times {
        report.number(format!("start: time of a peer, {peers} peers"), *micros, "µs", Goal::default());
    }
    let (few, most) = (times.iter().find(|time| time.peers == 4_000), times.iter().find(|time| time.peers == 64_000));
    if let (Some(few), Some(most)) = (few, most) {
        let mark = "start: time of a peer at 64 000 over that at 4 000";
        report.number(mark, most.micros / few.micros, "×", Goal::default());
    }
}

const fn time_goal(peers: usize) -> Goal {
    match peers {
        4_000 => Goal { ours: "< 300 ms", flannel: "6 100 ms" },
        _ => Goal::ours(""),
    }
}

const fn cpu_goal(peers: usize) -> Goal {
    match peers {
        4_000 => Goal { ours: "< 300 ms", flannel: "3 700 ms" },
        _ => Goal::ours(""),
    }
}

const fn memory_goal(peers: usize) -> Goal {
    match peers {
        3 => Goal::ours("< 15 MB"),
        4_000 => Goal { ours: "< 35 MB", flannel: "27 MB" },
        20_000 => Goal::ours("< 70 MB"),
        64_000 => Goal::ours("< 150 MB"),
        _ => Goal::ours(""),
    }
}

/// The agent killed and started again on what it has left, in turns with a client that lists the leases and reads the kernel once.
pub(crate) fn restart(stage: &Stage, contestant: &mut Contestant, options: &Options, report: &mut Report) -> Result {
    let mark = |what: &str| format!("restart: {what}, {}", among(stage));
    let device = contestant.device()?;
    let (mut readies, mut reads, mut cpu, mut changes) = (Vec::new(), Vec::new(), Vec::new(), 0);
    // The kernel's own checks of link-local addresses take a second or two.
    wait_quiet(&contestant.monitor, Duration::from_secs(2), LIMIT)?;
    for turn in 1..=TURNS {
        contestant.monitor.forget();
        let agent = contestant.agent()?;
        agent.kill();
        agent.restart()?;
        readies.push(millis(agent.wait_ready(LIMIT)?));
        if turn == TURNS {
            thread::sleep(options.for_seconds(RESTART_WATCH));
        }
        cpu.push(millis(ProcessStat::read(contestant.pid()?)?.own));
        reads.push(millis(bare::read_once(&contestant.host, &stage.etcd, stage.family)?));
        let heard = contestant.monitor.writes(device)?;
        for change in &heard {
            eprintln!("bench: heard after the restart: message {} of device {}", change.kind, change.device);
        }
        changes += heard.len();
    }
    let yardstick = Yardstick { name: bare::READ_ONCE, times: &reads };
    report.against(mark("to READY=1"), &readies, &yardstick, Goal::default());
    report.times(mark("CPU"), &cpu, Goal::default());
    report.number(mark("kernel changes"), count(changes), "", Goal::ours("0"));

    // The kernel says nothing of a write that changes nothing, so the writes themselves are counted too: in a trace, which
    // takes time, so on a start of its own.
    let writes = traced_restart(contestant.agent()?, options)?;
    report.number(mark("netlink writes"), count(writes), "", Goal::ours("0"));
    Ok(())
}

fn traced_restart(agent: &mut Agent, options: &Options) -> Result<usize> {
    agent.kill();
    agent.spec_mut().traced = true;
    agent.restart()?;
    agent.wait_ready(LIMIT)?;
    thread::sleep(options.for_seconds(RESTART_WATCH));
    Ok(agent.kernel_writes()?.len())
}

fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

impl Contestant {
    fn device(&self) -> Result<u32> {
        let Some(lease) = self.leases.first() else { return Ok(0) };
        let name = crate::leases::device(lease.family);
        let link = self.host.kernel().link(name)?;
        link.map(|link| link.index).ok_or_else(|| LabError::Wrong(format!("there is no {name}")))
    }
}

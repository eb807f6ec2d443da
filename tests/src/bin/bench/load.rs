//! Many changes: at once, without a pause while everything is compared, and one a second.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use wire_tests::{Change, LabError, ProcessStat, Result, check, eventually, wait_quiet};

use crate::{
    bare,
    fresh::{share_of_processor, shares, used},
    leases::Lease,
    one_lease::among,
    options::Options,
    report::{Goal, Report, Yardstick, millis, millis_between},
    stage::{Contestant, LIMIT, Stage},
    writer::Written,
};

/// How many leases change at once, or in turns.
const MANY: usize = 1_000;
/// How many turns each has.
const TURNS: u8 = 3;
/// The agent compares everything once a minute.
const STREAM_SECONDS: u64 = 65;
/// The bare client has nothing that comes once a minute.
const BARE_STREAM_SECONDS: u64 = 15;
const PAUSE: Duration = Duration::from_millis(5);
/// How long nothing is done, and how long one change a second is made.
const IDLE_SECONDS: u64 = 60;
const RATE_SECONDS: u64 = 120;

/// A thousand leases changed at once.
pub(crate) fn burst(stage: &Stage, contestants: [&mut Contestant; 2], report: &mut Report) -> Result {
    let mut times = [Vec::new(), Vec::new()];
    let [agent, bare] = contestants;
    for _ in 0..TURNS {
        for (one, times) in [&mut *agent, &mut *bare].into_iter().zip(&mut times) {
            times.push(change_many(stage, one)?);
        }
    }
    agent.verify()?;
    bare.verify()?;
    let [ours, theirs] = times;
    let mark = format!("{} leases changed at once: {}", MANY.min(agent.leases.len()), among(stage));
    report.against(mark, &ours, &Yardstick { name: "bare client", times: &theirs }, Goal::default());
    Ok(())
}

/// From the answer to the last transaction to the last entry.
fn change_many(stage: &Stage, one: &mut Contestant) -> Result<f64> {
    one.monitor.forget();
    let mut writes = Vec::new();
    for lease in one.leases.iter_mut().take(MANY) {
        *lease = lease.next();
        writes.push(lease.put(one.side.prefix()));
    }
    let written = stage.writer.write_all(&writes)?;
    eventually(LIMIT, || {
        // For each a new FDB entry and a changed neighbour, and the old FDB entry.
        let (new, old) = (one.monitor.count(Change::NEW_NEIGHBOUR).0, one.monitor.count(Change::DELETE_NEIGHBOUR).0);
        check(new >= 2 * writes.len() && old >= writes.len(), || format!("{new} new, {old} deleted"))
    })?;
    wait_quiet(&one.monitor, Duration::from_millis(200), LIMIT)?;
    let (Some(last), Some(Written { answered, .. })) = (one.monitor.last()?, written) else {
        return Err(LabError::Wrong("nothing was changed".to_owned()));
    };
    Ok(millis_between(answered, last))
}

/// How long a comparison with nothing to do takes, and what it does to events.
pub(crate) fn compare(
    stage: &Stage,
    [agent, bare]: [&mut Contestant; 2],
    options: &Options,
    report: &mut Report,
) -> Result {
    let (mut verifies, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        reads.push(millis(bare::read_once(&agent.host, &stage.etcd, stage.family)?));
        let began = Instant::now();
        let answer = agent.agent()?.run_with_its_flags("verify")?;
        verifies.push(millis(began.elapsed()));
        let text = || String::from_utf8_lossy(&[answer.stdout.as_slice(), &answer.stderr].concat()).into_owned();
        check(answer.status.success(), || format!("wire-agent verify: {}\n{}", answer.status, text()))?;
    }
    let mark = format!("wire-agent verify of the running agent, nothing to do: {}", among(stage));
    report.against(mark, &verifies, &Yardstick { name: bare::READ_ONCE, times: &reads }, Goal::default());

    let ours = stream(stage, agent, options.for_seconds(STREAM_SECONDS))?;
    let theirs = stream(stage, bare, options.for_seconds(BARE_STREAM_SECONDS))?;
    agent.verify()?;
    let mark = format!("an event every 5 ms, over a minute with its full comparison: {}", among(stage));
    report.against(mark, &ours, &Yardstick { name: "bare client", times: &theirs }, Goal::default());
    Ok(())
}

/// Changes one lease after the other without waiting for the kernel, and gives the time of each from etcd's answer to its last new entry.
fn stream(stage: &Stage, one: &mut Contestant, period: Duration) -> Result<Vec<f64>> {
    one.monitor.forget();
    let (began, mut answered) = (Instant::now(), BTreeMap::new());
    let mut next = began;
    let many = MANY.min(one.leases.len());
    for index in (0..many).cycle() {
        if began.elapsed() > period {
            break;
        }
        thread::sleep(next.saturating_duration_since(Instant::now()));
        // Where etcd is slower than that, nothing is caught up.
        next = Instant::now() + PAUSE;
        let lease = one.leases[index].next();
        one.leases[index] = lease;
        // A lease comes back to the same version after 16 changes: the last one counts.
        answered.insert(lease, stage.writer.write(vec![lease.put(one.side.prefix())])?.answered);
    }
    let newest: Vec<Lease> = one.leases[..many].iter().filter(|lease| answered.contains_key(*lease)).copied().collect();
    let heard = wait_all(one, &newest)?;
    let delay = |(lease, answered): (&Lease, &Instant)| {
        // Where the next change came before this one was written, that one counts.
        let last = heard.get(&lease.mac()).or_else(|| heard.get(&lease.next().mac()));
        let last = last.ok_or_else(|| LabError::Wrong(format!("{:?}: {lease:?} never came", one.side)))?;
        Ok(millis_between(*answered, *last))
    };
    answered.iter().map(delay).collect()
}

/// Waits until the new entries of all these were heard, and gives when each MAC was heard last.
fn wait_all(one: &Contestant, leases: &[Lease]) -> Result<BTreeMap<[u8; 6], Instant>> {
    let began = Instant::now();
    loop {
        // To look often would take the processor from the one who is measured.
        thread::sleep(Duration::from_millis(500));
        let heard = last_entries(one)?;
        let missing = leases.iter().find(|lease| !heard.contains_key(&lease.mac()));
        match missing {
            None => return Ok(heard),
            Some(lease) if began.elapsed() > LIMIT => {
                let last = format!("{:?}: {lease:?} did not come", one.side);
                return Err(LabError::Late { after: LIMIT, last });
            }
            Some(_) => {}
        }
    }
}

/// When each MAC was last named by a new entry.
fn last_entries(one: &Contestant) -> Result<BTreeMap<[u8; 6], Instant>> {
    let mut last = BTreeMap::new();
    for change in one.monitor.changes()? {
        if change.kind == Change::NEW_NEIGHBOUR
            && let Some(mac) = Lease::mac_in(&change.body)
        {
            last.insert(mac, change.at);
        }
    }
    Ok(last)
}

/// One change a second in each network, and nothing.
pub(crate) fn rate(
    stage: &Stage,
    [agent, bare]: [&mut Contestant; 2],
    options: &Options,
    report: &mut Report,
) -> Result {
    let pids = [agent.pid()?, bare.pid()?];
    let idle = share_of_processor(&pids, options.for_seconds(IDLE_SECONDS))?;
    let (before, began) = (used(&pids)?, Instant::now());
    for index in 0.. {
        if began.elapsed() > options.for_seconds(RATE_SECONDS) {
            break;
        }
        for one in [&mut *agent, &mut *bare] {
            let place = index % one.leases.len();
            one.leases[place] = one.leases[place].next();
            stage.writer.write(vec![one.leases[place].put(one.side.prefix())])?;
        }
        thread::sleep(Duration::from_secs(1));
    }
    let busy = shares(&before, &used(&pids)?, began.elapsed())?;
    agent.verify()?;
    let mark = |what: &str| format!("share of a processor, {what}: {}", among(stage));
    report.number_against(mark("one change a second"), [busy[0], busy[1]], "%", Goal::default());
    report.number_against(mark("no change"), [idle[0], idle[1]], "%", Goal::default());
    let memory = ProcessStat::peak_memory(agent.pid()?)?;
    report.number(format!("peak memory after all of this: {}", among(stage)), memory, "MB", Goal::default());
    Ok(())
}

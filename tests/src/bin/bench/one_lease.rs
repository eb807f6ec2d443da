//! Rows of one lease: the kernel's entries, the step to nexthop objects, the packet filter's sets.

use wire_tests::{Family, Monitor, ProcessStat, Result};

use crate::{
    bare::{Bare, Job},
    events::{Ear, Heard, Kind, Series, in_turns},
    leases::{Lease, Side, Way},
    options::Options,
    report::{Goal, Report, Yardstick},
    stage::{Contestant, Stage},
};

/// From etcd's answer, and from the put.
const GOALS: [Goal; 2] =
    [Goal::ours("p50 < 0.5 ms, p99 < 2 ms"), Goal { ours: "", flannel: "3.2 / 11.8 ms, of it the put 2.4 / 6.3" }];
/// How many leases take turns to be added and removed.
const SPARE: u16 = 20;
/// From how many peers to how many the step lies: the agent writes 512 plain routes.
const STEP: (u16, u16) = (400, 700);

/// Leases added, changed and removed one by one.
pub(crate) fn entries(
    stage: &Stage,
    [agent, bare]: [&Contestant; 2],
    options: &Options,
    report: &mut Report,
) -> Result {
    let heard = match stage.way {
        Way::Vxlan => Heard::Entries,
        Way::HostGw => Heard::Routes,
    };
    let ears = [agent, bare].map(|one| Ear { side: one.side, monitor: &one.monitor, heard });
    let series = in_turns(&stage.writer, &ears, &spare(stage), options.events)?;
    let mark = |kind: &str| format!("{kind}: {}", among(stage));
    rows(&series, [mark("one lease added"), mark("one lease changed"), mark("one lease removed")], GOALS, report);
    let memory = ProcessStat::peak_memory(agent.pid()?)?;
    report.number(mark("peak memory after these events"), memory, "MB", Goal::default());
    Ok(())
}

/// Leases added one by one where the agent goes over from plain routes to nexthop objects.
pub(crate) fn step(report: &mut Report) -> Result {
    let (first, last) = STEP;
    let stage = Stage::new(Family::V4, first)?;
    let [mut agent, mut bare] = stage.both()?;
    let mut series = [Series::default(), Series::default()];
    let added: Vec<Lease> = (first + 1..=last).map(|number| Lease::new(Family::V4, number)).collect();
    for block in added.chunks(SPARE.into()) {
        for (one, series) in [&mut agent, &mut bare].into_iter().zip(&mut series) {
            let ear = Ear { side: one.side, monitor: &one.monitor, heard: Heard::Entries };
            for lease in block {
                series.time(&stage.writer, &ear, Kind::Added, *lease)?;
            }
            one.leases.extend(block);
        }
    }
    let mark = format!("one lease added: from {first} to {last} peers, IPv4");
    rows(&series, [mark, String::new(), String::new()], GOALS, report);
    agent.verify()?;
    bare.verify()
}

/// One lease in the sets of the packet filter.
pub(crate) fn sets(stage: &Stage, agent: &Contestant, options: &Options, report: &mut Report) -> Result {
    let host = stage.host("sets")?;
    Bare::prepare(&host, stage.family, Job::Elements)?;
    let mut bare = Bare::spawn(&host, &stage.etcd, stage.family, Job::Elements)?;
    bare.wait(stage.leases.len(), true)?;
    let monitors = [&agent.host, &host].map(|host| Monitor::listen_to_nftables(host.namespace()));
    let [ours, theirs] = monitors;
    let (ours, theirs) = (ours?, theirs?);
    let ears = [(Side::Agent, &ours), (Side::Bare, &theirs)];
    let ears = ears.map(|(side, monitor)| Ear { side, monitor, heard: Heard::Elements });
    let series = in_turns(&stage.writer, &ears, &spare(stage), options.events)?;
    let mark = |kind: &str| format!("one lease {kind} the packet filter's sets: {}", among(stage));
    rows(&series, [mark("added to"), mark("changed in"), mark("removed from")], [Goal::default(); 2], report);
    Ok(())
}

/// Leases that are not there yet. Among few it is one: the agent holds leases back for a while where more than half of all vanish
/// within two seconds.
fn spare(stage: &Stage) -> Vec<Lease> {
    let count = u16::try_from(stage.leases.len()).expect("there are 64 000 at most");
    (count + 1..=count + SPARE.min(count / 10).max(1))
        .map(|number| Lease { way: stage.way, ..Lease::new(stage.family, number) })
        .collect()
}

/// Among how many, and of which family.
pub(crate) fn among(stage: &Stage) -> String {
    let family = match stage.family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    let by = match stage.way {
        Way::Vxlan => "",
        Way::HostGw => ", host-gw",
    };
    format!("{} peers, {family}{by}", stage.leases.len())
}

fn rows([ours, theirs]: &[Series; 2], marks: [String; 3], [goal, from_the_put]: [Goal; 2], report: &mut Report) {
    for (kind, mark) in [Kind::Added, Kind::Changed, Kind::Removed].into_iter().zip(marks) {
        let (Some(ours), Some(theirs)) = (ours.0.get(&kind), theirs.0.get(&kind)) else { continue };
        let yardstick = Yardstick { name: "bare client", times: &theirs.since_answer };
        report.against(mark.clone(), &ours.since_answer, &yardstick, goal);
        let yardstick = Yardstick { name: "bare client", times: &theirs.since_sent };
        report.against(format!("{mark}, from the put"), &ours.since_sent, &yardstick, from_the_put);
    }
}

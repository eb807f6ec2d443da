//! Measures what the project promises in figures, on labs of its own: a table for people, then one line of JSON.
//!
//! Times move by a quarter from run to run on shared cores, so nothing here passes or fails by a figure; the exit status says only
//! whether all could be measured. What matters is the ratio to the yardstick, which the same run measures in turns with the agent.
//! Run it on a release build: `make bench`. docs/performance.md has the method.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod bare;
mod events;
mod fresh;
mod host_gw;
mod iproute2;
mod leases;
mod load;
mod named;
mod one_lease;
mod options;
mod report;
mod stage;
mod start;
mod writer;

use std::process::ExitCode;

use options::{Group, Options, Task, USAGE};
use report::Report;
use stage::{Contestant, Stage};
use wire_tests::{Family, Result};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(bare::ARGUMENT) {
        return exit(bare::main());
    }
    match Task::from_arguments(std::env::args().skip(1)) {
        Ok(Task::Help) => println!("{USAGE}"),
        Ok(Task::List) => list(),
        Ok(Task::Run(options)) => {
            let mut report = Report::default();
            let measured = run(&options, &mut report);
            // What was measured before a failure is worth its minutes.
            report.print();
            return exit(measured);
        }
        Err(wrong) => {
            eprintln!("bench: {wrong}\n{USAGE}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn exit(done: Result) -> ExitCode {
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn list() {
    for group in Group::ALL {
        let [name, what] = group.words();
        println!("{name:<12}{what}");
    }
}

fn run(options: &Options, report: &mut Report) -> Result {
    if cfg!(debug_assertions) {
        eprintln!("bench: this is a debug build: the figures mean nothing");
    }
    if options.wants(Group::Fresh) {
        eprintln!("bench: starts with a fresh lease");
        fresh::start_to_files(report)?;
    }
    if options.wants(Group::Away) {
        eprintln!("bench: etcd is away");
        fresh::etcd_away(options, report)?;
    }
    if options.wants(Group::Step) {
        eprintln!("bench: leases added where routes get nexthop objects");
        one_lease::step(report)?;
    }
    if options.wants(Group::HostGw) {
        eprintln!("bench: host-gw");
        host_gw::all(options, report)?;
    }
    if options.wants(Group::NamedCreate) {
        eprintln!("bench: networks by name on three hosts");
        named::create(options, report)?;
    }
    if options.wants(Group::NamedMany) {
        eprintln!("bench: many networks by name on a host");
        named::many(options, report)?;
    }
    if options.wants(Group::NamedLarge) {
        eprintln!("bench: a large network by name");
        named::large(options, report)?;
    }
    let mut times = Vec::new();
    for family in [Family::V4, Family::V6] {
        for peers in &options.peers {
            let groups = options.groups_among(family, *peers);
            if !groups.is_empty() {
                among(*peers, family, &groups, options, &mut times, report)?;
            }
        }
    }
    start::growth(&times, report);
    Ok(())
}

/// The rows among so many leases of one family. A restart comes last: it ends the agent that the others have measured.
fn among(
    peers: u16,
    family: Family,
    groups: &[Group],
    options: &Options,
    times: &mut Vec<start::TimeOfAPeer>,
    report: &mut Report,
) -> Result {
    let said = |what: &str| eprintln!("bench: {peers} peers, {family:?}: {what}");
    said("leases are put");
    let stage = Stage::new(family, peers)?;
    if groups.contains(&Group::Start) {
        said("start");
        times.push(start::start(&stage, report)?);
    }
    if groups == [Group::Start] {
        return Ok(());
    }
    let [mut agent, mut bare] = stage.both()?;
    let measured = beside(&stage, [&mut agent, &mut bare], groups, options, report);
    if measured.is_err() {
        eprintln!("bench: the agent's log:\n{}", agent.agent()?.log());
    }
    measured
}

/// The rows of an agent and a bare client that run.
fn beside(
    stage: &Stage,
    [agent, bare]: [&mut Contestant; 2],
    groups: &[Group],
    options: &Options,
    report: &mut Report,
) -> Result {
    let said = |what: &str| eprintln!("bench: {} peers, {:?}: {what}", stage.leases.len(), stage.family);
    if groups.contains(&Group::OneLease) {
        said("leases one by one");
        one_lease::entries(stage, [agent, bare], options, report)?;
    }
    if groups.contains(&Group::Sets) {
        said("the packet filter's sets");
        one_lease::sets(stage, agent, options, report)?;
    }
    if groups.contains(&Group::Burst) {
        said("many at once");
        load::burst(stage, [agent, bare], report)?;
    }
    if groups.contains(&Group::Compare) {
        said("full comparisons");
        load::compare(stage, [agent, bare], options, report)?;
    }
    if groups.contains(&Group::Rate) {
        said("one change a second");
        load::rate(stage, [agent, bare], options, report)?;
    }
    agent.verify()?;
    if groups.contains(&Group::Restart) {
        said("restart");
        start::restart(stage, agent, options, report)?;
        agent.verify()?;
    }
    Ok(())
}

//! Measures how fast packets cross the network, ours beside the kernel's VXLAN and beside one packet a system call.
//!
//! All contestants stand side by side on one underlay, two hosts each, and are measured in turns: A B C A B C. Shared cores move every
//! figure by a quarter from run to run, so what counts is the ratio of medians of one run. The exit status says only whether all
//! could be measured and every verdict of our rules was right; no figure makes it another one. Run it on a release build:
//! `make bench-datapath`.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod busy;
mod contestant;
mod flood;
mod frames;
mod iperf;
mod machine;
mod marks;
mod measure;
mod named;
mod options;
mod pair;
mod ping;
mod report;
mod rules;
mod samples;
mod scene;
mod stage;
mod table;
mod verdicts;

use std::process::ExitCode;

use busy::{CALM, Clock};
use contestant::Contestant;
use measure::Turn;
use options::{Options, Task};
use report::Report;
use samples::Samples;
use stage::Stage;
use wire_tests::{Lab, Result};

/// What it runs besides what every lab does.
const PROGRAMS: [&str; 2] = ["ethtool", "iperf3"];

fn main() -> ExitCode {
    let options = match Task::from_arguments(std::env::args().skip(1)) {
        Ok(Task::Run(options)) => options,
        Ok(Task::Help) => {
            println!("{}", options::USAGE);
            return ExitCode::SUCCESS;
        }
        Err(usage) => {
            eprintln!("bench-datapath: {usage}\n{}", options::USAGE);
            return ExitCode::from(64);
        }
    };
    match run(&options).and_then(|report| report.write().map(|()| report)) {
        Ok(report) if report.wrong().next().is_none() => ExitCode::SUCCESS,
        Ok(report) => {
            report.wrong().for_each(|verdict| eprintln!("bench-datapath: {verdict}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench-datapath: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<Report> {
    if cfg!(debug_assertions) {
        eprintln!("bench-datapath: this is a debug build: the figures mean nothing");
    }
    let lab = Lab::with_programs(&PROGRAMS)?;
    let stage = Stage::set(&lab, options)?;
    let mut samples = Samples::default();
    for round in 1..=options.rounds {
        let clock = Clock::read()?;
        for frames in &options.frames {
            stage.frames.set(*frames)?;
            for measurement in &options.measurements {
                eprintln!("bench-datapath: round {round} of {}: {frames}, {measurement}", options.rounds);
                for pair in &stage.pairs {
                    let measured = measurement.take(&Turn { pair, length: options.length() });
                    let measured = measured.map_err(|error| pair.failed(measurement.name(), &error))?;
                    samples.add(*frames, pair.contestant, &measured);
                }
            }
        }
        let others = clock.since()?.cores_of_others();
        if others > CALM {
            eprintln!("bench-datapath: other programs used {others:.2} processors: the figures are poor");
        }
        samples.others.push(others);
    }
    let judged = stage.pairs.iter().find(|pair| pair.contestant == Contestant::OurRules);
    let verdicts = judged.map(|pair| verdicts::of(&lab, &stage.etcd, pair)).unwrap_or_default();
    Report::new(options, &stage, samples, verdicts)
}

//! The figures, for people and for programs.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use serde::Serialize;
use serde_json::Value;
use wire_tests::{LabError, Result};

use crate::{
    busy::CALM,
    contestant::Contestant,
    flood::PAYLOAD,
    frames::{Frames, Setting},
    machine::Machine,
    marks::{self, Mark, RATIOS},
    measure::Figure,
    options::Options,
    samples::{Paired, Samples},
    stage::Stage,
    table,
    verdicts::Verdict,
};

/// All that is to be said of a run.
pub(crate) struct Report {
    frames: Vec<Frames>,
    contestants: Vec<Contestant>,
    samples: Samples,
    document: Document,
}

#[derive(Serialize)]
struct Document {
    machine: Machine,
    debug_build: bool,
    rounds: u32,
    seconds: u32,
    /// Processors that other programs used, in each round.
    cores_of_others: Vec<f64>,
    /// How the veths were set.
    veths: Setting,
    udp_payload: usize,
    /// What the agents said of their data path.
    datapath: BTreeMap<&'static str, Value>,
    figures: Vec<Line>,
    ratios: Vec<Ratio>,
    marks: Vec<Mark>,
    verdicts: Vec<Verdict>,
}

#[derive(Serialize)]
struct Line {
    frames: &'static str,
    figure: &'static str,
    unit: &'static str,
    contestant: &'static str,
    samples: Vec<f64>,
    median: f64,
}

#[derive(Serialize)]
struct Ratio {
    frames: &'static str,
    figure: &'static str,
    of: &'static str,
    to: &'static str,
    ratio: f64,
    /// Of each round.
    paired: Paired,
}

impl Report {
    /// Of these samples, from a stage that still stands.
    ///
    /// # Errors
    /// Where the stage cannot be asked how it was.
    pub(crate) fn new(options: &Options, stage: &Stage, samples: Samples, verdicts: Vec<Verdict>) -> Result<Self> {
        let (frames, contestants) = (options.frames.clone(), options.contestants.clone());
        let mut datapath = BTreeMap::new();
        for pair in &stage.pairs {
            datapath.extend(pair.datapath()?.map(|said| (pair.contestant.name(), said)));
        }
        let document = Document {
            machine: Machine::this()?,
            debug_build: cfg!(debug_assertions),
            rounds: options.rounds,
            seconds: options.seconds,
            cores_of_others: samples.others.clone(),
            veths: stage.frames.setting()?,
            udp_payload: PAYLOAD,
            datapath,
            figures: lines(&samples, &frames, &contestants),
            ratios: ratios(&samples, &frames),
            marks: marks::judge(&samples),
            verdicts,
        };
        Ok(Self { frames, contestants, samples, document })
    }

    /// The verdicts that are not as expected.
    pub(crate) fn wrong(&self) -> impl Iterator<Item = &Verdict> {
        self.document.verdicts.iter().filter(|verdict| !verdict.right())
    }

    /// Prints it, and writes the file.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(crate) fn write(&self) -> Result {
        for frames in &self.frames {
            println!("{}", table::of(&self.samples, *frames, &self.contestants));
        }
        let Document { rounds, seconds, veths, cores_of_others, .. } = &self.document;
        println!("medians of {rounds} rounds, {seconds} s each turn");
        let most = cores_of_others.iter().copied().fold(0.0, f64::max);
        let poor = if most > CALM { ": the figures are poor" } else { "" };
        println!("other programs used up to {most:.2} processors{poor}");
        println!("work, and cores: of all processors, senders and receivers included, other programs not");
        println!("UDP packets carry {PAYLOAD} bytes, and are counted where they are received");
        println!("real frames: off at both ends of each veth: {}", veths.segmentation.join(" "));
        println!("offloads on: the same on; nothing else differs");
        let state = |on: bool| if on { "on" } else { "off" };
        println!("always: tx-checksumming {} at both ends", state(veths.tx_checksumming));
        let (hosts, bridge) = (state(veths.gro_at_hosts), state(veths.gro_at_bridge));
        println!("always: generic-receive-offload {hosts} at the hosts, {bridge} at the bridge");
        for Ratio { figure, of, to, paired, .. } in &self.document.ratios {
            println!("round by round: {figure}, {of} / {to}: {paired}");
        }
        for mark in &self.document.marks {
            println!("mark: {mark}");
        }
        if !self.document.verdicts.is_empty() {
            println!("{}", table::of_verdicts(&self.document.verdicts));
        }
        let path = path()?;
        let text = serde_json::to_string_pretty(&self.document).expect("figures and names are JSON");
        let failed = |source| LabError::Io { what: format!("cannot write {}", path.display()), source };
        fs::write(&path, text + "\n").map_err(failed)?;
        println!("all samples: {}", path.display());
        Ok(())
    }
}

fn lines(samples: &Samples, frames: &[Frames], contestants: &[Contestant]) -> Vec<Line> {
    let mut lines = Vec::new();
    for frames in frames {
        for figure in Figure::ALL {
            for contestant in contestants {
                let Some(median) = samples.median(*frames, figure, *contestant) else { continue };
                let (figure_name, unit) = figure.describe();
                lines.push(Line {
                    frames: frames.name(),
                    figure: figure_name,
                    unit,
                    contestant: contestant.name(),
                    samples: samples.of(*frames, figure, *contestant).to_vec(),
                    median,
                });
            }
        }
    }
    lines
}

fn ratios(samples: &Samples, frames: &[Frames]) -> Vec<Ratio> {
    let mut ratios = Vec::new();
    for frames in frames {
        for figure in Figure::ALL {
            for pair in RATIOS {
                let Some(ratio) = samples.ratio(*frames, figure, pair) else { continue };
                let Some(paired) = samples.paired(*frames, figure, pair) else { continue };
                let [of, to] = pair.map(Contestant::name);
                ratios.push(Ratio { frames: frames.name(), figure: figure.describe().0, of, to, ratio, paired });
            }
        }
    }
    ratios
}

/// `bench-datapath.json` in cargo's target directory, two above this program.
fn path() -> Result<PathBuf> {
    let this = env::current_exe();
    let this = this.map_err(|source| LabError::Io { what: "cannot tell which program this is".to_owned(), source })?;
    let target = this.ancestors().nth(2).ok_or_else(|| LabError::Wrong("this program lies nowhere".to_owned()))?;
    Ok(target.join("bench-datapath.json"))
}

//! Compares two agents by what they leave on a host: each plays the same scenes, and what differs at the end of one is printed.
//!
//! What is rightly another in each run (MACs made at random, etcd's leases, times) is the same word in both records
//! ([`words`]), so nothing else may differ.

mod options;
mod record;
mod scenes;
mod side;
mod stage;
mod verdict;
mod words;

use std::{
    collections::BTreeMap,
    process::ExitCode,
    sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Instant,
};

use options::{Options, Task};
use scenes::Scene;
use side::Side;
use verdict::Verdict;
use wire_tests::{LabError, Result};

/// The exit status where a scene could not be played.
const CANNOT: u8 = 2;
/// How many scenes are played at once.
const AT_ONCE: usize = 2;

fn main() -> ExitCode {
    let done = match Task::from_arguments(std::env::args().skip(1)) {
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(CANNOT);
        }
        Ok(Task::Help) => {
            println!("{}", options::USAGE);
            Ok(0)
        }
        Ok(Task::List) => {
            scenes::all().for_each(|scene| println!("{:<18}{}", scene.name, scene.about));
            Ok(0)
        }
        Ok(Task::Run(options)) => run(&options),
    };
    done.map_or_else(
        |error| {
            eprintln!("compare: {error:?}");
            ExitCode::from(CANNOT)
        },
        ExitCode::from,
    )
}

/// Plays the scenes with both agents, and gives the exit status.
fn run(options: &Options) -> Result<u8> {
    let scenes = chosen(&options.only)?;
    let (base, today) = (Side::of_commit(&options.base)?, Side::today(options.today.as_deref())?);
    let verdicts = play(&scenes, &base, &today);
    println!();
    verdicts.iter().for_each(|verdict| println!("{}", verdict.line()));
    Ok(verdicts.iter().map(Verdict::status).max().unwrap_or(CANNOT))
}

/// Plays all scenes, as many at once as the machine has seats for labs: most of a scene is waiting. Says what came of each, in order.
fn play(scenes: &[&Scene], base: &Side, today: &Side) -> Vec<Verdict> {
    let next = AtomicUsize::new(0);
    let (done, verdicts) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                while let Some((number, scene)) = scenes.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
                    let start = Instant::now();
                    // One after the other, so that neither has less of the machine.
                    let verdict = Verdict::of(scene, &[base.play(scene), today.play(scene)]);
                    // The other end lives as long as this scope.
                    let _ = done.send((number, (verdict, start.elapsed())));
                }
            });
        }
        drop(done);
        let mut told = Vec::new();
        let mut early = BTreeMap::new();
        for (number, verdict) in verdicts {
            early.insert(number, verdict);
            while let Some((verdict, took)) = early.remove(&told.len()) {
                println!("compare: {} after {took:.0?}", verdict.line());
                print!("{}", verdict.details());
                told.push(verdict);
            }
        }
        told
    })
}

/// The scenes that were asked for.
fn chosen(only: &[String]) -> Result<Vec<&'static Scene>> {
    if let Some(unknown) = only.iter().find(|name| !scenes::all().any(|scene| scene.name == **name)) {
        return Err(LabError::Wrong(format!("no scene is called {unknown}; --list prints them")));
    }
    Ok(scenes::all().filter(|scene| only.is_empty() || only.iter().any(|name| name == scene.name)).collect())
}

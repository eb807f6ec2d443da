//! A run of one seed, and of many.

use std::{
    collections::BTreeMap,
    env,
    io::{self, Read as _},
    ops::RangeInclusive,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, RngSeed},
    task::LocalSet,
};
use wire_store::Random;

use crate::{
    checks::Whom,
    faults::Fault,
    world::{Broken, HELD, LISTED, PROMPT, START, Shape, World},
};

/// The seeds that every test run tries.
const FIXED: RangeInclusive<u64> = 1..=50;

/// Seeds that found something once, beside the fixed ones, each with what it found.
const KEPT: [(u64, &str); 0] = [];

/// How many seeds `make sim` tries.
const SEEDS: &str = "SIM_SEEDS";
/// The one seed that `make sim` tries.
const SEED: &str = "SIM_SEED";
/// Set in the second process, which only tells the hashes of its runs.
const SECOND: &str = "SIM_SECOND";
/// What stands before each hash in the output of the second process.
const HASH: &str = "hash of seed ";

/// The outcome of a run.
struct Outcome {
    shape: Shape,
    hash: String,
    steps: Vec<String>,
    broken: Option<Broken>,
}

/// Runs the world of a seed.
fn run(seed: u64) -> Outcome {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(&seed.to_be_bytes()))
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, async {
        let random = Random::seeded(seed);
        let shape = Shape::draw(&random, seed);
        let mut world = World::new(seed, shape, random);
        let broken = live(&mut world).await.err();
        if let Some(broken) = &broken {
            world.record.note(format_args!("broken: {broken}"));
        }
        for host in &mut world.hosts {
            host.stop();
        }
        Outcome { shape, steps: world.record.lines().to_vec(), hash: world.record.hash(), broken }
    })
}

/// The life of a world: all agents start, faults come, all are undone, and all must be well.
async fn live(world: &mut World) -> Result<(), Broken> {
    for index in 0..world.hosts.len() {
        world.start(index)?;
    }
    world.pass(START).await?;
    world.check(Whom::All)?;
    world.begin_networks().await?;
    for _ in 0..world.shape.steps {
        let fault = Fault::draw(&world.random, world.hosts.len());
        world.apply(fault)?;
        world.act_on_networks();
        let time = world.some_time();
        world.pass(time).await?;
        world.note_state();
        world.check(Whom::Undisturbed)?;
        world.check_calls()?;
    }
    world.record.note(format_args!("the end of all faults"));
    world.undo_all();
    world.pass(PROMPT + Duration::from_millis(100)).await?;
    world.check(Whom::Undisturbed)?;
    world.pass(HELD + START).await?;
    world.check(Whom::Undisturbed)?;
    world.pass(LISTED).await?;
    world.operator_restarts();
    world.pass(START).await?;
    world.settle_networks().await?;
    world.note_state();
    world.check(Whom::All)?;
    world.check_joined()?;
    world.check_ready()?;
    world.end_networks().await
}

impl World {
    /// An operator restarts the agents that raise the alarm of a lost lease.
    fn operator_restarts(&mut self) {
        for host in self.hosts.iter_mut().filter(|host| host.has_lost_its_lease()) {
            host.stop();
            host.keeps = None;
            host.start_at = Some(tokio::time::Instant::now());
        }
    }

    /// Adds the state of all hosts to the hash of the run.
    fn note_state(&mut self) {
        for host in &self.hosts {
            let changes = host.parts.kernel.faults().changes();
            let (calls, said) = (host.calls(), host.conditions());
            let networks = host.agent.as_ref().map(|running| running.status.networks());
            let (number, subnet) = (host.number, host.subnet());
            self.record.note_state(format_args!("{number} {changes} {calls} {subnet:?} {said:?} {networks:?}"));
        }
    }
}

/// The outcomes of many seeds.
#[derive(Default)]
struct Outcomes {
    hashes: BTreeMap<u64, String>,
    broken: Vec<u64>,
}

impl Outcomes {
    /// Runs these seeds one after the other, and tells of those that break a promise.
    fn of(seeds: impl Iterator<Item = u64>) -> Self {
        let mut outcomes = Self::default();
        for seed in seeds {
            let Outcome { shape, hash, steps, broken } = run(seed);
            if let Some(broken) = broken {
                println!("{}\nseed {seed}, {shape:?}: {broken}\nagain: make sim SEED={seed}", steps.join("\n"));
                outcomes.broken.push(seed);
            }
            outcomes.hashes.insert(seed, hash);
            if outcomes.hashes.len().is_multiple_of(500) {
                println!("{} seeds so far, {} broken", outcomes.hashes.len(), outcomes.broken.len());
            }
        }
        outcomes
    }
}

/// The number in a variable.
fn number(variable: &str) -> Option<u64> {
    Some(env::var(variable).ok()?.parse().expect("a number of seeds, or a seed"))
}

/// The fixed seeds, and those that found something once.
fn fixed() -> impl Iterator<Item = u64> {
    FIXED.chain(KEPT.into_iter().map(|(seed, _)| seed))
}

/// Starts this program again, to run the fixed seeds a second time.
fn second_process() -> io::Result<Child> {
    Command::new(env::current_exe()?)
        .args(["--exact", "run::agents_keep_their_promises_whatever_happens", "--nocapture"])
        .env(SECOND, "1")
        .stdout(Stdio::piped())
        .spawn()
}

/// The hashes that the second process has told.
fn told(mut second: Child) -> io::Result<BTreeMap<u64, String>> {
    let mut text = String::new();
    if let Some(output) = &mut second.stdout {
        output.read_to_string(&mut text)?;
    }
    second.wait()?;
    let hash = |line: &str| {
        let (seed, hash) = line.split_once(HASH)?.1.split_once(' ')?;
        Some((seed.parse().ok()?, hash.to_owned()))
    };
    Ok(text.lines().filter_map(hash).collect())
}

/// Runs so many seeds on all cores.
fn run_many(seeds: u64) -> Outcomes {
    let threads = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let workers =
        (0..threads).map(|first| thread::spawn(move || Outcomes::of((first + 1..=seeds).step_by(threads as usize))));
    let workers: Vec<_> = workers.collect();
    let mut all = Outcomes::default();
    for worker in workers {
        let Outcomes { hashes, broken } = worker.join().expect("a thread that does not panic");
        all.hashes.extend(hashes);
        all.broken.extend(broken);
    }
    all
}

#[test]
fn agents_keep_their_promises_whatever_happens() {
    if env::var_os(SECOND).is_some() {
        Outcomes::of(fixed()).hashes.iter().for_each(|(seed, hash)| println!("{HASH}{seed} {hash}"));
        return;
    }
    if let Some(seed) = number(SEED) {
        let Outcome { shape, hash, steps, broken } = run(seed);
        println!("{}\nseed {seed}, {shape:?}, {hash}", steps.join("\n"));
        if let Some(broken) = broken {
            println!("broken: {broken}");
            panic!("seed {seed} breaks a promise");
        }
        return;
    }
    if let Some(seeds) = number(SEEDS) {
        let Outcomes { hashes, broken } = run_many(seeds);
        assert_eq!(broken, [0_u64; 0], "of {} seeds, these break a promise", hashes.len());
        return;
    }
    let second = second_process().expect("a second process");
    let Outcomes { hashes, broken } = Outcomes::of(fixed());
    let told = told(second).expect("the output of the second process");
    assert_eq!(broken, [0_u64; 0], "these seeds break a promise");
    assert_eq!(hashes, told, "a seed has to give the same run in each process");
}

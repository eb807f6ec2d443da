//! A run of one seed, and of many.

use std::time::Duration;

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

/// The outcome of a run.
pub(crate) struct Outcome {
    pub(crate) shape: Shape,
    pub(crate) hash: String,
    pub(crate) steps: Vec<String>,
    pub(crate) broken: Option<Broken>,
}

/// Runs the world of a seed.
pub(crate) fn run(seed: u64) -> Outcome {
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
    for _ in 0..world.shape.steps {
        let fault = Fault::draw(&world.random, world.hosts.len());
        world.apply(fault)?;
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
    world.note_state();
    world.check(Whom::All)?;
    world.check_ready()
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
            let said = host.conditions();
            self.record.note_state(format_args!("{} {changes} {:?} {said:?}", host.number, host.subnet()));
        }
    }
}

#[test]
fn some_seeds() {
    let from: u64 = std::env::var("SIM_FROM").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let count: u64 = std::env::var("SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(20);
    let mut bad = 0;
    for seed in from..from + count {
        let begun = std::time::Instant::now();
        let outcome = run(seed);
        let took = begun.elapsed();
        println!("seed {seed} {:?} took {took:?}", outcome.shape);
        if std::env::var_os("SIM_STEPS").is_some() {
            println!("{}", outcome.steps.join("\n"));
        }
        if let Some(broken) = outcome.broken {
            bad += 1;
            println!("seed {seed} {}\n{}\n  {broken}", outcome.hash, outcome.steps.join("\n"));
        }
    }
    assert_eq!(bad, 0);
}

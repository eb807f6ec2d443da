use crate::host::SimulatedHost;
use std::time::Duration;
use tokio::{
    runtime::{Builder, RngSeed},
    task::LocalSet,
};
use wire_store::{Random, SimStore};

#[test]
fn three_join() {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .rng_seed(RngSeed::from_bytes(b"1"))
        .build()
        .unwrap();
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        let store = SimStore::new(1);
        store.put("/coreos.com/network/config", r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#, None);
        let random = Random::seeded(1);
        let mut hosts: Vec<SimulatedHost> = (0..3).map(SimulatedHost::new).collect();
        for host in &mut hosts {
            host.start(&store, &random).unwrap();
        }
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            for host in &hosts {
                let agent = host.agent.as_ref().unwrap();
                println!(
                    "{} {} {:?} {:?} {}",
                    host.number,
                    agent.status.phase(),
                    agent.status.subnet(),
                    agent.status.conditions(),
                    agent.task.is_finished()
                );
            }
        }
        println!("{:#?}", hosts[0].parts.kernel.state());
    });
}

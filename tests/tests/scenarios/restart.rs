//! A restart writes nothing that is right already, and loses nothing.

use std::{os::unix::fs::MetadataExt, thread, time::Duration};

use wire_tests::{Agent, Family, Link, LossMeter, Result, check, control_run, lab};

use crate::cluster::{DUAL, Node, START, cluster, device, path, put_peers, settle};

/// For how long after READY nothing may be written.
const WATCHED: Duration = Duration::from_secs(10);

#[test]
fn killed_or_terminated_and_started_again_among_100_peers_nothing_is_written_or_lost() -> Result {
    let lab = lab!();
    let (etcd, [mut a, b]) = cluster::<2>(&lab, DUAL)?;
    put_peers(&etcd, 100, &Family::ALL)?;
    settle(&etcd, &[&a, &b], &Family::ALL)?;
    a.agent.spec_mut().traced = true;
    let path = path(&lab, (&b.host, b.vtep(Family::V4)?), (&a.host, a.vtep(Family::V4)?));
    control_run(&path)?;
    let before = remembered(&a)?;

    for kill in [true, false] {
        let meter = LossMeter::start(&path)?;
        end(&mut a.agent, kill)?;
        let stored = lease_of(&etcd, &a)?;
        check(stored.len() == 1, || format!("{stored:?}"))?;
        thread::sleep(Duration::from_millis(500));
        a.agent.restart()?;
        a.agent.wait_ready(START)?;
        lab.rest(WATCHED);
        meter.stop_without_loss()?;
        let writes = a.agent.kernel_writes()?;
        check(writes.is_empty(), || format!("the restart wrote {writes:?}\n{}", a.agent.log()))?;
        let after = remembered(&a)?;
        check(after == before, || format!("before the restart {before:?}, after it {after:?}"))?;
        let now = lease_of(&etcd, &a)?;
        check(now == stored, || format!("the lease was {stored:?} before the restart and is {now:?}"))?;
    }

    // The same look at a host where one route is missing does see the write.
    a.agent.terminate()?;
    let routes = a.host.kernel().routes_through(device(Family::V4), Family::V4)?;
    a.host.namespace().ip(&format!("route delete {}", routes[0].destination))?;
    a.agent.restart()?;
    a.agent.wait_ready(START)?;
    let writes = a.agent.kernel_writes()?;
    check(writes.iter().any(|write| write == "RTM_NEWROUTE"), || format!("the missing route: {writes:?}"))?;
    settle(&etcd, &[&a, &b], &Family::ALL).map(drop)
}

fn end(agent: &mut Agent, kill: bool) -> Result {
    if kill {
        agent.kill();
        return Ok(());
    }
    let (status, took) = agent.terminate()?;
    check(status.success(), || format!("SIGTERM ended it with {status}"))?;
    check(took < Duration::from_secs(2), || format!("SIGTERM took {took:?}"))
}

/// What must outlive a restart.
#[derive(Debug, PartialEq)]
struct Remembered {
    subnets: Vec<String>,
    devices: Vec<Option<Link>>,
    /// The inode and time of subnet.env.
    file: (u64, i64, i64),
}

fn remembered(node: &Node) -> Result<Remembered> {
    let file = std::fs::metadata(node.agent.subnet_file()).unwrap();
    Ok(Remembered {
        subnets: Family::ALL.iter().map(|family| node.subnet(*family)).collect::<Result<_>>()?,
        devices: Family::ALL.iter().map(|family| node.host.kernel().link(device(*family))).collect::<Result<_>>()?,
        file: (file.ino(), file.mtime(), file.mtime_nsec()),
    })
}

/// The host's own lease; other agents write theirs again beside peers that may be flannel's.
fn lease_of(etcd: &wire_tests::Etcd, node: &Node) -> Result<Vec<wire_tests::Stored>> {
    let address = format!("\"{}\"", node.host.v4());
    Ok(etcd.leases()?.into_iter().filter(|lease| lease.value().contains(&address)).collect())
}

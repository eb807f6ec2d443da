//! Most leases vanish at once, which is rather a mistake than the end of most hosts.

use std::{
    thread,
    time::{Duration, Instant},
};

use wire_tests::{
    Etcd, Family, LossMeter, Monitor, PeerLease, Result, check, control_run, eventually, expect_peers, lab, peers_of,
};

use crate::cluster::{DUAL, PROMPT, cluster, device, exact, path, peer, phase, put_peers, settle};

/// The time that vanished leases have to come back.
const HELD: Duration = Duration::from_secs(30);

#[test]
fn leases_that_all_vanish_at_once_are_held_for_half_a_minute_and_those_that_come_back_are_never_missed() -> Result {
    let lab = lab!();
    let (etcd, [a, b]) = cluster::<2>(&lab, DUAL)?;
    let peers = put_peers(&etcd, 20, &Family::ALL)?;
    settle(&etcd, &[&a, &b], &Family::ALL)?;
    let before = peers_of(&a.host, &etcd, Family::V4)?;
    let path = path(&lab, (&b.host, b.vtep(Family::V4)?), (&a.host, a.vtep(Family::V4)?));
    control_run(&path)?;
    let meter = LossMeter::start(&path)?;
    let monitor = Monitor::listen(a.host.namespace())?;
    etcd.delete_all(&format!("{}/subnets/", Etcd::PREFIX))?;
    let gone = Instant::now();
    let reason = phase(&a.agent, "degraded")?;
    check(reason.contains("vanished from etcd at once"), || reason.clone())?;
    // The two that live write their leases again.
    eventually(PROMPT * 2, || check(etcd.leases()?.len() == 2, || "not all are back".to_owned()))?;
    thread::sleep(Duration::from_secs(2));
    // What the next follower of the leases is told by the former.
    let joined = || a.agent.log().matches("joining anew").count();
    a.agent.signal(nix::sys::signal::Signal::SIGHUP)?;
    eventually(PROMPT * 5, || check(joined() == 1, || a.agent.log()))?;
    thread::sleep(Duration::from_secs(2));
    let device_index = a.host.kernel().link(device(Family::V4))?.unwrap().index;
    let writes = monitor.writes(device_index)?;
    check(writes.is_empty(), || format!("the kernel was written: {writes:?}"))?;
    expect_peers(&a.host, device(Family::V4), Family::V4, &before)?;

    // What is new counts at once, also against what is held.
    let new = peer(60, &Family::ALL);
    let moved = PeerLease { mac: "02:bb:00:00:00:01".to_owned(), ..peers[3].clone() };
    for lease in [&new, &moved] {
        etcd.put(&lease.key(), &lease.value())?;
    }
    let others = before.iter().filter(|peer| peer.subnet != peers[3].subnet).cloned();
    let with_both = [&new, &moved].into_iter().filter_map(|lease| lease.expected(Family::V4)).chain(others);
    let with_both: Vec<_> = with_both.collect();
    eventually(PROMPT, || expect_peers(&a.host, device(Family::V4), Family::V4, &with_both))?;

    thread::sleep((HELD - Duration::from_secs(2)).saturating_sub(gone.elapsed()));
    expect_peers(&a.host, device(Family::V4), Family::V4, &with_both)?;
    eventually(Duration::from_secs(4), || exact(&etcd, &[&a, &b], &Family::ALL))?;
    phase(&a.agent, "ready")?;
    meter.stop_without_loss().map(drop)
}

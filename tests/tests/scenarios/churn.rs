//! Thousands of peers change in one go.

use std::{
    thread,
    time::{Duration, Instant},
};

use wire_tests::{
    Change, Etcd, ExpectedPeer, Family, LabError, Monitor, PeerLease, ProcessStat, Result, Share, check, eventually,
    expect_peers, expect_senders, lab,
};

use crate::cluster::{Node, START, device};

const CONFIG: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.1.0.0","SubnetMax":"10.1.15.0",
    "Backend":{"Type":"vxlan"}}"#;
const PEERS: u16 = 5_000;
/// What etcd takes in one transaction.
const TRANSACTION: usize = 128;
/// From the answer to the last transaction to the last notification of the kernel.
const PROMISE: Duration = Duration::from_secs(3);
/// In MB.
const MEMORY: f64 = 100.0;

/// One half of the peers goes, as many come, and the other half has another address and another MAC each. No more vanish than come, or they
/// would be held for half a minute: so does what vanishes by mistake.
#[test]
fn five_thousand_peers_that_change_in_one_go_are_applied_within_three_seconds_and_a_hundred_megabytes() -> Result {
    let lab = lab!(Share::Alone);
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(CONFIG)?;
    let (gone, kept): (Vec<_>, Vec<_>) = (1..=PEERS).map(PeerLease::numbered).partition(is_even);
    etcd.put_all(&entries(&[gone.clone(), kept.clone()].concat()))?;
    let node = Node::start(lab.host("a")?, &etcd)?;
    let before = expected(&[&gone, &kept]);
    eventually(START, || expect_peers(&node.host, device(Family::V4), Family::V4, &before))?;
    eventually(START, || expect_senders(&node.host, &etcd, Family::V4))?;

    let new: Vec<PeerLease> = (PEERS + 1..).take(gone.len()).map(PeerLease::numbered).collect();
    let changed: Vec<PeerLease> = kept.iter().zip(10_000..).map(|(peer, number)| moved(peer, number)).collect();
    let after = expected(&[&new, &changed]);
    let monitor = Monitor::listen(node.host.namespace())?;
    let mut gateway = etcd.gateway()?;
    let lease = gateway.grant(86_400)?;
    let (new, changed) = (entries(&new), entries(&changed));
    let keys: Vec<Vec<u8>> = gone.iter().map(|peer| peer.key().into_bytes()).collect();
    let began = Instant::now();
    let parts = new.chunks(TRANSACTION).zip(changed.chunks(TRANSACTION)).zip(keys.chunks(TRANSACTION));
    for ((new, changed), keys) in parts {
        gateway.put_all(new, lease)?;
        gateway.put_all(changed, lease)?;
        gateway.delete_all(keys.iter().map(Vec::as_slice))?;
    }
    let answered = Instant::now();

    let last = last_change(&monitor)?;
    let (took, peak) = (last.saturating_duration_since(answered), ProcessStat::peak_memory(node.agent.pid()?)?);
    println!("written to etcd in {:?}, in the kernel {took:?} later, {peak:.1} MB at most", answered - began);
    expect_peers(&node.host, device(Family::V4), Family::V4, &after)?;
    check(took < PROMISE, || format!("the kernel had it {took:?} after etcd"))?;
    check(peak < MEMORY, || format!("{peak:.1} MB"))?;
    eventually(START, || expect_senders(&node.host, &etcd, Family::V4)).map(drop)
}

fn is_even(peer: &PeerLease) -> bool {
    peer.subnet.octets()[2].is_multiple_of(2)
}

/// The same subnet with the public address and the MAC of another number.
fn moved(peer: &PeerLease, number: u16) -> PeerLease {
    PeerLease { subnet: peer.subnet, ..PeerLease::numbered(number) }
}

fn entries(peers: &[PeerLease]) -> Vec<(Vec<u8>, Vec<u8>)> {
    peers.iter().map(PeerLease::entry).collect()
}

fn expected(peers: &[&Vec<PeerLease>]) -> Vec<ExpectedPeer> {
    peers.iter().copied().flatten().filter_map(|peer| peer.expected(Family::V4)).collect()
}

/// Waits until routes, neighbours and FDB entries have not changed for the promised time, and says when they did last.
fn last_change(monitor: &Monitor) -> Result<Instant> {
    const QUIET: Duration = PROMISE;
    let kinds = [Change::NEW_ROUTE, Change::DELETE_ROUTE, Change::NEW_NEIGHBOUR, Change::DELETE_NEIGHBOUR];
    let limit = Instant::now() + START;
    loop {
        // Not more often: the test would take the processor that the agent needs.
        thread::sleep(QUIET / 10);
        let last = kinds.iter().filter_map(|kind| monitor.count(*kind).1).max();
        match last {
            Some(last) if last.elapsed() > QUIET => return Ok(last),
            Some(_) | None if Instant::now() < limit => {}
            Some(_) | None => return Err(LabError::Wrong(format!("the kernel changed last {last:?}"))),
        }
    }
}

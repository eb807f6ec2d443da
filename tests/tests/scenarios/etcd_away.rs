//! etcd is away, half away, mute, or stands still: traffic goes on, and what etcd missed is made up for once it answers.

use std::{
    thread,
    time::{Duration, Instant},
};

use wire_tests::{
    Access, Etcd, Family, LossMeter, Monitor, ProcessStat, Result, Underlay, check, control_run, eventually, lab,
    measured,
};

use crate::cluster::{Node, PROMPT, V4, cluster, device, exact, path, peer, phase, put_peers, settle};

/// The promise for the time from etcd's return until a host knows what has changed.
const RESYNC: Duration = Duration::from_secs(2);

/// How long etcd is away, three minutes or `WIRE_TESTS_ETCD_AWAY_SECONDS`.
fn away() -> Duration {
    let seconds = std::env::var("WIRE_TESTS_ETCD_AWAY_SECONDS");
    Duration::from_secs(seconds.map_or(180, |seconds| seconds.parse().expect("a number of seconds")))
}

#[test]
fn three_minutes_without_etcd_cost_no_packet_no_write_and_few_wakes() -> Result {
    /// Room for some hundred leases.
    const CONFIG: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.1.0.0","SubnetMax":"10.1.15.0",
        "Backend":{"Type":"vxlan"}}"#;
    // What the promised share of a processor is made of. The share itself is measured on what is shipped (`make bench`): what a wake
    // takes is several times as much in code that is not optimised, and on a machine that takes idle memory away.
    const WAKES_A_SECOND: u64 = 100;
    let lab = lab!();
    let (mut etcd, [a, b]) = cluster::<2>(&lab, CONFIG)?;
    put_peers(&etcd, 300, &[Family::V4])?;
    settle(&etcd, &[&a, &b], &[Family::V4])?;
    let path = path(&lab, (&b.host, b.vtep(Family::V4)?), (&a.host, a.vtep(Family::V4)?));
    control_run(&path)?;
    let meter = LossMeter::start(&path)?;
    let attempts = lab.count(&format!("iifname {} tcp dport 2379 tcp flags & (syn | ack) == syn", a.host.port()))?;
    let monitor = Monitor::listen(a.host.namespace())?;
    etcd.kill(0);
    let used = || ProcessStat::read(a.agent.pid()?).map(|stat| stat.own + stat.reaped);
    let (before, used_before, gone) = (ProcessStat::wakes(a.agent.pid()?)?, used()?, Instant::now());
    lab.rest(away());

    let woken = ProcessStat::wakes(a.agent.pid()?)? - before;
    println!("woken {woken} times in {:?}, {:?} of a processor", gone.elapsed(), used()? - used_before);
    check((1..gone.elapsed().as_secs() * WAKES_A_SECOND).contains(&woken), || format!("woken {woken} times"))?;
    let reason = phase(&a.agent, "degraded")?;
    check(reason.contains("etcd"), || reason.clone())?;
    // Three ask, each after half a second to a second, and where a member refuses twice.
    let (tried, most) = (attempts.packets()?, gone.elapsed().as_secs() * 12);
    println!("{tried} connections were tried, {reason}");
    check((gone.elapsed().as_secs() / 6..most).contains(&tried), || format!("{tried} connections were tried"))?;
    untouched(&a, &monitor)?;

    etcd.restart(0)?;
    knows_of_a_newcomer(&etcd, &a, RESYNC)?;
    phase(&a.agent, "ready")?;
    let loss = meter.stop_without_loss()?;
    println!("of {} pings in {:?} none was lost", loss.sent, loss.period);
    Ok(())
}

/// Checks that nothing was written to the kernel.
fn untouched(node: &Node, monitor: &Monitor) -> Result {
    let index = node.host.kernel().link(device(Family::V4))?.unwrap().index;
    let writes = monitor.writes(index)?;
    check(writes.is_empty(), || format!("the kernel was written: {writes:?}"))
}

/// Puts a lease, and checks that a host has it in its kernel in time.
fn knows_of_a_newcomer(etcd: &Etcd, node: &Node, limit: Duration) -> Result {
    let newcomer = peer(20, &[Family::V4]);
    let began = Instant::now();
    etcd.put(&newcomer.key(), &newcomer.value())?;
    eventually(limit * 3, || exact(etcd, &[node], &[Family::V4]))?;
    measured("known-after-etcd-is-back", began.elapsed())?;
    check(began.elapsed() < limit, || format!("known after {:?}\n{}", began.elapsed(), node.agent.log()))
}

#[test]
fn a_quorum_lost_for_ten_seconds_removes_no_peer_and_is_over_two_seconds_after_its_return() -> Result {
    let lab = lab!();
    let mut etcd = Etcd::start_with(&lab, Access::Open, 3)?;
    etcd.put_config(V4)?;
    put_peers(&etcd, 20, &[Family::V4])?;
    let node = Node::start(lab.host("a")?, &etcd)?;
    settle(&etcd, &[&node], &[Family::V4])?;
    let monitor = Monitor::listen(node.host.namespace())?;
    etcd.kill(1);
    etcd.kill(2);
    lab.rest(Duration::from_secs(10));
    let reason = phase(&node.agent, "degraded")?;
    check(reason.contains("etcd"), || reason)?;
    untouched(&node, &monitor)?;
    // Returns when etcd answers through a quorum again.
    etcd.restart(1)?;
    knows_of_a_newcomer(&etcd, &node, RESYNC)?;
    phase(&node.agent, "ready").map(drop)
}

#[test]
fn a_way_to_etcd_that_swallows_all_is_noticed_within_fifteen_seconds() -> Result {
    const PROMISE: Duration = Duration::from_secs(15);
    let lab = lab!();
    let (etcd, [a, b, c]) = cluster::<3>(&lab, V4)?;
    // Their watches were last heard of at different moments.
    thread::sleep(PROMPT * 3);
    etcd.put(&peer(20, &[Family::V4]).key(), &peer(20, &[Family::V4]).value())?;
    settle(&etcd, &[&a, &b, &c], &[Family::V4])?;
    let swallowed = lab.isolate(etcd.host(0))?;
    let gone = Instant::now();
    let nodes = [&a, &b, &c];
    let mut noticed = [None; 3];
    lab.resting(|| {
        while noticed.iter().any(Option::is_none) && gone.elapsed() < PROMISE * 2 {
            for (node, noticed) in nodes.iter().zip(&mut noticed).filter(|(_, noticed)| noticed.is_none()) {
                let status = node.agent.status()?;
                let told = status.phase == "degraded" && status.reason.is_some_and(|reason| reason.contains("etcd"));
                *noticed = told.then(|| gone.elapsed());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    })?;
    noticed.iter().flatten().try_for_each(|after| measured("silent-etcd-noticed", *after))?;
    check(noticed.iter().all(|after| after.is_some_and(|after| after < PROMISE)), || format!("{noticed:?}"))?;
    swallowed.heal();
    settle(&etcd, &nodes, &[Family::V4])?;
    nodes.iter().try_for_each(|node| phase(&node.agent, "ready").map(drop))
}

#[test]
fn an_etcd_that_stands_still_for_nine_seconds_is_named_and_gets_few_writes_when_it_goes_on() -> Result {
    const STILL: Duration = Duration::from_secs(9);
    let lab = lab!();
    let (etcd, [a, b]) = cluster::<2>(&lab, V4)?;
    let own = own_key(&etcd, &a)?;
    let path = path(&lab, (&b.host, b.vtep(Family::V4)?), (&a.host, a.vtep(Family::V4)?));
    let meter = LossMeter::start(&path)?;
    let begun = || etcd.calls_begun("Txn");
    // What it hears makes it write, but nothing that it says arrives before etcd stands still.
    let mute = no_word(&lab, &a, &etcd)?;
    let changed = etcd.get(&own)?.unwrap().value().replace(r#""PublicIPv6":null"#, r#""PublicIPv6":"fd00::99""#);
    etcd.put(&own, &changed)?;
    eventually(PROMPT * 5, || check(a.agent.log().contains("changed by another program"), || a.agent.log()))?;
    let before = begun()?;
    etcd.freeze(0, true)?;
    mute.heal();
    lab.rest(STILL);
    let reason = phase(&a.agent, "degraded")?;
    check(reason.contains("etcd") && reason.contains("does not answer"), || reason)?;
    etcd.freeze(0, false)?;
    let right = || Ok::<_, wire_tests::LabError>(etcd.get(&own)?.is_some_and(|own| own.value() != changed));
    eventually(RESYNC * 2, || check(right()?, || a.agent.log()))?;
    thread::sleep(PROMPT);
    let writes = begun()? - before;
    println!("{writes} writes");
    // Each was given up after five seconds and may have arrived all the same; one after another, the simulation shows. One more finds
    // that it is not needed, and the other host may write too.
    check((1..=4).contains(&writes), || format!("{writes} writes\n{}", a.agent.log()))?;
    phase(&a.agent, "ready")?;
    meter.stop_without_loss().map(drop)
}

/// Nothing from a host reaches etcd; what etcd sends reaches the host.
fn no_word(lab: &Underlay, node: &Node, etcd: &Etcd) -> Result<wire_tests::Fault> {
    lab.change(&format!("iifname {} oifname {} counter drop", node.host.port(), etcd.host(0).port()))
}

/// The key of a host's lease.
pub(crate) fn own_key(etcd: &Etcd, node: &Node) -> Result<String> {
    let public = node.host.v4().to_string();
    let own = etcd.leases()?.into_iter().find(|lease| lease.value().contains(&format!("\"{public}\"")));
    own.map(|own| own.key()).ok_or_else(|| wire_tests::LabError::Wrong(format!("{public} has no lease")))
}

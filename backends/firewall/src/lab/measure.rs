//! The figures of docs/adr/0007-firewall.md: `cargo test --release -p wire-firewall measure_rounds -- --ignored --nocapture`.

use std::time::{Duration, Instant};

use wire_net::Family;
use wire_state::{DesiredFirewall, Driver as _, Element, FirewallOp, OurTable, SetChange};

use super::{policy, reconciler, run, runtime};
use crate::{
    FirewallFromPeers, FirewallMonitor, Peer,
    tests::{among_many, one_of_many},
};

/// The number of changes, each of one lease, of which the figures are.
const CHANGES: u32 = 1_000;

#[test]
#[ignore = "a measurement"]
fn measure_rounds_among_many_peers() {
    for peers in [3, 4_000, 20_000, 64_000] {
        super::in_namespace(move || {
            let runtime = runtime();
            let _inside = runtime.enter();
            let mut monitor = FirewallMonitor::open().unwrap();
            let mut rules = among_many(&policy(false), peers);
            let mut reconciler = reconciler();
            let mut timed = |what: &str, rules: &FirewallFromPeers, doubt: bool| {
                if doubt {
                    reconciler.invalidate();
                }
                let begun = Instant::now();
                let report = reconciler.round(rules.firewall());
                println!("{peers} peers, {what}: {:?}, {} written", begun.elapsed(), report.written);
                assert!(report.converged);
            };
            timed("all put", &rules, true);
            timed("read again", &rules, true);
            timed("believed", &rules, false);
            runtime.block_on(monitor.changed()).unwrap();
            let (mut rounds, mut heard, mut bare) = (Vec::new(), Vec::new(), Vec::new());
            // Each peer joins and leaves.
            for change in 0..CHANGES {
                let (peer, joins) = (one_of_many(peers + change / 2), change % 2 == 0);
                let begun = Instant::now();
                let (gone, new) = if joins { (None, Some(peer)) } else { (Some(peer), None) };
                rules.update(gone.into_iter(), new.into_iter());
                let report = reconciler.round(rules.firewall());
                rounds.push(begun.elapsed());
                runtime.block_on(monitor.changed()).unwrap();
                heard.push(begun.elapsed());
                assert!(report.converged && !report.read_back && report.written == 1);
            }
            for change in 0..CHANGES {
                let op = FirewallOp::ChangeSets(
                    OurTable::default(),
                    change_of(&one_of_many(peers + change / 2), change % 2 == 0),
                );
                let begun = Instant::now();
                let attempts = reconciler.driver().apply(std::slice::from_ref(&op));
                bare.push(begun.elapsed());
                runtime.block_on(monitor.changed()).unwrap();
                assert!(attempts.iter().all(Result::is_ok), "{attempts:?}");
            }
            show(peers, "rounds of one lease", rounds);
            show(peers, "until they are heard of", heard);
            show(peers, "transactions of one lease", bare);
            let there = run("nft -j list set inet wire-agent subnets-v4-24").matches("\"concat\":").count();
            assert_eq!(there, usize::try_from(peers).unwrap());
            assert!(reconciler.round(&DesiredFirewall::default()).converged);
        });
    }
}

fn show(peers: u32, what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let (half, most, slowest) = (times[times.len() / 2], times[times.len() * 99 / 100], times[times.len() - 1]);
    println!("{peers} peers, {what}: p50 {half:?}, p99 {most:?}, the slowest {slowest:?}");
}

/// The change of the sets by a peer that joins or leaves.
fn change_of(peer: &Peer, joins: bool) -> std::collections::BTreeMap<String, SetChange> {
    let (public, subnet) = (*peer.public.get(Family::V4).unwrap(), peer.subnet.get(Family::V4).unwrap());
    let change = |element| match joins {
        true => SetChange { add: [element].into(), ..SetChange::default() },
        false => SetChange { remove: [element].into(), ..SetChange::default() },
    };
    [
        ("peers-v4".to_owned(), change(Element::Address(public))),
        ("subnets-v4-24".to_owned(), change(Element::Subnet(public, subnet))),
    ]
    .into()
}

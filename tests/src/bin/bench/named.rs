//! Rows of networks by name: one that is made and is there on three hosts, and a large one.

mod large;
mod many;

use std::{
    process::Output,
    thread,
    time::{Duration, Instant},
};

use wire_tests::{Agent, AgentSpec, Change, Etcd, Host, Lab, LabError, Monitor, Result, check};

pub(crate) use self::{large::large, many::many};
use crate::{
    options::Options,
    report::{Goal, Report, millis_between},
    stage::LIMIT,
};

/// The flat network leaves room for the others: their pools begin with 11.
pub(crate) const CONFIG: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMax":"10.4.255.0","Backend":{"Type":"vxlan"},
    "Networks":{"IPv4Pool":"11.0.0.0/8"}}"#;
/// A part of each message about an address of a network by name: the beginning of its MAC, which follows from the address.
pub(crate) const OF_A_NETWORK: [u8; 3] = [0x02, 0x57, 11];
/// The number of networks that are made.
const NETWORKS: usize = 100;
/// The messages about the addresses of two other hosts: two FDB entries and a neighbour for each, and at least 29 addresses in each block of /27.
const MESSAGES: usize = 2 * 29 * 3;
/// The time of silence after which all was heard.
const SETTLED: Duration = Duration::from_millis(20);

/// A host that takes part, with an ear to its kernel.
struct Node {
    agent: Agent,
    monitor: Monitor,
}

impl Node {
    fn start(lab: &Lab, etcd: &Etcd, name: &str) -> Result<Self> {
        let host = lab.host(name)?;
        let monitor = Monitor::listen(host.namespace())?;
        let mut agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()))?;
        agent.wait_ready(LIMIT)?;
        Ok(Self { agent, monitor })
    }
}

/// Carries out `wire-agent network …` on a host.
pub(crate) fn network(agent: &Agent, words: &str) -> Result<Output> {
    let output = agent.run_with_its_flags(&format!("network {words}"))?;
    check(output.status.success(), || format!("network {words}: {output:?}\n{}", agent.log()))?;
    Ok(output)
}

/// Networks that are made one after the other: two hosts are told to take part as soon as `create` has answered, all at once, and then a third one.
pub(crate) fn create(options: &Options, report: &mut Report) -> Result {
    let lab = Lab::new()?;
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(CONFIG)?;
    let nodes =
        [Node::start(&lab, &etcd, "one")?, Node::start(&lab, &etcd, "two")?, Node::start(&lab, &etcd, "three")?];
    let (mut all_at_once, mut one_more) = (Vec::new(), Vec::new());
    for number in 0..options.networks(NETWORKS) {
        let name = format!("n{number}");
        let [one, two, three] = &nodes;
        nodes.iter().for_each(|node| node.monitor.forget());
        network(&one.agent, &format!("create {name}"))?;
        let answered = Instant::now();
        expose(&nodes, &name)?;
        all_at_once.push(millis_between(answered, whole(&nodes)?));
        network(&three.agent, &format!("hide {name}"))?;
        settle(&nodes)?;
        nodes.iter().for_each(|node| node.monitor.forget());
        let asked = Instant::now();
        network(&three.agent, &format!("expose {name}"))?;
        one_more.push(millis_between(asked, last_of([one, two], MESSAGES / 2)?));
        for node in &nodes {
            network(&node.agent, &format!("hide {name}"))?;
        }
        network(&one.agent, &format!("rm {name}"))?;
        settle(&nodes)?;
    }
    let goal = Goal::ours("p50 < 100 ms");
    report.times("a network: from create's answer to the last entry, exposed on 3 hosts at once", &all_at_once, goal);
    report.times("a network: from one more host's expose to its last entry on 2 others", &one_more, goal);
    Ok(())
}

/// Has all hosts take part, at once.
fn expose(nodes: &[Node], name: &str) -> Result {
    thread::scope(|scope| {
        let asked = nodes.iter().map(|node| scope.spawn(|| network(&node.agent, &format!("expose {name}"))));
        let asked: Vec<_> = asked.collect();
        asked.into_iter().try_for_each(|asked| asked.join().expect("a thread that does not panic").map(drop))
    })
}

/// The last message about an address on any of three hosts, once each has all of the two others.
fn whole(nodes: &[Node; 3]) -> Result<Instant> {
    last_of(nodes, MESSAGES)
}

fn last_of<'a>(nodes: impl IntoIterator<Item = &'a Node>, messages: usize) -> Result<Instant> {
    let mut last: Option<Instant> = None;
    for node in nodes {
        let heard = last_entry(&node.monitor, messages)
            .map_err(|error| LabError::Wrong(format!("{error:?}\n{}", node.agent.log())))?;
        last = last.max(Some(heard));
    }
    last.ok_or_else(|| LabError::Wrong("there is no host".to_owned()))
}

/// The time of the last message about an address of a network, once so many have come and nothing more comes.
pub(crate) fn last_entry(monitor: &Monitor, messages: usize) -> Result<Instant> {
    let began = Instant::now();
    loop {
        let changes = monitor.naming(&[OF_A_NETWORK.to_vec()])?;
        let entries: Vec<&Change> = changes.iter().filter(|change| change.kind == Change::NEW_NEIGHBOUR).collect();
        let is_whole = entries.len() >= messages;
        if let Some(last) = entries.last().filter(|last| is_whole && last.at.elapsed() > SETTLED) {
            return Ok(last.at);
        }
        if began.elapsed() > LIMIT {
            let last = format!("{} of {messages} messages were heard", entries.len());
            return Err(LabError::Late { after: LIMIT, last });
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until all kernels are silent.
fn settle(nodes: &[Node]) -> Result {
    nodes.iter().try_for_each(|node| wire_tests::wait_quiet(&node.monitor, Duration::from_millis(100), LIMIT))
}

/// The host of an agent that takes part alone.
pub(crate) fn alone(lab: &Lab, etcd: &Etcd, name: &str) -> Result<(Host, Agent, Monitor)> {
    let host = lab.host(name)?;
    let monitor = Monitor::listen(host.namespace())?;
    let mut agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()))?;
    agent.wait_ready(LIMIT)?;
    Ok((host, agent, monitor))
}

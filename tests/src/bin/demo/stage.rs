//! The three hosts and all that runs on them.

use std::{net::IpAddr, thread, time::Instant};

use wire_tests::{
    Agent, AgentSpec, Container, Dockerd, Etcd, Family, Fault, Host, Lab, LabError, Process, Result, Stored, run_binary,
};

use crate::say;

/// Everything on the stage. The lab is dropped last: it sweeps up what the others leave.
pub(crate) struct Stage {
    pub(crate) sites: Vec<Site>,
    /// The helpers that open containers for the agents.
    pub(crate) helpers: Vec<Process>,
    pub(crate) etcd: Etcd,
    pub(crate) lab: Lab,
}

/// A host with its agent, its Docker, and one container.
pub(crate) struct Site {
    pub(crate) container: Container,
    pub(crate) docker: Dockerd,
    pub(crate) agent: Agent,
    pub(crate) host: Host,
}

/// Whether one container reaches another.
pub(crate) struct Pair {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) answered: bool,
}

impl Site {
    /// The address of its container on docker0.
    pub(crate) fn address(&self) -> Result<IpAddr> {
        self.container.address(Family::V4)
    }
}

impl Stage {
    /// How many hosts there are.
    pub(crate) const HOSTS: usize = 3;

    /// Starts everything.
    pub(crate) fn set(lab: Lab) -> Result<Self> {
        let start = Instant::now();
        let etcd = Etcd::start(&lab)?;
        say(&format!("etcd answers at {}", etcd.endpoints()));
        let endpoints = format!("--etcd-endpoints={}", etcd.endpoints());
        let prefix = format!("--etcd-prefix={}", Etcd::PREFIX);
        let config = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}"#;
        let words = ["config", "set", &endpoints, &prefix, config];
        let done = run_binary(Some(etcd.host(0).namespace()), &words)?;
        if !done.status.success() {
            let output = String::from_utf8_lossy(&done.stderr).into_owned();
            let command = format!("wire-agent {}", words.join(" "));
            return Err(LabError::Command { command, outcome: done.status.to_string(), output });
        }
        say(&format!("wire-agent config set {config}"));
        let mut starting = Vec::new();
        for number in 1..=Self::HOSTS {
            let host = lab.host(&format!("h{number}"))?;
            let agent = Agent::start(&host, AgentSpec::new(etcd.agent_flags()))?;
            let (ready, subnet) = (agent.ready_after().unwrap_or_default(), agent.subnet_env()?);
            let subnet = subnet.get("FLANNEL_SUBNET").cloned().unwrap_or_default();
            say(&format!("{} at {}: agent ready after {ready:.0?} with {subnet}", host.name(), host.v4()));
            starting.push((host, agent));
        }
        say("starting a dockerd and a container on each host");
        let sites = thread::scope(|scope| {
            let workers: Vec<_> =
                starting.into_iter().map(|(host, agent)| scope.spawn(|| docker(host, agent))).collect();
            let join = |worker: thread::ScopedJoinHandle<'_, Result<Site>>| match worker.join() {
                Ok(site) => site,
                Err(_) => Err(LabError::Wrong("a thread that starts docker panicked".to_owned())),
            };
            workers.into_iter().map(join).collect::<Result<Vec<_>>>()
        })?;
        say(&format!("all stands after {:.1?}", start.elapsed()));
        Ok(Self { sites, helpers: Vec::new(), etcd, lab })
    }

    /// Cuts two hosts, counted from 1, from each other.
    pub(crate) fn cut(&self, a: usize, b: usize) -> Result<Fault> {
        let (a, b) = (&self.sites[a - 1].host, &self.sites[b - 1].host);
        say(&format!("cut: nothing passes between {} and {} any more", a.name(), b.name()));
        self.lab.partition(a, b)
    }

    /// The leases in etcd.
    pub(crate) fn leases(&self) -> Result<Vec<Stored>> {
        self.etcd.leases()
    }

    /// Counters of the VXLAN packets that the underlay carries from each host to each other one.
    pub(crate) fn watch_the_wire(&self) -> Result<Vec<Vec<Option<Fault>>>> {
        let seen = |from: &Site, to: &Site| {
            let (from, to) = (from.host.port(), to.host.port());
            let count = || self.lab.count(&format!("iifname {from} oifname {to} udp dport 8472"));
            (from != to).then(count).transpose()
        };
        self.sites.iter().map(|from| self.sites.iter().map(|to| seen(from, to)).collect()).collect()
    }

    /// Lets each container ping each other one, all at once.
    pub(crate) fn ping_all_pairs(&self) -> Vec<Pair> {
        let hosts = 0..self.sites.len();
        let pairs = hosts.clone().flat_map(|from| hosts.clone().map(move |to| (from, to)));
        let answered = |from: usize, to: usize| {
            let target = self.sites[to].address();
            target.is_ok_and(|target| self.sites[from].container.pings(target, 3))
        };
        thread::scope(|scope| {
            let workers = pairs.filter(|(from, to)| from != to);
            let workers: Vec<_> =
                workers.map(|(from, to)| (from, to, scope.spawn(move || answered(from, to)))).collect();
            let pair = |(from, to, worker): (_, _, thread::ScopedJoinHandle<'_, bool>)| {
                // A thread that panicked has seen no answer.
                Pair { from, to, answered: worker.join().unwrap_or(false) }
            };
            workers.into_iter().map(pair).collect()
        })
    }
}

fn docker(host: Host, agent: Agent) -> Result<Site> {
    let mut docker = Dockerd::start_with_file(&host, &agent.docker_opts_file())?;
    let container = docker.run()?;
    let (name, address) = (host.name(), container.address(Family::V4)?);
    say(&format!("{name}: container {address} runs"));
    Ok(Site { container, docker, agent, host })
}

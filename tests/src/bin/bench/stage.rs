//! Where rows are measured: an etcd with so many leases, the agent among them, and the bare client beside it.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use wire_store::Write;
use wire_tests::{
    Agent, AgentSpec, Change, Etcd, Family, Host, Lab, LabError, Monitor, Result, check, eventually, expect_peers,
    wait_quiet,
};

use crate::{
    bare::{self, Bare, Job},
    leases::{self, Lease, Side, Way, config, many},
    writer::Writer,
};

/// How long everything may take at most.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
/// How long the kernel is silent when all has been written.
const QUIET: Duration = Duration::from_millis(300);

/// A lab of its own with an etcd that holds the leases.
pub(crate) struct Stage {
    pub(crate) writer: Writer,
    pub(crate) etcd: Etcd,
    pub(crate) family: Family,
    pub(crate) way: Way,
    /// The leases of the agent's network, but its own.
    pub(crate) leases: Vec<Lease>,
    // Last: it takes the namespaces away.
    lab: Lab,
}

/// The agent or the bare client among the leases, with an ear to its kernel.
pub(crate) struct Contestant {
    pub(crate) program: Program,
    pub(crate) side: Side,
    pub(crate) host: Host,
    pub(crate) monitor: Monitor,
    /// What the kernel of its host is to hold.
    pub(crate) leases: Vec<Lease>,
}

/// Who is measured.
pub(crate) enum Program {
    Agent(Box<Agent>),
    Bare(Bare),
}

impl Stage {
    pub(crate) fn new(family: Family, peers: u16) -> Result<Self> {
        Self::of(Way::Vxlan, family, peers)
    }

    /// One whose hosts reach each other in this way.
    pub(crate) fn of(way: Way, family: Family, peers: u16) -> Result<Self> {
        let lab = Lab::new()?;
        let etcd = Etcd::start(&lab)?;
        etcd.put_config(config(family, way))?;
        let (writer, leases) = (Writer::start(&etcd), many(family, way, peers));
        let puts: Vec<Write> = leases.iter().map(|lease| lease.put(Side::Agent.prefix())).collect();
        writer.write_all(&puts)?;
        Ok(Self { writer, etcd, family, way, leases, lab })
    }

    pub(crate) fn host(&self, name: &str) -> Result<Host> {
        let host = self.lab.host(name)?;
        if self.way == Way::HostGw {
            // All leases' public addresses are on its link.
            let number = host.v4().octets()[3];
            host.namespace().ip(&format!("address add 172.31.255.{number}/12 dev eth0"))?;
        }
        Ok(host)
    }

    /// The agent and the bare client among the leases. The bare client is first: so it does not find the agent's own lease.
    pub(crate) fn both(&self) -> Result<[Contestant; 2]> {
        let (bare, _) = self.start_bare("bare")?;
        let (agent, _) = self.start_agent("agent")?;
        Ok([agent, bare])
    }

    /// Starts the agent on a new host and waits for the last entry; gives the time to that too.
    pub(crate) fn start_agent(&self, name: &str) -> Result<(Contestant, Duration)> {
        let host = self.host(name)?;
        let monitor = Monitor::listen(host.namespace())?;
        let mut agent = Agent::spawn(&host, AgentSpec::new(self.etcd.agent_flags()))?;
        let started = agent.started();
        let last =
            self.wait_entries(&monitor).map_err(|error| LabError::Wrong(format!("{error:?}\n{}", agent.log())))?;
        agent.wait_ready(LIMIT)?;
        let (program, leases) = (Program::Agent(Box::new(agent)), self.leases.clone());
        let took = last.duration_since(started);
        Ok((Contestant { program, side: Side::Agent, host, monitor, leases }, took))
    }

    /// Starts the agent and then the bare client, each on a new host and, the first time, with a look at the entries. `look` is told of the agent
    /// while it runs. Returns how long each took.
    pub(crate) fn start_in_turn(
        &self,
        turn: u8,
        look: impl FnOnce(&mut Contestant) -> Result,
    ) -> Result<(Duration, Duration)> {
        let (mut agent, ours) = self.start_agent(&format!("agent{turn}"))?;
        look(&mut agent)?;
        if turn == 0 {
            agent.verify()?;
        }
        let agent = agent.agent()?;
        agent.kill();
        self.forget(agent)?;
        let (bare, theirs) = self.start_bare(&format!("bare{turn}"))?;
        if turn == 0 {
            bare.verify()?;
        }
        Ok((ours, theirs))
    }

    /// The same with the bare client.
    pub(crate) fn start_bare(&self, name: &str) -> Result<(Contestant, Duration)> {
        let host = self.host(name)?;
        let job = match self.way {
            Way::Vxlan => Job::Entries,
            Way::HostGw => Job::Routes,
        };
        Bare::prepare(&host, self.family, job)?;
        let monitor = Monitor::listen(host.namespace())?;
        let started = Instant::now();
        let mut bare = Bare::spawn(&host, &self.etcd, self.family, job)?;
        let last = self.wait_entries(&monitor);
        bare.wait(self.leases.len(), true)?;
        let took = last?.duration_since(started);
        let (program, leases) = (Program::Bare(bare), self.leases.clone());
        Ok((Contestant { program, side: Side::Bare, host, monitor, leases }, took))
    }

    /// Waits for the route of each lease, and until nothing more comes; gives the time of the last notification. It does not look at
    /// the kernel's tables, which would take the processor from those who are measured.
    fn wait_entries(&self, monitor: &Monitor) -> Result<Instant> {
        eventually(LIMIT, || {
            let (routes, _) = monitor.count(Change::NEW_ROUTE);
            check(routes >= self.leases.len(), || format!("{routes} of {} routes", self.leases.len()))
        })?;
        let (_, last_route) = monitor.count(Change::NEW_ROUTE);
        wait_quiet(monitor, QUIET, LIMIT)?;
        let last_neighbour = match self.way {
            Way::Vxlan => monitor.count(Change::NEW_NEIGHBOUR).1,
            // Those on the link are the kernel's own.
            Way::HostGw => None,
        };
        last_route.max(last_neighbour).ok_or_else(|| LabError::Wrong("nothing was heard".to_owned()))
    }

    /// Deletes the lease of an agent that is gone, so that the next finds the same leases.
    pub(crate) fn forget(&self, agent: &Agent) -> Result {
        let env = agent.subnet_env()?;
        let subnet = env.get("FLANNEL_SUBNET").map_or("", String::as_str);
        let network = subnet.split('/').next().and_then(|address| address.rsplit_once('.'));
        let network = network.ok_or_else(|| LabError::Wrong(format!("no IPv4 subnet in {env:?}")))?.0;
        self.etcd.delete(&format!("{}/subnets/{network}.0-24", Etcd::PREFIX))
    }
}

impl Contestant {
    pub(crate) fn pid(&self) -> Result<u32> {
        match &self.program {
            Program::Agent(agent) => agent.pid(),
            Program::Bare(bare) => Ok(bare.pid()),
        }
    }

    /// The agent, of a contestant that is one.
    pub(crate) fn agent(&mut self) -> Result<&mut Agent> {
        match &mut self.program {
            Program::Agent(agent) => Ok(agent),
            Program::Bare(_) => Err(LabError::Wrong("the bare client is no agent".to_owned())),
        }
    }

    /// Checks that its kernel holds exactly its leases.
    pub(crate) fn verify(&self) -> Result {
        let Some(Lease { family, way, .. }) = self.leases.first().copied() else { return Ok(()) };
        if way == Way::HostGw {
            return eventually(LIMIT, || self.has_routes()).map(drop);
        }
        let expected: Vec<_> = self.leases.iter().map(Lease::expected).collect();
        let device = match self.side {
            Side::Agent => leases::device(family),
            Side::Bare => bare::DEVICE,
        };
        eventually(LIMIT, || expect_peers(&self.host, device, family, &expected)).map(drop)
    }

    /// Checks that the routes through gateways are exactly those of its leases.
    fn has_routes(&self) -> Result {
        let routes = self.host.kernel().routes_through("eth0", Family::V4)?;
        let routes = routes.into_iter().filter(|route| route.destination.starts_with("10."));
        let found: BTreeSet<_> = routes.map(|route| (route.destination, route.gateway)).collect();
        let wanted = self.leases.iter().map(|lease| (format!("{}/24", lease.subnet()), Some(lease.public())));
        check(found == wanted.collect(), || format!("{} routes are not those of the leases", found.len()))
    }
}

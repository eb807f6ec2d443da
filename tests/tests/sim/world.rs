//! The world of one seed: a store, hosts with agents, and the time that passes.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use tokio::time::Instant;
use wire_net::{KeyPrefix, Prefix};
use wire_store::{Random, Revision, SimBackup, SimStore};

use crate::{faults::Plan, flannel::Flannel, held::Held, host::SimulatedHost, networks::Networks, record::Record};

/// The promise after each fault: the store answers, and all is well within this time.
pub(crate) const PROMPT: Duration = Duration::from_secs(2);
/// The time for which most leases that vanish together are held, and a margin.
pub(crate) const HELD: Duration = Duration::from_secs(32);
/// The time after which a lost event is made up for by a list, and a margin.
pub(crate) const LISTED: Duration = Duration::from_secs(302);
/// The time that a start may take: the store may be silent for a moment, and a claim may lose races.
pub(crate) const START: Duration = Duration::from_secs(15);
/// The pause before systemd starts an agent again that has ended by itself.
const RESTART: Duration = Duration::from_secs(2);
/// The time between two looks at the world.
const SLICE: Duration = Duration::from_millis(100);

/// The size and the temper of a world, drawn from its seed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) hosts: u16,
    pub(crate) steps: u32,
    /// The number of subnets of the network.
    pub(crate) subnets: u16,
    /// The time to live of the leases.
    pub(crate) ttl: Duration,
}

/// A world.
pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) store: SimStore,
    pub(crate) shape: Shape,
    pub(crate) hosts: Vec<SimulatedHost>,
    pub(crate) flannels: Vec<Flannel>,
    pub(crate) backup: Option<SimBackup>,
    /// Leases without an end that are for other hosts: the keys, and the values.
    pub(crate) reserved: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The hosts that must stay known to each other, since all leases have vanished.
    pub(crate) held: Option<Held>,
    /// The number of leases that were stolen.
    pub(crate) stolen: u16,
    /// Keys that no agent may believe in.
    pub(crate) bad_keys: BTreeSet<Vec<u8>>,
    /// What is to be undone, and when.
    pub(crate) plan: Plan,
    pub(crate) record: Record,
    pub(crate) networks: Networks,
    /// The number of changes that are still to be hidden from all agents.
    pub(crate) changes_to_lose: u32,
    /// Whether leases have vanished together since the store was down last.
    pub(crate) leases_vanished: bool,
    /// How often a host was given another address.
    pub(crate) moves: u16,
    /// The revision of the last change of a lease, and when it was seen.
    pub(crate) last_change: (Revision, Instant),
    /// The time until which all hosts may be wrong about leases.
    pub(crate) lenient_until: Instant,
}

/// A promise that was not kept.
#[derive(Clone, Debug)]
pub(crate) struct Broken(pub(crate) String);

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Shape {
    /// Most worlds are small, since small ones find most; some have hundreds of hosts.
    pub(crate) fn draw(random: &Random, seed: u64) -> Self {
        let hosts = match (seed % 250, seed % 50) {
            (0, _) => 100 + random.number(0..201),
            (_, 0) => 20 + random.number(0..30),
            _ => 2 + random.number(0..9),
        };
        let hosts = u16::try_from(hosts).unwrap_or(2);
        let steps = if hosts >= 100 { 6 } else { 8 + u32::try_from(random.number(0..12)).unwrap_or(0) };
        let ttl = [Duration::from_secs(24 * 3600), Duration::from_secs(600), Duration::from_secs(180)];
        Self { hosts, steps, subnets: hosts + hosts / 20 + 16, ttl: ttl[random.index(ttl.len())] }
    }

    /// The network config.
    fn config(self) -> String {
        let (first, last) = (1, self.subnets);
        let subnet = |number: u16| format!("10.{}.{}.0", 5 + number / 256, number % 256);
        format!(
            r#"{{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"{}","SubnetMax":"{}",{},"Backend":{{"Type":"vxlan"}}}}"#,
            subnet(first),
            subnet(last),
            Networks::config()
        )
    }
}

impl World {
    /// A world in which nothing runs yet.
    pub(crate) fn new(seed: u64, shape: Shape, random: Random) -> Self {
        let store = SimStore::new(seed);
        let now = Instant::now();
        let world = Self {
            store,
            hosts: (0..shape.hosts).map(SimulatedHost::new).collect(),
            shape,
            random,
            flannels: Vec::new(),
            backup: None,
            reserved: BTreeMap::new(),
            held: None,
            stolen: 0,
            bad_keys: BTreeSet::new(),
            plan: Plan::default(),
            record: Record::new(),
            networks: Networks::new(seed),
            changes_to_lose: 0,
            leases_vanished: false,
            moves: 0,
            last_change: (Revision::default(), now),
            lenient_until: now,
        };
        world.put_config();
        world
    }

    /// Puts the network config, as an operator does.
    pub(crate) fn put_config(&self) {
        self.store.put(format!("{}/config", KeyPrefix::DEFAULT), self.shape.config(), None);
    }

    /// Starts the agent of a host.
    pub(crate) fn start(&mut self, index: usize) -> Result<(), Broken> {
        let ttl = self.shape.ttl;
        let host = &mut self.hosts[index];
        host.disturb(START);
        if let Err(error) = host.start(&self.store, &self.random, ttl) {
            // A disk or a kernel that fails may end a start; systemd tries again.
            self.record.note(format_args!("{} cannot start: {error}", host.number));
            if !host.is_faulty() {
                return Err(Broken(format!("host {} cannot start: {error}", host.number)));
            }
            host.start_at = Some(Instant::now() + RESTART);
        }
        Ok(())
    }

    /// Lets time pass: what is due is undone, and agents that have ended are started again.
    pub(crate) async fn pass(&mut self, time: Duration) -> Result<(), Broken> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            let slice = if time > 10 * PROMPT { 5 * SLICE } else { SLICE };
            tokio::time::sleep(slice.min(end - Instant::now())).await;
            self.look()?;
        }
        Ok(())
    }

    fn look(&mut self) -> Result<(), Broken> {
        let now = Instant::now();
        self.undo_due();
        for index in 0..self.hosts.len() {
            if self.hosts[index].agent.as_ref().is_some_and(|running| running.ports.has_crashed()) {
                self.record.note(format_args!("{} has crashed between two operations", self.hosts[index].number));
                self.hosts[index].crash();
                self.hosts[index].start_at = Some(now + RESTART);
            }
            if let Some(reason) = self.hosts[index].ended() {
                self.note_exit(index, &reason)?;
            }
            if self.hosts[index].start_at.is_some_and(|at| at <= now) {
                self.start(index)?;
            }
        }
        self.note_lost_events();
        for flannel in &mut self.flannels {
            flannel.live(&self.store);
        }
        self.look_at_networks()?;
        let revision = self.lease_revision();
        if revision != self.last_change.0 {
            self.last_change = (revision, now);
        }
        Ok(())
    }

    /// Gives those time that have lost an event just now.
    fn note_lost_events(&mut self) {
        let left = self.store.changes_to_lose();
        if left < std::mem::replace(&mut self.changes_to_lose, left) {
            self.record.note(format_args!("a change is hidden from all"));
            self.held = None;
            self.be_lenient(LISTED);
        }
        for host in &mut self.hosts {
            let left = host.client().map_or(0, SimStore::own_events_to_lose);
            if left < std::mem::replace(&mut host.events_to_lose, left) {
                host.disturb(LISTED);
            }
        }
    }

    /// An agent has ended by itself. systemd starts it again.
    fn note_exit(&mut self, index: usize, reason: &str) -> Result<(), Broken> {
        let host = &mut self.hosts[index];
        self.record.note(format_args!("{} has ended: {reason}", host.number));
        host.stop();
        host.start_at = Some(Instant::now() + RESTART);
        host.exits += 1;
        if host.is_faulty() { Ok(()) } else { Err(Broken(format!("the agent of {} has ended: {reason}", host.number))) }
    }

    /// The latest revision at which a lease was written, and how many there are: a removal changes the number.
    fn lease_revision(&self) -> Revision {
        let leases = self.store.listing(self.directory().as_bytes());
        let last = leases.entries.iter().map(|entry| entry.create_revision.0.max(entry.mod_revision.0)).max();
        Revision(last.unwrap_or_default() * 10_000 + i64::try_from(leases.entries.len()).unwrap_or_default())
    }

    /// The directory of the leases.
    pub(crate) fn directory(&self) -> String {
        format!("{}/subnets/", KeyPrefix::DEFAULT)
    }

    /// Lets all hosts be wrong about leases for some time.
    pub(crate) fn be_lenient(&mut self, time: Duration) {
        self.lenient_until = self.lenient_until.max(Instant::now() + time);
    }

    /// The subnets that agents use now, with their hosts.
    pub(crate) fn subnets_in_use(&self) -> Vec<(Prefix, usize)> {
        let of = |(index, host): (usize, &SimulatedHost)| Some((host.subnet()?, index));
        self.hosts.iter().enumerate().filter_map(of).collect()
    }
}

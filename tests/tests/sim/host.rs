//! A host of the simulation: its kernel, files and clocks, and the process of the agent on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use futures::FutureExt as _;

use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use wire_agent::{Agent, AgentError, AgentSettings, AgentStatus, NetworkWishes};
use wire_firewall::sim::SimPacketFilter;
use wire_kernel::sim::SimHost;
use wire_net::{Family, KeyPrefix, LinkName, MacAddr, Mtu, Prefix};
use wire_state::{
    Bridge, FdbKey, NeighbourKey, NextHop, ObservedKind, ObservedNet, ObservedRoute, RouteKey,
    sim::{FaultRates, SimFiles},
};
use wire_store::{Random, SimCall, SimStore};

use crate::{
    clocks::Clocks,
    gaps::Gaps,
    held::Removals,
    others::{add_other_overlay, add_static_route},
    ports::{Parts, SimPorts},
};

/// All calls of a store.
const CALLS: [SimCall; 8] = [
    SimCall::Get,
    SimCall::List,
    SimCall::Commit,
    SimCall::Grant,
    SimCall::KeepAlive,
    SimCall::TimeToLive,
    SimCall::Revoke,
    SimCall::Watch,
];

/// The card of the underlay.
pub(crate) const CARD: &str = "eth0";
/// The device of the overlay.
pub(crate) const DEVICE: &str = "flannel.1";

/// A host, with or without a running agent.
pub(crate) struct SimulatedHost {
    pub(crate) number: u16,
    pub(crate) address: Ipv4Addr,
    pub(crate) parts: Parts,
    pub(crate) agent: Option<Running>,
    /// The time from which on all should be well with it, if nothing else happens.
    pub(crate) disturbed_until: Instant,
    /// When its agent is started again, if it is away.
    pub(crate) start_at: Option<Instant>,
    /// How often its agent has ended by itself.
    pub(crate) exits: u32,
    /// Its kernel, packet filter or disk fails until then. An agent that ends for that reason may end a moment later.
    pub(crate) faulty_until: Option<Instant>,
    /// The number of events that its agent still has to lose.
    pub(crate) events_to_lose: u32,
    /// The number of calls to the store that its agents had made when they were counted last, and when that was.
    pub(crate) counted: (u64, Instant),
    /// The subnet that it must keep, because nothing has happened but a hangup.
    pub(crate) keeps: Option<Prefix>,
    /// Destinations at which another program has a route.
    pub(crate) blocked: BTreeSet<Prefix>,
    /// All destinations at which another program ever had a route.
    pub(crate) once_blocked: BTreeSet<Prefix>,
    /// What others have in its kernel.
    foreign: Foreign,
}

/// What others have in a kernel.
type Foreign = (ObservedNet, BTreeMap<LinkName, Vec<IpAddr>>);

/// The way to a peer: where packets to it go, and with which inner MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) public: IpAddr,
    pub(crate) mac: MacAddr,
}

/// A process of the agent.
pub(crate) struct Running {
    pub(crate) ports: SimPorts,
    pub(crate) status: AgentStatus,
    pub(crate) task: JoinHandle<Result<(), AgentError>>,
    pub(crate) hangups: mpsc::Sender<()>,
    networks: Option<NetworkWishes>,
}

impl SimulatedHost {
    /// A machine that has just booted, without an agent.
    pub(crate) fn new(number: u16) -> Self {
        let clocks = Clocks::new();
        let kernel = machine(number);
        let foreign = foreign(&kernel);
        let of_day = clocks.clone();
        let disk = SimFiles::new(move || of_day.time_of_day());
        let (gaps, removals) = (Gaps::default(), Removals::default());
        let parts = Parts { kernel, filter: SimPacketFilter::default(), disk, clocks, gaps, removals };
        Self {
            number,
            address: address(number),
            parts,
            agent: None,
            disturbed_until: Instant::now(),
            start_at: None,
            exits: 0,
            faulty_until: None,
            events_to_lose: 0,
            counted: (0, Instant::now()),
            keeps: None,
            blocked: BTreeSet::new(),
            once_blocked: BTreeSet::new(),
            foreign,
        }
    }

    /// Starts the agent as a new process.
    pub(crate) fn start(&mut self, store: &SimStore, random: &Random, ttl: Duration) -> Result<(), AgentError> {
        self.stop();
        self.start_at = None;
        self.counted = (0, Instant::now());
        let ports = SimPorts::new(&self.parts, store.another_client(), random.fork());
        let ttl = format!("--subnet-lease-ttl={}s", ttl.as_secs());
        let flags = ["--etcd-endpoints=http://192.0.2.1:2379", &ttl, "--subnet-lease-renew-margin=1"];
        let settings = AgentSettings::from_flags(&flags)?;
        let agent = Agent::start(ports.clone(), settings)?;
        let (hangups, received) = mpsc::channel(1);
        let (status, networks) = (agent.status(), agent.networks());
        let task = tokio::task::spawn_local(agent.run(received));
        self.agent = Some(Running { ports, status, task, hangups, networks });
        Ok(())
    }

    /// Ends the agent as SIGTERM does.
    pub(crate) fn stop(&mut self) {
        if let Some(running) = self.agent.take() {
            running.task.abort();
            running.ports.end();
        }
    }

    /// Ends the agent as SIGKILL does.
    pub(crate) fn crash(&mut self) {
        if let Some(running) = &self.agent {
            running.ports.crash();
        }
        self.stop();
    }

    /// Restarts the machine. The agent is away until it is started.
    pub(crate) fn reboot(&mut self, end: fn(&SimFiles)) {
        self.crash();
        self.parts.kernel.reboot();
        self.parts.filter.reboot();
        end(&self.parts.disk);
        self.blocked.clear();
        self.remove_former_routes();
    }

    /// The end of a machine that is shut down.
    pub(crate) fn shut_down(disk: &SimFiles) {
        disk.reboot();
    }

    /// The end of a machine whose power is cut.
    pub(crate) fn lose_power(disk: &SimFiles) {
        disk.power_cut();
    }

    /// Tells the agent to join anew.
    pub(crate) fn hang_up(&self) {
        if let Some(running) = &self.agent {
            let _ = running.hangups.try_send(());
        }
    }

    /// Gives the machine another address.
    pub(crate) fn move_to(&mut self, address: Ipv4Addr) {
        let kernel = &self.parts.kernel;
        kernel.remove_address(CARD, self.address.into());
        kernel.add_address(CARD, address.into(), 16);
        // It went with the last address.
        add_default_route(kernel);
        kernel.set_boot();
        self.address = address;
    }

    /// Its kernel, packet filter and disk fail no more.
    pub(crate) fn calm(&mut self) {
        self.parts.kernel.fail_by_chance(FaultRates::default(), 0);
        self.parts.filter.fail_by_chance(FaultRates::default(), 0);
        self.parts.disk.set_fault(None);
        self.faulty_until = Some(Instant::now() + Duration::from_secs(1));
    }

    /// Removes routes of another program that a link has brought back, but that were removed while it was down.
    pub(crate) fn remove_former_routes(&self) {
        self.once_blocked.difference(&self.blocked).for_each(|prefix| self.parts.kernel.remove_route(*prefix));
    }

    /// It may be wrong for some time.
    pub(crate) fn disturb(&mut self, time: Duration) {
        self.disturbed_until = self.disturbed_until.max(Instant::now() + time);
    }

    /// The reason why the agent has ended by itself; `None` if it runs.
    pub(crate) fn ended(&mut self) -> Option<String> {
        let running = self.agent.as_mut().filter(|running| running.task.is_finished())?;
        let ended = (&mut running.task).now_or_never()?;
        Some(match ended {
            Ok(Ok(())) => "it has ended in peace".to_owned(),
            Ok(Err(error)) => error.to_string(),
            Err(panic) => format!("it has panicked: {panic}"),
        })
    }

    /// The subnet that its agent uses.
    pub(crate) fn subnet(&self) -> Option<Prefix> {
        self.agent.as_ref()?.status.subnet().get(Family::V4).copied()
    }

    /// The MAC of its device.
    pub(crate) fn mac(&self) -> Option<MacAddr> {
        self.parts.kernel.state().links.get(&device())?.mac
    }

    /// The key of its lease.
    pub(crate) fn lease_key(&self) -> Option<Vec<u8>> {
        let subnet = self.subnet()?;
        Some(format!("{}/subnets/{}-{}", KeyPrefix::DEFAULT, subnet.network(), subnet.len()).into_bytes())
    }

    /// What its agent says is wrong.
    pub(crate) fn conditions(&self) -> Vec<(&'static str, String)> {
        self.agent.as_ref().map(|running| running.status.conditions()).unwrap_or_default()
    }

    /// Whether its agent raises the alarm that another host has its subnet.
    pub(crate) fn has_lost_its_lease(&self) -> bool {
        self.conditions().iter().any(|(name, _)| *name == "lease-lost")
    }

    /// The number of calls that its agent has made to the store.
    pub(crate) fn calls(&self) -> u64 {
        let of = |call: &SimCall| self.client().map_or(0, |client| client.own_count(*call));
        CALLS.iter().map(of).sum()
    }

    /// Takes what others have in its kernel now for what must stay.
    pub(crate) fn note_foreign(&mut self) {
        self.foreign = foreign(&self.parts.kernel);
    }

    /// Whether anything of others is another than it was left.
    pub(crate) fn foreign_differs(&self) -> bool {
        foreign(&self.parts.kernel) != self.foreign
    }

    /// Whether its agent runs and has joined the network.
    pub(crate) fn is_ready(&self) -> bool {
        self.agent.as_ref().is_some_and(|running| matches!(running.status.phase(), "ready" | "degraded"))
    }

    /// Whether its agent has joined with etcd's answer, and says that nothing is wrong.
    pub(crate) fn is_well(&self) -> bool {
        self.agent.as_ref().is_some_and(|running| running.status.phase() == "ready")
    }

    /// Whether its kernel, packet filter or disk fails, or has failed a moment ago.
    pub(crate) fn is_faulty(&self) -> bool {
        self.faulty_until.is_some_and(|until| Instant::now() <= until)
    }

    /// The way to its agent for commands about networks by name.
    pub(crate) fn networks(&self) -> Option<NetworkWishes> {
        self.agent.as_ref()?.networks.clone()
    }

    /// The way to its agent's client of the store.
    pub(crate) fn client(&self) -> Option<&SimStore> {
        self.agent.as_ref().map(|running| running.ports.store())
    }
}

/// The device of the overlay.
pub(crate) fn device() -> LinkName {
    DEVICE.parse().expect("a name of a link")
}

/// The peers that a kernel knows: by subnet, to which address packets go and with which inner MAC.
pub(crate) fn peers(kernel: &SimHost) -> BTreeMap<Prefix, Peer> {
    let (net, device) = (kernel.state(), device());
    let peer = |(key, route): (&RouteKey, &ObservedRoute)| {
        let Some(NextHop::Gateway { gateway, link, .. }) = route.via.next_hop() else { return None };
        let mac = *net.neighbours.get(&NeighbourKey { link: *link, address: *gateway })?;
        let public = net.fdb.get(&FdbKey { link: *link, mac })?.to;
        (*link == device).then_some((key.destination, Peer { public, mac }))
    };
    net.routes.iter().filter_map(peer).collect()
}

/// What others have in a kernel. Settings that follow from the host's are left out.
fn foreign(kernel: &SimHost) -> Foreign {
    let (mut net, addresses) = kernel.foreign();
    net.settings.clear();
    (net, addresses)
}

/// The address of a host on the underlay.
pub(crate) fn address(number: u16) -> Ipv4Addr {
    let (high, low) = (number / 250, number % 250 + 1);
    Ipv4Addr::new(192, 168, high.to_le_bytes()[0], low.to_le_bytes()[0])
}

/// A machine with one card.
fn machine(number: u16) -> SimHost {
    let kernel = SimHost::new(&format!("{number:08x}-0000-4000-8000-{number:012x}"));
    let [high, low] = number.to_be_bytes();
    kernel.add_card(CARD, MacAddr::new([0x52, 0x54, 0, 0, high, low]), Mtu(1500));
    kernel.add_address(CARD, IpAddr::V4(address(number)), 16);
    add_default_route(&kernel);
    // A bridge of another program.
    kernel.add_link(
        "lab0",
        ObservedKind::Bridge(Bridge::default()),
        Some(MacAddr::new([2, 0x42, 0, 0, high, low])),
        Mtu(1500),
    );
    kernel.add_address("lab0", Ipv4Addr::new(172, 30, 0, 1).into(), 16);
    let bridge: LinkName = "lab0".parse().expect("a name of a link");
    let behind = Prefix::new(Ipv4Addr::new(172, 30, 0, 0).into(), 16).expect("a prefix");
    kernel.add_route(behind, NextHop::Link(bridge));
    add_other_overlay(&kernel);
    add_static_route(&kernel);
    kernel.set_boot();
    kernel
}

fn add_default_route(kernel: &SimHost) {
    let card: LinkName = CARD.parse().expect("a name of a link");
    let gateway = NextHop::Gateway { link: card, gateway: Ipv4Addr::new(192, 168, 255, 254).into(), onlink: false };
    kernel.add_route(Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0).expect("a prefix"), gateway);
}

//! A host of the simulation: its kernel, files and clocks, and the process of the agent on it.

use std::net::{IpAddr, Ipv4Addr};

use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use wire_agent::{Agent, AgentError, AgentSettings, AgentStatus};
use wire_firewall::sim::SimPacketFilter;
use wire_kernel::sim::SimHost;
use wire_net::{LinkName, MacAddr, Mtu, Prefix};
use wire_state::{NextHop, sim::SimFiles};
use wire_store::{Random, SimStore};

use crate::{
    clocks::Clocks,
    ports::{Parts, SimPorts},
};

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
}

/// A process of the agent.
pub(crate) struct Running {
    pub(crate) ports: SimPorts,
    pub(crate) status: AgentStatus,
    pub(crate) task: JoinHandle<Result<(), AgentError>>,
    pub(crate) hangups: mpsc::Sender<()>,
}

impl SimulatedHost {
    /// A machine that has just booted, without an agent.
    pub(crate) fn new(number: u16) -> Self {
        let clocks = Clocks::new();
        let kernel = machine(number);
        let of_day = clocks.clone();
        let disk = SimFiles::new(move || of_day.time_of_day());
        let parts = Parts { kernel, filter: SimPacketFilter::default(), disk, clocks };
        Self {
            number,
            address: address(number),
            parts,
            agent: None,
            disturbed_until: Instant::now(),
            start_at: None,
            exits: 0,
        }
    }

    /// Starts the agent as a new process.
    pub(crate) fn start(&mut self, store: &SimStore, random: &Random) -> Result<(), AgentError> {
        self.stop();
        let ports = SimPorts::new(&self.parts, store.another_client(), random.fork());
        let settings = AgentSettings::from_flags(&["--etcd-endpoints=http://192.0.2.1:2379"])?;
        let agent = Agent::start(ports.clone(), settings)?;
        let (hangups, received) = mpsc::channel(1);
        let status = agent.status();
        let task = tokio::task::spawn_local(agent.run(received));
        self.agent = Some(Running { ports, status, task, hangups });
        self.start_at = None;
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
    pub(crate) fn reboot(&mut self) {
        self.crash();
        self.parts.kernel.reboot();
        self.parts.filter.reboot();
        self.parts.disk.reboot();
    }

    /// Whether its agent runs and has joined the network.
    pub(crate) fn is_ready(&self) -> bool {
        self.agent.as_ref().is_some_and(|running| matches!(running.status.phase(), "ready" | "degraded"))
    }

    /// The way to its agent's client of the store.
    pub(crate) fn client(&self) -> Option<&SimStore> {
        self.agent.as_ref().map(|running| running.ports.store())
    }
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
    let card: LinkName = CARD.parse().expect("a name of a link");
    let gateway = NextHop::Gateway { link: card, gateway: Ipv4Addr::new(192, 168, 255, 254).into(), onlink: false };
    kernel.add_route(Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0).expect("a prefix"), gateway);
    kernel.set_boot();
    kernel
}

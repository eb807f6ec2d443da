//! The ports of a host in memory, for one process of the agent.

use std::{
    io,
    net::IpAddr,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::task::{AbortHandle, JoinHandle};
use wire_agent::ports::{Claims, NetworkMonitor, NetworkPort, Ports, Supervisor, Taken};
use wire_firewall::sim::SimPacketFilter;
use wire_forward::{Forwarder, Handle, Kept, Tunnels};
use wire_kernel::{
    Changes, HostNetwork, Nic, Traffic,
    sim::{SimHost, SimKernel, SimMonitor},
};
use wire_state::{
    Attempt, DataplaneError, Driver, Network, NetworkPart, ObservedNet, Op, PerNamespace, Reread, Scope, sim::SimFiles,
};
use wire_store::{EndpointAddresses, EtcdSettings, EtcdSettingsError, Random, SimStore};

use crate::{clocks::Clocks, disk::SimDisk, firewall::Rules, gaps::Gaps, held::Removals};

/// The ports of one process of the agent. They end with the process: see [`SimPorts::crash`].
#[derive(Clone)]
pub(crate) struct SimPorts(Arc<Process>);

struct Process {
    store: SimStore,
    kernel: SimKernel,
    filter: SimPacketFilter,
    disk: SimDisk,
    clocks: Clocks,
    gaps: Gaps,
    removals: Removals,
    random: Random,
    loops: Mutex<Vec<AbortHandle>>,
}

/// The parts of a host that its agent works on.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) kernel: SimHost,
    pub(crate) filter: SimPacketFilter,
    pub(crate) disk: SimFiles,
    pub(crate) clocks: Clocks,
    pub(crate) gaps: Gaps,
    pub(crate) removals: Removals,
}

impl SimPorts {
    /// The ports of the next process on a host. The one before has ended.
    pub(crate) fn new(parts: &Parts, store: SimStore, random: Random) -> Self {
        Self(Arc::new(Process {
            store,
            kernel: parts.kernel.driver(),
            filter: parts.filter.clone(),
            disk: SimDisk(parts.disk.restarted()),
            clocks: parts.clocks.clone(),
            gaps: parts.gaps.clone(),
            removals: parts.removals.clone(),
            random,
            loops: Mutex::default(),
        }))
    }

    /// The client of the store.
    pub(crate) fn store(&self) -> &SimStore {
        &self.0.store
    }

    /// Whether the process has ended in the middle of its writes to the kernel.
    pub(crate) fn has_crashed(&self) -> bool {
        self.0.kernel.has_crashed()
    }

    /// Ends the process at once: nothing that it does afterwards has an effect.
    pub(crate) fn crash(&self) {
        self.0.store.crash();
        self.0.kernel.host().faults().crash();
        self.0.filter.faults().crash();
        self.0.disk.0.crash();
        self.end();
    }

    /// Ends the loops, as the end of a process does.
    pub(crate) fn end(&self) {
        self.0.loops.lock().unwrap_or_else(PoisonError::into_inner).drain(..).for_each(|handle| handle.abort());
    }
}

impl Ports for SimPorts {
    type Store = SimStore;
    type Network = SimNetwork;
    type Firewall = Rules;
    type Disk = SimDisk;

    async fn open_store(&self, _: &EtcdSettings) -> Result<SimStore, EtcdSettingsError> {
        Ok(self.0.store.clone())
    }

    async fn endpoint_addresses(&self, _: &EtcdSettings, _: Duration) -> EndpointAddresses {
        EndpointAddresses { found: Default::default(), is_partial: false }
    }

    fn open_network(&self, _: bool) -> Result<SimNetwork, DataplaneError> {
        let (gaps, removals) = (self.0.gaps.clone(), self.0.removals.clone());
        Ok(SimNetwork { kernel: self.0.kernel.clone(), gaps, removals, forwarder: Forwarder::new(Kept::default()) })
    }

    fn open_firewall(&self) -> Result<Rules, DataplaneError> {
        Ok(Rules::new(self.0.filter.clone(), self.0.kernel.host().clone()))
    }

    fn disk(&self) -> &SimDisk {
        &self.0.disk
    }

    fn host_network(&self, targets: &[IpAddr]) -> Result<HostNetwork, DataplaneError> {
        Ok(self.0.kernel.host().network(targets.iter().copied()))
    }

    fn observed(&self, scope: &Scope) -> Result<ObservedNet, DataplaneError> {
        observed(&self.0.kernel, scope)
    }

    fn nics(&self) -> Result<Vec<Nic>, DataplaneError> {
        Ok(self.0.kernel.host().nics())
    }

    fn product_uuid(&self) -> Option<String> {
        Some(self.0.kernel.host().uuid())
    }

    fn traffic(&self) -> io::Result<Traffic> {
        Ok(self.0.kernel.host().traffic())
    }

    fn docker_root(&self) -> Option<&Path> {
        None
    }

    fn unix_sockets(&self) -> String {
        String::new()
    }

    fn announce(&self) {}

    fn claim(&self, _: &Claims) -> Result<(), Taken> {
        Ok(())
    }

    fn are_other_agents(&self) -> bool {
        false
    }

    fn random(&self) -> &Random {
        &self.0.random
    }

    fn since_boot(&self) -> Duration {
        self.0.clocks.since_boot()
    }

    fn time_of_day(&self) -> SystemTime {
        self.0.clocks.time_of_day()
    }

    fn supervisor(&self) -> &dyn Supervisor {
        &NoSupervisor
    }

    fn start_loop<F: Future<Output = ()> + 'static>(
        &self,
        _: &'static str,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<()> {
        let running = tokio::task::spawn_local(make());
        self.0.loops.lock().unwrap_or_else(PoisonError::into_inner).push(running.abort_handle());
        Ok(())
    }

    fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        tokio::spawn(async move { work() })
    }
}

/// The state of the host's namespace.
fn observed(kernel: &SimKernel, scope: &Scope) -> Result<ObservedNet, DataplaneError> {
    let mut read = kernel.clone().read(&PerNamespace::host(scope.clone()))?;
    Ok(read.get_mut(wire_state::Namespace::Host).map(std::mem::take).unwrap_or_default())
}

/// The kernel in memory as a driver of `Network`.
pub(crate) struct SimNetwork {
    kernel: SimKernel,
    gaps: Gaps,
    removals: Removals,
    forwarder: Forwarder,
}

impl Driver for SimNetwork {
    type Resource = Network;

    fn read(&mut self, scope: &PerNamespace<Scope>) -> Result<PerNamespace<ObservedNet>, DataplaneError> {
        self.kernel.read(scope)
    }

    fn read_part(
        &mut self,
        scope: &PerNamespace<Scope>,
        observed: &mut PerNamespace<ObservedNet>,
        part: &NetworkPart,
    ) -> Result<Reread, DataplaneError> {
        self.kernel.read_part(scope, observed, part)
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Attempt> {
        self.removals.note(ops);
        self.gaps.apply(&mut self.kernel, ops)
    }
}

impl NetworkPort for SimNetwork {
    type Monitor = Monitor;

    fn monitor(&self, scope: Scope) -> Result<Monitor, DataplaneError> {
        Ok(Monitor(self.kernel.host().monitor(scope)))
    }

    fn tunnels(&self) -> Tunnels {
        self.forwarder.tunnels()
    }

    fn reader(&mut self) -> impl FnOnce(&Scope) -> Result<ObservedNet, DataplaneError> + Send + 'static {
        let kernel = self.kernel.clone();
        move |scope: &Scope| observed(&kernel, scope)
    }
}

/// The notifications of the kernel in memory.
pub(crate) struct Monitor(SimMonitor);

impl NetworkMonitor for Monitor {
    fn set_scope(&mut self, scope: Scope) {
        self.0.set_scope(scope);
    }

    async fn changed(&mut self, cached: &ObservedNet) -> Result<Changes, DataplaneError> {
        self.0.changed(cached).await
    }
}

/// A process that no service manager has started.
struct NoSupervisor;

impl Supervisor for NoSupervisor {
    fn notify(&self, _: &[sd_notify::NotifyState<'_>]) -> bool {
        true
    }

    fn keep(&self, _: &str, _: &Handle) -> io::Result<()> {
        Ok(())
    }

    fn watchdog(&self) -> Option<Duration> {
        None
    }
}

//! The ports of a real host.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant, SystemTime},
};

use nix::time::{ClockId, clock_gettime};
use tokio::task::JoinHandle;
use tracing::{Instrument as _, Span};
use wire_firewall::{Counted, FirewallDataplane, ForeignRules};
use wire_forward::{Forwarder, Kept, Tunnels};
use wire_kernel::{
    Changes, HostNetwork, KernelDataplane, Links, Monitor, NetlinkDataplane, Nic, OpenedGuest, RouteForm, Traffic,
    traffic,
};
use wire_net::{Family, LinkName, NetworkName, Prefix};
use wire_state::{
    Attempt, ContainerLink, DataplaneError, DesiredTable, Driver, Firewall, FirewallOp, Namespace, ObservedFirewall,
    ObservedNet, OpError, PolicyRule, Scope,
};
use wire_store::{EndpointAddresses, EtcdSettings, EtcdSettingsError, EtcdStore, Random, endpoint_addresses};

use super::{Claims, FirewallMonitor, FirewallPort, NetworkMonitor, NetworkPort, Ports, Ranges, Supervisor, Taken};
use crate::{files::RealDisk, host_dataplane::HostDataplane, notify::Systemd, other_agents::Presence};

/// The kernel's file with the UUID of the machine.
const PRODUCT_UUID: &str = "/sys/class/dmi/id/product_uuid";

/// The ports of a real host: etcd, the kernel of this network namespace, the files, the clocks, and systemd.
#[derive(Clone, Debug)]
pub(crate) struct System {
    /// The network whose firewall this is.
    network: NetworkName,
    presence: Arc<Presence>,
    random: Random,
    /// The descriptors of an earlier run, until a driver takes them.
    kept: Arc<Mutex<Kept>>,
    /// The UDP ports of these.
    inherited_ports: Arc<BTreeSet<u16>>,
    /// The threads of loops.
    loops: Arc<Mutex<Vec<thread::JoinHandle<()>>>>,
}

/// The longest wait for loops at the end of a run.
const LOOPS_END: Duration = Duration::from_secs(1);
/// The pause between two looks at them.
const LOOK: Duration = Duration::from_millis(1);

impl System {
    /// The ports of this host. `kept` are the descriptors of an earlier run of the agent.
    pub(crate) fn new(network: NetworkName, kept: Kept) -> Self {
        Self {
            presence: Arc::new(Presence::new(network.clone())),
            network,
            random: Random::of_system(),
            inherited_ports: Arc::new(kept.udp_ports()),
            kept: Arc::new(Mutex::new(kept)),
            loops: Arc::default(),
        }
    }

    /// Waits until all loops have ended, at most for a second: a packet that a tunnel has in its hands is sent before the process ends.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn loops_ended(&self) {
        let all_ended = || {
            let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
            loops.iter().all(thread::JoinHandle::is_finished)
        };
        let limit = Instant::now() + LOOPS_END;
        while !all_ended() && Instant::now() < limit {
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl System {
    /// The same for a command, which takes no descriptors over.
    pub(crate) fn of(network: NetworkName) -> Self {
        Self::new(network, Kept::default())
    }
}

impl Default for System {
    fn default() -> Self {
        Self::new(NetworkName::default(), Kept::default())
    }
}

impl Ports for System {
    type Store = EtcdStore;
    type Network = HostDataplane;
    type Firewall = SystemFirewall;
    type Disk = RealDisk;

    async fn open_store(&self, settings: &EtcdSettings) -> Result<EtcdStore, EtcdSettingsError> {
        EtcdStore::open(settings.clone()).await
    }

    async fn endpoint_addresses(&self, settings: &EtcdSettings, timeout: Duration) -> EndpointAddresses {
        endpoint_addresses(settings, timeout).await
    }

    fn open_network(&self, without_vxlan: bool) -> Result<HostDataplane, DataplaneError> {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        let kernel = KernelDataplane::open(RouteForm::default())?;
        Ok(HostDataplane { kernel, forwarder: Forwarder::new(kept), without_vxlan })
    }

    fn open_firewall(&self) -> Result<SystemFirewall, DataplaneError> {
        Ok(SystemFirewall { rules: FirewallDataplane::new(self.network.clone(), Vec::new()), links: Links::open()? })
    }

    fn disk(&self) -> &RealDisk {
        &RealDisk
    }

    fn host_network(&self, targets: &[IpAddr]) -> Result<HostNetwork, DataplaneError> {
        HostNetwork::read(targets.iter().copied())
    }

    fn observed(&self, scope: &Scope) -> Result<ObservedNet, DataplaneError> {
        NetlinkDataplane::open(RouteForm::default())?.read(scope)
    }

    fn nics(&self) -> Result<Vec<Nic>, DataplaneError> {
        Nic::all()
    }

    fn product_uuid(&self) -> Option<String> {
        fs::read_to_string(PRODUCT_UUID).ok()
    }

    fn traffic(&self) -> io::Result<Traffic> {
        traffic()
    }

    fn docker_root(&self) -> Option<&Path> {
        Some(Path::new("/"))
    }

    fn has_guests(&self) -> bool {
        true
    }

    fn unix_sockets(&self) -> String {
        let sockets = fs::read("/proc/self/net/unix").unwrap_or_default();
        String::from_utf8_lossy(&sockets).into_owned()
    }

    fn announce(&self) {
        self.presence.announce();
    }

    fn claim(&self, claims: &Claims) -> Result<(), Taken> {
        self.presence.claim(claims)
    }

    fn is_free_port(&self, local: SocketAddr) -> bool {
        // Without SO_REUSEPORT, so that one of our own is in the way too.
        // An address that is not there yet says nothing about the port.
        let is_taken = |error: io::Error| error.kind() == io::ErrorKind::AddrInUse;
        !self.presence.is_claimed_port(local.port()) && !UdpSocket::bind(local).is_err_and(is_taken)
    }

    fn has_inherited_port(&self, port: u16) -> bool {
        self.inherited_ports.contains(&port)
    }

    fn claim_ports(&self, ports: &BTreeSet<u16>) {
        self.presence.claim_ports(ports);
    }

    fn lacks_vxlan(&self) -> bool {
        NetlinkDataplane::open(RouteForm::default()).is_ok_and(|mut kernel| kernel.lacks_vxlan())
    }

    fn are_other_agents(&self) -> bool {
        self.presence.are_others()
    }

    fn bypasses(&self, networks: &[Prefix], devices: &BTreeSet<LinkName>) -> Result<Vec<PolicyRule>, DataplaneError> {
        wire_kernel::bypasses(networks, devices)
    }

    fn ranges_of_others(&self) -> Ranges {
        self.presence.ranges_of_others()
    }

    fn random(&self) -> &Random {
        &self.random
    }

    fn since_boot(&self) -> Duration {
        clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
    }

    fn time_of_day(&self) -> SystemTime {
        SystemTime::now()
    }

    fn supervisor(&self) -> &dyn Supervisor {
        &Systemd
    }

    fn start_loop<F: Future<Output = ()> + 'static>(
        &self,
        name: &'static str,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let span = Span::current();
        let run = move || runtime.block_on(async { make().await }.instrument(span));
        let started = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.retain(|earlier| !earlier.is_finished());
        loops.push(started);
        Ok(())
    }

    fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        tokio::task::spawn_blocking(work)
    }
}

impl NetworkPort for HostDataplane {
    type Monitor = Monitor;

    fn monitor(&self, scope: Scope) -> Result<Monitor, DataplaneError> {
        Monitor::open(scope)
    }

    fn add_guest(&mut self, namespace: Namespace, opened: OpenedGuest) -> Result<(), DataplaneError> {
        self.kernel.add_opened(namespace, opened)
    }

    fn remove_guest(&mut self, namespace: Namespace) {
        self.kernel.remove(namespace);
    }

    fn reader(&mut self) -> impl FnOnce(&Scope) -> Result<ObservedNet, DataplaneError> + Send + 'static {
        let reader = self.kernel.host().reader();
        move |scope: &Scope| reader.read(scope)
    }

    fn tunnels(&self) -> Tunnels {
        self.forwarder.tunnels()
    }
}

impl NetworkMonitor for Monitor {
    fn set_scope(&mut self, scope: Scope) {
        Self::set_scope(self, scope);
    }

    async fn changed(&mut self, cached: &ObservedNet) -> Result<Changes, DataplaneError> {
        Self::changed(self, cached).await
    }
}

/// The packet filter, and the links that containers are on.
pub(crate) struct SystemFirewall {
    pub(crate) rules: FirewallDataplane,
    links: Links,
}

impl Driver for SystemFirewall {
    type Resource = Firewall;

    fn read(&mut self, (): &()) -> Result<ObservedFirewall, DataplaneError> {
        self.rules.read(&())
    }

    fn apply(&mut self, ops: &[FirewallOp]) -> Vec<Attempt> {
        self.rules.apply(ops)
    }
}

impl FirewallPort for SystemFirewall {
    type Monitor = wire_firewall::FirewallMonitor;

    fn monitor(&self) -> Result<Self::Monitor, DataplaneError> {
        wire_firewall::FirewallMonitor::open()
    }

    fn set_step(&mut self, step: Box<dyn Fn() + Send>) {
        self.rules.set_step(step);
    }

    fn set_families(&mut self, families: Vec<Family>) {
        self.rules.set_families(families);
    }

    fn has_changed(&mut self) -> bool {
        self.rules.has_changed()
    }

    fn has_own_writes_alone(&mut self) -> bool {
        self.rules.has_own_writes_alone()
    }

    fn hides_legacy_tables(&self) -> bool {
        self.rules.hides_legacy_tables()
    }

    fn accepts(&self, table: &DesiredTable) -> bool {
        self.rules.accepts(table)
    }

    fn counted(&mut self) -> Result<Counted, DataplaneError> {
        self.rules.counted()
    }

    fn foreign_rules(&mut self) -> ForeignRules {
        self.rules.foreign_rules()
    }

    fn abandoned_unread(&self) -> Option<&OpError> {
        self.rules.abandoned_unread()
    }

    fn unread(&mut self) -> Option<OpError> {
        self.rules.unread()
    }

    fn container_links(&mut self, subnets: &[Prefix]) -> Result<Vec<ContainerLink>, DataplaneError> {
        self.links.of_containers(subnets)
    }

    fn has_link(&mut self, name: LinkName) -> bool {
        self.links.has(name)
    }
}

impl FirewallMonitor for wire_firewall::FirewallMonitor {
    async fn changed(&mut self) -> Result<(), DataplaneError> {
        Self::changed(self).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn a_port_is_taken_by_a_socket_and_not_by_an_address_that_is_not_there() {
        let system = System::default();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let taken = socket.local_addr().unwrap();
        assert!(!system.is_free_port(taken));
        assert!(system.is_free_port(SocketAddr::new([192, 0, 2, 1].into(), taken.port())));
    }

    #[tokio::test]
    async fn a_run_waits_for_what_its_loops_have_in_hand_and_not_for_ever() {
        let (system, done) = (System::default(), Arc::new(AtomicBool::new(false)));
        let (handle, told) = oneshot::channel::<()>();
        let seen = done.clone();
        let until_told = async move {
            let _ = told.await;
            thread::sleep(LOOK * 20);
            seen.store(true, Ordering::Relaxed);
        };
        system.start_loop("ends", move || until_told).unwrap();
        drop(handle);
        system.loops_ended().await;
        assert!(done.load(Ordering::Relaxed));
        system.start_loop("hangs", std::future::pending::<()>).unwrap();
        let ended = tokio::time::timeout(LOOPS_END * 20, system.loops_ended()).await;
        assert!(ended.is_ok(), "a loop that hangs is waited for longer than it should be");
    }
}

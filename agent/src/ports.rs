//! Ports: what the agent needs from the outside. On a real host they are those of `System`; in the simulation, a store and kernels in memory.

mod system;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::{Duration, SystemTime},
};

use sd_notify::NotifyState;
use tokio::task::JoinHandle;
use wire_firewall::{Counted, ForeignRules};
use wire_forward::{Handle, Tunnels};
use wire_kernel::{Changes, HostNetwork, Nic, OpenedGuest, Traffic};
use wire_net::{Family, LinkName, Prefix};
use wire_state::{
    ContainerLink, DataplaneError, DesiredFile, DesiredTable, Driver, Firewall, Namespace, Network, ObservedFile,
    ObservedNet, OpError, PolicyRule, Scope,
};
use wire_store::{EndpointAddresses, EtcdSettings, EtcdSettingsError, LeaseStore, Random};

pub(crate) use self::system::System;
pub use crate::{
    files::WriteError,
    other_agents::{Claims, Ranges, Taken},
};

/// All ports of one host. Cheap to clone.
pub trait Ports: Clone + Send + Sync + 'static {
    /// The store that holds the leases.
    type Store: LeaseStore;
    /// The kernel's links to routes, and the tunnels that the agent runs.
    type Network: NetworkPort;
    /// The packet filter.
    type Firewall: FirewallPort;
    /// The files.
    type Disk: Disk;

    /// Opens the store. Does not wait for it.
    ///
    /// # Errors
    /// When an endpoint or a certificate cannot be used.
    fn open_store(
        &self,
        settings: &EtcdSettings,
    ) -> impl Future<Output = Result<Self::Store, EtcdSettingsError>> + Send;

    /// Resolves the members of the store, for as long as `timeout`.
    fn endpoint_addresses(
        &self,
        settings: &EtcdSettings,
        timeout: Duration,
    ) -> impl Future<Output = EndpointAddresses> + Send;

    /// Opens the driver of `Network`. With `without_vxlan` it refuses to make VXLAN devices, as a kernel without VXLAN does. The first call
    /// gets the descriptors that an earlier run has left.
    ///
    /// # Errors
    /// When the kernel refuses a socket.
    fn open_network(&self, without_vxlan: bool) -> Result<Self::Network, DataplaneError>;

    /// Opens the driver of `Firewall`.
    ///
    /// # Errors
    /// When the kernel refuses a socket.
    fn open_firewall(&self) -> Result<Self::Firewall, DataplaneError>;

    /// The files.
    fn disk(&self) -> &Self::Disk;

    /// The links, addresses and routes of this host, and the routes to `targets`.
    ///
    /// # Errors
    /// When the kernel does not list them.
    fn host_network(&self, targets: &[IpAddr]) -> Result<HostNetwork, DataplaneError>;

    /// The kernel's state within a scope.
    ///
    /// # Errors
    /// When the kernel does not list it.
    fn observed(&self, scope: &Scope) -> Result<ObservedNet, DataplaneError>;

    /// The links that may distinguish this host from a copy of its disk.
    ///
    /// # Errors
    /// When the kernel does not list them.
    fn nics(&self) -> Result<Vec<Nic>, DataplaneError>;

    /// The UUID of the machine by its firmware (`/sys/class/dmi/id/product_uuid`). Many machines have none, and not every user may read it.
    fn product_uuid(&self) -> Option<String>;

    /// The counters of the devices and of the UDP sockets.
    ///
    /// # Errors
    /// When they cannot be read.
    fn traffic(&self) -> io::Result<Traffic>;

    /// The folder below which Docker's units and settings are; `None` on a host that can have no Docker.
    fn docker_root(&self) -> Option<&Path>;

    /// True if this host has containers that attachments can be for.
    fn has_guests(&self) -> bool {
        false
    }

    /// The names of the unix sockets in this network namespace, as `/proc/net/unix` has them.
    fn unix_sockets(&self) -> String;

    /// Makes this agent visible to others in this network namespace.
    fn announce(&self);

    /// Tells agents of other networks in this network namespace that a device is this network's.
    ///
    /// # Errors
    /// The name of another network that has it.
    fn claim(&self, claims: &Claims) -> Result<(), Taken>;

    /// True if no socket of this host has the UDP port at that address, and no agent claims it.
    fn is_free_port(&self, _local: SocketAddr) -> bool {
        true
    }

    /// True if a socket of an earlier run of the agent, which a tunnel takes over, has the UDP port.
    fn has_inherited_port(&self, _port: u16) -> bool {
        false
    }

    /// Tells agents of other networks in this network namespace that these UDP ports are those of networks by name, and no others.
    fn claim_ports(&self, _ports: &BTreeSet<u16>) {}

    /// True if the kernel cannot make VXLAN devices. Makes none.
    fn lacks_vxlan(&self) -> bool {
        false
    }

    /// True if another agent runs in this network namespace.
    fn are_other_agents(&self) -> bool;

    /// The rules of ip-rule(8) that lead containers' packets for `networks` past our routes, which are by `devices`.
    ///
    /// # Errors
    /// When the kernel does not answer.
    fn bypasses(&self, _networks: &[Prefix], _devices: &BTreeSet<LinkName>) -> Result<Vec<PolicyRule>, DataplaneError> {
        Ok(Vec::new())
    }

    /// The ranges of the other flat networks in this network namespace whose agents run.
    fn ranges_of_others(&self) -> Ranges {
        Ranges::new()
    }

    /// The source of random values.
    fn random(&self) -> &Random;

    /// The time since the host booted, including suspension (CLOCK_BOOTTIME).
    fn since_boot(&self) -> Duration;

    /// The time of day.
    fn time_of_day(&self) -> SystemTime;

    /// The service manager that has started the agent.
    fn supervisor(&self) -> &dyn Supervisor;

    /// Starts a loop that may block. `make` is called where the loop runs.
    ///
    /// # Errors
    /// When no runtime or no thread can be created.
    fn start_loop<F: Future<Output = ()> + 'static>(
        &self,
        name: &'static str,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<()>;

    /// Runs work that may block, beside the agent's tasks.
    fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T>;
}

/// The driver of `Network`.
pub trait NetworkPort: Driver<Resource = Network> + Send + 'static {
    /// Reports that the kernel's state has changed.
    type Monitor: NetworkMonitor;

    /// Opens a monitor of what is in `scope`, in the runtime that waits for it.
    ///
    /// # Errors
    /// When the kernel refuses a socket.
    fn monitor(&self, scope: Scope) -> Result<Self::Monitor, DataplaneError>;

    /// Reads and writes a container's namespace too, by what was opened in it.
    ///
    /// # Errors
    /// When a descriptor is not what it should be.
    fn add_guest(&mut self, namespace: Namespace, opened: OpenedGuest) -> Result<(), DataplaneError> {
        drop((namespace, opened));
        Ok(())
    }

    /// Closes all that was opened in a container's namespace.
    fn remove_guest(&mut self, namespace: Namespace) {
        let _ = namespace;
    }

    /// The tunnels that the driver runs.
    fn tunnels(&self) -> Tunnels;

    /// What reads the state of the host's namespace once, in another thread. It knows what the driver has learned from its reads.
    fn reader(&mut self) -> impl FnOnce(&Scope) -> Result<ObservedNet, DataplaneError> + Send + 'static;
}

/// Reports changes of the kernel's state.
pub trait NetworkMonitor: Send + 'static {
    /// Reports changes in another scope from now on.
    fn set_scope(&mut self, scope: Scope);

    /// Waits until something differs from `cached`.
    ///
    /// # Errors
    /// When the monitor failed; a new one is needed.
    ///
    /// # Cancel safety
    /// Safe.
    fn changed(&mut self, cached: &ObservedNet) -> impl Future<Output = Result<Changes, DataplaneError>>;
}

/// The driver of `Firewall`, and what is found beside the rules.
pub trait FirewallPort: Driver<Resource = Firewall> + Send + 'static {
    /// Reports that rules have changed.
    type Monitor: FirewallMonitor;

    /// Opens a monitor, in the runtime that waits for it.
    ///
    /// # Errors
    /// When the kernel refuses a socket.
    fn monitor(&self) -> Result<Self::Monitor, DataplaneError>;

    /// Calls `step` between programs, which may each take a while.
    fn set_step(&mut self, step: Box<dyn Fn() + Send>);

    /// The families that have rules.
    fn set_families(&mut self, families: Vec<Family>);

    /// True if rules may have changed since the last read.
    fn has_changed(&mut self) -> bool;

    /// True if nobody else has written since the last read, so that a monitor has heard the echo of our own writes.
    fn has_own_writes_alone(&mut self) -> bool;

    /// True if iptables-legacy may have rules that cannot be read.
    fn hides_legacy_tables(&self) -> bool;

    /// True if this host would take `table`.
    fn accepts(&self, table: &DesiredTable) -> bool;

    /// The counters of our rules.
    ///
    /// # Errors
    /// When the kernel does not list it.
    fn counted(&mut self) -> Result<Counted, DataplaneError>;

    /// The rules of others that ours depend on.
    fn foreign_rules(&mut self) -> ForeignRules;

    /// The error with which rules of the variant of iptables that is not in use could not be read.
    fn abandoned_unread(&self) -> Option<&OpError>;

    /// The error with which rules that should be there could not be read.
    fn unread(&mut self) -> Option<OpError>;

    /// The links on which containers with these subnets are.
    ///
    /// # Errors
    /// When the kernel does not list them.
    fn container_links(&mut self, subnets: &[Prefix]) -> Result<Vec<ContainerLink>, DataplaneError>;

    /// True if a link of that name exists.
    fn has_link(&mut self, name: LinkName) -> bool;
}

/// Reports changes of the rules.
pub trait FirewallMonitor: Send + 'static {
    /// Waits until rules have changed.
    ///
    /// # Errors
    /// When the monitor failed; a new one is needed.
    ///
    /// # Cancel safety
    /// Safe.
    fn changed(&mut self) -> impl Future<Output = Result<(), DataplaneError>>;
}

/// Reads and writes files.
pub trait Disk: Clone + Send + Sync + 'static {
    /// The content of a file.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// Opens a file, to read it from its beginning.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    fn open(&self, path: &Path) -> io::Result<impl io::Read>;

    /// The file of the resource `Files` at this path; `None` if there is none.
    fn observe(&self, path: &Path) -> Option<ObservedFile>;

    /// The time of the last change.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    fn modified(&self, path: &Path) -> io::Result<SystemTime>;

    /// Writes a file completely or not at all, unless it is as desired. True if it was written, which a file of another program always is.
    ///
    /// # Errors
    /// When a folder or the file cannot be written. The old file is then unchanged.
    fn put(&self, path: &Path, file: &DesiredFile) -> Result<bool, WriteError>;

    /// Writes a file of ours completely or not at all: what `content` writes, piece by piece. Returns its length.
    ///
    /// # Errors
    /// When a folder or the file cannot be written, or by `content`. The old file is then unchanged.
    fn put_in_pieces(
        &self,
        path: &Path,
        content: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
    ) -> Result<u64, WriteError>;

    /// Cuts a file of ours off after `len` bytes, and appends `bytes`. A missing file is made, in a folder that exists, if `len` is 0.
    ///
    /// # Errors
    /// When the file is shorter, or cannot be written. It may then be cut off, and have a part of `bytes`.
    fn append(&self, path: &Path, len: u64, bytes: &[u8]) -> Result<(), WriteError>;

    /// Sets the time of the last change to now. A failure changes nothing that matters.
    fn touch(&self, path: &Path);

    /// Gives a file another name.
    ///
    /// # Errors
    /// When it cannot be renamed.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file that is there.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn remove(&self, path: &Path) -> Result<(), WriteError>;
}

/// The service manager that has started the agent: systemd, sd_notify(3).
pub trait Supervisor: Send + Sync {
    /// Sends a message. True if it was taken, or if nobody listens.
    fn notify(&self, states: &[NotifyState<'_>]) -> bool;

    /// Hands over a descriptor under a name, for a later run.
    ///
    /// # Errors
    /// When it was not taken.
    fn keep(&self, name: &str, handle: &Handle) -> io::Result<()>;

    /// The most descriptors that it keeps; `None` if it does not tell.
    fn most_kept(&self) -> Option<usize> {
        None
    }

    /// The interval within which it wants to hear that the agent lives.
    fn watchdog(&self) -> Option<Duration>;
}

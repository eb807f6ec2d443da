//! All tunnels of this host, read and changed like a part of the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use nix::errno::Errno;
use tokio::sync::Notify;
use tracing::{info, warn};
use wire_net::{LinkName, Mtu, chain};
use wire_state::{Attempt, Capabilities, ErrorKind, Forward, ForwardKey, ObservedKind, ObservedNet, OpError, Tunnel};

use super::{
    counters::totals,
    engine::{Engine, EngineError},
    tun::Tun,
    udp::Udp,
    worker::{Fault, Shared},
};

/// All tunnels of this host. When it is dropped, no packet is forwarded any more; the devices stay.
#[derive(Default)]
pub struct Forwarder {
    engines: BTreeMap<LinkName, Engine>,
    kept: Kept,
    /// The devices of kept descriptors that have been ours in this run.
    known: BTreeSet<LinkName>,
    tunnels: Tunnels,
}

/// A shared view of all tunnels, for other threads at any time.
#[derive(Clone, Debug, Default)]
pub struct Tunnels {
    shared: Arc<Mutex<BTreeMap<LinkName, Arc<Shared>>>>,
    ended: Arc<Notify>,
}

/// A snapshot of a tunnel.
#[derive(Clone, Debug)]
pub struct TunnelSeen {
    /// Its device.
    pub link: LinkName,
    /// Its desired parameters.
    pub tunnel: Tunnel,
    /// The kernel's offloads that are in use.
    pub capabilities: Capabilities,
    /// All counters by name.
    pub counters: Vec<(&'static str, u64)>,
    /// The last outer source that the source check rejected, and the inner source of its packet.
    pub rejected_sender: Option<(IpAddr, IpAddr)>,
}

impl TunnelSeen {
    fn of(link: LinkName, shared: &Shared) -> Self {
        Self {
            link,
            tunnel: shared.tunnel.clone(),
            capabilities: shared.capabilities(),
            counters: totals(shared.counters.iter()).collect(),
            rejected_sender: *shared.rejected_sender.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }
}

/// A turn of a worker: from its search for packets until it waits for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// Identifies the tunnel while it runs.
    pub tunnel: usize,
    /// The index of the worker in its tunnel.
    pub worker: usize,
    /// The number of the turn in its worker.
    pub number: u64,
}

/// A descriptor that the next run of the agent can take over, if somebody keeps it open: packets that come in meanwhile
/// wait in it.
#[derive(Clone, Debug)]
pub struct Handle {
    /// Its name: the same name always means the same device or socket.
    pub name: String,
    /// Identifies the descriptor while the agent runs; never reused.
    pub number: u64,
    /// The descriptor.
    pub fd: Arc<OwnedFd>,
}

impl Handle {
    pub(crate) fn of(name: String, end: &impl AsFd) -> Option<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let fd = Arc::new(end.as_fd().try_clone_to_owned().ok()?);
        Some(Self { name, number: NUMBER.fetch_add(1, Ordering::Relaxed), fd })
    }
}

/// Descriptors kept from an earlier run.
#[derive(Debug, Default)]
pub struct Kept(BTreeMap<String, OwnedFd>);

impl Kept {
    /// Takes the descriptors of an earlier run, by name.
    #[must_use]
    pub fn new(kept: impl IntoIterator<Item = (String, OwnedFd)>) -> Self {
        Self(kept.into_iter().collect())
    }

    /// True if none is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The UDP ports of the sockets among them.
    #[must_use]
    pub fn udp_ports(&self) -> BTreeSet<u16> {
        let sockets = self.0.values().filter_map(|fd| Some(UdpSocket::from(fd.try_clone().ok()?)));
        // A TUN device's queue has no address.
        sockets.filter_map(|socket| Some(socket.local_addr().ok()?.port())).collect()
    }

    /// Closes all descriptors of a device.
    pub(crate) fn forget(&mut self, link: LinkName) {
        let of_link = format!("{link}.");
        self.0.retain(|name, _| !name.starts_with(&of_link));
    }

    /// Closes the descriptors of all devices but these.
    pub fn retain(&mut self, is_kept: impl Fn(LinkName) -> bool) {
        self.0.retain(|name, _| link_of(name).is_some_and(&is_kept));
    }

    fn links(&self) -> BTreeSet<LinkName> {
        self.0.keys().filter_map(|name| link_of(name)).collect()
    }

    fn add<'a>(&mut self, handles: impl IntoIterator<Item = &'a Handle>) {
        let copies = handles.into_iter().filter_map(|handle| Some((handle.name.clone(), handle.fd.try_clone().ok()?)));
        self.0.extend(copies);
    }

    /// Takes the kept queue of this name, if it is one of this device.
    pub(crate) fn take_tun(&mut self, name: &str, link: LinkName, wanted: Capabilities) -> Option<Tun> {
        let tun = Tun::adopt(self.0.remove(name)?, wanted).ok()?;
        (tun.name().ok()? == link).then_some(tun)
    }

    /// Takes the kept socket of this name, if it is bound to this address.
    pub(crate) fn take_udp(&mut self, name: &str, local: SocketAddr) -> Option<Udp> {
        let socket = Udp::adopt(self.0.remove(name)?, local);
        (socket.local().ok()? == local).then_some(socket)
    }
}

impl Forwarder {
    /// Creates a forwarder that reuses kept descriptors.
    #[must_use]
    pub fn new(kept: Kept) -> Self {
        Self { kept, ..Self::default() }
    }

    /// A view of all tunnels.
    #[must_use]
    pub fn tunnels(&self) -> Tunnels {
        self.tunnels.clone()
    }

    /// Adds the tunnels and their entries to the state read from the kernel.
    pub fn read(&mut self, state: &mut ObservedNet) {
        let gone = self.engines.iter().filter(|(name, engine)| !is_there(state, name, engine) || !engine.works());
        for name in gone.map(|(name, _)| *name).collect::<Vec<_>>() {
            self.stop_engine(name);
        }
        self.tunnels.set(&self.engines);
        for (link, engine) in &self.engines {
            if let Some(found) = state.links.get_mut(link)
                && matches!(found.kind, ObservedKind::Tun(_))
            {
                found.kind = ObservedKind::Tun(Some(engine.shared.tunnel.clone()));
            }
            let entries = engine.entries().iter();
            state
                .forwarding
                .extend(entries.map(|(prefix, to)| (ForwardKey { link: *link, destination: *prefix }, *to)));
        }
    }

    /// Starts a tunnel on a device. One with the same parameters goes on, with a new MTU.
    ///
    /// # Errors
    /// When the device or a socket cannot be opened; the error says what to do about it.
    pub fn start(&mut self, name: LinkName, tunnel: &Tunnel, mtu: Mtu) -> Attempt {
        if let Some(engine) = self.engines.get(&name).filter(|engine| engine.shared.tunnel == *tunnel) {
            engine.set_mtu(mtu);
            return Ok(());
        }
        // Two engines must not read one device.
        self.stop_engine(name);
        let started = Engine::start(name, tunnel, mtu, &mut self.kept, &self.tunnels.ended);
        if let Ok(engine) = &started {
            info!(link = %name, local = %tunnel.local, capabilities = %engine.shared.capabilities(), "tunnel started");
        }
        let outcome = started.map(|engine| drop(self.engines.insert(name, engine))).map_err(|error| op_error(&error));
        self.tunnels.set(&self.engines);
        outcome
    }

    /// Stops an engine, and keeps its descriptors for the next one.
    fn stop_engine(&mut self, name: LinkName) {
        let Some(engine) = self.engines.remove(&name) else { return };
        self.kept.add(&engine.shared.handles);
        self.known.insert(name);
        for why in engine.end() {
            warn!(link = %name, why, "a tunnel has ended");
        }
    }

    /// Stops the tunnel on a device, and closes its descriptors.
    pub fn stop(&mut self, name: LinkName) {
        self.stop_engine(name);
        self.kept.forget(name);
        self.tunnels.set(&self.engines);
    }

    /// Closes the descriptors of an earlier run that were not used: packets in a queue that nobody reads are lost, and
    /// a port that nobody reads cannot be used by the kernel.
    /// Those of devices that are `awaited` stay until they are used or stopped: they are made later.
    pub fn release(&mut self, awaited: impl Fn(LinkName) -> bool) {
        self.kept.retain(awaited);
    }

    /// Closes the kept descriptors of devices that are ours no more: without a device, nothing stops its tunnel. Those of an earlier run stay
    /// until their device has been ours.
    pub fn follow(&mut self, is_ours: impl Fn(LinkName) -> bool) {
        for link in self.kept.links() {
            if is_ours(link) {
                self.known.insert(link);
            } else if self.known.remove(&link) {
                self.kept.forget(link);
            }
        }
    }

    /// Sets forwarding entries, or removes them (`None`). All changes take effect at once.
    pub fn forward(&mut self, changes: impl Iterator<Item = (ForwardKey, Option<Forward>)>) -> Vec<Attempt> {
        let attempts = changes.map(|(key, forward)| self.set(key, forward)).collect();
        self.engines.values_mut().for_each(Engine::publish);
        attempts
    }

    fn set(&mut self, key: ForwardKey, forward: Option<Forward>) -> Attempt {
        match (self.engines.get_mut(&key.link), forward) {
            (Some(engine), forward) => engine.set(key.destination, forward),
            (None, None) => {}
            (None, Some(_)) => return Err(OpError::of(Errno::ENODEV)),
        }
        Ok(())
    }
}

impl Tunnels {
    /// A snapshot of all tunnels.
    #[must_use]
    pub fn seen(&self) -> Vec<TunnelSeen> {
        self.lock().iter().map(|(link, shared)| TunnelSeen::of(*link, shared)).collect()
    }

    /// The descriptors that the next run may take over.
    #[must_use]
    pub fn handles(&self) -> Vec<Handle> {
        self.lock().values().flat_map(|shared| &shared.handles).cloned().collect()
    }

    /// Duplicates all descriptors, for a successor in this process.
    #[must_use]
    pub fn keep(&self) -> Kept {
        let mut kept = Kept::default();
        kept.add(self.lock().values().flat_map(|shared| &shared.handles));
        kept
    }

    /// Is notified when a worker has ended on its own.
    #[must_use]
    pub fn ended(&self) -> Arc<Notify> {
        self.ended.clone()
    }

    /// The turns that workers are in. If one is found again much later, its worker hangs.
    #[must_use]
    pub fn turns(&self) -> BTreeSet<Turn> {
        self.lock().values().flat_map(turns_of).collect()
    }

    /// Makes each worker suffer this fault, in its next turn. Returns true if there is a tunnel.
    #[must_use]
    pub fn fail(&self, fault: Fault) -> bool {
        let tunnels = self.lock();
        tunnels.values().for_each(|shared| {
            let _ = shared.fault.set(fault);
        });
        !tunnels.is_empty()
    }

    fn set(&self, engines: &BTreeMap<LinkName, Engine>) {
        *self.lock() = engines.iter().map(|(name, engine)| (*name, engine.shared.clone())).collect();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<LinkName, Arc<Shared>>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The device of a descriptor with this name.
fn link_of(name: &str) -> Option<LinkName> {
    name.rsplit_once('.').and_then(|(link, _)| link.parse().ok())
}

/// True if the device that an engine works on still exists.
fn is_there(state: &ObservedNet, name: &LinkName, engine: &Engine) -> bool {
    state.links.get(name).is_some_and(|link| link.index == engine.index)
}

/// The turns that the workers of one tunnel are in.
fn turns_of(shared: &Arc<Shared>) -> Vec<Turn> {
    let tunnel = Arc::as_ptr(shared).addr();
    let workers = shared.counters.iter().enumerate();
    workers.filter_map(|(worker, counters)| Some(Turn { tunnel, worker, number: counters.turn()? })).collect()
}

/// Converts the error, and adds what to do about it.
fn op_error(error: &EngineError) -> OpError {
    let cause = error.io();
    let errno = cause.raw_os_error().map(Errno::from_raw);
    let remedy = match (error, errno) {
        (EngineError::Tun(..), Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO)) => {
            "there is no /dev/net/tun: load the module (modprobe tun), or give the container the device (--device /dev/net/tun)"
        }
        (EngineError::Tun(..), Some(Errno::EPERM)) => "the agent needs CAP_NET_ADMIN",
        (EngineError::Tun(..), Some(Errno::EACCES)) => "give the agent's user access to /dev/net/tun",
        (EngineError::Tun(..), Some(Errno::EBUSY | Errno::EINVAL)) => {
            "another program has a device of that name: is flanneld still running?"
        }
        (_, Some(Errno::EMFILE)) => "raise LimitNOFILE= of the agent's unit",
        (_, Some(Errno::ENFILE)) => "raise fs.file-max (sysctl)",
        (EngineError::Thread(_), _) => "raise TasksMax= of the agent's unit",
        // Who has the port is added by those who can look.
        (EngineError::Udp(..), Some(Errno::EADDRINUSE)) => "",
        (EngineError::Udp(..), Some(Errno::EADDRNOTAVAIL)) => "give the host this address back, or restart the agent",
        (EngineError::Tun(..) | EngineError::Gone(..) | EngineError::Udp(..), _) => {
            "see the kernel's log (dmesg), and restart the agent if this lasts"
        }
    };
    let kind = match (error, errno) {
        (EngineError::Tun(..), Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO)) => ErrorKind::Unsupported,
        _ => ErrorKind::of(cause),
    };
    let detail = match (error, errno) {
        _ if remedy.is_empty() => error.to_string(),
        _ => format!("{error}: {remedy}"),
    };
    OpError { kind, detail: Some(detail), source: again(cause) }
}

fn again(error: &std::io::Error) -> std::io::Error {
    error.raw_os_error().map_or_else(|| std::io::Error::other(chain(error)), std::io::Error::from_raw_os_error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_sockets_of_a_device_are_closed_when_it_is_ours_no_more() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let [own, other]: [LinkName; 2] = ["wv.5000", "wv.5001"].map(|name| name.parse().unwrap());
        let names = ["wv.5000.socket", "wv.5001.socket"].map(str::to_owned);
        let of_other = OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
        let mut forwarder = Forwarder::new(Kept::new(names.into_iter().zip([socket.into(), of_other])));
        assert!(forwarder.kept.udp_ports().contains(&port));
        // At a start, before the network is known.
        forwarder.follow(|_| false);
        forwarder.release(|_| true);
        forwarder.follow(|link| link == own);
        let bind = || UdpSocket::bind(("127.0.0.1", port));
        assert!(bind().is_err(), "it waits for its device");
        forwarder.follow(|_| false);
        assert!(bind().is_ok(), "the port is free");
        assert_eq!(forwarder.kept.links(), [other].into(), "the other one's network is not known yet");
    }
}

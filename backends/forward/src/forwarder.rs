//! All tunnels of this host, read and changed like a part of the kernel.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
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
use wire_state::{Attempt, Capabilities, ErrorKind, Forward, ForwardKey, LinkKind, NetState, OpError, Tunnel};

use super::{
    counters::totals,
    engine::{Engine, EngineError},
    tun::Tun,
    udp::Udp,
    worker::{Fault, Shared},
};

/// All tunnels. Dropped, no packet is moved any more; the devices stay.
#[derive(Default)]
pub struct Forwarder {
    engines: BTreeMap<LinkName, Engine>,
    kept: Kept,
    tunnels: Tunnels,
}

/// A way to look at all tunnels from elsewhere, at any time.
#[derive(Clone, Debug, Default)]
pub struct Tunnels {
    shared: Arc<Mutex<BTreeMap<LinkName, Arc<Shared>>>>,
    ended: Arc<Notify>,
}

/// What there is to say of a tunnel.
#[derive(Clone, Debug)]
pub struct TunnelSeen {
    /// The device.
    pub link: LinkName,
    /// How it was to be.
    pub tunnel: Tunnel,
    /// What is in use of what the kernel could do for us.
    pub capabilities: Capabilities,
    /// All counters by name.
    pub counters: Vec<(&'static str, u64)>,
    /// The last sender that was turned away by the source check, and the source within.
    pub rejected_sender: Option<(IpAddr, IpAddr)>,
}

/// A turn of a worker, from its looking for packets to its waiting for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// Another number, another tunnel.
    pub tunnel: usize,
    /// Which of its workers.
    pub worker: usize,
    /// Which of the worker's turns.
    pub number: u64,
}

/// A descriptor that another run of the agent can go on with, if somebody keeps it: what comes in meanwhile waits in it.
#[derive(Clone, Debug)]
pub struct Handle {
    /// What it is called: the same name always means the same device or socket.
    pub name: String,
    /// Another number, another descriptor.
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

/// Descriptors of an earlier run.
#[derive(Debug, Default)]
pub struct Kept(BTreeMap<String, OwnedFd>);

impl Kept {
    /// Those of an earlier run, by name.
    #[must_use]
    pub fn new(kept: impl IntoIterator<Item = (String, OwnedFd)>) -> Self {
        Self(kept.into_iter().collect())
    }

    /// Whether an earlier run has left nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Lets go of all that belongs to a device.
    pub(crate) fn forget(&mut self, link: LinkName) {
        let of_link = format!("{link}.");
        self.0.retain(|name, _| !name.starts_with(&of_link));
    }

    fn add<'a>(&mut self, handles: impl IntoIterator<Item = &'a Handle>) {
        let copies = handles.into_iter().filter_map(|handle| Some((handle.name.clone(), handle.fd.try_clone().ok()?)));
        self.0.extend(copies);
    }

    /// A queue of that device.
    pub(crate) fn take_tun(&mut self, name: &str, link: LinkName, wanted: Capabilities) -> Option<Tun> {
        let tun = Tun::adopt(self.0.remove(name)?, wanted).ok()?;
        (tun.name().ok()? == link).then_some(tun)
    }

    /// A socket on that address.
    pub(crate) fn take_udp(&mut self, name: &str, local: SocketAddr) -> Option<Udp> {
        let socket = Udp::adopt(self.0.remove(name)?, local);
        (socket.local().ok()? == local).then_some(socket)
    }
}

impl Forwarder {
    /// One that goes on with what was kept.
    #[must_use]
    pub fn new(kept: Kept) -> Self {
        Self { kept, ..Self::default() }
    }

    /// A way to look at all tunnels.
    #[must_use]
    pub fn tunnels(&self) -> Tunnels {
        self.tunnels.clone()
    }

    /// Adds what tunnels hold to what was read from the kernel.
    pub fn read(&mut self, state: &mut NetState) {
        let there = |name: &LinkName, engine: &Engine| {
            state.links.get(name).is_some_and(|link| link.index == Some(engine.index))
        };
        let gone = self.engines.iter().filter(|(name, engine)| !there(name, engine) || !engine.works());
        for name in gone.map(|(name, _)| *name).collect::<Vec<_>>() {
            self.stop_engine(name);
        }
        self.tunnels.set(&self.engines);
        for (link, engine) in &self.engines {
            if let Some(found) = state.links.get_mut(link)
                && matches!(found.kind, LinkKind::Tun(_))
            {
                found.kind = LinkKind::Tun(Some(engine.shared.tunnel.clone()));
            }
            let entries = engine.entries().iter();
            state
                .forwarding
                .extend(entries.map(|(prefix, to)| (ForwardKey { link: *link, destination: *prefix }, *to)));
        }
    }

    /// Works a device as `tunnel` says. One that does so already goes on.
    ///
    /// # Errors
    /// When the device or the socket cannot be had; says what to do about it.
    pub fn start(&mut self, name: LinkName, tunnel: &Tunnel, mtu: Mtu) -> Attempt {
        if let Some(engine) = self.engines.get(&name).filter(|engine| engine.shared.tunnel == *tunnel) {
            engine.set_mtu(mtu);
            return Ok(());
        }
        // Two must not read one device.
        self.stop_engine(name);
        let started = Engine::start(name, (tunnel, mtu), &mut self.kept, &self.tunnels.ended);
        if let Ok(engine) = &started {
            info!(link = %name, local = %tunnel.local, capabilities = %engine.shared.capabilities(), "tunnel started");
        }
        let outcome = started.map(|engine| drop(self.engines.insert(name, engine))).map_err(|error| op_error(&error));
        self.tunnels.set(&self.engines);
        outcome
    }

    /// Ends an engine, and keeps its ends for another.
    fn stop_engine(&mut self, name: LinkName) {
        let Some(engine) = self.engines.remove(&name) else { return };
        self.kept.add(&engine.shared.handles);
        for why in engine.end() {
            warn!(link = %name, why, "a tunnel has ended");
        }
    }

    /// Leaves a device alone.
    pub fn stop(&mut self, name: LinkName) {
        self.stop_engine(name);
        self.kept.forget(name);
        self.tunnels.set(&self.engines);
    }

    /// Releases what an earlier run has left and nobody wanted: a queue that nobody reads swallows packets, and a port that
    /// nobody reads keeps the kernel from it.
    pub fn release(&mut self) {
        self.kept = Kept::default();
    }

    /// Changes where packets go, `None` to nowhere. All changes take effect at once.
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
    /// All tunnels as they are now.
    #[must_use]
    pub fn seen(&self) -> Vec<TunnelSeen> {
        let seen = |(link, shared): (&LinkName, &Arc<Shared>)| TunnelSeen {
            link: *link,
            tunnel: shared.tunnel.clone(),
            capabilities: shared.capabilities(),
            counters: totals(shared.counters.iter()).collect(),
            rejected_sender: *shared.rejected_sender.lock().unwrap_or_else(PoisonError::into_inner),
        };
        self.lock().iter().map(seen).collect()
    }

    /// What may be kept for another run.
    #[must_use]
    pub fn handles(&self) -> Vec<Handle> {
        self.lock().values().flat_map(|shared| &shared.handles).cloned().collect()
    }

    /// All of it kept, for a successor in this process.
    #[must_use]
    pub fn keep(&self) -> Kept {
        let mut kept = Kept::default();
        kept.add(self.lock().values().flat_map(|shared| &shared.handles));
        kept
    }

    /// Is notified when a tunnel has ended by itself.
    #[must_use]
    pub fn ended(&self) -> Arc<Notify> {
        self.ended.clone()
    }

    /// The turns that workers are in: one that is found again much later means a worker that hangs.
    #[must_use]
    pub fn turns(&self) -> BTreeSet<Turn> {
        let of = |shared: &Arc<Shared>| {
            let tunnel = Arc::as_ptr(shared).addr();
            let turns = shared.counters.iter().enumerate();
            turns
                .filter_map(move |(worker, counters)| Some(Turn { tunnel, worker, number: counters.turn()? }))
                .collect::<Vec<_>>()
        };
        self.lock().values().flat_map(of).collect()
    }

    /// Lets this happen to each worker there is, at its next packet. Says whether there is any.
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

/// With what to do about it.
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
            "somebody else has a device of that name: is flanneld still running?"
        }
        _ => "",
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

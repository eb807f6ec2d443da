//! One device with its workers.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use arc_swap::ArcSwap;
use nix::{net::if_::if_nametoindex, sys::eventfd::EventFd};
use tokio::sync::Notify;
use wire_net::{LinkName, Mtu, Prefix};
use wire_state::{Capabilities, Forward, Framing, Tunnel};

use super::{
    counters::Counters,
    forwarder::{Handle, Kept},
    table::Table,
    tun::{Layer, Tun},
    udp::{Role, Udp},
    worker::{Gate, Shared, Worker},
};

/// The number of sockets that send VXLAN: routers tell flows apart by their source ports (RFC 7348 §5, source port).
const SENDERS: usize = 16;

/// A TUN device and its workers. When it is dropped, the workers end; the device stays.
pub(crate) struct Engine {
    pub(crate) shared: Arc<Shared>,
    /// The interface index: another device of the same name has another one.
    pub(crate) index: u32,
    entries: BTreeMap<Prefix, Forward>,
    /// The same for the workers, who get a copy.
    table: Table,
    changed: bool,
    stop: Arc<EventFd>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

/// An error of starting an engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("cannot open the TUN device {0}")]
    Tun(LinkName, #[source] io::Error),
    #[error("the TUN device {0} is gone again")]
    Gone(LinkName, #[source] io::Error),
    #[error("cannot open a UDP socket on {0}")]
    Udp(SocketAddr, #[source] io::Error),
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

impl EngineError {
    pub(crate) const fn io(&self) -> &io::Error {
        match self {
            Self::Tun(_, error) | Self::Gone(_, error) | Self::Udp(_, error) | Self::Thread(error) => error,
        }
    }
}

/// The queues of the device and the sockets, one of each for each worker.
struct Endpoints {
    pairs: Vec<(Tun, Udp)>,
    handles: Vec<Handle>,
}

impl Endpoints {
    /// Opens them, and reuses what was kept of an earlier run. The rest of it is closed.
    fn open(name: LinkName, tunnel: &Tunnel, kept: &mut Kept) -> Result<Self, EngineError> {
        let mut endpoints = Self { pairs: Vec::new(), handles: Vec::new() };
        for number in 0..tunnel.queues.max(1) {
            let names = (format!("{name}.tun{number}"), format!("{name}.udp{number}"));
            let tun = match kept.take_tun(&names.0, name, tunnel.capabilities) {
                Some(kept) => Ok(kept),
                None => Tun::open(name, Layer::of(tunnel.framing), tunnel.capabilities),
            };
            let tun = tun.map_err(|error| EngineError::Tun(name, error))?;
            let socket = match kept.take_udp(&names.1, tunnel.local) {
                Some(kept) => Ok(kept),
                None => Udp::open(tunnel.local, Role::Listener),
            };
            let socket = socket.and_then(|socket| socket.receive_ecn().map(|()| socket));
            let socket = socket.map_err(|error| EngineError::Udp(tunnel.local, error))?;
            endpoints.handles.extend(Handle::of(names.0, &tun));
            endpoints.handles.extend(Handle::of(names.1, &socket));
            endpoints.pairs.push((tun, socket));
        }
        // Packets in a queue that nobody reads are lost.
        kept.forget(name);
        Ok(endpoints)
    }
}

impl Engine {
    /// Creates the device if it does not exist, and starts the workers. They begin with the first table, or after half
    /// a second.
    pub(crate) fn start(
        name: LinkName,
        tunnel: &Tunnel,
        mtu: Mtu,
        kept: &mut Kept,
        ended: &Arc<Notify>,
    ) -> Result<Self, EngineError> {
        let Endpoints { pairs, handles } = Endpoints::open(name, tunnel, kept)?;
        let index = if_nametoindex(name.as_str()).map_err(|error| EngineError::Gone(name, error.into()))?;
        let asked = tunnel.capabilities;
        // Set on each socket, even if one has refused.
        let joins: Vec<bool> = pairs.iter().map(|(_, socket)| socket.set_gro(asked.gro)).collect();
        let gro = joins.into_iter().all(|joins| joins);
        let device = pairs.iter().fold(asked, |least, (tun, _)| least.and(tun.capabilities));
        let shared = Arc::new(Shared {
            mtu: AtomicU32::new(mtu.0),
            table: ArcSwap::default(),
            counters: std::iter::repeat_with(Counters::default).take(pairs.len()).collect(),
            gso: AtomicBool::new(asked.gso),
            capabilities: Capabilities { gro, ..device },
            tunnel: tunnel.clone(),
            handles,
            rejected_sender: Mutex::default(),
            begun: Gate::default(),
            stopping: AtomicBool::new(false),
            ended: ended.clone(),
            has_died: AtomicBool::new(false),
            fault: OnceLock::new(),
        });
        let stop = Arc::new(EventFd::new().map_err(|error| EngineError::Thread(error.into()))?);
        let (entries, threads) = (BTreeMap::new(), Vec::new());
        // From here on, a failure drops the engine, which ends the workers that have begun.
        let mut engine = Self { shared, index, entries, table: Table::default(), changed: false, stop, threads };
        for (number, (tun, socket)) in pairs.into_iter().enumerate() {
            engine.spawn(name, number, tun, socket)?;
        }
        Ok(engine)
    }

    fn spawn(&mut self, name: LinkName, number: usize, tun: Tun, socket: Udp) -> Result<(), EngineError> {
        let tunnel = &self.shared.tunnel;
        let senders = match tunnel.framing {
            Framing::Raw => 0,
            Framing::Vxlan { .. } | Framing::Ethernet { .. } => SENDERS,
        };
        let any_port = SocketAddr::new(tunnel.local.ip(), 0);
        let senders: io::Result<Vec<Udp>> = (0..senders).map(|_| Udp::open(any_port, Role::Sender)).collect();
        let senders = senders.map_err(|error| EngineError::Udp(any_port, error))?;
        let worker = Worker { shared: self.shared.clone(), number, tun, socket, senders, stop: self.stop.clone() };
        let thread = thread::Builder::new()
            .name(format!("{name}.{number}"))
            .spawn(move || worker.run())
            .map_err(EngineError::Thread)?;
        self.threads.push(thread);
        Ok(())
    }

    /// True while all workers run.
    pub(crate) fn works(&self) -> bool {
        !self.shared.has_died.load(Ordering::Relaxed) && !self.threads.iter().any(JoinHandle::is_finished)
    }

    /// The forwarding entries.
    pub(crate) const fn entries(&self) -> &BTreeMap<Prefix, Forward> {
        &self.entries
    }

    /// Sets or removes an entry, from the next [`Engine::publish`] on.
    pub(crate) fn set(&mut self, destination: Prefix, forward: Option<Forward>) {
        match forward {
            Some(forward) => drop(self.entries.insert(destination, forward)),
            None => drop(self.entries.remove(&destination)),
        }
        self.table.set(destination, forward, self.shared.tunnel.local.port());
        self.changed = true;
    }

    /// Gives the workers a new table, if entries have changed. A turn that has begun ends with the old one.
    pub(crate) fn publish(&mut self) {
        if std::mem::take(&mut self.changed) {
            self.shared.table.store(Arc::new(self.table.clone()));
            self.shared.begun.open();
        }
    }

    pub(crate) fn set_mtu(&self, mtu: Mtu) {
        self.shared.mtu.store(mtu.0, Ordering::Relaxed);
    }

    /// Stops the workers, and returns the errors of those that had ended on their own.
    pub(crate) fn end(mut self) -> Vec<String> {
        // A worker that is told to stop may find the device gone, which is no error.
        let early = !self.works();
        self.signal_stop();
        self.threads.drain(..).filter_map(|thread| cause_of_end(thread, early)).collect()
    }

    fn signal_stop(&self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.shared.begun.open();
        // The write fails only if the counter is full, and then the stop was signalled already.
        let _ = self.stop.write(1);
    }
}

/// The reason why a worker has ended on its own; an error counts only if it came `early`, before the stop.
fn cause_of_end(thread: JoinHandle<io::Result<()>>, early: bool) -> Option<String> {
    match thread.join() {
        Ok(Ok(())) => None,
        Ok(Err(error)) => early.then(|| error.to_string()),
        Err(_) => Some("it panicked".to_owned()),
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.signal_stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

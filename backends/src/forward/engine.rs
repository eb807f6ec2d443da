//! One device with its workers.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
};

use arc_swap::ArcSwap;
use nix::{net::if_::if_nametoindex, sys::eventfd::EventFd};
use wire_lease::Prefix;

use super::{
    Capabilities, Framing,
    counters::Counters,
    forwarder::{Handle, Kept},
    table::Table,
    tun::Tun,
    udp::Udp,
    worker::{Shared, Worker},
};
use crate::{Forward, LinkName, Mtu, Tunnel};

/// Sockets to send VXLAN through: their ports are what routers on the way tell flows apart by (RFC 7348 §5, source port).
const SENDERS: usize = 16;

/// A device that packets are moved to and from. Dropped, the workers end; the device stays.
pub(crate) struct Engine {
    pub(crate) shared: Arc<Shared>,
    /// The device's number: another device of the same name is not this one.
    pub(crate) index: u32,
    entries: BTreeMap<Prefix, Forward>,
    changed: bool,
    handles: Vec<Handle>,
    stop: Arc<EventFd>,
    /// Who is to work once there is a table: what waits in the device would find no peer before.
    idle: Vec<(String, Worker)>,
    threads: Vec<JoinHandle<()>>,
}

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("cannot open the TUN device {0}")]
    Tun(LinkName, #[source] io::Error),
    #[error("cannot open a UDP socket on {0}")]
    Udp(SocketAddr, #[source] io::Error),
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
}

impl EngineError {
    pub(crate) const fn io(&self) -> &io::Error {
        match self {
            Self::Tun(_, error) | Self::Udp(_, error) | Self::Thread(error) => error,
        }
    }
}

impl Engine {
    /// Makes the device if it is not there. The work begins with the first table. What was kept of an earlier run is used again.
    pub(crate) fn start(name: LinkName, tunnel: &Tunnel, mtu: Mtu, kept: &mut Kept) -> Result<Self, EngineError> {
        let queues = tunnel.queues.max(1);
        let (mut tuns, mut sockets, mut handles) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..queues {
            let (tun, socket) = (format!("{name}.tun{number}"), format!("{name}.udp{number}"));
            let opened = match kept.take_tun(&tun, name, tunnel.capabilities) {
                Some(kept) => Ok(kept),
                None => Tun::open(name, tunnel.capabilities),
            };
            tuns.push(Arc::new(opened.map_err(|error| EngineError::Tun(name, error))?));
            let opened = match kept.take_udp(&socket, tunnel.local) {
                Some(kept) => Ok(kept),
                None => open_socket(tunnel.local, queues > 1),
            };
            sockets.push(Arc::new(opened.map_err(|error| EngineError::Udp(tunnel.local, error))?));
            handles.extend(duplicate(tun, &*tuns[number]));
            handles.extend(duplicate(socket, &*sockets[number]));
        }
        let index = if_nametoindex(name.as_str()).map_err(|error| EngineError::Tun(name, error.into()))?;
        let device = tuns[0].capabilities;
        let shared = Arc::new(Shared {
            tunnel: tunnel.clone(),
            mtu: AtomicU32::new(mtu.0),
            table: ArcSwap::default(),
            workers: std::iter::repeat_with(Counters::default).take(queues).collect(),
            gso: AtomicBool::new(tunnel.capabilities.gso),
            gro: AtomicBool::new(sockets.iter().all(|socket| socket.join_incoming(tunnel.capabilities.gro))),
            tso: AtomicBool::new(device.tso),
            uso: AtomicBool::new(device.uso),
            stranger: Mutex::default(),
            ended: Mutex::default(),
        });
        let stop = Arc::new(EventFd::new().map_err(|error| EngineError::Thread(error.into()))?);
        let mut engine = Self {
            shared,
            index,
            entries: BTreeMap::new(),
            changed: false,
            handles,
            stop,
            idle: Vec::new(),
            threads: Vec::new(),
        };
        for (number, (tun, socket)) in tuns.into_iter().zip(sockets).enumerate() {
            engine.prepare(name, number, tun, socket)?;
        }
        Ok(engine)
    }

    fn prepare(&mut self, name: LinkName, number: usize, tun: Arc<Tun>, socket: Arc<Udp>) -> Result<(), EngineError> {
        let tunnel = &self.shared.tunnel;
        let senders = match tunnel.framing {
            Framing::Raw => 0,
            Framing::Vxlan { .. } => SENDERS,
        };
        let any_port = SocketAddr::new(tunnel.local.ip(), 0);
        let senders: io::Result<Vec<Udp>> = (0..senders).map(|_| open_socket(any_port, false)).collect();
        let senders = senders.map_err(|error| EngineError::Udp(any_port, error))?;
        let worker = Worker { shared: self.shared.clone(), number, tun, socket, senders, stop: self.stop.clone() };
        self.idle.push((format!("{name}.{number}"), worker));
        Ok(())
    }

    /// Where packets go.
    pub(crate) const fn entries(&self) -> &BTreeMap<Prefix, Forward> {
        &self.entries
    }

    /// Changes where packets go, from the next [`Engine::publish`] on.
    pub(crate) fn set(&mut self, destination: Prefix, forward: Option<Forward>) {
        match forward {
            Some(forward) => drop(self.entries.insert(destination, forward)),
            None => drop(self.entries.remove(&destination)),
        }
        self.changed = true;
    }

    /// Gives the workers a new table, the first of which they begin with. A turn that has begun ends with the old one.
    pub(crate) fn publish(&mut self) -> Result<(), EngineError> {
        if std::mem::take(&mut self.changed) {
            let table = Table::new(&self.entries, self.shared.tunnel.local.port());
            self.shared.table.store(Arc::new(table));
            for (name, worker) in self.idle.drain(..) {
                let thread = thread::Builder::new().name(name).spawn(move || worker.run());
                self.threads.push(thread.map_err(EngineError::Thread)?);
            }
        }
        Ok(())
    }

    pub(crate) fn set_mtu(&self, mtu: Mtu) {
        self.shared.mtu.store(mtu.0, Ordering::Relaxed);
    }

    /// What may be kept for another run: the device's queues and the sockets.
    pub(crate) fn handles(&self) -> &[Handle] {
        &self.handles
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Only a full counter refuses, and then it says stop already.
        let _ = self.stop.write(1);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// What is in use, which may be less than what was asked for.
    pub(crate) fn capabilities(&self) -> Capabilities {
        let is = |flag: &AtomicBool| flag.load(Ordering::Relaxed);
        Capabilities { uso: is(&self.uso), tso: is(&self.tso), gso: is(&self.gso), gro: is(&self.gro) }
    }
}

fn open_socket(local: SocketAddr, shared: bool) -> io::Result<Udp> {
    let socket = Udp::open(local, shared)?;
    socket.allow_fragments()?;
    Ok(socket)
}

fn duplicate(name: String, of: &impl AsFd) -> Option<Handle> {
    let fd: OwnedFd = of.as_fd().try_clone_to_owned().ok()?;
    Some(Handle { name, fd: Arc::new(fd) })
}

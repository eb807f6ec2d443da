//! A thread that moves packets in both directions.
//!
//! Both directions are in one thread: the kernel's immediate answer to a packet (an echo reply, an acknowledgement) can
//! be read as soon as the packet is written, without waking another thread.

use std::{
    io,
    net::IpAddr,
    os::fd::AsFd,
    sync::{
        Arc, Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};

use tokio::sync::Notify;
use wire_state::{Capabilities, Tunnel};

use super::{
    coalesce::Joinable, counters::Counters, egress::Egress, forwarder::Handle, ingress::Ingress, table::Table,
    tun::Tun, udp::Udp,
};

/// The state that all workers of a tunnel share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tunnel: Tunnel,
    pub(crate) mtu: AtomicU32,
    pub(crate) table: ArcSwap<Table>,
    /// One for each worker.
    pub(crate) counters: Vec<Counters>,
    /// The kernel's offloads in use, except `gso`.
    pub(crate) capabilities: Capabilities,
    /// True while several datagrams are sent in one message. Disabled if a link cannot do it.
    pub(crate) gso: AtomicBool,
    /// The descriptors that the next run may take over.
    pub(crate) handles: Vec<Handle>,
    /// The last outer source that the source check rejected, and the inner source of its packet.
    pub(crate) rejected_sender: Mutex<Option<(IpAddr, IpAddr)>>,
    pub(crate) begun: Gate,
    pub(crate) stopping: AtomicBool,
    /// Is notified when a worker has ended on its own.
    pub(crate) ended: Arc<Notify>,
    /// True once a worker has ended on its own. Its thread may still exist for a moment when that is notified.
    pub(crate) has_died: AtomicBool,
    /// A fault that the workers suffer in their next turn.
    pub(crate) fault: OnceLock<Fault>,
}

/// A fault of a thread, to test what follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It blocks for ever.
    Hang,
    /// It panics.
    Panic,
}

impl Fault {
    /// Makes the calling thread suffer the fault.
    ///
    /// # Panics
    /// If the fault is [`Fault::Panic`].
    pub fn happen(self) -> ! {
        match self {
            Self::Hang => loop {
                thread::park();
            },
            Self::Panic => panic!("asked to panic, for a test"),
        }
    }
}

impl Shared {
    /// The offloads in use, which may be less than what was asked for.
    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities { gso: self.gso.load(Ordering::Relaxed), ..self.capabilities }
    }

    #[cold]
    pub(crate) fn note_rejected_sender(&self, from: IpAddr, source: IpAddr) {
        // No packet waits for the lock.
        if let Ok(mut last) = self.rejected_sender.try_lock() {
            *last = Some((from, source));
        }
    }
}

/// Opens once, and then lets all threads pass.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    pub(crate) fn open(&self) {
        *self.is_open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.opened.notify_all();
    }

    /// Waits until it is open, at most for `timeout`.
    fn wait(&self, timeout: Duration) {
        let is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_timeout_while(is_open, timeout, |is_open| !*is_open));
    }
}

/// The state, the device and the sockets that a worker uses in one turn.
pub(crate) struct Context<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) counters: &'a Counters,
    pub(crate) tun: &'a Tun,
    /// The sockets to send through; one is chosen by flow.
    pub(crate) sockets: &'a [Udp],
}

impl Context<'_> {
    /// The longest inner packet, in bytes.
    #[inline]
    pub(crate) fn mtu(&self) -> usize {
        self.shared.mtu.load(Ordering::Relaxed) as usize
    }

    /// The protocols whose packets may be joined for the device.
    pub(crate) const fn joinable(&self) -> Joinable {
        Joinable { tcp: self.tun.capabilities.tso, udp: self.tun.capabilities.uso }
    }
}

pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) number: usize,
    pub(crate) tun: Tun,
    /// Receives, and sends if there are no `senders`.
    pub(crate) socket: Udp,
    /// Send, each from a port of its own: for VXLAN only.
    pub(crate) senders: Vec<Udp>,
    pub(crate) stop: Arc<EventFd>,
}

/// The longest wait of a worker for its first table: before it, packets that wait in the device would find no peer. A
/// host that is alone gets none.
const FIRST_TABLE: Duration = Duration::from_millis(500);

impl Worker {
    /// Moves packets until it is told to stop.
    ///
    /// # Errors
    /// When the device is gone, or the socket fails.
    pub(crate) fn run(self) -> io::Result<()> {
        let _report = EndReport(&self.shared);
        self.shared.begun.wait(FIRST_TABLE);
        self.work()
    }

    fn work(&self) -> io::Result<()> {
        let (mut egress, mut ingress) = (Egress::new(), Ingress::new());
        let sockets = if self.senders.is_empty() { std::slice::from_ref(&self.socket) } else { &self.senders };
        let counters = &self.shared.counters[self.number];
        let context = Context { shared: &self.shared, counters, tun: &self.tun, sockets };
        let mut incoming = true;
        // Checked in each turn: under load there is no wait.
        while !self.shared.stopping.load(Ordering::Relaxed) {
            counters.begin_turn();
            if let Some(fault) = self.shared.fault.get() {
                fault.happen();
            }
            let table = self.shared.table.load();
            if incoming {
                incoming = ingress.turn(&context, &table, &self.socket)?;
            }
            // After the packets that came in: the answers to them are there by now.
            let outgoing = egress.turn(&context, &table)?;
            if !incoming {
                drop(table);
                counters.rest();
                incoming = self.wait(!outgoing)?;
            }
        }
        Ok(())
    }

    /// Waits for packets, if `idle`, else only looks for them. Returns true if some came in.
    fn wait(&self, idle: bool) -> io::Result<bool> {
        let asked = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut wait = [asked(self.socket.as_fd()), asked(self.tun.as_fd()), asked(self.stop.as_fd())];
        let timeout = if idle { PollTimeout::NONE } else { PollTimeout::ZERO };
        match poll(&mut wait, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        // The device was deleted.
        if wait[1].revents().is_some_and(|events| events.contains(PollFlags::POLLERR)) {
            return Err(Errno::EBADFD.into());
        }
        Ok(wait[0].any().unwrap_or(false))
    }
}

/// Reports that a worker has ended, also by a panic, unless it was told to stop.
struct EndReport<'a>(&'a Shared);

impl Drop for EndReport<'_> {
    fn drop(&mut self) {
        if !self.0.stopping.load(Ordering::Relaxed) {
            self.0.has_died.store(true, Ordering::Relaxed);
            self.0.ended.notify_one();
        }
    }
}

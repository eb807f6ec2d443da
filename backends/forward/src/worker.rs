//! One thread that moves packets both ways.
//!
//! Both directions in one thread: what the kernel answers to a packet at once (an echo reply, an acknowledgement) is there
//! to be read as soon as the packet is written, without another thread to wake.

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

/// What all workers of a tunnel share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tunnel: Tunnel,
    pub(crate) mtu: AtomicU32,
    pub(crate) table: ArcSwap<Table>,
    /// One for each worker.
    pub(crate) counters: Vec<Counters>,
    /// What the kernel does for us, but for `gso`.
    pub(crate) capabilities: Capabilities,
    /// Whether several datagrams go in one message. Given up where a link cannot do it.
    pub(crate) gso: AtomicBool,
    /// What another run may go on with.
    pub(crate) handles: Vec<Handle>,
    /// The last sender that was turned away, and the source within.
    pub(crate) rejected_sender: Mutex<Option<(IpAddr, IpAddr)>>,
    pub(crate) begun: Gate,
    pub(crate) stopping: AtomicBool,
    /// Is notified when a worker has ended by itself.
    pub(crate) ended: Arc<Notify>,
    /// Whether one has: its thread may still be there for a moment when that is told.
    pub(crate) has_died: AtomicBool,
    /// What the workers are to suffer in their next turn.
    pub(crate) fault: OnceLock<Fault>,
}

/// What a thread suffers, for tests of what comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It blocks for ever.
    Hang,
    /// It dies.
    Panic,
}

impl Fault {
    /// Lets it happen to the thread that calls this.
    ///
    /// # Panics
    /// Where that is the fault.
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
    /// What is in use, which may be less than what was asked for.
    pub(crate) fn capabilities(&self) -> Capabilities {
        Capabilities { gso: self.gso.load(Ordering::Relaxed), ..self.capabilities }
    }

    #[cold]
    pub(crate) fn note_rejected_sender(&self, from: IpAddr, source: IpAddr) {
        // A packet is not worth waiting for.
        if let Ok(mut last) = self.rejected_sender.try_lock() {
            *last = Some((from, source));
        }
    }
}

/// Opens once.
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

    /// Waits until it is open, but not for ever.
    fn wait(&self, timeout: Duration) {
        let is_open = self.is_open.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.opened.wait_timeout_while(is_open, timeout, |is_open| !*is_open));
    }
}

/// What a worker works with in one turn.
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

    /// What may be joined on its way to the device.
    pub(crate) const fn joinable(&self) -> Joinable {
        Joinable { tcp: self.tun.capabilities.tso, udp: self.tun.capabilities.uso }
    }
}

/// One worker.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) number: usize,
    pub(crate) tun: Tun,
    /// What comes in.
    pub(crate) socket: Udp,
    /// What goes out, where it does not go through the same socket.
    pub(crate) senders: Vec<Udp>,
    pub(crate) stop: Arc<EventFd>,
}

/// How long a worker waits for its first table: what waits in the device would find no peer before. A host may be alone.
const FIRST_TABLE: Duration = Duration::from_millis(500);

impl Worker {
    /// Works until it is told to stop.
    ///
    /// # Errors
    /// When the device is gone, or the socket is of no use.
    pub(crate) fn run(self) -> io::Result<()> {
        let _word = LastWord(&self.shared);
        self.shared.begun.wait(FIRST_TABLE);
        self.work()
    }

    fn work(&self) -> io::Result<()> {
        let (mut egress, mut ingress) = (Egress::new(), Ingress::new());
        let sockets = if self.senders.is_empty() { std::slice::from_ref(&self.socket) } else { &self.senders };
        let counters = &self.shared.counters[self.number];
        let context = Context { shared: &self.shared, counters, tun: &self.tun, sockets };
        let mut incoming = true;
        // Looked at in each turn: under load nothing is waited for.
        while !self.shared.stopping.load(Ordering::Relaxed) {
            counters.begin_turn();
            if let Some(fault) = self.shared.fault.get() {
                fault.happen();
            }
            let table = self.shared.table.load();
            if incoming {
                incoming = ingress.turn(&context, &table, &self.socket)?;
            }
            // After what came in: the answers to it are there by now.
            let outgoing = egress.turn(&context, &table)?;
            if !incoming {
                drop(table);
                counters.rest();
                incoming = self.wait(!outgoing)?;
            }
        }
        Ok(())
    }

    /// Waits for packets, or only looks whether there are any. Says whether some came in.
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

/// Tells that a worker has ended, also by a panic, unless it was asked to.
struct LastWord<'a>(&'a Shared);

impl Drop for LastWord<'_> {
    fn drop(&mut self) {
        if !self.0.stopping.load(Ordering::Relaxed) {
            self.0.has_died.store(true, Ordering::Relaxed);
            self.0.ended.notify_one();
        }
    }
}

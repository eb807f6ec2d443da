//! One thread that moves packets both ways.
//!
//! Both directions in one thread: what the kernel answers to a packet at once (an echo reply, an acknowledgement) is there
//! to be read as soon as the packet is written, without another thread to wake.

use std::{
    io,
    net::IpAddr,
    os::fd::AsFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use arc_swap::ArcSwap;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::eventfd::EventFd,
};

use super::{
    coalesce::Joinable, counters::Counters, egress::Egress, ingress::Ingress, table::Table, tun::Tun, udp::Udp,
};
use crate::Tunnel;

/// What all workers of a tunnel share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) tunnel: Tunnel,
    pub(crate) mtu: AtomicU32,
    pub(crate) table: ArcSwap<Table>,
    pub(crate) workers: Vec<Counters>,
    /// Whether several datagrams go in one message.
    pub(crate) gso: AtomicBool,
    /// Whether the kernel joins what comes in.
    pub(crate) gro: AtomicBool,
    /// What the device can do.
    pub(crate) tso: AtomicBool,
    pub(crate) uso: AtomicBool,
    /// The last sender that was turned away, and the source within.
    pub(crate) stranger: Mutex<Option<(IpAddr, IpAddr)>>,
    /// Why a worker ended.
    pub(crate) ended: Mutex<Option<String>>,
}

impl Shared {
    #[cold]
    pub(crate) fn note_stranger(&self, from: IpAddr, source: IpAddr) {
        // A packet is not worth waiting for.
        if let Ok(mut stranger) = self.stranger.try_lock() {
            *stranger = Some((from, source));
        }
    }

    /// Why it no longer works, if so.
    pub(crate) fn ended(&self) -> Option<String> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a worker works with in one turn.
pub(crate) struct Way<'a> {
    pub(crate) shared: &'a Shared,
    pub(crate) counters: &'a Counters,
    pub(crate) tun: &'a Tun,
    /// The sockets to send through; one is chosen by flow.
    pub(crate) sockets: &'a [Udp],
}

impl Way<'_> {
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
    pub(crate) tun: Arc<Tun>,
    /// What comes in.
    pub(crate) socket: Arc<Udp>,
    /// What goes out, where it does not go through the same socket.
    pub(crate) senders: Vec<Udp>,
    pub(crate) stop: Arc<EventFd>,
}

impl Worker {
    /// Works until it is told to stop. What ends it before is kept for the reconciler to read.
    pub(crate) fn run(self) {
        if let Err(error) = self.work() {
            let mut ended = self.shared.ended.lock().unwrap_or_else(PoisonError::into_inner);
            ended.get_or_insert_with(|| error.to_string());
        }
    }

    fn work(&self) -> io::Result<()> {
        let (mut egress, mut ingress) = (Egress::new(), Ingress::new());
        let sockets = if self.senders.is_empty() { std::slice::from_ref(&*self.socket) } else { &self.senders };
        let counters = &self.shared.workers[self.number];
        let way = Way { shared: &self.shared, counters, tun: &self.tun, sockets };
        let mut incoming = true;
        loop {
            let table = self.shared.table.load();
            if incoming {
                incoming = ingress.turn(&way, &table, &self.socket)?;
            }
            // After what came in: the answers to it are there by now.
            let outgoing = egress.turn(&way, &table)?;
            if !incoming {
                drop(table);
                match self.wait(!outgoing)? {
                    Some(arrived) => incoming = arrived,
                    None => return Ok(()),
                }
            }
        }
    }

    /// Waits for packets, or only looks whether there are any. Says whether some came in; `None` means stop.
    fn wait(&self, idle: bool) -> io::Result<Option<bool>> {
        let asked = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut wait = [asked(self.socket.as_fd()), asked(self.tun.as_fd()), asked(self.stop.as_fd())];
        let timeout = if idle { PollTimeout::NONE } else { PollTimeout::ZERO };
        match poll(&mut wait, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready = |at: usize| wait[at].any().unwrap_or(false);
        // The device was deleted.
        if wait[1].revents().is_some_and(|events| events.contains(PollFlags::POLLERR)) {
            return Err(Errno::EBADFD.into());
        }
        Ok((!ready(2)).then(|| ready(0)))
    }
}

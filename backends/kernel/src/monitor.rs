//! Receives the kernel's notifications, to know when to read again. The content of a notification is never stored: it is only compared
//! with the cached state, so the notifications of our own writes cause nothing.

pub(crate) mod view;

use std::{cell::RefCell, collections::BTreeSet, future::poll_fn, io, task::Poll, time::Duration};

use netlink_sys::{AsyncSocket, TokioSocket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use wire_netlink::{LONGEST_DATAGRAM, Netlink, attribute::messages, force_buffer};
use wire_state::{DataplaneError, ObservedNet, Scope};

use self::view::View;
use super::settings;

/// `RTNLGRP_LINK`, `_NEIGH`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`, `_IPV4_NETCONF`, `_IPV6_NETCONF` of
/// linux/rtnetlink.h.
const GROUPS: [u32; 8] = [1, 3, 5, 7, 9, 11, 24, 25];
/// `RTNLGRP_NEXTHOP`, since Linux 5.3.
const NEXTHOP_GROUP: u32 = 32;

/// How often the settings are read of whose changes the kernel sends no notification.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// A netlink socket that receives the notifications of a network namespace. It stores none of them, so its memory is bounded.
pub struct Monitor {
    socket: TokioSocket,
    scope: Scope,
    buffer: Vec<u8>,
    checks: Interval,
    /// Asks what a link is now.
    asked: RefCell<Netlink>,
    /// The indexes of our devices when all notifications were received last; `None` before that.
    known: Option<BTreeSet<u32>>,
}

/// The changes that the kernel has notified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// An entry of ours, or a foreign one that may conflict, differs from the cached state: the state must be read again.
    pub ours: bool,
    /// The underlay's link, an address of a foreign link, or a default route changed: the underlay must be chosen again.
    pub underlay: bool,
    /// Notifications were lost (`ENOBUFS`): anything may have changed. The other two are set as well.
    pub overrun: bool,
}

impl Changes {
    /// Whether anything has changed.
    #[must_use]
    pub const fn any(self) -> bool {
        self.ours || self.underlay
    }

    pub(crate) const OVERRUN: Self = Self { ours: true, underlay: true, overrun: true };
}

impl Monitor {
    /// Opens the socket in the network namespace of the calling thread. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn open(scope: Scope) -> Result<Self, DataplaneError> {
        let socket = open_socket().map_err(DataplaneError::Monitor)?;
        let mut checks = interval_at(Instant::now() + CHECK_INTERVAL, CHECK_INTERVAL);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let asked = RefCell::new(Netlink::open()?);
        Ok(Self { socket, scope, buffer: Vec::with_capacity(LONGEST_DATAGRAM), checks, asked, known: None })
    }

    /// Reports changes in another scope from now on. What was added to it may have changed before that, and must be read.
    pub fn set_scope(&mut self, scope: Scope) {
        self.scope = scope;
    }

    /// Waits until something differs from `cached`, the cached state.
    ///
    /// # Errors
    /// When the socket failed; a new one is needed.
    ///
    /// # Cancel safety
    /// Safe: a poll that finds a change returns it at once, and notifications that were not received stay in the socket.
    pub async fn changed(&mut self, cached: &ObservedNet) -> Result<Changes, DataplaneError> {
        let mut view = View::new(&self.scope, cached, &self.asked, self.known.as_ref());
        poll_fn(|context| {
            let mut changes = Changes::default();
            while self.checks.poll_tick(context).is_ready() {
                changes.ours |= settings::have_changed_silently(&cached.settings);
            }
            loop {
                // What came while this thread was busy is there, though tokio may not know of it yet.
                receive(&self.socket, &mut self.buffer, &view, &mut changes)?;
                self.buffer.clear();
                match self.socket.poll_recv(context, &mut self.buffer) {
                    Poll::Ready(received) => compare(&view, received, &self.buffer, &mut changes)?,
                    Poll::Pending => break,
                }
            }
            view.note_all_received(&mut self.known);
            if changes.any() { Poll::Ready(Ok(changes)) } else { Poll::Pending }
        })
        .await
    }

    /// Receives all notifications that have arrived, without waiting.
    ///
    /// # Errors
    /// When the socket failed; a new one is needed.
    pub fn drain(&mut self, cached: &ObservedNet) -> Result<Changes, DataplaneError> {
        let mut view = View::new(&self.scope, cached, &self.asked, self.known.as_ref());
        let mut changes = Changes::default();
        receive(&self.socket, &mut self.buffer, &view, &mut changes)?;
        view.note_all_received(&mut self.known);
        Ok(changes)
    }
}

fn open_socket() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    socket.socket_mut().bind_auto()?;
    force_buffer(socket.socket_ref());
    for group in GROUPS {
        socket.socket_mut().add_membership(group)?;
    }
    let _ = socket.socket_mut().add_membership(NEXTHOP_GROUP);
    Ok(socket)
}

/// Receives and compares all notifications that have arrived, without waiting.
fn receive(
    socket: &TokioSocket,
    buffer: &mut Vec<u8>,
    view: &View<'_>,
    changes: &mut Changes,
) -> Result<(), DataplaneError> {
    loop {
        buffer.clear();
        match socket.socket_ref().recv(buffer, 0) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            received => compare(view, received.map(drop), buffer, changes)?,
        }
    }
}

/// Compares the notifications of one datagram, or records that some were lost.
fn compare(
    view: &View<'_>,
    received: io::Result<()>,
    datagram: &[u8],
    changes: &mut Changes,
) -> Result<(), DataplaneError> {
    match received {
        Ok(()) => messages(datagram).for_each(|(header, body)| view.compare(header, body, changes)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => *changes = Changes::OVERRUN,
        Err(error) => return Err(DataplaneError::Monitor(error)),
    }
    Ok(())
}

//! A listener to the kernel's own notifications in a host: what was changed, and when.

use std::{
    collections::BTreeMap,
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket,
            sockopt,
        },
        time::TimeVal,
    },
};

use crate::{LabError, Namespace, Result};

/// One notification, by the numbers of linux/rtnetlink.h.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When it was read.
    pub at: Instant,
    /// RTM_NEWROUTE (24), RTM_DELROUTE (25), RTM_NEWNEIGH (28), …
    pub kind: u16,
    /// The device it concerns; 0 where the message names none in its header (addresses and neighbours do).
    pub device: u32,
    /// The whole message after its header.
    pub body: Vec<u8>,
}

impl Change {
    /// RTM_NEWLINK.
    pub const NEW_LINK: u16 = 16;
    /// RTM_NEWADDR.
    const NEW_ADDRESS: u16 = 20;
    /// RTM_NEWROUTE.
    pub const NEW_ROUTE: u16 = 24;
    /// RTM_DELROUTE.
    pub const DELETE_ROUTE: u16 = 25;
    /// RTM_NEWNEIGH, for FDB entries too.
    pub const NEW_NEIGHBOUR: u16 = 28;
    /// RTM_DELNEIGH.
    pub const DELETE_NEIGHBOUR: u16 = 29;
    /// NFT_MSG_NEWSETELEM of linux/netfilter/nf_tables.h, in the subsystem NFNL_SUBSYS_NFTABLES.
    pub const NEW_SET_ELEMENT: u16 = 10 << 8 | 12;
    /// NFT_MSG_DELSETELEM, as above.
    pub const DELETE_SET_ELEMENT: u16 = 10 << 8 | 14;
    /// RTPROT_KERNEL: a route that the kernel made for an address.
    const KERNEL_ROUTE: u8 = 2;
    /// RTN_MULTICAST: a neighbour that the kernel makes for a group and forgets when it likes.
    const MULTICAST: u8 = 5;

    fn is_write_to(&self, device: u32) -> bool {
        match self.kind {
            // rtm_protocol, in both messages' headers.
            Self::NEW_ROUTE | Self::DELETE_ROUTE => self.body.get(5) != Some(&Self::KERNEL_ROUTE),
            Self::NEW_ADDRESS if self.is_link_local() => false,
            // ndm_type.
            Self::NEW_NEIGHBOUR | Self::DELETE_NEIGHBOUR if self.body.get(11) == Some(&Self::MULTICAST) => false,
            kind if names_a_device(kind) => self.device == device,
            _ => true,
        }
    }

    /// For an address: whether it is one of fe80::/64. The header has 8 bytes, the first attribute's header 4.
    fn is_link_local(&self) -> bool {
        self.body.get(12..20) == Some(&[0xfe, 0x80, 0, 0, 0, 0, 0, 0])
    }
}

/// Whether a message has its device at offset 4: ifinfomsg, ifaddrmsg and ndmsg do; rtmsg and nhmsg have other things there.
fn names_a_device(kind: u16) -> bool {
    matches!(kind, 16..=23 | 28..=31)
}

/// A listener to one of the kernel's netlink protocols.
#[derive(Debug)]
pub struct Monitor {
    heard: Arc<Mutex<Heard>>,
    overrun: Arc<AtomicBool>,
    closed: Arc<AtomicBool>,
}

/// What was heard, and how much of each kind: among tens of thousands of changes nobody should have to count.
#[derive(Debug, Default)]
struct Heard {
    changes: Vec<Change>,
    counts: BTreeMap<u16, (usize, Instant)>,
}

impl Heard {
    fn add(&mut self, changes: Vec<Change>) {
        for change in &changes {
            let (count, last) = self.counts.entry(change.kind).or_insert((0, change.at));
            (*count, *last) = (*count + 1, change.at);
        }
        self.changes.extend(changes);
    }
}

impl Monitor {
    /// The most bytes that wait to be read: what 64 000 peers at once are notified with.
    const BUFFER: usize = 256 << 20;

    /// Begins to listen to links, addresses, routes, neighbours, FDB entries and nexthop objects of both families.
    ///
    /// # Errors
    /// Where the socket cannot be made.
    pub fn listen(namespace: &Namespace) -> Result<Self> {
        // RTMGRP_LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE and RTNLGRP_NEXTHOP (group 32).
        Self::of_groups(namespace, SockProtocol::NetlinkRoute, &[1, 3, 5, 7, 9, 11, 32])
    }

    /// Begins to listen to nftables.
    ///
    /// # Errors
    /// Where the socket cannot be made.
    pub fn listen_to_nftables(namespace: &Namespace) -> Result<Self> {
        // NFNLGRP_NFTABLES of linux/netfilter/nfnetlink.h.
        Self::of_groups(namespace, SockProtocol::NetlinkNetFilter, &[7])
    }

    fn of_groups(namespace: &Namespace, protocol: SockProtocol, groups: &[u32]) -> Result<Self> {
        let groups = groups.iter().fold(0, |mask, group| mask | 1u32 << (group - 1));
        let open = || -> nix::Result<_> {
            let (family, kind) = (AddressFamily::Netlink, SockType::Raw);
            let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol)?;
            setsockopt(&socket, sockopt::RcvBufForce, &Self::BUFFER)?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(0, 200_000))?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
            Ok(socket)
        };
        let socket = namespace.inside(open)?.map_err(LabError::errno("cannot listen to the kernel"))?;
        let monitor = Self { heard: Arc::default(), overrun: Arc::default(), closed: Arc::default() };
        let (heard, overrun, closed) =
            (Arc::clone(&monitor.heard), Arc::clone(&monitor.overrun), Arc::clone(&monitor.closed));
        thread::spawn(move || {
            let mut buffer = vec![0; 1 << 17];
            while !closed.load(Ordering::Relaxed) {
                match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                    Ok(length) => {
                        let changes = changes_in(&buffer[..length], Instant::now());
                        heard.lock().unwrap_or_else(PoisonError::into_inner).add(changes);
                    }
                    Err(Errno::ENOBUFS) => overrun.store(true, Ordering::Relaxed),
                    // The timeout: time to look whether to stop.
                    Err(_) => {}
                }
            }
        });
        Ok(monitor)
    }

    /// All heard so far.
    ///
    /// # Errors
    /// Where some were lost.
    pub fn changes(&self) -> Result<Vec<Change>> {
        Ok(self.heard()?.changes.clone())
    }

    /// Those heard so far whose message holds one of these byte strings, an address for instance.
    ///
    /// # Errors
    /// Where some were lost.
    pub fn naming(&self, needles: &[Vec<u8>]) -> Result<Vec<Change>> {
        let names = |change: &&Change| needles.iter().any(|needle| holds(&change.body, needle));
        Ok(self.heard()?.changes.iter().filter(names).cloned().collect())
    }

    /// When the last change was heard.
    ///
    /// # Errors
    /// Where some were lost.
    pub fn last(&self) -> Result<Option<Instant>> {
        Ok(self.heard()?.changes.last().map(|change| change.at))
    }

    fn heard(&self) -> Result<MutexGuard<'_, Heard>> {
        if self.overrun.load(Ordering::Relaxed) {
            return Err(LabError::Wrong("the kernel sent more than the monitor could hold".to_owned()));
        }
        Ok(self.heard.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many of some kind were heard, and when the last of them.
    #[must_use]
    pub fn count(&self, kind: u16) -> (usize, Option<Instant>) {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.counts.get(&kind).map_or((0, None), |(count, last)| (*count, Some(*last)))
    }

    /// Forgets all heard so far.
    pub fn forget(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Heard::default();
    }

    /// The writes to a device and to routes, heard so far. What the kernel does by itself is left out: what befalls other
    /// devices (neighbours that it resolves), multicast neighbours, link-local addresses, which it finds to be unique seconds after it made
    /// them (RFC 4862, 5.4), and its own routes.
    ///
    /// # Errors
    /// Where some were lost.
    pub fn writes(&self, device: u32) -> Result<Vec<Change>> {
        Ok(self.changes()?.into_iter().filter(|change| change.is_write_to(device)).collect())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}

/// Waits until a monitor has been silent for `quiet`.
///
/// # Errors
/// Where it is not within `limit`.
pub fn wait_quiet(monitor: &Monitor, quiet: Duration, limit: Duration) -> Result {
    crate::eventually(limit, || {
        let last = monitor.last()?.map(|last| last.elapsed());
        crate::check(last.is_none_or(|ago| ago > quiet), || format!("the kernel changed {last:?} ago"))
    })
    .map(drop)
}

fn holds(body: &[u8], needle: &[u8]) -> bool {
    body.windows(needle.len()).any(|window| window == needle)
}

/// Splits a datagram by the lengths in its headers (linux/netlink.h: u32 length, u16 kind, …, 16 bytes in all).
fn changes_in(mut datagram: &[u8], at: Instant) -> Vec<Change> {
    let mut changes = Vec::new();
    while let Some((header, rest)) = datagram.split_at_checked(16) {
        let number = |from: &[u8], offset: usize| {
            let bytes = from.get(offset..offset + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, u32::from_ne_bytes)
        };
        let length = number(header, 0) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = rest.get(..length.saturating_sub(16)).unwrap_or(rest).to_vec();
        let device = if names_a_device(kind) { number(&body, 4) } else { 0 };
        changes.push(Change { at, kind, device, body });
        // Messages are aligned to four bytes.
        let next = length.max(16).next_multiple_of(4);
        datagram = datagram.get(next..).unwrap_or_default();
    }
    changes
}

//! A hundred numbered pings a second (RFC 792, RFC 4443 §4), and which of them were answered. Not by ping(8): what a burst
//! brings after a pause, about 170 answers, is more than its socket keeps, and it would call the rest lost.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
    process,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recv, sendto, setsockopt,
        socket, sockopt::RcvBufForce,
    },
};

use crate::{LabError, Result, check, command::inside, eventually, ip::sum};

const INTERVAL: Duration = Duration::from_millis(10);
/// How long answers are waited for when no more pings are sent.
const LINGER: Duration = Duration::from_secs(1);
/// The bytes behind the ICMP header, as with ping(8).
const PAYLOAD: usize = 56;
/// An ICMP header.
const HEADER: usize = 8;
/// What the kernel may keep for us, in bytes.
const BUFFER: usize = 16 << 20;

/// Running pings. Dropped without [`Pings::stop`], they just end.
#[derive(Debug)]
pub struct Pings {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<Result>>,
}

/// What became of the pings, which are numbered from 1 on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many were sent.
    pub sent: u32,
    /// The numbers of those that were answered.
    pub answered: BTreeSet<u32>,
}

impl Seen {
    /// The numbers of those that were not answered.
    #[must_use]
    pub fn lost(&self) -> Vec<u32> {
        (1..=self.sent).filter(|number| !self.answered.contains(number)).collect()
    }
}

impl Pings {
    /// Starts them in a network namespace, from its address `source` or from whatever the kernel chooses.
    ///
    /// # Errors
    /// Where the namespace has no such address.
    pub fn start(namespace: &Path, source: Option<IpAddr>, target: IpAddr) -> Result<Self> {
        static COUNT: AtomicU16 = AtomicU16::new(0);
        let mark = (process::id() as u16).wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
        let opened = inside(namespace, || open(source, target))?;
        let socket = opened.map_err(LabError::errno(format!("cannot ping {target} from {source:?}")))?;
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Seen>>::default());
        let run = Run { socket, target, mark, seen: Arc::clone(&seen), stop: Arc::clone(&stop) };
        let thread = thread::spawn(move || run.run().map_err(LabError::errno(format!("pings to {target}"))));
        Ok(Self { stop, seen, thread: Some(thread) })
    }

    /// Waits for the first answer, so that what is lost later is lost by what the caller does.
    ///
    /// # Errors
    /// Where there is none in five seconds.
    pub fn wait_answered(&self) -> Result {
        eventually(Duration::from_secs(5), || {
            check(!self.seen().answered.is_empty(), || format!("none of {} pings is answered", self.seen().sent))
        })
        .map(drop)
    }

    /// Ends them, and waits a second for answers that are still on their way.
    ///
    /// # Errors
    /// Where the socket has failed.
    pub fn stop(mut self) -> Result<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        ended.and_then(std::result::Result::ok).unwrap_or_else(|| Err(LabError::Wrong("pings panicked".to_owned())))?;
        Ok(self.seen())
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Pings {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn open(source: Option<IpAddr>, target: IpAddr) -> nix::Result<OwnedFd> {
    let (family, protocol) = match target {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6),
    };
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, protocol)?;
    setsockopt(&socket, RcvBufForce, &BUFFER)?;
    if let Some(source) = source {
        bind(socket.as_raw_fd(), &without_port(source))?;
    }
    Ok(socket)
}

fn without_port(address: IpAddr) -> SockaddrStorage {
    std::net::SocketAddr::new(address, 0).into()
}

/// What the thread works with.
struct Run {
    socket: OwnedFd,
    target: IpAddr,
    /// Tells our pings from others'.
    mark: u16,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
}

impl Run {
    fn run(&self) -> nix::Result<()> {
        let start = Instant::now();
        let mut sent = 0;
        while !self.stop.load(Ordering::Relaxed) {
            // What the scheduler has kept from its turn is sent late instead of not at all.
            while start + INTERVAL * sent <= Instant::now() {
                sent += 1;
                self.send(sent);
            }
            self.receive_until(start + INTERVAL * sent)?;
        }
        let end = Instant::now() + LINGER;
        while Instant::now() < end && !self.seen(|seen| seen.lost().is_empty()) {
            self.receive_until(Instant::now() + INTERVAL)?;
        }
        Ok(())
    }

    fn seen<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One that the kernel refuses to send, for lack of a route for instance, is lost like any other.
    fn send(&self, number: u32) {
        self.seen(|seen| seen.sent = number);
        let message = request(self.target.is_ipv4(), self.mark, number);
        let _ = sendto(self.socket.as_raw_fd(), &message, &without_port(self.target), MsgFlags::empty());
    }

    fn receive_until(&self, until: Instant) -> nix::Result<()> {
        let mut buffer = [0; 2048];
        loop {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(len) => {
                    if let Some(number) = answered(self.target.is_ipv4(), self.mark, &buffer[..len]) {
                        self.seen(|seen| seen.answered.insert(number));
                    }
                }
                Err(Errno::EAGAIN) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Ok(());
                    }
                    // A whole millisecond at least: less would be none.
                    let wait = u8::try_from(left.as_millis() + 1).unwrap_or(u8::MAX);
                    let mut wanted = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
                    match poll(&mut wanted, PollTimeout::from(wait)) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(error) => return Err(error),
                    }
                }
                // What routers and the kernel answer to one ping concerns no other.
                Err(Errno::EINTR | Errno::EHOSTUNREACH | Errno::ENETUNREACH) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// An echo request. Of ICMPv6 the kernel fills in the checksum, RFC 3542 §3.1.
fn request(is_v4: bool, mark: u16, number: u32) -> Vec<u8> {
    let mut message = vec![if is_v4 { 8 } else { 128 }, 0, 0, 0];
    message.extend(mark.to_be_bytes());
    message.extend((number as u16).to_be_bytes());
    message.extend(number.to_be_bytes());
    message.resize(HEADER + PAYLOAD, 0);
    if is_v4 {
        let checksum = !sum(0, &message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
    }
    message
}

/// The number of the ping that a message answers, where it is one of ours. IPv4's comes with its IP header, raw(7).
fn answered(is_v4: bool, mark: u16, bytes: &[u8]) -> Option<u32> {
    let header = if is_v4 { usize::from(bytes.first()? & 15) * 4 } else { 0 };
    let message = bytes.get(header..)?.first_chunk::<{ HEADER + 4 }>()?;
    let [kind, _, _, _, high, low, _, _, number @ ..] = *message;
    let reply = if is_v4 { 0 } else { 129 };
    (kind == reply && u16::from_be_bytes([high, low]) == mark).then_some(u32::from_be_bytes(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_answer_to_our_own_ping_counts() {
        for is_v4 in [true, false] {
            let header = if is_v4 { vec![0x45; 20] } else { Vec::new() };
            let reply = |mut message: Vec<u8>| {
                message[0] = if is_v4 { 0 } else { 129 };
                [header.clone(), message].concat()
            };
            let asked = request(is_v4, 7, 70_000);
            assert_eq!(asked.len(), 64);
            assert_eq!(answered(is_v4, 7, &reply(asked.clone())), Some(70_000));
            assert_eq!(answered(is_v4, 8, &reply(asked.clone())), None);
            assert_eq!(answered(is_v4, 7, &[header.clone(), asked.clone()].concat()), None);
            assert_eq!(answered(is_v4, 7, &reply(asked)[..header.len() + 11]), None);
        }
    }

    #[test]
    fn what_was_not_answered_is_lost() {
        assert_eq!(Seen { sent: 4, answered: BTreeSet::from([1, 3]) }.lost(), [2, 4]);
    }
}

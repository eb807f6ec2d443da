//! What passes a device, seen through a packet socket (packet(7)).

use std::{
    io::IoSliceMut,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    cmsg_space,
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg,
            setsockopt, socket,
            sockopt::{RcvBufForce, ReceiveTimeout, RxqOvfl},
        },
        time::TimeVal,
    },
};

use crate::{Datagram, LabError, Namespace, Result};

/// `PACKET_OUTGOING` of `linux/if_packet.h`.
const OUTGOING: u8 = 4;
/// The largest frame: 64 KiB that the kernel has not cut yet, and a link's header.
const LARGEST: usize = 65_536 + 64;
/// What the kernel may keep for us, in bytes.
const BUFFER: usize = 64 << 20;
/// How long one wait for a frame takes, so that the end is noticed.
const GLANCE: Duration = Duration::from_millis(50);

/// A running capture. Dropped without [`Capture::stop`], it just ends.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Vec<Frame>>>>,
}

/// One frame. It may be longer than the device's MTU: what the kernel, or a program by UDP_SEGMENT, leaves to the device to cut
/// is seen uncut. [`crate::Host::cut_frames`] makes a host cut its own before they leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Whether the namespace sends it through the device, and does not receive it.
    pub outgoing: bool,
    /// All of it, with the link's header where the device has one. Of a checksum that is left to the device, only the sum of
    /// the pseudo header is there.
    pub bytes: Vec<u8>,
}

impl Capture {
    /// Starts to look at a device of a namespace. What passes from now on is seen.
    ///
    /// # Errors
    /// Where there is no such device, or no packet socket.
    pub fn start(namespace: &Namespace, device: &str) -> Result<Self> {
        let link = crate::Kernel::new(namespace).link(device)?;
        let index = link.ok_or_else(|| LabError::Wrong(format!("{} has no {device}", namespace.name())))?.index;
        let what = || LabError::errno(format!("cannot look at {device} of {}", namespace.name()));
        let socket = namespace.inside(open)?.map_err(what())?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || receive(&socket, index as usize, &stop)
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Stops it and gives the frames in their order.
    ///
    /// # Errors
    /// Where the kernel had to throw some away.
    pub fn stop(mut self) -> Result<Vec<Frame>> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        ended.and_then(std::result::Result::ok).unwrap_or_else(|| Err(LabError::Wrong("a capture panicked".to_owned())))
    }

    /// Stops it and gives the UDP datagrams from or to a port, each with whether it was outgoing.
    ///
    /// # Errors
    /// As [`Capture::stop`].
    pub fn stop_at_port(self, port: u16) -> Result<Vec<(bool, Datagram)>> {
        let datagrams = self.stop()?.into_iter().filter_map(|frame| Some((frame.outgoing, frame.datagram()?)));
        let ours = |datagram: &Datagram| datagram.source.port() == port || datagram.destination.port() == port;
        Ok(datagrams.filter(|(_, datagram)| ours(datagram)).collect())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Frame {
    /// The UDP datagram of an Ethernet frame, where it is a whole one.
    #[must_use]
    pub fn datagram(&self) -> Option<Datagram> {
        Datagram::from_frame(&self.bytes)
    }
}

/// A socket that sees all devices of the namespace: to bind it to one would take unsafe code, the index tells them apart as well.
fn open() -> nix::Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    setsockopt(&socket, RcvBufForce, &BUFFER)?;
    setsockopt(&socket, RxqOvfl, &1)?;
    let micros = i64::try_from(GLANCE.as_micros()).unwrap_or(i64::MAX);
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(0, micros))?;
    Ok(socket)
}

fn receive(socket: &OwnedFd, index: usize, stop: &AtomicBool) -> Result<Vec<Frame>> {
    let mut frames = Vec::new();
    let mut buffer = vec![0; LARGEST];
    loop {
        // Read before the wait: what was there when the caller stopped is received still.
        let stopping = stop.load(Ordering::Relaxed);
        match receive_one(socket, &mut buffer) {
            Ok((len, Some(from))) if from.ifindex() == index => {
                frames.push(Frame { outgoing: from.pkttype() == OUTGOING, bytes: buffer[..len].to_vec() });
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if stopping => return Ok(frames),
            Err(Errno::EAGAIN) => {}
            Err(Errno::ENOBUFS) => return Err(LabError::Wrong("a capture has lost frames".to_owned())),
            Err(error) => return Err(LabError::errno("a capture has failed")(error)),
        }
    }
}

/// A frame's length and where it was seen; `ENOBUFS` where the kernel has thrown some away.
fn receive_one(socket: &OwnedFd, buffer: &mut [u8]) -> nix::Result<(usize, Option<LinkAddr>)> {
    let mut control = cmsg_space!(u32);
    let mut parts = [IoSliceMut::new(buffer)];
    let got = recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())?;
    let lost = got.cmsgs()?.any(|message| matches!(message, ControlMessageOwned::RxqOvfl(lost) if lost > 0));
    if lost { Err(Errno::ENOBUFS) } else { Ok((got.bytes, got.address)) }
}

//! As many small UDP packets as go in, and how many of them come out.
//!
//! The sender's and the receiver's sockets live in the hosts' namespaces, their threads in this process. Both use one system call for
//! many packets, so that most of the processors' time is the data path's.

use std::{
    io::{IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg, setsockopt, sockopt::RcvBufForce},
};
use wire_tests::{LabError, Result};

use crate::{
    busy::{Clock, Work},
    pair::Pair,
};

/// The UDP payload of each packet, in bytes.
pub(crate) const PAYLOAD: usize = 64;
/// How many packets go through one system call.
const BATCH: usize = 64;
/// Where they are received.
const PORT: u16 = 9064;
/// What the receiver's socket holds, in bytes: what was carried is to be counted, not lost behind the path.
const RECEIVE_BUFFER: usize = 8 << 20;
/// How long the flood flows before it is counted.
const WARM_UP: Duration = Duration::from_millis(300);

/// What was received.
pub(crate) struct Arrived {
    /// How many packets.
    pub(crate) packets: u64,
    /// What the machine did meanwhile.
    pub(crate) work: Work,
}

/// Floods the far host for a time. Flows differ by destination address, and take turns packet by packet.
///
/// # Errors
/// Where a socket fails, or nothing arrives.
pub(crate) fn run(pair: &Pair, flows: u8, length: Duration) -> Result<Arrived> {
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let target = |flow: u8| SockaddrIn::from(SocketAddrV4::new(pair.address(flow), PORT));
    let targets: Vec<_> = (0..flows).cycle().take(BATCH).map(|flow| Some(target(flow))).collect();
    let bind = |port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port));
    let socket = |error| LabError::Io { what: "cannot bind a UDP socket".to_owned(), source: error };
    let sender = pair.sender().inside(|| bind(0))?.map_err(socket)?;
    let receiver = pair.receiver().inside(|| bind(PORT))?.map_err(socket)?;
    let failed = |what: &str| {
        let what = format!("cannot {what} packets");
        move |error: Errno| LabError::Io { what, source: error.into() }
    };
    setsockopt(&receiver, RcvBufForce, &RECEIVE_BUFFER).map_err(failed("make room for"))?;
    receiver.set_read_timeout(Some(Duration::from_millis(50))).map_err(socket)?;
    let arrived = thread::scope(|scope| {
        let receiving = scope.spawn(|| receive(&receiver, &stop, &count));
        let sending = scope.spawn(|| send(&sender, &targets, &stop));
        thread::sleep(WARM_UP);
        let arrived = counted(&count, length);
        stop.store(true, Ordering::Relaxed);
        sending.join().expect("the sender does not panic").map_err(failed("send"))?;
        receiving.join().expect("the receiver does not panic").map_err(failed("receive"))?;
        arrived
    })?;
    if arrived.packets == 0 {
        return Err(LabError::Wrong("of all packets none has arrived".to_owned()));
    }
    Ok(arrived)
}

fn counted(count: &AtomicU64, length: Duration) -> Result<Arrived> {
    let (before, clock) = (count.load(Ordering::Relaxed), Clock::read()?);
    thread::sleep(length);
    Ok(Arrived { packets: count.load(Ordering::Relaxed) - before, work: clock.since()? })
}

fn send(socket: &UdpSocket, targets: &[Option<SockaddrIn>], stop: &AtomicBool) -> nix::Result<()> {
    let payload = [0; PAYLOAD];
    let packets = [[IoSlice::new(&payload)]; BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    while !stop.load(Ordering::Relaxed) {
        match sendmmsg(socket.as_raw_fd(), &mut headers, &packets, targets, [], MsgFlags::empty()) {
            // A full queue is what a flood is for.
            Ok(_) | Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, count: &AtomicU64) -> nix::Result<()> {
    let mut buffers = vec![[0; PAYLOAD]; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    while !stop.load(Ordering::Relaxed) {
        let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        // As many as there are, once there is one.
        match recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_WAITFORONE, None) {
            Ok(received) => {
                count.fetch_add(received.count().try_into().unwrap_or(0), Ordering::Relaxed);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

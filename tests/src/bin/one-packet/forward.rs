//! The loop: poll, then one packet each way for as long as there is any.

use std::{
    convert::Infallible,
    io::{self, ErrorKind},
    net::UdpSocket,
    os::fd::{AsFd, AsRawFd},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::{
    options::Options,
    packet::{destination, is_ip, lower_ttl},
};

/// More than any IP packet has.
const LARGEST: usize = 65_536;

/// Why it ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// There is no device.
    #[error("cannot make the TUN device")]
    Tun(#[source] io::Error),
    /// There is no socket.
    #[error("cannot bind the UDP socket")]
    Bind(#[source] io::Error),
    /// The device failed.
    #[error("cannot read the TUN device")]
    ReadTun(#[source] io::Error),
    /// Waiting failed.
    #[error("cannot wait for packets")]
    Poll(#[source] Errno),
}

/// Forwards until it is killed.
///
/// # Errors
/// Where there is no device or socket, or the device is gone.
pub(crate) fn run(options: &Options) -> Result<Infallible, Failure> {
    let device = DeviceBuilder::new().name(&options.tun).mtu(options.mtu).enable(true).build_sync();
    let tun = device.map_err(Failure::Tun)?;
    tun.set_nonblocking(true).map_err(Failure::Tun)?;
    // The socket blocks where it sends, and is asked not to where it receives.
    let socket = UdpSocket::bind(options.local).map_err(Failure::Bind)?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let mut both = [PollFd::new(tun.as_fd(), PollFlags::POLLIN), PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        match poll(&mut both, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(Failure::Poll(error)),
        }
        // A read that finds nothing costs less than a poll.
        while tun_to_udp(&tun, &socket, options, &mut buffer)? | udp_to_tun(&socket, &tun, &mut buffer) {}
    }
}

/// One packet out, if there is one; whether there was.
fn tun_to_udp(tun: &SyncDevice, socket: &UdpSocket, options: &Options, buffer: &mut [u8]) -> Result<bool, Failure> {
    let length = match tun.recv(buffer) {
        Ok(length) => length,
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
        Err(error) => return Err(Failure::ReadTun(error)),
    };
    let packet = &mut buffer[..length];
    if let Some(peer) = destination(packet).and_then(|address| options.peer(address))
        && lower_ttl(packet)
    {
        // What cannot be sent is lost, as on any network.
        let _ = socket.send_to(packet, peer);
    }
    Ok(true)
}

/// One packet in, if there is one; whether there was.
fn udp_to_tun(socket: &UdpSocket, tun: &SyncDevice, buffer: &mut [u8]) -> bool {
    let length = match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
        Ok(length) => length,
        Err(Errno::EAGAIN) => return false,
        // A peer that does not listen is told of by an error of the socket; the next packet is another matter.
        Err(_) => return true,
    };
    let packet = &buffer[..length];
    if is_ip(packet) {
        while tun.send(packet).is_err_and(|error| error.kind() == ErrorKind::WouldBlock) {}
    }
    true
}

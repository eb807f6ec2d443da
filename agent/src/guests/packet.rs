//! Packets on a unix socket that keeps their ends (`SOCK_SEQPACKET`), with descriptors beside them (unix(7), `SCM_RIGHTS`).
#![expect(unsafe_code, reason = "a descriptor that came by its number has to be believed in")]

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
    time::Duration,
};

use nix::{
    cmsg_space,
    sys::socket::{
        AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, accept4,
        bind, connect, listen, recvmsg, sendmsg, setsockopt, socket,
        sockopt::{ReceiveTimeout, SendTimeout},
    },
    sys::time::TimeVal,
};

use super::protocol::DESCRIPTORS;

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct Packets(pub(crate) OwnedFd);

impl Packets {
    /// # Errors
    /// When nobody listens there.
    pub(crate) fn connect(path: &Path) -> io::Result<Self> {
        Self::connect_within(path, None)
    }

    /// The same, where this and all later calls wait for at most `limit` (socket(7): `SO_RCVTIMEO`, `SO_SNDTIMEO`).
    ///
    /// # Errors
    /// When nobody listens there; [`io::ErrorKind::WouldBlock`] if the time is over.
    pub(crate) fn connect_within(path: &Path, limit: Option<Duration>) -> io::Result<Self> {
        let socket = new_socket()?;
        if let Some(limit) = limit {
            let limit = TimeVal::new(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), limit.subsec_micros().into());
            setsockopt(&socket, ReceiveTimeout, &limit)?;
            setsockopt(&socket, SendTimeout, &limit)?;
        }
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(Self(socket))
    }

    /// # Errors
    /// When the other end is gone.
    pub(crate) fn send(&self, packet: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if numbers.is_empty() { &rights[..0] } else { &rights };
        let (body, flags) = ([IoSlice::new(packet)], MsgFlags::MSG_NOSIGNAL);
        loop {
            match sendmsg::<UnixAddr>(self.0.as_raw_fd(), &body, rights, flags, None) {
                Ok(sent) if sent == packet.len() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next packet; `None` at the end. One that is longer than `longest` comes as `longest` + 1 bytes. Descriptors that came with it are
    /// closed by the kernel.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn receive(&self, longest: usize) -> io::Result<Option<Vec<u8>>> {
        Ok(self.receive_into(longest, None)?.map(|(packet, _)| packet))
    }

    /// The same with its descriptors, at most [`DESCRIPTORS`].
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn receive_with_descriptors(&self, longest: usize) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        self.receive_into(longest, Some(cmsg_space!([RawFd; DESCRIPTORS])))
    }

    fn receive_into(
        &self,
        longest: usize,
        mut control: Option<Vec<u8>>,
    ) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
        let mut packet = vec![0; longest + 1];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let mut descriptors = Vec::new();
        let len = loop {
            let mut body = [IoSliceMut::new(&mut packet)];
            match recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut body, control.as_deref_mut(), flags) {
                Ok(message) => {
                    for rights in control_messages(&message) {
                        // SAFETY: the kernel has just opened it for us, and only here it is taken.
                        descriptors.extend(rights.into_iter().map(|number| unsafe { OwnedFd::from_raw_fd(number) }));
                    }
                    break message.bytes;
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        packet.truncate(len);
        // No packet of ours is empty, so that is the end.
        Ok((len > 0).then_some((packet, descriptors)))
    }
}

/// The descriptors that came with a packet. Those that had no room the kernel has closed.
fn control_messages(message: &nix::sys::socket::RecvMsg<'_, '_, UnixAddr>) -> Vec<Vec<RawFd>> {
    let messages = message.cmsgs().into_iter().flatten();
    let rights =
        messages.filter_map(|one| if let ControlMessageOwned::ScmRights(them) = one { Some(them) } else { None });
    rights.collect()
}

/// A socket at `path`, to which connections can be made.
///
/// # Errors
/// When there is something at the path, or it cannot be made.
pub(crate) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let socket = new_socket()?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(16)?)?;
    Ok(socket)
}

/// The next connection.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<Packets> {
    let number = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC)?;
    // SAFETY: the kernel has just opened it for us, and only here it is taken.
    Ok(Packets(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// The sockets that systemd has opened for this process, sd_listen_fds(3).
///
/// # Errors
/// When a descriptor that it names is none.
pub(crate) fn from_systemd() -> io::Result<Vec<OwnedFd>> {
    let numbers = sd_notify::listen_fds()?;
    // SAFETY: systemd opened these for this process (LISTEN_PID is checked), which runs as the helper and takes them only here.
    Ok(numbers.map(|number| unsafe { OwnedFd::from_raw_fd(number) }).collect())
}

fn new_socket() -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?)
}

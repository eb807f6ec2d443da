//! A UDP socket that sends and receives many datagrams in one call ([`batch`]). The calls with control messages are there, one
//! option without a safe form is here, and nothing else that is unsafe.
#![expect(unsafe_code, reason = "sendmmsg and recvmmsg with a control message for each message have no safe form")]

mod batch;
mod message;

use std::{
    io,
    mem::size_of,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

use nix::{
    libc,
    sys::socket::{
        AddressFamily, SetSockOpt, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, bind, getsockname,
        setsockopt, socket, sockopt,
    },
};

pub(crate) use self::{
    batch::{Inbox, Outbox, Received},
    message::{Message, Piece},
};
use super::ecn::Ecn;

/// Size of the receive buffer: 8 MiB, about 15 ms at 4 Gb/s.
const INCOMING: usize = 8 << 20;
/// Size of the send buffer: 1 MiB, 8 ms at 1 Gb/s.
const OUTGOING: usize = 1 << 20;

/// The use of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Receives, and may send. Others of ours may have the same address, and the kernel distributes what comes in among
    /// them: those of other workers, or for a moment those of an earlier run.
    Listener,
    /// Sends only. Nobody reads from it, so its receive buffer is as small as possible.
    Sender,
}

/// A UDP socket of one family.
#[derive(Debug)]
pub(crate) struct Udp {
    socket: OwnedFd,
    family: libc::sa_family_t,
}

impl Udp {
    /// Opens a socket on an address of this host.
    ///
    /// # Errors
    /// When the address is not ours or its port is taken.
    pub(crate) fn open(local: SocketAddr, role: Role) -> io::Result<Self> {
        let family = if local.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        match role {
            Role::Listener => {
                // Without CAP_NET_ADMIN, the host's limit holds.
                if set(&socket, sockopt::RcvBufForce, &INCOMING).is_err() {
                    set(&socket, sockopt::RcvBuf, &INCOMING)?;
                }
                set(&socket, sockopt::ReusePort, &true)?;
            }
            // The kernel raises this to its minimum.
            Role::Sender => set(&socket, sockopt::RcvBuf, &0)?,
        }
        if set(&socket, sockopt::SndBufForce, &OUTGOING).is_err() {
            set(&socket, sockopt::SndBuf, &OUTGOING)?;
        }
        match local {
            SocketAddr::V4(local) => bind(socket.as_raw_fd(), &SockaddrIn::from(local)),
            SocketAddr::V6(local) => {
                set(&socket, sockopt::Ipv6V6Only, &true)?;
                bind(socket.as_raw_fd(), &SockaddrIn6::from(local))
            }
        }?;
        let socket = Self::adopt(socket, local);
        socket.allow_fragments()?;
        Ok(socket)
    }

    /// Takes over a socket that was opened before, on this address.
    pub(crate) fn adopt(socket: OwnedFd, local: SocketAddr) -> Self {
        let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        Self { socket, family: family as libc::sa_family_t }
    }

    /// The address it is bound to.
    pub(crate) fn local(&self) -> io::Result<SocketAddr> {
        let address: SockaddrStorage = getsockname(self.socket.as_raw_fd())?;
        let v4 = address.as_sockaddr_in().map(|address| SocketAddr::V4((*address).into()));
        let v6 = address.as_sockaddr_in6().map(|address| SocketAddr::V6((*address).into()));
        v4.or(v6).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Turns on or off that the kernel joins datagrams that come in (`UDP_GRO`, since Linux 5.0). Returns true if it is
    /// on.
    pub(crate) fn set_gro(&self, on: bool) -> bool {
        set(&self.socket, sockopt::UdpGroSegment, &on).is_ok() && on
    }

    /// Asks the kernel for the ECN codepoint of each datagram that comes in; also on a socket that an earlier run has
    /// opened.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn receive_ecn(&self) -> io::Result<()> {
        match i32::from(self.family) {
            libc::AF_INET => set(&self.socket, sockopt::IpRecvTos, &true),
            _ => set(&self.socket, sockopt::Ipv6RecvTClass, &true),
        }
    }

    /// Lets routers fragment datagrams that are longer than a link's MTU, as kernel VXLAN does without `df`.
    fn allow_fragments(&self) -> io::Result<()> {
        let (level, option) = match i32::from(self.family) {
            libc::AF_INET => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
            _ => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER),
        };
        // IP_PMTUDISC_DONT and IPV6_PMTUDISC_DONT have the same value.
        let value: libc::c_int = libc::IP_PMTUDISC_DONT;
        let len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the kernel reads an int, which outlives the call.
        let done = unsafe { libc::setsockopt(self.socket.as_raw_fd(), level, option, (&raw const value).cast(), len) };
        if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for Udp {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn set<T: SetSockOpt>(socket: &OwnedFd, option: T, value: &T::Val) -> io::Result<()>
where
    T::Val: Sized,
{
    setsockopt(socket, option, value).map_err(io::Error::from)
}

#[cfg(test)]
mod tests;

//! Sockets that another process opened, in a network namespace that this one cannot enter, and passed to this one (unix(7), `SCM_RIGHTS`).
#![expect(unsafe_code, reason = "netlink-sys takes a descriptor only by its number; nix does not know SO_NETNS_COOKIE")]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
};

use netlink_sys::Socket;
use nix::{
    errno::Errno,
    libc,
    sys::socket::{AddressFamily, getsockname},
};

/// The socket, if it is one of netlink. Others would take our messages for their own.
pub(crate) fn socket(descriptor: OwnedFd) -> io::Result<Socket> {
    let name = getsockname::<nix::sys::socket::SockaddrStorage>(descriptor.as_raw_fd())?;
    if nix::sys::socket::SockaddrLike::family(&name) != Some(AddressFamily::Netlink) {
        return Err(io::Error::other("it is no netlink socket"));
    }
    // SAFETY: the descriptor is open and ours alone, and given up here.
    Ok(unsafe { Socket::from_raw_fd(descriptor.into_raw_fd()) })
}

/// The number of the network namespace of a socket (`SO_NETNS_COOKIE`, Linux 5.14), which the kernel never uses again.
///
/// # Errors
/// When the kernel does not know such numbers.
pub fn cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    let descriptor = socket.as_fd().as_raw_fd();
    // SAFETY: `cookie` has room for `len` bytes, and both outlive the call.
    let answer = unsafe {
        libc::getsockopt(descriptor, libc::SOL_SOCKET, libc::SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len)
    };
    Errno::result(answer)?;
    Ok(cookie)
}

#[cfg(test)]
mod tests {
    use std::{fs::File, net::UdpSocket};

    use super::*;
    use crate::{Netlink, lab};

    #[test]
    fn only_a_netlink_socket_is_taken() {
        assert!(Netlink::of_passed(UdpSocket::bind("127.0.0.1:0").unwrap().into()).is_err());
        assert!(Netlink::of_passed(File::open("/dev/null").unwrap().into()).is_err());
    }

    #[test]
    fn each_namespace_has_a_number_of_its_own() {
        let here = || cookie(Socket::new(netlink_sys::protocols::NETLINK_ROUTE).unwrap()).unwrap();
        let own = here();
        assert_eq!(own, here());
        lab::in_namespace(move || assert_ne!(here(), own));
    }
}

//! Notifications of changes to nftables.

use std::{future::poll_fn, io, task::Poll};

use netlink_sys::{AsyncSocket, TokioSocket, protocols::NETLINK_NETFILTER};
use nix::errno::Errno;
use wire_netlink::{LONGEST_DATAGRAM, force_buffer};
use wire_state::DataplaneError;

/// `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h.
const GROUP: u32 = 7;

/// Receives a notification of each nftables transaction, also of iptables-nft's. Their content is not kept.
pub struct FirewallMonitor {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl FirewallMonitor {
    /// Opens the socket, in the network namespace of the calling thread. Needs a tokio runtime with I/O.
    ///
    /// # Errors
    /// When the kernel has no nftables.
    pub fn open() -> Result<Self, DataplaneError> {
        let socket = open_socket().map_err(DataplaneError::Monitor)?;
        Ok(Self { socket, buffer: Vec::with_capacity(LONGEST_DATAGRAM) })
    }

    /// Waits for a change, and discards all notifications that have arrived by then. Whether it concerns us is found by
    /// [`super::FirewallDataplane::has_changed`] and a read.
    ///
    /// # Errors
    /// When the socket failed; a new one is needed.
    ///
    /// # Cancel safety
    /// Safe: what has not been read stays in the socket.
    pub async fn changed(&mut self) -> Result<(), DataplaneError> {
        let mut heard = false;
        poll_fn(|context| {
            loop {
                self.buffer.clear();
                match self.socket.poll_recv(context, &mut self.buffer) {
                    Poll::Ready(Err(error)) if is_lasting(&error) => {
                        return Poll::Ready(Err(DataplaneError::Monitor(error)));
                    }
                    // Also after an overflow (ENOBUFS).
                    Poll::Ready(_) => heard = true,
                    Poll::Pending if heard => return Poll::Ready(Ok(())),
                    Poll::Pending => return Poll::Pending,
                }
            }
        })
        .await
    }
}

fn open_socket() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    force_buffer(socket.socket_ref());
    socket.socket_mut().add_membership(GROUP)?;
    Ok(socket)
}

fn is_lasting(error: &io::Error) -> bool {
    error.kind() != io::ErrorKind::Interrupted && error.raw_os_error() != Some(Errno::ENOBUFS as i32)
}

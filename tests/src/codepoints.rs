//! Datagrams with each ECN codepoint, and the one that each arrives with.

use std::{
    collections::BTreeMap,
    io::IoSliceMut,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    time::Duration,
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt},
};

use crate::{LabError, Namespace, Result};

/// Not-ECT, ECT(0), ECT(1), CE (RFC 3168 §5). The last one is never dropped.
const CODEPOINTS: [u8; 4] = [0, 2, 1, 3];

/// Sends one datagram with each codepoint to an address of another host, and gives those that arrived with what they came with.
///
/// # Errors
/// Where not even the last one arrives.
pub fn carried_codepoints(from: &Namespace, to: &Namespace, address: IpAddr) -> Result<BTreeMap<u8, u8>> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let bind = |namespace: &Namespace, address| {
        let bound = namespace.inside(|| UdpSocket::bind(SocketAddr::new(address, 0)))?;
        bound.map_err(LabError::io(format!("cannot bind a socket on {address}")))
    };
    let (sender, receiver) = (bind(from, any)?, bind(to, address)?);
    let what = || LabError::io("a datagram with a codepoint");
    receiver.set_read_timeout(Some(Duration::from_secs(2))).map_err(what())?;
    let told = match address {
        IpAddr::V4(_) => setsockopt(&receiver, sockopt::IpRecvTos, &true),
        IpAddr::V6(_) => setsockopt(&receiver, sockopt::Ipv6RecvTClass, &true),
    };
    told.map_err(LabError::errno("a receiver of codepoints"))?;
    let target = receiver.local_addr().map_err(what())?;
    for codepoint in CODEPOINTS {
        let set = match address {
            IpAddr::V4(_) => setsockopt(&sender, sockopt::Ipv4Tos, &i32::from(codepoint)),
            IpAddr::V6(_) => setsockopt(&sender, sockopt::Ipv6TClass, &i32::from(codepoint)),
        };
        set.map_err(LabError::errno("a sender of codepoints"))?;
        sender.send_to(&[codepoint], target).map_err(what())?;
    }
    let mut arrived = BTreeMap::new();
    while !arrived.contains_key(&CODEPOINTS[3]) {
        let (sent, class) = receive(&receiver).map_err(LabError::errno(format!("after {arrived:?}")))?;
        arrived.insert(sent, class & 3);
    }
    Ok(arrived)
}

/// The codepoint that one was sent with, and its TOS or traffic class.
#[allow(clippy::wildcard_enum_match_arm, reason = "a message may have any other part")]
fn receive(socket: &UdpSocket) -> nix::Result<(u8, u8)> {
    let (mut sent, mut class) = ([0], 0);
    let mut room = cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(&mut sent)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut room), MsgFlags::empty())?;
    for told in message.cmsgs()? {
        match told {
            ControlMessageOwned::Ipv4Tos(tos) => class = tos,
            ControlMessageOwned::Ipv6TClass(told) => class = told as u8,
            _ => {}
        }
    }
    Ok((sent[0], class))
}

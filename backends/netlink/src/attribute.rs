//! Reads netlink attributes one by one. Others than the ones asked for are skipped, so that an attribute of a newer
//! kernel, or one in a form that the message crates do not know yet, does not make the rest unreadable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire_net::MacAddr;

/// The type's two upper bits are flags (`NLA_TYPE_MASK` of linux/netlink.h).
const TYPE_MASK: u16 = 0x3fff;

/// Iterates over the attributes in `bytes`: type and value. Stops at the first truncated one.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (head, _) = bytes.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & TYPE_MASK;
        let value = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// Iterates over the netlink messages in a datagram: header and body. Stops at the first truncated one.
pub fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (Header, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::try_from(number(bytes.get(..4)?)?).ok()?;
        let header = Header {
            kind: u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?),
            flags: u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?),
            sequence: number(bytes.get(8..12)?)?,
        };
        let body = bytes.get(16..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((header, body))
    })
}

/// The fields of a `struct nlmsghdr` that are used.
#[derive(Clone, Copy)]
pub struct Header {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
}

/// Reads a 32-bit number in the host's byte order. `None` if there are fewer than four bytes.
#[must_use]
pub fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*value.first_chunk()?))
}

/// Reads an IP address: IPv4 from 4 bytes, IPv6 from 16.
#[must_use]
pub fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// Reads an Ethernet address, from exactly 6 bytes.
#[must_use]
pub fn mac(value: &[u8]) -> Option<MacAddr> {
    Some(MacAddr::new(value.try_into().ok()?))
}

/// Reads UTF-8 text, without the zero byte at its end.
#[must_use]
pub fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

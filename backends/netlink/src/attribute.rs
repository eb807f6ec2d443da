//! Reading netlink attributes one by one. Only what we need is looked at, so that an attribute of a newer kernel, or a form
//! the message crates do not know yet, hides nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire_net::MacAddr;

/// The type's two upper bits are flags (`NLA_TYPE_MASK` of linux/netlink.h).
const TYPE_MASK: u16 = 0x3fff;

/// The attributes in `bytes`: number and value. Ends at the first that is cut short.
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

/// The netlink messages in a datagram: type, flags, sequence number, body. Ends at the first that is cut short.
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

/// What of a `struct nlmsghdr` we look at.
#[derive(Clone, Copy)]
pub struct Header {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// `nlmsg_seq`.
    pub sequence: u32,
}

/// A number of 32 bits, in this host's byte order.
#[must_use]
pub fn number(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*value.first_chunk()?))
}

/// An address, by the length of its bytes.
#[must_use]
pub fn address(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into()),
        16 => Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// An Ethernet address.
#[must_use]
pub fn mac(value: &[u8]) -> Option<MacAddr> {
    Some(MacAddr::new(value.try_into().ok()?))
}

/// A text that ends with a zero byte.
#[must_use]
pub fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

//! A minimal reader of IP packets: lengths, offsets and addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use wire_net::Family;

use super::checksum::{fold, sum};

/// Protocol numbers (RFC 1700): those that can be segmented and joined, and ICMP.
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMP: u8 = 1;
pub(crate) const ICMPV6: u8 = 58;

/// The fields of an IP header. Its bytes are not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) family: Family,
    /// Bytes of the IP header: with options for IPv4, without extension headers for IPv6.
    pub(crate) len: usize,
    /// Bytes of the packet as its header says.
    pub(crate) total: usize,
    /// The protocol after the header, or the number of an extension header.
    pub(crate) protocol: u8,
    pub(crate) fragment: Fragment,
}

/// Fragmentation of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fragment {
    /// A whole packet.
    No,
    /// The first fragment, which has the transport header.
    First,
    /// Any other fragment.
    Later,
}

impl Header {
    /// Reads the header at the beginning of `bytes`. `None` if they are no IP packet, or truncated.
    #[inline]
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse_ipv4(bytes),
            6 => Self::parse_ipv6(bytes),
            _ => None,
        }
    }

    fn parse_ipv4(bytes: &[u8]) -> Option<Self> {
        let header: &[u8; 20] = bytes.first_chunk()?;
        let len = usize::from(header[0] & 15) * 4;
        let total = usize::from(be16(header, 2));
        let offset = be16(header, 6);
        let fragment = match (offset & 0x1fff, offset & 0x2000) {
            (0, 0) => Fragment::No,
            (0, _) => Fragment::First,
            _ => Fragment::Later,
        };
        let sound = len >= 20 && len <= total && total <= bytes.len();
        sound.then_some(Self { family: Family::V4, len, total, protocol: header[9], fragment })
    }

    fn parse_ipv6(bytes: &[u8]) -> Option<Self> {
        const FRAGMENT: u8 = 44;
        let header: &[u8; 40] = bytes.first_chunk()?;
        let total = 40 + usize::from(be16(header, 4));
        let fragment = match (header[6], bytes.get(42..44)) {
            (FRAGMENT, Some(offset)) if be16(offset, 0) & 0xfff8 == 0 => Fragment::First,
            (FRAGMENT, _) => Fragment::Later,
            _ => Fragment::No,
        };
        (total <= bytes.len()).then_some(Self { family: Family::V6, len: 40, total, protocol: header[6], fragment })
    }

    /// The range of the source and the destination, one behind the other.
    #[inline]
    pub(crate) const fn addresses(&self) -> std::ops::Range<usize> {
        match self.family {
            Family::V4 => 12..20,
            Family::V6 => 8..40,
        }
    }

    /// The source; `packet` must be the one this header was read from.
    #[inline]
    pub(crate) fn source(&self, packet: &[u8]) -> IpAddr {
        match self.family {
            Family::V4 => ipv4(packet, 12),
            Family::V6 => ipv6(packet, 8),
        }
    }

    /// The destination; `packet` must be the one this header was read from.
    #[inline]
    pub(crate) fn destination(&self, packet: &[u8]) -> IpAddr {
        match self.family {
            Family::V4 => ipv4(packet, 16),
            Family::V6 => ipv6(packet, 24),
        }
    }

    /// Decrements the TTL (hop limit), and updates the checksum. False if the TTL has expired.
    #[inline]
    pub(crate) fn lower_ttl(&self, packet: &mut [u8]) -> bool {
        let at = match self.family {
            Family::V4 => 8,
            Family::V6 => 7,
        };
        if packet[at] <= 1 {
            return false;
        }
        packet[at] -= 1;
        if self.family == Family::V4 {
            // RFC 1624: the word of TTL and protocol is less by 0x100, so the checksum is more by it.
            let sum = u32::from(be16(packet, 10)) + 0x100;
            put16(packet, 10, (sum + u32::from(sum >= 0xffff)) as u16);
        }
        true
    }

    /// True if routers may not fragment the packet. They never fragment IPv6 (RFC 8200 §4.5).
    pub(crate) fn dont_fragment(&self, packet: &[u8]) -> bool {
        self.family == Family::V6 || packet[6] & 0x40 != 0
    }

    /// A hash that is the same for all packets of a flow, and for few others.
    #[inline]
    pub(crate) fn flow(&self, packet: &[u8]) -> u64 {
        let mut hash = mix(u64::from(self.protocol));
        for word in packet[self.addresses()].as_chunks::<8>().0 {
            hash = mix(hash ^ u64::from_ne_bytes(*word));
        }
        if matches!(self.protocol, TCP | UDP) && self.fragment == Fragment::No {
            let ports = packet.get(self.len..self.len + 4).and_then(<[u8]>::first_chunk);
            hash = mix(hash ^ u64::from(ports.copied().map_or(0, u32::from_ne_bytes)));
        }
        hash
    }
}

/// Sets the total length of an IP header.
#[inline]
pub(crate) fn set_total(header: &Header, bytes: &mut [u8], total: usize) {
    match header.family {
        Family::V4 => put16(bytes, 2, total as u16),
        Family::V6 => put16(bytes, 4, (total - 40) as u16),
    }
}

/// Computes the checksum of an IPv4 header anew. IPv6 has none.
#[inline]
pub(crate) fn set_header_checksum(header: &Header, bytes: &mut [u8]) {
    if header.family == Family::V4 {
        bytes[10..12].fill(0);
        let checksum = !fold(sum(&bytes[..header.len]));
        bytes[10..12].copy_from_slice(&checksum.to_ne_bytes());
    }
}

/// A multiplication spreads the bits, a fold brings the high ones down.
#[inline]
const fn mix(value: u64) -> u64 {
    let wide = (value ^ 0x9e37_79b9_7f4a_7c15) as u128 * 0xd6e8_feb8_6659_fd93;
    (wide as u64) ^ ((wide >> 64) as u64)
}

fn ipv4(packet: &[u8], at: usize) -> IpAddr {
    let octets: [u8; 4] = *packet[at..].first_chunk().expect("within a header that was parsed");
    Ipv4Addr::from(octets).into()
}

fn ipv6(packet: &[u8], at: usize) -> IpAddr {
    let octets: [u8; 16] = *packet[at..].first_chunk().expect("within a header that was parsed");
    Ipv6Addr::from(octets).into()
}

#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[inline]
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[inline]
pub(crate) fn put16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[inline]
pub(crate) fn put32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_lowered_ttl_leaves_a_right_checksum(mut bytes in proptest::collection::vec(any::<u8>(), 20..40), ttl in 2u8..) {
            bytes[0] = 0x45;
            bytes[8] = ttl;
            let total = bytes.len() as u16;
            put16(&mut bytes, 2, total);
            let header = Header::parse(&bytes).unwrap();
            set_header_checksum(&header, &mut bytes);
            prop_assert!(header.lower_ttl(&mut bytes));
            prop_assert_eq!(bytes[8], ttl - 1);
            prop_assert_eq!(fold(sum(&bytes[..20])), 0xffff);
        }

        #[test]
        fn any_bytes_are_a_packet_within_them_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Some(header) = Header::parse(&bytes) {
                prop_assert!(header.len <= header.total && header.total <= bytes.len());
                let _ = (header.source(&bytes), header.destination(&bytes), header.flow(&bytes));
            }
        }
    }

    #[test]
    fn a_ttl_of_one_is_used_up() {
        let mut bytes = [0u8; 20];
        (bytes[0], bytes[3], bytes[8]) = (0x45, 20, 1);
        assert!(!Header::parse(&bytes).unwrap().lower_ttl(&mut bytes));
    }
}

//! The two things a forwarder must do with an IP packet.

use std::net::IpAddr;

/// The shortest header: 20 bytes of IPv4 (RFC 791 §3.1) or 40 of IPv6 (RFC 8200 §3).
const SHORTEST: (usize, usize) = (20, 40);

/// Where a packet goes; `None` where it is no IP packet.
pub(crate) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match version(packet)? {
        Version::V4 => Some(IpAddr::from(*packet[16..].first_chunk::<4>()?)),
        Version::V6 => Some(IpAddr::from(*packet[24..].first_chunk::<16>()?)),
    }
}

/// Whether it is an IP packet at all.
pub(crate) fn is_ip(packet: &[u8]) -> bool {
    version(packet).is_some()
}

/// Lowers the TTL or hop limit by one; `false` where the packet must go no further.
#[must_use]
pub(crate) fn lower_ttl(packet: &mut [u8]) -> bool {
    let Some(version) = version(packet) else { return false };
    let place = match version {
        Version::V4 => 8,
        Version::V6 => 7,
    };
    if packet[place] <= 1 {
        return false;
    }
    packet[place] -= 1;
    match version {
        Version::V4 => raise_checksum(packet),
        // An IPv6 header has no checksum.
        Version::V6 => {}
    }
    true
}

enum Version {
    V4,
    V6,
}

fn version(packet: &[u8]) -> Option<Version> {
    match packet.first()? >> 4 {
        4 => (packet.len() >= SHORTEST.0).then_some(Version::V4),
        6 => (packet.len() >= SHORTEST.1).then_some(Version::V6),
        _ => None,
    }
}

/// The TTL is the high byte of its 16-bit word: one less there is 0x100 more in the one's complement of the sum (RFC 1624 §3).
fn raise_checksum(packet: &mut [u8]) {
    let (sum, carried) = u16::from_be_bytes([packet[10], packet[11]]).overflowing_add(0x100);
    let sum = sum + u16::from(carried);
    // 0xffff and 0 are the same number there; a header's sum is never the first (RFC 1624 §3).
    let sum = if sum == u16::MAX { 0 } else { sum };
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071, the slow way.
    fn checksum(header: &[u8]) -> u16 {
        let words = header.chunks_exact(2).enumerate().filter(|(index, _)| *index != 5);
        let mut sum: u32 = words.map(|(_, word)| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    fn header(ttl: u8, id: u16) -> Vec<u8> {
        let mut header = vec![0x45, 0, 0, 84, 0, 0, 0x40, 0, ttl, 1, 0, 0, 10, 5, 1, 0, 10, 5, 2, 1];
        header[4..6].copy_from_slice(&id.to_be_bytes());
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    #[test]
    fn a_lowered_ttl_keeps_the_header_checksum_right() {
        // All identifiers, so that the sum takes every value, those about a carry included.
        for id in 0..=u16::MAX {
            let mut packet = header(64, id);
            assert!(lower_ttl(&mut packet));
            assert_eq!(packet[8], 63);
            assert_eq!(packet[10..12], checksum(&packet).to_be_bytes(), "id {id}");
        }
        for ttl in 2..=u8::MAX {
            let mut packet = header(ttl, 7);
            assert!(lower_ttl(&mut packet));
            assert_eq!(packet, header(ttl - 1, 7));
        }
    }

    #[test]
    fn a_packet_at_its_last_hop_goes_no_further() {
        for ttl in [0, 1] {
            assert!(!lower_ttl(&mut header(ttl, 7)));
        }
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[7] = 1;
        assert!(!lower_ttl(&mut packet));
        packet[7] = 2;
        assert!(lower_ttl(&mut packet));
        assert_eq!(packet[7], 1);
    }

    #[test]
    fn a_packet_says_where_it_goes_in_either_family() {
        assert_eq!(destination(&header(64, 7)), Some("10.5.2.1".parse().unwrap()));
        let mut packet = vec![0; 40];
        packet[0] = 0x60;
        packet[39] = 9;
        assert_eq!(destination(&packet), Some("::9".parse().unwrap()));
    }

    #[test]
    fn what_is_no_packet_is_neither_routed_nor_changed() {
        for wrong in [vec![], vec![0x45; 19], vec![0x60; 39], vec![0x55; 60]] {
            assert_eq!(destination(&wrong), None);
            assert!(!is_ip(&wrong));
            assert!(!lower_ttl(&mut wrong.clone()));
        }
    }
}

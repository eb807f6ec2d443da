//! ICMP errors to the sender of a packet that is dropped: ICMP (RFC 792, RFC 1812 §4.3) and ICMPv6 (RFC 4443).

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use wire_net::Family;

use super::{
    checksum::{fold, pseudo, sum},
    packet::{Fragment, Header, ICMP, ICMPV6, put16, put32, set_header_checksum},
};

/// The reason for an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// The TTL has expired.
    TimeExceeded,
    /// No peer has the destination.
    Unreachable,
    /// The packet is longer than this many bytes, and may not be fragmented.
    TooBig(u32),
}

/// The longest notice, in bytes: the least MTU of IPv6 (RFC 4443 §2.4).
pub(crate) const LONGEST: usize = 1280;
/// The longest for IPv4 (RFC 1812 §4.3.2.3).
const LONGEST_IPV4: usize = 576;

/// Bytes of an ICMP header.
const ICMP_HEADER: usize = 8;

impl Notice {
    /// Writes the error about `packet`, from `source` to the packet's sender, and returns its length. `None` if none
    /// may be sent: about ICMP errors, later fragments, packets to multicast or broadcast, and packets whose source is
    /// no single host.
    pub(crate) fn write(
        self,
        header: &Header,
        packet: &[u8],
        source: IpAddr,
        out: &mut [u8; LONGEST],
    ) -> Option<usize> {
        if Family::of(source) != header.family || !may_be_answered(header, packet) {
            return None;
        }
        let (at, longest) = match header.family {
            Family::V4 => (20, LONGEST_IPV4),
            Family::V6 => (40, LONGEST),
        };
        let quoted = header.total.min(packet.len()).min(longest - at - ICMP_HEADER);
        let total = at + ICMP_HEADER + quoted;
        out[..at + ICMP_HEADER].fill(0);
        out[at + ICMP_HEADER..total].copy_from_slice(&packet[..quoted]);
        let (kind, code) = self.number(header.family);
        (out[at], out[at + 1]) = (kind, code);
        match (self, header.family) {
            (Self::TooBig(mtu), Family::V4) => put16(out, at + 6, u16::try_from(mtu).unwrap_or(u16::MAX)),
            (Self::TooBig(mtu), Family::V6) => put32(out, at + 4, mtu),
            (Self::TimeExceeded | Self::Unreachable, _) => {}
        }
        let notice = write_ip(header.family, source, header.source(packet), total, out)?;
        let mut all = sum(&out[at..total]);
        if header.family == Family::V6 {
            all += pseudo(&out[notice.addresses()], ICMPV6, total - at);
        }
        out[at + 2..at + 4].copy_from_slice(&(!fold(all)).to_ne_bytes());
        Some(total)
    }

    /// ICMP type and code.
    const fn number(self, family: Family) -> (u8, u8) {
        match (self, family) {
            (Self::TimeExceeded, Family::V4) => (11, 0),
            (Self::TimeExceeded, Family::V6) => (3, 0),
            (Self::Unreachable, Family::V4) => (3, 0),
            (Self::Unreachable, Family::V6) => (1, 0),
            (Self::TooBig(_), Family::V4) => (3, 4),
            (Self::TooBig(_), Family::V6) => (2, 0),
        }
    }
}

fn write_ip(family: Family, from: IpAddr, to: IpAddr, total: usize, out: &mut [u8; LONGEST]) -> Option<Header> {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // TOS 0xc0: internetwork control (RFC 1812 §4.3.2.5).
            out[..2].copy_from_slice(&[0x45, 0xc0]);
            put16(out, 2, total as u16);
            (out[8], out[9]) = (64, ICMP);
            out[12..16].copy_from_slice(&from.octets());
            out[16..20].copy_from_slice(&to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            out[0] = 0x60;
            put16(out, 4, (total - 40) as u16);
            (out[6], out[7]) = (ICMPV6, 64);
            out[8..24].copy_from_slice(&from.octets());
            out[24..40].copy_from_slice(&to.octets());
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    }
    let header = Header::parse(&out[..total])?;
    debug_assert_eq!(header.family, family);
    set_header_checksum(&header, out);
    Some(header)
}

/// RFC 1812 §4.3.2.7 and RFC 4443 §2.4 (e).
fn may_be_answered(header: &Header, packet: &[u8]) -> bool {
    let is_error = match (header.protocol, packet.get(header.len)) {
        (ICMP, kind) if header.family == Family::V4 => kind.is_none_or(|kind| matches!(kind, 3 | 4 | 5 | 11 | 12)),
        (ICMPV6, kind) if header.family == Family::V6 => kind.is_none_or(|kind| *kind < 128),
        _ => false,
    };
    !is_error
        && header.fragment != Fragment::Later
        && is_single_host(header.source(packet))
        && !is_many(header.destination(packet))
}

fn is_single_host(address: IpAddr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !is_many(address)
}

/// True for multicast and broadcast addresses.
pub(crate) fn is_many(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

/// Limits the rate of ICMP errors to all hosts together: a burst of 50, then 100 per second (`icmp_ratelimit` of
/// ip-sysctl has 1 per second to one host, 1000 to all).
#[derive(Debug)]
pub(crate) struct Limiter {
    left: u32,
    refilled: Instant,
}

impl Limiter {
    const BURST: u32 = 50;
    const EACH: Duration = Duration::from_millis(10);

    pub(crate) const fn new(now: Instant) -> Self {
        Self { left: Self::BURST, refilled: now }
    }

    /// True if one more may be sent.
    pub(crate) fn allow(&mut self, now: Instant) -> bool {
        let earned = now.duration_since(self.refilled).as_nanos() / Self::EACH.as_nanos();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(earned).min(Self::BURST);
            self.refilled = now;
        }
        let allowed = self.left > 0;
        self.left -= u32::from(allowed);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn udp4() -> Vec<u8> {
        let mut packet = vec![0u8; 700];
        (packet[0], packet[8], packet[9]) = (0x45, 1, 17);
        put16(&mut packet, 2, 700);
        packet[12..20].copy_from_slice(&[10, 5, 1, 2, 10, 5, 2, 2]);
        packet
    }

    fn write(notice: Notice, packet: &[u8], source: &str) -> Option<Vec<u8>> {
        let header = Header::parse(packet).unwrap();
        let mut out = [0; LONGEST];
        let len = notice.write(&header, packet, source.parse().unwrap(), &mut out)?;
        Some(out[..len].to_vec())
    }

    /// The notice about a packet with this change.
    fn with(change: fn(&mut Vec<u8>)) -> Option<Vec<u8>> {
        let mut packet = udp4();
        change(&mut packet);
        write(Notice::TimeExceeded, &packet, "10.5.2.0")
    }

    #[test]
    fn a_sender_is_told_with_the_packet_quoted() {
        let packet = udp4();
        let notice = write(Notice::TooBig(1400), &packet, "10.5.2.0").unwrap();
        assert_eq!(notice.len(), 576);
        assert_eq!((notice[20], notice[21]), (3, 4));
        assert_eq!(notice[26..28], 1400u16.to_be_bytes());
        assert_eq!(notice[12..20], [10, 5, 2, 0, 10, 5, 1, 2]);
        assert_eq!(notice[28..], packet[..548]);
        assert_eq!(fold(sum(&notice[..20])), 0xffff);
        assert_eq!(fold(sum(&notice[20..])), 0xffff);
    }

    #[test]
    fn nobody_is_told_of_errors_fragments_and_what_went_to_many() {
        assert!(with(|_| {}).is_some());
        assert!(with(|packet| (packet[9], packet[20]) = (1, 8)).is_some());
        assert!(with(|packet| (packet[9], packet[20]) = (1, 3)).is_none());
        assert!(with(|packet| packet[7] = 9).is_none());
        assert!(with(|packet| packet[16] = 224).is_none());
        assert!(with(|packet| packet[12..16].fill(0)).is_none());
        assert!(write(Notice::TimeExceeded, &udp4(), "fd00::1").is_none());
    }

    #[test]
    fn only_so_many_are_told() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        assert_eq!((0..1000).filter(|_| limiter.allow(start)).count(), 50);
        assert_eq!((0..1000).filter(|_| limiter.allow(start + Duration::from_millis(100))).count(), 10);
        assert_eq!((0..1000).filter(|_| limiter.allow(start + Duration::from_secs(3600))).count(), 50);
    }

    proptest! {
        #[test]
        fn any_packet_gets_a_sound_notice_or_none(bytes in proptest::collection::vec(any::<u8>(), 20..200)) {
            let Some(header) = Header::parse(&bytes) else { return Ok(()) };
            let source: IpAddr = match header.family {
                Family::V4 => "10.0.0.1".parse().unwrap(),
                Family::V6 => "fd00::1".parse().unwrap(),
            };
            let mut out = [0; LONGEST];
            if let Some(len) = Notice::Unreachable.write(&header, &bytes, source, &mut out) {
                let notice = Header::parse(&out[..len]).unwrap();
                prop_assert_eq!(notice.destination(&out), header.source(&bytes));
            }
        }
    }
}

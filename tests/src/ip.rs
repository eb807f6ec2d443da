//! IP packets taken apart and made, with their checksums. Written from the RFCs, not from the agent's code.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The bytes of a UDP header.
pub(crate) const UDP: usize = 8;
/// IP's number for TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// IP's number for UDP.
pub const PROTOCOL_UDP: u8 = 17;
/// The EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// The EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;

/// An IP packet without options or extension headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpPacket(Vec<u8>);

impl IpPacket {
    /// Reads a packet and cuts off what lies behind its end. `None`: it is none, is cut short, has options or extension
    /// headers that this type does not know, or is a fragment.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let len = match bytes.first()? >> 4 {
            4 if bytes[0] == 0x45 && half(bytes, 6)? & 0x3fff == 0 => usize::from(half(bytes, 2)?),
            6 => 40 + usize::from(half(bytes, 4)?),
            _ => return None,
        };
        let header = if bytes[0] >> 4 == 4 { 20 } else { 40 };
        let bytes = bytes.get(..len).filter(|bytes| bytes.len() >= header)?;
        Some(Self(bytes.to_vec()))
    }

    /// A UDP packet with right checksums and a TTL of 64. Both addresses must be of one family.
    #[must_use]
    pub fn udp(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Self {
        let len = u16::try_from(UDP + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
        let mut bytes = match (source.ip(), destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => v4_header(from, to, UDP + payload.len()),
            (from, to) => v6_header(six(from), six(to), len),
        };
        bytes.extend(source.port().to_be_bytes());
        bytes.extend(destination.port().to_be_bytes());
        bytes.extend(len);
        bytes.extend([0, 0]);
        bytes.extend(payload);
        let mut packet = Self(bytes);
        packet.fill_checksums();
        packet
    }

    /// All of it.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The EtherType it travels under.
    #[must_use]
    pub fn ether_type(&self) -> u16 {
        if self.is_v4() { IPV4 } else { IPV6 }
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> IpAddr {
        self.address(0)
    }

    /// Where it goes.
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        self.address(1)
    }

    /// What it carries, [`PROTOCOL_UDP`] for instance.
    #[must_use]
    pub fn protocol(&self) -> u8 {
        self.0[if self.is_v4() { 9 } else { 6 }]
    }

    /// How many hops it has left.
    #[must_use]
    pub fn ttl(&self) -> u8 {
        self.0[self.ttl_place()]
    }

    /// The same with another number of hops, and a right checksum.
    #[must_use]
    pub fn with_ttl(mut self, ttl: u8) -> Self {
        let place = self.ttl_place();
        self.0[place] = ttl;
        self.fill_checksums();
        self
    }

    /// The same with another identification, and a right checksum; over IPv6 there is none.
    #[must_use]
    pub fn with_id(mut self, id: u16) -> Self {
        if self.is_v4() {
            self.0[4..6].copy_from_slice(&id.to_be_bytes());
            self.fill_checksums();
        }
        self
    }

    /// What lies behind its header.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0[self.header_len()..]
    }

    /// What of it must not change on the way through a tunnel: all but its hops and its checksums.
    #[must_use]
    pub fn lasting(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes[self.ttl_place()] = 0;
        if self.is_v4() {
            bytes[10..12].fill(0);
        }
        if let Some(sum) = self.checksum_place().and_then(|place| bytes.get_mut(place..place + 2)) {
            sum.fill(0);
        }
        bytes
    }

    /// Whether the checksum of the IPv4 header, and that of TCP or UDP, are right. A UDP checksum of 0 over IPv4 is none.
    #[must_use]
    pub fn checksums_hold(&self) -> bool {
        if self.is_v4() && sum(0, &self.0[..20]) != 0xffff {
            return false;
        }
        let Some(place) = self.checksum_place() else { return true };
        let without = self.protocol() == PROTOCOL_UDP && self.is_v4();
        match half(&self.0, place) {
            Some(0) if without => true,
            Some(_) => sum(self.pseudo_header(), self.payload()) == 0xffff,
            None => false,
        }
    }

    fn fill_checksums(&mut self) {
        if self.is_v4() {
            self.0[10..12].fill(0);
            let checksum = !sum(0, &self.0[..20]);
            self.0[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        let Some(place) = self.checksum_place().filter(|place| place + 2 <= self.0.len()) else { return };
        self.0[place..place + 2].fill(0);
        // RFC 768: a sum of 0 is sent as all ones.
        let checksum = match !sum(self.pseudo_header(), self.payload()) {
            0 => 0xffff,
            other => other,
        };
        self.0[place..place + 2].copy_from_slice(&checksum.to_be_bytes());
    }

    fn is_v4(&self) -> bool {
        self.0[0] >> 4 == 4
    }

    fn header_len(&self) -> usize {
        if self.is_v4() { 20 } else { 40 }
    }

    fn ttl_place(&self) -> usize {
        if self.is_v4() { 8 } else { 7 }
    }

    fn checksum_place(&self) -> Option<usize> {
        match self.protocol() {
            PROTOCOL_TCP => Some(self.header_len() + 16),
            PROTOCOL_UDP => Some(self.header_len() + 6),
            _ => None,
        }
    }

    fn addresses(&self) -> &[u8] {
        if self.is_v4() { &self.0[12..20] } else { &self.0[8..40] }
    }

    fn address(&self, number: usize) -> IpAddr {
        let both = self.addresses();
        let half = &both[number * both.len() / 2..][..both.len() / 2];
        match <[u8; 4]>::try_from(half) {
            Ok(v4) => v4.into(),
            Err(_) => <[u8; 16]>::try_from(half).expect("the header holds two addresses of one family").into(),
        }
    }

    /// The sum of both addresses, the length and the protocol.
    fn pseudo_header(&self) -> u32 {
        let len = u32::try_from(self.payload().len()).unwrap_or(u32::MAX);
        u32::from(sum(len + u32::from(self.protocol()), self.addresses()))
    }
}

fn v4_header(from: Ipv4Addr, to: Ipv4Addr, payload: usize) -> Vec<u8> {
    let [high, low] = u16::try_from(20 + payload).unwrap_or(u16::MAX).to_be_bytes();
    let mut header = vec![0x45, 0, high, low, 0, 1, 0x40, 0, 64, PROTOCOL_UDP, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

fn v6_header(from: Ipv6Addr, to: Ipv6Addr, [high, low]: [u8; 2]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, high, low, PROTOCOL_UDP, 64];
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

fn six(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// The ones' complement sum of RFC 1071, not yet inverted.
pub(crate) fn sum(start: u32, bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u64 = words.sum::<u64>() + u64::from(start);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded into 16 bits")
}

/// Two bytes in network order.
pub(crate) fn half(bytes: &[u8], place: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(place)?, *bytes.get(place + 1)?]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Datagram;

    /// An IPv4 header with its checksum, b861, as textbooks have it.
    const HEADER: &str = "450000730000400040 11b861c0a80001c0a800c7";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|digit| *digit != b' ').collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn pair(v6: bool) -> (SocketAddr, SocketAddr) {
        let text = if v6 { ("[fd00:5:1::2]:4000", "[fd00:5:2::2]:7000") } else { ("10.5.1.2:4000", "10.5.2.2:7000") };
        (text.0.parse().unwrap(), text.1.parse().unwrap())
    }

    #[test]
    fn the_checksum_is_the_one_of_the_textbooks() {
        let mut header = bytes(HEADER);
        assert_eq!(sum(0, &header), 0xffff);
        header[10..12].fill(0);
        assert_eq!(!sum(0, &header), 0xb861);
    }

    #[test]
    fn a_packet_made_is_read_again_and_its_checksums_hold() {
        for (source, destination) in [pair(false), pair(true)] {
            for len in [0, 1, 8, 1001] {
                let packet = IpPacket::udp(source, destination, &vec![0xa5; len]);
                assert!(packet.checksums_hold());
                assert_eq!(IpPacket::from_bytes(packet.bytes()), Some(packet.clone()));
                let datagram = Datagram { source, destination, payload: vec![0xa5; len] };
                assert_eq!(Datagram::from_packet(&packet), Some(datagram));
            }
        }
    }

    #[test]
    fn each_flipped_bit_is_noticed() {
        for (source, destination) in [pair(false), pair(true)] {
            let packet = IpPacket::udp(source, destination, b"some contents");
            for bit in 8 * packet.header_len()..8 * packet.0.len() {
                let mut changed = packet.clone();
                changed.0[bit / 8] ^= 1 << (bit % 8);
                assert!(!changed.checksums_hold(), "bit {bit}");
            }
        }
    }

    #[test]
    fn hops_and_checksums_alone_may_change() {
        for (source, destination) in [pair(false), pair(true)] {
            let packet = IpPacket::udp(source, destination, b"some contents");
            let further = packet.clone().with_ttl(3);
            assert_ne!(packet, further);
            assert!(further.checksums_hold() && further.ttl() == 3);
            assert_eq!(packet.lasting(), further.lasting());
            assert_ne!(packet.lasting(), IpPacket::udp(source, destination, b"other contents").lasting());
        }
    }

    #[test]
    fn what_is_cut_short_or_a_fragment_is_no_packet() {
        let (source, destination) = pair(false);
        let packet = IpPacket::udp(source, destination, b"some contents");
        for len in 0..packet.bytes().len() {
            assert_eq!(IpPacket::from_bytes(&packet.bytes()[..len]), None);
        }
        let mut fragment = packet.bytes().to_vec();
        fragment[6] = 0x20;
        assert_eq!(IpPacket::from_bytes(&fragment), None);
        let padded = [packet.bytes(), &[0; 20]].concat();
        assert_eq!(IpPacket::from_bytes(&padded), Some(packet));
    }
}

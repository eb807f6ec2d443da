//! What travels on the underlay, taken apart: UDP datagrams and VXLAN. Written from the RFCs, not from the agent's code.

use std::net::SocketAddr;

use crate::ip::{IPV4, IPV6, IpPacket, PROTOCOL_UDP, UDP, half};

const ETHERNET: usize = 14;
const VXLAN: usize = 8;
/// IEEE 802.1Q's type and a tag with VID 0.
const VLAN_TAG: [u8; 4] = [0x81, 0, 0, 0];

/// A UDP datagram, RFC 768.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// The bytes behind the UDP header.
    pub payload: Vec<u8>,
}

/// A VXLAN payload, RFC 7348 §5.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The first byte; 8 says that there is a VNI.
    pub flags: u8,
    /// The network, 24 bits.
    pub vni: u32,
    /// The inner Ethernet destination.
    pub destination_mac: [u8; 6],
    /// The inner Ethernet source.
    pub source_mac: [u8; 6],
    /// What the inner frame carries.
    pub ether_type: u16,
    /// The bytes behind the inner Ethernet header.
    pub packet: Vec<u8>,
}

impl Datagram {
    /// Reads an Ethernet frame. `None`: it is no UDP, or a fragment.
    #[must_use]
    pub fn from_frame(frame: &[u8]) -> Option<Self> {
        let (ethernet, packet) = frame.split_at_checked(ETHERNET)?;
        matches!(half(ethernet, 12)?, IPV4 | IPV6).then_some(())?;
        Self::from_packet(&IpPacket::from_bytes(packet)?)
    }

    /// Reads an IP packet. `None`: it is no UDP.
    #[must_use]
    pub fn from_packet(packet: &IpPacket) -> Option<Self> {
        (packet.protocol() == PROTOCOL_UDP).then_some(())?;
        let udp = packet.payload();
        let payload = udp.get(UDP..usize::from(half(udp, 4)?))?.to_vec();
        let (source, destination) = (half(udp, 0)?, half(udp, 2)?);
        Some(Self {
            source: SocketAddr::new(packet.source(), source),
            destination: SocketAddr::new(packet.destination(), destination),
            payload,
        })
    }
}

impl Vxlan {
    /// The flag that says that there is a VNI.
    pub const HAS_VNI: u8 = 8;

    /// Reads a datagram's payload. `None`: it is too short.
    #[must_use]
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        let (header, frame) = payload.split_at_checked(VXLAN)?;
        let (ethernet, packet) = frame.split_at_checked(ETHERNET)?;
        Some(Self {
            flags: header[0],
            vni: u32::from_be_bytes([0, header[4], header[5], header[6]]),
            destination_mac: ethernet[..6].try_into().ok()?,
            source_mac: ethernet[6..12].try_into().ok()?,
            ether_type: half(ethernet, 12)?,
            packet: packet.to_vec(),
        })
    }

    /// A packet on its way to the device with this Ethernet address, behind so many VLAN tags with VID 0, in the network 1.
    ///
    /// # Panics
    /// Where that is no Ethernet address.
    #[must_use]
    pub fn carrying(packet: &IpPacket, mac: &str, tags: usize) -> Self {
        let destination: Vec<u8> = mac.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
        let ether_type = packet.ether_type().to_be_bytes();
        let behind = [VLAN_TAG.repeat(tags).as_slice(), &ether_type, packet.bytes()].concat();
        Self {
            flags: Self::HAS_VNI,
            vni: 1,
            destination_mac: destination.try_into().expect("an Ethernet address has six bytes"),
            source_mac: [2, 0, 0, 0, 0, 9],
            ether_type: u16::from_be_bytes([behind[0], behind[1]]),
            packet: behind[2..].to_vec(),
        }
    }

    /// Writes a datagram's payload.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        let [_, vni @ ..] = self.vni.to_be_bytes();
        let mut payload = vec![self.flags, 0, 0, 0, vni[0], vni[1], vni[2], 0];
        payload.extend(self.destination_mac);
        payload.extend(self.source_mac);
        payload.extend(self.ether_type.to_be_bytes());
        payload.extend(&self.packet);
        payload
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ethernet frame with "abcd" from 192.168.1.2:32803 to 192.168.1.1:53, and a byte of padding behind it.
    const FRAME: &str =
        "020000000001020000000002 0800 4500002000010000401100 00c0a80102c0a80101 80230035000c0000 61626364 00";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(|digit| *digit != b' ').collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn a_frame_is_taken_apart() {
        let datagram = Datagram::from_frame(&bytes(FRAME)).unwrap();
        assert_eq!(datagram.source.to_string(), "192.168.1.2:32803");
        assert_eq!(datagram.destination.to_string(), "192.168.1.1:53");
        assert_eq!(datagram.payload, b"abcd");
    }

    #[test]
    fn a_vxlan_payload_survives_both_ways() {
        let payload = bytes("0800000000123400 0242ac110002 0242ac110003 0800 45");
        let vxlan = Vxlan::from_payload(&payload).unwrap();
        assert_eq!((vxlan.flags, vxlan.vni, vxlan.ether_type), (Vxlan::HAS_VNI, 0x1234, IPV4));
        assert_eq!(vxlan.destination_mac, [2, 0x42, 0xac, 0x11, 0, 2]);
        assert_eq!(vxlan.packet, [0x45]);
        assert_eq!(vxlan.to_payload(), payload);
        assert_eq!(Vxlan::from_payload(&payload[..21]), None);
    }

    #[test]
    fn the_type_of_a_tagged_packet_lies_behind_its_tags() {
        let packet = IpPacket::udp("192.0.2.1:1".parse().unwrap(), "192.0.2.2:2".parse().unwrap(), b"");
        let vxlan = |tags| Vxlan::carrying(&packet, "02:42:ac:11:00:02", tags);
        assert_eq!((vxlan(0).ether_type, vxlan(0).packet), (IPV4, packet.bytes().to_vec()));
        assert_eq!((vxlan(1).ether_type, &vxlan(1).packet[..5]), (0x8100, &[0, 0, 8, 0, 0x45][..]));
        assert_eq!((vxlan(2).ether_type, &vxlan(2).packet[..5]), (0x8100, &[0, 0, 0x81, 0, 0][..]));
    }
}

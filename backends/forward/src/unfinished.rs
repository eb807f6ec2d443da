//! Packets whose checksum or segmentation a peer's kernel left to a network card, and that never passed one.
//!
//! A kernel leaves inner checksums, and the segmentation of large inner packets, to the network card. Between two
//! virtual machines or namespaces of one host there is no card, and so a socket gets packets that are not finished: the
//! checksum field holds the sum of the pseudo header, and TCP or UDP may be many times longer than the MTU. Such
//! packets are known by that field, and their vnet header leaves the rest to the TUN device.

use super::{
    checksum::{fold, pseudo},
    packet::{Fragment, Header, TCP, UDP},
    vnet::{Gso, VnetHeader},
};

/// The vnet header of a packet whose checksum is missing; `None` if there is one, right or wrong.
#[inline]
pub(crate) fn checksum(header: &Header, packet: &[u8]) -> Option<VnetHeader> {
    let offset = match header.protocol {
        TCP => 16,
        UDP => 6,
        _ => return None,
    };
    let (start, end) = (header.len, header.total);
    let field = packet.get(start + offset..start + offset + 2).filter(|_| header.fragment == Fragment::No)?;
    let partial = fold(pseudo(&packet[header.addresses()], header.protocol, end - start)).to_ne_bytes();
    (field == partial && start + offset + 2 <= end).then_some(VnetHeader {
        needs_checksum: true,
        checksum_start: start as u16,
        checksum_offset: offset as u16,
        ..VnetHeader::PLAIN
    })
}

/// The vnet header of a packet that is still to be segmented. `size` is the length of a UDP datagram, as the sender's
/// kernel reports it; a TCP segment is as long as the MTU allows.
pub(crate) fn large(header: &Header, packet: &[u8], size: Option<usize>, mtu: usize) -> Option<VnetHeader> {
    let vnet = checksum(header, packet)?;
    let transport = &packet[header.len..header.total];
    let (gso, len) = match (header.protocol, header.family) {
        (TCP, wire_net::Family::V4) => (Gso::Tcp4, usize::from(*transport.get(12)? >> 4) * 4),
        (TCP, wire_net::Family::V6) => (Gso::Tcp6, usize::from(*transport.get(12)? >> 4) * 4),
        _ => (Gso::Udp, 8),
    };
    let headers = header.len + len;
    let room = mtu.checked_sub(headers).filter(|room| *room > 0 && headers < header.total)?;
    let size = match gso {
        Gso::Udp => size.filter(|size| *size <= room)?,
        Gso::None | Gso::Tcp4 | Gso::Tcp6 => room,
    };
    Some(VnetHeader { gso, header_len: headers as u16, gso_size: size as u16, ..vnet })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::put16;

    fn segment(payload: usize) -> Vec<u8> {
        let mut packet = vec![7; 40 + payload];
        (packet[0], packet[6], packet[7], packet[9], packet[32]) = (0x45, 0x40, 0, TCP, 0x50);
        put16(&mut packet, 2, 40 + payload as u16);
        let header = Header::parse(&packet).unwrap();
        let partial = fold(pseudo(&packet[header.addresses()], TCP, 20 + payload));
        packet[36..38].copy_from_slice(&partial.to_ne_bytes());
        packet
    }

    #[test]
    fn a_missing_checksum_is_told_from_a_wrong_one() {
        let mut packet = segment(100);
        let header = Header::parse(&packet).unwrap();
        let vnet = checksum(&header, &packet).unwrap();
        assert_eq!((vnet.gso, vnet.checksum_start, vnet.checksum_offset), (Gso::None, 20, 16));
        packet[36] ^= 1;
        assert_eq!(checksum(&header, &packet), None);
    }

    #[test]
    fn tcp_of_any_length_is_cut_to_the_mtu_and_udp_as_its_sender_says() {
        let packet = segment(30_000);
        let header = Header::parse(&packet).unwrap();
        let vnet = large(&header, &packet, None, 1450).unwrap();
        assert_eq!((vnet.gso, vnet.gso_size, vnet.header_len), (Gso::Tcp4, 1410, 40));
        assert_eq!(large(&header, &packet, None, 40), None);
        let mut datagram = packet;
        datagram[9] = UDP;
        let header = Header::parse(&datagram).unwrap();
        let partial = fold(pseudo(&datagram[header.addresses()], UDP, 30_020));
        datagram[26..28].copy_from_slice(&partial.to_ne_bytes());
        assert_eq!(large(&header, &datagram, None, 1450), None);
        assert_eq!(large(&header, &datagram, Some(1451), 1450), None);
        assert_eq!(large(&header, &datagram, Some(1000), 1450).unwrap().gso_size, 1000);
    }
}

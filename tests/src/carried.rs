//! Whether a tunnel carries what it was given.

use std::collections::BTreeMap;

use crate::{Datagram, Frame, IpPacket, LabError, PROTOCOL_UDP, Result, check};

/// Checks packets of raw IP in UDP: each datagram is one whole packet with right checksums, and each that carries UDP is one that a
/// TUN device was given, but for its checksums and at most one hop. Says how many were compared. Packets of other protocols may have
/// been cut on the way, so that of them only the checksums count.
///
/// # Errors
/// Names the first that is otherwise.
pub fn expect_carried<'a>(given: &[Frame], carried: impl Iterator<Item = &'a Datagram>) -> Result<usize> {
    let packets = given.iter().filter(|frame| frame.outgoing).filter_map(|frame| IpPacket::from_bytes(&frame.bytes));
    let given: BTreeMap<Vec<u8>, u8> = packets.map(|packet| (packet.lasting(), packet.ttl())).collect();
    let mut compared = 0;
    for datagram in carried {
        let packet = IpPacket::from_bytes(&datagram.payload).filter(|packet| packet.bytes() == datagram.payload);
        let packet = packet.ok_or_else(|| LabError::Wrong(format!("not one packet alone: {datagram:?}")))?;
        check(packet.checksums_hold(), || format!("a wrong checksum: {packet:?}"))?;
        if packet.protocol() != PROTOCOL_UDP {
            continue;
        }
        let hops = given.get(&packet.lasting()).copied();
        let hops = hops.ok_or_else(|| LabError::Wrong(format!("carried, but not given: {packet:?}")))?;
        check(packet.ttl() == hops || packet.ttl() + 1 == hops, || format!("{hops} hops became {}", packet.ttl()))?;
        compared += 1;
    }
    Ok(compared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload: &[u8]) -> IpPacket {
        IpPacket::udp("10.5.1.2:4000".parse().unwrap(), "10.5.2.2:7000".parse().unwrap(), payload)
    }

    fn carried(packet: &[u8]) -> Datagram {
        let (source, destination) = ("192.168.64.2:8285".parse().unwrap(), "192.168.64.3:8285".parse().unwrap());
        Datagram { source, destination, payload: packet.to_vec() }
    }

    #[test]
    fn a_hop_and_checksums_are_all_that_may_differ() {
        let given = [Frame { outgoing: true, bytes: packet(b"some").bytes().to_vec() }];
        let judge = |packet: &[u8]| expect_carried(&given, [carried(packet)].iter());
        assert_eq!(judge(packet(b"some").with_ttl(63).bytes()).unwrap(), 1);
        assert!(judge(packet(b"some").with_ttl(62).bytes()).is_err());
        assert!(judge(packet(b"more").bytes()).is_err());
        assert!(judge(&[packet(b"some").bytes(), b"!"].concat()).is_err());
        let mut damaged = packet(b"some").bytes().to_vec();
        damaged[30] ^= 1;
        assert!(judge(&damaged).is_err());
    }
}

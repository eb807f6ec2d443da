//! The bytes between the outer UDP header and the inner IP packet.

use wire_net::{Family, MacAddr};
use wire_state::{Framing, VXLAN_LEAD, vxlan_header};

use super::counters::DropReason;

/// EtherTypes (IEEE 802 numbers).
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];

/// Writes and checks the framing of packets. Where the device has frames, their Ethernet header is a part of it.
pub(crate) trait Frame: Copy {
    /// Writes the framing of a packet of `family` to the host with `peer` as its inner MAC address; `out` has exactly
    /// the length of the framing.
    fn write(self, family: Family, peer: MacAddr, out: &mut [u8]);

    /// True if the EtherType of a checked datagram is that of `family`, or if the framing has none.
    fn announces(self, datagram: &[u8], family: Family) -> bool;

    /// The same of what the device has before a packet, after [`Frame::leaves`].
    fn announces_own(self, link_header: &[u8], family: Family) -> bool;

    /// Checks what the device has before a packet.
    ///
    /// # Errors
    /// The reason why the packet goes to no peer.
    fn leaves(self, link_header: &[u8]) -> Result<(), DropReason>;

    /// Checks the framing of a datagram, and returns its length in bytes.
    ///
    /// # Errors
    /// The reason why the datagram is not for us.
    fn strip(self, datagram: &[u8]) -> Result<usize, DropReason>;
}

impl Frame for Framing {
    #[inline]
    fn write(self, family: Family, peer: MacAddr, out: &mut [u8]) {
        let (vni, macs) = match self {
            Self::Raw => return,
            Self::Vxlan { vni, mac } => (vni, Some(mac)),
            Self::Ethernet { vni } => (vni, None),
        };
        out[..8].copy_from_slice(&vxlan_header(vni));
        // A device with frames has written the rest.
        let Some(mac) = macs else { return };
        out[8..14].copy_from_slice(&peer.octets());
        out[14..20].copy_from_slice(&mac.octets());
        out[20..22].copy_from_slice(&ether_type(family));
    }

    #[inline]
    fn announces(self, datagram: &[u8], family: Family) -> bool {
        match self {
            Self::Raw => true,
            Self::Vxlan { .. } | Self::Ethernet { .. } => datagram[20..22] == ether_type(family),
        }
    }

    #[inline]
    fn announces_own(self, link_header: &[u8], family: Family) -> bool {
        match self {
            Self::Raw | Self::Vxlan { .. } => true,
            Self::Ethernet { .. } => link_header[12..14] == ether_type(family),
        }
    }

    #[inline]
    fn leaves(self, link_header: &[u8]) -> Result<(), DropReason> {
        match self {
            Self::Raw | Self::Vxlan { .. } => Ok(()),
            Self::Ethernet { .. } if !is_ip(&link_header[12..14]) => Err(DropReason::NotIp),
            Self::Ethernet { .. } if is_group(link_header[0]) => Err(DropReason::Multicast),
            Self::Ethernet { .. } => Ok(()),
        }
    }

    #[inline]
    fn strip(self, datagram: &[u8]) -> Result<usize, DropReason> {
        let (vni, own) = match self {
            Self::Raw => return Ok(0),
            Self::Vxlan { vni, mac } => (vni, Some(mac)),
            Self::Ethernet { vni } => (vni, None),
        };
        let lead: &[u8; VXLAN_LEAD] = datagram.first_chunk().ok_or(DropReason::Malformed)?;
        // Reserved bits are ignored (RFC 7348 §5).
        let identifier = u32::from_be_bytes([0, lead[4], lead[5], lead[6]]);
        if lead[0] & 0x08 == 0 || identifier != vni.number() {
            return Err(DropReason::Vni);
        }
        if own.is_some_and(|own| lead[8..14] != own.octets()) {
            return Err(DropReason::InnerMac);
        }
        if !is_ip(&lead[20..22]) {
            return Err(DropReason::NotIp);
        }
        if is_group(lead[8]) {
            return Err(DropReason::Multicast);
        }
        Ok(VXLAN_LEAD)
    }
}

fn is_ip(ether_type: &[u8]) -> bool {
    ether_type == IPV4 || ether_type == IPV6
}

/// True if a MAC that begins with this byte is that of a group (IEEE 802).
const fn is_group(first: u8) -> bool {
    first & 1 != 0
}

const fn ether_type(family: Family) -> [u8; 2] {
    match family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use wire_net::Vni;

    use super::*;

    fn framing(vni: u32) -> Framing {
        Framing::Vxlan { vni: Vni::new(vni).unwrap(), mac: MacAddr::new([2, 0, 0, 0, 0, 1]) }
    }

    #[test]
    fn what_one_writes_the_other_takes() {
        let ours = MacAddr::new([2, 0, 0, 0, 0, 1]);
        let mut lead = [0; VXLAN_LEAD];
        framing(0x0a_0b0c).write(Family::V6, ours, &mut lead);
        assert_eq!(lead[..8], [8, 0, 0, 0, 0x0a, 0x0b, 0x0c, 0]);
        assert_eq!(framing(0x0a_0b0c).strip(&lead), Ok(VXLAN_LEAD));
        assert_eq!(framing(1).strip(&lead), Err(DropReason::Vni));
        assert_eq!(framing(0x0a_0b0c).strip(&lead[..21]), Err(DropReason::Malformed));
        lead[13] = 9;
        assert_eq!(framing(0x0a_0b0c).strip(&lead), Err(DropReason::InnerMac));
        lead[8..14].fill(0xff);
        assert_eq!(framing(0x0a_0b0c).strip(&lead), Err(DropReason::InnerMac));
        lead[8..14].copy_from_slice(&ours.octets());
        // ARP.
        lead[20..22].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(framing(0x0a_0b0c).strip(&lead), Err(DropReason::NotIp));
        lead[0] = 0;
        assert_eq!(framing(0x0a_0b0c).strip(&lead), Err(DropReason::Vni));
    }

    #[test]
    fn frames_of_a_bridge_go_as_they_are_but_for_those_to_groups_and_those_that_are_not_ip() {
        let framing = Framing::Ethernet { vni: Vni::new(0x0a_0b0c).unwrap() };
        let frame = [2, 0x57, 0, 0, 0, 1, 2, 0x57, 0, 0, 0, 2, 0x86, 0xdd];
        assert_eq!(framing.leaves(&frame), Ok(()));
        assert!(framing.announces_own(&frame, Family::V6) && !framing.announces_own(&frame, Family::V4));
        let mut lead = [0; VXLAN_LEAD];
        lead[8..].copy_from_slice(&frame);
        framing.write(Family::V6, MacAddr::new([7; 6]), &mut lead);
        assert_eq!((lead[..8].to_vec(), &lead[8..]), (vec![8, 0, 0, 0, 0x0a, 0x0b, 0x0c, 0], &frame[..]));
        assert_eq!(framing.strip(&lead), Ok(VXLAN_LEAD));
        assert!(framing.announces(&lead, Family::V6) && !framing.announces(&lead, Family::V4));
        let other = Framing::Ethernet { vni: Vni::new(1).unwrap() };
        assert_eq!(other.strip(&lead), Err(DropReason::Vni));
        for (at, byte, reason) in [(0, 3, DropReason::Multicast), (13, 6, DropReason::NotIp)] {
            let (mut frame, mut lead) = (frame, lead);
            (frame[at], lead[8 + at]) = (byte, byte);
            assert_eq!((framing.leaves(&frame), framing.strip(&lead)), (Err(reason), Err(reason)));
        }
    }

    proptest! {
        /// The number and the content of the tags do not matter: the kernel never sees them, and neither does anyone
        /// behind us.
        #[test]
        fn a_frame_with_vlan_tags_of_any_number_is_no_packet(
            kinds in proptest::collection::vec(prop::sample::select(vec![0x8100u16, 0x88a8, 0x9100]), 1..9),
            vlan in any::<u16>(),
            packet in any::<[u8; 40]>(),
        ) {
            let mut frame = vec![8, 0, 0, 0, 0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9];
            frame.extend(kinds.iter().flat_map(|kind| [kind.to_be_bytes(), vlan.to_be_bytes()].concat()));
            frame.extend(ether_type(Family::V4));
            frame.extend(packet);
            prop_assert_eq!(framing(1).strip(&frame), Err(DropReason::NotIp));
        }

        #[test]
        fn any_bytes_are_taken_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(lead) = framing(1).strip(&bytes) {
                prop_assert!(lead <= bytes.len());
            }
        }
    }
}

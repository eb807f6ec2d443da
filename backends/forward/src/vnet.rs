//! The header that a TUN device puts before each packet when it segments and joins packets for us
//! (`struct virtio_net_hdr` of linux/virtio_net.h, in the machine's own byte order).

/// Bytes of the header.
pub(crate) const LEN: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
const NEEDS_CHECKSUM: u8 = 1;
/// `VIRTIO_NET_HDR_GSO_ECN`.
const ECN: u8 = 0x80;

/// The kind of packets that a large one is segmented into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gso {
    /// One packet (`VIRTIO_NET_HDR_GSO_NONE`).
    None,
    /// Several TCP segments over IPv4 (`_TCPV4`).
    Tcp4,
    /// Several TCP segments over IPv6 (`_TCPV6`).
    Tcp6,
    /// Several UDP datagrams (`_UDP_L4`).
    Udp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VnetHeader {
    pub(crate) gso: Gso,
    /// True if only the first of the segments has the CWR flag.
    pub(crate) ecn: bool,
    /// True if the checksum is not complete: its field holds the sum of the pseudo header.
    pub(crate) needs_checksum: bool,
    /// Bytes of the headers before the payload. Not reliable for a forwarded packet.
    pub(crate) header_len: u16,
    /// Payload bytes of each segment but the last.
    pub(crate) gso_size: u16,
    /// Offset of the transport header.
    pub(crate) checksum_start: u16,
    /// Offset of the checksum in the transport header.
    pub(crate) checksum_offset: u16,
}

impl VnetHeader {
    /// The header of a packet that is complete.
    pub(crate) const PLAIN: Self = Self {
        gso: Gso::None,
        ecn: false,
        needs_checksum: false,
        header_len: 0,
        gso_size: 0,
        checksum_start: 0,
        checksum_offset: 0,
    };

    /// Decodes a header. `None` for a kind of packet that we have not enabled.
    #[inline]
    pub(crate) fn parse(bytes: &[u8; LEN]) -> Option<Self> {
        let gso = match bytes[1] & !ECN {
            0 => Gso::None,
            1 => Gso::Tcp4,
            4 => Gso::Tcp6,
            5 => Gso::Udp,
            _ => return None,
        };
        let number = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Some(Self {
            gso,
            ecn: bytes[1] & ECN != 0,
            needs_checksum: bytes[0] & NEEDS_CHECKSUM != 0,
            header_len: number(2),
            gso_size: number(4),
            checksum_start: number(6),
            checksum_offset: number(8),
        })
    }

    /// The header of a packet behind so many bytes of a frame, of which this is the header.
    #[inline]
    pub(crate) const fn behind(self, link_header: usize) -> Self {
        let less = link_header as u16;
        let (header_len, checksum_start) =
            (self.header_len.saturating_sub(less), self.checksum_start.saturating_sub(less));
        Self { header_len, checksum_start, ..self }
    }

    /// The header of a frame with so many bytes before a packet, of which this is the header.
    #[inline]
    pub(crate) const fn before(self, link_header: usize) -> Self {
        let more = link_header as u16;
        let is_plain = matches!(self.gso, Gso::None);
        let header_len = if is_plain { self.header_len } else { self.header_len.saturating_add(more) };
        let checksum_start =
            if self.needs_checksum { self.checksum_start.saturating_add(more) } else { self.checksum_start };
        Self { header_len, checksum_start, ..self }
    }

    #[inline]
    pub(crate) fn to_bytes(self) -> [u8; LEN] {
        let gso = match self.gso {
            Gso::None => 0,
            Gso::Tcp4 => 1,
            Gso::Tcp6 => 4,
            Gso::Udp => 5,
        };
        let mut bytes = [0; LEN];
        bytes[0] = if self.needs_checksum { NEEDS_CHECKSUM } else { 0 };
        bytes[1] = gso | if self.ecn { ECN } else { 0 };
        let numbers = [self.header_len, self.gso_size, self.checksum_start, self.checksum_offset];
        for (field, number) in bytes[2..].as_chunks_mut::<2>().0.iter_mut().zip(numbers) {
            *field = number.to_ne_bytes();
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_of_a_frame_differs_from_that_of_its_packet_by_its_offsets() {
        let large = VnetHeader {
            gso: Gso::Tcp4,
            needs_checksum: true,
            header_len: 40,
            gso_size: 1400,
            checksum_start: 20,
            checksum_offset: 16,
            ..VnetHeader::PLAIN
        };
        let frame = large.before(14);
        assert_eq!((frame.header_len, frame.checksum_start, frame.checksum_offset), (54, 34, 16));
        assert_eq!(frame.behind(14), large);
        assert_eq!((VnetHeader::PLAIN.before(14), large.before(0)), (VnetHeader::PLAIN, large));
        // A frame that says nonsense has no packet that fits.
        assert_eq!(VnetHeader { checksum_start: 3, ..large }.behind(14).checksum_start, 0);
    }
}

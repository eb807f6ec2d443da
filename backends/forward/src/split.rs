//! Segments a large packet of a TUN device. Pure.
//!
//! The payload is not moved: for each segment only headers are written, into a side array. A segment is these headers
//! and a slice of the payload.

use std::ops::Range;

use super::{
    checksum::{fold, pseudo, sum},
    packet::{Header, TCP, UDP, be16, be32, put16, put32, set_header_checksum, set_total},
    vnet::{Gso, VnetHeader},
};

/// TCP flags (RFC 9293 §3.1), in the fourteenth byte of its header.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const CWR: u8 = 0x80;

/// The packet does not agree with its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// One segment: the range of its headers in the side array, and of its payload in the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) head: Range<usize>,
    pub(crate) body: Range<usize>,
}

/// The layout of a large packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    header: Header,
    protocol: u8,
    /// Offsets of the transport header and of the payload.
    transport: usize,
    payload: usize,
    /// Payload bytes of each segment but the last.
    size: usize,
}

/// Completes the checksum of a packet that is not segmented.
pub(crate) fn complete(vnet: &VnetHeader, header: &Header, packet: &mut [u8]) -> Result<(), Malformed> {
    if !vnet.needs_checksum {
        return Ok(());
    }
    let (start, offset) = (usize::from(vnet.checksum_start), usize::from(vnet.checksum_offset));
    let field = start + offset..start + offset + 2;
    if start < header.len || field.end > packet.len() {
        return Err(Malformed);
    }
    // The field holds the sum of the pseudo header, so the sum over the packet includes it.
    let checksum = match !fold(sum(&packet[start..])) {
        // For UDP 0 means none (RFC 768); for TCP it means the same as 0xffff.
        0 => 0xffff,
        checksum => checksum,
    };
    packet[field].copy_from_slice(&checksum.to_ne_bytes());
    Ok(())
}

impl Cut {
    /// Reads the layout of a large packet. `Ok(None)` if it needs no segmentation.
    #[inline]
    pub(crate) fn new(vnet: &VnetHeader, header: &Header, packet: &[u8]) -> Result<Option<Self>, Malformed> {
        let protocol = match vnet.gso {
            Gso::None => return Ok(None),
            Gso::Tcp4 | Gso::Tcp6 => TCP,
            Gso::Udp => UDP,
        };
        let transport = usize::from(vnet.checksum_start);
        let least = if protocol == TCP { 20 } else { 8 };
        if vnet.gso_size == 0 || transport < header.len || packet.len() < transport + least {
            return Err(Malformed);
        }
        let payload = transport
            + match protocol {
                TCP => usize::from(packet[transport + 12] >> 4) * 4,
                _ => 8,
            };
        if payload < transport + least || packet.len() <= payload {
            return Err(Malformed);
        }
        Ok(Some(Self { header: *header, protocol, transport, payload, size: usize::from(vnet.gso_size) }))
    }

    /// Bytes of the largest segment.
    pub(crate) fn largest(&self, packet: &[u8]) -> usize {
        self.payload + self.size.min(packet.len() - self.payload)
    }

    pub(crate) fn count(&self, packet: &[u8]) -> usize {
        (packet.len() - self.payload).div_ceil(self.size)
    }

    /// Bytes of a segment's headers.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) const fn headers(&self) -> usize {
        self.payload
    }

    /// Appends `lead` and the headers of each segment to `heads`, and passes the segments to `each`.
    #[inline]
    pub(crate) fn split(&self, packet: &[u8], lead: &[u8], heads: &mut Vec<u8>, mut each: impl FnMut(Segment)) {
        let (model, payload) = packet.split_at(self.payload);
        let count = self.count(packet);
        for (number, body) in payload.chunks(self.size).enumerate() {
            let start = heads.len();
            heads.extend_from_slice(lead);
            heads.extend_from_slice(model);
            let head = &mut heads[start + lead.len()..];
            self.write(head, body, number, number + 1 == count);
            let begin = self.payload + number * self.size;
            each(Segment { head: start..heads.len(), body: begin..begin + body.len() });
        }
    }

    /// Rewrites the large packet's headers, a copy of which is `head`, for one segment.
    #[inline]
    fn write(&self, head: &mut [u8], body: &[u8], number: usize, last: bool) {
        set_total(&self.header, head, self.payload + body.len());
        if self.header.family == wire_net::Family::V4 {
            let id = be16(head, 4).wrapping_add(number as u16);
            put16(head, 4, id);
        }
        set_header_checksum(&self.header, head);
        let addresses = self.header.addresses();
        let len = self.payload - self.transport + body.len();
        let (network, transport) = head.split_at_mut(self.transport);
        let field = if self.protocol == TCP {
            let sequence = be32(transport, 4).wrapping_add((number * self.size) as u32);
            put32(transport, 4, sequence);
            if !last {
                transport[13] &= !(FIN | PSH);
            }
            if number > 0 {
                transport[13] &= !CWR;
            }
            16
        } else {
            put16(transport, 4, len as u16);
            6
        };
        transport[field..field + 2].fill(0);
        let total = pseudo(&network[addresses], self.protocol, len) + sum(transport) + sum(body);
        let checksum = match !fold(total) {
            0 if self.protocol == UDP => 0xffff,
            checksum => checksum,
        };
        transport[field..field + 2].copy_from_slice(&checksum.to_ne_bytes());
    }
}

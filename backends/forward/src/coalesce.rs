//! Joins packets of one flow into one large packet for a TUN device: the inverse of [`super::split`]. Pure.
//!
//! Only packets are joined that segmentation would give back byte by byte: same addresses, ports, TOS, TTL, DF,
//! acknowledgement, window and options, consecutive sequence numbers, and a right checksum. The payload is not moved.

use std::ops::Range;

use wire_net::Family;

use super::{
    checksum::{fold, pseudo, sum},
    packet::{Fragment, Header, TCP, UDP, be16, be32, put16, set_header_checksum, set_total},
    split::{ACK, CWR, FIN, PSH, RST, SYN},
    unfinished,
    vnet::{Gso, VnetHeader},
};

/// The most packets joined into one.
pub(crate) const MOST: usize = 128;

/// The longest IP packet, in bytes (RFC 791 §3.1).
const LONGEST: usize = 65_535;

/// The number of last packets that are searched for a packet's flow.
const WINDOW: usize = 128;

/// TCP flags of segments that are never joined.
const ALONE: u8 = SYN | RST | URG;
const URG: u8 = 0x20;

/// The protocols whose packets may be joined, as the device supports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Joinable {
    pub(crate) tcp: bool,
    pub(crate) udp: bool,
}

/// Packets to be written to the device, in order, joined where possible. Cleared and used again for each batch.
#[derive(Debug, Default)]
pub(crate) struct Coalescer {
    /// The flow of each of `packets`, in an array of its own that is quick to search.
    flows: Vec<u64>,
    packets: Vec<Joined>,
    /// The payloads of joined packets except the first of each, as linked lists.
    bodies: Vec<Body>,
    /// Nothing is joined to packets before this index: a fragment follows them, and its flow is unknown.
    barrier: usize,
}

/// One packet for the device.
#[derive(Clone, Debug)]
pub(crate) struct Joined {
    first: Range<usize>,
    /// Its vnet header if nothing is joined to it.
    vnet: VnetHeader,
    /// `None` for packets that are never joined.
    merge: Option<Merge>,
    /// The first and the last of its further payloads in `bodies`.
    chain: Option<(usize, usize)>,
}

#[derive(Clone, Debug)]
struct Merge {
    header: Header,
    /// Offset of the payload.
    payload: usize,
    /// Payload bytes of the first packet; all others but the last have as many.
    size: usize,
    /// Payload bytes of all packets.
    sum: usize,
    count: usize,
    next_sequence: u32,
    next_id: u16,
    /// The FIN and PSH flags of the last packet.
    closing: u8,
    /// True while another packet may be joined.
    open: bool,
    verified: bool,
}

#[derive(Clone, Debug)]
struct Body {
    range: Range<usize>,
    next: usize,
}

impl Coalescer {
    pub(crate) fn clear(&mut self) {
        self.flows.clear();
        self.packets.clear();
        self.bodies.clear();
        self.barrier = 0;
    }

    /// The packets, in the order in which they are to be written.
    pub(crate) fn packets(&self) -> &[Joined] {
        &self.packets
    }

    /// Appends a large packet that the device is to segment.
    pub(crate) fn push_large(&mut self, arena: &[u8], range: Range<usize>, header: &Header, vnet: VnetHeader) {
        self.flows.push(header.flow(&arena[range.clone()]));
        self.packets.push(Joined { first: range, vnet, merge: None, chain: None });
    }

    /// Adds the packet at `range` of `arena`: joined to an earlier one of its flow, or at the end.
    #[inline]
    pub(crate) fn push(&mut self, arena: &[u8], range: Range<usize>, header: &Header, joinable: Joinable) {
        let packet = &arena[range.clone()];
        // Needed also for packets that are not joined: later ones of the flow must not overtake them.
        let flow = header.flow(packet);
        let merge = Merge::of(header, packet, joinable);
        if let Some(merge) = &merge {
            let behind = self.packets.len().saturating_sub(WINDOW).max(self.barrier);
            // To the last packet of its flow or to none: otherwise it would overtake.
            if let Some(at) = self.flows[behind..].iter().rposition(|other| *other == flow) {
                let last = &mut self.packets[behind + at];
                if let Some(into) = &mut last.merge
                    && into.takes(&arena[last.first.clone()], merge, packet)
                {
                    into.add(merge, packet);
                    let body = range.start + merge.payload..range.end;
                    let at = self.bodies.len();
                    self.bodies.push(Body { range: body, next: usize::MAX });
                    let (begin, end) = last.chain.unwrap_or((at, at));
                    self.bodies[end].next = at;
                    last.chain = Some((begin, at));
                    return;
                }
            }
        }
        let vnet = unfinished::checksum(header, packet).unwrap_or(VnetHeader::PLAIN);
        self.flows.push(flow);
        self.packets.push(Joined { first: range, vnet, merge, chain: None });
        if header.fragment != Fragment::No {
            self.barrier = self.packets.len();
        }
    }

    /// The payloads joined to a packet, in order.
    pub(crate) fn bodies(&self, packet: &Joined) -> impl Iterator<Item = Range<usize>> {
        let mut at = packet.chain;
        std::iter::from_fn(move || {
            let (now, end) = at?;
            let body = &self.bodies[now];
            at = (now != end).then_some((body.next, end));
            Some(body.range.clone())
        })
    }
}

impl Joined {
    /// The range of the first packet, with its headers.
    pub(crate) const fn first(&self) -> &Range<usize> {
        &self.first
    }

    /// The number of packets joined in it.
    pub(crate) fn count(&self) -> usize {
        self.merge.as_ref().map_or(1, |merge| merge.count)
    }

    /// Rewrites the first packet's headers for the whole, and returns the vnet header for the device.
    pub(crate) fn seal(&self, arena: &mut [u8]) -> VnetHeader {
        match &self.merge {
            Some(merge) if merge.count > 1 => merge.seal(&mut arena[self.first.clone()]),
            Some(_) | None => self.vnet,
        }
    }
}

impl Merge {
    /// `Some` for a packet that can be joined: not fragmented, without IP options, with a payload and, for UDP, with a
    /// checksum.
    #[inline]
    fn of(header: &Header, packet: &[u8], joinable: Joinable) -> Option<Self> {
        let whole = header.fragment == Fragment::No && header.total == packet.len();
        if !whole || (header.family == Family::V4 && header.len != 20) {
            return None;
        }
        let transport = packet.get(header.len..)?;
        let (payload, next_sequence, closing) = match header.protocol {
            TCP if joinable.tcp && transport.len() > 20 => {
                let payload = usize::from(transport[12] >> 4) * 4;
                let flags = transport[13];
                if payload < 20 || flags & ACK == 0 || flags & ALONE != 0 {
                    return None;
                }
                (payload, be32(transport, 4), flags & (FIN | PSH))
            }
            UDP if joinable.udp && transport.len() > 8 => {
                let has_checksum = transport[6..8] != [0, 0];
                (has_checksum && usize::from(be16(transport, 4)) == transport.len()).then_some((8, 0, 0))?
            }
            _ => return None,
        };
        let size = transport.len().checked_sub(payload).filter(|size| *size > 0)?;
        let id = if header.family == Family::V4 { be16(packet, 4) } else { 0 };
        Some(Self {
            header: *header,
            payload: header.len + payload,
            size,
            sum: size,
            count: 1,
            next_sequence: next_sequence.wrapping_add(size as u32),
            next_id: id.wrapping_add(1),
            closing,
            open: closing == 0,
            verified: false,
        })
    }

    /// True if segmentation of the whole would give `next` as its next segment.
    #[inline]
    fn takes(&mut self, first: &[u8], next: &Self, packet: &[u8]) -> bool {
        let fits = self.open
            && self.header.family == next.header.family
            && self.header.protocol == next.header.protocol
            && self.payload == next.payload
            && next.size <= self.size
            && self.payload + self.sum + next.size <= LONGEST
            && self.count < MOST;
        if !fits || !self.same_network(first, packet) || !self.same_transport(first, packet) {
            return false;
        }
        // The first packet is verified once, and only when a second one comes.
        if !self.verified && !is_right(&self.header, first) {
            self.open = false;
            return false;
        }
        self.verified = true;
        is_right(&next.header, packet)
    }

    #[inline]
    fn same_network(&self, first: &[u8], packet: &[u8]) -> bool {
        match self.header.family {
            Family::V4 => {
                let dont_fragment = packet[6] & 0x40 != 0;
                first[..2] == packet[..2]
                    && first[6..10] == packet[6..10]
                    && first[12..20] == packet[12..20]
                    // A packet that is never fragmented needs no ID of its own (RFC 6864 §4).
                    && (dont_fragment || be16(packet, 4) == self.next_id)
            }
            Family::V6 => first[..4] == packet[..4] && first[6..40] == packet[6..40],
        }
    }

    #[inline]
    fn same_transport(&self, first: &[u8], packet: &[u8]) -> bool {
        let at = self.header.len;
        let (first, packet) = (&first[at..self.payload], &packet[at..self.payload]);
        if first[..4] != packet[..4] {
            return false;
        }
        self.header.protocol == UDP
            || (be32(packet, 4) == self.next_sequence
                && first[8..13] == packet[8..13]
                // CWR only on the first, FIN and PSH only on the last.
                && first[13] & !CWR == packet[13] & !(FIN | PSH)
                && first[14..16] == packet[14..16]
                && first[18..] == packet[18..])
    }

    fn add(&mut self, next: &Self, packet: &[u8]) {
        self.sum += next.size;
        self.count += 1;
        self.next_sequence = self.next_sequence.wrapping_add(next.size as u32);
        self.next_id = self.next_id.wrapping_add(1);
        if self.header.protocol == TCP {
            self.closing = packet[self.header.len + 13] & (FIN | PSH);
        }
        self.open = next.size == self.size && self.closing == 0;
    }

    fn seal(&self, packet: &mut [u8]) -> VnetHeader {
        set_total(&self.header, packet, self.payload + self.sum);
        set_header_checksum(&self.header, packet);
        let start = self.header.len;
        let len = self.payload - start + self.sum;
        let partial = fold(pseudo(&packet[self.header.addresses()], self.header.protocol, len));
        let (gso, offset) = match (self.header.protocol, self.header.family) {
            (TCP, Family::V4) => (Gso::Tcp4, 16),
            (TCP, Family::V6) => (Gso::Tcp6, 16),
            _ => (Gso::Udp, 6),
        };
        let transport = &mut packet[start..];
        let mut ecn = false;
        if self.header.protocol == TCP {
            ecn = transport[13] & CWR != 0;
            transport[13] |= self.closing;
        } else {
            put16(transport, 4, len as u16);
        }
        transport[offset..offset + 2].copy_from_slice(&partial.to_ne_bytes());
        VnetHeader {
            gso,
            ecn,
            needs_checksum: true,
            header_len: self.payload as u16,
            gso_size: self.size as u16,
            checksum_start: start as u16,
            checksum_offset: offset as u16,
        }
    }
}

/// True if the checksums are right: that of TCP or UDP, which may also be left to offload, and an IPv4 header's own.
#[inline]
fn is_right(header: &Header, packet: &[u8]) -> bool {
    if header.family == Family::V4 && fold(sum(&packet[..header.len])) != 0xffff {
        return false;
    }
    let transport = &packet[header.len..];
    let pseudo = pseudo(&packet[header.addresses()], header.protocol, transport.len());
    fold(pseudo + sum(transport)) == 0xffff || unfinished::checksum(header, packet).is_some()
}

#[cfg(test)]
mod tests;

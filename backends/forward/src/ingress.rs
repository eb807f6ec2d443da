//! From the peers to the device: receive, check, join, write.

use std::{
    io::{self, ErrorKind, IoSlice},
    net::IpAddr,
    ops::Range,
};

use nix::errno::Errno;

use super::{
    coalesce::{Coalescer, Joinable, Joined, MOST},
    counters::{Count, DropReason},
    framing::Frame as _,
    icmp::is_many,
    packet::{Header, UDP},
    table::Table,
    udp::{Inbox, Received, Udp},
    unfinished,
    worker::Context,
};

/// Messages received in one turn, if the kernel joins none of them (GRO): so many are needed for a large packet.
const MESSAGES: usize = 256;
/// Messages received in one turn, if the kernel joins them: few, so that they are still in the CPU's own cache.
const JOINED_MESSAGES: usize = 8;
/// From this average length on, in bytes, messages count as joined by the kernel.
const JOINED: usize = 16 << 10;
/// The longest inner packet that any link carries, in bytes: longer ones are dropped.
const JUMBO: usize = 9216;
/// Buffer for one message, in bytes: 64 KiB, and 25 cache lines more, so that messages do not all begin at the same
/// place of a cache.
const PART: usize = 65_536 + 25 * 64;

/// The incoming direction of one worker.
pub(crate) struct Ingress {
    arena: Vec<u8>,
    inbox: Inbox,
    coalescer: Coalescer,
    /// The number of messages to receive in the next turn.
    most: usize,
}

/// The addresses of the last packet that was admitted: the next one with the same needs no check.
#[derive(Clone, Copy)]
struct LastAdmitted {
    from: IpAddr,
    source: IpAddr,
    destination: IpAddr,
}

impl Ingress {
    pub(crate) fn new() -> Self {
        Self {
            arena: vec![0; MESSAGES * PART],
            inbox: Inbox::new(MESSAGES),
            coalescer: Coalescer::default(),
            most: MESSAGES,
        }
    }

    /// Receives messages, as many as there is room for, and writes their packets to the device. Returns true if more
    /// may wait.
    ///
    /// # Errors
    /// When the device is gone, or the socket fails.
    pub(crate) fn turn(&mut self, context: &Context<'_>, table: &Table, socket: &Udp) -> io::Result<bool> {
        let received = match socket.receive(&mut self.arena, &mut self.inbox, self.most) {
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            // An answer to what we sent, such as "port unreachable", or a signal.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused || error.kind() == ErrorKind::Interrupted => {
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        context.counters.add(Count::DatagramReceives, 1);
        self.coalescer.clear();
        let joinable = context.joinable();
        let (mut last, mut bytes) = (None, 0);
        for message in received {
            bytes += message.range.len();
            if message.segment < message.range.len() {
                context.counters.add(Count::GroDatagrams, message.range.len().div_ceil(message.segment) as u64);
            }
            take(context, table, message, &mut self.arena, &mut self.coalescer, joinable, &mut last);
        }
        let more = received.len() == self.most;
        self.most = if bytes / received.len().max(1) >= JOINED { JOINED_MESSAGES } else { MESSAGES };
        for packet in self.coalescer.packets() {
            write(context, &mut self.arena, &self.coalescer, packet)?;
        }
        Ok(more)
    }
}

/// Checks the datagrams of one message, and adds those that are admitted to the coalescer.
#[inline]
fn take(
    context: &Context<'_>,
    table: &Table,
    message: &Received,
    arena: &mut [u8],
    coalescer: &mut Coalescer,
    joinable: Joinable,
    last: &mut Option<LastAdmitted>,
) {
    let Some(from) = message.from else { return };
    let Range { mut start, end } = message.range;
    if start == end {
        context.counters.dropped(DropReason::Malformed);
    }
    let several = message.segment < message.range.len() || message.range.len() > context.mtu();
    if several && take_large(context, table, from, message, arena, coalescer, last) {
        return;
    }
    while start < end {
        let stop = end.min(start + message.segment);
        let admitted = check(context, table, from, &arena[start..stop], last).and_then(|(lead, header)| {
            // Packets of a peer with a larger MTU are fragmented or answered by the kernel.
            let fits = header.total <= context.mtu().max(JUMBO);
            if !fits {
                return Err(DropReason::TooBig);
            }
            message.ecn.pass_on(&header, &mut arena[start + lead..stop])?;
            Ok((lead, header))
        });
        match admitted {
            Ok((lead, header)) => {
                let packet = start + lead..start + lead + header.total;
                context.counters.add(Count::FromPeersPackets, 1);
                context.counters.add(Count::FromPeersBytes, packet.len() as u64);
                coalescer.push(arena, packet, &header, joinable);
            }
            Err(reason) => context.counters.dropped(reason),
        }
        start = stop;
    }
}

/// Admits a message that is one large packet, whose segmentation was left to a network card. Returns false if it is
/// none.
fn take_large(
    context: &Context<'_>,
    table: &Table,
    from: IpAddr,
    message: &Received,
    arena: &mut [u8],
    coalescer: &mut Coalescer,
    last: &mut Option<LastAdmitted>,
) -> bool {
    let datagram = &arena[message.range.clone()];
    let Ok((lead, header)) = check(context, table, from, datagram, last) else { return false };
    let packet = message.range.start + lead..message.range.end;
    let size = Some(message.segment).filter(|size| *size < datagram.len());
    let vnet = unfinished::large(&header, &arena[packet.clone()], size, context.mtu());
    let is_one = header.total == packet.len() && (size.is_some() || header.total > context.mtu());
    let Some(vnet) = vnet.filter(|_| is_one) else { return false };
    if let Err(reason) = message.ecn.pass_on(&header, &mut arena[packet.clone()]) {
        context.counters.dropped(reason);
        return true;
    }
    context.counters.add(Count::FromPeersPackets, 1);
    context.counters.add(Count::FromPeersBytes, packet.len() as u64);
    coalescer.push_large(arena, packet, &header, vnet);
    true
}

/// Checks a datagram. Returns the length of its framing, and the inner header.
#[inline]
fn check(
    context: &Context<'_>,
    table: &Table,
    from: IpAddr,
    datagram: &[u8],
    last: &mut Option<LastAdmitted>,
) -> Result<(usize, Header), DropReason> {
    let lead = context.shared.tunnel.framing.strip(datagram)?;
    let packet = &datagram[lead..];
    let header = Header::parse(packet).ok_or(DropReason::Malformed)?;
    if !context.shared.tunnel.framing.announces(datagram, header.family) {
        return Err(DropReason::NotIp);
    }
    let (source, destination) = (header.source(packet), header.destination(packet));
    let same = last.is_some_and(|last| last.from == from && last.source == source && last.destination == destination);
    if !same {
        admit(context, table, from, source, destination)?;
        *last = Some(LastAdmitted { from, source, destination });
    }
    Ok((lead, header))
}

fn admit(
    context: &Context<'_>,
    table: &Table,
    from: IpAddr,
    source: IpAddr,
    destination: IpAddr,
) -> Result<(), DropReason> {
    let tunnel = &context.shared.tunnel;
    if from == tunnel.local.ip() {
        return Err(DropReason::Loop);
    }
    if is_many(destination) {
        return Err(DropReason::Multicast);
    }
    if tunnel.source_check && table.find(source).is_none_or(|peer| peer.to.ip() != from) {
        // Neighbour discovery between two hosts of a bridge has such sources, and is no sign of a wrong public address.
        if !matches!(source, IpAddr::V6(source) if source.is_unicast_link_local()) {
            context.shared.note_rejected_sender(from, source);
        }
        return Err(if table.has_sender(from) { DropReason::SourceSubnet } else { DropReason::SourceAddress });
    }
    // A packet for another host would go straight out again.
    if tunnel.own.is_some_and(|own| !own.contains(destination)) {
        return Err(DropReason::Destination);
    }
    Ok(())
}

/// Writes one packet, or several that are joined, to the device.
fn write(context: &Context<'_>, arena: &mut [u8], coalescer: &Coalescer, packet: &Joined) -> io::Result<()> {
    // The Ethernet header of the first packet stands for all.
    let link_header = context.shared.tunnel.framing.link_header();
    let vnet = packet.seal(arena).before(link_header).to_bytes();
    let Range { start, end } = packet.first().clone();
    let first = &arena[start - link_header..end];
    let count = packet.count();
    let written = if count == 1 {
        context.tun.write(&[IoSlice::new(&vnet), IoSlice::new(first)])
    } else {
        context.counters.add(Count::Coalesced, 1);
        context.counters.add(
            Count::CoalescedUdp,
            u64::from(Header::parse(&arena[start..end]).is_some_and(|header| header.protocol == UDP)),
        );
        let mut slices = [IoSlice::new(&[]); MOST + 1];
        slices[0] = IoSlice::new(&vnet);
        slices[1] = IoSlice::new(first);
        let bodies = coalescer.bodies(packet).map(|body| IoSlice::new(&arena[body]));
        slices[2..].iter_mut().zip(bodies).for_each(|(slice, body)| *slice = body);
        context.tun.write(&slices[..=count])
    };
    context.counters.add(Count::TunWrites, 1);
    match written {
        Ok(_) => Ok(()),
        Err(error) if error.raw_os_error() == Some(Errno::EBADFD as i32) => Err(error),
        // The device is down, or the kernel does not accept the packet.
        Err(_) => {
            context.counters.add(Count::Dropped(DropReason::WriteError), count as u64);
            Ok(())
        }
    }
}

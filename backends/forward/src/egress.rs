//! From the device to the peers: read, look up, segment, frame, send.

use std::{
    io::{self, ErrorKind, IoSlice},
    net::IpAddr,
    ops::Range,
    os::fd::AsFd,
    sync::atomic::Ordering,
    time::Instant,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use wire_state::VXLAN_LEAD;

use super::{
    counters::{Count, DropReason},
    ecn::Ecn,
    framing::Frame as _,
    icmp::{self, Limiter, Notice},
    packet::Header,
    queue::{Datagram, Queue},
    split::{Cut, complete},
    table::{Peer, Table},
    udp::{Message, Outbox, Piece, Udp},
    vnet::{self, Gso, VnetHeader},
    worker::Context,
};

/// The longest packet a device gives, in bytes, with an Ethernet header.
const LONGEST: usize = 65_535 + 40 + 14;
/// Bytes before a packet: for its vnet header, which the framing then overwrites.
const ROOM: usize = 32;
/// Bytes read in one turn: at most four of the largest packets, which fit into a CPU's own cache.
const ARENA: usize = 4 * 65_536 + ROOM + LONGEST;
/// Datagrams sent in one turn.
const MOST: usize = 256;
/// Milliseconds to wait for a full socket, before the rest of the turn is dropped.
const SEND_TIMEOUT: u8 = 5;

const _: () = assert!(ROOM >= VXLAN_LEAD && ROOM >= vnet::LEN);

/// The outgoing direction of one worker.
pub(crate) struct Egress {
    arena: Vec<u8>,
    heads: Vec<u8>,
    queue: Queue,
    messages: Vec<Message>,
    pieces: Vec<Piece>,
    outbox: Outbox,
    /// One for each kind of notice, so that none starves another.
    limiters: [Limiter; 3],
}

impl Egress {
    pub(crate) fn new() -> Self {
        Self {
            arena: vec![0; ARENA],
            heads: Vec::with_capacity(1 << 16),
            queue: Queue::default(),
            messages: Vec::new(),
            pieces: Vec::new(),
            outbox: Outbox::default(),
            limiters: std::array::from_fn(|_| Limiter::new(Instant::now())),
        }
    }

    /// Reads packets from the device until the arena is full or none is left, and sends them. Returns true if more may
    /// wait.
    ///
    /// # Errors
    /// When the device is gone.
    pub(crate) fn turn(&mut self, context: &Context<'_>, table: &Table) -> io::Result<bool> {
        self.heads.clear();
        self.queue.clear();
        let (mut used, mut reads, mut more) = (0, 0, true);
        while used + ROOM + LONGEST <= ARENA && self.queue.len() < MOST {
            let frame = used + ROOM;
            match context.tun.read(&mut self.arena[frame - vnet::LEN..frame + LONGEST]) {
                Ok(len) => {
                    reads += 1;
                    let end = frame + len.saturating_sub(vnet::LEN);
                    self.frame(context, table, frame..end);
                    used = end.next_multiple_of(64);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        context.counters.add(Count::TunReads, reads);
        self.send(context);
        Ok(more)
    }

    #[inline]
    fn frame(&mut self, context: &Context<'_>, table: &Table, frame: Range<usize>) {
        if let Err(reason) = self.try_frame(context, table, frame) {
            context.counters.dropped(reason);
        }
    }

    #[inline]
    fn try_frame(&mut self, context: &Context<'_>, table: &Table, frame: Range<usize>) -> Result<(), DropReason> {
        let framing = context.shared.tunnel.framing;
        let link_header = framing.link_header();
        let Range { start, end } = frame;
        let begin = start + link_header;
        let vnet = self.arena[start - vnet::LEN..start].first_chunk().and_then(VnetHeader::parse);
        let frame = self.arena[start..end].split_at_mut_checked(link_header);
        let (link, packet) = frame.ok_or(DropReason::Malformed)?;
        framing.leaves(link)?;
        let header = Header::parse(packet).ok_or(DropReason::Malformed)?;
        if !framing.announces_own(link, header.family) {
            return Err(DropReason::NotIp);
        }
        let vnet = vnet.ok_or(DropReason::Malformed)?.behind(link_header);
        let destination = header.destination(packet);
        if icmp::is_many(destination) {
            return Err(DropReason::Multicast);
        }
        let Some(peer) = table.find(destination) else {
            return Err(self.refuse(context, &header, begin..end, Notice::Unreachable, destination));
        };
        let cut = Cut::new(&vnet, &header, packet).map_err(|_| DropReason::Malformed)?;
        let mtu = context.mtu();
        let largest = cut.map_or(packet.len(), |cut| cut.largest(packet));
        if largest > mtu && header.dont_fragment(packet) {
            return Err(self.refuse(context, &header, begin..end, Notice::TooBig(mtu as u32), peer.device));
        }
        if link_header == 0 && !header.lower_ttl(packet) {
            return Err(self.refuse(context, &header, begin..end, Notice::TimeExceeded, peer.device));
        }
        if cut.is_none() {
            complete(&vnet, &header, packet).map_err(|_| DropReason::Malformed)?;
        }
        let socket = if context.sockets.len() > 1 { header.flow(packet) as usize % context.sockets.len() } else { 0 };
        match cut {
            None => self.whole(context, peer, &header, socket, begin..end),
            Some(cut) => {
                context.counters.add(Count::Segmented, 1);
                context.counters.add(Count::SegmentedUdp, u64::from(vnet.gso == Gso::Udp));
                self.cut(context, peer, &header, &cut, socket, begin..end);
            }
        }
        Ok(())
    }

    /// Queues a packet that is not segmented: its framing is written in front of it.
    #[inline]
    fn whole(&mut self, context: &Context<'_>, peer: &Peer, header: &Header, socket: usize, range: Range<usize>) {
        let framing = context.shared.tunnel.framing;
        let begin = range.start - framing.lead();
        framing.write(header.family, peer.mac, &mut self.arena[begin..range.start]);
        let ecn = Ecn::of(header, &self.arena[range.clone()]);
        let datagram = Datagram { head: (0, 0), body: (begin as u32, (range.end - begin) as u32), ecn };
        self.queue.push(peer.to, socket, datagram, context.shared.gso.load(Ordering::Relaxed));
    }

    /// Queues the segments of a large packet.
    #[inline]
    fn cut(
        &mut self,
        context: &Context<'_>,
        peer: &Peer,
        header: &Header,
        cut: &Cut,
        socket: usize,
        range: Range<usize>,
    ) {
        let framing = context.shared.tunnel.framing;
        let mut lead = [0; VXLAN_LEAD];
        let lead = &mut lead[..framing.lead()];
        // With the Ethernet header, if the device has written one.
        lead.copy_from_slice(&self.arena[range.start - framing.lead()..range.start]);
        framing.write(header.family, peer.mac, lead);
        let join = context.shared.gso.load(Ordering::Relaxed);
        let packet = &self.arena[range.clone()];
        let ecn = Ecn::of(header, packet);
        let queue = &mut self.queue;
        cut.split(packet, lead, &mut self.heads, |segment| {
            let head = (segment.head.start as u32, segment.head.len() as u32);
            let body = ((range.start + segment.body.start) as u32, segment.body.len() as u32);
            queue.push(peer.to, socket, Datagram { head, body, ecn }, join);
        });
    }

    /// Sends an ICMP error to the sender of a packet, within the rate limit, and returns the reason for the drop.
    #[cold]
    fn refuse(
        &mut self,
        context: &Context<'_>,
        header: &Header,
        range: Range<usize>,
        notice: Notice,
        source: IpAddr,
    ) -> DropReason {
        let packet = &self.arena[range];
        let limiter = match notice {
            Notice::TimeExceeded => &mut self.limiters[0],
            Notice::Unreachable => &mut self.limiters[1],
            Notice::TooBig(_) => &mut self.limiters[2],
        };
        // A bridge says nothing of frames that it drops.
        let is_routed = context.shared.tunnel.framing.link_header() == 0;
        if is_routed && limiter.allow(Instant::now()) {
            let mut text = [0; icmp::LONGEST];
            if let Some(len) = notice.write(header, packet, source, &mut text) {
                let vnet = VnetHeader::PLAIN.to_bytes();
                let written = context.tun.write(&[IoSlice::new(&vnet), IoSlice::new(&text[..len])]);
                context.counters.add(Count::IcmpSent, u64::from(written.is_ok()));
            }
        }
        match notice {
            Notice::TimeExceeded => DropReason::Ttl,
            Notice::Unreachable => DropReason::NoRoute,
            Notice::TooBig(_) => DropReason::TooBig,
        }
    }

    /// Sends all that is queued, socket by socket.
    fn send(&mut self, context: &Context<'_>) {
        for (number, socket) in context.sockets.iter().enumerate() {
            self.messages.clear();
            self.pieces.clear();
            let mut joined = 0;
            for run in self.queue.runs().iter().filter(|run| run.socket == number) {
                self.queue.message(run, &mut self.messages, &mut self.pieces);
                joined += u64::from(run.count > 1);
            }
            if !self.messages.is_empty() {
                context.counters.add(Count::GsoMessages, joined);
                self.send_through(context, socket);
            }
        }
    }

    fn send_through(&mut self, context: &Context<'_>, socket: &Udp) {
        let mut done = 0;
        while done < self.messages.len() {
            let messages = &self.messages[done..];
            let sent = socket.send(messages, &self.pieces, &self.heads, &self.arena, &mut self.outbox);
            context.counters.add(Count::DatagramSends, 1);
            let error = match sent {
                Ok(sent) => {
                    self.count_sent(context, done..done + sent);
                    done += sent;
                    continue;
                }
                Err(error) => error,
            };
            match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::EINTR) => {}
                Some(Errno::EAGAIN) if is_writable(socket) => {}
                Some(Errno::EAGAIN) => {
                    let (left, _) = self.content(done..self.messages.len());
                    context.counters.add(Count::Dropped(DropReason::SendError), left);
                    return;
                }
                // The link cannot segment (EIO), or its MTU is smaller than ours (EMSGSIZE, EINVAL): sent one by one.
                Some(errno @ (Errno::EIO | Errno::EINVAL | Errno::EMSGSIZE | Errno::EOPNOTSUPP))
                    if self.messages[done].segment.is_some() =>
                {
                    if errno == Errno::EIO {
                        context.shared.gso.store(false, Ordering::Relaxed);
                    }
                    let singles = self.messages[done].apart(&self.pieces);
                    self.messages.splice(done..=done, singles);
                }
                _ => {
                    let (count, _) = self.content(done..done + 1);
                    context.counters.add(Count::Dropped(DropReason::SendError), count);
                    done += 1;
                }
            }
        }
    }

    /// Counts the inner packets that the kernel has taken, and their bytes.
    fn count_sent(&self, context: &Context<'_>, messages: Range<usize>) {
        let (packets, bytes) = self.content(messages);
        let leads = packets * context.shared.tunnel.framing.lead() as u64;
        context.counters.add(Count::ToPeersPackets, packets);
        context.counters.add(Count::ToPeersBytes, bytes - leads);
    }

    /// The number of datagrams in these messages, and of their bytes.
    fn content(&self, messages: Range<usize>) -> (u64, u64) {
        let contents = self.messages[messages].iter().map(|message| message.content(&self.pieces));
        contents.fold((0, 0), |sum, content| (sum.0 + content.0, sum.1 + content.1))
    }
}

fn is_writable(socket: &Udp) -> bool {
    let mut wait = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    poll(&mut wait, PollTimeout::from(SEND_TIMEOUT)).is_ok_and(|ready| ready > 0)
}

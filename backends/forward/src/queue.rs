//! Datagrams to be sent: those of one peer, one size and one ECN codepoint are joined to one message, in order for each
//! peer.

use std::net::SocketAddr;

use super::{
    ecn::Ecn,
    udp::{Message, Piece},
};

/// The most datagrams in one message (`UDP_MAX_SEGMENTS` of linux/udp.h before 6.10).
const MOST: usize = 64;
/// The longest UDP payload over IPv4, in bytes: 65 535 less IP and UDP headers.
const LONGEST: usize = 65_507;
/// The number of last messages that are searched for one to the same peer.
const WINDOW: usize = 8;

/// One datagram: a header in the side array, which may be empty, and bytes of the arena; of each the offset and the
/// length.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Datagram {
    pub(crate) head: (u32, u32),
    pub(crate) body: (u32, u32),
    /// The codepoint of its outer header.
    pub(crate) ecn: Ecn,
}

impl Datagram {
    const fn len(&self) -> usize {
        (self.head.1 + self.body.1) as usize
    }

    fn pieces(&self) -> impl Iterator<Item = Piece> {
        let head = (self.head.1 > 0).then_some(Piece::Head(self.head.0, self.head.1));
        let body = (self.body.1 > 0).then_some(Piece::Body(self.body.0, self.body.1));
        head.into_iter().chain(body)
    }
}

/// Datagrams for one peer through one socket, all but the last of one size.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    to: SocketAddr,
    /// The index of the socket that sends it.
    pub(crate) socket: usize,
    size: usize,
    total: usize,
    ecn: Ecn,
    pub(crate) count: usize,
    open: bool,
    first: usize,
    last: usize,
}

/// All datagrams of one turn.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    datagrams: Vec<(Datagram, usize)>,
    runs: Vec<Run>,
}

impl Queue {
    pub(crate) fn clear(&mut self) {
        self.datagrams.clear();
        self.runs.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.datagrams.len()
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Adds a datagram for a peer through a socket; with `join`, to the last message to this peer if possible.
    #[inline]
    pub(crate) fn push(&mut self, to: SocketAddr, socket: usize, datagram: Datagram, join: bool) {
        let (at, len) = (self.datagrams.len(), datagram.len());
        self.datagrams.push((datagram, usize::MAX));
        let behind = self.runs.len().saturating_sub(WINDOW);
        let last = self.runs[behind..].iter_mut().rfind(|run| run.socket == socket && run.to == to);
        if let Some(run) = last
            && join
            && run.open
            && run.ecn == datagram.ecn
            && len <= run.size
            && run.count < MOST
            && run.total + len <= LONGEST
        {
            self.datagrams[run.last].1 = at;
            (run.last, run.count, run.total) = (at, run.count + 1, run.total + len);
            run.open = len == run.size;
            return;
        }
        let open = len > 0;
        let ecn = datagram.ecn;
        self.runs.push(Run { to, socket, size: len, total: len, ecn, count: 1, open, first: at, last: at });
    }

    /// The datagrams of a run.
    fn datagrams(&self, run: &Run) -> impl Iterator<Item = &Datagram> {
        let mut next = Some(run.first);
        std::iter::from_fn(move || {
            let (datagram, after) = &self.datagrams[next?];
            next = (*after != usize::MAX).then_some(*after);
            Some(datagram)
        })
    }

    /// Appends a run as one message.
    pub(crate) fn message(&self, run: &Run, messages: &mut Vec<Message>, pieces: &mut Vec<Piece>) {
        let begin = pieces.len();
        pieces.extend(self.datagrams(run).flat_map(Datagram::pieces));
        let segment = (run.count > 1).then_some(run.size as u16);
        messages.push(Message { to: run.to, pieces: begin..pieces.len(), segment, ecn: run.ecn });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 8285).into()
    }

    fn datagram(head: u32, body: u32) -> Datagram {
        Datagram { head: (0, head), body: (0, body), ecn: Ecn::NotEct }
    }

    /// The messages in a queue: peer, segment size, and the sizes of their datagrams.
    fn sent(queue: &Queue) -> Vec<(u16, Option<u16>, Vec<u32>)> {
        let message = |run: &Run| {
            let (mut messages, mut pieces) = (Vec::new(), Vec::new());
            queue.message(run, &mut messages, &mut pieces);
            let sizes = queue.datagrams(run).map(|datagram| datagram.body.1).collect();
            (
                u16::from(match run.to {
                    SocketAddr::V4(to) => to.ip().octets()[3],
                    SocketAddr::V6(_) => 0,
                }),
                messages[0].segment,
                sizes,
            )
        };
        queue.runs().iter().map(message).collect()
    }

    #[test]
    fn datagrams_of_one_peer_and_size_share_a_message_and_none_overtakes() {
        let mut queue = Queue::default();
        let mut push = |to: u8, len: u32| queue.push(peer(to), 0, datagram(0, len), true);
        for (to, len) in [(1, 100), (2, 50), (1, 100), (2, 60), (1, 20), (1, 20), (2, 60), (1, 100)] {
            push(to, len);
        }
        assert_eq!(
            sent(&queue),
            [
                (1, Some(100), vec![100, 100, 20]),
                (2, None, vec![50]),
                (2, Some(60), vec![60, 60]),
                (1, None, vec![20]),
                (1, None, vec![100]),
            ]
        );
    }

    #[test]
    fn only_datagrams_of_one_ecn_codepoint_share_a_message_and_none_overtakes() {
        let mut queue = Queue::default();
        for ecn in [Ecn::Ect0, Ecn::Ect0, Ecn::Ce, Ecn::Ect0, Ecn::NotEct, Ecn::NotEct] {
            queue.push(peer(1), 0, Datagram { ecn, ..datagram(0, 100) }, true);
        }
        let (mut messages, mut pieces) = (Vec::new(), Vec::new());
        queue.runs().iter().for_each(|run| queue.message(run, &mut messages, &mut pieces));
        let marked: Vec<_> = messages.iter().map(|message| (message.ecn, message.content(&pieces).0)).collect();
        assert_eq!(marked, [(Ecn::Ect0, 2), (Ecn::Ce, 1), (Ecn::Ect0, 1), (Ecn::NotEct, 2)]);
    }

    #[test]
    fn a_message_has_no_more_than_the_kernel_takes() {
        let mut queue = Queue::default();
        for _ in 0..130 {
            queue.push(peer(1), 0, datagram(0, 64), true);
        }
        assert_eq!(queue.runs().iter().map(|run| run.count).collect::<Vec<_>>(), [64, 64, 2]);
        queue.clear();
        for _ in 0..46 {
            queue.push(peer(1), 0, datagram(22, 1450), true);
        }
        assert_eq!(queue.runs().iter().map(|run| run.count).collect::<Vec<_>>(), [44, 2]);
        queue.clear();
        for _ in 0..3 {
            queue.push(peer(1), 0, datagram(0, 64), false);
        }
        assert_eq!(queue.runs().len(), 3);
    }
}

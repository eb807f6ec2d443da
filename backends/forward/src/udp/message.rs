//! Messages to send: each has one or several datagrams, which are pieces of two arrays.

use std::{net::SocketAddr, ops::Range};

use super::Ecn;

/// Bytes of a datagram: offset and length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// In the first of the two arrays given to [`super::Udp::send`].
    Head(u32, u32),
    /// In the second.
    Body(u32, u32),
}

/// One message: a datagram, or several of one size of which the last may be shorter.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) to: SocketAddr,
    /// Its pieces, as a range of those given to [`super::Udp::send`].
    pub(crate) pieces: Range<usize>,
    /// The size of the datagrams if there are several, in bytes.
    pub(crate) segment: Option<u16>,
    /// The codepoint of the outer header of each datagram.
    pub(crate) ecn: Ecn,
}

impl Piece {
    pub(super) const fn len(self) -> usize {
        match self {
            Self::Head(_, len) | Self::Body(_, len) => len as usize,
        }
    }
}

impl Message {
    /// The number of its datagrams, and of its bytes in all.
    pub(crate) fn content(&self, pieces: &[Piece]) -> (u64, u64) {
        let len: usize = pieces[self.pieces.clone()].iter().map(|piece| piece.len()).sum();
        (self.segment.map_or(1, |size| len.div_ceil(usize::from(size).max(1)) as u64), len as u64)
    }

    /// The same datagrams, each in a message of its own.
    pub(crate) fn apart(&self, pieces: &[Piece]) -> Vec<Self> {
        let size = self.segment.map_or(usize::MAX, usize::from);
        let mut singles = Vec::new();
        let (mut begin, mut len) = (self.pieces.start, 0);
        for at in self.pieces.clone() {
            len += pieces[at].len();
            if len >= size || at + 1 == self.pieces.end {
                singles.push(Self { to: self.to, pieces: begin..at + 1, segment: None, ecn: self.ecn });
                (begin, len) = (at + 1, 0);
            }
        }
        singles
    }
}

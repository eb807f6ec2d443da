//! Counters of a tunnel: packets moved, and packets dropped by reason.

use std::sync::atomic::{AtomicU64, Ordering};

/// The reason why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropReason {
    /// Truncated, or its header is inconsistent.
    Malformed,
    /// No peer has the destination.
    NoRoute,
    /// The sender is no peer.
    SourceAddress,
    /// The inner source does not belong to the sending peer.
    SourceSubnet,
    /// The inner destination is not in our subnet.
    Destination,
    /// Another VNI, or none.
    Vni,
    /// The inner destination MAC address is not ours.
    InnerMac,
    /// The inner destination is multicast or broadcast.
    Multicast,
    /// Neither IPv4 nor IPv6.
    NotIp,
    /// The TTL has expired.
    Ttl,
    /// Longer than the MTU.
    TooBig,
    /// Sent by ourselves.
    Loop,
    /// Marked as congested in the underlay, and its ends do not support ECN.
    Congestion,
    /// The socket refused it.
    SendError,
    /// The device refused it.
    WriteError,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    ToPeersPackets,
    ToPeersBytes,
    FromPeersPackets,
    FromPeersBytes,
    TunReads,
    TunWrites,
    DatagramSends,
    DatagramReceives,
    Segmented,
    SegmentedUdp,
    GsoMessages,
    Coalesced,
    CoalescedUdp,
    GroDatagrams,
    IcmpSent,
    Dropped(DropReason),
}

/// The counters' names, in the order of [`Count::index`].
const NAMES: [&str; COUNTERS] = [
    "to_peers_packets",
    "to_peers_bytes",
    "from_peers_packets",
    "from_peers_bytes",
    "tun_reads",
    "tun_writes",
    "datagram_sends",
    "datagram_receives",
    "segmented",
    "segmented_udp",
    "gso_messages",
    "coalesced",
    "coalesced_udp",
    "gro_datagrams",
    "icmp_sent",
    "dropped_malformed",
    "dropped_no_route",
    "dropped_source_address",
    "dropped_source_subnet",
    "dropped_destination",
    "dropped_vni",
    "dropped_inner_mac",
    "dropped_multicast",
    "dropped_not_ip",
    "dropped_ttl",
    "dropped_too_big",
    "dropped_loop",
    "dropped_congestion",
    "dropped_send_error",
    "dropped_write_error",
];

const COUNTERS: usize = 15 + 15;

impl Count {
    const fn index(self) -> usize {
        match self {
            Self::ToPeersPackets => 0,
            Self::ToPeersBytes => 1,
            Self::FromPeersPackets => 2,
            Self::FromPeersBytes => 3,
            Self::TunReads => 4,
            Self::TunWrites => 5,
            Self::DatagramSends => 6,
            Self::DatagramReceives => 7,
            Self::Segmented => 8,
            Self::SegmentedUdp => 9,
            Self::GsoMessages => 10,
            Self::Coalesced => 11,
            Self::CoalescedUdp => 12,
            Self::GroDatagrams => 13,
            Self::IcmpSent => 14,
            Self::Dropped(reason) => 15 + reason as usize,
        }
    }
}

/// The counters of one worker. Only that worker writes them, so that CPUs do not compete for a cache line.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Counters {
    counted: [AtomicU64; COUNTERS],
    /// Odd during a turn, even between two. Each turn has another number.
    turn: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self { counted: [const { AtomicU64::new(0) }; COUNTERS], turn: AtomicU64::new(0) }
    }
}

impl Counters {
    /// Adds to a counter. Only its worker calls it.
    #[inline]
    pub(crate) fn add(&self, count: Count, number: u64) {
        let counter = &self.counted[count.index()];
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(number), Ordering::Relaxed);
    }

    /// Marks the beginning of a turn. Only its worker calls it.
    #[inline]
    pub(crate) fn begin_turn(&self) {
        self.turn.store((self.turn.load(Ordering::Relaxed) + 1) | 1, Ordering::Relaxed);
    }

    /// Marks that the worker waits, for an unlimited time. Only its worker calls it.
    #[inline]
    pub(crate) fn rest(&self) {
        self.turn.store((self.turn.load(Ordering::Relaxed) + 1) & !1, Ordering::Relaxed);
    }

    /// The number of the current turn; `None` while the worker waits.
    pub(crate) fn turn(&self) -> Option<u64> {
        Some(self.turn.load(Ordering::Relaxed)).filter(|turn| turn % 2 == 1)
    }

    #[inline]
    pub(crate) fn dropped(&self, reason: DropReason) {
        self.add(Count::Dropped(reason), 1);
    }
}

/// The sums over several workers, by name.
pub(crate) fn totals<'a>(
    workers: impl Iterator<Item = &'a Counters> + Clone,
) -> impl Iterator<Item = (&'static str, u64)> {
    NAMES.iter().enumerate().map(move |(index, name)| {
        (*name, workers.clone().map(|counters| counters.counted[index].load(Ordering::Relaxed)).sum())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_turn_has_a_number_of_its_own_and_a_rest_has_none() {
        let counters = Counters::default();
        let mut turns = vec![counters.turn()];
        for begins in [true, true, false, false, true, true] {
            if begins {
                counters.begin_turn();
            } else {
                counters.rest();
            }
            turns.push(counters.turn());
        }
        assert_eq!(turns, [None, Some(1), Some(3), None, None, Some(5), Some(7)]);
    }

    #[test]
    fn each_counter_has_its_name() {
        let counters = Counters::default();
        counters.add(Count::GroDatagrams, 2);
        counters.dropped(DropReason::Malformed);
        counters.dropped(DropReason::WriteError);
        let found: Vec<_> = totals([&counters, &counters].into_iter()).filter(|(_, number)| *number > 0).collect();
        assert_eq!(found, [("gro_datagrams", 4), ("dropped_malformed", 2), ("dropped_write_error", 2)]);
    }
}

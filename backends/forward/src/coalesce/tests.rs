use proptest::prelude::*;

use super::{super::packet::put32, *};

const BOTH: Joinable = Joinable { tcp: true, udp: true };

/// A large packet as a device gives it: header, payload, and vnet header.
#[derive(Clone, Debug)]
struct Large {
    vnet: VnetHeader,
    bytes: Vec<u8>,
}

#[derive(Clone, Debug)]
struct Shape {
    family: Family,
    tcp: bool,
    options: Vec<u8>,
    flags: u8,
    size: usize,
    payload: Vec<u8>,
    noise: [u8; 40],
}

fn shape() -> impl Strategy<Value = Shape> {
    let flags = proptest::sample::subsequence(vec![FIN, PSH, CWR, 0x40], 0..=4);
    // As many segments as are joined, of odd and even sizes, the last one shorter or not.
    let sizes = (1usize..=1460, 2usize..=40, 0usize..1460);
    (any::<bool>(), any::<bool>(), 0usize..=10, flags, sizes, any::<[u8; 40]>(), any::<u64>()).prop_map(
        |(v6, tcp, options, flags, (size, count, less), noise, seed)| {
            let len = (size * count - less.min(size - 1)).min(65_000);
            let payload = (0..len as u64).map(|at| (seed.wrapping_mul(at | 1) >> 32) as u8).collect();
            Shape {
                family: if v6 { Family::V6 } else { Family::V4 },
                tcp,
                options: noise.iter().copied().cycle().take(options * 4).collect(),
                flags: ACK | flags.into_iter().fold(0, |all, flag| all | flag),
                size,
                payload,
                noise,
            }
        },
    )
}

impl Shape {
    fn large(&self) -> Large {
        let mut bytes = match self.family {
            Family::V4 => {
                let mut header = self.noise[..20].to_vec();
                header[0] = 0x45;
                header[6..8].copy_from_slice(&[self.noise[6] & 0x40, 0]);
                header[9] = if self.tcp { TCP } else { UDP };
                header
            }
            Family::V6 => {
                let mut header = self.noise.to_vec();
                header[0] = 0x60 | (header[0] & 15);
                header[6] = if self.tcp { TCP } else { UDP };
                header
            }
        };
        let start = bytes.len();
        let transport = if self.tcp { 20 + self.options.len() } else { 8 };
        bytes.extend(self.noise.iter().copied().cycle().take(transport.min(20)));
        if self.tcp {
            bytes[start + 12] = ((transport / 4) << 4) as u8 | (self.noise[1] & 1);
            bytes[start + 13] = self.flags;
            bytes[start + 18..start + 20].fill(0);
            bytes.extend(&self.options);
        }
        let headers = bytes.len();
        bytes.extend(&self.payload);
        let (total, len) = (bytes.len(), bytes.len() - start);
        match self.family {
            Family::V4 => put16(&mut bytes, 2, total as u16),
            Family::V6 => put16(&mut bytes, 4, (total - 40) as u16),
        }
        let header = Header::parse(&bytes).unwrap();
        set_header_checksum(&header, &mut bytes);
        let offset = if self.tcp { 16 } else { 6 };
        if !self.tcp {
            put16(&mut bytes, start + 4, len as u16);
        }
        let partial = fold(pseudo(&bytes[header.addresses()], header.protocol, len));
        bytes[start + offset..start + offset + 2].copy_from_slice(&partial.to_ne_bytes());
        let gso = match (self.tcp, self.family) {
            (true, Family::V4) => Gso::Tcp4,
            (true, Family::V6) => Gso::Tcp6,
            (false, _) => Gso::Udp,
        };
        let vnet = VnetHeader {
            gso,
            ecn: self.tcp && self.flags & CWR != 0,
            needs_checksum: true,
            header_len: headers as u16,
            gso_size: self.size as u16,
            checksum_start: start as u16,
            checksum_offset: offset as u16,
        };
        Large { vnet, bytes }
    }
}

/// The packets that a large one is segmented into.
fn split(large: &Large) -> Vec<Vec<u8>> {
    let header = Header::parse(&large.bytes).unwrap();
    let cut = super::super::split::Cut::new(&large.vnet, &header, &large.bytes).unwrap().unwrap();
    let (mut heads, mut segments) = (Vec::new(), Vec::new());
    cut.split(&large.bytes, &[], &mut heads, |segment| segments.push(segment));
    segments.into_iter().map(|segment| [&heads[segment.head], &large.bytes[segment.body]].concat()).collect()
}

/// Clears the flag, and corrects the checksum.
fn without_cwr(packet: &mut [u8]) {
    let header = Header::parse(packet).unwrap();
    let start = header.len;
    packet[start + 13] &= !CWR;
    packet[start + 16..start + 18].fill(0);
    let total = pseudo(&packet[header.addresses()], header.protocol, packet.len() - start) + sum(&packet[start..]);
    packet[start + 16..start + 18].copy_from_slice(&(!fold(total)).to_ne_bytes());
}

/// The packets that the device gets for those that came in.
fn coalesce(packets: &[Vec<u8>], joinable: Joinable) -> Vec<Large> {
    let mut arena = packets.concat();
    let mut coalescer = Coalescer::default();
    let mut at = 0;
    for packet in packets {
        let header = Header::parse(packet).unwrap();
        coalescer.push(&arena, at..at + packet.len(), &header, joinable);
        at += packet.len();
    }
    let large = |joined: &Joined| {
        let vnet = joined.seal(&mut arena);
        let mut bytes = arena[joined.first().clone()].to_vec();
        bytes.extend(coalescer.bodies(joined).flat_map(|range| arena[range].to_vec()));
        Large { vnet, bytes }
    };
    coalescer.packets().iter().map(large).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn joining_what_was_cut_gives_it_back(shape in shape()) {
        let large = shape.large();
        let segments = split(&large);
        prop_assert_eq!(segments.len(), shape.payload.len().div_ceil(shape.size));
        for segment in &segments {
            let header = Header::parse(segment).unwrap();
            prop_assert_eq!(header.total, segment.len());
            prop_assert!(is_right(&header, segment), "a checksum is wrong");
        }
        let joined = coalesce(&segments, BOTH);
        prop_assert_eq!(joined.len(), 1);
        prop_assert_eq!(&joined[0].bytes, &large.bytes);
        if segments.len() > 1 {
            prop_assert_eq!(joined[0].vnet, large.vnet);
        }
    }

    /// Another implementation of the same, from the field.
    #[test]
    fn cutting_gives_what_tun_rs_gives(shape in shape()) {
        let mut large = shape.large();
        let ours = split(&large);
        let header = tun_rs::VirtioNetHdr::decode(&large.vnet.to_bytes()).unwrap();
        let (mut packets, mut sizes) = (vec![vec![0; 70_000]; ours.len()], vec![0; ours.len()]);
        let v6 = shape.family == Family::V6;
        let count = tun_rs::gso_split(&mut large.bytes, header, &mut packets, &mut sizes, 0, v6).unwrap();
        let mut theirs: Vec<_> = packets.iter().zip(&sizes).take(count).map(|(packet, size)| packet[..*size].to_vec()).collect();
        // CWR belongs to the first alone (RFC 3168 §6.1.2, and the kernel's tcp_gso_segment); tun-rs leaves it on all.
        if shape.tcp && shape.flags & CWR != 0 {
            theirs.iter_mut().skip(1).for_each(|packet| without_cwr(packet));
        }
        prop_assert_eq!(ours, theirs);
    }

    #[test]
    fn what_is_not_joined_stays_as_it_was(shape in shape()) {
        let segments = split(&shape.large());
        let none = Joinable { tcp: false, udp: false };
        let joined = coalesce(&segments, none);
        prop_assert_eq!(joined.iter().map(|one| &one.bytes).collect::<Vec<_>>(), segments.iter().collect::<Vec<_>>());
        for one in joined {
            // One checksum in 65 536 looks as if it were missing: finishing it gives the same again.
            let mut finished = one.bytes.clone();
            let header = Header::parse(&finished).unwrap();
            super::super::split::complete(&one.vnet, &header, &mut finished).unwrap();
            prop_assert!(one.vnet.gso == Gso::None && finished == one.bytes);
        }
    }

    #[test]
    fn one_byte_that_differs_keeps_packets_apart(shape in shape(), at in 0usize..60, with in 1u8..) {
        let mut segments = split(&shape.large());
        prop_assume!(segments.len() > 1);
        let header = Header::parse(&segments[1]).unwrap();
        let end = if shape.tcp { header.len + 20 + shape.options.len() } else { header.len + 8 };
        prop_assume!(at < end);
        // The ID of what is never fragmented means nothing.
        let has_idle_id = shape.family == Family::V4 && header.dont_fragment(&segments[1]);
        prop_assume!(!(has_idle_id && (4..6).contains(&at)));
        segments[1][at] ^= with;
        let Some(header) = Header::parse(&segments[1]) else { return Ok(()) };
        prop_assume!(header.total <= segments[1].len());
        // Whatever was changed, bytes are neither lost nor made up, and nothing with a wrong checksum is joined.
        let joined = coalesce(&segments[..2], BOTH);
        prop_assert_eq!(joined.len(), 2, "byte {} was ignored", at);
    }

    #[test]
    fn flows_that_alternate_are_joined_each_for_itself(one in shape(), other in shape()) {
        prop_assume!(one.noise != other.noise);
        let (one, other) = (one.large(), other.large());
        let (first, second) = (split(&one), split(&other));
        let mut mixed = Vec::new();
        for at in 0..first.len().max(second.len()) {
            mixed.extend(first.get(at).cloned());
            mixed.extend(second.get(at).cloned());
        }
        let joined = coalesce(&mixed, BOTH);
        prop_assert_eq!(joined.len(), 2);
        prop_assert_eq!([&joined[0].bytes, &joined[1].bytes], [&one.bytes, &other.bytes]);
    }

    #[test]
    fn any_bytes_are_kept(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 20..120), 0..8)) {
        let mut packets = packets;
        for packet in &mut packets {
            packet[0] = 0x45;
            let len = packet.len() as u16;
            put16(packet, 2, len);
            put32(packet, 12, 1);
        }
        let joined = coalesce(&packets, BOTH);
        prop_assert_eq!(joined.iter().map(|one| one.bytes.clone()).collect::<Vec<_>>().concat(), packets.concat());
    }
}

#[test]
fn a_packet_does_not_overtake_another_of_its_flow() {
    let shape = Shape {
        family: Family::V4,
        tcp: true,
        options: Vec::new(),
        flags: ACK,
        size: 100,
        payload: vec![7; 300],
        noise: [1; 40],
    };
    let mut segments = split(&shape.large());
    // A pure acknowledgement of the same flow between two segments.
    let mut acknowledgement = segments[0][..40].to_vec();
    put16(&mut acknowledgement, 2, 40);
    segments.insert(1, acknowledgement);
    let joined = coalesce(&segments, BOTH);
    assert_eq!(joined.iter().map(|one| one.bytes.len()).collect::<Vec<_>>(), [140, 40, 240]);
}

#[test]
fn udp_without_a_checksum_is_left_alone() {
    let shape = Shape {
        family: Family::V4,
        tcp: false,
        options: Vec::new(),
        flags: 0,
        size: 100,
        payload: vec![7; 300],
        noise: [1; 40],
    };
    let mut segments = split(&shape.large());
    for segment in &mut segments {
        segment[26..28].fill(0);
    }
    assert_eq!(coalesce(&segments, BOTH).len(), 3);
}

//! Entry points for a fuzzer into the code that reads packets of others: each takes any bytes, and panics if a promise
//! is broken.

use wire_net::{MacAddr, Vni};

use wire_state::Framing;

use super::{
    coalesce::{Coalescer, Joinable},
    ecn::Ecn,
    framing::Frame as _,
    icmp::{LONGEST, Notice},
    packet::Header,
    split::{Cut, complete},
    unfinished,
    vnet::{self, VnetHeader},
};

const MTU: usize = 1450;

/// Feeds a datagram from the underlay, with each framing: parsed, and made ready for the device.
pub fn incoming(datagram: &[u8]) {
    let vxlan = Framing::Vxlan { vni: Vni::new(1).expect("24 bits"), mac: MacAddr::new([2, 0, 0, 0, 0, 1]) };
    let ethernet = Framing::Ethernet { vni: Vni::new(1).expect("24 bits") };
    for framing in [Framing::Raw, vxlan, ethernet] {
        let Ok(lead) = framing.strip(datagram) else { continue };
        let packet = &datagram[lead..];
        let Some(header) = Header::parse(packet) else { continue };
        assert!(header.len <= header.total && header.total <= packet.len(), "a header that is not within its packet");
        let _ = (header.source(packet), header.destination(packet), framing.announces(datagram, header.family));
        for size in [None, Some(1), Some(1000)] {
            if let Some(vnet) = unfinished::large(&header, packet, size, MTU) {
                assert!(usize::from(vnet.header_len) < header.total, "a large packet without a payload");
            }
        }
        for class in 0..4 {
            let mut marked = packet.to_vec();
            if Ecn::of_class(class).pass_on(&header, &mut marked).is_ok() {
                assert_eq!(Header::parse(&marked), Some(header), "a mark changes nothing else");
            }
        }
        let mut arena = datagram.to_vec();
        let mut coalescer = Coalescer::default();
        coalescer.push(&arena, lead..lead + header.total, &header, Joinable { tcp: true, udp: true });
        let joined = &coalescer.packets()[0];
        joined.seal(&mut arena);
        assert_eq!(arena, datagram, "one packet alone is not changed");
    }
}

/// Feeds a packet from the device, its vnet header first: segmented, completed, answered.
pub fn outgoing(bytes: &[u8]) {
    let Some((vnet, packet)) = bytes.split_first_chunk::<{ vnet::LEN }>() else { return };
    let (Some(vnet), Some(header)) = (VnetHeader::parse(vnet), Header::parse(packet)) else { return };
    let mut packet = packet.to_vec();
    let mut text = [0; LONGEST];
    for notice in [Notice::TimeExceeded, Notice::Unreachable, Notice::TooBig(1400)] {
        let len = notice.write(&header, &packet, header.destination(&packet), &mut text);
        assert!(len.is_none_or(|len| Header::parse(&text[..len]).is_some_and(|notice| notice.total == len)));
    }
    header.lower_ttl(&mut packet);
    match Cut::new(&vnet, &header, &packet) {
        Ok(Some(cut)) => {
            let (mut heads, mut bodies, mut count) = (Vec::new(), 0, 0);
            cut.split(&packet, &[], &mut heads, |segment| {
                assert!(segment.body.end <= packet.len() && segment.head.len() == cut.headers());
                (bodies, count) = (bodies + segment.body.len(), count + 1);
            });
            assert_eq!((bodies + cut.headers(), count), (packet.len(), cut.count(&packet)), "bytes are lost");
        }
        Ok(None) => drop(complete(&vnet, &header, &mut packet)),
        Err(_) => {}
    }
}

/// Feeds several packets at once, each with its length before it: joined where possible, and none is lost.
pub fn joining(bytes: &[u8]) {
    let (mut arena, mut packets) = (Vec::new(), Vec::new());
    let mut rest = bytes;
    while let Some((len, after)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_be_bytes(*len)).min(after.len());
        let (packet, after) = after.split_at(len);
        rest = after;
        if let Some(header) = Header::parse(packet) {
            packets.push((arena.len()..arena.len() + header.total, header));
            arena.extend(&packet[..header.total]);
        }
    }
    let mut coalescer = Coalescer::default();
    for (range, header) in &packets {
        coalescer.push(&arena, range.clone(), header, Joinable { tcp: true, udp: true });
    }
    let count: usize = coalescer.packets().iter().map(super::coalesce::Joined::count).sum();
    assert_eq!(count, packets.len(), "packets are lost or made up");
    for joined in coalescer.packets() {
        joined.seal(&mut arena);
        let bodies: usize = coalescer.bodies(joined).map(|body| body.len()).sum();
        let header = Header::parse(&arena[joined.first().clone()]);
        let total = joined.first().len() + bodies;
        // The header of a joined packet has the length of the whole; it was parsed when it came.
        assert!(joined.count() == 1 || header.is_none() || header.is_some_and(|header| header.total == total));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::prelude::*;

    use super::*;

    /// All files of a target's corpus.
    fn corpus(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        let files = fs::read_dir(&folder).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap());
        files.collect()
    }

    #[test]
    fn the_corpus_keeps_all_promises() {
        for (target, feed) in [("incoming", incoming as fn(&[u8])), ("outgoing", outgoing), ("joining", joining)] {
            let corpus = corpus(target);
            assert!(corpus.len() >= 5, "{target} has {} files", corpus.len());
            corpus.iter().for_each(|bytes| feed(bytes));
        }
    }

    /// A file of the corpus with some of its bytes changed, or cut short.
    fn nearly(target: &'static str) -> impl Strategy<Value = Vec<u8>> {
        let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
        (prop::sample::select(corpus(target)), changes, any::<prop::sample::Index>(), any::<bool>()).prop_map(
            |(mut bytes, changes, end, cut)| {
                for (at, with) in changes {
                    let at = at.index(bytes.len().min(80));
                    bytes[at] = with;
                }
                if cut {
                    bytes.truncate(end.index(bytes.len()));
                }
                bytes
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn nearly_good_datagrams_keep_all_promises(bytes in nearly("incoming")) {
            incoming(&bytes);
        }

        #[test]
        fn nearly_good_packets_keep_all_promises(bytes in nearly("outgoing")) {
            outgoing(&bytes);
        }

        #[test]
        fn nearly_good_flows_keep_all_promises(bytes in nearly("joining")) {
            joining(&bytes);
        }
    }
}

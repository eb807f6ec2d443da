//! Finds the peer of an address by its longest prefix, in the same time among 3 peers and among 65 000.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

use foldhash::fast::RandomState;
use wire_net::{Family, MacAddr, Prefix};
use wire_state::Forward;

/// The next hop of one prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The underlay address of the host, with the port of the encapsulation.
    pub(crate) to: SocketAddr,
    /// Its inner MAC address; zero if the framing has none.
    pub(crate) mac: MacAddr,
    /// The first address of the prefix, which is the one of the peer's device.
    pub(crate) device: IpAddr,
}

/// Maps prefixes of one length to indexes of peers. The hash has a random seed: who writes leases chooses the prefixes,
/// and could choose some that collide.
type Places = HashMap<u128, u32, RandomState>;

/// All peers. Immutable: a change makes another table.
#[derive(Debug, Default)]
pub(crate) struct Table {
    peers: Vec<Peer>,
    /// By length, the longest first. Networks have few lengths, most have one.
    lengths: Vec<(Family, u8, Places)>,
    senders: HashSet<IpAddr>,
}

impl Table {
    /// The table for these prefixes, over a port.
    pub(crate) fn new(entries: &BTreeMap<Prefix, Forward>, port: u16) -> Self {
        let mut peers = Vec::with_capacity(entries.len());
        let mut lengths: BTreeMap<_, Places> = BTreeMap::new();
        for (prefix, forward) in entries {
            let place = u32::try_from(peers.len()).expect("fewer prefixes than IPv4 has addresses");
            let to = SocketAddr::new(forward.to, port);
            let mac = forward.mac.unwrap_or(MacAddr::new([0; 6]));
            peers.push(Peer { to, mac, device: prefix.network() });
            let key = (std::cmp::Reverse(prefix.len()), prefix.family());
            lengths.entry(key).or_default().insert(prefix.first_bits(), place);
        }
        let lengths = lengths.into_iter().map(|((len, family), places)| (family, len.0, places)).collect();
        Self { lengths, senders: peers.iter().map(|peer| peer.to.ip()).collect(), peers }
    }

    /// The peer behind an address.
    #[inline]
    pub(crate) fn find(&self, address: IpAddr) -> Option<&Peer> {
        let (family, bits) = match address {
            IpAddr::V4(address) => (Family::V4, u128::from(address.to_bits())),
            IpAddr::V6(address) => (Family::V6, address.to_bits()),
        };
        self.lengths.iter().filter(|(of, ..)| *of == family).find_map(|(_, len, places)| {
            let rest = u32::from(family.bits() - len);
            let first = bits.checked_shr(rest).map_or(0, |kept| kept << rest);
            places.get(&first).map(|place| &self.peers[*place as usize])
        })
    }

    /// True if a host is a peer.
    pub(crate) fn has_sender(&self, host: IpAddr) -> bool {
        self.senders.contains(&host)
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use proptest::prelude::*;

    use super::*;

    fn prefix(bits: u32, len: u8) -> Prefix {
        let masked = u128::from(bits) >> (32 - len) << (32 - len);
        Prefix::from_bits(Family::V4, masked, len).unwrap()
    }

    fn entries(prefixes: &[(u32, u8)]) -> BTreeMap<Prefix, Forward> {
        let hosts = (1u32..).map(|host| IpAddr::V4(host.into()));
        prefixes.iter().map(|(bits, len)| prefix(*bits, *len)).zip(hosts.map(|to| Forward { to, mac: None })).collect()
    }

    proptest! {
        #[test]
        fn the_longest_prefix_wins(
            prefixes in proptest::collection::vec((0u32..1 << 12, 20u8..=32).prop_map(|(high, len)| (high << 20, len)), 0..40),
            address in 0u32..1 << 12,
        ) {
            let entries = entries(&prefixes);
            let address = IpAddr::V4((address << 20).into());
            let best = entries.iter().filter(|(prefix, _)| prefix.contains(address)).max_by_key(|(prefix, _)| prefix.len());
            let found = Table::new(&entries, 8285).find(address).map(|peer| peer.to.ip());
            prop_assert_eq!(found, best.map(|(_, forward)| forward.to));
        }
    }

    #[test]
    fn who_chooses_prefixes_cannot_choose_their_hashes() {
        let hash = || Places::default().hasher().hash_one(0x0a05_0100u128);
        assert_ne!(hash(), hash(), "two tables hash alike");
    }

    #[test]
    fn families_do_not_mix_and_the_default_prefix_holds_all() {
        let to = "192.0.2.2".parse().unwrap();
        let entries = BTreeMap::from([("::/0".parse().unwrap(), Forward { to, mac: None })]);
        let table = Table::new(&entries, 1);
        assert!(table.find("10.0.0.1".parse().unwrap()).is_none());
        assert_eq!(table.find("fd00::1".parse().unwrap()).unwrap().to, "192.0.2.2:1".parse().unwrap());
        assert!(table.has_sender(to) && !table.has_sender("192.0.2.3".parse().unwrap()));
    }

    /// `cargo test --release -p wire-backends measure_lookup -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn measure_lookup_among_few_and_many() {
        let tables = [3u32, 4_000, 65_000].map(|peers| {
            let to = |number: u32| Forward { to: IpAddr::V4((0xc000_0200 + number).into()), mac: None };
            let prefix =
                |number: u32| Prefix::from_bits(Family::V4, u128::from(0x0a00_0000 + (number << 8)), 24).unwrap();
            (peers, Table::new(&(0..peers).map(|number| (prefix(number), to(number))).collect(), 8285))
        });
        // In turns, so that a noisy moment meets all.
        for round in 0..3 {
            for (peers, table) in &tables {
                let begun = std::time::Instant::now();
                let mut found = 0;
                for number in 0..1_000_000u32 {
                    let address = 0x0a00_0002 + ((number.wrapping_mul(2_654_435_761) % peers) << 8);
                    found += u32::from(table.find(IpAddr::V4(address.into())).is_some());
                }
                assert_eq!(found, 1_000_000);
                println!("round {round}: {peers:>6} peers: {:.1} ns", begun.elapsed().as_nanos() as f64 / 1e6);
            }
        }
    }
}

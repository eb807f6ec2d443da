//! Finds the peer of an address by its longest prefix, in the same time among 3 peers and among 65 000.

use std::net::{IpAddr, SocketAddr};

use wire_net::{Family, MacAddr, Prefix};
use wire_state::Forward;

use crate::parts::Parts;

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

/// All peers, by prefixes. Copies share what is equal in them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    /// By length, the longest first. Networks have few lengths, most have one.
    lengths: Vec<Length>,
    /// The hosts, and how many prefixes each has.
    senders: Parts<IpAddr, u32>,
}

/// The prefixes of one length, by their first addresses.
#[derive(Clone, Debug)]
struct Length {
    family: Family,
    len: u8,
    peers: Parts<u128, Peer>,
}

impl Table {
    /// Sets the host of a prefix, or removes the prefix. `own_port` is that of our tunnel, for hosts that have no other.
    pub(crate) fn set(&mut self, prefix: Prefix, forward: Option<Forward>, own_port: u16) {
        let peers = &mut self.length_of(prefix).peers;
        let before = peers.get(prefix.first_bits()).map(|peer| peer.to.ip());
        match forward {
            Some(Forward { to, port, mac }) => {
                let mac = mac.unwrap_or(MacAddr::new([0; 6]));
                let peer = Peer { to: SocketAddr::new(to, port.unwrap_or(own_port)), mac, device: prefix.network() };
                peers.insert(prefix.first_bits(), peer);
            }
            None => peers.remove(prefix.first_bits()),
        }
        if peers.is_empty() {
            self.lengths.retain(|length| !length.is_of(prefix));
        }
        if let Some(after) = forward {
            let prefixes = self.senders.get(after.to).copied().unwrap_or_default();
            self.senders.insert(after.to, prefixes + 1);
        }
        match before.map(|before| (before, self.senders.get(before).copied().unwrap_or_default())) {
            Some((before, 0 | 1)) => self.senders.remove(before),
            Some((before, prefixes)) => self.senders.insert(before, prefixes - 1),
            None => {}
        }
    }

    fn length_of(&mut self, prefix: Prefix) -> &mut Length {
        let place = match self.lengths.iter().position(|length| length.is_of(prefix)) {
            Some(place) => place,
            None => {
                let place = self.lengths.partition_point(|length| length.len > prefix.len());
                let (family, len) = (prefix.family(), prefix.len());
                self.lengths.insert(place, Length { family, len, peers: Parts::default() });
                place
            }
        };
        &mut self.lengths[place]
    }

    /// The peer behind an address.
    #[inline]
    pub(crate) fn find(&self, address: IpAddr) -> Option<&Peer> {
        let (family, bits) = match address {
            IpAddr::V4(address) => (Family::V4, u128::from(address.to_bits())),
            IpAddr::V6(address) => (Family::V6, address.to_bits()),
        };
        self.lengths.iter().filter(|length| length.family == family).find_map(|length| length.find(bits))
    }

    /// True if a host is a peer.
    pub(crate) fn has_sender(&self, host: IpAddr) -> bool {
        self.senders.get(host).is_some()
    }
}

impl Length {
    const fn is_of(&self, prefix: Prefix) -> bool {
        self.len == prefix.len()
            && matches!((self.family, prefix.family()), (Family::V4, Family::V4) | (Family::V6, Family::V6))
    }

    #[inline]
    fn find(&self, address: u128) -> Option<&Peer> {
        let rest = u32::from(self.family.bits() - self.len);
        self.peers.get(address.checked_shr(rest).map_or(0, |kept| kept << rest))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn prefix(bits: u32, len: u8) -> Prefix {
        let masked = u128::from(bits) >> (32 - len) << (32 - len);
        Prefix::from_bits(Family::V4, masked, len).unwrap()
    }

    fn entries(prefixes: &[(u32, u8)]) -> BTreeMap<Prefix, Forward> {
        let hosts = (1u32..).map(|host| IpAddr::V4(host.into()));
        prefixes
            .iter()
            .map(|(bits, len)| prefix(*bits, *len))
            .zip(hosts.map(|to| Forward { to, port: None, mac: None }))
            .collect()
    }

    fn table(entries: &BTreeMap<Prefix, Forward>, port: u16) -> Table {
        let mut table = Table::default();
        entries.iter().for_each(|(prefix, forward)| table.set(*prefix, Some(*forward), port));
        table
    }

    proptest! {
        /// However it came about, a table finds and admits what its entries say.
        #[test]
        fn a_table_that_was_changed_is_as_one_made_anew(
            changes in proptest::collection::vec((0u32..1 << 3, 29u8..=32, proptest::option::of(1u8..4)), 0..40),
            addresses in proptest::collection::vec(any::<u32>(), 8),
        ) {
            let (mut entries, mut changed) = (BTreeMap::new(), Table::default());
            for (high, len, host) in changes {
                let prefix = prefix(high << 29, len);
                let forward = host.map(|host| Forward { to: [192, 0, 2, host].into(), port: None, mac: None });
                // A copy that others still hold is not touched.
                let copy = changed.clone();
                changed.set(prefix, forward, 8285);
                drop(copy);
                match forward {
                    Some(forward) => drop(entries.insert(prefix, forward)),
                    None => drop(entries.remove(&prefix)),
                }
            }
            let anew = table(&entries, 8285);
            for address in addresses {
                let address = IpAddr::V4((address & 0xe000_0007).into());
                prop_assert_eq!(changed.find(address), anew.find(address));
            }
            for host in 1..4 {
                let host = [192, 0, 2, host].into();
                prop_assert_eq!(changed.has_sender(host), entries.values().any(|forward| forward.to == host));
            }
            prop_assert_eq!(changed.lengths.len(), anew.lengths.len());
        }


        #[test]
        fn the_longest_prefix_wins(
            prefixes in proptest::collection::vec((0u32..1 << 12, 20u8..=32).prop_map(|(high, len)| (high << 20, len)), 0..40),
            address in 0u32..1 << 12,
        ) {
            let entries = entries(&prefixes);
            let address = IpAddr::V4((address << 20).into());
            let best = entries.iter().filter(|(prefix, _)| prefix.contains(address)).max_by_key(|(prefix, _)| prefix.len());
            let found = table(&entries, 8285).find(address).map(|peer| peer.to.ip());
            prop_assert_eq!(found, best.map(|(_, forward)| forward.to));
        }
    }

    #[test]
    fn families_do_not_mix_and_the_default_prefix_holds_all() {
        let to = "192.0.2.2".parse().unwrap();
        let entries = BTreeMap::from([("::/0".parse().unwrap(), Forward { to, port: None, mac: None })]);
        let table = table(&entries, 1);
        assert!(table.find("10.0.0.1".parse().unwrap()).is_none());
        assert_eq!(table.find("fd00::1".parse().unwrap()).unwrap().to, "192.0.2.2:1".parse().unwrap());
        assert!(table.has_sender(to) && !table.has_sender("192.0.2.3".parse().unwrap()));
    }

    #[test]
    fn a_host_with_a_port_of_its_own_gets_its_packets_there() {
        let to = "192.0.2.2".parse().unwrap();
        let prefix = "10.5.1.0/24".parse().unwrap();
        let mut changed = table(&BTreeMap::from([(prefix, Forward { to, port: Some(7), mac: None })]), 8285);
        let port = |table: &Table| table.find("10.5.1.9".parse().unwrap()).unwrap().to.port();
        assert_eq!(port(&changed), 7);
        changed.set(prefix, Some(Forward { to, port: None, mac: None }), 8285);
        assert_eq!(port(&changed), 8285);
        assert!(changed.has_sender(to));
    }

    /// `cargo test --release -p wire-backends measure_lookup -- --ignored --nocapture`
    #[test]
    #[ignore = "a measurement"]
    fn measure_lookup_among_few_and_many() {
        let tables = [3u32, 4_000, 65_000].map(|peers| {
            let to = |number: u32| Forward { to: IpAddr::V4((0xc000_0200 + number).into()), port: None, mac: None };
            let prefix =
                |number: u32| Prefix::from_bits(Family::V4, u128::from(0x0a00_0000 + (number << 8)), 24).unwrap();
            (peers, table(&(0..peers).map(|number| (prefix(number), to(number))).collect(), 8285))
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

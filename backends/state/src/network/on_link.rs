//! Entries on links: those on one link stand together in their table, and are found in a time in proportion to their number.

use std::net::{IpAddr, Ipv4Addr};

use imbl::OrdMap;
use wire_net::{Family, LinkName, MacAddr, Prefix};

use super::{Address, BridgeFdbKey, FdbKey, FloodEntry, FloodPath, ForwardKey, NeighbourKey};

/// The key of an entry on a link. The entries on one link stand together in a table, since the link comes first in the order of the keys.
pub(super) trait OnLink: Ord + Copy {
    /// The link.
    fn link(&self) -> LinkName;

    /// A key before which no key on this link stands.
    fn first_on(link: LinkName) -> Self;
}

/// The lowest address, and the lowest MAC.
const NO_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const NO_MAC: MacAddr = MacAddr::new([0; 6]);

impl OnLink for Address {
    fn link(&self) -> LinkName {
        self.link
    }

    fn first_on(link: LinkName) -> Self {
        Self { link, address: NO_ADDRESS, len: 0 }
    }
}

impl OnLink for FdbKey {
    fn link(&self) -> LinkName {
        self.link
    }

    fn first_on(link: LinkName) -> Self {
        Self { link, mac: NO_MAC }
    }
}

impl OnLink for FloodEntry {
    fn link(&self) -> LinkName {
        self.link
    }

    fn first_on(link: LinkName) -> Self {
        Self { link, mac: NO_MAC, to: NO_ADDRESS, by: FloodPath::default() }
    }
}

/// An entry of a bridge is on the bridge, and on the port that it leads to: only the first is in the key.
impl OnLink for BridgeFdbKey {
    fn link(&self) -> LinkName {
        self.bridge
    }

    fn first_on(bridge: LinkName) -> Self {
        Self { bridge, mac: NO_MAC }
    }
}

impl OnLink for NeighbourKey {
    fn link(&self) -> LinkName {
        self.link
    }

    fn first_on(link: LinkName) -> Self {
        Self { link, address: NO_ADDRESS }
    }
}

impl OnLink for ForwardKey {
    fn link(&self) -> LinkName {
        self.link
    }

    fn first_on(link: LinkName) -> Self {
        Self { link, destination: Prefix::from_bits(Family::V4, 0, 0).expect("no bits") }
    }
}

/// The rows of a table that are on a link, found in a time in proportion to them.
pub(super) fn on_link<K: OnLink, V>(table: &OrdMap<K, V>, link: LinkName) -> impl Iterator<Item = (&K, &V)> {
    table.range(K::first_on(link)..).take_while(move |(key, _)| key.link() == link)
}

/// Removes the rows on a link that `is_lost` names.
pub(super) fn forget_on<K: OnLink, V: Clone>(
    table: &mut OrdMap<K, V>,
    link: LinkName,
    is_lost: impl Fn(&K, &V) -> bool,
) {
    let lost: Vec<K> = on_link(table, link).filter(|(key, value)| is_lost(key, value)).map(|(key, _)| *key).collect();
    lost.iter().for_each(|key| drop(table.remove(key)));
}

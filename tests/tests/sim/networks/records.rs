//! What the store has of networks by name, read without the code that is tested, and the entries that follow from it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde_json::Value;
use wire_net::{AddressKey, BlockKey, Family, KeyPrefix, LinkName, MacAddr, MemberKey, NetworkName, Prefix};
use wire_state::{BridgeFdbKey, FdbTarget, ObservedNet};

use crate::world::World;

/// The folders of records. VNIs that rest are not among them.
const FOLDERS: [&str; 4] = ["networks", "members", "blocks", "addresses"];

/// The records.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) networks: BTreeMap<NetworkName, NetworkFound>,
    pub(super) members: BTreeMap<NetworkName, BTreeMap<String, MemberFound>>,
    /// Blocks and single addresses with their hosts.
    pub(super) rooms: BTreeMap<NetworkName, BTreeMap<Prefix, String>>,
    /// All keys of networks, members, blocks and addresses that agents must believe in.
    pub(super) keys: Vec<String>,
}

#[derive(Debug)]
pub(super) struct NetworkFound {
    pub(super) vni: u32,
    pub(super) pools: Vec<(Prefix, u8)>,
    pub(super) broadcast: bool,
}

#[derive(Debug)]
pub(super) struct MemberFound {
    pub(super) public: IpAddr,
    pub(super) own: Vec<IpAddr>,
}

/// The entries about other hosts on the devices of a network.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Entries {
    pub(super) neighbours: BTreeMap<IpAddr, MacAddr>,
    pub(super) fdb: BTreeMap<MacAddr, IpAddr>,
    pub(super) behind: BTreeSet<MacAddr>,
    pub(super) flooding: BTreeSet<IpAddr>,
}

/// The pools of a record, and the lengths of their blocks.
pub(super) fn pools_of(record: &Value) -> Vec<(Prefix, u8)> {
    let pool = |name: &str| {
        let pool = &record[name];
        Some((pool["Pool"].as_str()?.parse().ok()?, u8::try_from(pool["Block"].as_u64()?).ok()?))
    };
    ["IPv4", "IPv6"].into_iter().filter_map(pool).collect()
}

/// 02:57 and the last 32 bits of the address.
pub(super) fn mac_of(address: IpAddr) -> MacAddr {
    let [a, b, c, d] = (Prefix::host(address).first_bits() as u32).to_be_bytes();
    MacAddr::new([0x02, 0x57, a, b, c, d])
}

impl Records {
    pub(super) fn of(world: &World) -> Self {
        let mut records = Self::default();
        let folder = format!("{}/wire/", KeyPrefix::DEFAULT);
        for entry in world.store.listing(folder.as_bytes()).entries {
            if !world.bad_keys.contains(&entry.key) {
                records.add(&entry.key[folder.len()..], &entry.value);
            }
        }
        records
    }

    fn add(&mut self, key: &[u8], value: &[u8]) {
        let Some((folder, name)) = std::str::from_utf8(key).ok().and_then(|key| key.split_once('/')) else { return };
        if !FOLDERS.contains(&folder) {
            return;
        }
        self.keys.push(format!("{folder}/{name}"));
        let value: Value = serde_json::from_slice(value).unwrap_or_default();
        let host = || value["Host"].as_str().unwrap_or_default().to_owned();
        match folder {
            "networks" => {
                let Ok(name) = name.parse() else { return };
                let vni = value["VNI"].as_u64().and_then(|vni| u32::try_from(vni).ok()).unwrap_or_default();
                let broadcast = value["Broadcast"] == true;
                self.networks.insert(name, NetworkFound { vni, pools: pools_of(&value), broadcast });
            }
            "members" => {
                let Ok(MemberKey { network, host }) = MemberKey::of_key(name.as_bytes()) else { return };
                let Some(public) = value["PublicIP"].as_str().and_then(|public| public.parse().ok()) else { return };
                let own = value["Own"].as_object().into_iter().flatten();
                let own = own.filter_map(|(_, own)| own.as_str()?.parse().ok()).collect();
                self.members.entry(network).or_default().insert(host.to_string(), MemberFound { public, own });
            }
            "blocks" => {
                let Ok(BlockKey { network, block }) = BlockKey::of_key(name.as_bytes()) else { return };
                self.rooms.entry(network).or_default().insert(block, host());
            }
            "addresses" => {
                let Ok(AddressKey { network, address }) = AddressKey::of_key(name.as_bytes()) else { return };
                self.rooms.entry(network).or_default().insert(Prefix::host(address), host());
            }
            _ => {}
        }
    }

    /// The entries that the host with these addresses needs.
    pub(super) fn entries(&self, name: &NetworkName, public: IpAddr, own: &[IpAddr]) -> Entries {
        let mut entries = Entries::default();
        let Some(network) = self.networks.get(name) else { return entries };
        let others = self.members.get(name).into_iter().flatten().filter(|(_, member)| member.public != public);
        for (host, member) in others {
            if network.broadcast {
                entries.flooding.insert(member.public);
            }
            let rooms = self.rooms.get(name).into_iter().flatten().filter(|(_, owner)| *owner == host);
            for address in rooms.flat_map(|(room, _)| network.addresses(*room)).filter(|address| !own.contains(address))
            {
                let mac = mac_of(address);
                entries.neighbours.insert(address, mac);
                entries.fdb.insert(mac, member.public);
                entries.behind.insert(mac);
            }
        }
        entries
    }
}

impl NetworkFound {
    /// The addresses of a block that endpoints may have, and those of the other family that belong to them.
    fn addresses(&self, room: Prefix) -> Vec<IpAddr> {
        let of = |family, bits| Prefix::from_bits(family, bits, if family == Family::V4 { 32 } else { 128 });
        let mut all = Vec::new();
        for bits in room.first_bits()..=room.last_bits() {
            for (pool, _) in &self.pools {
                let family = pool.family();
                let bits = if family == room.family() { bits } else { pool.first_bits() | bits };
                all.extend(of(family, bits).map(Prefix::network).ok().filter(|address| is_usable(*pool, *address)));
            }
        }
        all
    }
}

/// True if an address is of a pool, and neither the gateway's, nor its first, nor the last one of IPv4.
fn is_usable(pool: Prefix, address: IpAddr) -> bool {
    let is_last = address.is_ipv4() && address == pool.last();
    pool.contains(address) && address != pool.network() && address != pool.gateway() && !is_last
}

impl Entries {
    /// The entries of a kernel on the devices of a network.
    pub(super) fn found(net: &ObservedNet, vni: u32) -> Self {
        let (bridge, overlay) = devices(vni);
        let of_bridge = |(key, _): &(&BridgeFdbKey, _)| key.bridge == bridge;
        let neighbours = net.neighbours.iter().filter(|(key, _)| key.link == bridge);
        let fdb = net.fdb.iter().filter(|(key, _)| key.link == overlay);
        Self {
            neighbours: neighbours.map(|(key, mac)| (key.address, *mac)).collect(),
            fdb: fdb.map(|(key, FdbTarget { to, .. })| (key.mac, *to)).collect(),
            behind: net.bridge_fdb.iter().filter(of_bridge).map(|(key, _)| key.mac).collect(),
            flooding: net.flooding.iter().filter(|entry| entry.link == overlay).map(|entry| entry.to).collect(),
        }
    }

    /// The first difference, in words.
    pub(super) fn difference(&self, wanted: &Self) -> Option<String> {
        let neighbours = differs(&self.neighbours, &wanted.neighbours);
        let neighbours = neighbours.map(|address| format!("neighbour {address}"));
        let fdb = || differs(&self.fdb, &wanted.fdb).map(|mac| format!("FDB entry {mac}"));
        let behind =
            || self.behind.symmetric_difference(&wanted.behind).next().map(|mac| format!("bridge entry {mac}"));
        let flooding =
            || self.flooding.symmetric_difference(&wanted.flooding).next().map(|to| format!("flood entry {to}"));
        neighbours.or_else(fdb).or_else(behind).or_else(flooding)
    }
}

fn differs<K: Ord + Copy, V: PartialEq>(one: &BTreeMap<K, V>, other: &BTreeMap<K, V>) -> Option<K> {
    let keys = one.keys().chain(other.keys());
    keys.copied().find(|key| one.get(key) != other.get(key))
}

/// The bridge and the VXLAN device of a network.
pub(super) fn devices(vni: u32) -> (LinkName, LinkName) {
    let name = |kind: &str| format!("{kind}.{vni}").parse().expect("a name of a link");
    (name("wb"), name("wv"))
}

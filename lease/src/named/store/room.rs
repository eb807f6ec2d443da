//! Addresses of a host on a network: a block or a single one.

use std::net::IpAddr;

use wire_net::{AddressKey, BlockKey, Family, HostId, KeyPrefix, MacAddr, NetworkName, Prefix};
use wire_store::{KeyValue, LeaseId, Write};

use crate::named::{AddressPool, AddressRecord, BlockRecord, NetworkPools, Record};

/// A block or a single address that a host has on a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Room {
    /// A block.
    Block(Prefix),
    /// A single address, with the MAC address of its container.
    Address(IpAddr, MacAddr),
}

impl Room {
    /// A chosen block or single address of a pool.
    #[must_use]
    pub fn of(pool: &AddressPool, chosen: Prefix) -> Self {
        if chosen.len() == pool.block_len {
            Self::Block(chosen)
        } else {
            Self::Address(chosen.network(), MacAddr::of_container(chosen.network()))
        }
    }

    /// Its addresses.
    #[must_use]
    pub const fn prefix(&self) -> Prefix {
        match self {
            Self::Block(block) => *block,
            Self::Address(address, _) => Prefix::host(*address),
        }
    }

    /// Its key.
    #[must_use]
    pub fn key(&self, prefix: &KeyPrefix, network: &NetworkName) -> Vec<u8> {
        match self {
            Self::Block(block) => prefix.block(network, *block),
            Self::Address(address, _) => prefix.address(network, *address),
        }
    }

    /// The write that makes it a host's.
    pub(super) fn write(&self, prefix: &KeyPrefix, network: &NetworkName, owner: Owner) -> Write {
        let network = network.clone();
        let Owner { host, lease } = owner;
        match *self {
            Self::Block(block) => BlockRecord { host }.write(prefix, &BlockKey { network, block }, lease),
            Self::Address(address, mac) => {
                AddressRecord { host, mac }.write(prefix, &AddressKey { network, address }, lease)
            }
        }
    }
}

/// A host, and the store's lease with which its keys expire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) host: HostId,
    pub(super) lease: Option<LeaseId>,
}

/// A room as the store has it.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) kv: KeyValue,
    /// The addresses of its key, whatever its value.
    pub(super) prefix: Prefix,
    /// True if its key is a block's.
    pub(super) is_block: bool,
    /// The host and the room, if the value is valid.
    pub(super) owned: Option<(HostId, Room)>,
}

impl Held {
    /// Decodes a key of `folder`; `None` if it names no addresses.
    pub(super) fn block(kv: KeyValue, folder: &[u8]) -> Option<Self> {
        let key = BlockKey::of_key(kv.key.strip_prefix(folder)?).ok()?;
        let record = BlockRecord::from_value(&kv.value).ok();
        let owned = record.map(|record| (record.host, Room::Block(key.block)));
        Some(Self { kv, prefix: key.block, is_block: true, owned })
    }

    /// Decodes a key of `folder`; `None` if it names no address.
    pub(super) fn address(kv: KeyValue, folder: &[u8]) -> Option<Self> {
        let key = AddressKey::of_key(kv.key.strip_prefix(folder)?).ok()?;
        let record = AddressRecord::from_value(&kv.value).ok();
        let owned = record.map(|record| (record.host, Room::Address(key.address, record.mac)));
        Some(Self { kv, prefix: Prefix::host(key.address), is_block: false, owned })
    }

    /// True if the network has such a block or address.
    pub(super) fn is_within(&self, pools: &NetworkPools) -> bool {
        let address = self.prefix.network();
        if self.is_block {
            pools.claimed().has_block(self.prefix)
        } else {
            pools.get(Family::of(address)).is_some_and(|pool| pool.has_address(address))
        }
    }

    pub(super) fn room_of(&self, host: HostId) -> Option<Room> {
        self.owned.filter(|(owner, _)| *owner == host).map(|(_, room)| room)
    }
}

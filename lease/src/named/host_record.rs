//! The records of hosts on networks by name: members, blocks, single addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use wire_net::{AddressKey, BlockKey, DualStack, HostId, KeyPrefix, MacAddr, MemberKey, NamedKeyError};

use super::record::{Record, from_json, to_json};
use crate::admission::unreachable;

/// A host with an endpoint on a network: where its packets are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// Its addresses on the underlay, at least one.
    pub public: DualStack<IpAddr>,
    /// The UDP port of its VXLAN.
    pub port: u16,
    /// Its own addresses on the network: the source of what it sends to containers elsewhere.
    pub own: DualStack<IpAddr>,
}

/// A block of addresses that a host gives to its containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct BlockRecord {
    /// The host.
    pub host: HostId,
}

/// A single address of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct AddressRecord {
    /// The host.
    pub host: HostId,
    /// The MAC address of the container that has it.
    #[serde(rename = "MAC")]
    pub mac: MacAddr,
}

/// The longest value of these records, in bytes.
const LONGEST: usize = 4096;

impl Record for MemberRecord {
    type Key = MemberKey;

    fn parse_key(name: &[u8]) -> Result<MemberKey, NamedKeyError> {
        MemberKey::of_key(name)
    }

    fn folder(prefix: &KeyPrefix) -> Vec<u8> {
        prefix.members()
    }

    fn from_value(value: &[u8]) -> Result<Self, String> {
        let stored: StoredMember = from_json(value, LONGEST)?;
        let public = DualStack { v4: stored.public_v4.map(IpAddr::V4), v6: stored.public_v6.map(IpAddr::V6) };
        let own = stored.own.map(|own| DualStack { v4: own.v4.map(IpAddr::V4), v6: own.v6.map(IpAddr::V6) });
        if public.is_empty() {
            return Err("it names neither PublicIP nor PublicIPv6".to_owned());
        }
        for (_, address) in public.iter() {
            if let Some(kind) = unreachable(*address) {
                return Err(format!("{address} is a {kind} address, which no host has on the underlay"));
            }
        }
        if stored.port == 0 {
            Err("Port is 0".to_owned())
        } else {
            Ok(Self { public, port: stored.port, own: own.unwrap_or_default() })
        }
    }

    fn to_value(&self) -> Vec<u8> {
        let own = OwnAddresses { v4: v4_of(&self.own), v6: v6_of(&self.own) };
        let own = (!self.own.is_empty()).then_some(own);
        to_json(&StoredMember { public_v4: v4_of(&self.public), public_v6: v6_of(&self.public), port: self.port, own })
    }
}

impl Record for BlockRecord {
    type Key = BlockKey;

    fn parse_key(name: &[u8]) -> Result<BlockKey, NamedKeyError> {
        BlockKey::of_key(name)
    }

    fn folder(prefix: &KeyPrefix) -> Vec<u8> {
        prefix.blocks()
    }

    fn from_value(value: &[u8]) -> Result<Self, String> {
        from_json(value, LONGEST)
    }

    fn to_value(&self) -> Vec<u8> {
        to_json(self)
    }
}

impl Record for AddressRecord {
    type Key = AddressKey;

    fn parse_key(name: &[u8]) -> Result<AddressKey, NamedKeyError> {
        AddressKey::of_key(name)
    }

    fn folder(prefix: &KeyPrefix) -> Vec<u8> {
        prefix.addresses()
    }

    fn from_value(value: &[u8]) -> Result<Self, String> {
        let record: Self = from_json(value, LONGEST)?;
        if record.mac.is_unicast() {
            Ok(record)
        } else {
            Err(format!("{} is a group address or zero, which no device has", record.mac))
        }
    }

    fn to_value(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// A member as the store has it.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StoredMember {
    #[serde(rename = "PublicIP")]
    public_v4: Option<Ipv4Addr>,
    #[serde(rename = "PublicIPv6")]
    public_v6: Option<Ipv6Addr>,
    port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    own: Option<OwnAddresses>,
}

#[derive(Serialize, Deserialize)]
struct OwnAddresses {
    #[serde(rename = "IPv4", skip_serializing_if = "Option::is_none")]
    v4: Option<Ipv4Addr>,
    #[serde(rename = "IPv6", skip_serializing_if = "Option::is_none")]
    v6: Option<Ipv6Addr>,
}

fn v4_of(addresses: &DualStack<IpAddr>) -> Option<Ipv4Addr> {
    match addresses.v4 {
        Some(IpAddr::V4(address)) => Some(address),
        Some(IpAddr::V6(_)) | None => None,
    }
}

fn v6_of(addresses: &DualStack<IpAddr>) -> Option<Ipv6Addr> {
    match addresses.v6 {
        Some(IpAddr::V6(address)) => Some(address),
        Some(IpAddr::V4(_)) | None => None,
    }
}

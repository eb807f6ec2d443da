//! What a host has on disk of networks by name, read without the code that is tested.

use std::{collections::BTreeMap, net::IpAddr, path::Path};

use serde_json::Value;
use wire_net::{AddressKey, BlockKey, NetworkName, Prefix};

use super::records::pools_of;
use crate::host::SimulatedHost;

/// Where it is.
const FILE: &str = "/var/lib/wire-agent/named.json";

/// The document.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) networks: BTreeMap<NetworkName, PartOnDisk>,
}

#[derive(Debug)]
pub(super) struct PartOnDisk {
    pub(super) is_exposed: bool,
    pub(super) held: Option<Held>,
}

/// The part of a host in a network.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) vni: u32,
    pub(super) pools: Vec<Prefix>,
    pub(super) own: Vec<IpAddr>,
    pub(super) rooms: Vec<Prefix>,
}

impl SimulatedHost {
    /// The document on its disk.
    pub(super) fn document(&self) -> Document {
        let files = self.parts.disk.files();
        let file = files.get(Path::new(FILE));
        let value: Option<Value> = file.and_then(|file| serde_json::from_slice(&file.content).ok());
        let networks = value.as_ref().and_then(|value| value["networks"].as_object());
        let part = |(name, part): (&String, &Value)| {
            let is_exposed = part["exposed"] == true;
            Some((name.parse().ok()?, PartOnDisk { is_exposed, held: held(&part["held"]) }))
        };
        Document { networks: networks.into_iter().flatten().filter_map(part).collect() }
    }
}

fn held(held: &Value) -> Option<Held> {
    let own = held["member"]["Own"].as_object();
    let blocks = held["blocks"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let blocks = blocks.filter_map(|key| Some(BlockKey::of_key(key.as_bytes()).ok()?.block));
    let addresses = held["addresses"].as_object().into_iter().flatten();
    let addresses =
        addresses.filter_map(|(key, _)| Some(Prefix::host(AddressKey::of_key(key.as_bytes()).ok()?.address)));
    Some(Held {
        vni: u32::try_from(held["network"]["VNI"].as_u64()?).ok()?,
        pools: pools_of(&held["network"]).into_iter().map(|(pool, _)| pool).collect(),
        own: own.into_iter().flatten().filter_map(|(_, own)| own.as_str()?.parse().ok()).collect(),
        rooms: blocks.chain(addresses).collect(),
    })
}

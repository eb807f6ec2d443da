//! What the commands about networks print.

use std::net::IpAddr;

use comfy_table::{Table, presets};
use serde_json::{Map, Value, json};
use wire_lease::{
    NetworkConfig,
    named::{MemberRecord, NamedNetwork, NamedNetworks, NamedRecords, NetworkRecord, Record},
};
use wire_net::{DualStack, Family, HostId, NetworkName};

/// All that etcd has of networks.
pub(super) struct Site {
    /// The flat network, if it has a config.
    pub(super) flat: Option<NetworkConfig>,
    /// The valid records.
    pub(super) records: NamedRecords,
    /// Those that are admitted.
    pub(super) networks: NamedNetworks,
    /// The names of the keys that are no networks, with the reasons.
    pub(super) invalid: Vec<(String, String)>,
}

impl Site {
    /// All networks, the flat one first.
    pub(super) fn all(&self) -> Vec<Value> {
        let flat = self.flat.iter().map(flat);
        let named = self.records.networks.keys().filter_map(|name| self.one(name));
        let invalid =
            self.invalid.iter().map(|(name, fault)| json!({ "name": name, "state": "refused", "reason": fault }));
        flat.chain(named).chain(invalid).collect()
    }

    /// One network with all that hosts have on it.
    pub(super) fn one(&self, name: &NetworkName) -> Option<Value> {
        if name.is_default() {
            return self.flat.as_ref().map(flat);
        }
        let stored = self.records.networks.get(name)?;
        let Value::Object(mut shown) = network(name, &stored.record) else { return None };
        match self.networks.networks.get(name) {
            Some(admitted) => {
                shown.insert("state".to_owned(), "admitted".into());
                shown.insert("members".to_owned(), members(admitted));
                let of_this = |key: &str| key.starts_with(&format!("{name}/"));
                let refused =
                    self.networks.refused_hosts().map(|(key, refusal)| (key.to_string(), refusal.to_string()));
                let refused: Map<String, Value> =
                    refused.filter(|(key, _)| of_this(key)).map(|(key, refusal)| (key, refusal.into())).collect();
                shown.insert("refused".to_owned(), refused.into());
            }
            None => {
                let refusal = self.networks.refused.get(name).map(ToString::to_string);
                let reason = refusal.unwrap_or_else(|| "there are too many networks".to_owned());
                shown.insert("state".to_owned(), "refused".into());
                shown.insert("reason".to_owned(), reason.into());
            }
        }
        Some(shown.into())
    }
}

/// A network, as its record has it.
pub(super) fn network(name: &NetworkName, record: &NetworkRecord) -> Value {
    let stored: Value = serde_json::from_slice(&record.to_value()).unwrap_or_default();
    let mut shown = json!({
        "name": name.as_str(),
        "vni": record.vni.number(),
        "internal": record.internal,
        "broadcast": record.broadcast,
        "mtu": record.mtu,
        "labels": stored.get("Labels"),
        "created": record.created,
    });
    for (family, pool) in record.pools.iter() {
        let pool = json!({ "pool": pool.prefix, "gateway": pool.gateway(), "block": pool.block_len });
        shown[key_of(family)] = pool;
    }
    shown
}

const fn key_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

fn flat(config: &NetworkConfig) -> Value {
    let mut shown =
        json!({ "name": NetworkName::default().as_str(), "state": "flat", "backend": config.backend.name() });
    for (family, pool) in config.pools.iter() {
        shown[key_of(family)] = json!({ "pool": pool.network, "subnet_len": pool.subnet_len });
    }
    shown
}

fn members(network: &NamedNetwork) -> Value {
    network.members.iter().map(|(host, stored)| member(network, *host, &stored.record)).collect()
}

fn member(network: &NamedNetwork, host: HostId, record: &MemberRecord) -> Value {
    let texts = |addresses: &DualStack<IpAddr>| addresses.iter().map(|(_, one)| one.to_string()).collect::<Vec<_>>();
    let rooms: Vec<String> = network.rooms_of(host).map(|room| room.to_string()).collect();
    json!({
        "host": host.to_string(),
        "public": texts(&record.public),
        "port": record.port,
        "own": texts(&record.own),
        "addresses": rooms,
    })
}

/// The list for people.
pub(super) fn table(networks: &[Value]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["NAME", "VNI", "IPV4", "IPV6", "MEMBERS", "STATE"]);
    for network in networks {
        let text = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Null => "-".to_owned(),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
        };
        let pool = |family| text(&network[key_of(family)]["pool"]);
        let members = network["members"].as_array().map_or_else(|| "-".to_owned(), |members| members.len().to_string());
        let reason = network["reason"].as_str().map_or_else(String::new, |reason| format!(": {reason}"));
        let state = text(&network["state"]) + &reason;
        table.add_row([
            text(&network["name"]),
            text(&network["vni"]),
            pool(Family::V4),
            pool(Family::V6),
            members,
            state,
        ]);
    }
    format!("{table}\n")
}

/// A network in lines for people: each name and its value.
pub(super) fn lines(network: &Value) -> String {
    let mut lines = String::new();
    for (name, value) in network.as_object().into_iter().flatten() {
        add_lines(&mut lines, name, value);
    }
    lines
}

fn add_lines(lines: &mut String, name: &str, value: &Value) {
    match value {
        Value::Null => {}
        Value::String(text) => lines.push_str(&format!("{name:<16} {text}\n")),
        Value::Bool(_) | Value::Number(_) => lines.push_str(&format!("{name:<16} {value}\n")),
        Value::Array(values) if values.iter().all(Value::is_string) => {
            let all: Vec<&str> = values.iter().filter_map(Value::as_str).collect();
            lines.push_str(&format!("{name:<16} {}\n", all.join(" ")));
        }
        Value::Array(values) => values.iter().for_each(|value| add_lines(lines, name.trim_end_matches('s'), value)),
        Value::Object(fields) => {
            for (field, value) in fields {
                add_lines(lines, &format!("{name} {field}"), value);
            }
        }
    }
}

//! What the agent's commands print as JSON, as far as the scenarios look at it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// What `wire-agent status --json` says.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// `ready`, `waiting`, …
    #[serde(default)]
    pub phase: String,
    /// Why it is not ready.
    #[serde(default)]
    pub reason: Option<String>,
    /// Its subnet.
    #[serde(default)]
    pub subnet: Option<String>,
    /// What moves its packets; absent while there is no network.
    #[serde(default)]
    pub datapath: Option<DatapathStatus>,
    /// All that is wrong.
    #[serde(default)]
    pub conditions: Vec<Condition>,
    /// All other fields.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Deserialize)]
pub struct Condition {
    /// Its stable name.
    pub name: String,
    /// `fault` or `warning`.
    pub severity: String,
    /// When it began.
    pub since: String,
    /// The sentence for people.
    pub sentence: String,
}

/// What moves the packets of the overlay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct DatapathStatus {
    /// `kernel-vxlan`, `userspace-vxlan`, `userspace-udp` or `none`.
    #[serde(default)]
    pub kind: String,
    /// Why this one.
    #[serde(default)]
    pub why: String,
    /// The TUN devices and their sockets; none where the kernel moves the packets.
    #[serde(default)]
    pub tunnels: Vec<Tunnel>,
}

/// One TUN device and its socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Tunnel {
    /// Its name.
    pub link: String,
    /// What the kernel does for it: `uso`, `tso`, `gso`, `gro`.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// What it has counted since it was opened.
    #[serde(default)]
    pub counters: BTreeMap<String, u64>,
}

impl Tunnel {
    /// A counter; 0 where there is none of that name.
    #[must_use]
    pub fn counter(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or_default()
    }

    /// The counters of what was dropped, without those that are 0, by their reasons.
    #[must_use]
    pub fn dropped(&self) -> BTreeMap<String, u64> {
        let dropped = self.counters.iter().filter(|(_, count)| **count > 0);
        dropped.filter_map(|(name, count)| Some((name.strip_prefix("dropped_")?.to_owned(), *count))).collect()
    }
}

/// What `wire-agent peers --json` says.
#[derive(Clone, Debug, Deserialize)]
pub struct Peers {
    /// The admitted leases of other hosts.
    #[serde(default)]
    pub peers: Vec<Peer>,
    /// The entries that are not followed.
    #[serde(default)]
    pub refused: Vec<Refused>,
}

/// One line of [`Peers`].
#[derive(Clone, Debug, Deserialize)]
pub struct Peer {
    /// Its IPv4 subnet.
    #[serde(default)]
    pub subnet: Option<String>,
    /// Its IPv6 subnet.
    #[serde(default)]
    pub subnet_v6: Option<String>,
    /// Its address on the underlay.
    #[serde(default)]
    pub public_ip: Option<String>,
    /// Its IPv6 address on the underlay.
    #[serde(default)]
    pub public_ipv6: Option<String>,
    /// `vxlan`, …
    #[serde(default)]
    pub backend_type: Option<String>,
    /// Whether the kernel holds its entries.
    #[serde(default)]
    pub programmed: bool,
    /// All other fields.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

/// An entry under the prefix that is not followed.
#[derive(Clone, Debug, Deserialize)]
pub struct Refused {
    /// Its key.
    #[serde(default)]
    pub key: String,
    /// Which rule it breaks.
    #[serde(default)]
    pub kind: String,
    /// What is wrong with it.
    #[serde(default)]
    pub reason: String,
}

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
    /// All fields.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
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

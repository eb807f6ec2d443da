//! Parses and checks the network config, which is JSON. Every refusal names the field, the value and the rule.

mod fields;
mod pool;
mod ranges;

use serde_json::Value;
use wire_net::{DualStack, Family, Pool, Vni};

pub(crate) use self::pool::reserved;
pub use self::ranges::NetworkRange;
use self::{
    fields::{ConfigFields, Fields},
    pool::{V4_NAMES, V6_NAMES},
};
use crate::byte_order_mark;

/// The settings of the whole network, as in `<prefix>/config`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The subnets to lease, for each enabled family.
    pub pools: DualStack<Pool>,
    /// The backend, which carries packets from host to host.
    pub backend: BackendConfig,
    /// Whether flannel keeps its firewall rules in nftables.
    pub nftables: bool,
    /// Unknown fields, to warn about.
    pub ignored: Vec<String>,
}

/// The type of the backend, with its settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendConfig {
    /// The kernel's VXLAN device.
    Vxlan(VxlanConfig),
    /// Raw IP in UDP.
    Udp {
        /// The UDP port, 8285 by default.
        port: u16,
    },
    /// Routes with the hosts themselves as gateways.
    HostGw,
    /// IPv4 in IPv4.
    Ipip {
        /// Whether hosts on the same link use plain routes without encapsulation.
        direct_routing: bool,
    },
    /// WireGuard tunnels.
    Wireguard,
    /// Leases subnets only, and carries no traffic.
    Alloc,
    /// A backend of flannel that this agent does not have.
    Foreign(String),
}

/// The settings of the vxlan backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanConfig {
    /// The VNI, 1 by default.
    pub vni: Vni,
    /// The UDP port; `None` means the kernel's default, 8472.
    pub port: Option<u16>,
    /// The MTU of the outer link in bytes; `None` means the MTU of that link.
    pub mtu: Option<u32>,
    /// Whether to use the Group Policy extension (`IFLA_VXLAN_GBP`).
    pub gbp: bool,
    /// Whether the device learns addresses from traffic.
    pub learning: bool,
    /// Whether hosts on the same link use plain routes without encapsulation.
    pub direct_routing: bool,
}

/// The reason why a network config is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not JSON.
    #[error("the network config is not JSON: {0}")]
    Json(String),
    /// The JSON is not an object.
    #[error("the network config is no JSON object")]
    NoObject,
    /// A required field is missing.
    #[error("the network config has no {field}: {rule}")]
    Missing {
        /// The field, as flannel spells it.
        field: &'static str,
        /// The reason why it is required.
        rule: String,
    },
    /// The value of a field violates a rule.
    #[error("{field} is {value} in the network config: {rule}")]
    Value {
        /// The field, as flannel spells it.
        field: String,
        /// Its value.
        value: String,
        /// The violated rule.
        rule: String,
    },
}

/// flannel's other backends, known so that the refusal can name them.
const FOREIGN: [&str; 7] = ["ipsec", "extension", "hostgw", "tencent-vpc", "ali-vpc", "aws-vpc", "gce"];

impl NetworkConfig {
    /// Reads and checks a network config. Field names may have any letter case.
    ///
    /// # Errors
    /// Names the first field that breaks a rule, its value and the rule.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let value: Value =
            serde_json::from_slice(json).map_err(|error| ConfigError::Json(why_no_json(json, &error)))?;
        let Value::Object(object) = &value else { return Err(ConfigError::NoObject) };
        let fields = ConfigFields { object: Fields(object), path: "" };
        let v4 = fields.flag("EnableIPv4", true)?;
        let v6 = fields.flag("EnableIPv6", false)?;
        if !v4 && !v6 {
            return Err(ConfigError::Value {
                field: "EnableIPv4".to_owned(),
                value: "false".to_owned(),
                rule: "with EnableIPv6 off too, no address is left to lease".to_owned(),
            });
        }
        Ok(Self {
            pools: DualStack {
                v4: v4.then(|| fields.pool(&V4_NAMES)).transpose()?,
                v6: v6.then(|| fields.pool(&V6_NAMES)).transpose()?,
            },
            backend: BackendConfig::from_fields(fields)?,
            nftables: fields.flag("EnableNFTables", false)?,
            ignored: fields.unknown(&KNOWN),
        })
    }

    /// The enabled families.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.pools.iter().map(|(family, _)| family)
    }
}

fn why_no_json(text: &[u8], error: &serde_json::Error) -> String {
    match byte_order_mark(text) {
        Some(encoding) => format!("it begins with a byte order mark ({encoding}): write it as UTF-8 without one"),
        None => error.to_string(),
    }
}

impl BackendConfig {
    /// The type as flannel spells it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Vxlan(_) => "vxlan",
            Self::Udp { .. } => "udp",
            Self::HostGw => "host-gw",
            Self::Ipip { .. } => "ipip",
            Self::Wireguard => "wireguard",
            Self::Alloc => "alloc",
            Self::Foreign(name) => name,
        }
    }

    fn from_fields(fields: ConfigFields<'_>) -> Result<Self, ConfigError> {
        let object = match fields.object.find("Backend") {
            // flannel treats a missing Backend as udp, although its manual says vxlan.
            None => return Ok(Self::Udp { port: UDP_PORT }),
            Some(Value::Object(object)) => object,
            Some(other) => return Err(fields.refuse("Backend", other, "it must be an object with a Type")),
        };
        let backend = ConfigFields { object: Fields(object), path: "Backend." };
        let Some(name) = backend.text("Type")?.filter(|name| !name.is_empty()) else {
            return Err(ConfigError::Missing {
                field: "Backend.Type",
                rule: "say which backend, for example {\"Type\":\"vxlan\"}".to_owned(),
            });
        };
        Ok(match name.to_ascii_lowercase().as_str() {
            "vxlan" => Self::Vxlan(VxlanConfig::from_fields(backend)?),
            "udp" => Self::Udp { port: backend.number("Port", 1..=65_535)?.unwrap_or(UDP_PORT) },
            "host-gw" => Self::HostGw,
            "ipip" => Self::Ipip { direct_routing: backend.flag("DirectRouting", false)? },
            "wireguard" => Self::Wireguard,
            "alloc" => Self::Alloc,
            foreign if FOREIGN.contains(&foreign) => Self::Foreign(foreign.to_owned()),
            _ => {
                let rule = "it must be one of vxlan, alloc, udp, host-gw, ipip, wireguard";
                return Err(backend.refuse("Type", &Value::String(name), rule));
            }
        })
    }
}

impl VxlanConfig {
    fn from_fields(fields: ConfigFields<'_>) -> Result<Self, ConfigError> {
        let vni: u32 = fields.number("VNI", 0..=(1 << 24) - 1)?.unwrap_or(1);
        Ok(Self {
            vni: Vni::new(vni).expect("the range is checked"),
            port: fields.number("Port", 0..=65_535)?.filter(|port| *port != 0),
            mtu: fields.number("MTU", 0..=65_535)?.filter(|mtu| *mtu != 0),
            gbp: fields.flag("GBP", false)?,
            learning: fields.flag("Learning", false)?,
            direct_routing: fields.flag("DirectRouting", false)?,
        })
    }
}

/// flannel's udp port, <https://github.com/flannel-io/flannel/blob/master/Documentation/backends.md>.
const UDP_PORT: u16 = 8285;

const KNOWN: [&str; 13] = [
    "Networks",
    "EnableIPv4",
    "EnableIPv6",
    "EnableNFTables",
    "Network",
    "SubnetLen",
    "SubnetMin",
    "SubnetMax",
    "IPv6Network",
    "IPv6SubnetLen",
    "IPv6SubnetMin",
    "IPv6SubnetMax",
    "Backend",
];

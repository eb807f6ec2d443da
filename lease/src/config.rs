//! The network config: JSON to typed and checked. Every refusal names the field, the value and the rule.

use std::net::IpAddr;

use serde_json::Value;

use crate::{DualStack, Family, Prefix, Vni, lease::Fields};

/// The whole network's settings, as `<prefix>/config` holds them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// What hosts lease from, for each family that is on.
    pub pools: DualStack<Pool>,
    /// How hosts reach each other.
    pub backend: BackendConfig,
    /// Whether flannel keeps its firewall rules in nftables.
    pub nftables: bool,
    /// Fields that mean nothing here, to be warned of.
    pub ignored: Vec<String>,
}

/// The subnets of one family that hosts lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// All addresses of the overlay.
    pub network: Prefix,
    /// The length of each host's subnet, in bits.
    pub subnet_len: u8,
    /// The first subnet that may be leased.
    pub min: Prefix,
    /// The last subnet that may be leased.
    pub max: Prefix,
}

/// The backend, by its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendConfig {
    /// The kernel's VXLAN device.
    Vxlan(VxlanConfig),
    /// Raw IP in UDP.
    Udp {
        /// The UDP port, 8285 by default.
        port: u16,
    },
    /// Routes through the hosts themselves.
    HostGw,
    /// WireGuard tunnels.
    Wireguard,
    /// Subnets only, no traffic.
    Alloc,
    /// A type that flannel has and we do not.
    Foreign(String),
}

/// The settings of the vxlan backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanConfig {
    /// The VNI, 1 by default.
    pub vni: Vni,
    /// The UDP port; `None` leaves it to the kernel, whose default is 8472.
    pub port: Option<u16>,
    /// The MTU of the outer link in bytes; `None` takes the link's own.
    pub mtu: Option<u32>,
    /// Group Policy extension (`IFLA_VXLAN_GBP`).
    pub gbp: bool,
    /// Whether the device learns addresses from traffic.
    pub learning: bool,
    /// Routes without encapsulation between hosts on one link.
    pub direct_routing: bool,
}

/// Why a network config is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON at all.
    #[error("the network config is not JSON: {0}")]
    Json(String),
    /// JSON, but no object.
    #[error("the network config is no JSON object")]
    NoObject,
    /// A field that is missing.
    #[error("the network config has no {field}: {rule}")]
    Missing {
        /// The field, as flannel spells it.
        field: &'static str,
        /// Why it is needed.
        rule: String,
    },
    /// A field whose value breaks a rule.
    #[error("{field} is {value} in the network config: {rule}")]
    Value {
        /// The field, as flannel spells it.
        field: String,
        /// Its value.
        value: String,
        /// The rule it breaks.
        rule: String,
    },
}

/// flannel's other backends, recognised so that the refusal can say so.
const FOREIGN: [&str; 8] = ["ipip", "ipsec", "extension", "hostgw", "tencent-vpc", "ali-vpc", "aws-vpc", "gce"];

impl NetworkConfig {
    /// Reads and checks a network config. Field names may have any letter case.
    ///
    /// # Errors
    /// Names the first field that breaks a rule, its value and the rule.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let value: Value = serde_json::from_slice(json).map_err(|error| ConfigError::Json(error.to_string()))?;
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
                v4: v4.then(|| Pool::from_fields(&V4_NAMES, fields)).transpose()?,
                v6: v6.then(|| Pool::from_fields(&V6_NAMES, fields)).transpose()?,
            },
            backend: BackendConfig::from_fields(fields)?,
            nftables: fields.flag("EnableNFTables", false)?,
            ignored: fields.unknown(&KNOWN),
        })
    }

    /// The families that are on.
    pub fn families(&self) -> impl Iterator<Item = Family> {
        self.pools.iter().map(|(family, _)| family)
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
            Self::Wireguard => "wireguard",
            Self::Alloc => "alloc",
            Self::Foreign(name) => name,
        }
    }

    fn from_fields(fields: ConfigFields<'_>) -> Result<Self, ConfigError> {
        let object = match fields.object.find("Backend") {
            // flannel takes an absent Backend as udp, though its manual says vxlan.
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
            "wireguard" => Self::Wireguard,
            "alloc" => Self::Alloc,
            foreign if FOREIGN.contains(&foreign) => Self::Foreign(foreign.to_owned()),
            _ => {
                let rule = "it must be one of vxlan, alloc, udp, host-gw, wireguard";
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

impl Pool {
    /// How many subnets may be leased.
    #[must_use]
    pub fn size(&self) -> u128 {
        // At least two bits of the network are the subnet's number, so that this fits.
        ((self.max.first_bits() - self.min.first_bits()) >> self.host_bits()).saturating_add(1)
    }

    /// The subnet with that number, counted from [`Pool::min`]; `None` past [`Pool::max`].
    #[must_use]
    pub fn nth(&self, number: u128) -> Option<Prefix> {
        if number >= self.size() {
            return None;
        }
        let first = self.min.first_bits() + (number << self.host_bits());
        Prefix::from_bits(self.network.family(), first, self.subnet_len).ok()
    }

    /// The number of the first subnet that lies wholly behind `last`, an address as a number; `None` behind the last address.
    pub(crate) fn number_after(&self, last: u128) -> Option<u128> {
        let Some(distance) = last.checked_sub(self.min.first_bits()) else { return Some(0) };
        (distance >> self.host_bits()).checked_add(1)
    }

    /// Whether `subnet` can be a host's lease in this network, be it of another length or outside the range: an older config
    /// may have offered it.
    ///
    /// # Errors
    /// Names the rule it breaks.
    pub fn admits(&self, subnet: Prefix) -> Result<(), String> {
        let longest = self.network.family().longest_subnet();
        if !self.network.covers(subnet) {
            Err(format!("{subnet} does not lie in the network {}", self.network))
        } else if subnet.len() <= self.network.len() {
            Err(format!("{subnet} is all of the network {}", self.network))
        } else if subnet.len() > longest {
            Err(format!("{subnet} is longer than /{longest}, too small for a device and a bridge"))
        } else {
            Ok(())
        }
    }

    /// Whether a host of this network may lease `subnet` as the config stands.
    #[must_use]
    pub fn offers(&self, subnet: Prefix) -> bool {
        subnet.len() == self.subnet_len && self.min <= subnet && subnet <= self.max && self.network.covers(subnet)
    }

    fn host_bits(&self) -> u8 {
        self.network.family().bits() - self.subnet_len
    }

    fn from_fields(names: &Names, fields: ConfigFields<'_>) -> Result<Self, ConfigError> {
        let network = fields.network(names)?;
        let subnet_len = fields.subnet_len(names, network)?;
        let nth = |number: u128, from_end: bool| {
            let size = 1u128 << (names.family.bits() - subnet_len);
            let base = if from_end { network.last_bits() - (size - 1) } else { network.first_bits() };
            Prefix::from_bits(names.family, base + number * size, subnet_len).expect("the length is checked")
        };
        let min = fields.bound(names.min, network, subnet_len)?.unwrap_or_else(|| nth(1, false));
        let max = fields.bound(names.max, network, subnet_len)?.unwrap_or_else(|| nth(0, true));
        if min > max {
            return Err(ConfigError::Value {
                field: names.min.to_owned(),
                value: min.network().to_string(),
                rule: format!("it must not be above {}, {}", names.max, max.network()),
            });
        }
        Ok(Self { network, subnet_len, min, max })
    }
}

/// flannel's udp port, <https://github.com/flannel-io/flannel/blob/master/Documentation/backends.md>.
const UDP_PORT: u16 = 8285;

/// The fields of one family, and its limits.
struct Names {
    family: Family,
    network: &'static str,
    subnet_len: &'static str,
    min: &'static str,
    max: &'static str,
    /// Where the network is large enough, each host gets this length.
    usual_len: u8,
    /// The longest length that leaves room for a device and a bridge.
    longest: u8,
}

const V4_NAMES: Names = Names {
    family: Family::V4,
    network: "Network",
    subnet_len: "SubnetLen",
    min: "SubnetMin",
    max: "SubnetMax",
    usual_len: 24,
    longest: 30,
};

const V6_NAMES: Names = Names {
    family: Family::V6,
    network: "IPv6Network",
    subnet_len: "IPv6SubnetLen",
    min: "IPv6SubnetMin",
    max: "IPv6SubnetMax",
    usual_len: 64,
    longest: 126,
};

const KNOWN: [&str; 12] = [
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

#[derive(Clone, Copy)]
struct ConfigFields<'a> {
    object: Fields<'a>,
    path: &'static str,
}

impl ConfigFields<'_> {
    fn refuse(self, field: &str, value: &Value, rule: &str) -> ConfigError {
        let value = value.to_string().chars().take(128).collect();
        ConfigError::Value { field: format!("{}{field}", self.path), value, rule: rule.to_owned() }
    }

    fn flag(self, field: &str, default: bool) -> Result<bool, ConfigError> {
        match self.object.find(field) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.refuse(field, other, "it must be true or false")),
        }
    }

    fn text(self, field: &str) -> Result<Option<String>, ConfigError> {
        match self.object.find(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(other) => Err(self.refuse(field, other, "it must be a text in quotes")),
        }
    }

    fn number<N: TryFrom<u64>>(
        self,
        field: &str,
        range: std::ops::RangeInclusive<u64>,
    ) -> Result<Option<N>, ConfigError> {
        let Some(value) = self.object.find(field) else { return Ok(None) };
        let number = value.as_u64().filter(|number| range.contains(number)).and_then(|number| N::try_from(number).ok());
        let rule = || format!("it must be a whole number from {} to {}, without quotes", range.start(), range.end());
        number.map(Some).ok_or_else(|| self.refuse(field, value, &rule()))
    }

    fn network(self, names: &Names) -> Result<Prefix, ConfigError> {
        let Some(text) = self.text(names.network)?.filter(|text| !text.is_empty()) else {
            let example = match names.family {
                Family::V4 => "10.5.0.0/16",
                Family::V6 => "fd00:5::/48",
            };
            let rule = format!("the prefix all hosts lease from, for example {example}");
            return Err(ConfigError::Missing { field: names.network, rule });
        };
        let refuse = |rule: String| self.refuse(names.network, &Value::String(text.clone()), &rule);
        let network: Prefix = text.parse().map_err(|error: crate::PrefixError| refuse(error.to_string()))?;
        if network.family() != names.family {
            return Err(refuse(format!("it must be an {} prefix", names.family)));
        }
        let longest = names.longest - 2;
        if network.len() > longest {
            return Err(refuse(format!("it must not be longer than /{longest}, or it has no four subnets")));
        }
        Ok(network)
    }

    fn subnet_len(self, names: &Names, network: Prefix) -> Result<u8, ConfigError> {
        // flannel cannot tell 0 from absent.
        let Some(len) = self.number::<u8>(names.subnet_len, 0..=128)?.filter(|len| *len != 0) else {
            let large = network.len() <= names.usual_len - 2;
            return Ok(if large { names.usual_len } else { network.len() + 2 });
        };
        let shortest = network.len() + 2;
        if (shortest..=names.longest).contains(&len) {
            return Ok(len);
        }
        let rule = format!(
            "in {network} it must be from {shortest} (four subnets) to {} (a device and a bridge)",
            names.longest
        );
        Err(self.refuse(names.subnet_len, &Value::from(len), &rule))
    }

    fn bound(self, field: &'static str, network: Prefix, subnet_len: u8) -> Result<Option<Prefix>, ConfigError> {
        let Some(text) = self.text(field)?.filter(|text| !text.is_empty()) else { return Ok(None) };
        let refuse = |rule: String| self.refuse(field, &Value::String(text.clone()), &rule);
        let address: IpAddr = text.parse().map_err(|_| refuse("it must be an address".to_owned()))?;
        if address.is_unspecified() {
            // flannel cannot tell the zero address from absent.
            return Ok(None);
        }
        if !network.contains(address) {
            return Err(refuse(format!("it must lie in {network}")));
        }
        let subnet = Prefix::new(address, subnet_len).expect("the length is checked");
        if subnet.network() != address {
            return Err(refuse(format!("it must be the first address of a /{subnet_len}, here {}", subnet.network())));
        }
        Ok(Some(subnet))
    }

    fn unknown(self, known: &[&str]) -> Vec<String> {
        let is_known = |key: &str| known.iter().any(|name| name.eq_ignore_ascii_case(key));
        self.object.0.keys().filter(|key| !is_known(key)).cloned().collect()
    }
}

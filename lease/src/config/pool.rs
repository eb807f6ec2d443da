//! Reads the fields of the config that define the pools.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;
use wire_net::{Family, Pool, Prefix};

use super::{ConfigError, fields::ConfigFields};

/// The names of one family's fields, and its limits.
pub(super) struct Names {
    family: Family,
    network: &'static str,
    subnet_len: &'static str,
    min: &'static str,
    max: &'static str,
    /// The default length of a host's subnet, if the network is large enough.
    usual_len: u8,
    /// The largest length that leaves one address for a device and one for a bridge.
    longest: u8,
}

pub(super) const V4_NAMES: Names = Names {
    family: Family::V4,
    network: "Network",
    subnet_len: "SubnetLen",
    min: "SubnetMin",
    max: "SubnetMax",
    usual_len: 24,
    longest: 30,
};

pub(super) const V6_NAMES: Names = Names {
    family: Family::V6,
    network: "IPv6Network",
    subnet_len: "IPv6SubnetLen",
    min: "IPv6SubnetMin",
    max: "IPv6SubnetMax",
    usual_len: 64,
    longest: 126,
};

/// Prefixes that no container can use, with the reason (the registries of RFC 6890).
pub(crate) fn reserved() -> impl Iterator<Item = (Prefix, &'static str)> {
    let v4 = |first| IpAddr::from(Ipv4Addr::new(first, 0, 0, 0));
    let v6 = |first, sixth| IpAddr::from(Ipv6Addr::new(first, 0, 0, 0, 0, sixth, 0, 0));
    let prefixes = [
        (v4(0), 8, "for \"this host\""),
        (v4(127), 8, "each host's own (loopback)"),
        (v4(224), 4, "for multicast"),
        (v6(0, 0), 127, "each host's own (loopback)"),
        (v6(0, 0xffff), 96, "for IPv4 addresses in programs"),
        (v6(0xfe80, 0), 10, "each link's own (link-local)"),
        (v6(0xff00, 0), 8, "for multicast"),
    ];
    let prefix = |address, len| Prefix::new(address, len).expect("no length is too long");
    prefixes.into_iter().map(move |(address, len, whose)| (prefix(address, len), whose))
}

impl ConfigFields<'_> {
    /// Reads the pool of one family.
    pub(super) fn pool(self, names: &Names) -> Result<Pool, ConfigError> {
        let network = self.network(names)?;
        let subnet_len = self.subnet_len(names, network)?;
        let of_len = |bits| Prefix::from_bits(names.family, bits, subnet_len).expect("the length is checked");
        let size = 1u128 << (names.family.bits() - subnet_len);
        // By default all subnets but the first.
        let min = self.bound(names.min, network, subnet_len)?.unwrap_or_else(|| of_len(network.first_bits() + size));
        let max = self.bound(names.max, network, subnet_len)?.unwrap_or_else(|| of_len(network.last_bits()));
        if min > max {
            return Err(ConfigError::Value {
                field: names.min.to_owned(),
                value: min.network().to_string(),
                rule: format!("it must not be above {}, {}", names.max, max.network()),
            });
        }
        Ok(Pool { network, subnet_len, min, max })
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
        let network: Prefix = text.parse().map_err(|error: wire_net::PrefixError| refuse(error.to_string()))?;
        if network.family() != names.family {
            return Err(refuse(format!("it must be an {} prefix", names.family)));
        }
        let longest = names.longest - 2;
        if network.len() > longest {
            return Err(refuse(format!("it must not be longer than /{longest}, or it has no four subnets")));
        }
        if let Some((reserved, whose)) = reserved().find(|(reserved, _)| network.overlaps(*reserved)) {
            let rule = format!("{reserved} is {whose}, so that no container can have it: take a prefix without it");
            return Err(refuse(rule));
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
}

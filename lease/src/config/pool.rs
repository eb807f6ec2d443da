//! What hosts lease from, and the fields of the config that say so.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use super::{ConfigError, fields::ConfigFields};
use crate::{Family, Prefix};

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

    /// How many of its subnets share an address with `prefix`.
    pub(crate) fn overlapped(&self, prefix: Prefix) -> u128 {
        if prefix.family() != self.network.family() {
            return 0;
        }
        let min = self.min.first_bits();
        let (first, last) = (prefix.first_bits().max(min), prefix.last_bits().min(self.max.last_bits()));
        if first > last {
            return 0;
        }
        let number = |address: u128| (address - min) >> self.host_bits();
        (number(last) - number(first)).saturating_add(1)
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

    /// Whether containers are, or may come to be, at addresses in `prefix`. Where the config bounds the range, the rest of the
    /// network has hosts or nobody; else all of it is for containers.
    #[must_use]
    pub fn leases(&self, prefix: Prefix) -> bool {
        let is_inside = self.network.covers(prefix);
        let in_range = prefix.first_bits() <= self.max.last_bits() && self.min.first_bits() <= prefix.last_bits();
        is_inside && (in_range || !self.is_bounded())
    }

    /// The prefixes that together are what containers may have: the network, or the range where the config bounds it.
    #[must_use]
    pub fn leased(&self) -> Vec<Prefix> {
        if !self.is_bounded() {
            return vec![self.network];
        }
        let (family, bits) = (self.network.family(), self.network.family().bits());
        let (mut first, last) = (self.min.first_bits(), self.max.last_bits());
        let mut prefixes = Vec::new();
        loop {
            let begins = |prefix: &Prefix| prefix.first_bits() == first && prefix.last_bits() <= last;
            let of_len = |len| Prefix::from_bits(family, first, len).ok();
            let largest = (0..=bits).filter_map(of_len).find(begins).expect("one address always fits");
            prefixes.push(largest);
            if largest.last_bits() >= last {
                return prefixes;
            }
            first = largest.last_bits() + 1;
        }
    }

    /// Whether the config keeps a part of the network for something else. Where nobody says so, the first subnet is left out.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        let before = (self.min.first_bits() - self.network.first_bits()) >> self.host_bits();
        before > 1 || self.max.last_bits() != self.network.last_bits()
    }

    /// Whether a host of this network may lease `subnet` as the config stands.
    #[must_use]
    pub fn offers(&self, subnet: Prefix) -> bool {
        subnet.len() == self.subnet_len && self.min <= subnet && subnet <= self.max && self.network.covers(subnet)
    }

    fn host_bits(&self) -> u8 {
        self.network.family().bits() - self.subnet_len
    }

    pub(super) fn from_fields(names: &Names, fields: ConfigFields<'_>) -> Result<Self, ConfigError> {
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

/// The fields of one family, and its limits.
pub(super) struct Names {
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

/// What is no address of a host in any network, and whose it is (the registries of RFC 6890).
fn reserved() -> impl Iterator<Item = (Prefix, &'static str)> {
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

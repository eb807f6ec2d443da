//! The keys of the store, byte for byte as flannel writes them.
//!
//! | key | what |
//! | --- | --- |
//! | `<prefix>/config` | the network config |
//! | `<prefix>/subnets/10.5.52.0-24` | a lease |
//! | `<prefix>/subnets/10.5.52.0-24&fd00:1::-64` | a dual-stack lease |
//! | `<prefix>/wire/subnets/fd00:1::-64` | an IPv6-only lease, which flannel cannot express |
//! | `<prefix>/wire/backends/10.5.52.0-24` | how the host of that lease is reached; wire-agent's own |
//! | `<prefix>/wire/guards/10.5.52.0-24` | the guard of a prefix: names its owner; one key for each family of a lease |
//!
//! Those of networks by name are in `named_key.rs`. Nothing else may ever begin with `<prefix>/subnets`: a flanneld that sees such a key removes all its peers.

use std::{fmt, net::IpAddr, str::FromStr};

use crate::{DualStack, Family, Prefix};

/// The prefix of all keys of one network, `/coreos.com/network` by default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPrefix(String);

/// The directory that holds a network's leases: the prefix of their keys. One parser reads all of these keys, since an
/// agent that reads a key as another subnet than its writer meant could neither keep nor refuse that lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directory {
    path: Vec<u8>,
    /// Whether each of its leases has an IPv4 prefix; if not, none has.
    has_v4: bool,
}

/// The subnet of a host: one prefix for each family of its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet(DualStack<Prefix>);

/// A key that names no lease.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key does not have the form `a.b.c.d-len` or `a.b.c.d-len&x::-len`.
    #[error("the key {0:?} has not the form 10.5.52.0-24 or 10.5.52.0-24&fd00:1::-64")]
    Form(String),
    /// A length that is too large for the family, or an address with host bits.
    #[error("the key {key:?} names {address}-{len}, which is no network: {rule}")]
    Network {
        /// The key.
        key: String,
        /// The address in it.
        address: IpAddr,
        /// The length in it.
        len: u8,
        /// The violated rule.
        rule: &'static str,
    },
    /// A different spelling of a subnet: each subnet has exactly one key.
    #[error("the key {key:?} is another spelling of {subnet}, which no agent writes")]
    Spelling {
        /// The key.
        key: String,
        /// The subnet it names.
        subnet: Subnet,
    },
    /// The lease belongs into another directory.
    #[error("{0} has none of this network's families, or its key is in the wrong directory")]
    Directory(Subnet),
    /// The key is not UTF-8.
    #[error("the key is not UTF-8")]
    Utf8,
}

impl KeyPrefix {
    /// flannel's default, <https://github.com/flannel-io/flannel/blob/master/Documentation/configuration.md>.
    pub const DEFAULT: &'static str = "/coreos.com/network";

    /// Normalises the prefix as flannel does: `//` becomes `/`, a trailing `/` is dropped.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let parts: Vec<&str> = text.split('/').filter(|part| !part.is_empty()).collect();
        let lead = if text.starts_with('/') { "/" } else { "" };
        Self(format!("{lead}{}", parts.join("/")))
    }

    /// The key of the network config.
    #[must_use]
    pub fn config(&self) -> Vec<u8> {
        format!("{}/config", self.0).into_bytes()
    }

    /// The prefix of all keys of flannel leases.
    #[must_use]
    pub fn subnets(&self) -> Vec<u8> {
        format!("{}/subnets/", self.0).into_bytes()
    }

    /// The prefix of all keys of IPv6-only leases.
    #[must_use]
    pub fn wire_subnets(&self) -> Vec<u8> {
        format!("{}/wire/subnets/", self.0).into_bytes()
    }

    /// The prefix of all keys of guards.
    #[must_use]
    pub fn guards(&self) -> Vec<u8> {
        format!("{}/wire/guards/", self.0).into_bytes()
    }

    /// The prefix of all keys of the records that stand beside leases: how each host is reached.
    #[must_use]
    pub fn records(&self) -> Vec<u8> {
        format!("{}/wire/backends/", self.0).into_bytes()
    }

    /// The key of the record beside the lease of `subnet`.
    #[must_use]
    pub fn record(&self, subnet: Subnet) -> Vec<u8> {
        let mut key = self.records();
        key.extend_from_slice(subnet.to_string().as_bytes());
        key
    }

    /// The directory of the leases of a network with or without IPv4: IPv6-only leases have their own.
    #[must_use]
    pub fn leases(&self, has_v4: bool) -> Directory {
        let path = if has_v4 { self.subnets() } else { self.wire_subnets() };
        Directory { path, has_v4 }
    }

    /// The key of one lease.
    #[must_use]
    pub fn lease(&self, subnet: Subnet) -> Vec<u8> {
        self.leases(subnet.get(Family::V4).is_some()).key(subnet)
    }

    /// The key of the guard of one prefix, which names the owner so that no second host takes the prefix.
    #[must_use]
    pub fn guard(&self, prefix: Prefix) -> Vec<u8> {
        let mut key = self.guards();
        key.extend_from_slice(format!("{}-{}", prefix.network(), prefix.len()).as_bytes());
        key
    }
}

impl Directory {
    /// The key of the lease of `subnet`.
    #[must_use]
    pub fn key(&self, subnet: Subnet) -> Vec<u8> {
        [&self.path, subnet.to_string().as_bytes()].concat()
    }

    /// The subnet whose lease has exactly this key.
    ///
    /// # Errors
    /// Names the reason if the key is no lease's.
    pub fn subnet(&self, key: &[u8]) -> Result<Subnet, KeyError> {
        let name = key.strip_prefix(self.path.as_slice()).unwrap_or_default();
        let subnet: Subnet = std::str::from_utf8(name).map_err(|_| KeyError::Utf8)?.parse()?;
        if subnet.get(Family::V4).is_some() == self.has_v4 { Ok(subnet) } else { Err(KeyError::Directory(subnet)) }
    }
}

impl std::ops::Deref for Directory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.path
    }
}

impl fmt::Display for KeyPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Subnet {
    /// Makes a subnet; `None` if there is no prefix at all, or one stands under the wrong family.
    #[must_use]
    pub fn new(prefixes: DualStack<Prefix>) -> Option<Self> {
        let fits = prefixes.iter().all(|(family, prefix)| prefix.family() == family);
        (fits && !prefixes.is_empty()).then_some(Self(prefixes))
    }

    /// The prefix of one family.
    #[must_use]
    pub fn get(&self, family: Family) -> Option<Prefix> {
        self.0.get(family).copied()
    }

    /// Its prefixes, IPv4 first.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> {
        let prefixes = self.0;
        Family::ALL.into_iter().filter_map(move |family| prefixes.get(family).copied())
    }

    /// Whether both contain a common address.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        Family::ALL
            .into_iter()
            .any(|family| matches!((self.get(family), other.get(family)), (Some(a), Some(b)) if a.overlaps(b)))
    }
}

/// The subnet of a single prefix.
impl From<Prefix> for Subnet {
    fn from(prefix: Prefix) -> Self {
        Self(DualStack::from_fn(|family| (prefix.family() == family).then_some(prefix)))
    }
}

/// Formats the last part of a key in its only valid spelling: `10.5.52.0-24&fd00:1::-64`.
impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, prefix) in self.prefixes().enumerate() {
            let joint = if index == 0 { "" } else { "&" };
            write!(f, "{joint}{}-{}", prefix.network(), prefix.len())?;
        }
        Ok(())
    }
}

impl FromStr for Subnet {
    type Err = KeyError;

    fn from_str(key: &str) -> Result<Self, KeyError> {
        let form = || KeyError::Form(key.chars().take(96).collect());
        let parts: Vec<Prefix> = key.split('&').map(|part| prefix_of(key, part)).collect::<Result<_, _>>()?;
        let prefixes = match parts.as_slice() {
            [one] => DualStack::from_fn(|family| (family == one.family()).then_some(*one)),
            [v4, v6] if v4.family() == Family::V4 && v6.family() == Family::V6 => {
                DualStack { v4: Some(*v4), v6: Some(*v6) }
            }
            _ => return Err(form()),
        };
        let subnet = Self::new(prefixes).ok_or_else(form)?;
        if subnet.to_string() == key {
            Ok(subnet)
        } else {
            Err(KeyError::Spelling { key: key.chars().take(96).collect(), subnet })
        }
    }
}

fn prefix_of(key: &str, part: &str) -> Result<Prefix, KeyError> {
    let form = || KeyError::Form(key.chars().take(96).collect());
    let (address, digits) = part.rsplit_once('-').ok_or_else(form)?;
    let address: IpAddr = address.parse().map_err(|_| form())?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(form());
    }
    let len: u8 = digits.parse().map_err(|_| form())?;
    let refuse = |rule| KeyError::Network { key: key.chars().take(96).collect(), address, len, rule };
    let prefix = Prefix::new(address, len).map_err(|_| refuse("its length is longer than an address"))?;
    if prefix.network() != address {
        return Err(refuse("it has host bits"));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_contract() {
        let prefix = KeyPrefix::new("/coreos.com//network/");
        let lease = |subnet: &str| String::from_utf8(prefix.lease(subnet.parse().unwrap())).unwrap();
        assert_eq!(prefix.config(), b"/coreos.com/network/config");
        assert_eq!(lease("10.5.52.0-24"), "/coreos.com/network/subnets/10.5.52.0-24");
        assert_eq!(lease("10.5.52.0-24&fd00:1::-64"), "/coreos.com/network/subnets/10.5.52.0-24&fd00:1::-64");
        assert_eq!(lease("fd00:1::-64"), "/coreos.com/network/wire/subnets/fd00:1::-64");
        let record = prefix.record("10.5.52.0-24&fd00:1::-64".parse().unwrap());
        assert_eq!(record, b"/coreos.com/network/wire/backends/10.5.52.0-24&fd00:1::-64");
        assert_eq!(prefix.guard("10.5.52.0/24".parse().unwrap()), b"/coreos.com/network/wire/guards/10.5.52.0-24");
    }

    #[test]
    fn what_is_no_lease_key_is_refused() {
        for wrong in [
            "",
            "x",
            "10.5.52.0",
            "10.5.52.0-",
            "10.5.52.0-+24",
            "10.5.52.0-33",
            "10.5.52.1-24",
            "10.5.52.0-24&",
            "10.5.52.0-24&10.6.0.0-24",
            "fd00::-64&10.5.52.0-24",
            "10.5.52.0-24&fd00::-129",
            "0.0.0.0-0-0",
        ] {
            assert!(wrong.parse::<Subnet>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_is_a_leases_only_where_that_lease_is_written_to_exactly_that_key() {
        let prefix = KeyPrefix::new("/n");
        let (v4, v6) = (prefix.leases(true), prefix.leases(false));
        for (directory, right) in [
            (&v4, "/n/subnets/10.5.9.0-24"),
            (&v4, "/n/subnets/10.5.9.0-24&fd00::-64"),
            (&v6, "/n/wire/subnets/fd00::-64"),
        ] {
            assert_eq!(prefix.lease(directory.subnet(right.as_bytes()).unwrap()), right.as_bytes());
        }
        for (directory, wrong, reason) in [
            (&v4, "/n/subnets/10.5.9.0-024", "another spelling of 10.5.9.0-24"),
            (&v4, "/n/subnets/old/10.5.9.0-24", "has not the form"),
            (&v4, "/n/subnets//10.5.9.0-24", "has not the form"),
            (&v4, "/n/subnets/10.5.9.0-24/", "has not the form"),
            (&v4, "/n/subnets/10.5.9.0-24&FD00::-64", "another spelling of"),
            (&v4, "/n/subnets/10.5.9.0-24&fd00:0::-64", "another spelling of"),
            (&v4, "/n/subnets/10.5.9.0-24&fd00::-0064", "another spelling of"),
            (&v4, "/n/subnets/fd00::-64", "in the wrong directory"),
            (&v4, "/m/subnets/10.5.9.0-24", "has not the form"),
            (&v6, "/n/wire/subnets/10.5.9.0-24", "in the wrong directory"),
            (&v6, "/n/wire/subnets/FD00::-64", "another spelling of"),
        ] {
            let error = directory.subnet(wrong.as_bytes()).expect_err(wrong).to_string();
            assert!(error.contains(reason), "{wrong}: {error}");
        }
    }
}

//! The keys of networks by name. All lie below `<prefix>/wire/`, where flannel never looks.
//!
//! | key | what |
//! | --- | --- |
//! | `networks/NAME` | a network: its VNI and its pools |
//! | `networks-changed` | written with each new network, so that two hosts never choose overlapping subnets |
//! | `vnis/5000` | the network that has this VNI, or had it in the last 24 hours |
//! | `members/NAME/HOST` | a host with an endpoint on a network |
//! | `blocks/NAME/10.128.3.32-27` | a block of addresses that a host gives to its containers |
//! | `addresses/NAME/10.128.3.40` | a single address outside its host's blocks |
//! | `attachments/HOST/ID` | what a host's operator wants attached there; no agent reads it |

use std::{fmt, net::IpAddr};

use crate::{HostId, HostIdError, KeyError, KeyPrefix, NetworkName, NetworkNameError, Prefix, Subnet, Vni};

/// A host with an endpoint on a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey {
    /// The network.
    pub network: NetworkName,
    /// The host.
    pub host: HostId,
}

/// A block of addresses of a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey {
    /// The network.
    pub network: NetworkName,
    /// The addresses.
    pub block: Prefix,
}

/// A single address of a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressKey {
    /// The network.
    pub network: NetworkName,
    /// The address.
    pub address: IpAddr,
}

/// A key below `<prefix>/wire/` that names nothing of a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamedKeyError {
    /// The key is not UTF-8.
    #[error("the key is not UTF-8")]
    Utf8,
    /// No network has this name.
    #[error(transparent)]
    Name(NetworkNameError),
    /// The flat network has a config and leases, not a record.
    #[error("\"default\" is the flat network, which has no record")]
    Default,
    /// The key has no second part.
    #[error("the key {key:?} has not the form {form}")]
    Form {
        /// The key.
        key: String,
        /// An example.
        form: &'static str,
    },
    /// No host has this identity.
    #[error(transparent)]
    Host(HostIdError),
    /// The second part is no prefix, or another spelling of one.
    #[error(transparent)]
    Block(KeyError),
    /// The second part is no address, or another spelling of one.
    #[error("{0:?} is no address, or another spelling of one, which no agent writes")]
    Address(String),
}

impl KeyPrefix {
    /// The prefix of the keys of networks by name.
    #[must_use]
    pub fn networks(&self) -> Vec<u8> {
        self.wire("networks/")
    }

    /// The key of a network by name.
    #[must_use]
    pub fn network(&self, name: &NetworkName) -> Vec<u8> {
        self.wire(format_args!("networks/{name}"))
    }

    /// The key that is written with each new network.
    #[must_use]
    pub fn networks_changed(&self) -> Vec<u8> {
        self.wire("networks-changed")
    }

    /// The prefix of the keys of VNIs.
    #[must_use]
    pub fn vnis(&self) -> Vec<u8> {
        self.wire("vnis/")
    }

    /// The key of a VNI.
    #[must_use]
    pub fn vni(&self, vni: Vni) -> Vec<u8> {
        self.wire(format_args!("vnis/{vni}"))
    }

    /// The prefix of the keys of the members of all networks.
    #[must_use]
    pub fn members(&self) -> Vec<u8> {
        self.wire("members/")
    }

    /// The prefix of the keys of the members of one network.
    #[must_use]
    pub fn members_of(&self, network: &NetworkName) -> Vec<u8> {
        self.wire(format_args!("members/{network}/"))
    }

    /// The key of a member.
    #[must_use]
    pub fn member(&self, network: &NetworkName, host: HostId) -> Vec<u8> {
        self.wire(format_args!("members/{network}/{host}"))
    }

    /// The prefix of the keys of the blocks of all networks.
    #[must_use]
    pub fn blocks(&self) -> Vec<u8> {
        self.wire("blocks/")
    }

    /// The prefix of the keys of the blocks of one network.
    #[must_use]
    pub fn blocks_of(&self, network: &NetworkName) -> Vec<u8> {
        self.wire(format_args!("blocks/{network}/"))
    }

    /// The key of a block.
    #[must_use]
    pub fn block(&self, network: &NetworkName, block: Prefix) -> Vec<u8> {
        self.wire(format_args!("blocks/{network}/{}", Subnet::from(block)))
    }

    /// The prefix of the keys of the single addresses of all networks.
    #[must_use]
    pub fn addresses(&self) -> Vec<u8> {
        self.wire("addresses/")
    }

    /// The prefix of the keys of the single addresses of one network.
    #[must_use]
    pub fn addresses_of(&self, network: &NetworkName) -> Vec<u8> {
        self.wire(format_args!("addresses/{network}/"))
    }

    /// The key of a single address.
    #[must_use]
    pub fn address(&self, network: &NetworkName, address: IpAddr) -> Vec<u8> {
        self.wire(format_args!("addresses/{network}/{address}"))
    }

    /// The prefix of the keys of the attachments of all hosts.
    #[must_use]
    pub fn attachments(&self) -> Vec<u8> {
        self.wire("attachments/")
    }

    /// The prefix of the keys of the attachments of one host.
    #[must_use]
    pub fn attachments_of(&self, host: HostId) -> Vec<u8> {
        self.wire(format_args!("attachments/{host}/"))
    }

    fn wire(&self, rest: impl fmt::Display) -> Vec<u8> {
        format!("{self}/wire/{rest}").into_bytes()
    }
}

impl NetworkName {
    /// Parses the last part of the key of a network by name.
    ///
    /// # Errors
    /// If it is no name, or the flat network's.
    pub fn of_key(name: &[u8]) -> Result<Self, NamedKeyError> {
        let name: Self = text_of(name)?.parse().map_err(NamedKeyError::Name)?;
        if name.is_default() { Err(NamedKeyError::Default) } else { Ok(name) }
    }
}

impl MemberKey {
    /// Parses what stands after [`KeyPrefix::members`].
    ///
    /// # Errors
    /// Names the reason if it is no member's.
    pub fn of_key(name: &[u8]) -> Result<Self, NamedKeyError> {
        let (network, host) = parts(name, "NAME/00ff6e4f0c8a4d2b9e5f1a2b3c4d5e6f")?;
        Ok(Self { network, host: host.parse().map_err(NamedKeyError::Host)? })
    }
}

impl BlockKey {
    /// Parses what stands after [`KeyPrefix::blocks`].
    ///
    /// # Errors
    /// Names the reason if it is no block's.
    pub fn of_key(name: &[u8]) -> Result<Self, NamedKeyError> {
        const FORM: &str = "NAME/10.128.3.32-27";
        let (network, block) = parts(name, FORM)?;
        let subnet: Subnet = block.parse().map_err(NamedKeyError::Block)?;
        let mut prefixes = subnet.prefixes();
        match (prefixes.next(), prefixes.next()) {
            (Some(block), None) => Ok(Self { network, block }),
            (Some(_) | None, _) => Err(form(block, FORM)),
        }
    }
}

impl AddressKey {
    /// Parses what stands after [`KeyPrefix::addresses`].
    ///
    /// # Errors
    /// Names the reason if it is no address's.
    pub fn of_key(name: &[u8]) -> Result<Self, NamedKeyError> {
        let (network, text) = parts(name, "NAME/10.128.3.40")?;
        let address = text.parse::<IpAddr>().ok().filter(|address| address.to_string() == text);
        let address = address.ok_or_else(|| NamedKeyError::Address(text.chars().take(64).collect()))?;
        Ok(Self { network, address })
    }
}

fn parts<'a>(name: &'a [u8], example: &'static str) -> Result<(NetworkName, &'a str), NamedKeyError> {
    let text = text_of(name)?;
    let (network, rest) = text.split_once('/').ok_or_else(|| form(text, example))?;
    Ok((NetworkName::of_key(network.as_bytes())?, rest))
}

fn text_of(name: &[u8]) -> Result<&str, NamedKeyError> {
    std::str::from_utf8(name).map_err(|_| NamedKeyError::Utf8)
}

fn form(key: &str, form: &'static str) -> NamedKeyError {
    NamedKeyError::Form { key: key.chars().take(96).collect(), form }
}

impl fmt::Display for MemberKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.host)
    }
}

impl fmt::Display for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, Subnet::from(self.block))
    }
}

impl fmt::Display for AddressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "00ff6e4f0c8a4d2b9e5f1a2b3c4d5e6f";

    #[test]
    fn all_keys_lie_below_wire() {
        let (prefix, app) = (KeyPrefix::new("/n"), "app".parse().unwrap());
        for (key, text) in [
            (prefix.network(&app), "/n/wire/networks/app".to_owned()),
            (prefix.networks_changed(), "/n/wire/networks-changed".to_owned()),
            (prefix.vni(Vni::new(5000).unwrap()), "/n/wire/vnis/5000".to_owned()),
            (prefix.member(&app, HOST.parse().unwrap()), format!("/n/wire/members/app/{HOST}")),
            (prefix.block(&app, "10.128.3.32/27".parse().unwrap()), "/n/wire/blocks/app/10.128.3.32-27".to_owned()),
            (prefix.block(&app, "fd57::100/120".parse().unwrap()), "/n/wire/blocks/app/fd57::100-120".to_owned()),
            (prefix.address(&app, "10.128.3.40".parse().unwrap()), "/n/wire/addresses/app/10.128.3.40".to_owned()),
        ] {
            assert_eq!(String::from_utf8(key).unwrap(), text);
        }
    }

    #[test]
    fn what_was_written_is_parsed() {
        let member = format!("app/{HOST}");
        assert_eq!(MemberKey::of_key(member.as_bytes()).unwrap().to_string(), member);
        for block in ["app/10.128.3.32-27", "app/fd57::100-120", "app/10.128.3.40-32"] {
            assert_eq!(BlockKey::of_key(block.as_bytes()).unwrap().to_string(), block);
        }
        for address in ["app/10.128.3.40", "app/fd57::28"] {
            assert_eq!(AddressKey::of_key(address.as_bytes()).unwrap().to_string(), address);
        }
    }

    #[test]
    fn odd_keys_are_refused_with_a_reason() {
        for (wrong, reason) in [
            (&b"default"[..], "flat network"),
            (b"", "no network name"),
            (b"a/b", "no network name"),
            (b"\xff", "not UTF-8"),
        ] {
            let error = NetworkName::of_key(wrong).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
        for (wrong, reason) in [
            ("app", "has not the form"),
            ("app/x", "no host's identity"),
            ("default/00ff6e4f0c8a4d2b9e5f1a2b3c4d5e6f", "flat network"),
            ("app/00ff6e4f0c8a4d2b9e5f1a2b3c4d5e6f/", "no host's identity"),
        ] {
            let error = MemberKey::of_key(wrong.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{wrong}: {error}");
        }
        for (wrong, reason) in [
            ("app/10.128.3.33-27", "host bits"),
            ("app/10.128.3.32-027", "another spelling"),
            ("app/10.128.3.32-27&fd57::-120", "has not the form"),
            ("app/10.128.3.32", "has not the form"),
            ("/10.128.3.32-27", "no network name"),
        ] {
            let error = BlockKey::of_key(wrong.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(reason), "{wrong}: {error}");
        }
        for wrong in ["app/10.128.3.040", "app/FD57::1", "app/fd57:0::1", "app/", "app/::ffff:10.0.0.01"] {
            assert!(AddressKey::of_key(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }
}

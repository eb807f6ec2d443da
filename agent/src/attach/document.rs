//! What a container is to get: a document, of which the one with the higher generation holds.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use wire_net::{LinkName, MacAddr, NetworkName, Prefix};

use super::Selector;

/// Its name: 64 random bits in hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AttachmentId(u64);

/// A text that is no name of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no attachment's id of 16 hex digits")]
pub(crate) struct AttachmentIdError(String);

/// An attachment. Fields that are not known are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Attachment {
    pub(crate) id: AttachmentId,
    /// Of two versions the one with the higher number holds.
    pub(crate) generation: u64,
    /// Counts the attachments of this host: a later one has a higher number. Earlier versions wrote none.
    #[serde(default)]
    pub(crate) number: u64,
    pub(crate) origin: Origin,
    pub(crate) guest: Selector,
    /// The name of the interface in the container.
    #[serde(with = "text")]
    pub(crate) interface: LinkName,
    pub(crate) link: Link,
    /// `None`: by the address, as each container of a network has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<MacAddr>,
    /// None at all: a link without an address.
    #[serde(default)]
    pub(crate) addresses: Vec<Wish>,
    /// Where the default route of its family leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) routes: Vec<Route>,
    /// `None`: that of the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u16>,
}

/// Who made it, and may change it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Origin {
    /// The command `attach`.
    Cli,
}

/// The other end of the interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Link {
    /// A network by name, on all hosts.
    Network {
        #[serde(with = "text")]
        name: NetworkName,
    },
}

/// An address, or the wish for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wish {
    /// This one.
    Static { address: IpAddr, len: u8 },
    /// One of each family that the network has, by the network.
    Network,
}

/// A route behind the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Route {
    pub(crate) to: Prefix,
    pub(crate) via: IpAddr,
}

/// A text that is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WishError {
    #[error("address needs a prefix length; did you mean {address}/{len}?")]
    NoLength { address: IpAddr, len: u8 },
    #[error("{0:?} is no address: write 10.1.1.5/24, or network for one of the network's")]
    NoAddress(String),
    #[error("{text}: a prefix length of this family is at most {most}")]
    Length { text: String, most: u8 },
}

impl AttachmentId {
    pub(crate) const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number by which its ports are named: two attachments of a host have different ones.
    pub(crate) const fn short(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The end on this host of the link to its container with that number. The first has 0.
    pub(crate) fn port(self, slot: u16) -> LinkName {
        let name = match slot {
            0 => format!("wp{:08x}", self.short()),
            slot => format!("wp{:08x}.{:x}", self.short(), slot),
        };
        name.parse().expect("fifteen letters and digits at most")
    }
}

impl Attachment {
    /// Its place in the order in which attachments were made.
    pub(crate) const fn age(&self) -> (u64, AttachmentId) {
        (self.number, self.id)
    }

    /// The network that it is for.
    pub(crate) const fn network(&self) -> &NetworkName {
        let Link::Network { name } = &self.link;
        name
    }
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for AttachmentId {
    type Err = AttachmentIdError;

    fn from_str(text: &str) -> Result<Self, AttachmentIdError> {
        let is_digit = |letter: char| matches!(letter, '0'..='9' | 'a'..='f');
        let number = (text.len() == 16 && text.chars().all(is_digit)).then(|| u64::from_str_radix(text, 16).ok());
        number.flatten().map(Self).ok_or_else(|| AttachmentIdError(text.chars().take(40).collect()))
    }
}

impl FromStr for Wish {
    type Err = WishError;

    fn from_str(text: &str) -> Result<Self, WishError> {
        if text == "network" {
            return Ok(Self::Network);
        }
        let no_address = || WishError::NoAddress(text.chars().take(80).collect());
        let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        let address: IpAddr = address.parse().map_err(|_| no_address())?;
        let (usual, most) = if address.is_ipv4() { (24, 32) } else { (64, 128) };
        let len = len.ok_or(WishError::NoLength { address, len: usual })?;
        let len = len.parse().map_err(|_| no_address())?;
        if len > most {
            Err(WishError::Length { text: text.to_owned(), most })
        } else {
            Ok(Self::Static { address, len })
        }
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Static { address, len } => write!(f, "{address}/{len}"),
            Self::Network => f.write_str("network"),
        }
    }
}

/// Values that are written as text.
mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize as _, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(deserializer: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for AttachmentId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for AttachmentId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

impl Serialize for Wish {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Wish {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::deserialize(deserializer)
    }
}

//! The identity of a host.

use std::{fmt, str::FromStr};

/// The identity that a host has given itself at random: 128 bits, written as 32 hex digits in lower case.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(u128);

/// A text that is not a host's identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host's identity, which has 32 hex digits in lower case")]
pub struct HostIdError(pub String);

impl HostId {
    /// The least of all, where the keys of a network's hosts begin.
    pub const MIN: Self = Self(0);

    /// Takes the identity as a number.
    #[must_use]
    pub const fn new(number: u128) -> Self {
        Self(number)
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for HostId {
    type Err = HostIdError;

    fn from_str(text: &str) -> Result<Self, HostIdError> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let plain = text.len() == 32 && text.bytes().all(is_hex);
        let number = u128::from_str_radix(text, 16).ok().filter(|_| plain);
        number.map(Self).ok_or_else(|| HostIdError(text.chars().take(40).collect()))
    }
}

impl serde::Serialize for HostId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for HostId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_has_one_spelling() {
        let id = "00ff6e4f0c8a4d2b9e5f1a2b3c4d5e6f";
        assert_eq!(id.parse::<HostId>().unwrap().to_string(), id);
        for wrong in
            ["", "00ff", "+0ff6e4f0c8a4d2b9e5f1a2b3c4d5e6f", "00FF6e4f0c8a4d2b9e5f1a2b3c4d5e6f", &"0".repeat(33)]
        {
            assert!(wrong.parse::<HostId>().is_err(), "{wrong}");
        }
    }
}

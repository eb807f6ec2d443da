//! The name of a network of this host.

use std::{fmt, str::FromStr, sync::Arc};

/// The name of a network: 1 to 63 letters, digits, `.`, `_` or `-`, the first a letter or a digit. The default network comes first in the order, the
/// others follow by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NetworkName(Arc<str>);

/// A text that is not a valid network name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no network name: it has 1 to 63 letters, digits, '.', '_' or '-', and begins with a letter or a digit"
)]
pub struct NetworkNameError(pub String);

/// The name of the network that is flannel's too.
const DEFAULT: &str = "default";

impl NetworkName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True for the network that is flannel's too.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.as_str() == DEFAULT
    }
}

impl Default for NetworkName {
    fn default() -> Self {
        Self(DEFAULT.into())
    }
}

impl Ord for NetworkName {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (!self.is_default(), self.as_str()).cmp(&(!other.is_default(), other.as_str()))
    }
}

impl PartialOrd for NetworkName {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for NetworkName {
    type Err = NetworkNameError;

    fn from_str(text: &str) -> Result<Self, NetworkNameError> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let begins_well = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if begins_well && text.len() <= 63 && text.bytes().all(is_plain) {
            Ok(Self(text.into()))
        } else {
            Err(NetworkNameError(text.chars().take(80).collect()))
        }
    }
}

impl fmt::Display for NetworkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_short() {
        for good in ["default", "blue", "a", "9", "shop.prod_2-x", &"a".repeat(63)] {
            assert_eq!(good.parse::<NetworkName>().unwrap().as_str(), good);
        }
        for wrong in ["", ".a", "-a", "_", "a/b", "a b", "ä", "a\n", &"a".repeat(64)] {
            assert!(wrong.parse::<NetworkName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_default_network_comes_first() {
        let mut names: Vec<NetworkName> = ["zebra", "apple", "default"].map(|name| name.parse().unwrap()).into();
        names.sort();
        assert_eq!(names.iter().map(NetworkName::as_str).collect::<Vec<_>>(), ["default", "apple", "zebra"]);
    }
}

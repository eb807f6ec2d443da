//! The name of a network link.

use std::{cmp::Ordering, fmt, str::FromStr};

/// The name of a network link: at most 15 bytes (`IFNAMSIZ` of linux/if.h, without the final zero).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkName {
    // Padded with zeros, so that their order is the order of the text.
    bytes: [u8; 15],
}

/// A text that is not a valid link name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no link name: it has 1 to 15 visible characters and no slash")]
pub struct LinkNameError(pub String);

impl LinkName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let len = self.bytes.iter().position(|byte| *byte == 0).unwrap_or(self.bytes.len());
        std::str::from_utf8(&self.bytes[..len]).expect("made from a text")
    }

    /// A number in the order of the names.
    fn rank(&self) -> u128 {
        let mut bytes = [0; 16];
        bytes[..15].copy_from_slice(&self.bytes);
        u128::from_be_bytes(bytes)
    }
}

/// The order of the text. It is part of the order of nearly all keys of a large network: numbers are compared faster than bytes.
impl Ord for LinkName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

impl PartialOrd for LinkName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl FromStr for LinkName {
    type Err = LinkNameError;

    fn from_str(text: &str) -> Result<Self, LinkNameError> {
        // The kernel's own rule: dev_valid_name in net/core/dev.c.
        let valid = !text.is_empty()
            && text.len() <= 15
            && text != "."
            && text != ".."
            && !text
                .contains(|letter: char| letter == '/' || letter == ':' || letter == '\0' || letter.is_whitespace());
        if !valid {
            return Err(LinkNameError(text.chars().take(64).collect()));
        }
        let mut bytes = [0; 15];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_to_fifteen_bytes() {
        assert_eq!("flannel-v6.1234".parse::<LinkName>().unwrap().to_string(), "flannel-v6.1234");
        for wrong in ["", "flannel-v6.12345", "a/b", "a b", ".", "..", "a:1"] {
            assert!(wrong.parse::<LinkName>().is_err(), "{wrong}");
        }
        assert!("a".parse::<LinkName>().unwrap() < "ab".parse::<LinkName>().unwrap());
    }
}

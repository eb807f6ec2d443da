//! The two address families, and a pair of values, one for each.

use std::{fmt, net::IpAddr};

use serde::{Deserialize, Serialize};

/// An address family. Every algorithm takes it as a value, so that each is written only once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4, RFC 791.
    V4,
    /// IPv6, RFC 8200.
    V6,
}

impl Family {
    /// Both families, IPv4 first: the order of every output.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The length of an address in bits: 32 or 128.
    #[must_use]
    pub const fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }

    /// The length of the smallest usable subnet: 30 or 126. It has one address for a device and one for a bridge.
    #[must_use]
    pub const fn longest_subnet(self) -> u8 {
        self.bits() - 2
    }

    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// A value for IPv4, for IPv6, for both, or for neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DualStack<T> {
    /// The value for IPv4.
    pub v4: Option<T>,
    /// The value for IPv6.
    pub v6: Option<T>,
}

impl<T> Default for DualStack<T> {
    fn default() -> Self {
        Self { v4: None, v6: None }
    }
}

impl<T> DualStack<T> {
    /// Calls `value` for each family.
    pub fn from_fn(mut value: impl FnMut(Family) -> Option<T>) -> Self {
        Self { v4: value(Family::V4), v6: value(Family::V6) }
    }

    /// The value for one family.
    #[must_use]
    pub const fn get(&self, family: Family) -> Option<&T> {
        match family {
            Family::V4 => self.v4.as_ref(),
            Family::V6 => self.v6.as_ref(),
        }
    }

    /// Sets the value for one family; `None` removes it.
    pub fn set(&mut self, family: Family, value: Option<T>) {
        match family {
            Family::V4 => self.v4 = value,
            Family::V6 => self.v6 = value,
        }
    }

    /// The values that exist, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = (Family, &T)> {
        Family::ALL.into_iter().filter_map(|family| self.get(family).map(|value| (family, value)))
    }

    /// Converts each value.
    pub fn map<U>(&self, mut to: impl FnMut(Family, &T) -> U) -> DualStack<U> {
        DualStack::from_fn(|family| self.get(family).map(|value| to(family, value)))
    }

    /// Whether neither family has a value.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.v4.is_none() && self.v6.is_none()
    }
}

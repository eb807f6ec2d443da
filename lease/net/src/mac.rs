//! Ethernet addresses.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An Ethernet address of six octets. Formatted in lower case with colons.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MacAddr([u8; 6]);

/// A text that is not an Ethernet address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an Ethernet address of six octets, like c6:d2:32:6f:8f:44")]
pub struct MacError(pub String);

impl MacAddr {
    /// Takes the octets in transmission order.
    #[must_use]
    pub const fn new(octets: [u8; 6]) -> Self {
        Self(octets)
    }

    /// The octets in transmission order.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Makes a locally administered unicast address of the octets (IEEE 802: bit 1 of the first octet set, bit 0
    /// clear).
    #[must_use]
    pub const fn local(mut octets: [u8; 6]) -> Self {
        octets[0] = (octets[0] | 0x02) & !0x01;
        Self(octets)
    }

    /// The address of the container with this IP address on a network by name: 02:57 and the low 32 bits. So the entries of a block of
    /// addresses are known before any container has one.
    #[must_use]
    pub const fn of_container(address: IpAddr) -> Self {
        let low = match address {
            IpAddr::V4(address) => address.to_bits(),
            IpAddr::V6(address) => address.to_bits() as u32,
        };
        let [a, b, c, d] = low.to_be_bytes();
        Self([0x02, 0x57, a, b, c, d])
    }

    /// True if it has the form of [`MacAddr::of_container`].
    #[must_use]
    pub fn is_container(self) -> bool {
        self.0.starts_with(&[0x02, 0x57])
    }

    /// Whether a device can have it: it is neither a group address (such as broadcast) nor all zero.
    #[must_use]
    pub fn is_unicast(self) -> bool {
        self.0[0] & 0x01 == 0 && self.0 != [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MacAddr {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let wrong = || MacError(text.chars().take(64).collect());
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+')).ok_or_else(wrong)?;
            *octet = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() { Err(wrong()) } else { Ok(Self(octets)) }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_six_pairs_of_hex_digits_are_an_address() {
        assert_eq!("C6:d2:32:6f:8f:44".parse::<MacAddr>().unwrap().to_string(), "c6:d2:32:6f:8f:44");
        for wrong in
            ["", "c6:d2:32:6f:8f", "c6:d2:32:6f:8f:44:00", "c6:d2:32:6f:8f:4", "c6:d2:32:6f:8f:+4", "zz:d2:32:6f:8f:44"]
        {
            assert!(wrong.parse::<MacAddr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_address_of_a_container_follows_from_its_ip_address() {
        for (address, mac) in [
            ("10.128.3.40", "02:57:0a:80:03:28"),
            ("fd57::a80:328", "02:57:0a:80:03:28"),
            ("fd57::1", "02:57:00:00:00:01"),
        ] {
            let of_container = MacAddr::of_container(address.parse().unwrap());
            assert_eq!(of_container.to_string(), mac);
            assert!(of_container.is_unicast() && of_container.is_container());
        }
        assert!(!"02:42:0a:80:03:28".parse::<MacAddr>().unwrap().is_container());
    }

    #[test]
    fn group_and_zero_addresses_belong_to_no_device() {
        for wrong in ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "00:00:00:00:00:00"] {
            assert!(!wrong.parse::<MacAddr>().unwrap().is_unicast(), "{wrong}");
        }
        assert!(MacAddr::local([0xff; 6]).is_unicast());
    }
}

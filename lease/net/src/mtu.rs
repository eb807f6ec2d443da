//! The overhead of each encapsulation, with its sum and the sources of the numbers.

use std::fmt;

use crate::Family;

/// The largest packet of a link, in bytes, without its link-layer header.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtu(pub u32);

/// The bytes that an encapsulation adds to each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overhead(u32);

/// An IPv4 header without options, RFC 791 §3.1.
const IPV4: u32 = 20;
/// An IPv6 header, RFC 8200 §3.
const IPV6: u32 = 40;
/// A UDP header, RFC 768.
const UDP: u32 = 8;
/// A VXLAN header, RFC 7348 §5.
const VXLAN: u32 = 8;
/// The inner Ethernet header without a VLAN tag, RFC 7348 §5.
const ETHERNET: u32 = 14;

impl Overhead {
    /// VXLAN over an underlay of this family: 20 + 8 + 8 + 14 = 50 over IPv4, 40 + 8 + 8 + 14 = 70 over IPv6.
    #[must_use]
    pub const fn vxlan(underlay: Family) -> Self {
        Self(ip(underlay) + UDP + VXLAN + ETHERNET)
    }

    /// IP in UDP, as in flannel's udp backend: 20 + 8 = 28 over IPv4, 40 + 8 = 48 over IPv6.
    #[must_use]
    pub const fn udp(underlay: Family) -> Self {
        Self(ip(underlay) + UDP)
    }

    /// IPv4 in IPv4 (RFC 2003): 20.
    #[must_use]
    pub const fn ipip() -> Self {
        Self(IPV4)
    }

    /// The overhead in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

impl Mtu {
    /// The MTU that remains for the inner packet.
    #[must_use]
    pub const fn less(self, overhead: Overhead) -> Self {
        Self(self.0.saturating_sub(overhead.0))
    }
}

const fn ip(family: Family) -> u32 {
    match family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overheads_are_the_sums_of_their_headers() {
        assert_eq!(Overhead::vxlan(Family::V4).bytes(), 50);
        assert_eq!(Overhead::vxlan(Family::V6).bytes(), 70);
        assert_eq!(Overhead::udp(Family::V4).bytes(), 28);
        assert_eq!(Overhead::udp(Family::V6).bytes(), 48);
        assert_eq!(Overhead::ipip().bytes(), 20);
        assert_eq!(Mtu(1500).less(Overhead::vxlan(Family::V4)), Mtu(1450));
    }
}

//! How packets of the overlay look on the underlay.

use wire_net::Family;

/// What lies between outer UDP and an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encapsulation {
    /// VXLAN and Ethernet, RFC 7348 §5.
    Vxlan,
    /// Nothing: flannel's backend `udp`.
    RawIp,
}

impl Encapsulation {
    /// The outer UDP port where the network config does not say otherwise.
    #[must_use]
    pub const fn port(self) -> u16 {
        match self {
            Self::Vxlan => 8472,
            Self::RawIp => 8285,
        }
    }

    /// The bytes between the outer UDP header and the inner IP header: VXLAN's 8 and Ethernet's 14, or none.
    #[must_use]
    pub const fn header_len(self) -> u32 {
        match self {
            Self::Vxlan => 22,
            Self::RawIp => 0,
        }
    }

    /// The MTU of a device of the overlay of one family, which travels over the underlay of the same family, whose MTU is 1500:
    /// the outer IP header, UDP's 8 bytes and what follows them take the rest.
    #[must_use]
    pub const fn mtu(self, family: Family) -> u32 {
        let ip = match family {
            Family::V4 => 20,
            Family::V6 => 40,
        };
        1500 - ip - 8 - self.header_len()
    }
}

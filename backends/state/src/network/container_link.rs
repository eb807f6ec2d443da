//! Links that containers are on, or may be.

use std::net::IpAddr;

use wire_net::{Family, LinkName, Mtu, Prefix};

/// A link that containers are on, or may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerLink {
    /// Its name.
    pub name: LinkName,
    /// Whether it is a bridge, as Docker's are.
    pub is_bridge: bool,
    /// Its MTU. That of a bridge is its smallest port's, unless it was set; without ports it says nothing.
    pub mtu: Mtu,
    /// Whether anything is on it.
    pub is_used: bool,
    /// Its addresses with the lengths of their prefixes, in the kernel's order.
    pub addresses: Vec<(IpAddr, u8)>,
}

impl ContainerLink {
    /// Whether it has an address inside one of these subnets, and a network on it: the overlay's own devices have none.
    #[must_use]
    pub fn holds(&self, subnets: &[Prefix]) -> bool {
        self.addresses.iter().any(|address| Self::is_inside(address, subnets))
    }

    /// Whether an address, with the length of its prefix, has a network on it that lies in one of `subnets`.
    #[must_use]
    pub fn is_inside((address, len): &(IpAddr, u8), subnets: &[Prefix]) -> bool {
        *len < Family::of(*address).bits() && subnets.iter().any(|subnet| subnet.contains(*address))
    }
}

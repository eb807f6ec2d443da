//! Links that containers are on, or may be.

use std::net::IpAddr;

use wire_net::{Family, LinkName, Mtu, Prefix};

/// A link that containers are on, or may be.
///
/// Bridges are always among them; other links only with an address inside the host's subnets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerLink {
    /// Its name.
    pub name: LinkName,
    /// Whether it is a bridge, as Docker's are.
    pub is_bridge: bool,
    /// Its MTU in bytes. Unless it was set, a bridge has the smallest MTU of its ports; without ports the value has no meaning.
    pub mtu: Mtu,
    /// Whether containers are on it now: a bridge has a carrier, another link is up.
    pub is_used: bool,
    /// Its addresses with the lengths of their prefixes in bits, in the kernel's order.
    pub addresses: Vec<(IpAddr, u8)>,
}

impl ContainerLink {
    /// Whether it has an address inside one of these subnets with a prefix shorter than the address. The overlay's own devices have
    /// addresses of full length.
    #[must_use]
    pub fn holds(&self, subnets: &[Prefix]) -> bool {
        self.addresses.iter().any(|(address, len)| Self::is_inside(*address, *len, subnets))
    }

    /// Whether an address lies in one of `subnets` and its prefix is shorter than the address.
    #[must_use]
    pub fn is_inside(address: IpAddr, len: u8, subnets: &[Prefix]) -> bool {
        len < Family::of(address).bits() && subnets.iter().any(|subnet| subnet.contains(address))
    }
}

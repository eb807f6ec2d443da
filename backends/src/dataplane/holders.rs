//! Which links containers are on, or may be: bridges, and whatever holds addresses inside our subnets.

use std::{collections::BTreeMap, net::IpAddr};

use wire_net::{Family, LinkName, Mtu, Prefix};
use wire_state::{DataplaneError, LinkKind};

use super::{
    attribute::number,
    decode, encode,
    read::link_by,
    socket::{Batch, Netlink},
};

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
        self.addresses.iter().any(|address| holds(address, subnets))
    }
}

/// Whether an address has a network on it that lies in one of `subnets`.
pub(super) fn holds((address, len): &(IpAddr, u8), subnets: &[Prefix]) -> bool {
    *len < Family::of(*address).bits() && subnets.iter().any(|subnet| subnet.contains(*address))
}

/// All bridges, and the other links that hold one of `subnets`.
pub(crate) fn container_links(netlink: &mut Netlink, subnets: &[Prefix]) -> Result<Vec<ContainerLink>, DataplaneError> {
    // Older kernels list the links of all kinds.
    let request = |batch: &mut Batch, flags| encode::list_links(batch, flags, Some("bridge"));
    let bridge = |body: &[u8]| {
        let (name, link) = decode::link(body)?;
        let is_bridge = link.kind == LinkKind::Other("bridge".to_owned());
        let addresses = Vec::new();
        let bridge = ContainerLink { name, is_bridge, mtu: link.mtu, is_used: has_carrier(body), addresses };
        is_bridge.then_some((link.index?, bridge))
    };
    let mut links: BTreeMap<u32, ContainerLink> = netlink.dump("bridges", &request, bridge)?.into_iter().collect();
    for family in Family::ALL {
        let request = |batch: &mut Batch, flags| encode::list_addresses(batch, flags, family, 0);
        for (index, address, len) in netlink.dump("addresses", &request, decode::any_address)? {
            if !links.contains_key(&index) && holds(&(address, len), subnets) {
                links.extend(other(netlink, index)?.map(|link| (index, link)));
            }
            if let Some(link) = links.get_mut(&index) {
                link.addresses.push((address, len));
            }
        }
    }
    Ok(links.into_values().collect())
}

/// A link that is no bridge; none where it went meanwhile, or is a device of an overlay.
fn other(netlink: &mut Netlink, index: u32) -> Result<Option<ContainerLink>, DataplaneError> {
    let found = link_by(netlink, None, index)?;
    let found = found.filter(|(_, link)| !matches!(link.kind, LinkKind::Vxlan(_)));
    Ok(found.map(|(name, link)| ContainerLink {
        name,
        is_bridge: false,
        mtu: link.mtu,
        is_used: link.up,
        addresses: Vec::new(),
    }))
}

/// A bridge has a carrier where one of its ports has (`IFF_LOWER_UP` in `struct ifinfomsg`).
fn has_carrier(body: &[u8]) -> bool {
    body.get(8..12).and_then(number).is_some_and(|flags| flags & 0x1_0000 != 0)
}

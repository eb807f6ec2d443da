//! Finds the links that containers are on, or may be: bridges, and other links with an address inside the host's subnets.

use std::collections::BTreeMap;

use wire_net::{Family, LinkName, Prefix};
use wire_netlink::{Batch, Netlink, attribute::number};
use wire_state::{ContainerLink, DataplaneError, ObservedKind};

use super::{
    decode::{self, Namespaces},
    encode,
    read::link_by,
    uapi::iff,
};

/// Reads single links and container links, through a netlink socket of its own.
pub struct Links {
    netlink: Netlink,
}

impl Links {
    /// Opens the socket in the network namespace of the calling thread.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket.
    pub fn open() -> Result<Self, DataplaneError> {
        Ok(Self { netlink: Netlink::open()? })
    }

    /// All bridges, and the other links with an address inside one of `subnets`.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn of_containers(&mut self, subnets: &[Prefix]) -> Result<Vec<ContainerLink>, DataplaneError> {
        container_links(&mut self.netlink, subnets)
    }

    /// Whether a link with that name exists.
    pub fn has(&mut self, name: LinkName) -> bool {
        matches!(link_by(&mut self.netlink, Some(name), 0), Ok(Some(_)))
    }
}

fn container_links(netlink: &mut Netlink, subnets: &[Prefix]) -> Result<Vec<ContainerLink>, DataplaneError> {
    // Kernels before 4.6 do not filter by kind, so `bridge` checks it too.
    let request = |batch: &mut Batch, flags| encode::list_links(batch, flags, Some("bridge"));
    let bridge = |body: &[u8]| {
        let (name, link) = decode::link(body, &Namespaces::HOST)?;
        let is_bridge = matches!(link.kind, ObservedKind::Bridge(_));
        let addresses = Vec::new();
        let bridge = ContainerLink { name, is_bridge, mtu: link.mtu, is_used: has_carrier(body), addresses };
        is_bridge.then_some((link.index, bridge))
    };
    let mut links: BTreeMap<u32, ContainerLink> = netlink.dump("bridges", &request, bridge)?.into_iter().collect();
    for family in Family::ALL {
        let request = |batch: &mut Batch, flags| encode::list_addresses(batch, flags, family, 0);
        for (index, address, len) in netlink.dump("addresses", &request, decode::any_address)? {
            if !links.contains_key(&index) && ContainerLink::is_inside(address, len, subnets) {
                links.extend(other(netlink, index)?.map(|link| (index, link)));
            }
            if let Some(link) = links.get_mut(&index) {
                link.addresses.push((address, len));
            }
        }
    }
    Ok(links.into_values().collect())
}

/// A link that is not a bridge; `None` if it no longer exists or is a VXLAN device.
fn other(netlink: &mut Netlink, index: u32) -> Result<Option<ContainerLink>, DataplaneError> {
    let found = link_by(netlink, None, index)?;
    let found = found.filter(|(_, link)| !matches!(link.kind, ObservedKind::Vxlan(_)));
    Ok(found.map(|(name, link)| ContainerLink {
        name,
        is_bridge: false,
        mtu: link.mtu,
        is_used: link.up,
        addresses: Vec::new(),
    }))
}

/// Whether a link has a carrier (in the flags of `struct ifinfomsg`). A bridge has one if one of its ports has.
fn has_carrier(body: &[u8]) -> bool {
    body.get(8..12).and_then(number).is_some_and(|flags| flags & iff::LOWER_UP != 0)
}

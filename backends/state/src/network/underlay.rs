//! The link to the other hosts.

use std::net::IpAddr;

use wire_net::{DualStack, LinkName, LocalAddress, MacAddr, Mtu, Prefix};

use crate::{LinkId, Namespace};

/// The link to the other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Its name.
    pub link: LinkName,
    /// The kernel's number of it.
    pub index: u32,
    /// Its MTU.
    pub mtu: Mtu,
    /// Its Ethernet address, where it has one.
    pub mac: Option<MacAddr>,
    /// Its own address of each family that is on: what encapsulated packets are sent from.
    pub addresses: DualStack<IpAddr>,
    /// All addresses of the host, on whatever link.
    pub local: Vec<LocalAddress>,
    /// What the host reaches without the overlay: the prefixes of its links, except those in `attached` and of the overlay's
    /// devices, and its routers, which may lie in none of them (`onlink`).
    pub connected: Vec<Prefix>,
    /// The prefixes among the subnets that hosts lease of bridges, and of others' VXLAN devices: Docker's bridge with our subnet,
    /// but also virtual machines, or containers in a network of their own.
    pub attached: Vec<(LinkName, Prefix)>,
}

impl Underlay {
    /// Its link, as devices name it.
    #[must_use]
    pub const fn parent(&self) -> LinkId {
        LinkId { namespace: Namespace::Host, index: self.index, name: self.link }
    }
}

//! The underlay: the link to the other hosts.

use std::net::IpAddr;

use wire_net::{DualStack, LinkName, LocalAddress, MacAddr, Mtu, Prefix};

use crate::{LinkId, Namespace};

/// The link to the other hosts, and the parts of the host's network that concern the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Its name.
    pub link: LinkName,
    /// The kernel's interface index.
    pub index: u32,
    /// Its MTU in bytes.
    pub mtu: Mtu,
    /// Its Ethernet address, if it has one.
    pub mac: Option<MacAddr>,
    /// Its own address of each enabled family. Outer packets are sent from it.
    pub addresses: DualStack<IpAddr>,
    /// The prefixes of its own addresses: hosts in them are reached on the link itself, without a router.
    pub on_link: Vec<Prefix>,
    /// All addresses of the host, on any link.
    pub local: Vec<LocalAddress>,
    /// The prefixes that the host reaches without the overlay: those of its links, except those in `attached` and those of the overlay's
    /// devices; and its routers, which may lie outside of all these prefixes (`onlink`).
    pub connected: Vec<Prefix>,
    /// The prefixes of bridges and of foreign VXLAN devices that lie in the range from which hosts lease subnets: that of Docker's bridge
    /// with our subnet, but also those of virtual machines, or of containers in a network of their own.
    pub attached: Vec<(LinkName, Prefix)>,
}

impl Underlay {
    /// Its link, as the parent of our devices.
    #[must_use]
    pub const fn parent(&self) -> LinkId {
        LinkId { namespace: Namespace::Host, index: self.index, name: self.link }
    }
}

//! The tables of one network namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use wire_net::{LinkName, MacAddr, Prefix};

use super::{DesiredLink, NextHop, ObservedLink, ObservedRoute, RouteKey, Setting};

/// What one network namespace holds: `L` is a link, `R` a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetState<L, R> {
    /// Network links.
    pub links: BTreeMap<LinkName, L>,
    /// Addresses of our devices. Link-local ones are the kernel's own and never here.
    pub addresses: BTreeSet<Address>,
    /// The forwarding database of our VXLAN devices: behind which host a MAC lives. Permanent entries only.
    pub fdb: BTreeMap<FdbKey, IpAddr>,
    /// The hosts to which our VXLAN devices send copies of frames for many: the entries of the FDB that may have several
    /// destinations.
    pub flooding: BTreeSet<FloodEntry>,
    /// Permanent neighbours on our devices: which MAC an address has.
    pub neighbours: BTreeMap<NeighbourKey, MacAddr>,
    /// Where our tunnels send what comes to them, one table for each.
    pub forwarding: BTreeMap<ForwardKey, Forward>,
    /// Routes.
    pub routes: BTreeMap<RouteKey, R>,
    /// The kernel's settings. Read: those of the host and of our devices; whether links that containers are on forward; and of
    /// links that take routes from routers `accept_ra`, where forwarding would end that.
    pub settings: BTreeMap<Setting, u32>,
}

/// What was read of a namespace.
pub type ObservedNet = NetState<ObservedLink, ObservedRoute>;

/// What should be in a namespace.
pub type DesiredNet = NetState<DesiredLink, NextHop>;

/// Whose an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// To be changed or removed as we like.
    Ours,
    /// Never to be changed or removed.
    Foreign,
}

/// The index of the forwarding table: the longest prefix wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForwardKey {
    /// The TUN device.
    pub link: LinkName,
    /// The inner destination.
    pub destination: Prefix,
}

/// Where packets for a prefix go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The host.
    pub to: IpAddr,
    /// Its inner Ethernet address, where the framing has one.
    pub mac: Option<MacAddr>,
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address {
    /// The link.
    pub link: LinkName,
    /// The address.
    pub address: IpAddr,
    /// The length of its prefix, in bits.
    pub len: u8,
}

/// The index of the forwarding database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbKey {
    /// The VXLAN device.
    pub link: LinkName,
    /// The inner destination, of one host.
    pub mac: MacAddr,
}

/// A destination of frames for many hosts. The kernel takes several for one MAC only if that is zero, which stands for all frames
/// without an entry of their own, or a group's (`vxlan_fdb_update_create` of drivers/net/vxlan).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FloodEntry {
    /// The VXLAN device.
    pub link: LinkName,
    /// The inner destination: zero, or a group's.
    pub mac: MacAddr,
    /// The host that gets a copy; unspecified where the kernel has an entry without one.
    pub to: IpAddr,
}

/// The index of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeighbourKey {
    /// The link.
    pub link: LinkName,
    /// The neighbour's address.
    pub address: IpAddr,
}

impl<L, R> Default for NetState<L, R> {
    fn default() -> Self {
        Self {
            links: BTreeMap::new(),
            addresses: BTreeSet::new(),
            fdb: BTreeMap::new(),
            flooding: BTreeSet::new(),
            neighbours: BTreeMap::new(),
            forwarding: BTreeMap::new(),
            routes: BTreeMap::new(),
            settings: BTreeMap::new(),
        }
    }
}

impl ObservedNet {
    /// Drops all entries of one link, as the kernel does when it goes.
    pub fn forget_link(&mut self, link: LinkName) {
        self.links.remove(&link);
        self.settings.retain(|setting, _| setting.link() != Some(link));
        self.flush_link(link);
    }

    /// Drops all entries of one link but not the link.
    fn flush_link(&mut self, link: LinkName) {
        self.addresses.retain(|address| address.link != link);
        self.fdb.retain(|key, _| key.link != link);
        self.flooding.retain(|entry| entry.link != link);
        self.neighbours.retain(|key, _| key.link != link);
        self.forwarding.retain(|key, _| key.link != link);
        self.routes.retain(|_, route| route.via.link() != Some(link));
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} dev {}", self.address, self.len, self.link)
    }
}

impl fmt::Display for FdbKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.mac, self.link)
    }
}

impl fmt::Display for FloodEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {} dst {}", self.mac, self.link, self.to)
    }
}

impl fmt::Display for NeighbourKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.address, self.link)
    }
}

impl fmt::Display for ForwardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.destination, self.link)
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to {}", self.to)?;
        self.mac.map_or(Ok(()), |mac| write!(f, " lladdr {mac}"))
    }
}

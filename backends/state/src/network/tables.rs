//! The tables of one network namespace.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use imbl::{OrdMap, OrdSet};
use wire_net::{Family, LinkName, MacAddr, Prefix};

use super::{
    DesiredForm, DesiredKind, DesiredLink, KernelKind, NextHop, ObservedLink, ObservedRoute, RouteKey, Setting,
    on_link::forget_on,
};

/// The network state of one namespace. `L` is the type of a link, `R` that of a route, `F` that of the desired form of all routes: the form
/// that was read is a part of each route.
///
/// The tables that grow with the number of peers share with a copy what is equal in both: a copy costs nothing, and what differs
/// between two states of which one was made from the other is found in a time in proportion to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetState<L, R, F = ()> {
    /// Links by their names.
    pub links: BTreeMap<LinkName, L>,
    /// Addresses of our devices, without link-local ones, which the kernel makes itself.
    pub addresses: BTreeSet<Address>,
    /// The FDB of our VXLAN devices: the host behind which a MAC is. Permanent entries only.
    pub fdb: OrdMap<FdbKey, FdbTarget>,
    /// The hosts to which our VXLAN devices flood frames: the FDB entries that may have several destinations.
    pub flooding: OrdSet<FloodEntry>,
    /// The FDB of our bridges: the port behind which a MAC is. Static entries only, and only those that lead to VXLAN devices of ours: what is
    /// behind other ports is learnt.
    pub bridge_fdb: OrdMap<BridgeFdbKey, LinkName>,
    /// The permanent neighbours on our devices: the MAC of an address.
    pub neighbours: OrdMap<NeighbourKey, MacAddr>,
    /// The forwarding tables of the tunnels that the agent runs: the host to which packets for a prefix are sent.
    pub forwarding: OrdMap<ForwardKey, Forward>,
    /// Routes by their keys.
    pub routes: OrdMap<RouteKey, R>,
    /// The form in which the kernel should hold the routes.
    pub route_form: F,
    /// Settings in `/proc/sys/net`. These are read: those of the host and of our devices; `forwarding` of links with containers on
    /// them; and `accept_ra` of links that would lose routes from router advertisements when the host forwards.
    pub settings: BTreeMap<Setting, u32>,
}

/// The state of a namespace as it was read.
pub type ObservedNet = NetState<ObservedLink, ObservedRoute>;

/// The desired state of a namespace.
pub type DesiredNet = NetState<DesiredLink, NextHop, DesiredForm>;

/// Whether an entry is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// Ours: the agent may change and remove it.
    Ours,
    /// Of the host or another program: the agent never changes or removes it.
    Foreign,
}

/// The key of the forwarding table of a tunnel that the agent runs. The longest prefix wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ForwardKey {
    /// The TUN device.
    pub link: LinkName,
    /// The inner destination.
    pub destination: Prefix,
}

/// The host to which packets for a prefix are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The destination address of outer packets.
    pub to: IpAddr,
    /// The destination port of outer packets; `None` is the tunnel's own.
    pub port: Option<u16>,
    /// The inner Ethernet address of that host, if the framing has Ethernet headers.
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

/// The key of the forwarding database (FDB).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbKey {
    /// The VXLAN device.
    pub link: LinkName,
    /// The inner destination MAC, a unicast address.
    pub mac: MacAddr,
}

/// The key of the forwarding database of a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeFdbKey {
    /// The bridge.
    pub bridge: LinkName,
    /// The destination MAC, a unicast address.
    pub mac: MacAddr,
}

/// The host behind a MAC of the FDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FdbTarget {
    /// The host's address; unspecified if the kernel's entry has no destination.
    pub to: IpAddr,
    /// The UDP port that it listens on (`NDA_PORT`); `None` is the device's own. The kernel does not name the port of an entry that
    /// has the device's (`vxlan_fdb_info` of drivers/net/vxlan), so that is the same value.
    pub port: Option<u16>,
}

impl From<IpAddr> for FdbTarget {
    fn from(to: IpAddr) -> Self {
        Self { to, port: None }
    }
}

/// A destination to which frames are flooded. The kernel takes several for one MAC only if it is zero, which stands for all frames
/// without an FDB entry of their own, or multicast (`vxlan_fdb_update_create` of drivers/net/vxlan).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FloodEntry {
    /// The VXLAN device.
    pub link: LinkName,
    /// The inner destination MAC: zero or multicast.
    pub mac: MacAddr,
    /// The host that gets a copy; unspecified if the kernel's entry has no destination.
    pub to: IpAddr,
    /// How the copy is sent, if not as the device sends all else. The kernel finds an entry only if this is named too.
    pub by: FloodPath,
}

/// How copies of flooded frames are sent to one destination; `None` is as the device sends all else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct FloodPath {
    /// The UDP port (`NDA_PORT`).
    pub port: Option<u16>,
    /// The VNI (`NDA_VNI`).
    pub vni: Option<u32>,
    /// The index of the link (`NDA_IFINDEX`).
    pub link: Option<u32>,
}

/// The key of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeighbourKey {
    /// The link.
    pub link: LinkName,
    /// The neighbour's address.
    pub address: IpAddr,
}

impl<L, R, F: Default> Default for NetState<L, R, F> {
    fn default() -> Self {
        Self {
            links: BTreeMap::new(),
            addresses: BTreeSet::new(),
            fdb: OrdMap::new(),
            flooding: OrdSet::new(),
            bridge_fdb: OrdMap::new(),
            neighbours: OrdMap::new(),
            forwarding: OrdMap::new(),
            routes: OrdMap::new(),
            route_form: F::default(),
            settings: BTreeMap::new(),
        }
    }
}

impl DesiredNet {
    /// True if a gateway on the link is the peer's host: on a link of the underlay, and on an IPIP device, which sends to the gateway.
    pub(crate) fn is_host_itself(&self, link: LinkName) -> bool {
        self.links.get(&link).is_none_or(|link| matches!(link.kind, DesiredKind::Kernel(KernelKind::Ipip(_))))
    }

    /// The public address of the host behind a gateway, which is the one that leads to `subnet`.
    pub(crate) fn host_behind(&self, link: LinkName, gateway: IpAddr, subnet: Prefix) -> Option<IpAddr> {
        let by_table = self.forwarding.get(&ForwardKey { link, destination: subnet }).map(|forward| forward.to);
        let mac = || self.neighbours.get(&NeighbourKey { link, address: gateway }).copied();
        let by_device = by_table.or_else(|| self.fdb.get(&FdbKey { link, mac: mac()? }).map(|target| target.to));
        by_device.or_else(|| self.is_host_itself(link).then_some(gateway))
    }
}

/// A route of a state, by the link that it leads to.
pub trait LeadsToLink {
    /// The link that packets are sent to; `None` if they are dropped, or sent in another way.
    fn link(&self) -> Option<LinkName>;
}

impl LeadsToLink for NextHop {
    fn link(&self) -> Option<LinkName> {
        Self::link(self)
    }
}

impl LeadsToLink for ObservedRoute {
    fn link(&self) -> Option<LinkName> {
        self.via.link()
    }
}

impl<L, R, F> NetState<L, R, F> {
    /// The number of entries in the tables that grow with the number of peers.
    #[must_use]
    pub fn entries_of_peers(&self) -> usize {
        self.fdb.len()
            + self.flooding.len()
            + self.bridge_fdb.len()
            + self.neighbours.len()
            + self.forwarding.len()
            + self.routes.len()
    }
}

impl<L, R: LeadsToLink + Clone, F> NetState<L, R, F> {
    /// Removes a link with all entries on it, as the kernel does.
    pub fn forget_link(&mut self, link: LinkName) {
        self.links.remove(&link);
        self.settings.retain(|setting, _| setting.link() != Some(link));
        self.flush_link(link);
    }

    /// Removes the addresses, neighbours and routes of one family on a link, as the kernel does when the link no longer has that family.
    pub fn forget_family(&mut self, link: LinkName, family: Family) {
        self.addresses.retain(|address| address.link != link || Family::of(address.address) != family);
        forget_on(&mut self.neighbours, link, |key, _| Family::of(key.address) == family);
        retain(&mut self.routes, |key, route| route.link() != Some(link) || key.destination.family() != family);
    }

    /// Removes all entries on a link, but not the link or its settings.
    fn flush_link(&mut self, link: LinkName) {
        self.addresses.retain(|address| address.link != link);
        forget_on(&mut self.fdb, link, |_, _| true);
        self.flooding = self.flooding.iter().filter(|entry| entry.link != link).copied().collect();
        retain(&mut self.bridge_fdb, |key, port| key.bridge != link && *port != link);
        forget_on(&mut self.neighbours, link, |_, _| true);
        forget_on(&mut self.forwarding, link, |_, _| true);
        retain(&mut self.routes, |_, route| route.link() != Some(link));
    }
}

/// Removes the entries of a table that `keep` does not want.
pub fn retain<K: Ord + Clone, V: Clone>(table: &mut OrdMap<K, V>, keep: impl Fn(&K, &V) -> bool) {
    let unwanted: Vec<K> = table.iter().filter(|(key, value)| !keep(key, value)).map(|(key, _)| key.clone()).collect();
    unwanted.iter().for_each(|key| drop(table.remove(key)));
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

impl fmt::Display for BridgeFdbKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {}", self.mac, self.bridge)
    }
}

impl fmt::Display for FdbTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to.fmt(f)?;
        self.port.map_or(Ok(()), |port| write!(f, " port {port}"))
    }
}

impl fmt::Display for FloodEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} dev {} dst {}", self.mac, self.link, self.to)?;
        let FloodPath { port, vni, link } = self.by;
        port.map_or(Ok(()), |port| write!(f, " port {port}"))?;
        vni.map_or(Ok(()), |vni| write!(f, " vni {vni}"))?;
        link.map_or(Ok(()), |link| write!(f, " via if{link}"))
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
        self.port.map_or(Ok(()), |port| write!(f, " port {port}"))?;
        self.mac.map_or(Ok(()), |mac| write!(f, " lladdr {mac}"))
    }
}

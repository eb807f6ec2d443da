//! The state of the kernel's network as far as it concerns us: wanted or read, in the same form.
//!
//! Keys are the kernel's own index, so that two entries the kernel cannot hold together cannot be held here.

mod conflict;
mod container_link;
mod detour;
mod op;
pub(crate) mod plan;
mod route;
mod scope;
mod setting;
mod tunnel;
mod underlay;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, SocketAddr},
};

use wire_net::{Family, LinkName, MacAddr, Mtu, Prefix, Vni};

pub use self::{
    conflict::Conflict,
    container_link::ContainerLink,
    detour::Detours,
    op::Op,
    plan::{Findings, Network, plan},
    route::{PROTOCOL, Route, RouteKey, Via},
    scope::{Marks, Scope},
    setting::Setting,
    tunnel::{Capabilities, Framing, VXLAN_LEAD, vxlan_header},
    underlay::Underlay,
};

/// What the kernel holds, or should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetState {
    /// Network links.
    pub links: BTreeMap<LinkName, Link>,
    /// Addresses of our devices. Link-local ones are the kernel's own and never here.
    pub addresses: BTreeSet<Address>,
    /// The forwarding database of our VXLAN devices: behind which host a MAC lives. Permanent entries only.
    pub fdb: BTreeMap<FdbKey, IpAddr>,
    /// Permanent neighbours on our devices: which MAC an address has.
    pub neighbours: BTreeMap<NeighbourKey, MacAddr>,
    /// Where our tunnels send what comes to them, one table for each.
    pub forwarding: BTreeMap<ForwardKey, Forward>,
    /// Routes.
    pub routes: BTreeMap<RouteKey, Route>,
    /// The kernel's settings. Read: those of the host and of our devices; whether links that containers are on forward; and of
    /// links that take routes from routers `accept_ra`, where forwarding would end that.
    pub settings: BTreeMap<Setting, u32>,
}

/// Whose an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// To be changed or removed as we like.
    Ours,
    /// Never to be changed or removed.
    Foreign,
}

/// A network link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// What it is.
    pub kind: LinkKind,
    /// Its Ethernet address, where it has one.
    pub mac: Option<MacAddr>,
    /// Its MTU.
    pub mtu: Mtu,
    /// Whether it is administratively up (`IFF_UP`).
    pub up: bool,
    /// Whose it is.
    pub owner: Owner,
    /// The kernel's number of it, where it was read. Not part of what is wanted.
    pub index: Option<u32>,
}

/// What a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A VXLAN device, RFC 7348.
    Vxlan(Vxlan),
    /// A TUN device, with what works it. Read as `None`, nothing of ours does.
    Tun(Option<Tunnel>),
    /// Any other, by the kernel's name of the kind (`dummy`, `bridge`, …), empty for hardware.
    Other(String),
}

/// The link that a device sends through: one that is renamed is the same.
#[derive(Clone, Copy, Debug, Eq)]
pub struct Parent {
    /// The kernel's number of it.
    pub index: u32,
    /// Its name, for people.
    pub name: LinkName,
}

impl PartialEq for Parent {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index
    }
}

/// The settings of a VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// The network identifier.
    pub vni: Vni,
    /// The link it sends through.
    pub parent: Option<Parent>,
    /// The source of encapsulated packets.
    pub local: Option<IpAddr>,
    /// The UDP port; of a wanted device `None` leaves it to the kernel.
    pub port: Option<u16>,
    /// The multicast group or default destination.
    pub group: Option<IpAddr>,
    /// Group Policy extension.
    pub gbp: bool,
    /// Whether it learns from traffic.
    pub learning: bool,
    /// Whether it reports missing MACs.
    pub l2miss: bool,
    /// What it takes in that ours do not: the kernel lets no two such devices share a port.
    pub extra: Option<Extra>,
}

/// What a VXLAN device takes in that ours do not, of what must agree where devices share a port (`VXLAN_F_RCV_FLAGS` of
/// net/vxlan.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// `external`: packets of any VNI.
    Metadata,
    /// `gpe`: packets that are no Ethernet frames.
    Gpe,
    /// `udp6zerocsumrx`: IPv6 packets without a checksum.
    ZeroChecksums,
    /// `remcsumrx`: checksums left to the receiver.
    RemoteChecksums,
    /// `rsc`: route short circuit.
    ShortCircuit,
}

/// How packets of a TUN device travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// What is before them.
    pub framing: Framing,
    /// Our end. The port is that of all ends.
    pub local: SocketAddr,
    /// Our own part of the network: nothing else comes in. `None` lets in everything.
    pub own: Option<Prefix>,
    /// Whether a packet must come from the peer that has its inner source.
    pub source_check: bool,
    /// How many threads move packets.
    pub queues: usize,
    /// What is asked of the kernel to be fast.
    pub capabilities: Capabilities,
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
    /// The inner destination.
    pub mac: MacAddr,
}

/// The index of the neighbour table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NeighbourKey {
    /// The link.
    pub link: LinkName,
    /// The neighbour's address.
    pub address: IpAddr,
}

impl Link {
    /// The same device with `own` as our part of the network, if it is one that we work ourselves.
    #[must_use]
    pub fn with_own(&self, own: Option<Prefix>) -> Self {
        let mut link = self.clone();
        if let LinkKind::Tun(Some(tunnel)) = &mut link.kind {
            tunnel.own = own;
        }
        link
    }

    /// A device of ours without a MAC of its own, up.
    #[must_use]
    pub const fn ours(kind: LinkKind, mtu: Mtu) -> Self {
        Self { kind, mac: None, mtu, up: true, owner: Owner::Ours, index: None }
    }
}

impl Vxlan {
    /// A device of that identifier with everything else off or left to the kernel.
    #[must_use]
    pub const fn new(vni: Vni) -> Self {
        Self {
            vni,
            parent: None,
            local: None,
            port: None,
            group: None,
            gbp: false,
            learning: false,
            l2miss: false,
            extra: None,
        }
    }

    /// The port in use: the kernel's default is 8472 (drivers/net/vxlan, `vxlan_port`), not RFC 7348's 4789.
    #[must_use]
    pub fn port_in_use(&self) -> u16 {
        self.port.unwrap_or(8472)
    }

    /// Whether it takes in packets of that family.
    pub(crate) fn hears(&self, family: Family) -> bool {
        // What the packets are to be, those who send them say.
        self.extra == Some(Extra::Metadata) || self.underlay() == family
    }

    /// The family of the outer packets.
    #[must_use]
    pub fn underlay(&self) -> Family {
        self.local.or(self.group).map_or(Family::V4, Family::of)
    }
}

impl NetState {
    /// Drops all entries of one link, as the kernel does when it goes.
    pub fn forget_link(&mut self, link: LinkName) {
        self.links.remove(&link);
        self.settings.retain(|setting, _| setting.link() != Some(link));
        self.flush_link(link);
    }

    /// Drops all entries of one link but not the link, as the kernel does when it goes down (of IPv4 addresses and the
    /// FDB it keeps some; they are read back).
    pub fn flush_link(&mut self, link: LinkName) {
        self.addresses.retain(|address| address.link != link);
        self.fdb.retain(|key, _| key.link != link);
        self.neighbours.retain(|key, _| key.link != link);
        self.forwarding.retain(|key, _| key.link != link);
        self.routes.retain(|_, route| route.link() != Some(link));
    }
}

impl fmt::Display for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Metadata => "collects metadata (external)",
            Self::Gpe => "takes other packets than Ethernet frames (gpe)",
            Self::ZeroChecksums => "takes IPv6 packets without checksums (udp6zerocsumrx)",
            Self::RemoteChecksums => "takes checksums that are left to it (remcsumrx)",
            Self::ShortCircuit => "short-circuits routes (rsc)",
        })
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

//! The trait that each backend implements, and the functions that several of them use.

use std::{
    borrow::Cow,
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use wire_lease::{BackendData, Lease, LeaseTable};
use wire_net::{DualStack, Family, LinkName, MacAddr, Mtu, Overhead, Prefix};
use wire_state::{
    Address, Capabilities, DesiredKind, DesiredLink, DesiredNet, Forward, ForwardKey, Framing, Marks, NextHop,
    RouteKey, Scope, Setting, Tunnel, Underlay,
};

use crate::{Addresses, NetFromLeases, PeerEntry, Reaches, SelectError};

/// A way for hosts to reach each other's containers. Pure: the same leases always give the same desired state.
pub trait Backend: Send + Sync {
    /// The desired state of the host's namespace but for the entries of peers: devices, addresses, settings, and the routes that lead to
    /// several peers.
    fn base(&self, own: &Lease, ranges: &[Prefix]) -> DesiredNet;

    /// The ranges that are routed through our devices as a whole. By default there are none: each peer has a route of its own.
    fn ranges(&self, _outside: &Addresses) -> Vec<Prefix> {
        Vec::new()
    }

    /// Appends the entries of one peer that this backend reaches.
    fn peer_entries(&self, peer: &Lease, ranges: &[Prefix], entries: &mut Vec<PeerEntry>);

    /// The desired state of the host's namespace, computed from all leases.
    fn desired(&self, own: &Lease, leases: &LeaseTable) -> DesiredNet {
        NetFromLeases::new(self, own, leases).into_net()
    }

    /// The backend's part of our lease.
    fn data(&self) -> BackendData;

    /// The leases of the hosts that this backend reaches.
    fn reaches(&self) -> Reaches;

    /// The same of the former backend that is spoken beside it.
    fn former(&self) -> Option<Reaches> {
        None
    }

    /// The devices without which the network is usable nonetheless: those of the former backend alone.
    fn spare(&self) -> BTreeSet<LinkName> {
        BTreeSet::new()
    }

    /// A peer's lease as [`Backend::peer_entries`] is to take it; `None` if the peer is not reached.
    fn seen<'a>(&self, peer: &'a Lease) -> Option<Cow<'a, Lease>> {
        self.reaches().seen(peer)
    }

    /// True if a peer is reached by the former backend alone.
    fn needs_former(&self, _peer: &Lease) -> bool {
        false
    }

    /// The underlay's link, if packets to some hosts leave by it without encapsulation.
    fn direct(&self) -> Option<LinkName> {
        None
    }

    /// The public address of a peer that this backend cannot reach, since it is not on the underlay's link.
    fn beyond_link(&self, _peer: &Lease) -> Option<IpAddr> {
        None
    }

    /// The part of the system that moves packets.
    fn datapath(&self) -> Datapath;

    /// The MTU of the overlay in bytes: the smallest of our devices.
    fn mtu(&self) -> Mtu;

    /// The part of the kernel's state that is read.
    fn scope(&self) -> Scope;
}

/// The part of the system that moves packets between hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datapath {
    /// Its name in `status`.
    pub name: &'static str,
    /// Whether the agent moves packets itself.
    pub is_userspace: bool,
    /// The reason why it was chosen, for `status`.
    pub reason: &'static str,
}

impl Datapath {
    /// The agent and its devices move no packets.
    pub const NONE: Self = Self { name: "none", is_userspace: false, reason: "the network's backend moves no packets" };
}

/// The properties of a backend that follow from the network config alone, before this host has joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The names of its devices.
    pub devices: DualStack<LinkName>,
    /// The signs by which a VXLAN device with such a name is ours, without MACs.
    pub marks: Marks,
    /// The UDP port of outer packets.
    pub port: Option<u16>,
}

/// The properties of this host that a backend needs.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The link to the other hosts.
    pub underlay: Underlay,
    /// The addresses to which other hosts send, as in our lease.
    pub public: DualStack<IpAddr>,
    /// The MACs of our VXLAN devices, see [`crate::choose_mac`].
    pub macs: DualStack<MacAddr>,
    /// Whether packets to addresses in our own subnet that no container has are dropped (`--ip-blackhole-route`).
    pub blackhole: bool,
    /// The settings for packets that the agent moves itself.
    pub forward: ForwardSettings,
}

/// The settings for packets that the agent moves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardSettings {
    /// Whether the kernel or the agent does VXLAN.
    pub vxlan: VxlanBy,
    /// The number of queues of each device, each with a thread that moves packets.
    pub queues: usize,
    /// Whether a received packet must come from the host that has its inner source.
    pub source_check: bool,
    /// The offloads to use if the kernel has them.
    pub capabilities: Capabilities,
    /// For debugging: treats the kernel as one without VXLAN.
    pub without_vxlan: bool,
}

/// Whether the kernel or the agent encapsulates packets for VXLAN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VxlanBy {
    /// The kernel.
    #[default]
    Kernel,
    /// The agent, at the operator's request (`--userspace-vxlan`).
    AgentRequested,
    /// The agent, since the kernel cannot make VXLAN devices.
    AgentFallback,
}

impl Default for ForwardSettings {
    fn default() -> Self {
        Self {
            vxlan: VxlanBy::Kernel,
            queues: 1,
            source_check: true,
            capabilities: Capabilities::ALL,
            without_vxlan: false,
        }
    }
}

impl ForwardSettings {
    /// A TUN device whose packets the agent moves.
    pub(crate) fn link(&self, framing: Framing, local: SocketAddr, mtu: Mtu) -> DesiredLink {
        let Self { queues, source_check, capabilities, .. } = *self;
        let tunnel = Tunnel { framing, local, own: None, source_check, queues, capabilities };
        DesiredLink::new(DesiredKind::Tunnel(tunnel), mtu)
    }
}

/// The underlay of one family.
pub(crate) struct Outer {
    family: Family,
    link: LinkName,
    mtu: Mtu,
    /// The source of outer packets: our public address if this host has it, as in flannel 0.28, since peers accept packets from no other
    /// (docs/adr/0007-firewall.md). Behind 1:1 NAT it is the link's own address, which the NAT translates to the public one.
    pub(crate) local: IpAddr,
}

impl Outer {
    pub(crate) fn new(family: Family, placement: &Placement) -> Result<Self, SelectError> {
        let Underlay { link, mtu, addresses, .. } = &placement.underlay;
        let local = *addresses.get(family).ok_or(SelectError::NoUnderlay { link: *link, family })?;
        let has = |public: &IpAddr| placement.underlay.local.iter().any(|local| local.address == *public);
        let public = placement.public.get(family).copied().filter(has);
        Ok(Self { family, link: *link, mtu: *mtu, local: public.unwrap_or(local) })
    }

    /// The MTU of a device of ours. `asked` is the underlay's MTU in the network config, if that sets one.
    pub(crate) fn mtu_within(&self, overhead: Overhead, asked: Option<Mtu>) -> Result<Mtu, SelectError> {
        // The kernel would reduce an MTU that the link cannot carry, and the one that Docker is given would be wrong.
        let outer = asked.unwrap_or(self.mtu).min(self.mtu);
        if let Some(asked) = asked.filter(|asked| *asked > outer) {
            tracing::warn!(%asked, link = %self.link, %outer, "the config's MTU is more than the link's");
        }
        let inner = outer.less(overhead);
        let least = least_mtu(self.family);
        if inner < least {
            return Err(SelectError::SmallMtu { link: self.link, outer, inner, family: self.family, least });
        }
        Ok(inner)
    }
}

/// The device of one family.
#[derive(Clone, Copy)]
pub(crate) struct FamilyDevice<'a> {
    pub(crate) family: Family,
    pub(crate) name: LinkName,
    pub(crate) link: &'a DesiredLink,
}

/// Adds a device with the first address of our subnet.
pub(crate) fn add_device(state: &mut DesiredNet, device: FamilyDevice<'_>, own: &Lease) {
    let FamilyDevice { family, name, link } = device;
    let subnet = own.subnet.get(family);
    state.links.insert(name, link.with_own(subnet));
    let address = |subnet: Prefix| Address { link: name, address: subnet.network(), len: family.bits() };
    state.addresses.extend(subnet.map(address));
    forward_packets(state, family);
    state.settings.insert(Setting::LinkForwarding(family, name), 1);
    if family == Family::V6 {
        state.settings.insert(Setting::DisableIpv6(name), 0);
    }
}

/// Adds the setting that lets the host forward packets between containers and other hosts.
pub(crate) fn forward_packets(state: &mut DesiredNet, family: Family) {
    state.settings.insert(Setting::Forwarding(family), 1);
}

/// A peer's subnet in the forwarding table of a tunnel; `None` if the peer does not have this family.
pub(crate) fn forward(family: Family, link: LinkName, peer: &Lease, mac: Option<MacAddr>) -> Option<PeerEntry> {
    let (to, destination) = (*peer.public.get(family)?, peer.subnet.get(family)?);
    Some(PeerEntry::Forward(ForwardKey { link, destination }, Forward { to, port: peer.port, mac }))
}

/// The smallest MTU that an IP link may have, in bytes: hosts must accept packets of 576 (RFC 791 §3.2); IPv6 links must carry 1280
/// (RFC 8200 §5).
const fn least_mtu(family: Family) -> Mtu {
    match family {
        Family::V4 => Mtu(576),
        Family::V6 => Mtu(1280),
    }
}

/// Routes that drop packets to addresses of our own subnet that no container has, instead of sending them by the default route.
///
/// flannel's route has metric 0 (`AddBlackholeV4Route` of its pkg/ip/iface.go), so it takes precedence over the bridge's own route to the
/// same prefix if it is added first. Ours has the highest metric, so every other route to the prefix takes precedence.
pub(crate) fn blackholes(own: &Lease) -> impl Iterator<Item = (RouteKey, NextHop)> {
    own.subnet.prefixes().map(|destination| {
        let key = RouteKey { metric: u32::MAX, ..RouteKey::main(destination) };
        (key, NextHop::Blackhole)
    })
}

//! How hosts reach each other: the trait, and what backends share.

use std::net::IpAddr;

use wire_lease::{BackendData, Lease, LeaseTable};
use wire_net::{DualStack, Family, LinkName, MacAddr, Mtu, Overhead, Prefix};
use wire_state::{
    Address, Capabilities, DesiredKind, DesiredLink, DesiredNet, Forward, ForwardKey, Framing, Marks, NextHop,
    RouteKey, Scope, Setting, Tunnel, Underlay,
};

use crate::SelectError;

/// What leases mean for this host's kernel. Pure: the same leases give the same state, at any time.
pub trait Backend: Send + Sync {
    /// All that the kernel should hold for us.
    fn desired(&self, own: &Lease, leases: &LeaseTable) -> DesiredNet;

    /// The backend's part of our lease.
    fn data(&self) -> BackendData;

    /// Whether hosts with such leases are reached through this backend.
    fn reaches(&self) -> fn(&BackendData) -> bool;

    /// What moves packets.
    fn datapath(&self) -> Datapath;

    /// The MTU of the overlay: the smallest of our devices.
    fn mtu(&self) -> Mtu;

    /// The part of the kernel's state that is our concern.
    fn scope(&self) -> Scope;
}

/// What moves packets between hosts, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datapath {
    /// Its name in `status`.
    pub name: &'static str,
    /// Whether the agent moves packets itself.
    pub is_userspace: bool,
    /// The reason for this one.
    pub reason: &'static str,
}

impl Datapath {
    /// Nothing of ours moves packets.
    pub const NONE: Self = Self { name: "none", is_userspace: false, reason: "the network's backend moves no packets" };
}

/// What is known of a backend by the network config alone, before this host has joined.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The names of its devices.
    pub devices: DualStack<LinkName>,
    /// By what a device with such a name is ours, without any MAC.
    pub marks: Marks,
    /// The UDP port of encapsulated packets.
    pub port: Option<u16>,
}

/// Where this host stands.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The link to the other hosts.
    pub underlay: Underlay,
    /// The addresses other hosts send to, as our lease says.
    pub public: DualStack<IpAddr>,
    /// The MACs of our VXLAN devices, see [`crate::choose`].
    pub macs: DualStack<MacAddr>,
    /// Whether packets to addresses of our own subnet that nobody has are dropped (`--ip-blackhole-route`).
    pub blackhole: bool,
    /// How packets are moved where the kernel does not do it.
    pub forward: ForwardSettings,
}

/// How packets are moved where the kernel does not do it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardSettings {
    /// Who does what a VXLAN device does.
    pub vxlan: VxlanBy,
    /// How many threads move packets, for each device.
    pub queues: usize,
    /// Whether a packet must come from the peer that has its inner source.
    pub source_check: bool,
    /// What is asked of the kernel to be fast.
    pub capabilities: Capabilities,
    /// For debugging: whether the kernel is taken to have no VXLAN.
    pub without_vxlan: bool,
}

/// Who does what a VXLAN device does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VxlanBy {
    /// The kernel.
    #[default]
    Kernel,
    /// The agent, as the operator asks (`--userspace-vxlan`).
    AgentAsAsked,
    /// The agent, since the kernel cannot.
    AgentForWant,
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
    /// A device that we work ourselves.
    pub(crate) fn link(&self, framing: Framing, local: (IpAddr, u16), mtu: Mtu) -> DesiredLink {
        let Self { queues, source_check, capabilities, .. } = *self;
        let tunnel = Tunnel { framing, local: local.into(), own: None, source_check, queues, capabilities };
        DesiredLink::new(DesiredKind::Tunnel(tunnel), mtu)
    }
}

/// What one family's packets travel on.
pub(crate) struct Outer {
    family: Family,
    link: LinkName,
    mtu: Mtu,
    /// Our end: what peers know us by, where this host has that address, as flannel 0.28 has it; they take packets from no other
    /// (docs/adr/0007-firewall.md). Behind 1:1 NAT the link's own address becomes the public one on the way.
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

    /// What is left for a device of ours; `asked` is what the network config has in place of the link's own MTU.
    pub(crate) fn mtu_within(&self, overhead: Overhead, asked: Option<Mtu>) -> Result<Mtu, SelectError> {
        // More than the link carries, the kernel would cut down, and Docker would be told what is not so.
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

/// A device of ours, with the first address of our subnet.
pub(crate) fn add_device(state: &mut DesiredNet, family: Family, (name, link): (LinkName, &DesiredLink), own: &Lease) {
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

/// Between containers and other hosts.
pub(crate) fn forward_packets(state: &mut DesiredNet, family: Family) {
    state.settings.insert(Setting::Forwarding(family), 1);
}

/// Where packets for a peer's subnet go. A peer without this family has none.
pub(crate) fn add_forward(state: &mut DesiredNet, family: Family, link: LinkName, peer: &Lease, mac: Option<MacAddr>) {
    if let (Some(to), Some(destination)) = (peer.public.get(family).copied(), peer.subnet.get(family)) {
        state.forwarding.insert(ForwardKey { link, destination }, Forward { to, mac });
    }
}

/// The least MTU of an IP link: RFC 791 §3.2 asks hosts to take 576 bytes, RFC 8200 §5 asks links for 1280.
const fn least_mtu(family: Family) -> Mtu {
    match family {
        Family::V4 => Mtu(576),
        Family::V6 => Mtu(1280),
    }
}

/// Drops packets to addresses of our own subnet that no container has, instead of sending them out by the default route.
///
/// flannel's is metric 0 (`AddBlackholeV4Route` of its pkg/ip/iface.go), which wins over the bridge's own route to the same
/// prefix if it is there first. Ours has the highest metric, so that it only ever catches what nothing else does.
pub(crate) fn blackholes(own: &Lease) -> impl Iterator<Item = (RouteKey, NextHop)> {
    own.subnet.prefixes().map(|destination| {
        let key = RouteKey { metric: u32::MAX, ..RouteKey::main(destination) };
        (key, NextHop::Blackhole)
    })
}

//! A network over several hosts on one bridge: this host's bridge and VXLAN device, and the hosts that it is shared with. Where the
//! kernel has no VXLAN, a TAP device has the name of the VXLAN device, and the agent moves its frames. Pure.
//!
//! The MAC of an endpoint follows from its address, so the entries of all addresses of a block are there before an endpoint is, and an
//! endpoint that starts changes nothing on other hosts.

mod endpoint;
mod hosts;
mod net;
mod of_network;

use std::net::{IpAddr, SocketAddr};

use wire_net::{DualStack, Family, LinkName, MacAddr, Mtu, Overhead, Prefix, Vni};
use wire_state::{
    Address, Bridge, DesiredKind, DesiredLink, DesiredNet, DesiredVxlan, Framing, KernelKind, LinkId, LinkRef,
    PortFlag, PortFlags, Setting,
};

pub use self::{
    endpoint::SegmentEndpoint,
    hosts::{SegmentHost, SegmentHosts},
    net::NetFromSegment,
    of_network::HostsOfNetwork,
};
use crate::{ForwardSettings, backend::forward_packets};

/// A network over several hosts on one bridge, and this host's part in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The VXLAN network identifier. It names the devices.
    pub vni: Vni,
    /// All addresses of the network. The gateway of each family is the first one after the prefix's own, on each host.
    pub pools: DualStack<Prefix>,
    /// True if frames for all are sent to all hosts of the network.
    pub broadcast: bool,
    /// True if nothing leads out of the network.
    pub internal: bool,
    /// The MTU that is asked for, in bytes. It is never more than what fits into the underlay's.
    pub mtu: Option<Mtu>,
    /// The addresses of this host itself in the network. Packets from it to endpoints have these as source: answers to the gateway's
    /// address would go to the gateway of the endpoint's own host.
    pub own: DualStack<IpAddr>,
    /// The MAC of this host in the network while it has no address of its own there.
    pub mac: MacAddr,
    /// The way to other hosts.
    pub outer: SegmentOuter,
}

/// The way of a network's packets to other hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentOuter {
    /// The underlay's link.
    pub parent: LinkId,
    /// The source of outer packets. Hosts without a public address of its family are not reached.
    pub local: IpAddr,
    /// The UDP port of the kernel's VXLAN.
    pub port: u16,
    /// The MTU of the underlay's link, in bytes.
    pub mtu: Mtu,
    /// The agent's part, if it moves the packets itself; `None` if the kernel's VXLAN moves them.
    pub agent: Option<SegmentAgent>,
}

/// The agent's part in moving a network's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentAgent {
    /// The UDP port of its socket, which is that of no other network.
    pub port: u16,
    /// The settings of packets that it moves.
    pub settings: ForwardSettings,
}

impl SegmentOuter {
    /// The UDP port on which this host listens.
    #[must_use]
    pub fn own_port(&self) -> u16 {
        self.agent.map_or(self.port, |agent| agent.port)
    }
}

impl Segment {
    /// The bridge of the network with that VNI.
    ///
    /// # Panics
    /// Never: a VNI has eight digits at most.
    #[must_use]
    pub fn bridge(vni: Vni) -> LinkName {
        format!("wb.{vni}").parse().expect("eleven letters and digits at most")
    }

    /// The VXLAN device of the network with that VNI, or the TAP device in its place.
    ///
    /// # Panics
    /// Never: a VNI has eight digits at most.
    #[must_use]
    pub fn overlay(vni: Vni) -> LinkName {
        format!("wv.{vni}").parse().expect("eleven letters and digits at most")
    }

    /// True if a link of that name is a device of a network.
    #[must_use]
    pub fn has_device(name: LinkName) -> bool {
        let vni = name.as_str().strip_prefix("wb.").or_else(|| name.as_str().strip_prefix("wv."));
        vni.is_some_and(|vni| !vni.is_empty() && vni.bytes().all(|byte| byte.is_ascii_digit()))
    }

    /// The MAC of the endpoint with that address: 02:57 (locally administered), and the last 32 bits of the address. They are different for
    /// all addresses of a network, and the same for both addresses of an endpoint.
    #[must_use]
    pub fn mac_of(address: IpAddr) -> MacAddr {
        let [a, b, c, d] = match address {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(address) => {
                let [.., a, b, c, d] = address.octets();
                [a, b, c, d]
            }
        };
        MacAddr::new([0x02, 0x57, a, b, c, d])
    }

    /// The MTU of all its links, in bytes.
    #[must_use]
    pub fn mtu(&self) -> Mtu {
        let fits = self.outer.mtu.less(Overhead::vxlan(Family::of(self.outer.local)));
        self.mtu.unwrap_or(fits).min(fits)
    }

    /// The MAC of this host in the network.
    #[must_use]
    pub fn own_mac(&self) -> MacAddr {
        let own = self.own.iter().next().map(|(_, own)| Self::mac_of(*own));
        own.unwrap_or(self.mac)
    }

    /// The desired state of the host's namespace without the entries of other hosts.
    fn base(&self) -> DesiredNet {
        let (bridge, overlay) = (Self::bridge(self.vni), Self::overlay(self.vni));
        let mut net = DesiredNet::default();
        let link = |kind| DesiredLink::new(DesiredKind::Kernel(kind), self.mtu());
        let options = Bridge { snooping: false, spanning_tree: false };
        net.links.insert(bridge, DesiredLink { mac: Some(self.own_mac()), ..link(KernelKind::Bridge(options)) });
        let port = Some(self.port());
        net.links.insert(overlay, DesiredLink { master: Some(bridge), port, ..self.overlay_device() });
        // An address of its own on a port would only send packets of the kernel's into the network.
        net.settings.insert(Setting::DisableIpv6(overlay), 1);
        for (family, pool) in self.pools.iter() {
            net.addresses.extend(self.addresses(family, *pool, bridge));
            if family == Family::V6 {
                net.settings.insert(Setting::DisableIpv6(bridge), 0);
            }
            net.settings.insert(Setting::LinkForwarding(family, bridge), u32::from(!self.internal));
            if !self.internal {
                forward_packets(&mut net, family);
            }
        }
        net
    }

    /// The device that leads to other hosts: a VXLAN device, or a TAP device whose frames the agent moves.
    fn overlay_device(&self) -> DesiredLink {
        let SegmentOuter { parent, local, agent, .. } = self.outer;
        let port = self.outer.own_port();
        if let Some(SegmentAgent { settings, .. }) = agent {
            let framing = Framing::Ethernet { vni: self.vni };
            return settings.link(framing, SocketAddr::new(local, port), self.mtu());
        }
        let vxlan = DesiredVxlan {
            parent: Some(LinkRef::Found(parent)),
            local: Some(local),
            port: Some(port),
            ..DesiredVxlan::new(self.vni)
        };
        DesiredLink::new(DesiredKind::Kernel(KernelKind::Vxlan(vxlan)), self.mtu())
    }

    /// True if frames for all are sent to all hosts of the network. The agent sends none of them.
    const fn floods(&self) -> bool {
        self.broadcast && self.outer.agent.is_none()
    }

    /// The flags of the VXLAN device as a port: who is behind it is known, and never learnt. What it sends to the groups of a link is dropped by
    /// the packet filter, as at the ports of containers.
    const fn port(&self) -> PortFlags {
        let floods = self.floods();
        PortFlags::none()
            .with(PortFlag::GroupForwarding, true)
            .with(PortFlag::NeighbourSuppression, true)
            .with(PortFlag::Flood, floods)
            .with(PortFlag::MulticastFlood, floods)
            .with(PortFlag::BroadcastFlood, floods)
    }

    /// The gateway's address, and that of this host.
    ///
    /// The one with the length of the pool makes the kernel's route to the pool. With IPv4, its address is the source of packets by that
    /// route; with IPv6, the source is the address that has most in common with the destination within its own prefix (RFC 6724 §5, rule 8,
    /// as `ipv6_get_saddr_eval` of net/ipv6/addrconf.c has it), so there the one that shall be the source has the full length.
    fn addresses(&self, family: Family, pool: Prefix, link: LinkName) -> impl Iterator<Item = Address> {
        let (whole, full) = (pool.len(), family.bits());
        let own = self.own.get(family).copied();
        let (of_gateway, of_own) = match (own, family) {
            (Some(_), Family::V4) => (full, whole),
            (Some(_), Family::V6) | (None, _) => (whole, full),
        };
        let gateway = Address { link, address: pool.gateway(), len: of_gateway };
        [gateway].into_iter().chain(own.map(|address| Address { link, address, len: of_own }))
    }
}

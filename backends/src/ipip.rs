//! IPv4 in IPv4 as flannel sets it up: one device without a fixed remote host, and for each peer a route through it with the peer's public
//! address as the gateway, to which the kernel sends the outer packet. It carries no IPv6.

use std::net::IpAddr;

use wire_lease::{BackendData, Lease, NetworkConfig};
use wire_net::{DualStack, Family, LinkName, Mtu, Overhead, Prefix};
use wire_state::{DesiredKind, DesiredLink, DesiredNet, Ipip, KernelKind, LinkId, Marks, NextHop, RouteKey, Scope};

use crate::{
    Backend, Datapath, Identity, PeerEntry, Placement, Reaches, SelectError,
    backend::{FamilyDevice, Outer, add_device, blackholes},
    direct::Direct,
};

/// The ipip backend on this host.
#[derive(Debug)]
pub(crate) struct IpipBackend {
    name: LinkName,
    link: DesiredLink,
    networks: Vec<Prefix>,
    parent: LinkId,
    blackhole: bool,
    /// The way to hosts on the underlay's link (`DirectRouting`).
    direct: Option<Direct>,
}

impl IpipBackend {
    pub(crate) fn new(
        config: &NetworkConfig,
        direct_routing: bool,
        placement: &Placement,
    ) -> Result<Self, SelectError> {
        if config.families().any(|family| family != Family::V4) {
            return Err(SelectError::Ipv4Only);
        }
        let Placement { underlay, blackhole, .. } = placement;
        let outer = Outer::new(Family::V4, placement)?;
        let IpAddr::V4(local) = outer.local else { return Err(SelectError::Ipv4Only) };
        let mtu = outer.mtu_within(Overhead::ipip(), None)?;
        // As flannel's, it is bound to no link. With a source of its own, it takes the packets to this address, and the kernel's own
        // device `tunl0` all others (`ip_tunnel_lookup` of net/ipv4/ip_tunnel.c).
        let ipip = Ipip { parent: None, local: Some(local) };
        Ok(Self {
            name: device_name(),
            link: DesiredLink::new(DesiredKind::Kernel(KernelKind::Ipip(ipip)), mtu),
            networks: config.pools.iter().map(|(_, pool)| pool.network).collect(),
            parent: underlay.parent(),
            blackhole: *blackhole,
            direct: direct_routing.then(|| Direct::new(underlay)),
        })
    }
}

impl Backend for IpipBackend {
    fn base(&self, own: &Lease, _: &[Prefix]) -> DesiredNet {
        let mut state = DesiredNet::default();
        add_device(&mut state, FamilyDevice { family: Family::V4, name: self.name, link: &self.link }, own);
        if let Some(direct) = &self.direct {
            direct.forward_packets(&mut state, Family::V4);
        }
        if self.blackhole {
            state.routes.extend(blackholes(own));
        }
        state
    }

    fn peer_entries(&self, peer: &Lease, _: &[Prefix], entries: &mut Vec<PeerEntry>) {
        let direct = self.direct.as_ref().and_then(|direct| direct.route(Family::V4, peer));
        entries.extend(direct.or_else(|| self.encapsulated(peer)));
    }

    fn data(&self) -> BackendData {
        BackendData::Ipip
    }

    fn reaches(&self) -> Reaches {
        Reaches::Ipip
    }

    fn direct(&self) -> Option<LinkName> {
        self.direct.as_ref().map(|direct| direct.link)
    }

    fn datapath(&self) -> Datapath {
        Datapath { name: "kernel-ipip", is_userspace: false, reason: "the network's backend is ipip" }
    }

    fn mtu(&self) -> Mtu {
        self.link.mtu
    }

    fn scope(&self) -> Scope {
        Scope {
            devices: [self.name].into(),
            marks: Marks::default(),
            parent: Some(self.parent),
            networks: self.networks.clone(),
            direct: self.direct.is_some(),
        }
    }
}

impl IpipBackend {
    /// The route to a peer's containers through the device; `None` if the peer does not have IPv4.
    fn encapsulated(&self, peer: &Lease) -> Option<PeerEntry> {
        let (gateway, subnet) = (*peer.public.get(Family::V4)?, peer.subnet.get(Family::V4)?);
        let hop = NextHop::Gateway { gateway, link: self.name, onlink: true };
        Some(PeerEntry::Route(RouteKey::main(subnet), hop))
    }
}

/// The properties of the backend that follow from the config alone.
pub(crate) fn identity() -> Identity {
    let devices = DualStack { v4: Some(device_name()), v6: None };
    Identity { devices, ..Identity::default() }
}

/// flannel's name for the device (`tunnelName` of its pkg/backend/ipip/ipip.go).
fn device_name() -> LinkName {
    "flannel.ipip".parse().expect("a name of less than 16 letters")
}

//! The devices of an overlay on one host, whoever moves their packets.

use std::net::IpAddr;

use wire_net::{Family, LinkName, MacAddr, Prefix, Vni};

use super::{host::HostState, packet::Packet, segment::is_overlay};
use crate::{Framing, ObservedKind, ObservedLink, Owner};

/// A device that encapsulates packets.
#[derive(Clone, Copy)]
pub(super) struct OverlayDevice<'a> {
    pub(super) name: LinkName,
    pub(super) link: &'a ObservedLink,
    /// The family of its outer packets.
    pub(super) family: Family,
    pub(super) local: Option<IpAddr>,
    /// The UDP port of outer packets; `None` for IPIP.
    pub(super) port: Option<u16>,
    pub(super) vni: Option<Vni>,
    /// Its own inner MAC.
    pub(super) mac: Option<MacAddr>,
    /// The agent's own checks, if the agent moves its packets.
    pub(super) checks: Option<Checks>,
}

/// The checks of a tunnel whose packets the agent moves.
#[derive(Clone, Copy)]
pub(super) struct Checks {
    pub(super) own: Option<Prefix>,
    pub(super) sources: bool,
}

impl<'a> HostState<'a> {
    /// All devices that encapsulate.
    pub(super) fn devices(&self) -> impl Iterator<Item = OverlayDevice<'a>> + use<'a> {
        self.links().filter_map(|(name, link)| OverlayDevice::of(name, link))
    }

    /// Those of ours but for networks over several hosts. The rules about flat networks concern only these.
    pub(super) fn our_devices(&self) -> impl Iterator<Item = OverlayDevice<'a>> + use<'a> {
        self.devices().filter(|device| device.link.owner == Owner::Ours && !is_overlay(device.name))
    }
}

/// Our device that would take this outer packet, by its port and its VNI.
pub(super) fn our_device<'a>(host: &HostState<'a>, packet: &Packet) -> Option<OverlayDevice<'a>> {
    if packet.udp_port.is_none() && packet.inner.is_none() {
        return None;
    }
    let vni = packet.inner.as_deref().and_then(|inner| inner.header).map(|header| header.vni);
    // Of a packet whose contents are not known, the port alone tells.
    let has_vni = |device: &OverlayDevice<'_>| packet.inner.is_none() || device.vni == vni;
    let family = Family::of(packet.destination);
    host.our_devices().find(|device| device.family == family && device.port == packet.udp_port && has_vni(device))
}

impl<'a> OverlayDevice<'a> {
    fn of(name: LinkName, link: &'a ObservedLink) -> Option<Self> {
        let (local, port, vni, mac, checks) = match &link.kind {
            ObservedKind::Vxlan(vxlan) => (vxlan.local, Some(vxlan.port), Some(vxlan.vni), link.mac, None),
            ObservedKind::Tun(Some(tunnel)) => {
                let mac = match tunnel.framing {
                    Framing::Raw | Framing::Ethernet { .. } => None,
                    Framing::Vxlan { mac, .. } => Some(mac),
                };
                let checks = Checks { own: tunnel.own, sources: tunnel.source_check };
                (Some(tunnel.local.ip()), Some(tunnel.local.port()), tunnel.framing.vni(), mac, Some(checks))
            }
            ObservedKind::Ipip(ipip) => (ipip.local.map(IpAddr::from), None, None, None, None),
            ObservedKind::Tun(None)
            | ObservedKind::Bridge(_)
            | ObservedKind::Veth(_)
            | ObservedKind::Vlan(_)
            | ObservedKind::Macvlan(_)
            | ObservedKind::Other(_) => return None,
        };
        let family = local.map_or(Family::V4, Family::of);
        Some(Self { name, link, family, local, port, vni, mac, checks })
    }
}

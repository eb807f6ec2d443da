//! A packet on the bridge of a network over several hosts: as a frame that comes in at a port or from the host itself, to another port, to the
//! host, or by the VXLAN device to another host.

use std::net::IpAddr;

use wire_net::{LinkName, MacAddr};

use super::{
    Delivery,
    outcome::{Gap, Hop, Outcome, Reason},
    packet::{Packet, VxlanHeader},
    segment::{SegmentBridge, has_flag},
    walk::{Step, Walk},
};
use crate::{BridgeFdbKey, NeighbourKey, ObservedKind, PortFlag};

/// A packet as a frame. A MAC is `None` if it is not known.
#[derive(Clone, Copy)]
pub(super) struct Frame<'p> {
    pub(super) packet: &'p Packet,
    pub(super) source: Option<MacAddr>,
    pub(super) destination: MacAddr,
    /// True if a rule has let in the packet that it came in.
    pub(super) let_in: bool,
}

/// The one who asks for the MAC of an address.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// The host itself.
    Host,
    /// Who is behind a port of the bridge.
    Port,
}

impl<'a> Walk<'a> {
    /// Follows a packet that somebody behind a port of a bridge sends. Where it goes follows from the network alone: the routes of a container
    /// are not read.
    pub(super) fn sent_by_neighbour(
        &mut self,
        packet: &Packet,
        (port, let_in): (LinkName, bool),
        bridge: SegmentBridge<'a>,
    ) -> Step<Outcome> {
        let is_at = |sender: &super::segment::Sender| sender.port == port;
        let known = self.host.senders_on(bridge.name, packet.source).find(is_at).map(|sender| sender.mac);
        let source = known.or_else(|| self.host.neighbour(&NeighbourKey { link: bridge.name, address: packet.source }));
        let destination = self.asked_for(packet, bridge)?;
        self.at_port(Frame { packet, source, destination, let_in }, port, bridge)
    }

    /// Follows a frame that comes in at a port of a bridge.
    pub(super) fn at_port(&mut self, frame: Frame<'_>, port: LinkName, bridge: SegmentBridge<'a>) -> Step<Outcome> {
        self.expect_up(bridge.name)?;
        self.judge_sender(&frame, port)?;
        if bridge.mac() == Some(frame.destination) {
            self.hops.push(Hop::Arrived(bridge.name));
            return self.take_in(frame.packet, bridge.name, false);
        }
        self.over(frame, bridge, Some(port))
    }

    /// Sends a packet of the host, or one that it forwards, to a neighbour on a bridge.
    pub(super) fn onto_bridge(
        &mut self,
        packet: &Packet,
        bridge: SegmentBridge<'a>,
        next_hop: IpAddr,
    ) -> Step<Outcome> {
        let destination = self.mac_of(next_hop, bridge, Asker::Host)?;
        self.over(Frame { packet, source: bridge.mac(), destination, let_in: false }, bridge, None)
    }

    /// The MAC to which somebody behind a port sends a packet: of the destination, if it is in the network, else of the gateway.
    fn asked_for(&mut self, packet: &Packet, bridge: SegmentBridge<'a>) -> Step<MacAddr> {
        let destination = packet.destination;
        let is_within = self.host.pool_on(bridge.name, destination).is_some_and(|pool| pool.contains(destination));
        if !is_within {
            self.not_looked_at(&format!("the routes of {}, which may lead it out elsewhere", packet.source));
        }
        // The kernel answers for its own addresses, and the gateway's is one of them.
        if !is_within || self.host.link_of(destination).is_some() {
            return bridge.mac().ok_or_else(|| Reason::NoLink(bridge.name).into());
        }
        self.mac_of(destination, bridge, Asker::Port)
    }

    /// The MAC of an address on a bridge.
    ///
    /// The bridge answers for neighbours of its own that are behind a port with suppression (`br_do_proxy_suppress_arp` of
    /// net/bridge/br_arp_nd_proxy.c); containers here answer for themselves.
    fn mac_of(&mut self, address: IpAddr, bridge: SegmentBridge<'a>, asker: Asker) -> Step<MacAddr> {
        let host = self.host;
        let key = NeighbourKey { link: bridge.name, address };
        let container = host.senders_on(bridge.name, address).find(|sender| !super::segment::is_overlay(sender.port));
        let held = host.neighbour(&key);
        // What the host has is not asked for. Others are answered by whoever has the address.
        if let Some(mac) = held.filter(|_| asker == Asker::Host || container.is_none()) {
            self.hops.push(Hop::Neighbour(key, mac));
            return Ok(mac);
        }
        if let Some(sender) = container {
            self.hops.push(Hop::Answers { address, port: sender.port, mac: sender.mac });
            return Ok(sender.mac);
        }
        let loud = host.overlay_on(bridge.name).filter(|(_, link)| has_flag(link, PortFlag::BroadcastFlood));
        let can_ask = loud.is_some_and(|(name, _)| self.flooded(name).next().is_some());
        Err(if can_ask { Gap::Asked(key).into() } else { Reason::NoNeighbour(key).into() })
    }

    /// Forwards a frame to the port that its destination is behind. `from` is the port that it came by; `None` if the host sends it.
    fn over(&mut self, frame: Frame<'_>, bridge: SegmentBridge<'a>, from: Option<LinkName>) -> Step<Outcome> {
        let host = self.host;
        let key = BridgeFdbKey { bridge: bridge.name, mac: frame.destination };
        let overlay = host.overlay_on(bridge.name);
        let to = if let Some(port) = host.net.bridge_fdb.get(&key).copied() {
            self.hops.push(Hop::BridgeFdb(key, port));
            port
        } else if let Some(port) = host.port_of(bridge.name, frame.destination) {
            // The bridge learns it from the first frame, and floods frames to it before.
            self.hops.push(Hop::Behind(key, port));
            port
        } else {
            let flooded = overlay.filter(|(name, link)| Some(*name) != from && has_flag(link, PortFlag::Flood));
            let (port, _) = flooded.ok_or(Reason::NoBridgeFdb(key))?;
            self.hops.push(Hop::BridgeFloods(key, port));
            port
        };
        if from == Some(to) {
            return Err(Reason::BackToPort(key, to).into());
        }
        self.expect_up(to)?;
        match overlay.filter(|(name, _)| *name == to).map(|(_, link)| &link.kind) {
            Some(ObservedKind::Vxlan(vxlan)) => {
                let header = VxlanHeader { vni: vxlan.vni, source: frame.source, destination: frame.destination };
                self.encapsulate(frame.packet, to, vxlan, header)
            }
            Some(ObservedKind::Tun(Some(tunnel))) => {
                let (source, destination) = (frame.source, frame.destination);
                let header = |_| Some(VxlanHeader { vni: tunnel.framing.vni()?, source, destination });
                self.through_tunnel(frame.packet, (to, tunnel), header)
            }
            Some(ObservedKind::Tun(None)) => Err(Gap::TunnelElsewhere(to).into()),
            Some(
                ObservedKind::Bridge(_)
                | ObservedKind::Veth(_)
                | ObservedKind::Vlan(_)
                | ObservedKind::Macvlan(_)
                | ObservedKind::Ipip(_)
                | ObservedKind::Other(_),
            )
            | None => Ok(Outcome::Delivered(Delivery::AtPort(to, frame.packet.destination))),
        }
    }
}

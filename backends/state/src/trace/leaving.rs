//! A packet that leaves by a link: its next hop, and its outer packet if the link is an overlay's device.

use std::net::IpAddr;

use wire_net::{Family, LinkName, MacAddr};

use super::{
    Delivery,
    outcome::{Gap, Hop, Outcome, Reason, Sending},
    packet::{Encapsulated, Packet, VxlanHeader},
    routes::{Found, Query},
    walk::{Step, Walk},
};
use crate::{
    FdbKey, FdbTarget, FloodEntry, FloodPath, Framing, Ipip, LinkId, NeighbourKey, NextHop, ObservedKind,
    ObservedVxlan, Tunnel,
};

/// The MAC of frames without an FDB entry of their own.
const ANY: MacAddr = MacAddr::new([0; 6]);

/// The addresses of an outer packet.
#[derive(Clone, Copy)]
struct OuterPath {
    /// The device that makes it.
    link: LinkName,
    from: Option<IpAddr>,
    to: IpAddr,
    /// The UDP port; `None` for IPIP.
    port: Option<u16>,
}

impl<'a> Walk<'a> {
    pub(super) fn leave(&mut self, packet: &Packet, hop: NextHop) -> Step<Outcome> {
        let (link, next_hop) = match hop {
            NextHop::Gateway { gateway, link, .. } => (link, gateway),
            NextHop::Link(link) => (link, packet.destination),
            NextHop::Blackhole => return Err(Reason::Refused("a blackhole".to_owned()).into()),
        };
        self.expect_up(link)?;
        let host = self.host;
        if let Some(bridge) = host.segment_bridge(link) {
            return self.onto_bridge(packet, bridge, next_hop);
        }
        let kind = host.link(link).map(|link| &link.kind).ok_or(Reason::NoLink(link))?;
        match kind {
            ObservedKind::Vxlan(vxlan) => self.by_vxlan(packet, link, vxlan, next_hop),
            ObservedKind::Tun(Some(tunnel)) => self.by_tunnel(packet, link, tunnel),
            ObservedKind::Tun(None) => Err(Gap::TunnelElsewhere(link).into()),
            ObservedKind::Ipip(ipip) => self.by_ipip(packet, link, *ipip, next_hop),
            ObservedKind::Bridge(_)
            | ObservedKind::Veth(_)
            | ObservedKind::Vlan(_)
            | ObservedKind::Macvlan(_)
            | ObservedKind::Other(_) => Ok(self.by_link(packet, hop, link, next_hop)),
        }
    }

    /// Without a gateway, the destination itself is on the link.
    fn by_link(&self, packet: &Packet, hop: NextHop, link: LinkName, next_hop: IpAddr) -> Outcome {
        let is_on_link = matches!(hop, NextHop::Link(_)) && packet.inner.is_none();
        if is_on_link {
            return Outcome::Delivered(Delivery::OnLink(link, next_hop));
        }
        let mac = self.host.neighbour(&NeighbourKey { link, address: next_hop });
        Outcome::Sent(Sending { link, next_hop, mac, packet: packet.clone() })
    }

    fn by_vxlan(&mut self, packet: &Packet, link: LinkName, vxlan: &ObservedVxlan, next_hop: IpAddr) -> Step<Outcome> {
        let key = NeighbourKey { link, address: next_hop };
        let Some(mac) = self.host.neighbour(&key) else {
            let can_ask = vxlan.group.is_some() || self.flooded(link).next().is_some();
            return Err(if can_ask { Gap::Asked(key).into() } else { Reason::NoNeighbour(key).into() });
        };
        self.hops.push(Hop::Neighbour(key, mac));
        let source = self.host.link(link).and_then(|link| link.mac);
        self.encapsulate(packet, link, vxlan, VxlanHeader { vni: vxlan.vni, source, destination: mac })
    }

    /// Sends a packet with these inner MACs to the host that the device has for the destination.
    pub(super) fn encapsulate(
        &mut self,
        packet: &Packet,
        link: LinkName,
        vxlan: &ObservedVxlan,
        header: VxlanHeader,
    ) -> Step<Outcome> {
        let FdbTarget { to, port } = self.host_behind(link, vxlan, header.destination)?;
        let inner = Encapsulated { header: Some(header), packet: packet.clone() };
        let path = OuterPath { link, from: vxlan.local, to, port: Some(port.unwrap_or(vxlan.port)) };
        self.send_outer(inner, path)
    }

    /// The host to which the device sends frames for a MAC.
    fn host_behind(&mut self, link: LinkName, vxlan: &ObservedVxlan, mac: MacAddr) -> Step<FdbTarget> {
        let key = FdbKey { link, mac };
        match self.host.net.fdb.get(&key) {
            Some(target) if !target.to.is_unspecified() => {
                self.hops.push(Hop::Fdb(key, *target));
                return Ok(*target);
            }
            Some(_) => return vxlan.group.map(FdbTarget::from).ok_or_else(|| Reason::NoFdb(key).into()),
            None => {}
        }
        let mut flooded = self.flooded(link);
        match (flooded.next(), flooded.next(), vxlan.group) {
            (None, _, None) => Err(Reason::NoFdb(key).into()),
            (Some(entry), None, None) if entry.by == FloodPath::default() => {
                let to = entry.to;
                self.hops.push(Hop::Flooded(link, to));
                Ok(to.into())
            }
            (Some(_), _, _) | (None, _, Some(_)) => Err(Gap::Flooded(link).into()),
        }
    }

    /// The hosts to which frames without an FDB entry are flooded.
    pub(super) fn flooded(&self, link: LinkName) -> impl Iterator<Item = &'a FloodEntry> + use<'a> {
        let first = FloodEntry { link, mac: ANY, to: IpAddr::from([0; 4]), by: FloodPath::default() };
        let entries = self.host.net.flooding.range(first..);
        entries.take_while(move |entry| entry.link == link && entry.mac == ANY)
    }

    fn by_tunnel(&mut self, packet: &Packet, link: LinkName, tunnel: &Tunnel) -> Step<Outcome> {
        match tunnel.framing {
            Framing::Raw => self.through_tunnel(packet, (link, tunnel), |_| None),
            Framing::Vxlan { vni, mac: own } => self.through_tunnel(packet, (link, tunnel), |mac| {
                Some(VxlanHeader { vni, source: Some(own), destination: mac.unwrap_or(ANY) })
            }),
            // No route leads into a port of a bridge.
            Framing::Ethernet { .. } => Err(Gap::Kind(link, "tap".to_owned()).into()),
        }
    }

    /// Sends a packet to the host that the table of a tunnel has for it. `header` is told the MAC in that entry.
    pub(super) fn through_tunnel(
        &mut self,
        packet: &Packet,
        (link, tunnel): (LinkName, &Tunnel),
        header: impl FnOnce(Option<MacAddr>) -> Option<VxlanHeader>,
    ) -> Step<Outcome> {
        let found = self.forward(link, packet.destination);
        let (key, forward) = found.ok_or(Reason::NoForward(link, packet.destination))?;
        self.hops.push(Hop::Forward(key, forward));
        let header = header(forward.mac);
        let inner = Encapsulated { header, packet: packet.clone() };
        let (from, port) = (Some(tunnel.local.ip()), forward.port.or_else(|| Some(tunnel.local.port())));
        self.send_outer(inner, OuterPath { link, from, to: forward.to, port })
    }

    /// The outer packet goes to the gateway itself (`ip_tunnel_xmit` of net/ipv4/ip_tunnel.c).
    fn by_ipip(&mut self, packet: &Packet, link: LinkName, ipip: Ipip<LinkId>, next_hop: IpAddr) -> Step<Outcome> {
        if ipip.parent.is_some() {
            return Err(Gap::Kind(link, "ipip bound to a link".to_owned()).into());
        }
        let inner = Encapsulated { header: None, packet: packet.clone() };
        self.send_outer(inner, OuterPath { link, from: ipip.local.map(IpAddr::from), to: next_hop, port: None })
    }

    /// Looks up the route of an outer packet, and sends it.
    fn send_outer(&mut self, inner: Encapsulated, path: OuterPath) -> Step<Outcome> {
        let OuterPath { link, from, to, port } = path;
        let unspecified = if to.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let query = Query { destination: to, source: from.unwrap_or(unspecified), incoming: None };
        let (key, hop) = match self.host.route(&query) {
            Found::Hop(key, hop) => (key, hop),
            Found::Local => return Err(Gap::ToItself(to).into()),
            Found::Broadcast => return Err(Gap::Several(to).into()),
            Found::Refused(what) => return Err(Reason::Refused(what).into()),
            Found::Nothing => return Err(Reason::NoRoute(to).into()),
            Found::Unclear(what) => return Err(Gap::Route(what).into()),
        };
        let (out, next_hop) = match hop {
            NextHop::Gateway { gateway, link, .. } => (link, gateway),
            NextHop::Link(link) => (link, to),
            NextHop::Blackhole => return Err(Reason::Refused("a blackhole".to_owned()).into()),
        };
        if out == link {
            return Err(Reason::Circle(link).into());
        }
        let source = from.or_else(|| self.host.address_on(out, Family::of(to))).unwrap_or(unspecified);
        let outer = Packet { source, destination: to, udp_port: port, inner: Some(Box::new(inner)) };
        self.hops.push(Hop::Encapsulated(outer.clone()));
        self.hops.push(Hop::Route(key, hop));
        self.expect_up(out)?;
        let mac = self.host.neighbour(&NeighbourKey { link: out, address: next_hop });
        Ok(Outcome::Sent(Sending { link: out, next_hop, mac, packet: outer }))
    }
}

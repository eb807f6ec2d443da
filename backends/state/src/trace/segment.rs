//! The devices of networks over several hosts on one host, and who is behind the ports of their bridges.

use std::net::IpAddr;

use wire_net::{Family, LinkName, MacAddr, Prefix};

use super::{Entry, host::HostState};
use crate::{BridgeFdbKey, Element, NeighbourKey, ObservedKind, ObservedLink, PortFlag, SetKind};

/// The beginning of the names of bridges, by which our rules know them.
pub(super) const BRIDGES: &str = "wb.";
/// The beginning of the names of VXLAN devices, by which our rules know them.
pub(super) const OVERLAYS: &str = "wv.";

/// A bridge of a network over several hosts.
#[derive(Clone, Copy)]
pub(super) struct SegmentBridge<'a> {
    pub(super) name: LinkName,
    link: &'a ObservedLink,
}

/// The one who has an address, as the sets of our table for bridges tell.
#[derive(Clone, Copy)]
pub(super) struct Sender {
    pub(super) port: LinkName,
    pub(super) mac: MacAddr,
}

/// True if a link of that name is the VXLAN device of a network over several hosts.
pub(super) fn is_overlay(name: LinkName) -> bool {
    name.as_str().starts_with(OVERLAYS)
}

impl<'a> HostState<'a> {
    /// The bridge of that name, if it is that of a network over several hosts.
    pub(super) fn segment_bridge(&self, name: LinkName) -> Option<SegmentBridge<'a>> {
        let link = self.link(name).filter(|link| matches!(link.kind, ObservedKind::Bridge(_)))?;
        name.as_str().starts_with(BRIDGES).then_some(SegmentBridge { name, link })
    }

    /// The bridge of a network over several hosts that a link is a port of.
    pub(super) fn bridge_of(&self, port: LinkName) -> Option<SegmentBridge<'a>> {
        self.segment_bridge(self.link(port)?.master.as_ref()?.name)
    }

    /// The VXLAN device on a bridge, or the TAP device in its place.
    pub(super) fn overlay_on(&self, bridge: LinkName) -> Option<(LinkName, &'a ObservedLink)> {
        let is_on = |link: &ObservedLink| link.master.as_ref().is_some_and(|master| master.name == bridge);
        self.links().find(|(name, link)| is_overlay(*name) && is_on(link))
    }

    /// The network of a bridge in the family of an address, by the addresses of the bridge.
    pub(super) fn pool_on(&self, bridge: LinkName, address: IpAddr) -> Option<Prefix> {
        let on_bridge = self.net.addresses.iter().filter(|own| own.link == bridge);
        let pools = on_bridge.filter_map(|own| Prefix::new(own.address, own.len).ok());
        pools.filter(|pool| pool.family() == Family::of(address)).min_by_key(|pool| pool.len())
    }

    /// The place where a packet begins its way that has a source in the network of a bridge: the port that its sender is behind.
    pub(super) fn entry_on(&self, bridge: LinkName, source: IpAddr) -> Option<Entry> {
        let sender = self.senders_on(bridge, source).next().map(|sender| sender.port);
        let port = sender.or_else(|| self.port_by_neighbour(bridge, source))?;
        Some(if is_overlay(port) { Entry::Decapsulated(port) } else { Entry::Link(port) })
    }

    fn port_by_neighbour(&self, bridge: LinkName, address: IpAddr) -> Option<LinkName> {
        let mac = self.neighbour(&NeighbourKey { link: bridge, address })?;
        self.net.bridge_fdb.get(&BridgeFdbKey { bridge, mac }).copied()
    }

    fn is_port_of(&self, port: LinkName, bridge: LinkName) -> bool {
        self.bridge_of(port).is_some_and(|of| of.name == bridge)
    }

    /// Those on a bridge that may send with an address.
    pub(super) fn senders_on(&self, bridge: LinkName, address: IpAddr) -> impl Iterator<Item = Sender> + use<'a> {
        let host = *self;
        let with_address = host.senders(Family::of(address)).filter(move |(_, own)| *own == address);
        with_address.map(|(sender, _)| sender).filter(move |sender| host.is_port_of(sender.port, bridge))
    }

    /// The port of a bridge behind which a container with that MAC is, as the sets of our table for bridges tell.
    pub(super) fn port_of(&self, bridge: LinkName, mac: MacAddr) -> Option<LinkName> {
        let all = Family::ALL.into_iter().flat_map(|family| self.senders(family)).map(|(sender, _)| sender);
        let mut containers = all.filter(|sender| sender.mac == mac && !is_overlay(sender.port));
        containers.find(|sender| self.is_port_of(sender.port, bridge)).map(|sender| sender.port)
    }

    /// The elements of the sets of senders.
    fn senders(&self, family: Family) -> impl Iterator<Item = (Sender, IpAddr)> + use<'a> {
        let table = self.firewall.and_then(|firewall| firewall.bridge.as_ref());
        let sets = table.into_iter().flat_map(|table| table.sets.values());
        sets.filter(move |set| set.kind == SetKind::Senders(family)).flat_map(|set| &set.elements).filter_map(sender)
    }
}

impl SegmentBridge<'_> {
    pub(super) const fn mac(&self) -> Option<MacAddr> {
        self.link.mac
    }
}

/// True if a port has a flag that was read.
pub(super) fn has_flag(link: &ObservedLink, flag: PortFlag) -> bool {
    link.port.is_some_and(|flags| flags.has(flag))
}

fn sender(element: &Element) -> Option<(Sender, IpAddr)> {
    match element {
        Element::Sender(port, mac, address) => Some((Sender { port: *port, mac: *mac }, *address)),
        Element::Address(_)
        | Element::Link(_)
        | Element::Lease(..)
        | Element::Subnet(..)
        | Element::Source(_)
        | Element::Vni(_)
        | Element::Port(_)
        | Element::Vtep(..)
        | Element::Behind(..)
        | Element::Within(_) => None,
    }
}

//! The cached state with which notifications are compared.

use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeSet,
    net::IpAddr,
};

use wire_net::{Family, LinkName, Prefix};
use wire_netlink::{
    Netlink,
    attribute::{Header, attributes, number},
};
use wire_state::{
    FdbKey, FloodEntry, NeighbourKey, NextHop, ObservedKind, ObservedLink, ObservedNet, Owner, PROTOCOL, Scope, Setting,
};

use super::Changes;
use crate::{
    decode::{self, BridgeEntry, Names, Namespaces, NeighbourEntry, RouteContext},
    encode::{DELADDR, DELLINK, DELNEIGH, DELROUTE, NEWADDR, NEWLINK, NEWNEIGH, NEWROUTE},
    nexthop::{self, Hop, Nexthops},
    read,
    settings::{self, LinkSettings},
    sysctl,
    uapi::af,
};

/// `RTM_NEWNETCONF` of linux/rtnetlink.h, since Linux 3.8: forwarding was turned on or off.
const NEWNETCONF: u16 = 80;
/// Compares notifications with the cached state.
pub(super) struct View<'a> {
    scope: &'a Scope,
    cached: &'a ObservedNet,
    names: Names,
    devices: Names,
    /// Our bridges.
    bridges: Names,
    nexthops: Nexthops,
    /// The links and gateways of the cached routes, computed at the first use.
    gateways: OnceCell<BTreeSet<(LinkName, IpAddr)>>,
    asked: &'a RefCell<Netlink>,
    /// The indexes of devices that are new since all notifications were received last: those of their making are among the next ones.
    fresh: BTreeSet<u32>,
}

impl<'a> View<'a> {
    pub(super) fn new(
        scope: &'a Scope,
        cached: &'a ObservedNet,
        asked: &'a RefCell<Netlink>,
        known: Option<&BTreeSet<u32>>,
    ) -> Self {
        let names = cached.links.iter().map(|(name, link)| (link.index, *name)).collect();
        let ours = cached.links.iter().filter(|(_, link)| link.owner == Owner::Ours);
        let devices: Names = ours.clone().map(|(name, link)| (link.index, *name)).collect();
        let bridges = ours.filter(|(_, link)| matches!(link.kind, ObservedKind::Bridge(_)));
        let bridges = bridges.map(|(name, link)| (link.index, *name)).collect();
        let is_new = |known: &BTreeSet<u32>| devices.keys().filter(|index| !known.contains(index)).copied().collect();
        let fresh = known.map(is_new).unwrap_or_default();
        let (nexthops, gateways) = (Nexthops::default(), OnceCell::new());
        Self { scope, cached, names, devices, bridges, nexthops, gateways, asked, fresh }
    }

    /// Notes that all notifications were received that had arrived.
    pub(super) fn note_all_received(&mut self, known: &mut Option<BTreeSet<u32>>) {
        let is_same = |known: &BTreeSet<u32>| known.len() == self.devices.len() && self.fresh.is_empty();
        if !known.as_ref().is_some_and(is_same) {
            *known = Some(self.devices.keys().copied().collect());
        }
        self.fresh.clear();
    }

    pub(super) fn compare(&self, header: Header, body: &[u8], changes: &mut Changes) {
        match header.kind {
            NEWLINK | DELLINK => self.link(header.kind == NEWLINK, body, changes),
            NEWADDR | DELADDR => self.address(header.kind == NEWADDR, body, changes),
            NEWNEIGH | DELNEIGH => changes.ours |= self.neighbour_differs(header.kind == NEWNEIGH, body),
            NEWROUTE | DELROUTE => {
                changes.ours |= self.route_differs(header.kind == NEWROUTE, body);
                changes.underlay |= decode::is_default_route(body);
            }
            NEWNETCONF => changes.ours |= self.forwarding_differs(body),
            nexthop::DELETE => changes.ours |= self.nexthop_missing(body),
            _ => {}
        }
    }

    fn link(&self, new: bool, body: &[u8], changes: &mut Changes) {
        // Bridges and others notify of their ports in messages of their own family, which do not describe the link itself.
        if body.first() != Some(&0) {
            changes.ours |= new && self.port_differs(body);
            return;
        }
        let Some((name, link)) = decode::link(body, &Namespaces::HOST) else { return };
        changes.ours |= new && settings::of_link(name, body).is_some_and(|link| self.listening_differs(&link));
        let there = self.cached.links.get(&name);
        let same = new && there.is_some_and(|there| there.index == link.index && are_equal(there, &link));
        let unknown = !new && there.is_none_or(|there| there.index != link.index);
        if same || unknown {
            return;
        }
        // The parent may have a new name, or may be a new link with the old name.
        if self.scope.parent.is_some_and(|parent| name == parent.name) || self.scope.is_parent(link.index) {
            changes.underlay = true;
            changes.ours |= !new || self.scope.direct;
        } else if there.is_some() || self.scope.devices.contains(&name) {
            changes.ours |= !self.has_passed(name);
        } else {
            // A link of ours may have a new name.
            changes.ours |= self.devices.contains_key(&link.index);
        }
    }

    /// True if a port of a bridge that is a link of ours has other flags than the cached state.
    fn port_differs(&self, body: &[u8]) -> bool {
        let Some((index, flags)) = decode::port(body) else { return false };
        let differs = |name: &LinkName| self.cached.links.get(name).is_some_and(|link| link.port != Some(flags));
        self.devices.get(&index).is_some_and(|name| differs(name) && !self.has_passed(*name))
    }

    /// True if what a message says of a link has passed, since the link is gone and not known any more, or was being made. Then only what it is now
    /// counts. Of a link that was there before, a change that has passed may have cost it entries of which the kernel does not tell.
    fn has_passed(&self, name: LinkName) -> bool {
        let now = || read::link_by(&mut self.asked.borrow_mut(), Some(name), 0);
        match self.cached.links.get(&name) {
            None => now().is_ok_and(|now| now.is_none()),
            Some(there) if self.fresh.contains(&there.index) => {
                let is_so = |(_, now): (LinkName, ObservedLink)| now.index == there.index && are_equal(there, &now);
                now().is_ok_and(|now| now.is_some_and(is_so))
            }
            Some(_) => false,
        }
    }

    /// Whether a link no longer accepts router advertisements, or is new and would accept them if this host did not forward. Each link
    /// message contains these settings, so this is known before a link is up and solicits routers.
    fn listening_differs(&self, link: &LinkSettings) -> bool {
        let setting = Setting::RouterAdvertisements(link.name);
        match self.cached.settings.get(&setting) {
            // A message from before our own write has an old value: only the current value counts.
            Some(there) => {
                link.router_advertisements != *there && sysctl::get(setting).is_some_and(|value| value != *there)
            }
            None => link.is_new && link.may_listen_as_new() && sysctl::new_links_listen(),
        }
    }

    fn address(&self, new: bool, body: &[u8], changes: &mut Changes) {
        let Some((index, address, len)) = decode::any_address(body) else { return };
        let overlaps = |prefix: Prefix| self.scope.networks.iter().any(|network| network.overlaps(prefix));
        let foreign = !self.devices.contains_key(&index);
        // An address on any foreign link may be the one that the operator chose as public address. Link-local ones of IPv6 are left out:
        // they come and go with each container.
        changes.underlay |= foreign && !is_link_local(address);
        // With the last address of a link, as when it is set down, the kernel drops all IPv4 routes by the link and tells of none
        // (`fib_disable_ip` of net/ipv4/fib_frontend.c).
        changes.ours |= !new && self.scope.direct && self.scope.is_parent(index);
        // A link that is not in the cached state may have containers on it now.
        let is_unknown = new && foreign && !self.names.contains_key(&index);
        changes.ours |= is_unknown && Prefix::new(address, len).is_ok_and(overlaps);
        if let Some(address) = decode::device_address(body, &self.devices) {
            changes.ours |= self.cached.addresses.contains(&address) != new;
        }
    }

    /// Whether a netconf message (`struct netconfmsg` of linux/netconf.h) has another forwarding than the cached state.
    fn forwarding_differs(&self, body: &[u8]) -> bool {
        const IFINDEX: u16 = 1;
        const FORWARDING: u16 = 2;
        const ALL: u32 = u32::MAX;
        let family = match body.first() {
            Some(&af::INET) => Family::V4,
            Some(&af::INET6) => Family::V6,
            Some(_) | None => return false,
        };
        let attribute = |wanted| attributes(body.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == wanted);
        let value = |wanted| attribute(wanted).and_then(|(_, value)| number(value));
        let (Some(index), Some(forwards)) = (value(IFINDEX), value(FORWARDING)) else { return false };
        let setting = match self.names.get(&index) {
            _ if index == ALL => Setting::Forwarding(family),
            Some(name) => Setting::LinkForwarding(family, *name),
            None => return false,
        };
        // A message may have the first value of a new link, which we changed since: only the current value counts.
        let is_so = |there: &u32| sysctl::get(setting).is_some_and(|value| (value != 0) == (*there != 0));
        let differs = |there: &u32| (*there != 0) != (forwards != 0) && !is_so(there);
        self.cached.settings.get(&setting).is_some_and(differs)
    }

    fn neighbour_differs(&self, new: bool, body: &[u8]) -> bool {
        if let Some(entry) = BridgeEntry::decode(body, &self.bridges) {
            return self.bridge_fdb_differs(new, &entry);
        }
        // This check comes first since it is cheap: on a busy host nearly all of these messages are of other links.
        if !body.get(4..8).and_then(number).is_some_and(|index| self.devices.contains_key(&index)) {
            return false;
        }
        match decode::neighbour(body, &self.devices) {
            Some(NeighbourEntry::Neighbour(key, mac)) => {
                let there = self.cached.neighbours.get(&key);
                if new { there != Some(&mac) } else { there.is_some() }
            }
            // The FDB is read of VXLAN devices alone.
            Some(NeighbourEntry::Fdb(FdbKey { link, .. }, _) | NeighbourEntry::Flood(FloodEntry { link, .. }))
                if !self.is_vxlan(link) =>
            {
                false
            }
            Some(NeighbourEntry::Fdb(key, destination)) => {
                let there = self.cached.fdb.get(&key);
                if new { there != Some(&destination) } else { there == Some(&destination) }
            }
            Some(NeighbourEntry::BridgeFdb(key, port)) => (self.cached.bridge_fdb.get(&key) == Some(&port)) != new,
            Some(NeighbourEntry::Flood(entry)) => self.cached.flooding.contains(&entry) != new,
            // The entry is not permanent. If it is in the cached state, it was.
            None => {
                decode::neighbour_key(body, &self.devices).is_some_and(|key| self.cached.neighbours.contains_key(&key))
            }
        }
    }

    /// True if an entry of a bridge differs. Those are cached that are static and lead to our VXLAN or TAP devices; one may have been moved to any
    /// other port.
    fn bridge_fdb_differs(&self, new: bool, BridgeEntry { key, port, is_static }: &BridgeEntry) -> bool {
        let there = self.cached.bridge_fdb.get(key);
        let leads = |port: &LinkName| self.cached.links.get(port).is_some_and(|link| link.kind.leads_to_hosts());
        let port = self.devices.get(port).filter(|port| *is_static && leads(port));
        if new { there != port } else { there.is_some() && there == port }
    }

    fn is_vxlan(&self, link: LinkName) -> bool {
        self.cached.links.get(&link).is_some_and(|link| matches!(link.kind, ObservedKind::Vxlan(_)))
    }

    fn route_differs(&self, new: bool, body: &[u8]) -> bool {
        let context =
            RouteContext { scope: self.scope, names: &self.names, devices: &self.devices, nexthops: &self.nexthops };
        let Some((key, route, _)) = decode::route(body, &context) else { return false };
        let there = self.cached.routes.get(&key);
        if new {
            !there.is_some_and(|there| route.via.next_hop().is_some_and(|hop| there.via.leads_as(hop)))
        } else {
            there.is_some()
        }
    }

    /// Whether a deleted nexthop object was used by a cached route: the kernel sends no notification of the route itself.
    fn nexthop_missing(&self, body: &[u8]) -> bool {
        let Some(hop) = Hop::decode(body).filter(|hop| hop.protocol == PROTOCOL) else { return false };
        let Some(link) = self.devices.get(&hop.device) else { return false };
        // A gateway on a VXLAN device has a neighbour for as long as a route leads to it. This tells at once for each peer that we remove.
        if self.is_vxlan(*link)
            && !self.cached.neighbours.contains_key(&NeighbourKey { link: *link, address: hop.gateway })
        {
            return false;
        }
        let hops = || self.cached.routes.values().filter_map(|route| route.via.next_hop());
        let gateways = || hops().filter_map(by_gateway).collect();
        self.gateways.get_or_init(gateways).contains(&(*link, hop.gateway))
    }
}

const fn by_gateway(hop: &NextHop) -> Option<(LinkName, IpAddr)> {
    match hop {
        NextHop::Gateway { gateway, link, .. } => Some((*link, *gateway)),
        NextHop::Link(_) | NextHop::Blackhole => None,
    }
}

/// Whether it is a link-local address of IPv6.
const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Whether two links have the same settings, of those that the agent uses.
pub(crate) fn are_equal(one: &ObservedLink, other: &ObservedLink) -> bool {
    let kind = match (&one.kind, &other.kind) {
        (ObservedKind::Vxlan(a), ObservedKind::Vxlan(b)) => {
            a.vni == b.vni && a.parent == b.parent && a.local == b.local && a.learning == b.learning
        }
        // The kernel does not know which tunnel moves its packets.
        (ObservedKind::Tun(_), ObservedKind::Tun(_))
        // A veth never gets another peer.
        | (ObservedKind::Veth(_), ObservedKind::Veth(_)) => true,
        (ObservedKind::Bridge(a), ObservedKind::Bridge(b)) => one.owner == Owner::Foreign || a == b,
        (a, b) => a == b,
    };
    // Links of others may be ports of bridges as they like.
    let master = one.owner == Owner::Foreign || (one.master == other.master && one.port == other.port);
    kind && master && one.mac == other.mac && one.mtu == other.mtu && one.up == other.up
}

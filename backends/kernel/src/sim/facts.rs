//! The facts of a host in memory, as they are read from a kernel.

use std::net::IpAddr;

use wire_net::{Family, LinkName, LocalAddress, Prefix};
use wire_state::{ContainerLink, NextHop, ObservedKind, ObservedNet};

use super::{Facts, SimHost};
use crate::{AddressState, HostAddress, HostLink, HostNetwork, Nic, ResolvedRoute, Traffic};

impl SimHost {
    /// The product UUID of the machine.
    #[must_use]
    pub fn uuid(&self) -> String {
        self.facts().uuid.clone()
    }

    /// Links, addresses, default routes and the routes to `targets`, as [`HostNetwork::read`] returns them.
    #[must_use]
    pub fn network(&self, targets: impl IntoIterator<Item = IpAddr>) -> HostNetwork {
        let (net, facts) = (self.state(), self.facts());
        let mut host = HostNetwork { links: links(&net, &facts), ..HostNetwork::default() };
        for family in Family::ALL {
            let hops = default_hops(&net, family);
            host.routers.extend(hops.iter().filter_map(|hop| Some((index(&net, hop)?, router(hop)?))));
            host.default_routes.set(family, Some(hops.iter().filter_map(|hop| index(&net, hop)).collect()));
        }
        host.resolved = targets.into_iter().map(|target| (target, route_to(&net, &host.links, target))).collect();
        host
    }

    /// All links with an Ethernet address, as [`Nic::all`] returns them.
    #[must_use]
    pub fn nics(&self) -> Vec<Nic> {
        let (net, facts) = (self.state(), self.facts());
        let nic = |(name, link): (&LinkName, &wire_state::ObservedLink)| {
            let mac = link.mac.filter(|mac| mac.is_unicast())?;
            let origin = facts.links.get(name).cloned().unwrap_or_default().origin(&link.kind);
            Some(Nic { name: *name, index: link.index, master: link.master.map(|master| master.index), mac, origin })
        };
        let mut nics: Vec<Nic> = net.links.iter().filter_map(nic).collect();
        nics.sort_unstable_by_key(|nic| nic.index);
        nics
    }

    /// The packet counters, as [`crate::traffic`] returns them.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let (net, facts) = (self.state(), self.facts());
        let of = |name: &LinkName| (*name, facts.counters.get(name).copied().unwrap_or_default());
        Traffic { devices: net.links.keys().map(of).collect(), bad_checksums: facts.bad_checksums }
    }

    /// All bridges, and the other links with an address inside one of `subnets`, as [`crate::Links::of_containers`] returns them.
    #[must_use]
    pub fn container_links(&self, subnets: &[Prefix]) -> Vec<ContainerLink> {
        let (net, facts) = (self.state(), self.facts());
        let mut found: Vec<(u32, ContainerLink)> = Vec::new();
        for (name, link) in &net.links {
            let of_host = facts.links.get(name);
            let addresses: Vec<(IpAddr, u8)> = addresses(*name, &net, &facts)
                .map(|address| (address.local.address, address.local.prefix.len()))
                .collect();
            let is_bridge = matches!(link.kind, ObservedKind::Bridge(_));
            let is_vxlan = matches!(link.kind, ObservedKind::Vxlan(_));
            let is_used = if is_bridge { of_host.is_some_and(|facts| facts.has_carrier) } else { link.up };
            let link = ContainerLink { name: *name, is_bridge, mtu: link.mtu, is_used, addresses };
            if is_bridge || !is_vxlan && link.holds(subnets) {
                found.push((net.links[name].index, link));
            }
        }
        found.sort_by_key(|(index, _)| *index);
        found.into_iter().map(|(_, link)| link).collect()
    }

    /// Whether a link with that name exists.
    #[must_use]
    pub fn has_link(&self, name: LinkName) -> bool {
        self.state().links.contains_key(&name)
    }
}

fn links(net: &ObservedNet, facts: &Facts) -> Vec<HostLink> {
    let link = |(name, link): (&LinkName, &wire_state::ObservedLink)| HostLink {
        name: *name,
        index: link.index,
        kind: link.kind.name().to_owned(),
        is_loopback: facts.links.get(name).is_some_and(|facts| facts.is_loopback),
        mtu: link.mtu,
        mac: link.mac,
        addresses: addresses(*name, net, facts).collect(),
    };
    let mut links: Vec<HostLink> = net.links.iter().map(link).collect();
    links.sort_unstable_by_key(|link| link.index);
    links
}

/// The addresses of a link, the host's and ours.
fn addresses<'a>(name: LinkName, net: &'a ObservedNet, facts: &'a Facts) -> impl Iterator<Item = HostAddress> + 'a {
    let ours = net.addresses.iter().filter(move |address| address.link == name);
    let ours = ours.filter_map(|address| LocalAddress::new(address.address, address.len));
    let ours = ours.map(|local| HostAddress { local, state: AddressState::Stable });
    facts.links.get(&name).into_iter().flat_map(|facts| facts.addresses.iter().copied()).chain(ours)
}

/// The next hops of the default routes, in the order of their metrics.
fn default_hops(net: &ObservedNet, family: Family) -> Vec<NextHop> {
    let defaults = net.routes.iter().filter(|(key, _)| {
        key.destination.len() == 0 && key.destination.family() == family && key.table == wire_state::RouteKey::MAIN
    });
    let mut hops: Vec<_> = defaults.filter_map(|(key, route)| Some((key.metric, *route.via.next_hop()?))).collect();
    hops.sort_by_key(|(metric, _)| *metric);
    hops.into_iter().map(|(_, hop)| hop).collect()
}

fn index(net: &ObservedNet, hop: &NextHop) -> Option<u32> {
    net.links.get(&hop.link()?).map(|link| link.index)
}

const fn router(hop: &NextHop) -> Option<IpAddr> {
    match hop {
        NextHop::Gateway { gateway, .. } => Some(*gateway),
        NextHop::Link(_) | NextHop::Blackhole => None,
    }
}

/// The route that the kernel would choose: the longest prefix, of those of the links and of the routes.
fn route_to(net: &ObservedNet, links: &[HostLink], to: IpAddr) -> Result<ResolvedRoute, String> {
    let connected =
        links.iter().flat_map(|link| link.addresses.iter().map(move |own| (own.local.prefix, 0, link.index)));
    let routed = net
        .routes
        .iter()
        .filter_map(|(key, route)| Some((key.destination, key.metric, index(net, route.via.next_hop()?)?)));
    let leading = connected.chain(routed).filter(|(prefix, ..)| prefix.contains(to));
    let best = leading.max_by_key(|(prefix, metric, _)| (prefix.len(), std::cmp::Reverse(*metric)));
    let (_, _, link) = best.ok_or_else(|| "Network is unreachable (os error 101)".to_owned())?;
    let own = links.iter().filter(|other| other.index == link).flat_map(|link| &link.addresses);
    let mut own = own.map(|address| address.local.address).filter(|own| Family::of(*own) == Family::of(to));
    Ok(ResolvedRoute { link, source: own.next() })
}

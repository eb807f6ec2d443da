//! The hosts that the entries of a desired state lead to. Pure.

use std::net::IpAddr;

use wire_net::{LinkName, MacAddr, Prefix};

use crate::{DesiredNet, FdbKey, NextHop};

/// The desired state of a namespace, followed from its entries to hosts.
pub(super) struct Reach<'a>(pub(super) &'a DesiredNet);

pub(super) fn unreachable(host: IpAddr) -> String {
    format!("host {host} cannot be reached")
}

/// The effect of a missing flood entry. An unspecified host is none.
pub(super) fn unflooded(host: IpAddr) -> Option<String> {
    (!host.is_unspecified()).then(|| format!("flooded frames do not reach host {host}"))
}

impl Reach<'_> {
    /// The effect if frames to a MAC do not get to their host.
    pub(super) fn by_mac(&self, link: LinkName, mac: MacAddr) -> Option<String> {
        self.0.fdb.get(&FdbKey { link, mac }).map(|target| unreachable(target.to))
    }

    /// The effect if packets do not take a route.
    pub(super) fn by_route(&self, destination: Prefix, hop: &NextHop) -> Option<String> {
        match hop {
            NextHop::Gateway { gateway, link, .. } => self.0.host_behind(*link, *gateway, destination).map(unreachable),
            NextHop::Link(link) => self.by_tunnel(*link, destination),
            NextHop::Blackhole => None,
        }
    }

    /// The effect if packets for a prefix do not get to a tunnel with a forwarding table.
    fn by_tunnel(&self, link: LinkName, destination: Prefix) -> Option<String> {
        let mut of_link = self.0.forwarding.iter().filter(|(key, _)| key.link == link);
        if let Some((_, forward)) = of_link.clone().find(|(key, _)| key.destination == destination) {
            return Some(unreachable(forward.to));
        }
        let is_for_all =
            of_link.clone().next().is_some() && of_link.all(|(key, _)| destination.covers(key.destination));
        is_for_all.then(|| format!("no host can be reached through {link}"))
    }

    /// Whether hosts are reached through the link.
    pub(super) fn has_hosts_behind(&self, link: LinkName) -> bool {
        self.0.fdb.keys().any(|key| key.link == link)
            || self.0.flooding.iter().any(|entry| entry.link == link)
            || self.0.forwarding.keys().any(|key| key.link == link)
            || (self.0.is_host_itself(link) && self.0.routes.values().any(|hop| has_gateway_on(link, hop)))
    }
}

fn has_gateway_on(link: LinkName, hop: &NextHop) -> bool {
    match hop {
        NextHop::Gateway { link: on, .. } => *on == link,
        NextHop::Link(_) | NextHop::Blackhole => false,
    }
}

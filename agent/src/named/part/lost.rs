//! Addresses of containers that are not this host's any more: another one may have got them while this one was away for longer than its lease.

use std::collections::BTreeSet;

use wire_lease::named::Kept;
use wire_net::LinkName;

use super::Part;
use crate::attach::Endpoint;

impl Part {
    /// Takes the addresses of containers away that are in none of this host's rooms, or are its own now. True if there were any.
    pub(super) fn drop_all_but_those_of(&mut self, kept: &Kept) -> bool {
        let is_own = |endpoint: &Endpoint| {
            kept.member.own.iter().any(|(family, own)| endpoint.addresses.get(family) == Some(own))
        };
        self.drop_endpoints(|endpoint| !has_address_of(kept, endpoint) || is_own(endpoint))
    }

    /// The ports of containers whose addresses were taken away, and that have no others yet.
    pub(in crate::named) fn dropped_ports(&self) -> BTreeSet<LinkName> {
        let mut dropped = self.dropped.clone();
        for (id, endpoints) in &self.entry.endpoints {
            for endpoint in endpoints {
                dropped.remove(&id.port(endpoint.slot));
            }
        }
        dropped
    }

    /// Takes the addresses of containers away that another host has claimed before this one had the block around them. True if there were any.
    pub(in crate::named) fn drop_lost(&mut self) -> bool {
        let Some(network) = self.admitted.clone() else { return false };
        let own = self.own;
        let is_lost = |endpoint: &Endpoint| endpoint.addresses.iter().any(|(_, it)| network.is_lost_to_older(own, *it));
        self.drop_endpoints(is_lost)
    }

    fn drop_endpoints(&mut self, is_lost: impl Fn(&Endpoint) -> bool) -> bool {
        let mut has_dropped = false;
        for (id, endpoints) in &mut self.entry.endpoints {
            let lost = endpoints.extract_if(.., |endpoint| is_lost(endpoint)).map(|endpoint| id.port(endpoint.slot));
            for port in lost {
                self.dropped.insert(port);
                has_dropped = true;
            }
        }
        has_dropped
    }
}

/// True if an address of a container is one of this host's.
fn has_address_of(kept: &Kept, endpoint: &Endpoint) -> bool {
    let address = endpoint.addresses.get(kept.record.pools.claimed().prefix.family());
    address.is_some_and(|address| kept.rooms.iter().any(|room| room.prefix().contains(*address)))
}

//! Addresses that a new network may not have: those of the flat network, of its hosts, and what this host has routes to.

use wire_kernel::TraceView;
use wire_lease::{
    Lease, NetworkConfig,
    named::{Occupant, Occupied},
};
use wire_net::{KeyPrefix, Prefix};
use wire_state::{DataplaneError, HostRoute, NextHop};
use wire_store::{EtcdStore, LeaseStore, StoreError};

/// The prefixes of the flat network: its range, leases outside of it, and the hosts themselves.
///
/// # Errors
/// If etcd does not answer.
pub(super) async fn by_flat_network(
    store: &EtcdStore,
    prefix: &KeyPrefix,
    config: Option<&NetworkConfig>,
) -> Result<Vec<Occupied>, StoreError> {
    let pools = config.iter().flat_map(|config| config.pools.iter().map(|(_, pool)| pool.network));
    let pools: Vec<Prefix> = pools.collect();
    let mut occupied = all(pools.iter().copied(), Occupant::FlatNetwork);
    for directory in [prefix.leases(true), prefix.leases(false)] {
        for kv in store.list(&directory).await?.entries {
            let Ok(subnet) = directory.subnet(&kv.key) else { continue };
            let outside = subnet.prefixes().filter(|prefix| !pools.iter().any(|pool| pool.covers(*prefix)));
            occupied.extend(all(outside, Occupant::Lease));
            let Ok(lease) = Lease::from_value(subnet, &kv.value) else { continue };
            let publics = lease.public.iter().map(|(_, address)| Prefix::host(*address));
            occupied.extend(all(publics, Occupant::Underlay));
        }
    }
    Ok(occupied)
}

/// The destinations of this host's routes, but for default routes, and those to networks by name, which have records.
///
/// # Errors
/// If the kernel does not answer.
pub(super) fn by_routes() -> Result<Vec<Occupied>, DataplaneError> {
    let view = TraceView::read()?;
    let routes = view.surroundings.routes.iter().filter(|(key, route)| key.destination.len() > 0 && counts(route));
    Ok(all(routes.map(|(key, _)| key.destination), Occupant::Route))
}

/// True if a route keeps a network from its destination.
fn counts(route: &HostRoute) -> bool {
    match route {
        HostRoute::Via(NextHop::Link(link)) => !["wb.", "wv."].iter().any(|ours| link.as_str().starts_with(ours)),
        HostRoute::Via(NextHop::Gateway { .. } | NextHop::Blackhole) | HostRoute::Multipath => true,
        HostRoute::Local | HostRoute::Broadcast => false,
        HostRoute::Refused(_) | HostRoute::Throw | HostRoute::Other(_) => false,
    }
}

fn all(prefixes: impl IntoIterator<Item = Prefix>, by: Occupant) -> Vec<Occupied> {
    prefixes.into_iter().map(|prefix| Occupied { prefix, by }).collect()
}

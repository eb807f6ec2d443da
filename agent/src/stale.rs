//! Routes that flannel has left to subnets that nobody has leased: found for `verify`, and removed by `verify --remove-stale`.

use std::{collections::BTreeSet, sync::Arc};

use wire_kernel::{KernelDataplane, RouteForm};
use wire_lease::LeaseTable;
use wire_net::{DualStack, Pool, Prefix, Subnet, chain};
use wire_state::{DataplaneError, Driver as _, Namespace, ObservedNet, Op, PerNamespace, RouteKey, Scope, StaleRoute};

use crate::{control::proto, host_dataplane::HostDataplane};

/// The subnets that hosts can lease in a network, and those that they have.
#[derive(Clone, Debug)]
pub(crate) struct Subnets {
    pub(crate) pools: DualStack<Pool>,
    pub(crate) leases: Arc<LeaseTable>,
}

impl Subnets {
    /// The stale routes on the link of this network's underlay.
    pub(crate) fn stale(&self, found: &PerNamespace<ObservedNet>, scope: &Scope) -> Vec<StaleRoute> {
        let (Some(host), Some(parent)) = (found.get(Namespace::Host), scope.parent) else { return Vec::new() };
        let Some(leased) = self.leased() else { return Vec::new() };
        // What lies beside the range, or is of another length, may be an operator's.
        let is_offered = |prefix: Prefix| self.pools.iter().any(|(_, pool)| pool.offers(prefix));
        let is_vacant = |prefix: Prefix| is_offered(prefix) && !leased.contains(&prefix);
        StaleRoute::among(host, parent.name, is_vacant)
    }

    /// The prefixes of all leases, also of those that are refused here: other hosts may reach them. `None` if more are refused than have names.
    fn leased(&self) -> Option<BTreeSet<Prefix>> {
        let refused = &self.leases.refused;
        if refused.len() < refused.total() {
            return None;
        }
        let named = refused.keys().filter_map(|key| key.rsplit('/').next()?.parse::<Subnet>().ok());
        let subnets: Vec<Subnet> = self.leases.peers.keys().copied().chain(named).collect();
        Some(subnets.iter().flat_map(Subnet::prefixes).collect())
    }
}

impl From<&StaleRoute> for proto::StaleRoute {
    fn from(stale: &StaleRoute) -> Self {
        let StaleRoute { key: RouteKey { destination, metric, .. }, gateway, link } = stale;
        Self {
            destination: destination.to_string(),
            metric: *metric,
            gateway: gateway.to_string(),
            link: link.to_string(),
            sentence: stale.to_string(),
        }
    }
}

/// The route of a reply; `None` if the reply is not one of an agent.
fn parsed(stale: &proto::StaleRoute) -> Option<StaleRoute> {
    let key = RouteKey { metric: stale.metric, ..RouteKey::main(stale.destination.parse().ok()?) };
    Some(StaleRoute { key, gateway: stale.gateway.parse().ok()?, link: stale.link.parse().ok()? })
}

/// Removes the stale routes that a comparison has named, and tells of each. Returns what failed.
///
/// # Errors
/// When the kernel cannot be read.
pub(crate) fn remove(named: &[proto::StaleRoute], tell: fn(String)) -> Result<Vec<String>, DataplaneError> {
    let stale: Vec<StaleRoute> = named.iter().filter_map(parsed).collect();
    let ops: Vec<Op> = stale.iter().map(StaleRoute::removal).collect();
    let mut driver = HostDataplane::without_tunnels(KernelDataplane::open(RouteForm::Plain)?);
    // It learns the numbers of the links that routes in these networks lead to.
    let networks = stale.iter().map(|stale| stale.key.destination).collect();
    driver.read(&PerNamespace::host(Scope { networks, ..Scope::default() }))?;
    let mut failures = Vec::new();
    for (op, attempt) in ops.iter().zip(driver.apply(&ops)) {
        match attempt {
            Ok(()) => tell(format!("network: {op}")),
            Err(error) => failures.push(format!("{op}: {}", chain(&error))),
        }
    }
    Ok(failures)
}

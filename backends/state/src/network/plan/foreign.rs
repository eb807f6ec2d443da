//! Foreign routes that are in the way of desired ones. There are few of them beside the routes to peers, so all are looked at in each
//! plan, also in that of some keys.

use std::collections::{BTreeMap, BTreeSet};

use super::Builder;
use crate::{
    Conflict, DesiredNet, Detours, Namespace, NextHop, ObservedNet, Owner, PerNamespace, RouteKey, network::detour,
};

/// The keys of the foreign routes that were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForeignRoutes(BTreeMap<Namespace, BTreeSet<RouteKey>>);

impl ForeignRoutes {
    /// Finds them among all routes.
    #[must_use]
    pub fn of(have: &PerNamespace<ObservedNet>) -> Self {
        let mut found = Self::default();
        for (namespace, net) in have.iter() {
            let foreign = net.routes.iter().filter(|(_, route)| route.owner == Owner::Foreign);
            found.0.insert(namespace, foreign.map(|(key, _)| *key).collect());
        }
        found
    }

    pub(super) fn of_namespace(&self, namespace: Namespace) -> impl Iterator<Item = &RouteKey> {
        self.0.get(&namespace).into_iter().flatten()
    }

    /// The foreign routes of the host that lead packets for peers elsewhere.
    pub(super) fn detours(&self, have: &ObservedNet, want: &DesiredNet) -> Detours {
        let found = self.of_namespace(Namespace::Host).filter_map(|key| have.routes.get_key_value(key));
        // One of flannel's may have become ours since.
        let foreign = found.filter(|(_, route)| route.owner == Owner::Foreign);
        detour::among(foreign, want)
    }
}

impl Builder<'_> {
    /// The conflicts of desired routes with foreign ones to the same destination.
    pub(super) fn route_conflicts<'k>(&self, foreign: impl Iterator<Item = &'k RouteKey>) -> Vec<Conflict> {
        let to_same = |key: &RouteKey| RouteKey { metric: 0, ..*key }..=RouteKey { metric: u32::MAX, ..*key };
        let contested: BTreeSet<&RouteKey> =
            foreign.flat_map(|key| self.want.routes.range(to_same(key))).map(|(key, _)| key).collect();
        contested.into_iter().flat_map(|key| self.conflicts_of(key)).collect()
    }

    /// The conflicts of one desired route: with a foreign one that has its key, and with one that takes precedence by a lower metric.
    fn conflicts_of(&self, key: &RouteKey) -> impl Iterator<Item = Conflict> {
        let want = self.route_to_be(self.want.routes.get(key));
        let found = self.route_left(self.have.routes.get(key)).filter(|found| found.owner == Owner::Foreign);
        let same_key = want.zip(found).filter(|(want, found)| !found.serves_as(want, self.want.route_form));
        let same_key = same_key.map(|(_, found)| (key.metric, found));
        let better = want.and_then(|want| self.better(key, want));
        let namespace = self.namespace;
        let key = *key;
        let conflicts = same_key.into_iter().chain(better);
        conflicts.map(move |(metric, found)| Conflict::Route { namespace, key, metric, found: found.clone() })
    }

    /// A foreign route that takes precedence over the desired one by a lower metric, and this metric.
    fn better(&self, key: &RouteKey, want: &NextHop) -> Option<(u32, &crate::ObservedRoute)> {
        // A blackhole of ours has the highest metric on purpose: any other route may take precedence.
        want.link()?;
        let lower = self.have.routes.range(RouteKey { metric: 0, ..*key }..*key);
        let mut foreign = lower.filter(|(_, found)| found.owner == Owner::Foreign && !found.via.leads_as(want));
        foreign.next().map(|(better, found)| (better.metric, found))
    }
}

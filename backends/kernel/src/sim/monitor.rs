//! Hears of the changes of a host in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::poll_fn,
    task::Poll,
};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem, ordset};
use wire_net::LinkName;
use wire_state::{DataplaneError, Namespace, ObservedNet, Scope};

use super::{LinkFacts, SimHost, view};
use crate::{Changes, monitor::view::are_equal};

/// Compares the state of a [`SimHost`] with a cached one whenever it has changed, as [`crate::Monitor`] does with notifications.
#[derive(Debug)]
pub struct SimMonitor {
    host: SimHost,
    scope: Scope,
    /// The numbers of changes, of changes of the underlay, of devices by the agent, and of overruns that were reported or found to be no
    /// news.
    seen: u64,
    seen_underlay: u64,
    seen_devices: u64,
    seen_overruns: u64,
    /// The state at the last look, whatever the scope: an entry that is as it was then sends no notification, whatever the cached state says of it.
    last: ObservedNet,
    last_links: BTreeMap<LinkName, LinkFacts>,
    /// True once there was a look: of devices that are made later only what they are now counts.
    has_looked: bool,
}

impl SimMonitor {
    pub(super) fn new(host: SimHost, scope: Scope) -> Self {
        let (seen, facts) = (host.net.changes(), host.facts());
        let (seen_underlay, seen_overruns) = (facts.underlay_changes, facts.overruns);
        let seen_devices = facts.own_devices;
        let state = host.net.state();
        let (last, last_links) = (state.get(Namespace::Host).cloned().unwrap_or_default(), facts.links.clone());
        drop(facts);
        let has_looked = false;
        Self { host, scope, seen, seen_underlay, seen_devices, seen_overruns, last, last_links, has_looked }
    }

    /// Reports changes in another scope from now on, as [`crate::Monitor::set_scope`].
    pub fn set_scope(&mut self, scope: Scope) {
        self.scope = scope;
    }

    /// Waits until something differs from `cached`, the cached state.
    ///
    /// # Errors
    /// Never; the type is that of [`crate::Monitor::changed`].
    ///
    /// # Cancel safety
    /// Safe: a poll that finds a change returns it at once.
    pub async fn changed(&mut self, cached: &ObservedNet) -> Result<Changes, DataplaneError> {
        poll_fn(|context| {
            while self.host.net.poll_changed(&mut self.seen, context).is_ready() {
                let changes = self.changes(cached);
                self.has_looked = true;
                if changes.any() {
                    return Poll::Ready(Ok(changes));
                }
            }
            self.has_looked = true;
            Poll::Pending
        })
        .await
    }

    fn changes(&mut self, cached: &ObservedNet) -> Changes {
        let facts = self.host.facts();
        let (underlay_changes, overruns) = (facts.underlay_changes, facts.overruns);
        let underlay = underlay_changes != self.seen_underlay;
        let overrun = overruns != self.seen_overruns;
        let devices = facts.own_devices != self.seen_devices && !self.has_looked;
        (self.seen_underlay, self.seen_overruns) = (underlay_changes, overruns);
        self.seen_devices = facts.own_devices;
        let state = self.host.net.state();
        let Some(net) = state.get(Namespace::Host) else { return Changes::default() };
        let now = view::within(net, &facts.links, &self.scope);
        let last = view::within(&self.last, &self.last_links, &self.scope);
        (self.last, self.last_links) = (net.clone(), facts.links.clone());
        if overrun {
            return Changes::OVERRUN;
        }
        let links = self.links(cached, &now, net);
        let ours = links.ours || devices || differ(cached, &last, &now);
        Changes { ours, underlay: underlay || links.underlay, overrun }
    }

    fn links(&self, cached: &ObservedNet, now: &ObservedNet, whole: &ObservedNet) -> Changes {
        let mut changes = Changes::default();
        for (name, link) in &cached.links {
            let there = whole.links.get(name);
            if there.is_some_and(|there| there.index == link.index && are_equal(there, link)) {
                continue;
            }
            if self.scope.is_parent(link.index) {
                changes.underlay = true;
                changes.ours |= there.is_none();
            } else {
                changes.ours = true;
            }
        }
        let is_new = |name| self.scope.devices.contains(name) && !cached.links.contains_key(name);
        changes.ours |= now.links.keys().any(is_new);
        changes
    }
}

/// Whether entries of our devices or routes into the overlay have changed to another value than the cached one, or settings differ.
fn differ(cached: &ObservedNet, last: &ObservedNet, now: &ObservedNet) -> bool {
    let settings = || cached.settings.iter().any(|(setting, value)| now.settings.get(setting) != Some(value));
    are_other_members(&cached.addresses, &last.addresses, &now.addresses)
        || are_other_rows(&cached.fdb, &last.fdb, &now.fdb)
        || are_other_elements(&cached.flooding, &last.flooding, &now.flooding)
        || are_other_rows(&cached.bridge_fdb, &last.bridge_fdb, &now.bridge_fdb)
        || are_other_rows(&cached.neighbours, &last.neighbours, &now.neighbours)
        || have_other_routes(cached, last, now)
        || settings()
}

fn are_other_members<T: Ord>(cached: &BTreeSet<T>, last: &BTreeSet<T>, now: &BTreeSet<T>) -> bool {
    last.symmetric_difference(now).any(|entry| cached.contains(entry) != now.contains(entry))
}

fn are_other_elements<T: Ord + Clone>(cached: &OrdSet<T>, last: &OrdSet<T>, now: &OrdSet<T>) -> bool {
    last.diff(now).any(|item| match item {
        ordset::DiffItem::Add(entry) | ordset::DiffItem::Remove(entry) => cached.contains(entry) != now.contains(entry),
    })
}

fn are_other_rows<K: Ord + Clone, V: PartialEq + Clone>(
    cached: &OrdMap<K, V>,
    last: &OrdMap<K, V>,
    now: &OrdMap<K, V>,
) -> bool {
    changed_keys(last, now).any(|key| cached.get(key) != now.get(key))
}

fn have_other_routes(cached: &ObservedNet, last: &ObservedNet, now: &ObservedNet) -> bool {
    changed_keys(&last.routes, &now.routes).any(|key| match (cached.routes.get(key), now.routes.get(key)) {
        (None, None) => false,
        (Some(_), None) | (None, Some(_)) => true,
        (Some(there), Some(route)) => match route.via.next_hop() {
            Some(hop) => !there.via.leads_as(hop),
            None => there.via != route.via,
        },
    })
}

/// The keys whose values have changed.
fn changed_keys<'a, K: Ord + Clone, V: PartialEq + Clone>(
    last: &'a OrdMap<K, V>,
    now: &'a OrdMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    last.diff(now).map(|item| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => key,
    })
}

//! Hears of the changes of a host in memory.

use std::{future::poll_fn, task::Poll};

use wire_state::{DataplaneError, Namespace, ObservedNet, Scope};

use super::{SimHost, view};
use crate::{Changes, monitor::are_equal};

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
}

impl SimMonitor {
    pub(super) fn new(host: SimHost, scope: Scope) -> Self {
        let (seen, facts) = (host.net.changes(), host.facts());
        let (seen_underlay, seen_overruns) = (facts.underlay_changes, facts.overruns);
        let seen_devices = facts.own_devices;
        drop(facts);
        Self { host, scope, seen, seen_underlay, seen_devices, seen_overruns }
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
                if changes.any() {
                    return Poll::Ready(Ok(changes));
                }
            }
            Poll::Pending
        })
        .await
    }

    fn changes(&mut self, cached: &ObservedNet) -> Changes {
        let facts = self.host.facts();
        let (underlay_changes, overruns) = (facts.underlay_changes, facts.overruns);
        let underlay = underlay_changes != self.seen_underlay;
        let overrun = overruns != self.seen_overruns;
        let devices = facts.own_devices != self.seen_devices;
        (self.seen_underlay, self.seen_overruns) = (underlay_changes, overruns);
        self.seen_devices = facts.own_devices;
        if overrun {
            return Changes::OVERRUN;
        }
        let state = self.host.net.state();
        let Some(net) = state.get(Namespace::Host) else { return Changes::default() };
        let now = view::within(net, &facts.links, &self.scope);
        let links = self.links(cached, &now, net);
        Changes { ours: links.ours || devices || differ(cached, &now), underlay: underlay || links.underlay, overrun }
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

/// Whether entries of our devices, routes into the overlay or settings differ.
fn differ(cached: &ObservedNet, now: &ObservedNet) -> bool {
    let settings = || cached.settings.iter().any(|(setting, value)| now.settings.get(setting) != Some(value));
    cached.addresses != now.addresses
        || cached.fdb != now.fdb
        || cached.flooding != now.flooding
        || cached.neighbours != now.neighbours
        || have_other_routes(cached, now)
        || settings()
}

fn have_other_routes(cached: &ObservedNet, now: &ObservedNet) -> bool {
    let is_gone = || cached.routes.keys().any(|key| !now.routes.contains_key(key));
    let mut new = now.routes.iter();
    is_gone()
        || new.any(|(key, route)| {
            let there = cached.routes.get(key);
            let is_same = |there: &wire_state::ObservedRoute| match route.via.next_hop() {
                Some(hop) => there.via.leads_as(hop),
                None => there.via == route.via,
            };
            !there.is_some_and(is_same)
        })
}

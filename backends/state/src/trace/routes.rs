//! The lookup of a route: the rules in their order, and the longest prefix in the table that each names.

use std::{net::IpAddr, ops::Bound};

use imbl::OrdMap;
use wire_net::{Family, LinkName, Prefix};

use super::host::{HostRoute, HostState, PolicyRule, RuleAction};
use crate::{NextHop, RouteKey, Via, network::innermost};

/// The values of a packet that its route depends on.
#[derive(Clone, Copy)]
pub(super) struct Query {
    pub(super) destination: IpAddr,
    pub(super) source: IpAddr,
    /// The link that it came in by; `None` for packets of this host.
    pub(super) incoming: Option<LinkName>,
}

/// The result of a lookup.
pub(super) enum Found {
    /// To this host itself.
    Local,
    /// To a next hop.
    Hop(RouteKey, NextHop),
    /// To all hosts of a link.
    Broadcast,
    /// A route or a rule that drops.
    Refused(String),
    /// No route.
    Nothing,
    /// Not known, because of this.
    Unclear(String),
}

/// Whether a rule matches a packet.
enum Matches {
    Yes,
    No,
    Unclear,
}

impl HostState<'_> {
    /// Looks up the route of a packet.
    pub(super) fn route(&self, query: &Query) -> Found {
        let family = Family::of(query.destination);
        for rule in self.surroundings.rules.iter().filter(|rule| rule.family == family) {
            match rule.matches(query) {
                Matches::No => continue,
                Matches::Unclear => return Found::Unclear(format!("rule {rule}")),
                Matches::Yes => {}
            }
            match &rule.action {
                RuleAction::Lookup(table) => {
                    if let Some(found) = self.route_in(*table, query.destination) {
                        return found;
                    }
                }
                RuleAction::Drop(_) => return Found::Refused(format!("rule {rule}")),
                RuleAction::Other(_) => return Found::Unclear(format!("rule {rule}")),
            }
        }
        Found::Nothing
    }

    /// Looks up a destination in one table; `None` if the next rule decides.
    fn route_in(&self, table: u32, destination: IpAddr) -> Option<Found> {
        if table == RouteKey::LOCAL && self.link_of(destination).is_some() {
            return Some(Found::Local);
        }
        let held = longest(&self.net.routes, table, destination);
        let other = longest(&self.surroundings.routes, table, destination);
        let rank = |key: &RouteKey| (key.destination.len(), std::cmp::Reverse(key.metric));
        let held_wins = match (&held, &other) {
            (Some((held, _)), Some((other, _))) => rank(held) >= rank(other),
            (Some(_), None) => true,
            (None, _) => false,
        };
        if held_wins {
            let (key, route) = held?;
            return Some(match &route.via {
                Via::NextHop(hop) => of_hop(*key, *hop),
                Via::Other(text) => Found::Unclear(format!("route {key} {text}")),
            });
        }
        let (key, route) = other?;
        match route {
            HostRoute::Via(hop) => Some(of_hop(*key, *hop)),
            HostRoute::Local => Some(Found::Local),
            HostRoute::Broadcast => Some(Found::Broadcast),
            HostRoute::Multipath => Some(Found::Unclear(format!("route {key} has several next hops"))),
            HostRoute::Refused(word) => Some(Found::Refused(format!("route {word} {key}"))),
            HostRoute::Throw => None,
            HostRoute::Other(text) => Some(Found::Unclear(format!("route {key} {text}"))),
        }
    }
}

fn of_hop(key: RouteKey, hop: NextHop) -> Found {
    match hop {
        NextHop::Blackhole => Found::Refused(format!("route blackhole {key}")),
        NextHop::Gateway { .. } | NextHop::Link(_) => Found::Hop(key, hop),
    }
}

impl PolicyRule {
    fn matches(&self, query: &Query) -> Matches {
        // The kernel calls the incoming link of a host's own packets `lo`.
        let is_incoming =
            |link: LinkName| query.incoming.map_or_else(|| link.as_str() == "lo", |incoming| incoming == link);
        let may = self.from.is_none_or(|from| from.contains(query.source))
            && self.to.is_none_or(|to| to.contains(query.destination))
            && self.incoming.is_none_or(is_incoming);
        match (may, &self.others) {
            (false, _) => Matches::No,
            (true, Some(_)) => Matches::Unclear,
            (true, None) => Matches::Yes,
        }
    }
}

/// The entry with the longest prefix that holds the destination; of several, that with the lowest metric.
pub(super) fn longest<R: Clone>(
    routes: &OrdMap<RouteKey, R>,
    table: u32,
    destination: IpAddr,
) -> Option<(&RouteKey, &R)> {
    let last = RouteKey { table, destination: Prefix::host(destination), metric: u32::MAX };
    let (found, _) = innermost(routes, Bound::Included(last))?;
    routes.range(RouteKey { metric: 0, ..*found }..).next()
}

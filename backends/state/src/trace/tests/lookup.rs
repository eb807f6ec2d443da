//! The lookup of routes.

use imbl::OrdMap;
use wire_net::Family;

use super::*;
use crate::trace::{
    host::{PolicyRule, RuleAction},
    routes::{Found, Query, longest},
};

/// Prefixes that often hold each other.
fn any_prefix() -> impl Strategy<Value = Prefix> {
    let v4 =
        (0u128..4, 0u8..=32).prop_map(|(number, len)| Prefix::from_bits(Family::V4, number << 6 | 0x0a05_0000, len));
    let v6 = (0u128..4, 0u8..=128).prop_map(|(number, len)| Prefix::from_bits(Family::V6, number << 70, len));
    prop_oneof![v4, v6].prop_map(Result::unwrap)
}

fn any_destination() -> impl Strategy<Value = IpAddr> {
    any_prefix().prop_flat_map(|prefix| prop_oneof![Just(prefix.network()), Just(prefix.last())])
}

proptest! {
    #[test]
    fn the_longest_prefix_with_the_lowest_metric_is_found(
        keys in prop::collection::btree_set((253u32..255, any_prefix(), 0u32..3), 0..30),
        destination in any_destination(),
    ) {
        let key = |(table, destination, metric)| RouteKey { table, destination, metric };
        let routes: OrdMap<RouteKey, ()> = keys.into_iter().map(|parts| (key(parts), ())).collect();
        let holds = |key: &&RouteKey| key.table == 254 && key.destination.contains(destination);
        let best = routes.keys().filter(holds).max_by_key(|key| (key.destination.len(), std::cmp::Reverse(key.metric)));
        prop_assert_eq!(longest(&routes, 254, destination).map(|(key, ())| key), best);
    }
}

fn chosen(rules: Vec<PolicyRule>, routes: &[(u32, HostRoute)]) -> Found {
    let key = |table| RouteKey { table, destination: prefix("10.9.0.0/16"), metric: 0 };
    let routes = routes.iter().map(|(table, route)| (key(*table), route.clone())).collect();
    let host = Surroundings { rules, routes, ..Surroundings::default() };
    let net = ObservedNet::default();
    let query = Query { destination: ip("10.9.1.1"), source: ip("10.5.1.2"), incoming: Some(docker()) };
    HostState { net: &net, surroundings: &host, firewall: None }.route(&query)
}

fn rule(priority: u32, action: RuleAction) -> PolicyRule {
    let family = Family::V4;
    PolicyRule { family, priority, from: None, to: None, incoming: None, others: None, action }
}

fn by(link: &str) -> HostRoute {
    HostRoute::Via(NextHop::Link(name(link)))
}

/// The number of the table whose route was found.
fn table(found: &Found) -> Option<u32> {
    match found {
        Found::Hop(key, _) => Some(key.table),
        Found::Local | Found::Broadcast | Found::Refused(_) | Found::Nothing | Found::Unclear(_) => None,
    }
}

#[test]
fn the_first_rule_with_a_route_decides() {
    let rules = vec![rule(1, RuleAction::Lookup(7)), rule(2, RuleAction::Lookup(8)), rule(3, RuleAction::Lookup(254))];
    assert_eq!(table(&chosen(rules, &[(8, by("a")), (254, by("b"))])), Some(8));
}

#[test]
fn a_throw_route_leaves_it_to_the_next_rule() {
    let rules = vec![rule(1, RuleAction::Lookup(7)), rule(2, RuleAction::Lookup(254))];
    assert_eq!(table(&chosen(rules, &[(7, HostRoute::Throw), (254, by("b"))])), Some(254));
}

#[test]
fn a_rule_for_other_sources_is_skipped() {
    let other = PolicyRule { from: Some(prefix("10.7.0.0/16")), ..rule(1, RuleAction::Lookup(7)) };
    let rules = vec![other, rule(2, RuleAction::Lookup(254))];
    assert_eq!(table(&chosen(rules, &[(7, by("a")), (254, by("b"))])), Some(254));
}

#[test]
fn a_rule_for_its_source_is_taken() {
    let its = PolicyRule { from: Some(prefix("10.5.0.0/16")), ..rule(1, RuleAction::Lookup(7)) };
    let rules = vec![its, rule(2, RuleAction::Lookup(254))];
    assert_eq!(table(&chosen(rules, &[(7, by("a")), (254, by("b"))])), Some(7));
}

#[test]
fn a_rule_with_a_condition_that_cannot_be_judged_makes_the_route_unclear() {
    let marked = PolicyRule { others: Some("fwmark".to_owned()), ..rule(1, RuleAction::Lookup(7)) };
    let rules = vec![marked, rule(2, RuleAction::Lookup(254))];
    let found = chosen(rules, &[(254, by("b"))]);
    assert!(matches!(&found, Found::Unclear(why) if why == "rule 1: from all fwmark lookup 7"));
}

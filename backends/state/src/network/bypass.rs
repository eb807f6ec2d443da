//! Rules of ip-rule(8) that lead packets for the overlay past the table main, where our routes are. Pure.

use std::collections::BTreeSet;

use wire_net::{Family, LinkName, Prefix};

use crate::{HostRoute, PolicyRule, RouteKey, RuleAction};

/// The rules, sorted by priority, that may lead a container's packets for one of these networks elsewhere. Of a rule with another table, that
/// depends on the routes there ([`takes_packets`]).
///
/// A rule with a condition that is not known here (a mark, a user) is left out: most of these are of VPNs, and are not for containers.
#[must_use]
pub fn bypassing<'a>(rules: &'a [PolicyRule], networks: &[Prefix]) -> Vec<&'a PolicyRule> {
    let of_each = networks.iter().flat_map(|network| {
        let before_main = rules.iter().take_while(|rule| !is_main_for(rule, *network));
        before_main.filter(|rule| concerns(rule, *network) && leads_elsewhere(rule))
    });
    of_each.collect()
}

/// True if a route of a rule's table takes packets for one of these networks, and leads to none of `devices`, which are ours.
#[must_use]
pub fn takes_packets(
    (key, route): (&RouteKey, &HostRoute),
    rule: &PolicyRule,
    networks: &[Prefix],
    devices: &BTreeSet<LinkName>,
) -> bool {
    let is_ours = match route {
        HostRoute::Via(hop) => hop.link().is_some_and(|link| devices.contains(&link)),
        HostRoute::Local | HostRoute::Broadcast | HostRoute::Throw => true,
        HostRoute::Multipath | HostRoute::Refused(_) | HostRoute::Other(_) => false,
    };
    rule.action == RuleAction::Lookup(key.table)
        && !is_ours
        && networks.iter().any(|network| network.overlaps(key.destination) && concerns(rule, *network))
}

/// True if all packets of a network are looked up where our routes are. There is nearly always one.
fn is_main_for(rule: &PolicyRule, network: Prefix) -> bool {
    let matches_all = |wanted: Option<Prefix>| wanted.is_none_or(|wanted| wanted.covers(network));
    rule.action == RuleAction::Lookup(RouteKey::MAIN)
        && rule.incoming.is_none()
        && concerns(rule, network)
        && matches_all(rule.from)
        && matches_all(rule.to)
}

/// True if packets from containers of a network to others of it may match a rule.
fn concerns(rule: &PolicyRule, network: Prefix) -> bool {
    let may_match = |wanted: Option<Prefix>| wanted.is_none_or(|wanted| wanted.overlaps(network));
    let is_of_containers = rule.incoming.is_none_or(|link| link.as_str() != "lo");
    rule.family == Family::of(network.network())
        && rule.others.is_none()
        && is_of_containers
        && may_match(rule.from)
        && may_match(rule.to)
}

const fn leads_elsewhere(rule: &PolicyRule) -> bool {
    match rule.action {
        RuleAction::Lookup(table) => !matches!(table, RouteKey::LOCAL | RouteKey::MAIN | RouteKey::DEFAULT),
        RuleAction::Drop(_) => true,
        RuleAction::Other(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NextHop;

    fn prefix(text: &str) -> Prefix {
        text.parse().unwrap()
    }

    fn rule(priority: u32, action: RuleAction) -> PolicyRule {
        PolicyRule { action, ..PolicyRule::lookup(Family::V4, priority, 0) }
    }

    /// The priorities of the candidates among these rules and the kernel's own.
    fn found(rules: &[PolicyRule]) -> Vec<u32> {
        let mut all: Vec<PolicyRule> = PolicyRule::defaults().chain(rules.iter().cloned()).collect();
        all.sort_by_key(|rule| (rule.family, rule.priority));
        bypassing(&all, &[prefix("10.5.0.0/16")]).into_iter().map(|rule| rule.priority).collect()
    }

    #[test]
    fn a_rule_before_the_table_main_that_packets_of_containers_match_is_found() {
        let table = |priority| rule(priority, RuleAction::Lookup(99));
        assert_eq!(found(&[]), [0; 0]);
        let matching = [
            table(10),
            PolicyRule { from: Some(prefix("10.5.7.0/24")), ..table(11) },
            PolicyRule { to: Some(prefix("10.0.0.0/8")), ..table(12) },
            PolicyRule { incoming: Some("docker0".parse().unwrap()), ..table(13) },
            rule(14, RuleAction::Drop("blackhole")),
        ];
        assert_eq!(found(&matching), [10, 11, 12, 13, 14]);
        let others = [
            PolicyRule { from: Some(prefix("192.168.1.5/32")), ..table(10) },
            PolicyRule { to: Some(prefix("10.6.0.0/16")), ..table(11) },
            PolicyRule { incoming: Some("lo".parse().unwrap()), ..table(12) },
            PolicyRule { others: Some("fwmark".to_owned()), ..table(13) },
            PolicyRule { family: Family::V6, ..table(14) },
            rule(15, RuleAction::Lookup(RouteKey::MAIN)),
            table(40_000),
        ];
        assert_eq!(found(&others), [0; 0]);
        // An operator's own rule for the table main comes first: for all packets, or for those of the network.
        let main = rule(5, RuleAction::Lookup(RouteKey::MAIN));
        assert_eq!(found(&[main.clone(), table(10)]), [0; 0]);
        let of = |text| PolicyRule { to: Some(prefix(text)), ..main.clone() };
        assert_eq!(found(&[of("10.5.0.0/16"), table(10)]), [0; 0]);
        assert_eq!(found(&[of("10.5.0.0/17"), table(10)]), [10]);
    }

    #[test]
    fn a_route_of_its_table_takes_packets_unless_it_is_by_our_device_or_for_others() {
        let (ours, other): (LinkName, LinkName) = ("flannel.1".parse().unwrap(), "tun0".parse().unwrap());
        let takes = |destination: &str, table, route: HostRoute| {
            let key = RouteKey { table, destination: prefix(destination), metric: 0 };
            let rule = rule(10, RuleAction::Lookup(99));
            takes_packets((&key, &route), &rule, &[prefix("10.5.0.0/16")], &[ours].into())
        };
        let by = |link| HostRoute::Via(NextHop::Link(link));
        assert!(takes("0.0.0.0/0", 99, by(other)));
        assert!(takes("10.5.7.0/24", 99, HostRoute::Refused("unreachable")));
        assert!(takes("10.5.7.0/24", 99, HostRoute::Via(NextHop::Blackhole)));
        assert!(!takes("10.5.7.0/24", 99, by(ours)));
        assert!(!takes("10.5.7.0/24", 99, HostRoute::Throw));
        assert!(!takes("10.6.0.0/16", 99, by(other)));
        assert!(!takes("0.0.0.0/0", 98, by(other)));
    }
}

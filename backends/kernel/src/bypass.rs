//! Reads the rules of ip-rule(8) that lead packets for the overlay past our routes. The kernel is asked for routes only if there is such a rule.

use std::collections::BTreeSet;

use wire_net::{Family, LinkName, Prefix};
use wire_netlink::Netlink;
use wire_state::{DataplaneError, PolicyRule, RuleAction, bypassing, takes_packets};

use super::trace_view;

/// The rules that lead containers' packets for `networks` elsewhere than the table main does, where the routes by our `devices` are.
///
/// # Errors
/// When the kernel does not answer.
pub fn bypasses(networks: &[Prefix], devices: &BTreeSet<LinkName>) -> Result<Vec<PolicyRule>, DataplaneError> {
    let mut netlink = Netlink::open()?;
    let families: BTreeSet<Family> = networks.iter().map(|network| Family::of(network.network())).collect();
    let mut all = Vec::new();
    for family in families {
        let rules = trace_view::rules(&mut netlink, family)?;
        let found: Vec<&PolicyRule> = bypassing(&rules, networks);
        let by_table = |rule: &&PolicyRule| matches!(rule.action, RuleAction::Lookup(_));
        let routes = if found.iter().any(by_table) { trace_view::routes(&mut netlink, family)? } else { Vec::new() };
        let takes =
            |rule: &PolicyRule| routes.iter().any(|(key, route)| takes_packets((key, route), rule, networks, devices));
        all.extend(found.into_iter().filter(|rule| !by_table(rule) || takes(rule)).cloned());
    }
    Ok(all)
}

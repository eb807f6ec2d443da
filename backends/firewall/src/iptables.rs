//! Reads what `iptables-save` writes, and writes what `iptables-restore --noflush` reads. Pure.

use std::collections::BTreeMap;

use wire_net::{Family, NetworkName};
use wire_state::{
    ChainChange, ChainName, ChainTable, ChainTableKind, InternalBridge, ObservedCall, ObservedChain, ObservedFirewall,
    OperatorDrop, Place, Position, names,
};

use super::chains::FIRST;

/// flanneld's chains.
const FLANNEL: [&str; 2] = ["FLANNEL-POSTRTG", "FLANNEL-FWD"];
/// Chains of others that may call ours, besides the built-in ones.
const CALLERS: [&str; 1] = ["DOCKER-USER"];

/// Chains in which Docker drops what enters or leaves an internal bridge; the second from Docker 29 on.
const ISOLATING: [&str; 2] = ["DOCKER-ISOLATION-STAGE-1", "DOCKER-INTERNAL"];

/// Adds to `firewall` what concerns this network of the listing of one family.
pub(crate) fn read(listing: &str, family: Family, network: &NetworkName, firewall: &mut ObservedFirewall) {
    firewall.others.firewalls.ufw |= has_chain(listing, "ufw-user-input");
    firewall.others.firewalls.docker |= has_chain(listing, "DOCKER");
    firewall.others.operator_drops.extend(operator_drops(listing, family));
    read_chains(listing, family, network, firewall);
}

fn read_chains(listing: &str, family: Family, network: &NetworkName, firewall: &mut ObservedFirewall) {
    let mut table = None;
    // Another chain of ours that wants the first place has the next one.
    let first = names::chain_of(network, FIRST);
    // By caller: the number of its rules before this one. The call of another network's chain does not count: each is first among
    // those of others.
    let mut before: BTreeMap<&str, usize> = BTreeMap::new();
    for line in listing.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = kind(name).map(|kind| ChainTable { family, kind });
            before.clear();
        }
        let Some(table) = table else { continue };
        let named = |name: &str| ChainName { table, name: name.to_owned() };
        if let Some((chain, rest)) = line.strip_prefix(':').and_then(|chain| chain.split_once(' ')) {
            if rest.starts_with("DROP") {
                firewall.used.insert(table);
            }
            // Docker 28 and later drop in `raw` as soon as a container starts, so `raw` counts as used even before it
            // has a rule.
            if chain == "DOCKER-FORWARD" {
                firewall.used.insert(ChainTable { family, kind: ChainTableKind::Raw });
            }
            if concerns(network, chain) {
                firewall.chains.entry(named(chain)).or_default();
            } else if CALLERS.contains(&chain) {
                firewall.callers.insert(named(chain));
            }
        } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|rest| rest.split_once(' ')) {
            if is_of_another_network(network, chain)
                || target(rule).is_some_and(|name| is_of_another_network(network, name))
            {
                continue;
            }
            let place = before.entry(chain).or_default();
            let is_first = *place == 0;
            *place += usize::from(target(rule) != Some(&first));
            // All chains of a table are declared before its first rule.
            let calls_ours = target(rule).filter(|target| firewall.chains.contains_key(&named(target)));
            if calls_ours.is_none() && !concerns(network, chain) {
                firewall.used.insert(table);
            }
            if let Some(target) = calls_ours {
                let position = if is_first { Position::First } else { Position::Behind };
                let calls = &mut firewall.chains.entry(named(target)).or_default().calls;
                let call =
                    calls.entry(chain.to_owned()).or_insert_with(|| ObservedCall { position, rules: Vec::new() });
                call.rules.push(rule.to_owned());
            }
            if concerns(network, chain) {
                firewall.chains.entry(named(chain)).or_default().rules.push(rule.to_owned());
            } else if ISOLATING.contains(&chain) {
                let bridge = isolated_bridge(rule).map(|name| InternalBridge { family, name: name.to_owned() });
                firewall.internal_bridges.extend(bridge);
            }
        }
    }
}

/// The number of rules in each table of a listing.
pub(crate) fn count(listing: &str) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    let mut table = "";
    for line in listing.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if line.starts_with("-A ") {
            *counts.entry(table).or_default() += 1;
        }
    }
    counts
}

/// The rules in `DOCKER-USER` that drop or reject packets.
pub(crate) fn operator_drops(listing: &str, family: Family) -> impl Iterator<Item = OperatorDrop> {
    let rules = listing.lines().filter_map(|line| line.strip_prefix("-A DOCKER-USER "));
    let drops = rules.filter(|rule| target(rule).is_some_and(|target| ["DROP", "REJECT"].contains(&target)));
    drops.map(move |rule| OperatorDrop { family, rule: rule.to_owned() })
}

/// True if a listing declares a chain whose name begins with `prefix`.
pub(crate) fn has_chain(listing: &str, prefix: &str) -> bool {
    listing.lines().any(|line| line.strip_prefix(':').is_some_and(|chain| chain.starts_with(prefix)))
}

/// Fills chains of ours in one table, and puts their calls in place.
pub(crate) fn put(table: ChainTable, changes: &[ChainChange]) -> String {
    let mut lines = vec![format!("*{}", table.kind)];
    // Declaring a chain creates it, or flushes it if it exists.
    let filled = changes.iter().filter_map(|change| Some((&change.chain, change.rules.as_ref()?)));
    lines.extend(filled.clone().map(|(chain, _)| format!(":{chain} - [0:0]")));
    for (chain, rules) in filled {
        lines.extend(rules.iter().map(|rule| format!("-A {chain} {rule}")));
    }
    for (caller, call) in changes.iter().flat_map(|change| &change.calls) {
        lines.extend(call.remove.iter().map(|rule| format!("-D {caller} {rule}")));
        lines.push(match call.put.place {
            Place::First => format!("-I {caller} 1 {}", call.put.rule),
            Place::Anywhere => format!("-A {caller} {}", call.put.rule),
        });
    }
    lines.push("COMMIT\n".to_owned());
    lines.join("\n")
}

/// Deletes a chain and its calls.
pub(crate) fn delete(name: &ChainName, chain: &ObservedChain) -> String {
    let mut lines = vec![format!("*{}", name.table.kind)];
    for (caller, call) in &chain.calls {
        lines.extend(call.rules.iter().map(|rule| format!("-D {caller} {rule}")));
    }
    lines.extend([format!(":{} - [0:0]", name.name), format!("-X {}", name.name), "COMMIT\n".to_owned()]);
    lines.join("\n")
}

fn concerns(network: &NetworkName, chain: &str) -> bool {
    names::is_chain_of(network, chain) || FLANNEL.contains(&chain)
}

fn is_of_another_network(network: &NetworkName, chain: &str) -> bool {
    names::is_a_chain(chain) && !names::is_chain_of(network, chain)
}

/// The target of a rule (`-j` or `-g`).
fn target(rule: &str) -> Option<&str> {
    let mut words = words(rule);
    words.find(|word| ["-j", "-g"].contains(word)).and_then(|_| words.next())
}

/// The bridge that a rule isolates from all sources but its own subnet: `! -s SUBNET -o BRIDGE -j DROP`; for IPv6 from
/// Docker 28 on with `! -i BRIDGE` too.
fn isolated_bridge(rule: &str) -> Option<&str> {
    let words: Vec<&str> = words(rule).collect();
    match words.as_slice() {
        ["!", "-s", _, "-o", link, "-j", "DROP"] => Some(link),
        ["!", "-s", _, "!", "-i", source, "-o", link, "-j", "DROP"] if source == link => Some(link),
        _ => None,
    }
}

/// Splits a rule into words. Comments and log prefixes are quoted; inside them, a quote has a backslash before it.
pub(super) fn words(rule: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    rule.split(move |letter| {
        if letter == '"' && !escaped {
            quoted = !quoted;
        }
        escaped = letter == '\\' && !escaped;
        letter == ' ' && !quoted
    })
}

fn kind(name: &str) -> Option<ChainTableKind> {
    ChainTableKind::ALL.into_iter().find(|kind| kind.to_string() == name)
}

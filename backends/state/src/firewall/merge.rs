//! The rules of several networks of a host, as one packet filter. Pure.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{BaseChain, DesiredFirewall, DesiredTable, EmptyTables, FlannelRules};
use crate::merge::{Clash, Clashes, Share, elements};

/// The desired state of all `shares`, and the keys that several of them want with different values. Rules that flanneld has left stay
/// if one of them wants so.
pub(super) fn merge(shares: &[Share<'_, DesiredFirewall>]) -> (DesiredFirewall, Vec<Clash>) {
    let mut clashes = Clashes::default();
    let tables = with(shares, |desired| desired.table.as_ref());
    let of_bridges = with(shares, |desired| desired.bridge.as_ref());
    let keeps = |share: &Share<'_, DesiredFirewall>| share.desired.flannel == FlannelRules::Keep;
    let merged = DesiredFirewall {
        table: merge_tables(&tables, &mut clashes),
        bridge: merge_tables(&of_bridges, &mut clashes),
        chains: clashes.rows(
            shares,
            |firewall| &firewall.chains,
            |chain| format!("the chain {} of {}", chain.name, chain.table),
        ),
        empty_tables: if shares.iter().any(|share| share.desired.empty_tables == EmptyTables::Delete) {
            EmptyTables::Delete
        } else {
            EmptyTables::Keep
        },
        flannel: if shares.iter().any(keeps) { FlannelRules::Keep } else { FlannelRules::Delete },
    };
    (merged, clashes.all())
}

/// The shares that want a table.
fn with<'a>(
    shares: &[Share<'a, DesiredFirewall>],
    table: impl Fn(&'a DesiredFirewall) -> Option<&'a DesiredTable>,
) -> Vec<Share<'a, DesiredTable>> {
    let tables =
        shares.iter().filter_map(|share| Some(Share { network: share.network, desired: table(share.desired)? }));
    tables.collect()
}

fn merge_tables(tables: &[Share<'_, DesiredTable>], clashes: &mut Clashes) -> Option<DesiredTable> {
    Some(DesiredTable {
        name: tables.first()?.desired.name.clone(),
        // Ours has none.
        flags: 0,
        chains: merge_chains(tables, clashes),
        sets: clashes.rows(tables, |table| &table.sets, |set| format!("the nftables set {set}")),
        counters: elements(tables, |table| &table.counters),
        flowtables: clashes.rows(tables, |table| &table.flowtables, |name| format!("the flowtable {name}")),
    })
}

/// A chain that leads is joined with the chain of its name, so that the kernel calls one where it would call two.
fn merge_chains(tables: &[Share<'_, DesiredTable>], clashes: &mut Clashes) -> BTreeMap<String, BaseChain> {
    let mut merge = |leads| -> BTreeMap<String, BaseChain> {
        let name = |chain: &String| format!("the nftables chain {chain}");
        clashes.rows(tables, |table| table.chains.iter().filter(move |(_, chain)| chain.leads == leads), name)
    };
    let mut chains = merge(false);
    for (name, lead) in merge(true) {
        match chains.entry(name) {
            Entry::Vacant(free) => drop(free.insert(BaseChain { leads: false, ..lead })),
            Entry::Occupied(mut chain) => drop(chain.get_mut().rules.splice(..0, lead.rules)),
        }
    }
    chains
}

#[cfg(test)]
mod tests {
    use wire_net::NetworkName;

    use super::*;
    use crate::{Attachment, BaseChain, Firewall, Hook, Resource, Rule};

    fn with_chains(chains: &[(&str, &str)]) -> DesiredFirewall {
        let chain = |text: &str| BaseChain {
            attachment: Some(Attachment::filter(Hook::Forward, 0)),
            rules: vec![Rule::new("test", text.to_owned())],
            leads: false,
        };
        let chains = chains.iter().map(|(name, text)| ((*name).to_owned(), chain(text))).collect();
        DesiredFirewall {
            table: Some(DesiredTable { chains, ..DesiredTable::default() }),
            ..DesiredFirewall::default()
        }
    }

    #[test]
    fn a_chain_that_two_networks_want_differently_is_of_the_first_and_all_other_chains_are_there() {
        let one = with_chains(&[("same", "accept"), ("forward", "accept"), ("one", "accept")]);
        let other = with_chains(&[("same", "accept"), ("forward", "drop"), ("other", "drop")]);
        let networks: [NetworkName; 2] = [NetworkName::default(), "blue".parse().unwrap()];
        let shares = [&one, &other].into_iter().zip(&networks).map(|(desired, network)| Share { network, desired });
        let (merged, clashes) = Firewall::merge(&shares.collect::<Vec<_>>());
        let expected = with_chains(&[("same", "accept"), ("forward", "accept"), ("one", "accept"), ("other", "drop")]);
        assert_eq!(merged, expected);
        let clashes: Vec<String> = clashes.iter().map(ToString::to_string).collect();
        assert_eq!(
            clashes,
            [
                "the networks default and blue both want the nftables chain forward: default has it, and blue goes without it"
            ]
        );
    }

    #[test]
    fn rules_that_lead_come_before_those_of_others_in_a_chain_or_are_a_chain_by_themselves() {
        let mut leading = with_chains(&[("arriving", "first"), ("sent", "alone")]);
        leading.table.as_mut().unwrap().chains.values_mut().for_each(|chain| chain.leads = true);
        let other = with_chains(&[("arriving", "second")]);
        let mut expected = with_chains(&[("arriving", "first"), ("sent", "alone")]);
        let second = Rule::new("test", "second".to_owned());
        expected.table.as_mut().unwrap().chains.get_mut("arriving").unwrap().rules.push(second);
        let network = NetworkName::default();
        for order in [[&leading, &other], [&other, &leading]] {
            let shares = order.map(|desired| Share { network: &network, desired });
            assert_eq!(Firewall::merge(&shares), (expected.clone(), Vec::new()));
        }
    }

    #[test]
    fn flannels_rules_stay_if_one_network_wants_so() {
        let (keep, delete) =
            (DesiredFirewall { flannel: FlannelRules::Keep, ..DesiredFirewall::default() }, DesiredFirewall::default());
        let network = NetworkName::default();
        let shares = [&delete, &keep].map(|desired| Share { network: &network, desired });
        assert_eq!(Firewall::merge(&shares).0.flannel, FlannelRules::Keep);
    }
}

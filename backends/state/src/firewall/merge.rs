//! The rules of several networks of a host, as one packet filter. Pure.

use super::{DesiredFirewall, DesiredTable, EmptyTables, FlannelRules};
use crate::merge::{Clash, Clashes, Share, elements};

/// The desired state of all `shares`, and the keys that several of them want with different values. Rules that flanneld has left stay
/// if one of them wants so.
pub(super) fn merge(shares: &[Share<'_, DesiredFirewall>]) -> (DesiredFirewall, Vec<Clash>) {
    let mut clashes = Clashes::default();
    let tables = shares.iter().filter_map(|share| {
        let desired = share.desired.table.as_ref()?;
        Some(Share { network: share.network, desired })
    });
    let tables: Vec<Share<'_, DesiredTable>> = tables.collect();
    let keeps = |share: &Share<'_, DesiredFirewall>| share.desired.flannel == FlannelRules::Keep;
    let merged = DesiredFirewall {
        table: (!tables.is_empty()).then(|| merge_tables(&tables, &mut clashes)),
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

fn merge_tables(tables: &[Share<'_, DesiredTable>], clashes: &mut Clashes) -> DesiredTable {
    DesiredTable {
        // Ours has none.
        flags: 0,
        chains: clashes.rows(tables, |table| &table.chains, |chain| format!("the nftables chain {chain}")),
        sets: clashes.rows(tables, |table| &table.sets, |set| format!("the nftables set {set}")),
        counters: elements(tables, |table| &table.counters),
        flowtables: clashes.rows(tables, |table| &table.flowtables, |name| format!("the flowtable {name}")),
    }
}

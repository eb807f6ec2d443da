//! Whether rules of others need the kernel to track encapsulated packets. Pure.
//!
//! A rule that looks at the state of a connection takes an untracked packet for one of no connection at all, and an operator's
//! accept of what is new no longer accepts it. So it is looked who looks, along the way that such packets take.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use wire_lease::Family;

use super::state::Hook;

/// The chains of others, by what they are in.
pub(super) type Chains = BTreeMap<ChainId, OtherChain>;

/// A chain of nftables, of iptables-nft too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChainId {
    /// The word of its family, `ip`, `ip6` or `inet`.
    pub(super) family: &'static str,
    pub(super) table: String,
    pub(super) chain: String,
}

/// What of a chain matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OtherChain {
    /// Where the kernel itself calls it.
    pub(super) hook: Option<Hook>,
    pub(super) does: Does,
}

/// What the rules of a chain do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Does {
    /// Whether one looks at connections, or changes what is tracked.
    pub(super) looks: bool,
    /// The chains of the same table that one leads to.
    pub(super) calls: BTreeSet<String>,
    /// Whether a map says which chain comes next: any of the table may.
    pub(super) calls_any: bool,
}

impl Does {
    pub(super) fn add(&mut self, other: Self) {
        self.looks |= other.looks;
        self.calls.extend(other.calls);
        self.calls_any |= other.calls_any;
    }
}

/// The first chain with a rule that looks at connections, among those that packets of a family may pass on their way to this host.
pub(super) fn who_looks(chains: &Chains, family: Family) -> Option<&ChainId> {
    let word = match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    let concerns = |id: &ChainId| [word, "inet"].contains(&id.family);
    let begins = |chain: &OtherChain| matches!(chain.hook, Some(Hook::Prerouting | Hook::Input));
    let mut reached: BTreeSet<&ChainId> = BTreeSet::new();
    let mut next: Vec<&ChainId> =
        chains.iter().filter(|(id, chain)| concerns(id) && begins(chain)).map(|(id, _)| id).collect();
    while let Some(id) = next.pop() {
        if !reached.insert(id) {
            continue;
        }
        let does = &chains[id].does;
        let is_called = |(other, chain): &(&ChainId, &OtherChain)| {
            let is_next = chain.hook.is_none() && (does.calls_any || does.calls.contains(&other.chain));
            is_next && (other.family, &other.table) == (id.family, &id.table)
        };
        next.extend(chains.iter().filter(is_called).map(|(other, _)| other));
    }
    reached.into_iter().find(|id| chains[id].does.looks)
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain } = self;
        write!(f, "{family} {table} {chain}")
    }
}

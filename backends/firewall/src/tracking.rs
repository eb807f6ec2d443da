//! Whether rules of others need the kernel to track encapsulated packets. Pure.
//!
//! A rule that looks at the state of a connection takes an untracked packet for one of no connection at all, and an operator's
//! accept of what is new no longer accepts it. So it is looked who looks, along the way that such packets take.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use wire_net::Family;
use wire_state::Hook;

use super::rule;

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

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OtherChain {
    /// Where the kernel itself calls it.
    pub(super) hook: Option<Hook>,
    pub(super) effects: Effects,
}

/// All that the rules of a chain do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// One looks at connections, or changes what is tracked.
    pub(super) uses_conntrack: bool,
    /// The chains of the same table that one leads to.
    pub(super) calls: BTreeSet<String>,
    /// A map says which chain comes next: it may be any of the table.
    pub(super) calls_any: bool,
}

impl Effects {
    pub(super) fn add(&mut self, other: Self) {
        self.uses_conntrack |= other.uses_conntrack;
        self.calls.extend(other.calls);
        self.calls_any |= other.calls_any;
    }
}

/// The families in which a rule looks at connections on the way of what comes in, and where it is.
pub(super) fn needed(chains: &Chains) -> BTreeMap<Family, String> {
    let user = |family| Some((family, format!("{} looks at connections", first_conntrack_user(chains, family)?)));
    Family::ALL.into_iter().filter_map(user).collect()
}

/// The first chain with a rule that looks at connections, among those that packets of a family may pass on their way to this host.
fn first_conntrack_user(chains: &Chains, family: Family) -> Option<&ChainId> {
    let concerns = |id: &ChainId| [rule::ip(family), "inet"].contains(&id.family);
    let begins = |chain: &OtherChain| matches!(chain.hook, Some(Hook::Prerouting | Hook::Input));
    let mut reached: BTreeSet<&ChainId> = BTreeSet::new();
    let mut next: Vec<&ChainId> =
        chains.iter().filter(|(id, chain)| concerns(id) && begins(chain)).map(|(id, _)| id).collect();
    while let Some(id) = next.pop() {
        if reached.insert(id) {
            next.extend(called(chains, id));
        }
    }
    reached.into_iter().find(|id| chains[id].effects.uses_conntrack)
}

/// The chains that rules of one lead to.
fn called<'a>(chains: &'a Chains, caller: &ChainId) -> Vec<&'a ChainId> {
    let effects = &chains[caller].effects;
    let named = |chain: &String| {
        let id = ChainId { chain: chain.clone(), ..caller.clone() };
        chains.get_key_value(&id).map(|(id, _)| id)
    };
    if effects.calls_any {
        let of_table = |id: &ChainId| (id.family, &id.table) == (caller.family, &caller.table);
        chains.iter().filter(|(id, chain)| chain.hook.is_none() && of_table(id)).map(|(id, _)| id).collect()
    } else {
        effects.calls.iter().filter_map(named).collect()
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain } = self;
        write!(f, "{family} {table} {chain}")
    }
}

//! Finds rules of others that need encapsulated packets in connection tracking. Pure.
//!
//! To a rule that matches the state of a connection, an untracked packet belongs to none, and an operator's accept of
//! new connections no longer accepts it. So all chains that such packets pass are searched for such rules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use wire_net::Family;
use wire_state::Hook;

use super::{facts::TrackingReason, render};

/// The chains of others.
pub(super) type Chains = BTreeMap<ChainId, OtherChain>;

/// A chain of nftables, of iptables-nft too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ChainId {
    /// nft's keyword of its family: `ip`, `ip6` or `inet`.
    pub(super) family: &'static str,
    pub(super) table: String,
    pub(super) chain: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OtherChain {
    /// The hook from which the kernel calls it; `None` if only other chains do.
    pub(super) hook: Option<Hook>,
    pub(super) effects: Effects,
}

/// The effects of the rules of a chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Effects {
    /// A rule uses connection tracking, or changes what is tracked.
    pub(super) uses_conntrack: bool,
    /// The chains of the same table that a rule calls.
    pub(super) calls: BTreeSet<String>,
    /// A map chooses the chain to call: it may be any of the table.
    pub(super) calls_any: bool,
}

impl Effects {
    pub(super) fn add(&mut self, other: Self) {
        self.uses_conntrack |= other.uses_conntrack;
        self.calls.extend(other.calls);
        self.calls_any |= other.calls_any;
    }
}

/// The families in which a rule on the path of incoming packets uses connection tracking, and its chain.
pub(super) fn needed(chains: &Chains) -> BTreeMap<Family, TrackingReason> {
    let mut needed = BTreeMap::new();
    for family in Family::ALL {
        let user = first_conntrack_user(chains, family);
        needed.extend(user.map(|chain| (family, TrackingReason::Rule { chain: chain.to_string() })));
    }
    needed
}

/// The first chain with a rule that uses connection tracking, among those that packets of a family may pass on their
/// way to this host.
fn first_conntrack_user(chains: &Chains, family: Family) -> Option<&ChainId> {
    let concerns = |id: &ChainId| [render::nft::ip(family), "inet"].contains(&id.family);
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

/// The chains that the rules of `caller` call.
fn called<'a>(chains: &'a Chains, caller: &ChainId) -> Vec<&'a ChainId> {
    let effects = &chains[caller].effects;
    if effects.calls_any {
        let of_table = |id: &ChainId| (id.family, &id.table) == (caller.family, &caller.table);
        chains.iter().filter(|(id, chain)| chain.hook.is_none() && of_table(id)).map(|(id, _)| id).collect()
    } else {
        effects.calls.iter().filter_map(|name| neighbour(chains, caller, name)).collect()
    }
}

/// The chain of this name in the table of `caller`.
fn neighbour<'a>(chains: &'a Chains, caller: &ChainId, name: &str) -> Option<&'a ChainId> {
    let id = ChainId { chain: name.to_owned(), ..caller.clone() };
    chains.get_key_value(&id).map(|(id, _)| id)
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { family, table, chain } = self;
        write!(f, "{family} {table} {chain}")
    }
}

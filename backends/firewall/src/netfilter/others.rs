//! Reads the rules of others, to find those that use connection tracking.

use wire_state::{DataplaneError, Hook};

use super::{GET_CHAIN, GET_RULE, GET_SET, INET, IPV4, IPV6, Netfilter, is_of_an_agent};
use wire_netlink::attribute::text;

use crate::{
    decode::{attribute, be32, expression_effects, find, hook_of, rule_effects},
    encode::Body,
    nfta::{
        NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_TABLE, NFTA_HOOK_HOOKNUM, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS,
        NFTA_SET_EXPR, NFTA_SET_EXPRESSIONS, NFTA_SET_NAME,
    },
    tracking::{ChainId, Chains, OtherChain},
};

impl Netfilter {
    /// The chains of others that IP packets pass, with the effects of their rules.
    pub(crate) fn chains_of_others(&mut self) -> Result<Chains, DataplaneError> {
        let chains = self.dump("chains of all tables", GET_CHAIN, &|| Body::new(0), |body| {
            let hook = find(body, NFTA_CHAIN_HOOK).and_then(|hook| attribute(hook, NFTA_HOOK_HOOKNUM));
            let hook = hook.and_then(be32).and_then(hook_of);
            Some((id(body, NFTA_CHAIN_NAME)?, OtherChain { hook, ..OtherChain::default() }))
        })?;
        let mut chains: Chains = chains.into_iter().collect();
        let rules = self.dump("rules of all tables", GET_RULE, &|| Body::new(0), |body| {
            let effects = rule_effects(find(body, NFTA_RULE_EXPRESSIONS).unwrap_or_default());
            Some((id(body, NFTA_RULE_CHAIN)?, effects))
        })?;
        for (id, effects) in rules {
            chains.entry(id).or_default().effects.add(effects);
        }
        // A set may have expressions that run at each lookup, and which rules use it is not known: it counts as a chain
        // of its own.
        let sets = self.dump("sets of all tables", GET_SET, &|| Body::new(0), |body| {
            let mut effects = find(body, NFTA_SET_EXPR).map(expression_effects).unwrap_or_default();
            effects.add(find(body, NFTA_SET_EXPRESSIONS).map(rule_effects).unwrap_or_default());
            let name = find(body, NFTA_SET_NAME).and_then(text)?;
            let set = ChainId { chain: format!("set {name}"), ..id(body, NFTA_SET_NAME)? };
            effects.uses_conntrack.then_some((set, OtherChain { hook: Some(Hook::Input), effects }))
        })?;
        chains.extend(sets);
        Ok(chains)
    }
}

/// The chain that a message is about; `name` is the number of the attribute with its name. `None` for a chain of ours, of any network.
fn id(body: &[u8], name: u16) -> Option<ChainId> {
    let family = match *body.first()? {
        INET => "inet",
        IPV4 => "ip",
        IPV6 => "ip6",
        _ => return None,
    };
    // The table's name has the same number in messages about rules and sets.
    let table = find(body, NFTA_CHAIN_TABLE).and_then(text)?.to_owned();
    let chain = find(body, name).and_then(text)?.to_owned();
    let is_ours = body.first().is_some_and(|family| is_of_an_agent(*family, &table));
    (!is_ours).then_some(ChainId { family, table, chain })
}

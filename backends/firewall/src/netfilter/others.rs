//! Reads the rules of others, to find those that use connection tracking.

use wire_state::DataplaneError;

use wire_state::Hook;

use super::{GET_CHAIN, GET_RULE, GET_SET, INET, IPV4, IPV6, Netfilter, ours};
use wire_netlink::attribute::{attributes, text};

use crate::{
    decode::{be32, expression_effects, find, hook_of, rule_effects},
    encode::Body,
    tracking::{ChainId, Chains, OtherChain},
};

impl Netfilter {
    /// The chains of others that IP packets pass, with the effects of their rules.
    pub(crate) fn chains_of_others(&mut self) -> Result<Chains, DataplaneError> {
        // NFTA_CHAIN_NAME, NFTA_CHAIN_HOOK, NFTA_HOOK_HOOKNUM
        let chains = self.dump("chains of all tables", GET_CHAIN, &|| Body::new(0), |body| {
            let hook = find(body, 4).and_then(|hook| attributes(hook).find(|(kind, _)| *kind == 1));
            let hook = hook.and_then(|(_, number)| be32(number)).and_then(hook_of);
            Some((id(body, 3)?, OtherChain { hook, ..OtherChain::default() }))
        })?;
        let mut chains: Chains = chains.into_iter().collect();
        // NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS
        let rules = self.dump("rules of all tables", GET_RULE, &|| Body::new(0), |body| {
            Some((id(body, 2)?, rule_effects(find(body, 4).unwrap_or_default())))
        })?;
        for (id, effects) in rules {
            chains.entry(id).or_default().effects.add(effects);
        }
        // A set may have expressions that run at each lookup, and which rules use it is not known: it counts as a chain
        // of its own.
        // NFTA_SET_NAME, NFTA_SET_EXPR, NFTA_SET_EXPRESSIONS
        let sets = self.dump("sets of all tables", GET_SET, &|| Body::new(0), |body| {
            let mut effects = find(body, 17).map(expression_effects).unwrap_or_default();
            effects.add(find(body, 18).map(rule_effects).unwrap_or_default());
            let set = ChainId { chain: format!("set {}", find(body, 2).and_then(text)?), ..id(body, 2)? };
            effects.uses_conntrack.then_some((set, OtherChain { hook: Some(Hook::Input), effects }))
        })?;
        chains.extend(sets);
        Ok(chains)
    }
}

/// The chain that a message is about; `name` is the number of the attribute with its name. `None` for a chain of ours.
fn id(body: &[u8], name: u16) -> Option<ChainId> {
    let family = match *body.first()? {
        INET => "inet",
        IPV4 => "ip",
        IPV6 => "ip6",
        _ => return None,
    };
    // NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE
    let table = find(body, 1).and_then(text)?.to_owned();
    let chain = find(body, name).and_then(text)?.to_owned();
    ours(body).is_none().then_some(ChainId { family, table, chain })
}

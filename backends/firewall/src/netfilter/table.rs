//! Reads our table (linux/netfilter/nf_tables.h).

use std::collections::BTreeSet;

use wire_netlink::attribute::{attributes, text};
use wire_state::{
    Attachment, ChainPolicy, DataplaneError, Element, ObservedBaseChain, ObservedRule, ObservedTable, Set, SetKind,
};

use super::{
    Expressions, GET_CHAIN, GET_ELEMENTS, GET_RULE, GET_SET, GET_TABLE, INET, NAME, Netfilter, flowtable, ours,
};
use crate::{
    decode::{
        address_element, be32, chain_kind, comment, find, hook_of, lease_element, link_element, set_kind,
        subnet_element, without_counts,
    },
    encode::Body,
};

impl Netfilter {
    /// Our table, with the expressions of its rules.
    pub(crate) fn table(&mut self) -> Result<(ObservedTable, Expressions), DataplaneError> {
        let chains = self.chains()?.into_iter().collect();
        let mut table = ObservedTable { flags: self.flags()?, chains, ..ObservedTable::default() };
        let mut expressions = Expressions::new();
        for entry in self.rules()? {
            if let Some(chain) = table.chains.get_mut(&entry.chain) {
                chain.rules.push(entry.mark.clone().map_or(ObservedRule::Unmarked, ObservedRule::Marked));
            }
            expressions.extend(entry.mark.map(|mark| (mark, entry.expressions)));
        }
        for (name, kind) in self.sets()? {
            let elements = match kind {
                SetKind::Addresses(_) => self.elements(&name, address_element)?,
                SetKind::Links => self.elements(&name, link_element)?,
                SetKind::Leases(_) => self.elements(&name, lease_element)?,
                SetKind::Subnets(family, len) => self.elements(&name, |key, _| subnet_element(key, family, len))?,
                SetKind::Seen(_) | SetKind::Claims(_) => BTreeSet::new(),
            };
            table.sets.insert(name, Set { kind, elements });
        }
        table.counters = self.counters()?.into_keys().collect();
        table.flowtables = self.flowtables()?;
        Ok((table, expressions))
    }

    /// The addresses in a set of ours that is filled by packets.
    pub(crate) fn noted(&mut self, set: &str) -> Result<BTreeSet<Element>, DataplaneError> {
        self.elements(set, address_element)
    }

    /// The pairs in a set of ours that is filled by packets, as leases of one address.
    pub(crate) fn claimed(&mut self, set: &str) -> Result<BTreeSet<Element>, DataplaneError> {
        self.elements(set, lease_element)
    }

    fn elements(
        &mut self,
        set: &str,
        element: impl Fn(&[u8], &[u8]) -> Option<Element>,
    ) -> Result<BTreeSet<Element>, DataplaneError> {
        // NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_ELEM_LIST_SET
        let request = || Body::new(INET).named(1, NAME).named(2, set);
        let lists = self.dump("elements of a set", GET_ELEMENTS, &request, |body| {
            ours(body)?;
            // NFTA_SET_ELEM_LIST_ELEMENTS, NFTA_LIST_ELEM
            Some(attributes(find(body, 3)?).filter_map(|(_, element)| keys(element)).collect::<Vec<_>>())
        })?;
        Ok(lists.into_iter().flatten().filter_map(|(first, last)| element(&first, &last)).collect())
    }

    fn flags(&mut self) -> Result<u32, DataplaneError> {
        let found = self.dump("tables", GET_TABLE, &|| Body::new(INET), |body| {
            ours(body)?;
            // NFTA_TABLE_FLAGS
            find(body, 2).and_then(be32)
        })?;
        Ok(found.first().copied().unwrap_or_default())
    }

    fn chains(&mut self) -> Result<Vec<(String, ObservedBaseChain)>, DataplaneError> {
        self.dump("chains", GET_CHAIN, &|| Body::new(INET), |body| {
            ours(body)?;
            // NFTA_CHAIN_NAME
            let name = find(body, 3).and_then(text)?.to_owned();
            // NFTA_CHAIN_POLICY, which only base chains have: NF_ACCEPT
            let accepts = find(body, 5).and_then(be32).is_none_or(|policy| policy == 1);
            let policy = if accepts { ChainPolicy::Accept } else { ChainPolicy::Drop };
            Some((name, ObservedBaseChain { attachment: attachment(body), policy, rules: Vec::new() }))
        })
    }

    fn rules(&mut self) -> Result<Vec<RuleEntry>, DataplaneError> {
        // NFTA_RULE_TABLE
        let request = || Body::new(INET).named(1, NAME);
        self.dump("rules", GET_RULE, &request, |body| {
            ours(body)?;
            // NFTA_RULE_CHAIN, NFTA_RULE_USERDATA, NFTA_RULE_EXPRESSIONS
            let chain = find(body, 2).and_then(text)?.to_owned();
            let mark = find(body, 7).and_then(comment);
            Some(RuleEntry { chain, mark, expressions: without_counts(find(body, 4).unwrap_or_default()) })
        })
    }

    fn sets(&mut self) -> Result<Vec<(String, SetKind)>, DataplaneError> {
        // NFTA_SET_TABLE
        let request = || Body::new(INET).named(1, NAME);
        self.dump("sets", GET_SET, &request, |body| {
            ours(body)?;
            // NFTA_SET_NAME, NFTA_SET_FLAGS, NFTA_SET_KEY_TYPE
            let flags = find(body, 3).and_then(be32).unwrap_or_default();
            let key = find(body, 4).and_then(be32)?;
            let name = find(body, 2).and_then(text)?;
            Some((name.to_owned(), set_kind(name, flags, key)?))
        })
    }
}

/// A rule of our table.
struct RuleEntry {
    /// The name of its chain.
    chain: String,
    /// Its comment.
    mark: Option<String>,
    /// Its compiled expressions, without counts.
    expressions: Vec<u8>,
}

/// The place of a chain: `NFTA_CHAIN_TYPE`, and `NFTA_CHAIN_HOOK` with `NFTA_HOOK_HOOKNUM` and `_PRIORITY`.
fn attachment(body: &[u8]) -> Option<Attachment> {
    let kind = find(body, 7).and_then(text).and_then(chain_kind)?;
    let at = find(body, 4)?;
    let hook = hook_value(at, 1).and_then(hook_of)?;
    let priority = hook_value(at, 2).map_or(0, u32::cast_signed);
    Some(Attachment { kind, hook, priority, device: flowtable::device(at) })
}

/// The first and the last key of an element: `NFTA_SET_ELEM_KEY` and `_KEY_END`. A single key is both.
fn keys(element: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let first = key(element, 1)?;
    let last = key(element, 10).unwrap_or_else(|| first.clone());
    Some((first, last))
}

fn key(element: &[u8], wanted: u16) -> Option<Vec<u8>> {
    let (_, key) = attributes(element).find(|(kind, _)| *kind == wanted)?;
    // NFTA_DATA_VALUE
    attributes(key).find(|(kind, _)| *kind == 1).map(|(_, value)| value.to_vec())
}

/// A 32-bit attribute of a chain's hook (`NFTA_HOOK_*`), in network byte order.
fn hook_value(hook: &[u8], wanted: u16) -> Option<u32> {
    attributes(hook).find(|(kind, _)| *kind == wanted).and_then(|(_, value)| be32(value))
}

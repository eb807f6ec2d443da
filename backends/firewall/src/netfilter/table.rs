//! Reads our table (linux/netfilter/nf_tables.h).

use std::collections::BTreeSet;

use wire_netlink::attribute::{attributes, text};
use wire_state::{
    Attachment, ChainPolicy, DataplaneError, Element, ObservedBaseChain, ObservedRule, ObservedTable, OurTable, Set,
    SetKind,
};

use super::{Expressions, GET_CHAIN, GET_ELEMENTS, GET_RULE, GET_SET, GET_TABLE, Netfilter, TablePlace, flowtable};
use crate::{
    decode::{
        address_element, attribute, be32, behind_element, chain_kind, comment, find, hook_of, lease_element,
        link_element, port_element, sender_element, set_kind, source_element, subnet_element, vni_element,
        vtep_element, within_element, without_counts,
    },
    encode::Body,
    nfta::{
        NF_ACCEPT, NFTA_CHAIN_HOOK, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TYPE, NFTA_DATA_VALUE,
        NFTA_HOOK_HOOKNUM, NFTA_HOOK_PRIORITY, NFTA_RULE_CHAIN, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE,
        NFTA_RULE_USERDATA, NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_KEY_END, NFTA_SET_ELEM_LIST_ELEMENTS,
        NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE, NFTA_SET_FLAGS, NFTA_SET_KEY_TYPE, NFTA_SET_NAME,
        NFTA_SET_TABLE, NFTA_TABLE_FLAGS,
    },
};

impl Netfilter {
    /// A table of ours, with the expressions of its rules.
    pub(crate) fn table(&mut self, name: &OurTable) -> Result<(ObservedTable, Expressions), DataplaneError> {
        let of = &TablePlace::of(name);
        let chains = self.chains(of)?.into_iter().collect();
        let mut table =
            ObservedTable { name: name.clone(), flags: self.flags(of)?, chains, ..ObservedTable::default() };
        let mut expressions = Expressions::new();
        for entry in self.rules(of)? {
            if let Some(chain) = table.chains.get_mut(&entry.chain) {
                chain.rules.push(entry.mark.clone().map_or(ObservedRule::Unmarked, ObservedRule::Marked));
            }
            expressions.extend(entry.mark.map(|mark| (mark, entry.expressions)));
        }
        for (name, kind) in self.sets(of)? {
            let elements = match kind {
                SetKind::Addresses(_) => self.elements(of, &name, address_element)?,
                SetKind::Links => self.elements(of, &name, link_element)?,
                SetKind::Leases(_) => self.elements(of, &name, lease_element)?,
                SetKind::Subnets(family, len) => self.elements(of, &name, |key, _| subnet_element(key, family, len))?,
                SetKind::Sources(_, len) => self.elements(of, &name, |key, _| source_element(key, len))?,
                SetKind::Senders(_) | SetKind::Advertised(_) => self.elements(of, &name, sender_element)?,
                SetKind::Behind(outer, inner, len) => {
                    self.elements(of, &name, |key, _| behind_element(key, [outer, inner], len))?
                }
                SetKind::Vnis => self.elements(of, &name, vni_element)?,
                SetKind::Ports => self.elements(of, &name, port_element)?,
                SetKind::Vteps(_) => self.elements(of, &name, vtep_element)?,
                SetKind::Within => self.elements(of, &name, within_element)?,
                SetKind::Seen(_) | SetKind::Claims(_) => BTreeSet::new(),
            };
            table.sets.insert(name, Set { kind, elements: elements.into() });
        }
        table.counters = self.named_counters(of)?.into_keys().collect();
        table.flowtables = self.flowtables(of)?;
        Ok((table, expressions))
    }

    /// The addresses in a set of ours that is filled by packets.
    pub(crate) fn noted(&mut self, set: &str) -> Result<BTreeSet<Element>, DataplaneError> {
        self.elements(&self.inet(), set, address_element)
    }

    /// The pairs in a set of ours that is filled by packets, as leases of one address.
    pub(crate) fn claimed(&mut self, set: &str) -> Result<BTreeSet<Element>, DataplaneError> {
        self.elements(&self.inet(), set, lease_element)
    }

    fn elements(
        &mut self,
        of: &TablePlace,
        set: &str,
        element: impl Fn(&[u8], &[u8]) -> Option<Element>,
    ) -> Result<BTreeSet<Element>, DataplaneError> {
        let request = || of.body(NFTA_SET_ELEM_LIST_TABLE).named(NFTA_SET_ELEM_LIST_SET, set);
        let lists = self.dump("elements of a set", GET_ELEMENTS, &request, |body| {
            of.has(body)?;
            let list = attributes(find(body, NFTA_SET_ELEM_LIST_ELEMENTS)?);
            Some(list.filter_map(|(_, element)| keys(element)).collect::<Vec<_>>())
        })?;
        Ok(lists.into_iter().flatten().filter_map(|(first, last)| element(&first, &last)).collect())
    }

    fn flags(&mut self, of: &TablePlace) -> Result<u32, DataplaneError> {
        let found = self.dump("tables", GET_TABLE, &|| Body::new(of.family), |body| {
            of.has(body)?;
            find(body, NFTA_TABLE_FLAGS).and_then(be32)
        })?;
        Ok(found.first().copied().unwrap_or_default())
    }

    fn chains(&mut self, of: &TablePlace) -> Result<Vec<(String, ObservedBaseChain)>, DataplaneError> {
        self.dump("chains", GET_CHAIN, &|| Body::new(of.family), |body| {
            of.has(body)?;
            let name = find(body, NFTA_CHAIN_NAME).and_then(text)?.to_owned();
            // Only base chains have a policy.
            let accepts = find(body, NFTA_CHAIN_POLICY).and_then(be32).is_none_or(|policy| policy == NF_ACCEPT);
            let policy = if accepts { ChainPolicy::Accept } else { ChainPolicy::Drop };
            Some((name, ObservedBaseChain { attachment: attachment(body), policy, rules: Vec::new() }))
        })
    }

    fn rules(&mut self, of: &TablePlace) -> Result<Vec<RuleEntry>, DataplaneError> {
        let request = || of.body(NFTA_RULE_TABLE);
        self.dump("rules", GET_RULE, &request, |body| {
            of.has(body)?;
            let chain = find(body, NFTA_RULE_CHAIN).and_then(text)?.to_owned();
            let mark = find(body, NFTA_RULE_USERDATA).and_then(comment);
            let expressions = without_counts(find(body, NFTA_RULE_EXPRESSIONS).unwrap_or_default());
            Some(RuleEntry { chain, mark, expressions })
        })
    }

    fn sets(&mut self, of: &TablePlace) -> Result<Vec<(String, SetKind)>, DataplaneError> {
        let request = || of.body(NFTA_SET_TABLE);
        self.dump("sets", GET_SET, &request, |body| {
            of.has(body)?;
            let flags = find(body, NFTA_SET_FLAGS).and_then(be32).unwrap_or_default();
            let key = find(body, NFTA_SET_KEY_TYPE).and_then(be32)?;
            let name = find(body, NFTA_SET_NAME).and_then(text)?;
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

/// The place of a chain, if it is one that we use.
fn attachment(body: &[u8]) -> Option<Attachment> {
    let kind = find(body, NFTA_CHAIN_TYPE).and_then(text).and_then(chain_kind)?;
    let at = find(body, NFTA_CHAIN_HOOK)?;
    let hook = attribute(at, NFTA_HOOK_HOOKNUM).and_then(be32).and_then(hook_of)?;
    let priority = attribute(at, NFTA_HOOK_PRIORITY).and_then(be32).map_or(0, u32::cast_signed);
    Some(Attachment { kind, hook, priority, device: flowtable::device(at) })
}

/// The first and the last key of an element. A single key is both.
fn keys(element: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let first = key(element, NFTA_SET_ELEM_KEY)?;
    let last = key(element, NFTA_SET_ELEM_KEY_END).unwrap_or_else(|| first.clone());
    Some((first, last))
}

fn key(element: &[u8], wanted: u16) -> Option<Vec<u8>> {
    attribute(attribute(element, wanted)?, NFTA_DATA_VALUE).map(<[u8]>::to_vec)
}

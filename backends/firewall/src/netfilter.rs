//! Reads nftables: the generation, our table with its counters and flowtables, and what matters of the tables of
//! others.
//!
//! Reading goes over netlink (linux/netfilter/nf_tables.h) and costs a fraction of a millisecond, and so does changing
//! sets, which each lease does. Everything else is written by nft ([`super::program`]), which knows how to compile
//! expressions.

mod flowtable;
mod others;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_NONREC};
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;
use wire_net::{Family, NetworkName};
use wire_netlink::{Batch, Netlink, attribute::text};
use wire_state::{Attempt, DataplaneError, Element, OurTable, Purpose, SetChange, TableFamily, TableName, names};

use super::{
    decode::{attribute, be32, comment, counts, find},
    encode::Body,
    facts::DockerRules,
    family_rules::counter,
    nfta::{
        NF_ACCEPT, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY, NFTA_CHAIN_TABLE, NFTA_COUNTER_PACKETS, NFTA_GEN_ID,
        NFTA_OBJ_DATA, NFTA_OBJ_NAME, NFTA_OBJ_TABLE, NFTA_OBJ_TYPE, NFTA_RULE_EXPRESSIONS, NFTA_RULE_TABLE,
        NFTA_RULE_USERDATA, NFTA_SET_ELEM_LIST_SET, NFTA_SET_ELEM_LIST_TABLE, NFTA_TABLE_NAME,
    },
};

/// `NFNL_SUBSYS_NFTABLES` of linux/netfilter/nfnetlink.h, the upper byte of a message's type.
const NFTABLES: u16 = 10 << 8;
/// Messages: `enum nf_tables_msg_types`.
const GET_TABLE: u16 = NFTABLES | 1;
const DELETE_TABLE: u16 = NFTABLES | 2;
const GET_CHAIN: u16 = NFTABLES | 4;
const DELETE_CHAIN: u16 = NFTABLES | 5;
const GET_RULE: u16 = NFTABLES | 7;
const GET_SET: u16 = NFTABLES | 10;
const GET_ELEMENTS: u16 = NFTABLES | 13;
const GET_GENERATION: u16 = NFTABLES | 16;
const GET_OBJECT: u16 = NFTABLES | 19;
const NEW_ELEMENTS: u16 = NFTABLES | 12;
const DELETE_ELEMENTS: u16 = NFTABLES | 14;
/// `NFNL_MSG_BATCH_BEGIN` and `_END` of linux/netfilter/nfnetlink.h: what is between them is one transaction.
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
/// Elements per message: an attribute has at most 65 535 bytes, and an element of IPv6 has 84.
const ELEMENTS: usize = 512;
/// `NFPROTO_INET`, `NFPROTO_BRIDGE`, `NFPROTO_IPV4`, `NFPROTO_IPV6`.
const INET: u8 = 1;
const BRIDGE: u8 = 7;
const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// `NFT_OBJECT_COUNTER`.
const COUNTER: u32 = 1;
/// The tables of Docker 29, one for each family.
const DOCKER: &str = "docker-bridges";

/// The compiled expressions of our rules, by mark.
pub(crate) type Expressions = BTreeMap<String, Vec<u8>>;

/// All tables, by family and name.
pub(crate) type Tables = BTreeSet<(u8, String)>;

/// A netlink socket of the netfilter subsystem.
pub(crate) struct Netfilter {
    netlink: Netlink,
    /// The network whose rules are ours.
    network: NetworkName,
}

/// The family and the name by which the kernel knows a table of ours.
pub(crate) struct TablePlace {
    family: u8,
    name: String,
}

impl TablePlace {
    pub(crate) fn of(table: &OurTable) -> Self {
        let family = match table.family {
            TableFamily::Inet => INET,
            TableFamily::Bridge => BRIDGE,
        };
        Self { family, name: names::table_of(&table.network) }
    }

    fn is(&self, family: u8, name: &str) -> bool {
        family == self.family && name == self.name
    }

    /// A message about it; `attribute` is the number of the table's name in this kind of message.
    fn body(&self, attribute: u16) -> Body {
        Body::new(self.family).named(attribute, &self.name)
    }

    /// `Some` if a message is about it: the first attribute of each of these messages is the table's name.
    fn has(&self, body: &[u8]) -> Option<()> {
        self.is(*body.first()?, find(body, NFTA_TABLE_NAME).and_then(text)?).then_some(())
    }
}

impl Netfilter {
    /// Opens a socket for the rules of one network.
    pub(crate) fn open(network: &NetworkName) -> Result<Self, DataplaneError> {
        Ok(Self { netlink: Netlink::of(NETLINK_NETFILTER)?, network: network.clone() })
    }

    /// The table of our rules for packets.
    fn inet(&self) -> TablePlace {
        TablePlace::of(&OurTable { family: TableFamily::Inet, network: self.network.clone() })
    }

    /// The generation of the ruleset: each transaction of anyone, also of iptables-nft, increases it by one.
    pub(crate) fn generation(&mut self) -> Result<u32, DataplaneError> {
        let mut generation = None;
        let body = Body::new(0);
        self.ask("the firewall's generation", GET_GENERATION, &body, |body| {
            generation = find(body, NFTA_GEN_ID).and_then(be32);
        })?;
        generation
            .ok_or_else(|| DataplaneError::Read { what: "the firewall's generation", source: Errno::EBADMSG.into() })
    }

    /// The tables of all families.
    pub(crate) fn tables(&mut self) -> Result<Tables, DataplaneError> {
        let found = self.dump("tables", GET_TABLE, &|| Body::new(0), |body| {
            Some((*body.first()?, find(body, NFTA_TABLE_NAME).and_then(text)?.to_owned()))
        })?;
        Ok(found.into_iter().collect())
    }

    /// The number of rules in each table of one family.
    pub(crate) fn rules_by_table(&mut self, family: Family) -> Result<BTreeMap<String, usize>, DataplaneError> {
        let of = number(family);
        let request = || Body::new(of);
        let tables = self.dump("rules of all tables", GET_RULE, &request, |body| {
            (body.first() == Some(&of)).then(|| find(body, NFTA_RULE_TABLE).and_then(text).map(str::to_owned))?
        })?;
        let mut counts = BTreeMap::new();
        for table in tables {
            *counts.entry(table).or_default() += 1;
        }
        Ok(counts)
    }

    /// True if a table of this family, as iptables-nft uses them, holds a chain of ours.
    pub(crate) fn has_our_chains(&mut self, family: Family) -> Result<bool, DataplaneError> {
        let (request, network) = (|| Body::new(number(family)), self.network.clone());
        let ours = self.dump("chains of all tables", GET_CHAIN, &request, |body| {
            find(body, NFTA_CHAIN_NAME).and_then(text).map(|name| names::is_chain_of(&network, name))
        })?;
        Ok(ours.contains(&true))
    }

    /// Our counters, in packets; empty if our table does not exist.
    pub(crate) fn counters(&mut self) -> Result<BTreeMap<String, u64>, DataplaneError> {
        let place = self.inet();
        let mut counters = self.named_counters(&place)?;
        // Nearly all packets are counted by counters inside rules: named ones cost more.
        let usual = self.dump("rules", GET_RULE, &|| place.body(NFTA_RULE_TABLE), |body| {
            place.has(body)?;
            let mark = find(body, NFTA_RULE_USERDATA).and_then(comment)?;
            let family = Family::ALL.into_iter().find(|family| mark.starts_with(Purpose::Usual(*family).words()))?;
            Some((family, counts(find(body, NFTA_RULE_EXPRESSIONS)?)))
        })?;
        for (family, packets) in usual {
            if let Some(arrived) = counters.get_mut(counter::arrived(family)) {
                *arrived += packets;
            }
        }
        Ok(counters)
    }

    /// The named counters of a table of ours, in packets.
    pub(crate) fn named_counters(&mut self, place: &TablePlace) -> Result<BTreeMap<String, u64>, DataplaneError> {
        let request = || place.body(NFTA_OBJ_TABLE).with(NFTA_OBJ_TYPE, &COUNTER.to_be_bytes());
        let found = self.dump("counters", GET_OBJECT, &request, |body| {
            place.has(body)?;
            let packets = attribute(find(body, NFTA_OBJ_DATA)?, NFTA_COUNTER_PACKETS)?;
            Some((find(body, NFTA_OBJ_NAME).and_then(text)?.to_owned(), u64::from_be_bytes(packets.try_into().ok()?)))
        })?;
        Ok(found.into_iter().collect())
    }

    /// Deletes a table of iptables-nft that has only built-in chains with the policy accept: iptables-nft creates them
    /// with the first rule, and never deletes them. If a chain holds a rule by then, the kernel refuses the whole
    /// transaction. Returns whether it was deleted.
    pub(crate) fn delete_empty(&mut self, family: Family, table: &str) -> bool {
        let of = number(family);
        // Only built-in chains have a policy.
        let chains = self.dump("chains of all tables", GET_CHAIN, &|| Body::new(of), |body| {
            let is_in_it = body.first() == Some(&of) && find(body, NFTA_CHAIN_TABLE).and_then(text) == Some(table);
            let name = find(body, NFTA_CHAIN_NAME).and_then(text).map(str::to_owned);
            is_in_it.then(|| (name, find(body, NFTA_CHAIN_POLICY).and_then(be32) == Some(NF_ACCEPT)))
        });
        let Ok(chains) = chains else { return false };
        if chains.is_empty() || chains.iter().any(|(_, accepts)| !accepts) {
            return false;
        }
        let flags = NLM_F_NONREC | NLM_F_ACK;
        let deleted = self.change(|batch| {
            for name in chains.iter().filter_map(|(name, _)| name.as_deref()) {
                batch.push(
                    DELETE_CHAIN,
                    flags,
                    &Body::new(of).named(NFTA_CHAIN_TABLE, table).named(NFTA_CHAIN_NAME, name),
                );
            }
            batch.push(DELETE_TABLE, flags, &Body::new(of).named(NFTA_TABLE_NAME, table));
        });
        deleted.is_ok()
    }

    /// Changes the elements of sets of a table of ours, in one transaction.
    pub(crate) fn change_sets(&mut self, table: &OurTable, changes: &BTreeMap<String, SetChange>) -> Attempt {
        let place = TablePlace::of(table);
        self.change(|batch| {
            for (set, change) in changes {
                let kinds = [(DELETE_ELEMENTS, 0, &change.remove), (NEW_ELEMENTS, NLM_F_CREATE, &change.add)];
                for (kind, flags, elements) in kinds {
                    let elements: Vec<Element> = elements.iter().copied().collect();
                    for elements in elements.chunks(ELEMENTS) {
                        let body = place.body(NFTA_SET_ELEM_LIST_TABLE);
                        let body = body.named(NFTA_SET_ELEM_LIST_SET, set).elements(elements);
                        batch.push(kind, flags | NLM_F_ACK, &body);
                    }
                }
            }
        })
    }

    /// Sends the messages that `fill` adds as one transaction: either all of it is done or nothing.
    fn change(&mut self, fill: impl FnOnce(&mut Batch)) -> Attempt {
        let subsystem = || Body::of_subsystem(NFTABLES >> 8);
        let mut batch = Batch::default();
        batch.push(BATCH_BEGIN, 0, &subsystem());
        fill(&mut batch);
        batch.push(BATCH_END, 0, &subsystem());
        self.netlink.transact(&mut batch)
    }

    /// Finds whether Docker has its rules in nftables, and whether one of them names our mark.
    pub(crate) fn docker(&mut self, mark: u32) -> Result<DockerRules, DataplaneError> {
        let tables = self.tables()?;
        let theirs: Vec<u8> = tables.iter().filter(|(_, name)| name == DOCKER).map(|(family, _)| *family).collect();
        let mut found = DockerRules::Iptables;
        for family in theirs {
            let request = || Body::new(family).named(NFTA_RULE_TABLE, DOCKER);
            let rules = self.dump("Docker's rules", GET_RULE, &request, |body| names_mark(body, mark))?;
            let marked = rules.contains(&true) && found != DockerRules::Unmarked;
            found = if marked { DockerRules::Marked } else { DockerRules::Unmarked };
        }
        Ok(found)
    }

    fn dump<T>(
        &mut self,
        what: &'static str,
        kind: u16,
        body: &dyn Fn() -> Body,
        entry: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, DataplaneError> {
        let request = |batch: &mut Batch, flags| batch.push(kind, flags, &body());
        match self.netlink.dump(what, &request, entry) {
            Err(DataplaneError::Read { source, .. }) if source.raw_os_error() == Some(Errno::ENOENT as i32) => {
                Ok(Vec::new())
            }
            other => other,
        }
    }

    fn ask(
        &mut self,
        what: &'static str,
        kind: u16,
        body: &Body,
        each: impl FnMut(&[u8]),
    ) -> Result<(), DataplaneError> {
        let mut batch = Batch::default();
        batch.push(kind, 0, body);
        self.netlink.ask(&mut batch, each).map(drop).map_err(|source| DataplaneError::Read { what, source })
    }
}

/// `Some` for a rule of Docker's: true if it names our mark.
fn names_mark(body: &[u8], mark: u32) -> Option<bool> {
    let is_theirs = find(body, NFTA_RULE_TABLE).and_then(text) == Some(DOCKER);
    let expressions = find(body, NFTA_RULE_EXPRESSIONS).filter(|_| is_theirs)?;
    // Constants in expressions are aligned attributes, in the host's byte order.
    Some(expressions.chunks_exact(4).any(|word| word == mark.to_ne_bytes()))
}

/// The kernel's number of a family (`NFPROTO_*`).
pub(crate) const fn number(family: Family) -> u8 {
    match family {
        Family::V4 => IPV4,
        Family::V6 => IPV6,
    }
}

/// The table of this family and name, if it concerns this network.
pub(crate) fn table_name(network: &NetworkName, family: u8, name: &str) -> Option<TableName> {
    let ours = TableFamily::ALL.map(|family| OurTable { family, network: network.clone() });
    if let Some(table) = ours.into_iter().find(|table| TablePlace::of(table).is(family, name)) {
        return Some(TableName::Ours(table));
    }
    match (family, name) {
        (IPV4, "flannel-ipv4") => Some(TableName::Flannel(Family::V4)),
        (IPV6, "flannel-ipv6") => Some(TableName::Flannel(Family::V6)),
        _ => None,
    }
}

/// True if firewalld's table is among them.
pub(crate) fn has_firewalld(tables: &Tables) -> bool {
    tables.contains(&(INET, "firewalld".to_owned()))
}

/// True if some network of ours has a table of this family and name.
pub(crate) fn is_of_an_agent(family: u8, name: &str) -> bool {
    matches!(family, INET | BRIDGE) && names::is_a_table(name)
}

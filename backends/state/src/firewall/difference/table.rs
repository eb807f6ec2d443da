//! The differences inside our table of nftables. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::rules;
use crate::{
    Attachment, BaseChain, ChainPolicy, DesiredTable, Difference, Element, Flowtable, ObservedBaseChain, ObservedTable,
    OurTable, Set, SetChange, SetKind, TableFamily, difference::counted,
};

/// `NFT_TABLE_F_DORMANT` of linux/netfilter/nf_tables.h: the table holds its rules and does nothing.
const DORMANT: u32 = 1;

pub(super) fn differences(observed: Option<&ObservedTable>, desired: &DesiredTable) -> Vec<Difference> {
    let name = &desired.name;
    let entry = format!("table {name}");
    let Some(observed) = observed else { return vec![Difference::missing(entry)] };
    let mut found = Vec::new();
    if observed.flags != desired.flags {
        found.push(flags(entry, observed.flags, desired.flags));
    }
    found.extend(each(name, "chain", &observed.chains, &desired.chains).flat_map(|pair| chain(&pair)));
    found.extend(each(name, "set", &observed.sets, &desired.sets).flat_map(|pair| set(desired, &pair)));
    found.extend(counters(name, &observed.counters, &desired.counters));
    found
        .extend(each(name, "flowtable", &observed.flowtables, &desired.flowtables).filter_map(|pair| flowtable(&pair)));
    found
}

/// The differences that a change of a set removes.
pub(super) fn elements(table: &DesiredTable, set: &str, change: &SetChange) -> Vec<Difference> {
    let entry = |element: &Element| match table.name.family {
        TableFamily::Inet => format!("element {element} in set {set}"),
        // The other table may have an entry with the same name.
        TableFamily::Bridge => format!("element {element} in set {set} of {}", table.name),
    };
    let missing = change.add.iter().map(|element| {
        let effect = sender(table, set, *element).map(|sender| format!("packets from {sender} are dropped"));
        Difference::missing(entry(element)).with_consequence(effect)
    });
    let unwanted = change.remove.iter().map(|element| {
        let effect = sender(table, set, *element).map(|sender| format!("packets from {sender} are accepted"));
        Difference::unwanted(entry(element)).with_consequence(effect)
    });
    missing.chain(unwanted).collect()
}

/// The sender whose packets are accepted because of an element of a set of peers.
fn sender(table: &DesiredTable, set: &str, element: Element) -> Option<String> {
    match (table.sets.get(set)?.kind, element) {
        // Where inner sources are checked too, a host's address alone decides nothing.
        (SetKind::Addresses(family), Element::Address(host)) => {
            let checks_sources = table.sets.values().any(|set| set.kind == SetKind::Leases(family));
            (!checks_sources).then(|| host.to_string())
        }
        (SetKind::Leases(_) | SetKind::Subnets(..), Element::Lease(host, subnet) | Element::Subnet(host, subnet)) => {
            Some(format!("{subnet} of host {host}"))
        }
        (SetKind::Behind(..), Element::Behind(host, vni, _, block)) => {
            Some(format!("{block} of host {host} for VNI {vni}"))
        }
        (SetKind::Senders(_), Element::Sender(port, mac, address)) => Some(format!("{address} of {mac} at {port}")),
        (SetKind::Vteps(_), Element::Vtep(host, vni)) => Some(format!("host {host} for VNI {vni}")),
        (SetKind::Sources(..), Element::Source(subnet)) => Some(format!("{subnet} without encapsulation")),
        (
            SetKind::Addresses(_)
            | SetKind::Links
            | SetKind::Leases(_)
            | SetKind::Subnets(..)
            | SetKind::Sources(..)
            | SetKind::Senders(_)
            | SetKind::Vnis
            | SetKind::Ports
            | SetKind::Vteps(_)
            | SetKind::Behind(..)
            | SetKind::Advertised(_)
            | SetKind::Within
            | SetKind::Seen(_)
            | SetKind::Claims(_),
            _,
        ) => None,
    }
}

/// A named part of the table, as observed and as desired: one of them at least is there.
struct Pair<'a, A, B> {
    table: &'a OurTable,
    kind: &'static str,
    name: &'a str,
    observed: Option<&'a A>,
    desired: Option<&'a B>,
}

impl<A, B> Pair<'_, A, B> {
    fn entry(&self) -> String {
        format!("{} {} of {}", self.kind, self.name, self.table)
    }
}

fn each<'a, A, B>(
    table: &'a OurTable,
    kind: &'static str,
    observed: &'a BTreeMap<String, A>,
    desired: &'a BTreeMap<String, B>,
) -> impl Iterator<Item = Pair<'a, A, B>> {
    let names: BTreeSet<&String> = observed.keys().chain(desired.keys()).collect();
    let pair = move |name: &'a String| (name, observed.get(name), desired.get(name));
    names.into_iter().map(pair).map(move |(name, observed, desired)| Pair { table, kind, name, observed, desired })
}

fn flags(entry: String, observed: u32, desired: u32) -> Difference {
    let is_dormant = |flags: u32| flags & DORMANT != 0;
    if is_dormant(observed) && !is_dormant(desired) {
        let effect = Some("none of its rules has an effect".to_owned());
        return Difference::altered(entry, "is dormant, and should not be").with_consequence(effect);
    }
    Difference::altered(entry, format!("has the flags {observed:#x}, and should have {desired:#x}"))
}

fn chain(pair: &Pair<'_, ObservedBaseChain, BaseChain>) -> Vec<Difference> {
    let entry = pair.entry();
    let (observed, desired) = match (pair.observed, pair.desired) {
        (Some(observed), Some(desired)) => (observed, desired),
        (None, Some(desired)) => {
            let detail = with_number(desired.rules.len(), "rule", "rules");
            return vec![Difference::missing(entry).with_detail(detail)];
        }
        (_, None) => return vec![Difference::unwanted(entry)],
    };
    let mut found: Vec<Difference> = chain_itself(entry, observed, desired).into_iter().collect();
    // The other table may have a chain of the same name.
    let chain = match pair.table.family {
        TableFamily::Inet => pair.name.to_owned(),
        TableFamily::Bridge => format!("{} of {}", pair.name, pair.table),
    };
    found.extend(rules::differences(&chain, &observed.rules, &desired.rules));
    found
}

fn chain_itself(entry: String, observed: &ObservedBaseChain, desired: &BaseChain) -> Option<Difference> {
    let mut parts = Vec::new();
    match (observed.attachment.map(Place), desired.attachment.map(Place)) {
        (None, Some(should)) => parts.push(format!("is at none of our places, and should be at {should}")),
        (Some(is), None) => parts.push(format!("is at {is}, and should be called by other chains alone")),
        (Some(is), Some(should)) if is != should => parts.push(format!("is at {is}, and should be at {should}")),
        (Some(_), Some(_)) | (None, None) => {}
    }
    let effect = match observed.policy {
        ChainPolicy::Drop => {
            parts.push("has the policy drop, and should have accept".to_owned());
            Some("packets that no rule matches are dropped".to_owned())
        }
        ChainPolicy::Accept => None,
    };
    (!parts.is_empty()).then(|| Difference::altered(entry, parts.join("; ")).with_consequence(effect))
}

fn set(table: &DesiredTable, pair: &Pair<'_, Set, Set>) -> Vec<Difference> {
    let entry = pair.entry();
    let (observed, desired) = match (pair.observed, pair.desired) {
        (Some(observed), Some(desired)) => (observed, desired),
        (None, Some(desired)) => {
            let detail = with_number(desired.elements.len(), "element", "elements");
            return vec![Difference::missing(entry).with_detail(detail)];
        }
        (_, None) => return vec![Difference::unwanted(entry)],
    };
    if observed.kind != desired.kind {
        let (is, should) = (Content(observed.kind), Content(desired.kind));
        return vec![Difference::altered(entry, format!("is for {is}, and should be for {should}"))];
    }
    elements(table, pair.name, &SetChange::between(&observed.elements, &desired.elements))
}

fn counters(table: &OurTable, observed: &BTreeSet<String>, desired: &BTreeSet<String>) -> Vec<Difference> {
    let entry = |name: &String| format!("counter {name} of {table}");
    let missing = desired.difference(observed).map(|name| Difference::missing(entry(name)));
    let unwanted = observed.difference(desired).map(|name| Difference::unwanted(entry(name)));
    missing.chain(unwanted).collect()
}

fn flowtable(pair: &Pair<'_, Flowtable, Flowtable>) -> Option<Difference> {
    let entry = pair.entry();
    let (observed, desired) = match (pair.observed, pair.desired) {
        (Some(observed), Some(desired)) => (observed, desired),
        (None, Some(_)) => return Some(Difference::missing(entry)),
        (_, None) => return Some(Difference::unwanted(entry)),
    };
    let mut parts = Vec::new();
    if observed.flags != desired.flags {
        parts.push(format!("has the flags {:#x}, and should have {:#x}", observed.flags, desired.flags));
    }
    if observed.priority != desired.priority {
        parts.push(format!("has the priority {}, and should have {}", observed.priority, desired.priority));
    }
    let (lacks, has) = (devices_only_in(desired, observed), devices_only_in(observed, desired));
    if !lacks.is_empty() {
        parts.push(format!("lacks {lacks}"));
    }
    if !has.is_empty() {
        parts.push(format!("has {has}, and should not"));
    }
    (!parts.is_empty()).then(|| Difference::altered(entry, parts.join("; ")))
}

fn devices_only_in(one: &Flowtable, other: &Flowtable) -> String {
    one.devices.difference(&other.devices).map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// The number of things missing together with the thing they are in; empty if there is none.
fn with_number(number: usize, one: &str, many: &str) -> String {
    if number > 0 { format!("and {} in it", counted(number, one, many)) } else { String::new() }
}

/// The place of a chain, as a person says it.
#[derive(PartialEq, Eq)]
struct Place(Attachment);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Attachment { kind, hook, priority, device } = self.0;
        write!(f, "{kind} {hook} priority {priority}")?;
        device.map_or(Ok(()), |device| write!(f, " of {device}"))
    }
}

/// The content of a set, as a person says it.
struct Content(SetKind);

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            SetKind::Addresses(family) => write!(f, "{family} addresses"),
            SetKind::Links => f.write_str("names of links"),
            SetKind::Leases(family) => write!(f, "{family} subnets of hosts"),
            SetKind::Subnets(family, len) => write!(f, "{family} subnets of hosts of length {len}"),
            SetKind::Sources(family, len) => write!(f, "{family} subnets of length {len}"),
            SetKind::Senders(family) => write!(f, "{family} senders at ports of bridges"),
            SetKind::Vnis => f.write_str("networks of VXLAN"),
            SetKind::Ports => f.write_str("UDP ports"),
            SetKind::Vteps(family) => write!(f, "{family} members of networks of VXLAN"),
            SetKind::Behind(outer, inner, len) => write!(f, "{inner} sources of length {len} behind {outer} hosts"),
            SetKind::Advertised(len) => {
                write!(f, "IPv6 addresses of length {len} that are advertised at ports of bridges")
            }
            SetKind::Within => f.write_str("links, each with itself"),
            SetKind::Seen(family) => write!(f, "{family} addresses seen in packets"),
            SetKind::Claims(family) => write!(f, "{family} sources seen in packets"),
        }
    }
}

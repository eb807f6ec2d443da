//! Decodes the kernel's nftables messages (linux/netfilter/nf_tables.h). Pure.

use std::net::IpAddr;

use nix::libc::IFNAMSIZ;
use wire_net::{Family, LinkName, MacAddr, Prefix, Vni};
use wire_netlink::attribute::{address, attributes, number, text};
use wire_state::{ChainKind, Element, Hook, SetKind};

use super::{
    bridges::ADVERTISED,
    direct::DIRECT,
    nfta::{
        NFT_REG_VERDICT, NFTA_COUNTER_PACKETS, NFTA_DATA_VERDICT, NFTA_DYNSET_EXPR, NFTA_DYNSET_EXPRESSIONS,
        NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_IMMEDIATE_DATA, NFTA_LOOKUP_DREG, NFTA_MATCH_NAME, NFTA_OBJREF_IMM_TYPE,
        NFTA_TARGET_NAME, NFTA_VERDICT_CHAIN,
    },
    segments::{BEHIND, UDP_PORTS, VNIS, VTEPS},
    tracking::Effects,
};

/// Finds an attribute of a message, after its `struct nfgenmsg`.
pub(super) fn find(body: &[u8], wanted: u16) -> Option<&[u8]> {
    attribute(body.get(4..)?, wanted)
}

pub(super) fn be32(value: &[u8]) -> Option<u32> {
    number(value).map(u32::from_be)
}

pub(super) fn hook_of(number: u32) -> Option<Hook> {
    let hooks = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting, Hook::Ingress];
    hooks.get(usize::try_from(number).ok()?).copied()
}

/// The type of a base chain; `None` for one that we never use.
pub(super) fn chain_kind(name: &str) -> Option<ChainKind> {
    match name {
        "filter" => Some(ChainKind::Filter),
        "nat" => Some(ChainKind::Nat),
        _ => None,
    }
}

/// `NFT_SET_INTERVAL`: a set of ranges.
const INTERVAL: u32 = 0x4;
/// `NFT_SET_TIMEOUT`: of our sets, those that packets fill.
const TIMEOUT: u32 = 0x10;

/// The kind of a set, by the number that nft gives the type of its keys (`enum datatypes` of its datatype.h). The
/// number of inner source bits in a key is in the set's name alone.
pub(super) fn set_kind(name: &str, flags: u32, key: u32) -> Option<SetKind> {
    match key {
        7 => addresses(name, flags, Family::V4),
        8 => addresses(name, flags, Family::V6),
        13 if name == UDP_PORTS => Some(SetKind::Ports),
        41 => Some(SetKind::Links),
        // A concatenation of two types, six bits each in one number; 4 is a plain integer.
        0x1c4 => pairs(name, flags, Family::V4),
        0x204 => pairs(name, flags, Family::V6),
        0x1c_4104 => behind(name, Family::V4),
        0x20_4104 => behind(name, Family::V6),
        // A plain integer, as those of sets without a name in rules.
        4 if name == VNIS => Some(SetKind::Vnis),
        // ifname . ifname.
        0xa69 => Some(SetKind::Within),
        // ifname . ether_addr . ipv4_addr, and with an integer.
        0x29247 => Some(SetKind::Senders(Family::V4)),
        0x29244 => match name.strip_prefix(ADVERTISED) {
            Some(len) => Some(SetKind::Advertised(len.parse().ok()?)),
            None => Some(SetKind::Senders(Family::V6)),
        },
        _ => None,
    }
}

fn addresses(name: &str, flags: u32, family: Family) -> Option<SetKind> {
    if flags & TIMEOUT != 0 {
        return Some(SetKind::Seen(family));
    }
    match name.strip_prefix(DIRECT) {
        Some(rest) => Some(SetKind::Sources(family, rest.rsplit('-').next()?.parse().ok()?)),
        None => Some(SetKind::Addresses(family)),
    }
}

/// The kind of a set of pairs of an outer and an inner source.
fn pairs(name: &str, flags: u32, family: Family) -> Option<SetKind> {
    if name.starts_with(VTEPS) {
        return Some(SetKind::Vteps(family));
    }
    match (flags & TIMEOUT != 0, flags & INTERVAL != 0) {
        (true, _) => Some(SetKind::Claims(family)),
        (false, true) => Some(SetKind::Leases(family)),
        (false, false) => Some(SetKind::Subnets(family, name.rsplit('-').next()?.parse().ok()?)),
    }
}

/// The kind of a set of hosts with the blocks that they have in networks.
fn behind(name: &str, outer: Family) -> Option<SetKind> {
    let (inner, len) = name.strip_prefix(BEHIND)?.split_once('-')?.1.split_once('-')?;
    let inner = if inner == "v4" { Family::V4 } else { Family::V6 };
    Some(SetKind::Behind(outer, inner, len.parse().ok()?))
}

pub(super) fn address_element(key: &[u8], _: &[u8]) -> Option<Element> {
    address(key).map(Element::Address)
}

/// Reads the first `len` bits of the sources that may come without encapsulation.
pub(super) fn source_element(key: &[u8], len: u8) -> Option<Element> {
    Prefix::new(address(key)?, len).ok().map(Element::Source)
}

fn link_name(key: &[u8]) -> Option<LinkName> {
    let name = key.split(|byte| *byte == 0).next().and_then(|name| std::str::from_utf8(name).ok())?;
    name.parse().ok()
}

pub(super) fn link_element(key: &[u8], _: &[u8]) -> Option<Element> {
    link_name(key).map(Element::Link)
}

pub(super) fn vni_element(key: &[u8], _: &[u8]) -> Option<Element> {
    vni(key).map(Element::Vni)
}

pub(super) fn port_element(key: &[u8], _: &[u8]) -> Option<Element> {
    key.try_into().ok().map(|port| Element::Port(u16::from_be_bytes(port)))
}

/// Reads a public address and the VNI of a network that it is a member of.
pub(super) fn vtep_element(key: &[u8], _: &[u8]) -> Option<Element> {
    let (host, number) = key.split_at_checked(key.len().checked_sub(4)?)?;
    Some(Element::Vtep(address(host)?, vni(number)?))
}

fn vni(key: &[u8]) -> Option<Vni> {
    let [a, b, c] = *key.first_chunk::<3>()?;
    Vni::new(u32::from_be_bytes([0, a, b, c]))
}

pub(super) fn within_element(key: &[u8], _: &[u8]) -> Option<Element> {
    let (one, _) = key.split_at_checked(IFNAMSIZ)?;
    link_name(one).map(Element::Within)
}

/// Reads a port of a bridge, and a MAC with an address that may send there.
pub(super) fn sender_element(key: &[u8], _: &[u8]) -> Option<Element> {
    let (name, rest) = key.split_at_checked(IFNAMSIZ)?;
    let port = link_name(name)?;
    let (hardware, rest) = rest.split_first_chunk::<6>()?;
    Some(Element::Sender(port, MacAddr::new(*hardware), address(rest.get(2..)?)?))
}

/// Reads a public address and the subnet leased to it, from the first and the last key of a range.
pub(super) fn lease_element(first: &[u8], last: &[u8]) -> Option<Element> {
    let (public, from) = first.split_at_checked(first.len() / 2)?;
    let (from, to) = (address(from)?, address(last.get(public.len()..)?)?);
    let host = 128 - (address_bits(from) ^ address_bits(to)).leading_zeros();
    let len = Family::of(from).bits().checked_sub(u8::try_from(host).ok()?)?;
    Some(Element::Lease(address(public)?, Prefix::new(from, len).ok()?))
}

/// Reads a host, a network, and the first MAC and address of a block of that length. The families are those of the host and of the block. A key
/// with other bits than the leading ones is no block's: rules never find it.
pub(super) fn behind_element(key: &[u8], [outer, inner]: [Family; 2], len: u8) -> Option<Element> {
    let (host, rest) = key.split_at_checked(usize::from(outer.bits() / 8))?;
    let (number, rest) = rest.split_first_chunk::<4>()?;
    let (hardware, rest) = rest.split_first_chunk::<6>()?;
    let first = address(rest.get(2..)?).filter(|first| Family::of(*first) == inner)?;
    let block = Prefix::new(first, len).ok().filter(|block| block.network() == first).unwrap_or(Prefix::host(first));
    Some(Element::Behind(address(host)?, vni(number)?, MacAddr::new(*hardware), block))
}

fn address_bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Reads a public address and the first `len` bits of the inner sources it may use.
pub(super) fn subnet_element(key: &[u8], family: Family, len: u8) -> Option<Element> {
    let (public, leading) = key.split_at_checked(usize::from(family.bits() / 8))?;
    let mut network = leading.to_vec();
    network.resize(public.len(), 0);
    Some(Element::Subnet(address(public)?, Prefix::new(address(&network)?, len).ok()?))
}

/// The expressions of a rule without its counters, which change with each packet.
pub(super) fn without_counts(expressions: &[u8]) -> Vec<u8> {
    let rest = attributes(expressions).filter(|(_, expression)| !is_counter(expression));
    rest.flat_map(|(_, expression)| expression).copied().collect()
}

/// The number of packets that the counters inside a rule have counted.
pub(super) fn counts(expressions: &[u8]) -> u64 {
    let counters = attributes(expressions).filter(|(_, expression)| is_counter(expression));
    counters.filter_map(|(_, expression)| packets(expression)).sum()
}

fn packets(counter: &[u8]) -> Option<u64> {
    let packets = attribute(attribute(counter, NFTA_EXPR_DATA)?, NFTA_COUNTER_PACKETS)?;
    packets.try_into().ok().map(u64::from_be_bytes)
}

fn is_counter(expression: &[u8]) -> bool {
    attribute(expression, NFTA_EXPR_NAME).and_then(text) == Some("counter")
}

/// Finds an attribute among others.
pub(super) fn attribute(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value)
}

/// iptables matches and targets that use connection tracking, or change what is tracked.
const ABOUT_CONNECTIONS: [&str; 16] = [
    "cluster",
    "connbytes",
    "connlabel",
    "connlimit",
    "connmark",
    "conntrack",
    "helper",
    "ipvs",
    "state",
    "CLUSTERIP",
    "HMARK",
    "CT",
    "NOTRACK",
    "CONNMARK",
    "CONNSECMARK",
    "SYNPROXY",
];

/// Objects that have nothing to do with connections: `NFT_OBJECT_COUNTER`, `_QUOTA`, `_LIMIT`, `_SECMARK`.
const NOT_ABOUT_CONNECTIONS: [u32; 4] = [1, 2, 4, 8];

/// The effects of a rule, from its expressions (`NFTA_RULE_EXPRESSIONS`).
pub(super) fn rule_effects(expressions: &[u8]) -> Effects {
    let mut effects = Effects::default();
    for (_, expression) in attributes(expressions) {
        effects.add(expression_effects(expression));
    }
    effects
}

/// The effects of one expression (`NFTA_EXPR_*`).
pub(super) fn expression_effects(expression: &[u8]) -> Effects {
    let name = attribute(expression, NFTA_EXPR_NAME).and_then(text);
    let data = attribute(expression, NFTA_EXPR_DATA).unwrap_or_default();
    let mut effects = Effects::default();
    match name {
        Some("ct" | "connlimit" | "notrack" | "synproxy") => effects.uses_conntrack = true,
        Some("match") => {
            effects.uses_conntrack =
                attribute(data, NFTA_MATCH_NAME).and_then(text).is_none_or(|name| ABOUT_CONNECTIONS.contains(&name));
        }
        Some("target") => {
            effects.uses_conntrack =
                attribute(data, NFTA_TARGET_NAME).and_then(text).is_none_or(|name| ABOUT_CONNECTIONS.contains(&name));
        }
        // Without a type, a map holds the objects.
        Some("objref") => {
            let kind = attribute(data, NFTA_OBJREF_IMM_TYPE).and_then(be32);
            effects.uses_conntrack = kind.is_none_or(|kind| !NOT_ABOUT_CONNECTIONS.contains(&kind));
        }
        Some("immediate") => {
            let verdict = attribute(data, NFTA_IMMEDIATE_DATA).and_then(|data| attribute(data, NFTA_DATA_VERDICT));
            let chain = verdict.and_then(|verdict| attribute(verdict, NFTA_VERDICT_CHAIN)).and_then(text);
            effects.calls.extend(chain.map(str::to_owned));
        }
        Some("lookup") => {
            effects.calls_any = attribute(data, NFTA_LOOKUP_DREG).and_then(be32) == Some(NFT_REG_VERDICT);
        }
        // These expressions run for each new element.
        Some("dynset") => {
            effects.add(attribute(data, NFTA_DYNSET_EXPR).map(expression_effects).unwrap_or_default());
            effects.add(attribute(data, NFTA_DYNSET_EXPRESSIONS).map(rule_effects).unwrap_or_default());
        }
        Some(_) => {}
        None => effects.uses_conntrack = true,
    }
    effects
}

/// Reads the comment of a rule: `NFTNL_UDATA_RULE_COMMENT` of libnftnl's udata.h. Before each entry are one byte of
/// type and one of length.
pub(super) fn comment(mut data: &[u8]) -> Option<String> {
    loop {
        let (head, rest) = data.split_first_chunk::<2>()?;
        let value = rest.get(..usize::from(head[1]))?;
        if head[0] == 0 {
            return text(value).map(str::to_owned);
        }
        data = &rest[value.len()..];
    }
}

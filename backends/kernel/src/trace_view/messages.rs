//! The messages of the kernel that only a trace reads. A function returns `None` for a message that is invalid, or that decides nothing.

use std::net::IpAddr;

use netlink_packet_core::Emitable;
use wire_net::{Family, LinkName, MacAddr, Prefix};
use wire_netlink::attribute::{address as address_of, attributes, mac, number, text};
use wire_state::{BridgeFdbKey, HostRoute, NeighbourKey, NextHop, PolicyRule, RouteKey, RuleAction};

use crate::{
    decode::{self, Names, RouteFields},
    uapi::{af, fr_act, fra, ifa, nda, rta, rtm, rtn},
};

/// `RTM_GETRULE` of linux/rtnetlink.h.
pub(super) const GET_RULE: u16 = 34;
/// `FIB_RULE_INVERT` of linux/fib_rules.h.
const INVERT: u32 = 2;
/// The value of a suppressor that suppresses nothing.
const NONE: u32 = u32::MAX;

/// The body of a request for the rules of a family: an empty `struct fib_rule_hdr`.
pub(super) struct RulesOf(pub(super) Family);

impl Emitable for RulesOf {
    fn buffer_len(&self) -> usize {
        12
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer.fill(0);
        buffer[0] = match self.0 {
            Family::V4 => af::INET,
            Family::V6 => af::INET6,
        };
    }
}

/// An address that the kernel takes packets to.
pub(super) fn address(body: &[u8], names: &Names) -> Option<(LinkName, IpAddr, u8)> {
    let (index, address, len) = decode::any_address(body)?;
    // The flags that are used here are in the header's byte too.
    let flags = u32::from(*body.get(2)?);
    let is_usable = address.is_ipv4() || flags & (ifa::F_TENTATIVE | ifa::F_DADFAILED) == 0;
    is_usable.then_some(())?;
    Some((*names.get(&index)?, address, len))
}

/// A neighbour (`struct ndmsg`) whose MAC the kernel uses: permanent, or found by ARP or ND.
pub(super) fn neighbour(body: &[u8], names: &Names) -> Option<(NeighbourKey, MacAddr)> {
    let state = u16::from_ne_bytes(body.get(8..10)?.try_into().ok()?);
    let flags = *body.get(10)?;
    if state & nda::NUD_VALID == 0 || flags & nda::NTF_PROXY != 0 {
        return None;
    }
    let found = attributes(body.get(12..)?).find(|(kind, _)| *kind == nda::LLADDR).and_then(|(_, value)| mac(value));
    Some((decode::neighbour_key(body, names)?, found?))
}

/// An entry in the FDB of a bridge that leads to a port of it, static or learnt. Those of the host's own MACs do not.
pub(super) fn bridge_entry(body: &[u8], names: &Names) -> Option<(BridgeFdbKey, LinkName)> {
    let state = u16::from_ne_bytes(body.get(8..10)?.try_into().ok()?);
    let entry = decode::BridgeEntry::decode(body, names)?;
    (state & nda::NUD_PERMANENT == 0).then_some(())?;
    Some((entry.key, *names.get(&entry.port)?))
}

/// A route as it was read.
pub(super) enum FoundRoute {
    Route(RouteKey, HostRoute),
    /// It matches some packets only; the text names it.
    NotFollowed(String),
}

/// A route of any table (`struct rtmsg`).
pub(super) fn route(body: &[u8], names: &Names) -> Option<FoundRoute> {
    /// Before the attributes.
    const HEADER: usize = 12;
    let header = body.first_chunk::<HEADER>()?;
    let [family, len, source_len, tos, table, _, _, kind, ..] = *header;
    let flags = number(&header[8..])?;
    if flags & (rtm::F_CLONED | rtm::RTNH_F_DEAD) != 0 {
        return None;
    }
    let attributes_of = &body[HEADER..];
    let fields = decode::route_fields(attributes_of, table);
    let unspecified = match family {
        af::INET => IpAddr::from([0; 4]),
        af::INET6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let destination = Prefix::new(fields.destination.unwrap_or(unspecified), len).ok()?;
    let key = RouteKey { table: fields.table, destination, metric: fields.metric };
    if tos != 0 || source_len != 0 {
        let condition = if tos != 0 { "of one type of service" } else { "from one prefix" };
        return Some(FoundRoute::NotFollowed(format!("route {key} for packets {condition}")));
    }
    let has_encapsulation = attributes(attributes_of).any(|(kind, _)| kind == rta::ENCAP);
    Some(FoundRoute::Route(key, if has_encapsulation { other("with a tunnel") } else { way(kind, &fields, names) }))
}

/// The way of packets by a route of this type (`RTN_*`).
fn way(kind: u8, fields: &RouteFields, names: &Names) -> HostRoute {
    let link = fields.device.map(|index| names.get(&index).copied().unwrap_or_else(|| decode::fallback_name(index)));
    match (kind, link) {
        (rtn::LOCAL | rtn::ANYCAST, _) => HostRoute::Local,
        (rtn::BROADCAST | rtn::MULTICAST, _) => HostRoute::Broadcast,
        (rtn::BLACKHOLE, _) => HostRoute::Via(NextHop::Blackhole),
        (rtn::UNREACHABLE, _) => HostRoute::Refused("unreachable"),
        (rtn::PROHIBIT, _) => HostRoute::Refused("prohibit"),
        (rtn::THROW, _) => HostRoute::Throw,
        (rtn::UNICAST, _) if fields.multipath => HostRoute::Multipath,
        (rtn::UNICAST, Some(link)) => HostRoute::Via(match fields.gateway {
            Some(gateway) => NextHop::Gateway { gateway, link, onlink: false },
            None => NextHop::Link(link),
        }),
        (rtn::UNICAST, None) => other("by a nexthop object"),
        _ => other(&format!("of type {kind}")),
    }
}

fn other(text: &str) -> HostRoute {
    HostRoute::Other(text.to_owned())
}

/// A rule (`struct fib_rule_hdr` of linux/fib_rules.h).
pub(super) fn rule(body: &[u8]) -> Option<PolicyRule> {
    let header = body.first_chunk::<12>()?;
    let [family, to_len, from_len, tos, table, _, _, action, ..] = *header;
    let flags = number(&header[8..])?;
    let family = match family {
        af::INET => Family::V4,
        af::INET6 => Family::V6,
        _ => return None,
    };
    let (mut from, mut to, mut incoming, mut priority, mut table) = (None, None, None, 0, u32::from(table));
    let mut others = Vec::new();
    if tos != 0 {
        others.push("tos".to_owned());
    }
    if flags & INVERT != 0 {
        others.push("not".to_owned());
    }
    for (kind, value) in attributes(&body[12..]) {
        match kind {
            fra::DST => to = Prefix::new(address_of(value)?, to_len).ok(),
            fra::SRC => from = Prefix::new(address_of(value)?, from_len).ok(),
            fra::IIFNAME => incoming = text(value).and_then(|name| name.parse().ok()),
            fra::PRIORITY => priority = number(value)?,
            fra::TABLE => table = number(value)?,
            fra::SUPPRESS_IFGROUP | fra::SUPPRESS_PREFIXLEN if number(value) == Some(NONE) => {}
            // The protocol that has made it, padding, and the target of a goto, which is not followed anyway.
            fra::PROTOCOL | fra::PAD | fra::GOTO => {}
            fra::FWMARK | fra::FWMASK => others.push("fwmark".to_owned()),
            fra::OIFNAME => others.push("oif".to_owned()),
            other => others.push(format!("condition {other}")),
        }
    }
    others.dedup();
    let action = match action {
        fr_act::TO_TABLE => RuleAction::Lookup(table),
        fr_act::BLACKHOLE => RuleAction::Drop("blackhole"),
        fr_act::UNREACHABLE => RuleAction::Drop("unreachable"),
        fr_act::PROHIBIT => RuleAction::Drop("prohibit"),
        other => RuleAction::Other(format!("action {other}")),
    };
    let others = (!others.is_empty()).then(|| others.join(" "));
    Some(PolicyRule { family, priority, from, to, incoming, others, action })
}

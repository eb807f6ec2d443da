//! All that one host's kernel holds, as far as a trace looks at it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use imbl::OrdMap;
use wire_net::{Family, LinkName, MacAddr, Prefix};

use super::{
    Entry,
    routes::{Found, Query},
};
use crate::{Address, NeighbourKey, NextHop, ObservedFirewall, ObservedLink, ObservedNet, RouteKey};

/// All that one host's kernel holds, as far as a trace looks at it.
#[derive(Clone, Copy, Debug)]
pub struct HostState<'a> {
    /// The network state. It may hold only the agent's part, if `surroundings` hold the rest.
    pub net: &'a ObservedNet,
    /// The rest of the host's network.
    pub surroundings: &'a Surroundings,
    /// The packet filter; `None` if it was not read.
    pub firewall: Option<&'a ObservedFirewall>,
}

/// The part of a host's network that the agent does not compare: its underlay, its other tables of routes, its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// Links that the network state does not hold.
    pub links: BTreeMap<LinkName, ObservedLink>,
    /// Addresses of this host that the network state does not hold, with their links.
    pub addresses: BTreeMap<IpAddr, LinkName>,
    /// Routes that the network state does not hold, of all tables.
    pub routes: OrdMap<RouteKey, HostRoute>,
    /// Neighbours that the network state does not hold. An address that is in neither is asked for on the link, by ARP or ND.
    pub neighbours: BTreeMap<NeighbourKey, MacAddr>,
    /// Links whose carrier is missing.
    pub without_carrier: BTreeSet<LinkName>,
    /// The links on which the kernel checks sources (`rp_filter`). For IPv4 only.
    pub reverse_path: BTreeMap<LinkName, ReversePath>,
    /// The rules that choose the table of routes, in their order (ip-rule(8)).
    pub rules: Vec<PolicyRule>,
    /// The addresses that our rules for packets without encapsulation compare; empty if they are not known.
    pub direct: Vec<DirectNetwork>,
    /// What may decide about packets and is not looked at, each in a few words.
    pub not_looked_at: Vec<String>,
}

/// The addresses that our rules for packets without encapsulation compare, of one family. In the kernel they are in expressions, which are not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectNetwork {
    /// The underlay's link.
    pub link: LinkName,
    /// The subnet of this host.
    pub own: Prefix,
    /// The first and the last address that hosts lease.
    pub leased: [IpAddr; 2],
}

/// A route of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostRoute {
    /// To a next hop, or nowhere.
    Via(NextHop),
    /// To this host itself.
    Local,
    /// To all hosts of a link, or several.
    Broadcast,
    /// To several next hops, of which the kernel chooses one for each flow.
    Multipath,
    /// Nowhere; the sender is told so (`unreachable`, `prohibit`).
    Refused(&'static str),
    /// The lookup goes on with the next rule.
    Throw,
    /// Of another kind, as text for people.
    Other(String),
}

/// The strictness of the check of sources (ip-sysctl.rst, `rp_filter`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReversePath {
    /// The route back to the source leads to the link that the packet came from.
    Strict,
    /// There is a route back to the source.
    Loose,
}

/// A rule that chooses the table of routes (ip-rule(8)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// The family of the packets.
    pub family: Family,
    /// Its priority; the lowest comes first.
    pub priority: u32,
    /// The source that it matches; `None` for any.
    pub from: Option<Prefix>,
    /// The destination that it matches; `None` for any.
    pub to: Option<Prefix>,
    /// The link that packets came in by; `lo` for packets of this host; `None` for any.
    pub incoming: Option<LinkName>,
    /// Conditions that a trace cannot judge, as text for people.
    pub others: Option<String>,
    /// What it does.
    pub action: RuleAction,
}

/// What a rule does with packets that it matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleAction {
    /// Looks up the destination in a table, and goes on with the next rule if there is no route.
    Lookup(u32),
    /// Drops the packet.
    Drop(&'static str),
    /// Something else, as text for people.
    Other(String),
}

impl RouteKey {
    /// The number of the table of this host's own addresses (`RT_TABLE_LOCAL`).
    pub const LOCAL: u32 = 255;
    /// The number of the table of last resort (`RT_TABLE_DEFAULT`).
    pub const DEFAULT: u32 = 253;
}

impl PolicyRule {
    /// The rules of a kernel to which nobody has added any (`fib_default_rules_init` of net/ipv4, `fib6_rules_net_init` of net/ipv6).
    pub fn defaults() -> impl Iterator<Item = Self> {
        let (local, main) = (RouteKey::LOCAL, RouteKey::MAIN);
        let of_both = Family::ALL.map(|family| [Self::lookup(family, 0, local), Self::lookup(family, 32766, main)]);
        of_both.into_iter().flatten().chain([Self::lookup(Family::V4, 32767, RouteKey::DEFAULT)])
    }

    /// The rule that looks up all packets in a table.
    #[must_use]
    pub const fn lookup(family: Family, priority: u32, table: u32) -> Self {
        let action = RuleAction::Lookup(table);
        Self { family, priority, from: None, to: None, incoming: None, others: None, action }
    }
}

/// A host without an underlay, and with the kernel's own rules.
impl Default for Surroundings {
    fn default() -> Self {
        Self {
            links: BTreeMap::new(),
            addresses: BTreeMap::new(),
            routes: OrdMap::new(),
            neighbours: BTreeMap::new(),
            without_carrier: BTreeSet::new(),
            reverse_path: BTreeMap::new(),
            rules: PolicyRule::defaults().collect(),
            direct: Vec::new(),
            not_looked_at: Vec::new(),
        }
    }
}

impl<'a> HostState<'a> {
    pub(super) fn link(&self, name: LinkName) -> Option<&'a ObservedLink> {
        self.net.links.get(&name).or_else(|| self.surroundings.links.get(&name))
    }

    pub(super) fn links(&self) -> impl Iterator<Item = (LinkName, &'a ObservedLink)> + use<'a> {
        self.net.links.iter().chain(&self.surroundings.links).map(|(name, link)| (*name, link))
    }

    /// The place where a packet with that source begins its way on this host: here if the source is its own, else at the link that leads
    /// back to the source. `None` if no link does.
    #[must_use]
    pub fn entry_of(&self, source: IpAddr, destination: IpAddr) -> Option<Entry> {
        match self.route(&Query { destination: source, source: destination, incoming: None }) {
            Found::Local => Some(Entry::Here),
            Found::Hop(_, hop) => {
                let link = hop.link()?;
                if self.segment_bridge(link).is_some() {
                    return self.entry_on(link, source);
                }
                let is_overlay = self.our_devices().any(|device| device.name == link);
                Some(if is_overlay { Entry::Decapsulated(link) } else { Entry::Link(link) })
            }
            Found::Broadcast | Found::Refused(_) | Found::Nothing | Found::Unclear(_) => None,
        }
    }

    /// The link that has this address of the host.
    #[must_use]
    pub fn link_of(&self, address: IpAddr) -> Option<LinkName> {
        let key = |link, len| Address { link, address, len };
        let has = |link: &LinkName| self.net.addresses.range(key(*link, 0)..=key(*link, u8::MAX)).next().is_some();
        let elsewhere = || self.surroundings.addresses.get(&address).copied();
        self.net.links.keys().copied().find(has).or_else(elsewhere)
    }

    /// An address of this family on a link.
    pub(super) fn address_on(&self, link: LinkName, family: Family) -> Option<IpAddr> {
        let ours = self.net.addresses.iter().filter(|address| address.link == link).map(|address| address.address);
        let others = self.surroundings.addresses.iter().filter(|(_, at)| **at == link).map(|(address, _)| *address);
        ours.chain(others).find(|address| Family::of(*address) == family)
    }

    pub(super) fn neighbour(&self, key: &NeighbourKey) -> Option<MacAddr> {
        self.net.neighbours.get(key).or_else(|| self.surroundings.neighbours.get(key)).copied()
    }
}

impl fmt::Display for PolicyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.priority)?;
        match self.from {
            Some(from) => write!(f, " from {from}")?,
            None => f.write_str(" from all")?,
        }
        self.to.map_or(Ok(()), |to| write!(f, " to {to}"))?;
        self.incoming.map_or(Ok(()), |link| write!(f, " iif {link}"))?;
        self.others.as_ref().map_or(Ok(()), |others| write!(f, " {others}"))?;
        match &self.action {
            RuleAction::Lookup(table) => write!(f, " lookup {table}"),
            RuleAction::Drop(word) => write!(f, " {word}"),
            RuleAction::Other(text) => write!(f, " {text}"),
        }
    }
}

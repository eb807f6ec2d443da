//! Reads all that a trace of packets looks at: all links, addresses, tables of routes, neighbours, FDB entries and rules.
//!
//! It is read apart from the state that the agent compares, whose scope is small and is read often.

mod messages;

use std::{collections::BTreeMap, fs};

use wire_net::{Family, LinkName};
use wire_netlink::{Batch, Netlink};
use wire_state::{
    Address, DataplaneError, HostRoute, LinkId, ObservedKind, ObservedLink, ObservedNet, Owner, PolicyRule,
    ReversePath, RouteKey, Setting, Surroundings,
};

use super::{
    decode::{self, Names, Namespaces, NeighbourEntry},
    encode, sysctl,
    uapi::iff,
    underlay::{is_overlay_device, is_segment_device},
};

/// All that a trace of packets looks at, of the network namespace of the thread that read it.
#[derive(Clone, Debug, Default)]
pub struct TraceView {
    /// Links, addresses, FDB entries, neighbours and settings. It has no routes: they are all in `surroundings`.
    pub net: ObservedNet,
    /// Routes, rules, and what else decides about packets.
    pub surroundings: Surroundings,
}

impl TraceView {
    /// Reads the network namespace of this thread. Devices with the names of flannel and of this agent count as ours.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn read() -> Result<Self, DataplaneError> {
        let mut netlink = Netlink::open()?;
        let mut view = Self::default();
        let names = view.read_links(&mut netlink)?;
        view.surroundings.rules.clear();
        for family in Family::ALL {
            view.read_family(&mut netlink, family, &names)?;
        }
        view.read_fdb(&mut netlink, &names)?;
        view.read_bridges(&mut netlink, &names)?;
        view.read_settings();
        Ok(view)
    }

    fn read_links(&mut self, netlink: &mut Netlink) -> Result<Names, DataplaneError> {
        let request = |batch: &mut Batch, flags| encode::list_links(batch, flags, None);
        let found =
            netlink.dump("links", &request, |body| Some((decode::link(body, &Namespaces::HOST)?, flags_of(body)?)))?;
        let names: Names = found.iter().map(|((name, link), _)| (link.index, *name)).collect();
        for ((name, mut link), flags) in found {
            for lower in link.named_mut() {
                lower.name = names.get(&lower.index).copied().unwrap_or(lower.name);
            }
            if is_overlay_device(name, link.kind.name()) {
                link.owner = Owner::Ours;
            }
            if link.up && flags & iff::LOWER_UP == 0 {
                self.surroundings.without_carrier.insert(name);
            }
            self.note_kind(name, &link);
            self.net.links.insert(name, link);
        }
        Ok(names)
    }

    fn note_kind(&mut self, name: LinkName, link: &ObservedLink) {
        let learns = matches!(&link.kind, ObservedKind::Vxlan(vxlan) if vxlan.learning);
        if learns {
            self.surroundings.not_looked_at.push(format!("FDB entries that {name} has learnt"));
        }
        if link.kind.name() == "vrf" {
            self.surroundings.not_looked_at.push(format!("the routing domain of {name}"));
        }
    }

    fn read_family(&mut self, netlink: &mut Netlink, family: Family, names: &Names) -> Result<(), DataplaneError> {
        let request = |batch: &mut Batch, flags| encode::list_addresses(batch, flags, family, 0);
        let addresses = netlink.dump("addresses", &request, |body| messages::address(body, names))?;
        self.net.addresses.extend(addresses.into_iter().map(|(link, address, len)| Address { link, address, len }));
        let request = |batch: &mut Batch, flags| encode::list_neighbours(batch, flags, Some(family), 0);
        self.net.neighbours.extend(netlink.dump("neighbours", &request, |body| messages::neighbour(body, names))?);
        let request = |batch: &mut Batch, flags| encode::list_all_routes(batch, flags, family);
        for found in netlink.dump("routes", &request, |body| messages::route(body, names))? {
            match found {
                // If several routes have the same key, the kernel uses the first.
                messages::FoundRoute::Route(key, route) => {
                    self.surroundings.routes.entry(key).or_insert(route);
                }
                messages::FoundRoute::NotFollowed(text) => self.surroundings.not_looked_at.push(text),
            }
        }
        self.surroundings.rules.extend(rules(netlink, family)?);
        Ok(())
    }

    fn read_fdb(&mut self, netlink: &mut Netlink, names: &Names) -> Result<(), DataplaneError> {
        let is_vxlan = |link: &&ObservedLink| matches!(link.kind, ObservedKind::Vxlan(_));
        let devices: Vec<u32> = self.net.links.values().filter(is_vxlan).map(|link| link.index).collect();
        for index in devices {
            let request = |batch: &mut Batch, flags| encode::list_neighbours(batch, flags, None, index);
            for entry in netlink.dump("FDB entries", &request, |body| decode::neighbour(body, names))? {
                match entry {
                    NeighbourEntry::Neighbour(key, mac) => drop(self.net.neighbours.insert(key, mac)),
                    NeighbourEntry::Fdb(key, to) => drop(self.net.fdb.insert(key, to)),
                    NeighbourEntry::Flood(entry) => drop(self.net.flooding.insert(entry)),
                    NeighbourEntry::BridgeFdb(key, port) => drop(self.net.bridge_fdb.insert(key, port)),
                }
            }
        }
        Ok(())
    }

    /// Reads where the bridges of networks over several hosts send frames, also by what they have learnt.
    fn read_bridges(&mut self, netlink: &mut Netlink, names: &Names) -> Result<(), DataplaneError> {
        let is_segment =
            |link: &LinkId| self.net.links.get(&link.name).is_some_and(|of| is_segment_bridge(link.name, of));
        let is_port = |link: &&ObservedLink| link.master.as_ref().is_some_and(is_segment);
        let ports: Vec<u32> = self.net.links.values().filter(is_port).map(|link| link.index).collect();
        for index in ports {
            let request = |batch: &mut Batch, flags| encode::list_neighbours(batch, flags, None, index);
            let entries = netlink.dump("entries of a bridge", &request, |body| messages::bridge_entry(body, names))?;
            self.net.bridge_fdb.extend(entries);
        }
        Ok(())
    }

    fn read_settings(&mut self) {
        let host = Family::ALL.map(Setting::Forwarding);
        let links = self.net.links.keys().map(|link| Setting::LinkForwarding(Family::V4, *link));
        let read: BTreeMap<Setting, u32> =
            host.into_iter().chain(links).filter_map(|setting| Some((setting, sysctl::get(setting)?))).collect();
        self.net.settings = read;
        let of_all = strictness("all");
        let checked = self.net.links.keys().filter_map(|link| {
            let check = match of_all.max(strictness(link.as_str())) {
                1 => ReversePath::Strict,
                2 => ReversePath::Loose,
                _ => return None,
            };
            Some((*link, check))
        });
        self.surroundings.reverse_path = checked.collect();
    }
}

fn is_segment_bridge(name: LinkName, link: &ObservedLink) -> bool {
    is_segment_device(name, link.kind.name()) && matches!(link.kind, ObservedKind::Bridge(_))
}

/// The rules of a family, in the order in which they are asked.
pub(super) fn rules(netlink: &mut Netlink, family: Family) -> Result<Vec<PolicyRule>, DataplaneError> {
    let request = |batch: &mut Batch, flags| batch.push(messages::GET_RULE, flags, &messages::RulesOf(family));
    let mut rules = netlink.dump("rules", &request, messages::rule)?;
    rules.sort_by_key(|rule| rule.priority);
    Ok(rules)
}

/// The routes of all tables of a family, but for those that match some packets only.
pub(super) fn routes(netlink: &mut Netlink, family: Family) -> Result<Vec<(RouteKey, HostRoute)>, DataplaneError> {
    let request = |batch: &mut Batch, flags| encode::list_links(batch, flags, None);
    let links = netlink.dump("links", &request, |body| decode::link(body, &Namespaces::HOST))?;
    let names: Names = links.into_iter().map(|(name, link)| (link.index, name)).collect();
    let request = |batch: &mut Batch, flags| encode::list_all_routes(batch, flags, family);
    let found = netlink.dump("routes", &request, |body| messages::route(body, &names))?;
    let followed = found.into_iter().filter_map(|found| match found {
        messages::FoundRoute::Route(key, route) => Some((key, route)),
        messages::FoundRoute::NotFollowed(_) => None,
    });
    Ok(followed.collect())
}

/// The flags of a link message (`struct ifinfomsg`).
fn flags_of(body: &[u8]) -> Option<u32> {
    wire_netlink::attribute::number(body.get(8..12)?)
}

/// The kernel uses the larger value of the link and of `all` (ip-sysctl.rst).
fn strictness(link: &str) -> u8 {
    let text = fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{link}/rp_filter"));
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

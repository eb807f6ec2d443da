//! What a read of a scope finds in the whole state of a namespace. Pure.

use std::collections::BTreeMap;

use wire_net::{Family, LinkName};
use wire_state::{ContainerLink, ObservedKind, ObservedNet, Owner, Scope, Setting};

use super::LinkFacts;
use crate::decode;

/// The state that the driver would read: see `crate::read`.
pub(super) fn within(net: &ObservedNet, facts: &BTreeMap<LinkName, LinkFacts>, scope: &Scope) -> ObservedNet {
    let mut found = ObservedNet::default();
    for (name, link) in &net.links {
        let is_bridge = is_container_bridge(*name, net, facts, scope);
        let is_read = matches!(link.kind, ObservedKind::Vxlan(_)) || scope.devices.contains(name);
        if is_read || is_bridge || scope.is_parent(link.index) {
            let mut link = link.clone();
            link.owner = scope.owner(*name, &link);
            found.links.insert(*name, link);
        }
    }
    let is_ours = |name: &LinkName| found.links.get(name).is_some_and(|link| link.owner == Owner::Ours);
    let is_ours_vxlan = |name: &LinkName| {
        is_ours(name) && matches!(net.links.get(name).map(|link| &link.kind), Some(ObservedKind::Vxlan(_)))
    };
    found.addresses = net.addresses.iter().filter(|address| is_ours(&address.link)).copied().collect();
    found.fdb = net.fdb.iter().filter(|(key, _)| is_ours_vxlan(&key.link)).map(|(key, to)| (*key, *to)).collect();
    found.flooding = net.flooding.iter().filter(|entry| is_ours_vxlan(&entry.link)).copied().collect();
    let leads_to_hosts = |name: &LinkName| net.links.get(name).is_some_and(|link| link.kind.leads_to_hosts());
    let is_port = |name: &LinkName| is_ours(name) && leads_to_hosts(name);
    let behind = net.bridge_fdb.iter().filter(|(key, port)| is_ours(&key.bridge) && is_port(port));
    found.bridge_fdb = behind.map(|(key, port)| (*key, *port)).collect();
    found.neighbours =
        net.neighbours.iter().filter(|(key, _)| is_ours(&key.link)).map(|(key, mac)| (*key, *mac)).collect();
    found.forwarding =
        net.forwarding.iter().filter(|(key, _)| is_ours(&key.link)).map(|(key, to)| (*key, *to)).collect();
    for (key, route) in &net.routes {
        let is_on_ours = route.via.link().is_some_and(|link| is_ours(&link));
        if let Some(owner) = decode::owner(key.destination, route, is_on_ours, scope) {
            let mut route = route.clone();
            route.owner = owner;
            found.routes.insert(*key, route);
        }
    }
    let is_read = |setting: &Setting| match setting {
        Setting::Forwarding(_) | Setting::RouterAdvertisements(_) => true,
        Setting::DisableIpv6(link) => is_ours(link),
        Setting::LinkForwarding(family, link) => {
            let is_way = scope.direct && net.links.get(link).is_some_and(|link| scope.is_parent(link.index));
            is_ours(link) || is_way || *family == Family::V4 && is_container_bridge(*link, net, facts, scope)
        }
    };
    found.settings =
        net.settings.iter().filter(|(setting, _)| is_read(setting)).map(|(key, value)| (*key, *value)).collect();
    found
}

/// Takes a link that was just made, with the entries on it, from the state `now`. No route leads to it.
pub(super) fn take_link(known: &mut ObservedNet, now: &ObservedNet, name: LinkName) {
    known.links.remove(&name);
    known.links.extend(now.links.get(&name).map(|link| (name, link.clone())));
    known.addresses.extend(now.addresses.iter().filter(|address| address.link == name));
    known.fdb.extend(now.fdb.iter().filter(|(key, _)| key.link == name).map(|(key, to)| (*key, *to)));
    known.flooding.extend(now.flooding.iter().filter(|entry| entry.link == name).copied());
    let behind = now.bridge_fdb.iter().filter(|(_, port)| **port == name);
    known.bridge_fdb.extend(behind.map(|(key, port)| (*key, *port)));
    known.neighbours.extend(now.neighbours.iter().filter(|(key, _)| key.link == name).map(|(key, mac)| (*key, *mac)));
    let on = now.settings.iter().filter(|(setting, _)| setting.link() == Some(name));
    known.settings.extend(on.map(|(setting, value)| (*setting, *value)));
}

/// Whether containers may be on a link: it is a bridge with an IPv4 address inside the overlay's networks.
fn is_container_bridge(
    name: LinkName,
    net: &ObservedNet,
    facts: &BTreeMap<LinkName, LinkFacts>,
    scope: &Scope,
) -> bool {
    let is_bridge = net.links.get(&name).is_some_and(|link| matches!(link.kind, ObservedKind::Bridge(_)));
    let addresses = || facts.get(&name).into_iter().flat_map(|link| &link.addresses).map(|address| address.local);
    is_bridge
        && addresses().any(|local| {
            local.address.is_ipv4() && ContainerLink::is_inside(local.address, local.prefix.len(), &scope.networks)
        })
}

//! A state as lines without the numbers of links, for comparison.

use std::collections::BTreeSet;

use wire_net::LinkName;
use wire_state::{ObservedLink, ObservedNet, Owner};

/// The entries of a state, one a line.
pub(super) fn entries(net: &ObservedNet) -> BTreeSet<String> {
    let links = net.links.iter().map(|(name, link)| link_entry(*name, link));
    let addresses = net.addresses.iter().map(|address| format!("address {address}"));
    let fdb = net.fdb.iter().map(|(key, to)| format!("fdb {key} dst {to}"));
    let flooding = net.flooding.iter().map(|entry| format!("flood {entry}"));
    let behind = net.bridge_fdb.iter().map(|(key, port)| format!("bridge fdb {key} port {port}"));
    let neighbours = net.neighbours.iter().map(|(key, mac)| format!("neighbour {key} lladdr {mac}"));
    let routes = net
        .routes
        .iter()
        .map(|(key, route)| format!("route {key} {} protocol {} {:?}", route.via, route.protocol, route.owner));
    // The other end of the uplink is no part of the host.
    let settings =
        net.settings.iter().filter(|(setting, _)| setting.link().is_none_or(|link| link.as_str() != "wb-far"));
    let settings = settings.map(|(setting, value)| format!("setting {setting} = {value}"));
    links
        .chain(addresses)
        .chain(fdb)
        .chain(flooding)
        .chain(behind)
        .chain(neighbours)
        .chain(routes)
        .chain(settings)
        .collect()
}

/// The kinds of foreign links do not matter: the uplink is a veth in a namespace, and a network card in memory.
fn link_entry(name: LinkName, link: &ObservedLink) -> String {
    match link.owner {
        Owner::Ours => format!("link {name} Ours: {link}"),
        Owner::Foreign => {
            let (mac, mtu) = (link.mac.map(|mac| mac.to_string()).unwrap_or_default(), link.mtu);
            format!("link {name} Foreign: mac {mac} mtu {mtu} {}", if link.up { "up" } else { "down" })
        }
    }
}

/// The entries that are gone, with `-`, and then those that are new, with `+`.
pub(super) fn difference(before: &ObservedNet, after: &ObservedNet) -> String {
    let (before, after) = (entries(before), entries(after));
    let gone = before.difference(&after).map(|entry| format!("- {entry}"));
    let new = after.difference(&before).map(|entry| format!("+ {entry}"));
    gone.chain(new).collect::<Vec<_>>().join("\n")
}

/// The lines of a text without the spaces before them.
pub(super) fn lines(text: &str) -> String {
    text.trim().lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

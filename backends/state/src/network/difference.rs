//! The differences between two network states, as sentences for people. Pure.
//!
//! They are the operations of a plan, told with the observed value beside the desired one. A link that is missing or must be made anew
//! loses all entries on it: their number is told with the link.

mod entry;
mod link;
mod reach;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use wire_net::{Family, LinkName, MacAddr};

use self::{
    entry::{Name, Subject},
    reach::Reach,
};
use super::{
    DesiredNet, FdbTarget, Forward, KernelOp, LinkPlace, Namespace, NextHop, ObservedNet, Op, PerNamespace, Setting,
    TunnelOp, Via,
    plan::{links_made_anew, plan},
};
use crate::{Difference, PROTOCOL};

/// One difference for each link and for each other entry that the plan changes: the links first.
pub(super) fn differences(have: &PerNamespace<ObservedNet>, want: &PerNamespace<DesiredNet>) -> Vec<Difference> {
    let ops = plan(have, want).ops;
    let made_anew = if ops.iter().any(Op::is_link) { links_made_anew(have, want) } else { BTreeSet::new() };
    let (mut links, mut told_with_link) = (Vec::new(), BTreeMap::new());
    let mut entries = Vec::new();
    for op in &ops {
        match Subject::of(op) {
            Subject::Link(place) if links.contains(&place) => {}
            Subject::Link(place) => links.push(place),
            Subject::EntryOn(place) if made_anew.contains(&place) => *told_with_link.entry(place).or_default() += 1,
            Subject::EntryOn(place) => match entry_difference(have, want, op) {
                Some(difference) => entries.push(difference),
                None => *told_with_link.entry(place).or_default() += 1,
            },
            Subject::EntryOfHost => entries.extend(entry_difference(have, want, op)),
        }
    }
    let entries_on = |place: &LinkPlace| told_with_link.get(place).copied().unwrap_or_default();
    let change = |place| link::Change { have, want, place, made_anew: &made_anew, entries: entries_on(&place) };
    links.into_iter().map(|place| change(place).difference()).chain(entries).collect()
}

/// The difference of an entry; `None` if the entry is right, and is only lost by a change of its link.
fn entry_difference(have: &PerNamespace<ObservedNet>, want: &PerNamespace<DesiredNet>, op: &Op) -> Option<Difference> {
    let namespace = match op {
        Op::Kernel(namespace, _) => *namespace,
        Op::Tunnel(_) => Namespace::Host,
    };
    let entry = Name(op).to_string();
    let Some(want) = want.get(namespace).map(Reach) else { return Some(Difference::unwanted(entry)) };
    let have = have.get(namespace)?;
    match op {
        Op::Kernel(_, op) => of_kernel(have, &want, op, entry),
        Op::Tunnel(op) => of_tunnel(have, op, entry),
    }
}

fn of_kernel(have: &ObservedNet, want: &Reach<'_>, op: &KernelOp, entry: String) -> Option<Difference> {
    match op {
        KernelOp::Set(setting, value) => {
            let effect = effect_of(*setting, *value);
            let detail = |have: &u32| format!("is {have}, and should be {value}");
            Some(put(entry, have.settings.get(setting), value, detail)?.with_consequence(effect))
        }
        KernelOp::PutAddress(_) => Some(Difference::missing(entry)),
        KernelOp::PutFdb(key, to) => {
            let effect = Some(reach::unreachable(to.to));
            let detail = |have: &FdbTarget| format!("leads to {have}, and should lead to {to}");
            Some(put(entry, have.fdb.get(key), to, detail)?.with_consequence(effect))
        }
        KernelOp::PutFlood(flood) => Some(Difference::missing(entry).with_consequence(reach::unflooded(flood.to))),
        KernelOp::PutBridgeFdb(key, port) => {
            let effect = want.by_mac(*port, key.mac);
            let detail = |have: &LinkName| format!("leads to port {have}, and should lead to {port}");
            Some(put(entry, have.bridge_fdb.get(key), port, detail)?.with_consequence(effect))
        }
        KernelOp::PutNeighbour(key, mac) => {
            let effect = want.by_mac(key.link, *mac);
            let detail = |have: &MacAddr| format!("has MAC {have}, and should have {mac}");
            Some(put(entry, have.neighbours.get(key), mac, detail)?.with_consequence(effect))
        }
        KernelOp::AddRoute(key, hop) | KernelOp::ReplaceRoute(key, hop) => {
            let difference = match have.routes.get(key) {
                Some(found) if found.is_flannels(hop) => {
                    return Some(Difference::altered(
                        entry,
                        format!("is of protocol boot, and should be of protocol {PROTOCOL}"),
                    ));
                }
                Some(found) => Difference::altered(entry, format!("{}, and should {}", leads(&found.via), lead(hop))),
                None => Difference::missing(entry),
            };
            Some(difference.with_consequence(want.by_route(key.destination, hop)))
        }
        KernelOp::DeleteAddress(_)
        | KernelOp::DeleteFdb(_)
        | KernelOp::DeleteFlood(_)
        | KernelOp::DeleteBridgeFdb(..)
        | KernelOp::DeleteNeighbour(_)
        | KernelOp::DeleteRoute(..) => Some(Difference::unwanted(entry)),
        KernelOp::CreateLink(..) | KernelOp::ChangeLink(..) | KernelOp::DeleteLink(_) => None,
    }
}

fn of_tunnel(have: &ObservedNet, op: &TunnelOp, entry: String) -> Option<Difference> {
    match op {
        TunnelOp::PutForward(key, to) => {
            let effect = Some(reach::unreachable(to.to));
            let detail = |have: &Forward| forward_detail(*have, *to);
            Some(put(entry, have.forwarding.get(key), to, detail)?.with_consequence(effect))
        }
        TunnelOp::DeleteForward(_) => Some(Difference::unwanted(entry)),
        TunnelOp::Create(..) | TunnelOp::Change(..) | TunnelOp::Delete(_) => None,
    }
}

/// The difference of an entry with a value; `None` if it has the desired one.
fn put<V: PartialEq>(
    entry: String,
    have: Option<&V>,
    want: &V,
    detail: impl FnOnce(&V) -> String,
) -> Option<Difference> {
    match have {
        None => Some(Difference::missing(entry)),
        Some(have) if have == want => None,
        Some(have) => Some(Difference::altered(entry, detail(have))),
    }
}

fn forward_detail(have: Forward, want: Forward) -> String {
    let mac = |forward: Forward| forward.mac.map_or_else(|| "no MAC".to_owned(), |mac| format!("MAC {mac}"));
    let to = (have.to != want.to).then(|| format!("leads to {}, and should lead to {}", have.to, want.to));
    let port = |forward: Forward| forward.port.map_or_else(|| "its own port".to_owned(), |port| format!("port {port}"));
    let at = (have.port != want.port).then(|| format!("sends to {}, and should send to {}", port(have), port(want)));
    let by = (have.mac != want.mac).then(|| format!("has {}, and should have {}", mac(have), mac(want)));
    to.into_iter().chain(at).chain(by).collect::<Vec<_>>().join("; ")
}

/// The action of a route that was found, to follow its name.
fn leads(via: &Via) -> String {
    match via {
        Via::NextHop(NextHop::Blackhole) => "drops packets".to_owned(),
        Via::NextHop(hop @ (NextHop::Gateway { .. } | NextHop::Link(_))) => format!("leads to {}", place(hop)),
        Via::Other(text) => format!("leads elsewhere ({text})"),
    }
}

/// The action of a desired route, to follow "should".
fn lead(hop: &NextHop) -> String {
    match hop {
        NextHop::Blackhole => "drop packets".to_owned(),
        NextHop::Gateway { .. } | NextHop::Link(_) => format!("lead to {}", place(hop)),
    }
}

fn place(hop: &NextHop) -> String {
    match hop {
        NextHop::Gateway { gateway, link, .. } => format!("{gateway} on {link}"),
        NextHop::Link(link) => link.to_string(),
        NextHop::Blackhole => "nothing".to_owned(),
    }
}

/// The effect of a setting that has not this value.
fn effect_of(setting: Setting, value: u32) -> Option<String> {
    match (setting, value) {
        (Setting::Forwarding(family), 1) => Some(format!("the host forwards no {family} packets")),
        (Setting::LinkForwarding(Family::V4, link), 1) => {
            Some(format!("IPv4 packets that arrive on {link} are not forwarded"))
        }
        (Setting::DisableIpv6(link), 0) => Some(format!("{link} has no IPv6 addresses")),
        (Setting::RouterAdvertisements(link), 2) => {
            Some(format!("{link} accepts no router advertisements while the host forwards"))
        }
        // For IPv6, a link's setting stops no packets.
        (
            Setting::Forwarding(_)
            | Setting::LinkForwarding(..)
            | Setting::DisableIpv6(_)
            | Setting::RouterAdvertisements(_),
            _,
        ) => None,
    }
}

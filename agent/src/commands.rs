//! `wire-agent status` and `wire-agent peers`: what the running agent says, as text or JSON.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use comfy_table::{Table, presets};
use serde::Serialize;

use crate::{
    attach_command,
    control::{self, proto},
    exit::Exit,
    flat::NETWORKS,
    named::NetworkState,
    output,
};

/// `wire-agent status`. Succeeds only where the agent is ready and nothing is wrong, so that scripts can ask.
///
/// # Errors
/// [`Exit::NoAgent`] when no agent answers, [`Exit::NotReady`] when it is waiting, degraded or stopping.
pub(crate) async fn status(run_dir: &Path, json: bool) -> Result<(), Exit> {
    let status = control::status(run_dir).await?;
    if json {
        print_json(&status)?;
    } else {
        output::answer(&format!("{}{}", status_text(&status), others_text(run_dir).await))?;
    }
    let proto::StatusReply { phase, reason, .. } = status;
    if phase == "ready" { Ok(()) } else { Err(Exit::NotReady { phase, reason }) }
}

/// `wire-agent peers`.
///
/// # Errors
/// [`Exit::NoAgent`] when no agent answers.
pub(crate) async fn peers(run_dir: &Path, json: bool) -> Result<(), Exit> {
    let peers = control::peers(run_dir).await?;
    if json { print_json(&peers) } else { output::answer(&peers_text(&peers)) }
}

/// Prints a value for a program to read.
///
/// # Errors
/// As [`output::answer`].
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Exit> {
    let text = serde_json::to_string_pretty(value).expect("a reply has only text keys");
    output::answer(&format!("{text}\n"))
}

/// A line for each further network of this host that an agent runs for.
async fn others_text(run_dir: &Path) -> String {
    let mut text = String::new();
    let folders = std::fs::read_dir(run_dir.join(NETWORKS)).into_iter().flatten().flatten();
    let folders: BTreeSet<PathBuf> = folders.map(|entry| entry.path()).collect();
    for folder in folders {
        let (Some(name), Ok(status)) = (folder.file_name(), control::status(&folder).await) else { continue };
        let proto::StatusReply { phase, reason, subnet, subnet_v6, peers, .. } = status;
        let subnets = join(&[&subnet, &subnet_v6]);
        let what = if phase == "ready" { format!("{subnets}, {peers} peers") } else { reason };
        let name = name.to_string_lossy();
        text.push_str(&format!("network {name}: {phase}: {what} (more with --network {name})\n"));
    }
    text
}

fn status_text(status: &proto::StatusReply) -> String {
    let store = status.store.clone().unwrap_or_default();
    let plane = status.dataplane.clone().unwrap_or_default();
    let phase =
        if status.reason.is_empty() { status.phase.clone() } else { format!("{}: {}", status.phase, status.reason) };
    let lease = match (store.lease.as_str(), store.lease_seconds) {
        ("", _) => String::new(),
        (id, seconds) => format!("{id}, {} left", humantime::format_duration(std::time::Duration::from_secs(seconds))),
    };
    let etcd = if store.synced {
        format!("in sync at revision {}, {} full lists", store.revision, store.resyncs)
    } else {
        format!("not in sync: {}", if store.error.is_empty() { "no list yet" } else { &store.error })
    };
    let kernel = format!(
        "{}, {} entries written and {} removed in {} rounds",
        if plane.converged { "as it should be" } else { "not yet as it should be" },
        plane.written,
        plane.removed,
        plane.rounds
    );
    let firewall = status.firewall.clone().unwrap_or_default();
    let refused: Vec<String> = status.refused.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let lines = [
        ("phase", phase),
        ("subnet", join(&[&status.subnet, &status.subnet_v6])),
        ("public", join(&[&status.public_ip, &status.public_ipv6])),
        ("underlay", status.underlay.clone()),
        (
            "backend",
            if status.mtu == 0 { status.backend.clone() } else { format!("{}, MTU {}", status.backend, status.mtu) },
        ),
        ("datapath", datapath_text(&status.datapath.clone().unwrap_or_default())),
        ("peers", status.peers.to_string()),
        ("refused", refused.join(", ")),
        ("etcd", etcd),
        ("lease", lease),
        ("kernel", kernel),
        ("firewall", firewall_text(&firewall)),
        ("networks", networks_text(&status.networks)),
        ("attached", attach_command::summary(&status.attachments)),
        ("identity", status.identity.clone()),
        ("version", status.version.clone()),
    ];
    let mut text: String = lines
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:<9} {value}\n"))
        .collect();
    let tunnels = status.datapath.iter().flat_map(|datapath| &datapath.tunnels);
    for tunnel in tunnels.clone() {
        text.push_str(&format!("{:<9} {}\n", "tunnel", tunnel_text(tunnel)));
    }
    let strangers: Vec<String> =
        tunnels.map(|tunnel| tunnel.stranger.clone()).filter(|stranger| !stranger.is_empty()).collect();
    for (name, notes) in [
        ("conflict", &plane.conflicts),
        ("failure", &plane.failures),
        ("warning", &status.warnings),
        ("warning", &strangers),
    ] {
        text.extend(notes.iter().map(|note| format!("{name:<9} {note}\n")));
    }
    text
}

/// The line about networks by name: how many are joined, and each that is not.
fn networks_text(networks: &[proto::NetworkPart]) -> String {
    if networks.is_empty() {
        return String::new();
    }
    let joined = networks.iter().filter(|part| part.state == NetworkState::Joined.name()).count();
    let others = networks.iter().filter(|part| part.state != NetworkState::Joined.name() || !part.reason.is_empty());
    let others: String = others.map(|part| format!("; {}", part_text(part))).collect();
    let lacks = networks.iter().find(|part| !part.lacks.is_empty());
    let lacks = lacks.map(|part| format!("; without {}", part.lacks)).unwrap_or_default();
    format!("{joined} joined{others}{lacks}")
}

/// This host's part in a network, for people.
pub(crate) fn part_text(part: &proto::NetworkPart) -> String {
    let proto::NetworkPart { name, state, reason, own, own_v6, bridge, .. } = part;
    let own = join(&[own, own_v6]).replace(' ', " and ");
    match (own.is_empty(), reason.is_empty()) {
        (true, true) => format!("{name} is {state}"),
        (true, false) => format!("{name} is {state}: {reason}"),
        (false, true) => format!("{name} is {state}, {own} on {bridge}"),
        (false, false) => format!("{name} is {state}, {own} on {bridge}: {reason}"),
    }
}

fn datapath_text(datapath: &proto::DatapathStatus) -> String {
    if datapath.why.is_empty() { datapath.kind.clone() } else { format!("{}: {}", datapath.kind, datapath.why) }
}

/// The line about a device whose packets the agent moves: offloads, counters, drops and their reasons.
fn tunnel_text(tunnel: &proto::TunnelStatus) -> String {
    let counter = |name: &str| tunnel.counters.get(name).copied().unwrap_or_default();
    let dropped: Vec<String> = tunnel
        .counters
        .iter()
        .filter_map(|(name, number)| Some((name.strip_prefix("dropped_")?.replace('_', " "), number)))
        .filter(|(_, number)| **number > 0)
        .map(|(reason, number)| format!("{number} {reason}"))
        .collect();
    let with = if tunnel.capabilities.is_empty() { "nothing".to_owned() } else { tunnel.capabilities.join(", ") };
    format!(
        "{} on {} with {with}: {} packets to peers, {} from peers, dropped: {}",
        tunnel.link,
        tunnel.local,
        counter("to_peers_packets"),
        counter("from_peers_packets"),
        if dropped.is_empty() { "none".to_owned() } else { dropped.join(", ") }
    )
}

fn firewall_text(firewall: &proto::FirewallStatus) -> String {
    let state = if firewall.converged { "as it should be" } else { "not yet as it should be" };
    let networks = firewall.networks.unwrap_or_default();
    let from = if firewall.senders.is_empty() { String::new() } else { format!(" ({})", firewall.senders.join(", ")) };
    let dropped = [
        (firewall.strangers, format!("from hosts without a lease{from}")),
        (firewall.containers, "from containers to the encapsulation port".to_owned()),
        (firewall.spoofed, "from peers with a source that is not theirs".to_owned()),
        (networks.strangers, "to networks by name from hosts that are no members".to_owned()),
        (networks.forged, "to networks by name from members with a source that is not theirs".to_owned()),
        (networks.crossing, "from a network by name to another, or out of an internal one".to_owned()),
        (
            networks.at_ports,
            "at bridges of networks by name with a source that is not the sender's, or to the groups of a link"
                .to_owned(),
        ),
    ];
    let dropped = dropped.into_iter().filter(|(count, _)| *count > 0);
    let parts: Vec<String> = dropped.map(|(count, whose)| format!(", dropped {count} packets {whose}")).collect();
    let tracked = if firewall.tracked.is_empty() {
        "not tracked".to_owned()
    } else {
        format!("tracked ({})", firewall.tracked.join(", "))
    };
    format!("{state}{}; encapsulated packets are {tracked}", parts.concat())
}

fn peers_text(peers: &proto::PeersReply) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["SUBNET", "PUBLIC IP", "BACKEND", "VTEP MAC", "STATE"]);
    for peer in &peers.peers {
        let state = match (peer.programmed, peer.reservation) {
            (true, false) => "programmed",
            (true, true) => "programmed, reserved",
            (false, false) => "not programmed",
            (false, true) => "not programmed, reserved",
        };
        let backend = if peer.backend_type.is_empty() { "-" } else { &peer.backend_type };
        let reached_by = format!("{backend}, reached by {}", peer.reached_by);
        let backend = if peer.reached_by.is_empty() { backend } else { &reached_by };
        table.add_row([
            join(&[&peer.subnet, &peer.subnet_v6]).as_str(),
            join(&[&peer.public_ip, &peer.public_ipv6]).as_str(),
            backend,
            join(&[&peer.vtep_mac, &peer.vtep_mac_v6]).as_str(),
            state,
        ]);
    }
    let mut text = format!("{}\n", table.trim_fmt());
    for refused in &peers.refused {
        text.push_str(&format!("refused {}: {} ({})\n", refused.key, refused.reason, refused.kind));
    }
    let others = usize::try_from(peers.refused_in_all).unwrap_or(usize::MAX).saturating_sub(peers.refused.len());
    if others > 0 {
        text.push_str(&format!("refused {others} more, which are not named here\n"));
    }
    text
}

fn join(parts: &[&str]) -> String {
    let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use prost::Message;
    use wire_lease::{Admission, Entries};
    use wire_net::KeyPrefix;
    use wire_store::{KeyValue, Listing, Revision};

    use super::*;
    use crate::status::Status;

    /// Keys of the greatest length that is kept, and values that are quoted in the reason.
    #[test]
    fn a_hundred_thousand_refused_leases_are_a_short_reply_that_says_how_many() {
        let directory = KeyPrefix::new("/n").leases(true);
        let junk = (0..100_000).map(|number| KeyValue {
            key: [&*directory, format!("{number:06}{}", "0".repeat(249)).as_bytes()].concat(),
            value: Vec::new(),
            create_revision: Revision(1),
            mod_revision: Revision(1),
            lease: None,
        });
        let listing = Listing { entries: junk.collect(), revision: Revision(1) };
        let table = Entries::listed(directory, &listing).admit(&Admission::default());
        let mut status = Status::default();
        status.leases = Some(Arc::new(table));
        let peers = status.to_peers();
        assert!(peers.encoded_len() < 100_000, "{} bytes", peers.encoded_len());
        let text = peers_text(&peers);
        assert_eq!(text.lines().filter(|line| line.starts_with("refused /n/subnets/0")).count(), 100);
        assert!(text.ends_with("\nrefused 99900 more, which are not named here\n"), "{text}");
    }
}

//! `wire-agent attach`, `detach` and `attachments`: containers on networks by name, by the agent of this host.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
};

use clap::Args;
use comfy_table::{Table, presets};
use serde_json::json;
use wire_net::{LinkName, MacAddr, NetworkName};

use crate::{
    attach::{self, Selector},
    cli::Output,
    commands::print_json,
    control::{self, proto},
    exit::Exit,
    named::AttachmentState,
    output,
};

/// The names of guests, for `--help`.
const GUESTS: &str = "GUEST is one of:
  NAME, name:NAME               the container of that name, also after docker rm and run
  id:HEX                        a container by at least 12 digits of its id
  compose:PROJECT/SERVICE[/N]   the containers of a service of Compose, or the Nth
  label:KEY=VALUE               each container with that label
  /run/netns/X, netns:PATH      a network namespace
  pid:N                         the namespace of a process, until it ends

Exit statuses: 0 attached (also if it was before) or kept with --when-started, 1 refused, or kept and blocked, 3 no such guest runs, 4 kept, and not
attached yet: it waits, and the text says for what.";

/// Flags of `wire-agent attach`.
#[derive(Debug, Args)]
#[command(after_help = GUESTS)]
pub(crate) struct AttachFlags {
    /// The container or namespace.
    #[arg(value_name = "GUEST")]
    guest: Selector,
    /// The network (wire-agent network ls).
    #[arg(value_name = "NETWORK")]
    to: NetworkName,
    /// Its IPv4 address. Without it, a free one of the network.
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<Ipv4Addr>,
    /// Its IPv6 address.
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<Ipv6Addr>,
    /// Its MAC. Without it, the one that follows from its address.
    #[arg(long, value_parser = attach::mac, value_name = "MAC")]
    mac: Option<MacAddr>,
    /// The name of the interface in it. Without it, the first of eth1, eth2, … that no attachment of it has.
    #[arg(long, value_parser = attach::interface, value_name = "IFACE")]
    name: Option<LinkName>,
    /// Keep it for when the container is started, if it does not run.
    #[arg(long)]
    when_started: bool,
    #[command(flatten)]
    output: Output,
}

/// Flags of `wire-agent detach`.
#[derive(Debug, Args)]
pub(crate) struct DetachFlags {
    /// The container or namespace, as it was given to attach, or the id of an attachment.
    #[arg(value_name = "GUEST")]
    guest: Selector,
    /// From this network. Without it, from all.
    #[arg(value_name = "NETWORK")]
    from: Option<NetworkName>,
    /// Only this interface of it.
    #[arg(long, value_parser = attach::interface, value_name = "IFACE")]
    name: Option<LinkName>,
    #[command(flatten)]
    output: Output,
}

fn text<T: ToString>(value: Option<T>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// `wire-agent attach`.
///
/// # Errors
/// [`Exit::NoAgent`] when no agent answers, [`Exit::NoGuest`] if no such guest runs, [`Exit::Refused`], [`Exit::Blocked`], and
/// [`Exit::Waits`] without --when-started.
pub(crate) async fn attach(run_dir: &Path, flags: AttachFlags) -> Result<(), Exit> {
    let request = proto::AttachRequest {
        guest: flags.guest.to_string(),
        network: flags.to.to_string(),
        ip: text(flags.ip),
        ip6: text(flags.ip6),
        mac: text(flags.mac),
        name: text(flags.name),
        when_started: flags.when_started,
    };
    let reply = control::attach(run_dir, request).await?;
    if flags.output.json {
        print_json(&reply)?;
    } else {
        output::answer(&format!("{}\n", attach_text(&reply)))?;
    }
    match reply.attachment {
        Some(attachment) if attachment.state == AttachmentState::Blocked.name() => {
            Err(Exit::Blocked { reason: attachment.reason })
        }
        Some(attachment) if attachment.state == AttachmentState::Waiting.name() && !flags.when_started => {
            let is_said = !attachment.reason.is_empty();
            let reason = if is_said { attachment.reason } else { "see wire-agent attachments".to_owned() };
            Err(Exit::Waits { reason })
        }
        Some(_) | None => Ok(()),
    }
}

/// `wire-agent detach`.
///
/// # Errors
/// As [`attach`].
pub(crate) async fn detach(run_dir: &Path, flags: DetachFlags) -> Result<(), Exit> {
    let DetachFlags { guest, from, name, output } = flags;
    let guest = guest.to_string();
    let request = proto::DetachRequest { guest: guest.clone(), network: text(from), name: text(name) };
    let reply = control::detach(run_dir, request).await?;
    if output.json {
        return print_json(&reply);
    }
    let waits = if reply.waits { ", its interfaces are about to be removed: see wire-agent status" } else { "" };
    output::answer(&format!("{guest} is detached{waits}\n"))
}

/// `wire-agent attachments`.
///
/// # Errors
/// [`Exit::NoAgent`] when no agent answers.
pub(crate) async fn list(run_dir: &Path, output: Output) -> Result<(), Exit> {
    let status = control::status(run_dir).await?;
    if output.json {
        return print_json(&json!(status.attachments));
    }
    output::answer(&table(&status.attachments))
}

fn attach_text(reply: &proto::AttachReply) -> String {
    let Some(attachment) = &reply.attachment else { return String::new() };
    let proto::Attachment { guest, network, interface, state, reason, endpoints, .. } = attachment;
    let already = if reply.already { "already " } else { "" };
    let of: Vec<String> = endpoints.iter().map(addresses).collect();
    let has = if of.is_empty() { String::new() } else { format!(", {}", of.join("; ")) };
    let why = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    if *state == AttachmentState::Attached.name() {
        format!("{guest} is {already}attached to {network} by {interface}{has}")
    } else {
        format!("{guest} is kept for {network} ({interface}{has}), and {state}{why}")
    }
}

fn addresses(endpoint: &proto::Endpoint) -> String {
    let all = [&endpoint.address, &endpoint.address_v6];
    let all: Vec<&str> = all.into_iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
    all.join(" and ")
}

/// The list for people: a line for each container.
fn table(attachments: &[proto::Attachment]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["ID", "GUEST", "NETWORK", "INTERFACE", "ADDRESS", "MAC", "STATE"]);
    for attachment in attachments {
        let proto::Attachment { id, guest, network, interface, state, reason, endpoints } = attachment;
        let none = proto::Endpoint::default();
        let lines = if endpoints.is_empty() { std::slice::from_ref(&none) } else { endpoints.as_slice() };
        for endpoint in lines {
            let state = match (reason.as_str(), endpoint.since.as_str()) {
                ("", "") => state.clone(),
                ("", since) => format!("{state} since {since}"),
                (reason, _) => format!("{state}: {reason}"),
            };
            table.add_row([id, guest, network, interface, &addresses(endpoint), &endpoint.mac, &state]);
        }
    }
    format!("{}\n", table.trim_fmt())
}

/// The line of `status` about attachments: how many are in each state, and each that is not attached.
pub(crate) fn summary(attachments: &[proto::Attachment]) -> String {
    let states = [AttachmentState::Attached, AttachmentState::Waiting, AttachmentState::Blocked];
    let count = |state: AttachmentState| attachments.iter().filter(|one| one.state == state.name()).count();
    let counts = states.map(|state| (count(state), state.name()));
    let mut parts: Vec<String> =
        counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, name)| format!("{count} {name}")).collect();
    let blocked = attachments.iter().filter(|one| one.state == AttachmentState::Blocked.name());
    parts.extend(blocked.map(|one| format!("{} on {}: {}", one.guest, one.network, one.reason)));
    parts.join(", ")
}

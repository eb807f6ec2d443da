//! `wire-agent network expose` and `hide`: this host's own part, by its agent.

use std::path::Path;

use serde_json::{Value, json};
use wire_net::NetworkName;

use crate::{
    cli::Output,
    commands::{part_text, print_json},
    control::{self, proto},
    exit::Exit,
    output,
};

pub(super) async fn expose(run_dir: &Path, name: &NetworkName, output: Output) -> Result<(), Exit> {
    show(name, control::expose(run_dir, name).await?, output)
}

pub(super) async fn hide(run_dir: &Path, name: &NetworkName, output: Output) -> Result<(), Exit> {
    show(name, control::hide(run_dir, name).await?, output)
}

fn show(name: &NetworkName, part: Option<proto::NetworkPart>, output: Output) -> Result<(), Exit> {
    match part {
        Some(part) if output.json => print_json(&part),
        None if output.json => print_json(&json!({ "name": name.as_str(), "state": "hidden" })),
        Some(part) => output::answer(&format!("{}\n", part_text(&part))),
        None => output::answer(&format!("{name} is hidden: this host has no part in it\n")),
    }
}

fn endpoints_of(attachment: &proto::Attachment) -> impl Iterator<Item = Value> {
    attachment.endpoints.iter().map(|endpoint| {
        let addresses = [&endpoint.address, &endpoint.address_v6].into_iter().filter(|text| !text.is_empty());
        json!({
            "guest": attachment.guest,
            "addresses": addresses.collect::<Vec<_>>(),
            "mac": endpoint.mac,
            "since": endpoint.since,
            "state": attachment.state,
        })
    })
}

/// The part of this host, if an agent runs and has one.
pub(super) async fn part(run_dir: &Path, name: &NetworkName) -> Value {
    let Ok(status) = control::status(run_dir).await else { return Value::Null };
    let Some(part) = status.networks.iter().find(|part| part.name == name.as_str()) else { return Value::Null };
    let mut shown = json!(part);
    let endpoints = status.attachments.iter().filter(|one| one.network == name.as_str());
    shown["endpoints"] = endpoints.flat_map(endpoints_of).collect();
    shown
}

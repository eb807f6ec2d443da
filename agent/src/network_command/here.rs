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

/// The part of this host, if an agent runs and has one.
pub(super) async fn part(run_dir: &Path, name: &NetworkName) -> Value {
    let status = control::status(run_dir).await.ok();
    let part = status.and_then(|status| status.networks.into_iter().find(|part| part.name == name.as_str()));
    part.and_then(|part| serde_json::to_value(part).ok()).unwrap_or(Value::Null)
}

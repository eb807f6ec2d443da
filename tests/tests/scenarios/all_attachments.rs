//! `wire-agent attachments --all`: what is attached on which host, as etcd was told.

use wire_tests::{Etcd, Result, check, eventually, lab};

use crate::{
    attach_site::{ctl, json},
    cluster::{Node, START, V4, cluster},
    named::{expose_on, network},
    named_store::silent_soon,
};

/// The guests that all hosts have, as one host shows them.
fn shown(node: &Node) -> Result<Vec<String>> {
    let all = json(node, "attachments --all")?;
    let mut guests: Vec<String> =
        all.as_array().into_iter().flatten().filter_map(|one| one["guest"].as_str().map(str::to_owned)).collect();
    guests.sort();
    Ok(guests)
}

fn shows(node: &Node, guests: &[&str]) -> Result {
    let is_so = || {
        let found = shown(node)?;
        check(found == guests, || format!("{found:?} instead of {guests:?}\n{}", node.agent.log()))
    };
    eventually(START, is_so).map(drop)
}

fn identity(node: &Node) -> Result<String> {
    Ok(node.agent.status()?.rest["identity"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn all_hosts_see_what_is_attached_anywhere_and_what_is_forged_attaches_nothing() -> Result {
    let lab = lab!();
    let (mut etcd, mut nodes) = cluster::<2>(&lab, V4)?;
    network(&nodes[0], "create app")?;
    for node in &nodes {
        expose_on(node, "app")?;
    }
    ctl(&nodes[0], "attach one app --when-started")?;
    ctl(&nodes[1], "attach two app --when-started")?;
    for node in &nodes {
        shows(node, &["name:one", "name:two"])?;
    }
    let table = ctl(&nodes[1], "attachments --all")?;
    check(table.contains(&nodes[0].host.v4().to_string()) && table.contains("one"), || table.clone())?;

    // While etcd is away, one comes and one goes.
    etcd.kill(0);
    ctl(&nodes[0], "attach three app --when-started")?;
    ctl(&nodes[0], "detach one")?;
    etcd.restart(0)?;
    shows(&nodes[1], &["name:three", "name:two"])?;

    // Somebody writes in the name of a host, and what is no attachment.
    let folder = |host: &str| format!("{}/wire/attachments/{host}", Etcd::PREFIX);
    let own = identity(&nodes[0])?;
    let stored = etcd.list(&folder(&own))?;
    let forged = stored[0].value().replace("three", "forged");
    let id = stored[0].key().rsplit('/').next().unwrap_or_default().to_owned();
    let other = id.chars().rev().collect::<String>();
    etcd.put(&format!("{}/{other}", folder(&own)), &forged.replace(&id, &other))?;
    etcd.put(&format!("{}/0000000000000001", folder(&own)), "{")?;
    shows(&nodes[1], &["name:forged", "name:three", "name:two"])?;
    nodes[0].agent.kill();
    nodes[0].agent.restart()?;
    nodes[0].agent.wait_ready(START)?;
    shows(&nodes[1], &["name:three", "name:two"])?;
    let here = json(&nodes[0], "attachments")?;
    check(here.as_array().is_some_and(|all| all.len() == 1 && all[0]["guest"] == "name:three"), || here.to_string())?;
    silent_soon(&nodes.each_ref())?;

    // One drains, the other is gone for good.
    nodes[0].agent.terminate()?;
    let drained = nodes[0].agent.run_with_its_flags("drain")?;
    check(drained.status.success(), || format!("{drained:?}"))?;
    shows(&nodes[1], &["name:two"])?;
    let gone = identity(&nodes[1])?;
    nodes[1].agent.kill();
    shows(&nodes[1], &["name:two"])?;
    ctl(&nodes[1], &format!("attachments --forget {gone}"))?;
    shows(&nodes[1], &[])?;
    let left = etcd.list(&folder(""))?;
    check(left.is_empty(), || format!("{left:?}"))
}

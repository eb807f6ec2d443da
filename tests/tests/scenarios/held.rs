//! Connections that others hold keep nothing from being repaired.

use std::{fs, time::Duration};

use wire_tests::{AgentSpec, Etcd, Family, LabError, Result, check, eventually, lab};

use crate::cluster::{Node, V4, exact, phase};

/// Opens 1100 connections and holds them.
const HOLD: &str = "ulimit -n 4096; for i in $(seq 1100); do exec {fd}<>/dev/tcp/HOST/9099; done; exec sleep 60";
/// A held connection takes one; the agent itself some forty.
const MOST: usize = 200;

#[test]
fn eleven_hundred_held_connections_keep_nothing_from_being_repaired_or_told() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host, stranger] = lab.hosts()?;
    let mut spec = AgentSpec::new(etcd.agent_flags()).flag("--healthz-port=9099");
    // It takes what it may, and that is not enough for all of them.
    spec.wrapper = ["prlimit", "--nofile=256:1024"].map(str::to_owned).to_vec();
    let node = Node::with(host, spec)?;
    let of = |file: &str| format!("/proc/{}/{file}", node.agent.pid().unwrap_or_default());
    let limits = fs::read_to_string(of("limits")).map_err(LabError::io("cannot read limits"))?;
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
    check(files.split_whitespace().filter(|word| *word == "1024").count() == 2, || files.to_owned())?;

    let descriptors = || fs::read_dir(of("fd")).map(Iterator::count).map_err(LabError::io("cannot count descriptors"));
    let before = descriptors()?;
    let hold = HOLD.replace("HOST", &node.host.v4().to_string());
    let _held = stranger.start("bash", &["-c".to_owned(), hold], "held")?;
    eventually(Duration::from_secs(10), || {
        let now = descriptors()?;
        check(now >= before + 60, || format!("{now} descriptors, {before} before: nobody holds any"))
    })?;
    node.host.exec("nft delete table inet wire-agent")?;
    node.host.exec("ip link del flannel.1")?;
    eventually(Duration::from_secs(10), || {
        node.host.exec("nft list table inet wire-agent")?;
        exact(&etcd, &[&node], &[Family::V4])
    })?;
    phase(&node.agent, "ready")?;
    let now = descriptors()?;
    check(now < MOST, || format!("{now} descriptors are open"))
}

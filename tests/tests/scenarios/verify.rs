//! `wire-agent verify` and `plan`: what differs on a host is told in a sentence each, by the running agent, from etcd and from the disk; and
//! nothing is written.

use serde_json::Value;
use wire_tests::{Agent, AgentSpec, Comparison, Etcd, Family, Lab, LabError, Result, Stored, check, eventually, lab};

use crate::{
    cluster::{DUAL, Node, START, phase, put_peers, settle},
    firewall_lacking::as_nobody,
    listeners::Listeners,
};

/// A host of a dual-stack network with masquerading and Docker's options, and two peers that are only leases.
pub(crate) fn settled(lab: &Lab) -> Result<(Etcd, Node)> {
    let etcd = Etcd::start(lab)?;
    etcd.put_config(DUAL)?;
    let node = Node::with(lab.host("a")?, AgentSpec::new(etcd.agent_flags()).flag("--ip-masq"))?;
    put_peers(&etcd, 2, &Family::ALL)?;
    settle(&etcd, &[&node], &Family::ALL)?;
    // The packet filter follows the leases on its own.
    eventually(START, || expect_silence(&node, &["verify"]))?;
    Ok((etcd, node))
}

/// Checks that nothing differs.
pub(crate) fn expect_silence(node: &Node, words: &[&str]) -> Result {
    let answer = node.agent.compare(words)?;
    check(answer.is_silent(), || format!("{words:?}: {answer:?}"))
}

#[test]
fn on_a_settled_host_nothing_differs_for_the_agent_nor_after_its_end_for_etcd_and_the_disk() -> Result {
    let lab = lab!();
    let (etcd, mut node) = settled(&lab)?;
    expect_nothing(&node, &[])?;
    node.agent.terminate()?;
    expect_nothing(&node, &[])?;
    expect_nothing(&node, &["--offline"])?;
    node.agent.spec_mut().wrapper = as_nobody(&etcd).wrapper;
    expect_nothing(&node, &[])
}

fn expect_nothing(node: &Node, words: &[&str]) -> Result {
    for command in ["verify", "plan"] {
        expect_silence(node, &[&[command], words].concat())?;
    }
    let answer = node.agent.compare(&[&["verify", "--json"], words].concat())?;
    check(answer.status == Some(0), || format!("{answer:?}"))?;
    let reply: Value = serde_json::from_str(&answer.text).map_err(|error| LabError::Wrong(error.to_string()))?;
    let resources = reply["resources"].as_array().cloned().unwrap_or_default();
    let names: Vec<&str> = resources.iter().filter_map(|resource| resource["resource"].as_str()).collect();
    check(names == ["network", "firewall", "files"], || format!("{names:?}"))?;
    for resource in &resources {
        for list in ["differences", "changes", "conflicts"] {
            check(resource[list].as_array().is_some_and(Vec::is_empty), || format!("{list}: {resource}"))?;
        }
    }
    Ok(())
}

#[test]
fn comparing_a_host_writes_nothing_whatever_differs() -> Result {
    let lab = lab!();
    let (_etcd, Node { mut agent, host, .. }) = settled(&lab)?;
    // Written seconds after the last change of a lease.
    let network = agent.state_dir().join("network.json");
    eventually(START, || check(network.exists(), || "the network state is not saved".to_owned()))?;
    let flannel = host.dir().join("agent/flannel");
    let listeners = Listeners::start(&host, vec![agent.state_dir(), agent.run_dir(), flannel])?;
    for words in [["verify"], ["plan"]] {
        expect_no_writes(&listeners, &agent, &words, 0)?;
    }
    agent.terminate()?;
    let stopped = [["verify"].as_slice(), &["plan"], &["verify", "--offline"], &["plan", "--offline", "--json"]];
    stopped.iter().try_for_each(|words| expect_no_writes(&listeners, &agent, words, 0))?;
    let subnet_file = agent.subnet_file().display().to_string();
    let damage = format!(
        "ip link delete flannel.1; ip -6 route flush proto 91; sysctl -qw net.ipv4.ip_forward=0; rm {subnet_file}
         nft delete table inet wire-agent; iptables -F; ip6tables -F"
    );
    let heard = listeners.during(|| host.namespace().sh(&damage).map(drop))?;
    for change in [
        "flannel.1",
        "fd00:5:564::/64",
        "all forwarding off",
        "delete table inet wire-agent",
        "WIRE-FORWARD",
        "subnet.env",
    ] {
        check(heard.iter().any(|line| line.contains(change)), || format!("{change} was not heard: {heard:#?}"))?;
    }
    stopped.iter().try_for_each(|words| expect_no_writes(&listeners, &agent, words, 1))
}

fn expect_no_writes(listeners: &Listeners<'_>, agent: &Agent, words: &[&str], status: i32) -> Result {
    let changes = listeners.during(|| {
        let answer = agent.compare(words)?;
        check(answer.status == Some(status), || format!("{words:?}: {answer:?}"))
    })?;
    check(changes.is_empty(), || format!("{words:?} has changed {changes:#?}"))
}

#[test]
fn what_cannot_be_compared_ends_with_another_status_and_the_reason() -> Result {
    let lab = lab!();
    let (mut etcd, mut node) = settled(&lab)?;
    node.agent.terminate()?;

    node.agent.spec_mut().wrapper =
        ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"].map(str::to_owned).to_vec();
    expect_refusal(&node, &["verify"], 77, "CAP_NET_ADMIN")?;
    node.agent.spec_mut().wrapper.clear();

    let subnet = node.subnet(Family::V4)?.replace(".1/24", ".0-24");
    let leases = etcd.leases()?;
    let own = leases.iter().find(|lease| lease.key().contains(&subnet)).map(Stored::key).unwrap_or_default();
    etcd.delete(&own)?;
    expect_refusal(&node, &["verify"], 69, "holds no lease in etcd")?;

    etcd.kill(0);
    expect_refusal(&node, &["verify"], 69, "etcd")?;
    expect_silence(&node, &["verify", "--offline"])?;

    let saved = node.agent.state_dir();
    node.host.namespace().sh(&format!("cd {}; mv state.json away; mkdir state.json", saved.display()))?;
    expect_refusal(&node, &["verify", "--offline"], 73, &saved.display().to_string())?;
    node.host.namespace().sh(&format!("cd {}; rmdir state.json", saved.display()))?;
    expect_refusal(&node, &["verify", "--offline"], 69, "no subnet of this host is saved")?;
    std::fs::remove_file(saved.join("network.json")).map_err(LabError::io("cannot remove network.json"))?;
    expect_refusal(&node, &["verify", "--offline"], 69, "no network state saved in")
}

fn expect_refusal(node: &Node, words: &[&str], status: i32, reason: &str) -> Result {
    let answer = node.agent.compare(words)?;
    check(answer.status == Some(status), || format!("{words:?}: {answer:?}"))?;
    check(answer.messages.contains(reason), || format!("{words:?}: {answer:?}"))?;
    check(answer.text.is_empty(), || format!("{words:?}: {answer:?}"))
}

#[test]
fn a_network_that_the_running_agent_cannot_compare_is_named() -> Result {
    let lab = lab!();
    let (_etcd, node) = settled(&lab)?;
    node.agent.ctl(&["debug", "hang", "dataplane"])?;
    lab.resting(|| expect_refusal(&node, &["verify"], 69, "the network could not be compared"))
}

#[test]
fn a_foreign_route_in_the_way_is_told_apart_from_what_differs() -> Result {
    let lab = lab!();
    let (_etcd, mut node) = settled(&lab)?;
    node.agent.terminate()?;
    node.host.namespace().ip("route replace 10.5.100.0/24 via 192.168.64.254 dev eth0 proto static")?;
    let taken = ["in the way: 10.5.100.0/24 is taken by a route of protocol static"];
    for words in [["verify"].as_slice(), &["plan"], &["verify", "--offline"]] {
        expect_lines(&node.agent.compare(words)?, &taken)?;
    }
    node.agent.restart()?;
    phase(&node.agent, "degraded")?;
    expect_lines(&node.agent.compare(&["verify"])?, &taken)
}

/// Checks that as many things differ as there are parts, each with one of them in its line.
pub(crate) fn expect_lines<S: AsRef<str>>(answer: &Comparison, parts: &[S]) -> Result {
    check(answer.status == Some(1), || format!("{answer:?}"))?;
    check(answer.lines().count() == parts.len(), || format!("{answer:?}"))?;
    for part in parts.iter().map(AsRef::as_ref) {
        let lines = answer.lines().filter(|line| line.contains(part)).count();
        check(lines == 1, || format!("{part:?} is in {lines} lines of {answer:?}"))?;
    }
    Ok(())
}

#[test]
fn what_the_running_agent_cannot_heal_is_told_until_it_can() -> Result {
    let lab = lab!();
    let (_etcd, node) = settled(&lab)?;
    let file = node.agent.docker_opts_file().display().to_string();
    node.host.namespace().sh(&format!("rm {file}; mkdir -p {file}/taken"))?;
    let told = [format!("files: file {file} cannot be compared: it is not a regular file")];
    expect_lines(&node.agent.compare(&["verify"])?, &told)?;
    let reason = phase(&node.agent, "degraded")?;
    check(reason.contains(&file), || reason)?;
    expect_lines(&node.agent.compare(&["verify"])?, &told)?;
    node.host.namespace().sh(&format!("rm -r {file}"))?;
    eventually(START, || expect_silence(&node, &["verify"])).map(drop)
}

/// Puts an nft of the host's own in front of the real one: a line of a script, in which REAL is that one.
fn with_nft(node: &mut Node, script: &str) -> Result {
    let namespace = node.host.namespace();
    let bin = node.host.dir().join("programs").display().to_string();
    let script = script.replace("REAL", namespace.sh("command -v nft")?.trim());
    namespace.sh(&format!("mkdir -p {bin}; printf '#!/bin/sh\\n{script}\\n' > {bin}/nft; chmod +x {bin}/nft"))?;
    let path = format!("PATH={bin}:{}", std::env::var("PATH").unwrap());
    node.agent.spec_mut().wrapper = vec!["env".to_owned(), path];
    Ok(())
}

#[test]
fn a_table_is_missed_where_nft_could_hold_it_also_if_nothing_is_masqueraded() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    let mut node = Node::start(lab.host("a")?, &etcd)?;
    node.agent.terminate()?;
    node.host.namespace().exec("nft delete table inet wire-agent")?;
    for words in [["verify"].as_slice(), &["verify", "--offline"]] {
        expect_lines(&node.agent.compare(words)?, &["firewall: table inet wire-agent is missing"])?;
    }
    with_nft(&mut node, "exit 1")?;
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    node.agent.terminate()?;
    expect_silence(&node, &["verify"])?;
    expect_silence(&node, &["verify", "--offline"])
}

#[test]
fn a_table_without_the_check_of_inner_sources_is_compared_as_it_could_be_written() -> Result {
    let lab = lab!();
    let (_etcd, mut node) = settled(&lab)?;
    node.agent.terminate()?;
    // One that could write the table once still holds it.
    with_nft(&mut node, "exit 1")?;
    expect_silence(&node, &["verify"])?;
    node.host.namespace().exec("nft delete table inet wire-agent")?;
    with_nft(&mut node, "t=$(cat); case $t in *typeof*) exit 1; esac; echo \"$t\" | REAL \"$@\"")?;
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    node.agent.terminate()?;
    let table = node.host.namespace().exec("nft list table inet wire-agent")?;
    check(!table.contains("claims-v4"), || table)?;
    expect_silence(&node, &["verify"])?;
    node.host.namespace().exec("nft flush chain inet wire-agent arriving")?;
    let answer = node.agent.compare(&["verify"])?;
    let others = answer.lines().find(|line| !(line.contains("of chain arriving (") && line.ends_with(" is missing")));
    check(answer.status == Some(1), || format!("{answer:?}"))?;
    check(others.is_none(), || format!("{others:?} in {answer:?}"))
}

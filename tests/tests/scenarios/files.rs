//! What cannot be written (a full disk, a read-only folder) stays as it was, is named, and is written once it can be.

use std::time::Duration;

use wire_tests::{Agent, AgentSpec, Etcd, Family, Host, Lab, LabError, Result, check, eventually, lab};

use crate::cluster::{Node, START, V4, phase, put_peers};

/// The promise for what can be written again.
const AGAIN: Duration = Duration::from_secs(15);

/// What makes a folder of an agent a filesystem of its own, which the agent alone sees, and `then` another shell line.
fn apart(host: &Host, folder: &str, then: &str) -> Vec<String> {
    let folder = host.dir().join("agent").join(folder).display().to_string();
    let script = format!(
        "mkdir -p {folder} && mount -t tmpfs -o size=64k none {folder} && cd {folder} && {then} && cd / && exec \"$@\""
    );
    ["unshare", "-m", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

/// A node with such a folder.
fn node_apart(lab: &Lab, folder: &str) -> Result<(Etcd, Node)> {
    let etcd = Etcd::start(lab)?;
    etcd.put_config(V4)?;
    let [host] = lab.hosts()?;
    let wrapper = apart(&host, folder, "true");
    let node = Node::with(host, AgentSpec { wrapper, ..AgentSpec::new(etcd.agent_flags()) })?;
    Ok((etcd, node))
}

/// A shell script in a folder as the agent sees it.
fn within(node: &Node, folder: &str, script: &str) -> Result<String> {
    let folder = node.host.dir().join("agent").join(folder).display().to_string();
    let pid = node.agent.pid()?;
    node.host.namespace().sh(&format!("nsenter -t {pid} -m sh -ec 'cd {folder}; {script}'"))
}

#[test]
fn files_that_cannot_be_written_stay_as_they_were_and_are_named_until_they_can() -> Result {
    let lab = lab!();
    let (_etcd, node) = node_apart(&lab, "flannel")?;
    let held = || within(&node, "flannel", "cat subnet.env docker_opts.env");
    let before = held()?;
    check(before.contains("MTU=1450") && before.contains("--mtu=1450"), || before.clone())?;
    let mut mtu = 1450;
    for (fault, end) in [
        ("cat /dev/zero >filler 2>/dev/null || true", "rm filler"),
        ("mount -o remount,ro $PWD", "mount -o remount,rw $PWD"),
    ] {
        let before = held()?;
        within(&node, "flannel", fault)?;
        // What is to be written changes.
        mtu -= 50;
        node.host.namespace().ip(&format!("link set eth0 mtu {}", mtu + 50))?;
        let reason = phase(&node.agent, "degraded")?;
        check(reason.contains("subnet.env") && reason.contains("cannot read this host's subnet"), || reason.clone())?;
        check(held()? == before, || format!("{before} became {:?}", held()))?;
        within(&node, "flannel", end)?;
        eventually(AGAIN, || {
            let now = held()?;
            check(now.contains(&format!("MTU={mtu}")) && now.contains(&format!("--mtu={mtu}")), || now)
        })?;
        phase(&node.agent, "ready")?;
    }
    let before = held()?;
    within(&node, "flannel", "rm *")?;
    eventually(AGAIN, || match held() {
        Ok(now) => check(now == before, || now),
        Err(error) => Err(error),
    })
    .map(drop)
}

#[test]
fn a_state_that_is_not_kept_is_named_until_it_is() -> Result {
    let lab = lab!();
    let (etcd, node) = node_apart(&lab, "state")?;
    let before = within(&node, "state", "cat state.json")?;
    within(
        &node,
        "state",
        "cat /dev/zero >filler 2>/dev/null || true; rm state.json; cat /dev/zero >>filler 2>/dev/null || true",
    )?;
    put_peers(&etcd, 3, &[Family::V4])?;
    eventually(AGAIN, || {
        let reason = node.agent.status()?.reason.unwrap_or_default();
        check(reason.contains("state.json") && reason.contains("another subnet"), || reason.clone())?;
        check(reason.contains("network.json") && reason.contains("etcd is away"), || reason)
    })?;
    within(&node, "state", "rm filler")?;
    eventually(AGAIN, || {
        let now = within(&node, "state", "cat state.json")?;
        check(now == before, || now)?;
        let known = within(&node, "state", "cat network.json; cat network.journal 2>/dev/null || true")?;
        check(known.matches("VtepMAC").count() == 3, || known)
    })?;
    phase(&node.agent, "ready").map(drop)
}

#[test]
fn a_folder_that_cannot_be_written_at_the_start_ends_it_with_status_73_and_is_named() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host] = lab.hosts()?;
    for (folder, named) in [("flannel", "subnet.env"), ("state", "--state-dir"), ("run", "--run-dir")] {
        let wrapper = apart(&host, folder, "mount -o remount,ro $PWD");
        let mut agent = Agent::spawn(&host, AgentSpec { wrapper, ..AgentSpec::new(etcd.agent_flags()) })?;
        let status = agent.wait(START)?;
        check(status.code() == Some(73) && agent.log().contains(named), || {
            format!("{folder}: {status}\n{}", agent.log())
        })?;
    }
    Ok::<_, LabError>(())
}

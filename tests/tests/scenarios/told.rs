//! What the agent tells others: health checks, systemd, and the commands that work on etcd.

use std::time::Duration;

use nix::sys::signal::Signal;
use wire_tests::{Access, Agent, AgentSpec, Etcd, Family, Host, LabError, Result, check, eventually, lab, run_binary};

use crate::cluster::{Node, PROMPT, START, V4, exact, peer, phase};

#[test]
fn health_checks_tell_waiting_from_ready_and_live_on_without_etcd() -> Result {
    let lab = lab!();
    let mut etcd = Etcd::start(&lab)?;
    let host = lab.host("a")?;
    let spec = AgentSpec::new(etcd.agent_flags()).flag("--healthz-port=9099");
    let mut agent = Agent::spawn(&host, spec)?;
    phase(&agent, "waiting")?;
    check(!asks(&host, "readyz"), || "ready without a network config".to_owned())?;
    check(asks(&host, "healthz"), || "waiting is no illness".to_owned())?;
    etcd.put_config(V4)?;
    agent.wait_ready(START)?;
    check(asks(&host, "readyz") && asks(&host, "healthz"), || "not ready with a network".to_owned())?;
    etcd.kill(0);
    let reason = phase(&agent, "degraded")?;
    check(reason.contains("etcd"), || reason)?;
    check(asks(&host, "readyz") && asks(&host, "healthz"), || "traffic flows without etcd".to_owned())?;
    etcd.restart(0)?;
    phase(&agent, "ready").map(drop)
}

fn asks(host: &Host, path: &str) -> bool {
    let answer = host.exec(&format!("busybox wget -q -O - http://{}:9099/{path}", host.v4()));
    answer.map_err(|error| println!("{path}: {error}")).is_ok()
}

#[test]
fn systemd_is_told_status_watchdog_and_stopping() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    // A beat twice a second, and a second without a step is a hang.
    let spec = AgentSpec::new(etcd.agent_flags()).env("WATCHDOG_USEC", "2000000");
    let mut node = Node::with(lab.host("a")?, spec)?;
    let subnet = node.subnet(Family::V4)?.replace(".1/24", ".0/24");
    eventually(START, || {
        let told = node.agent.status_line().unwrap_or_default();
        check(told.contains(&subnet), || format!("systemd is told {told:?}"))
    })?;
    lab.rest(Duration::from_secs(5));
    let beats = node.agent.notified("WATCHDOG=1");
    check(beats >= 5, || format!("{beats} heart beats in five seconds, of ten"))?;
    node.agent.terminate()?;
    // What was sent before the end is read by a thread of its own.
    eventually(START, || check(node.agent.notified("STOPPING=1") == 1, || "systemd is not told of the end".to_owned()))
        .map(drop)
}

#[test]
fn a_second_agent_with_the_same_folders_is_refused_with_status_75() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let node = Node::start(lab.host("a")?, &etcd)?;
    let run_dir = format!("--run-dir={}", node.agent.run_dir().display());
    let output = run_binary(Some(node.host.namespace()), &["--iface=eth0", &run_dir])?;
    check(output.status.code() == Some(75), || format!("{output:?}"))?;
    check(node.agent.status()?.phase == "ready", || node.agent.log())
}

/// What is read and of no use is named, and nothing goes down for it.
#[test]
fn a_hangup_reads_the_certificates_again() -> Result {
    let lab = lab!();
    let etcd = Etcd::start_with(&lab, Access::ClientCertificates, 1)?;
    etcd.put_config(V4)?;
    let node = Node::start(lab.host("a")?, &etcd)?;
    let before = (node.subnet(Family::V4)?, node.host.kernel().link("flannel.1")?, etcd.leases()?);
    let pki = etcd.pki().unwrap();
    let certificate = pki.client_certificate();
    std::fs::write(&certificate, "no certificate").map_err(LabError::io("cannot break the certificate"))?;
    node.agent.signal(Signal::SIGHUP)?;
    let reason = phase(&node.agent, "degraded")?;
    check(reason.contains(&certificate.display().to_string()), || reason)?;
    // A new one, of a new key.
    pki.issue("client", "DNS:agent.lab")?;
    node.agent.signal(Signal::SIGHUP)?;
    phase(&node.agent, "ready")?;
    let after = (node.subnet(Family::V4)?, node.host.kernel().link("flannel.1")?, etcd.leases()?);
    check(before == after, || format!("{before:?} became {after:?}"))
}

#[test]
fn a_hangup_joins_anew_and_changes_nothing() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let node = Node::start(lab.host("a")?, &etcd)?;
    let before = (node.subnet(Family::V4)?, node.host.kernel().link("flannel.1")?, etcd.leases()?);
    node.agent.signal(Signal::SIGHUP)?;
    eventually(START, || check(node.agent.log().contains("joining anew"), || node.agent.log()))?;
    let newcomer = peer(20, &[Family::V4]);
    etcd.put(&newcomer.key(), &newcomer.value())?;
    eventually(PROMPT, || exact(&etcd, &[&node], &[Family::V4]))?;
    // Before the newcomer, which may be flannel's, has our lease written again.
    let others = etcd.leases()?.into_iter().filter(|lease| lease.key() != newcomer.key()).collect();
    let after = (node.subnet(Family::V4)?, node.host.kernel().link("flannel.1")?, others);
    check(before == after, || format!("{before:?} became {after:?}"))
}

#[test]
fn the_network_config_is_put_checked_and_read_without_etcdctl() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    let host = lab.host("a")?;
    let endpoints = format!("--etcd-endpoints={}", etcd.endpoints());
    let config = |words: &[&str]| -> Result<(Option<i32>, String)> {
        let words: Vec<&str> =
            ["config"].into_iter().chain(words.iter().copied()).chain([endpoints.as_str()]).collect();
        let output = run_binary(Some(host.namespace()), &words)?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    };
    let expect = |words: &[&str], status: i32, part: &str| -> Result {
        let (code, said) = config(words)?;
        check(code == Some(status) && said.contains(part), || format!("{words:?}: {code:?} {said}"))
    };
    expect(&["get"], 1, "/coreos.com/network/config")?;
    expect(&["init", "not json"], 78, "not JSON")?;
    expect(&["init", r#"{"Network":"10.5.0.0/16"}"#], 0, "")?;
    let stored = etcd.get(&format!("{}/config", Etcd::PREFIX))?.unwrap().value();
    check(stored == r#"{"Backend":{"Type":"vxlan"},"Network":"10.5.0.0/16"}"#, || stored.clone())?;
    expect(&["init", r#"{"Network":"10.6.0.0/16"}"#], 1, "already")?;
    expect(&["init", "--if-absent", r#"{"Network":"10.6.0.0/16"}"#], 0, "already")?;
    expect(&["get", "--json"], 0, &stored)?;
    expect(&["validate"], 0, "10.5.1.0/24")?;
    expect(&["set", r#"{"Network":"10.6.0.0/16","SubnetLen":8}"#], 78, "SubnetLen is 8")?;
    expect(&["set", r#"{"Network":"10.6.0.0/16","Typo":1,"Backend":{"Type":"vxlan"}}"#], 0, "Typo")?;
    expect(&["get"], 0, "10.6.1.0/24")
}

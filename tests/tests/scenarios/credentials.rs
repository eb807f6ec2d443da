//! What lets a running agent into etcd is changed, taken away, or ends. Traffic goes on, `status` says why etcd refuses, and
//! what is right again is taken without a restart.

use std::{fs, time::Duration};

use nix::sys::signal::Signal;
use wire_tests::{Access, Agent, AgentSpec, Etcd, Family, Lab, LabError, Monitor, Result, check, eventually, lab};

use crate::cluster::{Node, START, V4, device, exact, peer};

/// A pause is a second at the most.
const TAKEN: Duration = Duration::from_secs(10);

#[test]
fn a_password_that_was_changed_and_a_role_that_was_taken_away_are_named_and_the_new_ones_taken() -> Result {
    let lab = lab!();
    let mut etcd = Etcd::start_with(&lab, Access::Password, 1)?;
    etcd.put_config(V4)?;
    etcd.ctl(&["role", "add", "host"])?;
    etcd.ctl(&["role", "grant-permission", "host", "--prefix=true", "readwrite", Etcd::PREFIX])?;
    user(&etcd, "first")?;
    let host = lab.host("a")?;
    let file = host.dir().join("password");
    write(&file, "first")?;
    let flags = [
        format!("--etcd-endpoints={}", etcd.endpoints()),
        format!("--etcd-prefix={}", Etcd::PREFIX),
        "--etcd-username=host".to_owned(),
        format!("--etcd-password-file={}", file.display()),
    ];
    let node = Node::with(host, AgentSpec::new(flags.to_vec()))?;

    etcd.ctl(&["user", "delete", "host"])?;
    user(&etcd, "second")?;
    refused(&mut etcd, &node, &["authentication failed"])?;
    write(&file, "second")?;
    taken(&etcd, &node, 20)?;

    etcd.ctl(&["user", "revoke-role", "host", "host"])?;
    refused(&mut etcd, &node, &["permission denied"])?;
    etcd.ctl(&["user", "grant-role", "host", "host"])?;
    taken(&etcd, &node, 21)?;

    // A hangup while a new password is given is no more than one that is not.
    etcd.ctl(&["user", "delete", "host"])?;
    user(&etcd, "third")?;
    write(&file, "third")?;
    let earlier = node.agent.log().len();
    node.agent.signal(Signal::SIGHUP)?;
    eventually(START, || check(node.agent.log()[earlier..].contains("joining anew"), || node.agent.log()))?;
    taken(&etcd, &node, 22)?;
    check(!node.agent.log().contains("second"), || "the password is in the log".to_owned())
}

fn user(etcd: &Etcd, password: &str) -> Result {
    etcd.ctl(&["user", "add", "host", "--new-user-password", password])?;
    etcd.ctl(&["user", "grant-role", "host", "host"]).map(drop)
}

fn write(file: &std::path::Path, password: &str) -> Result {
    fs::write(file, format!("{password}\n")).map_err(LabError::io("cannot write the password's file"))
}

#[test]
fn a_certificate_that_ends_is_named_and_a_renewed_one_taken() -> Result {
    let lab = lab!();
    let (mut etcd, node) = with_own_certificate(&lab)?;
    let pki = etcd.pki().unwrap();
    pki.issue_expired("agent", "DNS:agent.lab")?;
    refused(&mut etcd, &node, &["ertificate"])?;
    etcd.pki().unwrap().issue("agent", "DNS:agent.lab")?;
    taken(&etcd, &node, 20)
}

#[test]
fn which_certificate_is_refused_and_why_is_told_while_joining() -> Result {
    let lab = lab!();
    let (etcd, mut node) = with_own_certificate(&lab)?;
    let pki = etcd.pki().unwrap();
    node.agent.terminate()?;
    // etcd reads its files for each connection.
    pki.issue("server", "IP:192.0.2.1")?;
    let first = Agent::spawn(&lab.host("first")?, AgentSpec::new(etcd.agent_flags()))?;
    tells(&first, "waiting", &format!("is not for {}, its names are: ", etcd.host(0).v4()))?;
    pki.issue("server", &format!("IP:{}", etcd.host(0).v4()))?;
    pki.issue_expired("agent", "DNS:agent.lab")?;
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    for _ in 0..2 {
        tells(&node.agent, "degraded", "refuses the client certificate ")?;
        tells(&node.agent, "degraded", "; traffic uses the leases known at ")?;
        let earlier = node.agent.log().len();
        node.agent.signal(Signal::SIGHUP)?;
        let goes_by_it = |log: &str| log.contains("agent.crt") && log.contains("using the network state saved on disk");
        eventually(START, || check(goes_by_it(&node.agent.log()[earlier..]), || node.agent.log()))?;
    }
    etcd.pki().unwrap().issue("agent", "DNS:agent.lab")?;
    taken(&etcd, &node, 20)
}

/// Checks that `status` and systemd are told a part of the reason, and nothing that says less of the same.
fn tells(agent: &Agent, phase: &str, part: &str) -> Result {
    eventually(START, || {
        let status = agent.status()?;
        let (reason, line) = (status.reason.unwrap_or_default(), agent.status_line().unwrap_or_default());
        let is_told = [&reason, &line].iter().all(|told| told.contains(part) && told.matches("etcd: ").count() == 1);
        check(status.phase == phase && is_told, || {
            format!("{}: {reason}; systemd: {line}\n{}", status.phase, agent.log())
        })
    })
    .map(drop)
}

/// The lab's own clients keep theirs.
fn with_own_certificate(lab: &Lab) -> Result<(Etcd, Node)> {
    let etcd = Etcd::start_with(lab, Access::ClientCertificates, 1)?;
    etcd.put_config(V4)?;
    etcd.pki().unwrap().issue("agent", "DNS:agent.lab")?;
    let own = |flag: String| flag.replace("client.crt", "agent.crt").replace("client.key", "agent.key");
    let flags = etcd.agent_flags().into_iter().map(own).collect();
    let node = Node::with(lab.host("a")?, AgentSpec::new(flags))?;
    Ok((etcd, node))
}

/// Lets all connections end, and checks that etcd's refusal is told and nothing else comes of it.
fn refused(etcd: &mut Etcd, node: &Node, parts: &[&str]) -> Result {
    let monitor = Monitor::listen(node.host.namespace())?;
    etcd.kill(0);
    etcd.restart(0)?;
    let mut told = String::new();
    eventually(START, || {
        let status = node.agent.status()?;
        told = status.reason.unwrap_or_default();
        check(status.phase == "degraded" && parts.iter().all(|part| told.contains(part)), || told.clone())
    })?;
    println!("{told}");
    let index = node.host.kernel().link(device(Family::V4))?.unwrap().index;
    let writes = monitor.writes(index)?;
    check(writes.is_empty(), || format!("the kernel was written: {writes:?}"))
}

/// Checks that all is well again without a restart.
fn taken(etcd: &Etcd, node: &Node, number: u16) -> Result {
    eventually(TAKEN, || {
        let status = node.agent.status()?;
        check(status.phase == "ready", || format!("{:?}\n{}", status.reason, node.agent.log()))
    })?;
    let newcomer = peer(number, &[Family::V4]);
    etcd.put(&newcomer.key(), &newcomer.value())?;
    eventually(TAKEN, || exact(etcd, &[node], &[Family::V4])).map(drop)
}

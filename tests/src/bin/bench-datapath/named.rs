//! A network by name between two hosts, with a namespace attached to it on each.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::Value;
use wire_tests::{Agent, Etcd, Host, LabError, Leg, Namespace, Process, Result, binary, check, eventually};

use crate::{
    contestant::Setting,
    pair::{Carriers, Network, START, agents},
};

/// Where networks by name have their addresses from: no contestant's own network is in it.
pub(crate) const POOL: &str = "11.0.0.0/8";
const NETWORK: &str = "bench";

/// An agent on each, a network by name, and what stands for a container of it on each.
pub(crate) fn attached(etcd: &Etcd, network: &Network, setting: Setting, hosts: [&Host; 2]) -> Result<Carriers> {
    let mut carriers = agents(etcd, network, setting, hosts)?;
    if let Some(agent) = carriers.agents.first() {
        carry_out(agent, &format!("network create {NETWORK}"))?;
    }
    for (host, agent) in hosts.into_iter().zip(&carriers.agents) {
        carriers.helpers.push(helper(host, agent)?);
        let namespace = Namespace::new(host.namespace().run(), &format!("{}-leg", host.name()))?;
        let said = carry_out(agent, &format!("attach /run/netns/{} {NETWORK} --json", namespace.name()))?;
        let address = address(&said)?;
        carriers.only = Some(address);
        carriers.legs.push(Leg::attached(namespace, vec![IpAddr::V4(address)]));
    }
    Ok(carriers)
}

/// What opens namespaces for the agent.
fn helper(host: &Host, agent: &Agent) -> Result<Process> {
    let socket = agent.run_dir().join("guests.sock");
    let path = socket.display().to_string();
    let words = ["guests", "--agent-user=root", "--socket", &path, "--docker-socket", "/nobody/listens.sock"];
    let helper = host.start(binary()?, &words.map(str::to_owned), "guests.log")?;
    eventually(START, || check(socket.exists(), || "the helper does not listen".to_owned()))?;
    Ok(helper)
}

fn carry_out(agent: &Agent, words: &str) -> Result<String> {
    let output = agent.run_with_its_flags(words)?;
    check(output.status.success(), || format!("{words}: {output:?}\n{}", agent.log()))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The address that an attachment has.
fn address(said: &str) -> Result<Ipv4Addr> {
    let reply: Value = serde_json::from_str(said).map_err(|error| LabError::Wrong(format!("attach: {error}")))?;
    let text = reply["attachment"]["endpoints"][0]["address"].as_str().unwrap_or_default();
    text.parse().map_err(|_| LabError::Wrong(format!("no address in {said}")))
}

//! Hosts with agents, helpers and perhaps dockerds, and the commands for attachments on them.

use std::{net::IpAddr, path::PathBuf};

use serde_json::Value;
use wire_tests::{Container, Dockerd, Etcd, LabError, Process, Result, Stored, Underlay, binary, check, eventually};

use crate::cluster::{Node, START, cluster};

/// A host with an agent, a helper that opens containers for it, and perhaps a dockerd.
pub(crate) struct Site {
    pub(crate) helper: Process,
    pub(crate) docker: Option<Dockerd>,
    pub(crate) node: Node,
}

impl Site {
    pub(crate) fn new(node: Node, has_docker: bool) -> Result<Self> {
        // Containers have no other network, so each packet is of ours.
        let options = ["--bridge=none", "--iptables=false"].map(str::to_owned);
        let docker = has_docker.then(|| Dockerd::start(&node.host, &options)).transpose()?;
        let socket = docker.as_ref().map_or_else(|| PathBuf::from("/nobody/listens.sock"), Dockerd::socket);
        let helper = helper(&node, &socket.display().to_string())?;
        Ok(Self { helper, docker, node })
    }

    pub(crate) fn run(&mut self) -> Result<Container> {
        let docker = self.docker.as_mut().ok_or_else(|| LabError::Wrong("no dockerd".to_owned()))?;
        docker.run_with(&["--cap-add=NET_ADMIN"])
    }

    pub(crate) fn docker(&self, words: &[&str]) -> Result<String> {
        self.docker.as_ref().ok_or_else(|| LabError::Wrong("no dockerd".to_owned()))?.docker(words)
    }
}

/// The helper of this host's agent.
pub(crate) fn helper(node: &Node, docker_socket: &str) -> Result<Process> {
    let socket = node.agent.run_dir().join("guests.sock");
    let words =
        ["guests", "--agent-user=root", "--socket", &socket.display().to_string(), "--docker-socket", docker_socket];
    let helper = node.host.start(binary()?, &words.map(str::to_owned), "guests.log")?;
    eventually(START, || check(socket.exists(), || "the helper does not listen".to_owned()))?;
    Ok(helper)
}

/// An etcd with this config, and `N` hosts.
pub(crate) fn sites<const N: usize>(lab: &Underlay, config: &str, has_docker: bool) -> Result<(Etcd, Vec<Site>)> {
    let (etcd, nodes) = cluster::<N>(lab, config)?;
    let sites = nodes.into_iter().map(|node| Site::new(node, has_docker)).collect::<Result<Vec<_>>>()?;
    Ok((etcd, sites))
}

/// Carries out `wire-agent …` with the flags of the agent, and gives what it printed.
pub(crate) fn ctl(node: &Node, words: &str) -> Result<String> {
    let output = node.agent.run_with_its_flags(words)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    check(output.status.success(), || format!("{words}: {output:?}\n{}", node.agent.log()))?;
    Ok(text)
}

/// The same for a command that is refused: its exit status and what it says.
pub(crate) fn refused(node: &Node, words: &str) -> Result<(Option<i32>, String)> {
    let output = node.agent.run_with_its_flags(words)?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

pub(crate) fn json(node: &Node, words: &str) -> Result<Value> {
    let text = ctl(node, &format!("{words} --json"))?;
    serde_json::from_str(&text).map_err(|error| LabError::Wrong(format!("{words}: {error}: {text}")))
}

/// Attaches a guest to `app`, and gives the addresses that it has.
pub(crate) fn attach(node: &Node, words: &str) -> Result<Vec<IpAddr>> {
    let reply = json(node, &format!("attach {words}"))?;
    let attachment = &reply["attachment"];
    check(attachment["state"] == "attached", || format!("{reply}\n{}", node.agent.log()))?;
    Ok(addresses(attachment))
}

pub(crate) fn addresses(attachment: &Value) -> Vec<IpAddr> {
    let endpoints = attachment["endpoints"].as_array().cloned().unwrap_or_default();
    let texts = endpoints.iter().flat_map(|endpoint| [&endpoint["address"], &endpoint["address_v6"]]);
    texts.filter_map(|text| text.as_str()?.parse().ok()).collect()
}

/// All attachments of a host, by their guests, with their states.
pub(crate) fn states(node: &Node) -> Result<Vec<(String, String)>> {
    let all = json(node, "attachments")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(all.as_array().into_iter().flatten().map(|one| (text(&one["guest"]), text(&one["state"]))).collect())
}

/// The attachments of a guest as it is kept, with all that is said of them.
pub(crate) fn of_guest(node: &Node, guest: &str) -> Result<Vec<Value>> {
    let all = json(node, "attachments")?;
    Ok(all.as_array().into_iter().flatten().filter(|one| one["guest"] == guest).cloned().collect())
}

/// The port of the only attachment of a guest.
pub(crate) fn port(node: &Node, guest: &str) -> Result<String> {
    let all = of_guest(node, guest)?;
    let port = all.first().and_then(|one| one["endpoints"][0]["port"].as_str());
    port.map(str::to_owned).ok_or_else(|| LabError::Wrong(format!("{guest}: {all:?}")))
}

/// True while a host has a link of that name.
pub(crate) fn has_link(node: &Node, name: &str) -> Result<bool> {
    Ok(node.host.namespace().sh("ip -o link")?.contains(name))
}

/// The keys of networks by name, but for what keeps a VNI from being used again.
pub(crate) fn keys(etcd: &Etcd) -> Result<Vec<Stored>> {
    let all = etcd.list(&format!("{}/wire/", Etcd::PREFIX))?;
    let of_networks = ["/networks/", "/members/", "/blocks/", "/addresses/"];
    Ok(all.into_iter().filter(|stored| of_networks.iter().any(|folder| stored.key().contains(folder))).collect())
}

pub(crate) fn silent(sites: &[Site]) -> Result {
    for site in sites {
        let is_silent = || {
            let said = site.node.agent.compare(&["verify"])?;
            check(said.is_silent(), || format!("verify: {said:?}\n{}", site.node.agent.log()))
        };
        eventually(START, is_silent)?;
    }
    Ok(())
}

/// A namespace by a name in /run/netns, gone with this.
pub(crate) struct Made(String);

impl Made {
    pub(crate) fn name(&self) -> &str {
        &self.0
    }

    pub(crate) fn new(name: &str) -> Result<Self> {
        wire_tests::output(std::process::Command::new("ip").args(["netns", "add", name]))?;
        Ok(Self(name.to_owned()))
    }

    /// One of a host, whose name ends so.
    pub(crate) fn of(node: &Node, suffix: &str) -> Result<Self> {
        Self::new(&format!("{}-{suffix}", node.host.namespace().name()))
    }

    /// Its path, as a guest.
    pub(crate) fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// Runs a command line in it, split at blanks.
    pub(crate) fn run(&self, line: &str) -> Result<String> {
        let words = ["netns", "exec", &self.0].into_iter().chain(line.split_whitespace());
        wire_tests::output(std::process::Command::new("ip").args(words.collect::<Vec<_>>()))
    }

    pub(crate) fn pings(&self, address: IpAddr) -> Result {
        self.run(&format!("ping -c 1 -W 5 {address}")).map(drop)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = wire_tests::output(std::process::Command::new("ip").args(["netns", "delete", &self.0]));
    }
}

//! With a dockerd and a container.

use wire_tests::{Dockerd, Result, docker_options};

use super::{DUAL, Scene, V4, peers};
use crate::stage::Stage;
use wire_tests::PeerLease;

pub(super) const SCENES: &[Scene] = &[
    Scene {
        name: "docker-before",
        about: "Docker is there with another subnet before the agent, and is then restarted with its options",
        config: V4,
        play: before,
        has: &[
            ("ends and commands", "docker0 has 172.17.0.1/16"),
            ("h1 addresses", "10.5.1.1/24"),
            ("h1 links", "docker0"),
            ("h1 nftables", "docker0"),
            ("h1 iptables", "DOCKER"),
            ("h1 iptables", "WIRE-"),
            ("h1 routes", "10.5.100.0/24 via 10.5.100.0 dev flannel.1"),
            ("h1 status --json", "\"phase\": \"ready\""),
        ],
        lacks: &[("h1 status --json", "172.17.")],
    },
    Scene {
        name: "docker-after",
        about: "Docker is started with the agent's options, and has a container; the agent masquerades",
        config: DUAL,
        play: after,
        has: &[
            ("h1 addresses", "10.5.1.1/24"),
            ("h1 nftables", "docker0"),
            ("h1 nftables", "masquerade"),
            ("h1 iptables", "DOCKER"),
            ("h1 iptables", "WIRE-"),
            ("h1 files", "--ip-masq=false"),
            ("h1 status --json", "\"phase\": \"ready\""),
        ],
        lacks: &[],
    },
];

fn before(stage: &mut Stage) -> Result {
    stage.put(&peers())?;
    let host = stage.lab.host("h1")?;
    let mut docker = Dockerd::start(&host, &[])?;
    stage.join_on(host, &[])?;
    let site = stage.first();
    site.says("degraded", "docker0 has")?;
    let reason = site.agent.status()?.reason.unwrap_or_default();
    docker.restart(&docker_options(&site.agent.docker_opts_file())?)?;
    docker.run()?;
    site.shows("ip -o address show dev docker0", "10.5.1.1/24")?;
    site.phase("ready")?;
    site.shows("nft list table inet wire-agent", "docker0")?;
    site.shows("iptables-save", "-A DOCKER-USER -j WIRE")?;
    stage.said.push(format!("before Docker is restarted: {reason}\n"));
    stage.dockers.push(docker);
    Ok(())
}

fn after(stage: &mut Stage) -> Result {
    stage.put(&peers().map(PeerLease::dual_stack))?;
    let host = stage.lab.host("h1")?;
    host.sysctl("net.ipv4.ip_forward", "1")?;
    stage.join_on(host, &["--ip-masq"])?;
    let site = stage.first();
    let mut docker = Dockerd::start_with_file(&site.host, &site.agent.docker_opts_file())?;
    docker.run()?;
    site.shows("nft list table inet wire-agent", "docker0")?;
    site.shows("iptables-save", "-A DOCKER-USER -j WIRE")?;
    stage.dockers.push(docker);
    Ok(())
}

//! Compose on a host's subnet, by the words of README.

use std::time::{Duration, Instant};

use wire_tests::{Machine, Result, check, eventually, steadily};

use crate::containers::{container_address, fetch};

/// One service, before the network of README.
const SERVICES: &str = "services:
  web: {image: lab, container_name: web, command: httpd -f -p 80 -h /bin, stop_signal: SIGKILL}
";

pub(crate) fn compose_on_the_hosts_subnet(machine: &Machine, other: &Machine) -> Result {
    let start = Instant::now();
    machine.sh("docker rm -f web >/dev/null; apt-get install -y docker-compose")?;
    machine.sh(&block("echo DOCKER_OPT_BIP=--bip=172.31.0.1/24 >/etc/default/docker-bridge"))?;
    let compose = format!("{SERVICES}{}", block("networks:"));
    machine.sh(&format!("mkdir -p /srv/site; cat >/srv/site/compose.yaml <<'EOF'\n{compose}EOF"))?;
    let variables: String =
        block(". /run/flannel/subnet.env").lines().take(2).map(|line| format!("{line}\n")).collect();
    let up = format!("{variables}export SUBNET FLANNEL_MTU; cd /srv/site; docker compose up -d");
    machine.sh(&up)?;
    eprintln!("compose {}", machine.sh("docker compose version --short")?.trim());

    let (subnet, address) = (machine.sh(crate::SUBNET)?, container_address(machine)?);
    let prefix = subnet.trim().trim_end_matches("1/24");
    check(!prefix.is_empty() && address.starts_with(prefix), || format!("{address} is not of {subnet}"))?;
    let has = machine.sh("docker exec web sh -c 'read mtu </sys/class/net/eth0/mtu; echo $mtu'")?;
    let fits = machine.sh("cat /sys/class/net/flannel.1/mtu")?;
    check(has == fits, || format!("the container has MTU {has}, the overlay {fits}"))?;
    let connect = || {
        fetch(other, &address, 80)?;
        fetch(machine, &container_address(other)?, 80)
    };
    connect()?;
    let unnamed = || {
        let status = machine.sh("wire-agent status")?;
        check(!status.contains("docker0") && !status.contains("br-"), || status)
    };
    // Of Docker's start something may have been said until the next look, and a bridge that is wrong is named after two seconds.
    eventually(Duration::from_secs(15), unnamed)?;
    steadily(Duration::from_secs(4), unnamed)?;
    machine.sh("systemctl restart docker; docker start web >/dev/null")?;
    connect()?;
    eprintln!("compose took {:?}", start.elapsed());
    Ok(())
}

/// The indented block of README that begins with this line, without its indentation.
fn block(first: &str) -> String {
    let lines = include_str!("../../../README.md").lines().map(|line| line.strip_prefix("    "));
    let block = lines.skip_while(|line| *line != Some(first)).map_while(|line| line);
    block.map(|line| format!("{line}\n")).collect()
}

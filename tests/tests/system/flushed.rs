//! What anyone flushes on a machine: the agent's rules are back within five seconds, and only while it runs. Docker's own are not
//! its task; a restart of Docker puts those back.

use std::time::{Duration, Instant};

use wire_tests::{Machine, Result, check, eventually, steadily};

use crate::containers::{address_of, container_address, fetch, start_again};

/// The promise.
const BACK: Duration = Duration::from_secs(5);

/// All rules of ours, without counters and without what is called from a chain that is Docker's. The kernel has no order of a set.
const OURS: &str = "nft -s -t list table inet wire-agent
    for set in subnets-v4-24 peers-v4 bridges; do
        nft list set inet wire-agent $set | tr -d '\\n\\t }' | sed 's/.*elements={//' | tr , '\\n' | sort; echo; done
    for t in iptables ip6tables; do $t-save | sed -E 's/ \\[[0-9]+:[0-9]+\\]//' | grep WIRE | grep -v 'DOCKER-USER\\|WIRE-RAW' || true; done";

const FLUSHES: [&str; 2] = ["nft flush ruleset", "iptables -F; iptables -t raw -F; iptables -t nat -F"];

pub(crate) fn what_is_flushed_comes_back(machine: &Machine, other: &Machine) -> Result {
    let whole = machine.sh(OURS)?;
    for part in ["-j WIRE-FORWARD", "-j WIRE-POLICY", "chain sources {", "chain arriving {"] {
        check(whole.contains(part), || format!("no {part} in {whole}"))?;
    }
    for flush in FLUSHES {
        machine.sh(flush)?;
        let start = Instant::now();
        eventually(BACK, || {
            let now = machine.sh(OURS)?;
            check(now == whole, || format!("{flush}:\n{now}\ninstead of\n{whole}"))
        })?;
        eprintln!("{flush}: back after {:?}", start.elapsed());
        connect_both_ways(machine, other)?;
        // Docker, whose chains are not whole now, puts its drops for what starts from here on.
        machine.sh("docker run -d --name later lab httpd -f -p 80 -h /bin >/dev/null")?;
        fetch(other, &address_of(machine, "later")?, 80)?;
        machine.sh("docker rm -f later >/dev/null; systemctl restart docker")?;
        start_again(machine)?;
        connect_both_ways(machine, other)?;
    }
    machine.sh("systemctl stop wire-agent; nft flush ruleset")?;
    steadily(BACK + Duration::from_secs(1), || {
        let rules = machine.sh("nft list ruleset; iptables-save; ip6tables-save")?;
        check(!rules.to_lowercase().contains("wire"), || format!("without the agent there are {rules}"))
    })?;
    machine.sh("systemctl start wire-agent; systemctl restart docker")?;
    start_again(machine)?;
    let again = || {
        let now = machine.sh(OURS)?;
        check(now == whole, || format!("started again:\n{now}\ninstead of\n{whole}"))
    };
    eventually(BACK * 2, again).map(drop)
}

/// New connections, each from the one's container to the other's.
fn connect_both_ways(one: &Machine, other: &Machine) -> Result {
    fetch(one, &container_address(other)?, 80)?;
    fetch(other, &container_address(one)?, 80)
}

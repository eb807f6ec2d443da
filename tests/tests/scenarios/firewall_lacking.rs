//! The packet filter is as whole as it can be where something is missing: root, nft, the iptables that others use, a program that answers.

use std::time::Duration;

use wire_tests::{
    Agent, AgentSpec, Dockerd, Etcd, Family, Host, LabError, PeerLease, Result, check, docker_options, eventually,
    expect_peers, lab, measured, steadily,
};

use crate::{
    cluster::{DUAL, Node, PROMPT, START, V4, device, peer, phase},
    datapath::Datapath,
    firewall::ours,
    seat::BACK,
};

/// As a unit with a user of its own starts it. The lab's own folders are root's alone: into those it may look and write.
pub(crate) fn as_nobody(etcd: &Etcd) -> AgentSpec {
    let caps = "+net_admin,+dac_override";
    let words = format!(
        "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all,{caps} --ambient-caps={caps} --bounding-set=-all,{caps}"
    );
    let wrapper = words.split(' ').map(str::to_owned).collect();
    AgentSpec { wrapper, ..AgentSpec::new(etcd.agent_flags()).flag("--ip-masq") }
}

#[test]
fn a_user_that_is_not_root_keeps_all_of_it() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    let [host] = lab.hosts::<1>()?;
    let node = Node::with(host, as_nobody(&etcd))?;
    let rules = ours(&node.host)?;
    check(rules.contains("masquerade fully-random") && rules.contains("WIRE-FORWARD"), || rules)?;
    node.host.namespace().sh("nft flush ruleset")?;
    eventually(BACK, || ours(&node.host).map(drop)).map(drop)?;
    check(node.agent.status()?.phase == "ready", || format!("{:?}", node.agent.status()))
}

/// The kernel tells nobody of a change there: only a look finds it.
#[test]
fn what_is_flushed_of_iptables_legacy_is_back_within_five_seconds_too() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host] = lab.hosts::<1>()?;
    let bin = host.dir().join("legacy").display().to_string();
    host.namespace().sh(&format!(
        "mkdir -p {bin}; for t in '' -save -restore; do ln -s $(command -v iptables-legacy$t) {bin}/iptables$t; done"
    ))?;
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
    // As of Docker 28: where others use that table, we do.
    host.namespace().sh("iptables-legacy -t raw -A OUTPUT -d 192.0.2.99 -j DROP")?;
    let node = Node::with(host, AgentSpec::new(etcd.agent_flags()).env("PATH", &path))?;
    let rules = || node.host.namespace().sh("iptables-legacy-save | grep '^-A WIRE\\|-j WIRE'");
    let before = rules()?;
    check(before.contains("-A WIRE-FORWARD") && before.contains("-A WIRE-RAW"), || before.clone())?;
    for _ in 0..3 {
        node.host.namespace().sh("iptables-legacy -F; iptables-legacy -t raw -F")?;
        let took = eventually(BACK, || {
            let now = rules()?;
            check(now == before, || format!("{now}\ninstead of\n{before}"))
        })?;
        measured("rules-back", took)?;
    }
    Ok(())
}

#[test]
fn iptables_legacy_without_root_is_refused_with_what_to_do_and_the_rest_goes_on() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host] = lab.hosts::<1>()?;
    let bin = host.dir().join("legacy");
    host.namespace().sh(&format!(
        "mkdir -p {bin}; for t in '' -save -restore; do ln -s $(command -v iptables-legacy$t) {bin}/iptables$t; done",
        bin = bin.display()
    ))?;
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let node = Node::with(host, as_nobody(&etcd).env("PATH", &path))?;
    let reason = phase(&node.agent, "degraded")?;
    check(reason.contains("iptables-legacy, which only root can use: run wire-agent as root"), || reason.clone())?;
    let said = node.agent.log().matches("the firewall is not in its desired state").count();
    check(said == 1, || format!("said {said} times"))?;
    let table = node.host.namespace().sh("nft list table inet wire-agent")?;
    check(table.contains("masquerade"), || table)
}

/// As the unit starts it, with no right to look into files of root.
fn as_nobody_at_all(host: &Host, etcd: &Etcd) -> AgentSpec {
    let dir = host.dir();
    let Some(lab) = dir.ancestors().nth(2) else { panic!("{} lies in no lab", dir.display()) };
    let script = format!(
        "mount --bind {dir} /mnt; mount -t tmpfs -o mode=0755 tmpfs {lab}; mkdir -p {dir}; mount --bind /mnt {dir}
         chown -R 65534 {dir}/agent; exec setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all,+net_admin \
         --ambient-caps=+net_admin --bounding-set=-all,+net_admin \"$@\"",
        dir = dir.display(),
        lab = lab.display()
    );
    let wrapper =
        ["unshare", "--mount", "--propagation", "private", "sh", "-ec", &script, "sh"].map(str::to_owned).into();
    AgentSpec { wrapper, ..AgentSpec::new(etcd.agent_flags()) }
}

#[test]
fn a_docker_whose_chains_only_root_would_see_is_warned_of() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host] = lab.hosts::<1>()?;
    // As a Docker with iptables-legacy of its own leaves it.
    host.namespace().sh("iptables-legacy -N DOCKER")?;
    let spec = as_nobody_at_all(&host, &etcd);
    let node = Node::with(host, spec)?;
    let warnings = || Ok::<_, LabError>(node.agent.status()?.rest["warnings"].to_string());
    let warning = "Docker runs, but iptables-nft shows no chains of Docker";
    steadily(PROMPT, || check(!warnings()?.contains(warning), || "it warns of a Docker that does not run".to_owned()))?;
    let options = [docker_options(&node.agent.docker_opts_file())?, vec!["--iptables=false".to_owned()]].concat();
    let _docker = Dockerd::start(&node.host, &options)?;
    eventually(BACK * 4, || {
        let said = warnings()?;
        check(said.contains(warning) && said.contains("run wire-agent as root"), || said)
    })?;
    check(node.agent.status()?.phase == "ready", || "what may be amiss is no fault".to_owned())?;
    node.host.namespace().sh("iptables -N DOCKER")?;
    eventually(BACK, || {
        let said = warnings()?;
        check(!said.contains(warning), || said)
    })
    .map(drop)
}

#[test]
fn without_nft_the_agent_says_what_to_install_and_the_rest_goes_on() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host] = lab.hosts::<1>()?;
    let bin = host.dir().join("bare");
    host.namespace().sh(&format!("mkdir -p {bin}", bin = bin.display()))?;
    let wrapper = vec!["env".to_owned(), format!("PATH={}", bin.display())];
    let spec = AgentSpec { wrapper, ..AgentSpec::new(etcd.agent_flags()).flag("--ip-masq") };
    let node = Node::with(host, spec)?;
    let reason = phase(&node.agent, "degraded")?;
    check(reason.contains("install iptables"), || reason)?;
    let status = node.agent.status()?;
    let warnings = status.rest["warnings"].to_string();
    check(warnings.contains("install nftables"), || warnings)
}

/// Programs that hang are waited for with READY, and with nothing else.
#[test]
fn while_ready_waits_for_a_firewall_that_hangs_the_leases_are_followed() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host] = lab.hosts::<1>()?;
    let bin = host.dir().join("hanging");
    let bin = bin.display();
    host.namespace().sh(&format!("mkdir {bin}; printf '#!/bin/sh\\nexec sleep 60' >{bin}/nft; chmod +x {bin}/nft"))?;
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap());
    let mut agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()).env("PATH", &path))?;
    eventually(START, || check(host.kernel().link(device(Family::V4))?.is_some(), || agent.log()))?;
    let mut peers: Vec<PeerLease> = Vec::new();
    for number in 60..63 {
        let new = peer(number, &[Family::V4]);
        etcd.put(&new.key(), &new.value())?;
        peers.push(new);
        let expected: Vec<_> = peers.iter().filter_map(|peer| peer.expected(Family::V4)).collect();
        eventually(PROMPT, || expect_peers(&host, device(Family::V4), Family::V4, &expected))?;
    }
    check(agent.ready_after().is_none(), || agent.log())?;
    let waited = agent.wait_ready(START)?;
    check(waited > Duration::from_secs(9), || format!("READY after {waited:?}"))
}

#[test]
fn a_kernel_without_flowtables_is_named_once_and_all_else_is_as_without_the_flag() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    let [host, other] = lab.hosts::<2>()?;
    let probe =
        "nft add table inet probe; nft add flowtable inet probe f '{ hook ingress priority 0; devices = { lo }; }'";
    let has_them = other.namespace().sh(probe).is_ok();
    let node = Node::with(host, AgentSpec::new(etcd.agent_flags()).flag("--flowtable"))?;
    let address = node.subnet(Family::V4)?;
    node.host.namespace().sh(&format!(
        "ip link add docker0 type bridge; ip link set docker0 up; ip address add {address} dev docker0"
    ))?;
    let table = || node.host.namespace().sh("nft list table inet wire-agent");
    let warnings = || Ok::<_, LabError>(node.agent.status()?.rest["warnings"].to_string());
    let warning = "the kernel needs NF_FLOW_TABLE_INET and NFT_FLOW_OFFLOAD";
    eventually(BACK, || {
        let (said, table) = (warnings()?, table()?);
        let is_as_it_should_be = if has_them { table.contains("flow add @overlay") } else { said.contains(warning) };
        check(is_as_it_should_be && table.contains("\"docker0\""), || format!("{said}\n{table}"))
    })?;
    check(node.agent.status()?.phase == "ready", || "what can be done without is no fault".to_owned())?;
    let written = || Ok::<_, LabError>(node.agent.status()?.rest["firewall"]["written"].clone());
    let before = written()?;
    steadily(PROMPT * 8, || {
        let now = written()?;
        check(now == before, || format!("{before} changes have become {now}"))
    })?;
    let said = node.agent.log().matches(warning).count();
    check(said == usize::from(!has_them), || format!("said {said} times: {}", node.agent.log()))?;
    let table = table()?;
    check(table.contains("flowtable overlay") == has_them && table.contains("chain arriving"), || table)
}

#[test]
fn a_flowtable_that_no_device_of_the_network_can_be_in_is_named() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#)?;
    let warned = |node: &Node| {
        let said = node.agent.status()?.rest["warnings"].to_string();
        check(said.contains("--flowtable has no effect: only the kernel's VXLAN devices"), || said)
    };
    let spec = || AgentSpec::new(etcd.agent_flags()).flag("--flowtable");
    let node = Node::with(lab.host("a")?, spec())?;
    eventually(BACK, || warned(&node))?;
    check(node.agent.status()?.phase == "ready", || "that is no fault".to_owned())?;

    etcd.put_config(V4)?;
    let by_the_agent = Node::by(Datapath::UserspaceVxlan, lab.host("b")?, spec())?;
    eventually(BACK, || warned(&by_the_agent))?;
    let by_the_kernel = Node::with(lab.host("c")?, spec())?;
    check(warned(&by_the_kernel).is_err(), || by_the_kernel.agent.log())
}

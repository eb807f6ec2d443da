//! What changes under a running agent, or between two runs, and must not be felt.

use std::{thread, time::Duration};

use wire_tests::{Agent, AgentSpec, Dockerd, Etcd, Family, Result, check, eventually, lab};

use crate::cluster::{DUAL, PROMPT, START, V4, cluster, exact, phase, put_peers, settle};

#[test]
fn an_uplink_without_its_addresses_for_a_while_is_waited_for() -> Result {
    let lab = lab!();
    let (etcd, [mut node, other]) = cluster::<2>(&lab, DUAL)?;
    let (v4, v6) = (node.host.v4(), node.host.v6());
    node.host.namespace().sh("ip -4 address flush dev eth0; ip -6 address flush dev eth0 scope global")?;
    let reason = phase(&node.agent, "degraded")?;
    check(reason.contains("eth0"), || reason)?;
    thread::sleep(Duration::from_secs(2));
    check(node.agent.is_running(), || node.agent.log())?;
    node.host.add_address(v4.into())?;
    node.host.add_address(v6.into())?;
    eventually(PROMPT * 3, || {
        exact(&etcd, &[&node, &other], &Family::ALL)?;
        let reaches = Family::ALL.iter().all(|family| other.vtep(*family).is_ok_and(|vtep| node.host.pings(vtep)));
        check(reaches && node.agent.status()?.phase == "ready", || node.agent.log())
    })
    .map(drop)
}

#[test]
fn a_changed_config_is_not_applied_by_a_hangup_but_by_a_restart_which_leaves_nothing_of_the_old() -> Result {
    let lab = lab!();
    let (etcd, [mut node, mut other]) = cluster::<2>(&lab, V4)?;
    let peers = put_peers(&etcd, 5, &[Family::V4])?;
    settle(&etcd, &[&node, &other], &[Family::V4])?;
    let subnet = node.subnet(Family::V4)?;
    etcd.put_config(&V4.replace(r#""Type":"vxlan""#, r#""Type":"vxlan","VNI":7"#))?;
    phase(&node.agent, "degraded")?;
    node.agent.signal(nix::sys::signal::Signal::SIGHUP)?;
    eventually(START, || check(node.agent.log().contains("joining anew"), || node.agent.log()))?;
    thread::sleep(PROMPT);
    check(node.host.kernel().link("flannel.7")?.is_none(), || "a hangup has applied the config".to_owned())?;
    exact(&etcd, &[&node, &other], &[Family::V4])?;

    for node in [&mut node, &mut other] {
        node.agent.terminate()?;
        node.agent.restart()?;
        node.agent.wait_ready(START)?;
    }
    check(node.subnet(Family::V4)? == subnet, || format!("{subnet} became {:?}", node.subnet(Family::V4)))?;
    // Those that are only leases have not left the old one: it is spoken to them.
    let routes = |device| Ok::<_, wire_tests::LabError>(node.host.kernel().routes_through(device, Family::V4)?.len());
    eventually(START, || {
        let found = [routes("flannel.7")?, routes("flannel.1")?];
        check(found == [1, 5], || format!("{found:?}\n{}", node.agent.log()))
    })?;
    for peer in peers {
        etcd.delete(&peer.key())?;
    }
    let is_left = || check(node.host.kernel().link("flannel.1")?.is_none(), || "the old device stays".to_owned());
    eventually(START * 4, is_left)?;
    let vtep = node.host.kernel().addresses("flannel.7")?[0].local;
    eventually(PROMPT, || check(other.host.pings(vtep), || format!("no answer from {vtep}\n{}", node.agent.log())))
        .map(drop)
}

#[test]
fn a_changed_config_that_this_host_cannot_apply_is_told_with_the_reason_and_not_to_be_restarted_for() -> Result {
    let lab = lab!();
    let (etcd, [node]) = cluster::<1>(&lab, V4)?;
    node.host.namespace().sh("ip -6 address flush dev eth0 scope global")?;
    let with = |field: &str| V4.replace(r#""Type":"vxlan""#, field);
    let v6 = r#"{"EnableIPv6":true,"IPv6Network":"fd00:5::/48","#;
    for (config, told, name) in [
        (
            with(r#""Type":"wireguard""#),
            "cannot apply: the backend wireguard is not in this version",
            "network-config-inapplicable",
        ),
        (
            with(r#""Type":"vxlan","MTU":10"#),
            "cannot apply: an MTU of 10 on eth0 leaves 0 bytes for IPv4",
            "network-config-inapplicable",
        ),
        (
            V4.replacen('{', v6, 1),
            "cannot apply: no interface for the underlay: the network has IPv6, but ",
            "network-config-inapplicable",
        ),
        (
            V4.replace("10.5.", "127.5."),
            "the new one is refused: Network is \"127.5.0.0/16\"",
            "network-config-refused",
        ),
        (with(r#""Type":"vxlan","VNI":7"#), "it has changed: restart wire-agent to apply it", "network-config-changed"),
    ] {
        etcd.put_config(&config)?;
        eventually(START, || {
            let status = node.agent.status()?;
            let named = status.conditions.iter().any(|condition| condition.name == name);
            let reason = status.reason.unwrap_or_default();
            let is_told = reason.contains(told) && reason.contains("correct that") == told.contains("cannot apply");
            check(is_told && named, || format!("{reason}: {:?}", status.conditions))
        })?;
    }
    etcd.put_config(V4)?;
    phase(&node.agent, "ready").map(drop)
}

#[test]
fn a_foreign_device_with_our_name_is_waited_for_and_named() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    // One of the same kind as ours is no more ours.
    for (host, kind, said) in
        [("a", "bridge", "bridge"), ("b", "vxlan id 7 dev eth0 dstport 4789 nolearning", "vxlan vni 7")]
    {
        let host = lab.host(host)?;
        host.namespace().ip(&format!("link add flannel.1 type {kind}"))?;
        let index = host.kernel().link("flannel.1")?.map(|link| link.index);
        let mut agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()))?;
        eventually(START, || {
            let status = agent.status()?;
            let reason = status.reason.unwrap_or_default();
            check(status.phase == "waiting" && reason.contains("flannel.1") && reason.contains(said), || reason)
        })?;
        check(agent.ready_after().is_none(), || "it says READY without its device".to_owned())?;
        check(host.kernel().link("flannel.1")?.map(|link| link.index) == index, || agent.log())?;
        host.namespace().ip("link delete flannel.1")?;
        agent.wait_ready(START)?;
    }
    Ok(())
}

#[test]
fn restarting_the_agent_restarts_no_container() -> Result {
    let lab = lab!();
    let (_etcd, [mut node]) = cluster::<1>(&lab, V4)?;
    let mut docker = Dockerd::start_with_file(&node.host, &node.agent.docker_opts_file())?;
    let container = docker.run()?;
    let before = container.inspect()?["State"]["StartedAt"].clone();
    node.agent.kill();
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    let after = container.inspect()?["State"].clone();
    check(after["StartedAt"] == before && after["Running"] == true, || format!("{before} became {after}"))
}

#[test]
fn a_host_installed_anew_gets_its_subnet_back_and_a_twin_does_not() -> Result {
    let lab = lab!();
    let (etcd, [mut node, other]) = cluster::<2>(&lab, V4)?;
    let subnet = node.subnet(Family::V4)?;
    node.agent.kill();
    std::fs::remove_dir_all(node.agent.state_dir()).unwrap();
    std::fs::remove_file(node.agent.subnet_file()).unwrap();
    node.host.namespace().ip("link delete flannel.1")?;
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    check(node.subnet(Family::V4)? == subnet, || format!("{subnet} became {:?}", node.subnet(Family::V4)))?;
    eventually(PROMPT, || exact(&etcd, &[&node, &other], &[Family::V4]))?;
    // While the owner lives, nobody else gets it.
    let spec = AgentSpec::new(etcd.agent_flags()).flag(&format!("--public-ip={}", node.host.v4()));
    let twin = Agent::spawn(&lab.host("twin")?, spec)?;
    eventually(START, || {
        let reason = twin.status()?.reason.unwrap_or_default();
        check(reason.contains("another agent") && reason.contains("lives"), || reason)
    })?;
    check(node.agent.status()?.phase == "ready", || node.agent.log())
}

//! Hosts whose disk is a copy of another's, and hosts that only look as if theirs was: which of them keeps the identity.

use std::{fs, path::Path};

use wire_tests::{Agent, AgentSpec, Etcd, Family, Host, Result, check, lab, run_binary};

use crate::{
    cluster::{DUAL, Node, START, V4, cluster, phase, settle},
    datapath::Datapath,
};

#[test]
fn a_clone_is_a_host_of_its_own_and_both_it_and_its_original_have_all_peers() -> Result {
    let lab = lab!();
    let (etcd, [mut original, other]) = cluster::<2>(&lab, DUAL)?;
    let before = Seen::of(&original)?;
    original.agent.terminate()?;
    let host = lab.host("clone")?;
    copy_state(&original.agent, &host);
    original.agent.restart()?;
    original.agent.wait_ready(START)?;
    let clone = Node::start(host, &etcd)?;
    check(Seen::of(&original)? == before, || format!("{before:?} became {:?}", Seen::of(&original)))?;
    let after = Seen::of(&clone)?;
    let differs = after.identity != before.identity
        && after.subnets.iter().zip(&before.subnets).all(|(one, other)| one != other)
        && after.macs.iter().zip(&before.macs).all(|(one, other)| one != other);
    check(differs, || format!("{before:?} and {after:?}"))?;
    let log = clone.agent.log();
    check(log.contains("this host is a clone") && log.contains("02:64:00:00:00:"), || log)?;
    let nodes = [&original, &other, &clone];
    settle(&etcd, &nodes, &Family::ALL)?;
    for family in Family::ALL {
        for (from, to) in [(&clone, &other), (&other, &clone), (&clone, &original), (&original, &clone)] {
            let vtep = to.vtep(family)?;
            check(from.host.reaches(vtep), || format!("{} does not reach {vtep}", from.host.name()))?;
        }
    }
    for node in nodes {
        let peers = node.agent.peers()?;
        check(node.agent.status()?.phase == "ready" && peers.peers.len() == 2, || format!("{peers:?}"))?;
    }
    Ok(())
}

#[test]
fn drain_on_a_clone_takes_nothing_from_its_original() -> Result {
    let lab = lab!();
    let (etcd, [original]) = cluster::<1>(&lab, V4)?;
    let host = lab.host("clone")?;
    copy_state(&original.agent, &host);
    let before = etcd.list(Etcd::PREFIX)?.iter().map(|stored| (stored.key.clone(), stored.lease)).collect::<Vec<_>>();
    let drained = run_binary(Some(host.namespace()), &drain(&etcd, &host).each_ref().map(String::as_str))?;
    let said = String::from_utf8_lossy(&drained.stdout);
    let is_left = said.contains("is not given back") && said.contains("02:64:00:00:00:");
    check(drained.status.success() && is_left, || format!("{drained:?}"))?;
    let after = etcd.list(Etcd::PREFIX)?.iter().map(|stored| (stored.key.clone(), stored.lease)).collect::<Vec<_>>();
    check(after == before, || format!("{before:?} became {after:?}"))?;
    check(!original.agent.log().contains("lease lost"), || original.agent.log())?;
    check(!host.dir().join("agent/state/state.json").exists(), || "the clone keeps the state".to_owned())
}

/// What a version wrote that knew of the underlay's link alone. `drain` believes it, too.
#[test]
fn an_upgrade_changes_no_identity_and_drain_after_it_gives_the_lease_back() -> Result {
    let lab = lab!();
    let (etcd, [mut node]) = cluster::<1>(&lab, V4)?;
    let before = Seen::of(&node)?;
    node.agent.terminate()?;
    let file = node.agent.state_dir().join("state.json");
    let mut state: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    check(state.as_object_mut().unwrap().remove("machine").is_some(), || format!("{state}"))?;
    fs::write(&file, state.to_string()).unwrap();
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    check(Seen::of(&node)? == before, || format!("{before:?} became {:?}", Seen::of(&node)))?;
    node.agent.terminate()?;
    state.as_object_mut().unwrap().insert("link".to_owned(), serde_json::Value::Null);
    fs::write(&file, state.to_string()).unwrap();
    let drained = node.agent.run_with_its_flags("drain")?;
    check(drained.status.success() && etcd.leases()?.is_empty(), || format!("{drained:?} {:?}", etcd.leases()))
}

/// A bridge that has another MAC with every boot, another address from DHCP, and no etcd: the card is still the same.
#[test]
fn a_host_whose_bridge_has_another_mac_is_the_same_host_with_and_without_etcd() -> Result {
    let lab = lab!();
    let mut etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let host = lab.host("bridged")?;
    let v4 = host.v4();
    host.namespace().sh(&format!(
        "ip link add name br0 type bridge; ip link set eth0 master br0; ip address flush dev eth0
         ip link set br0 up; ip address add {v4}/24 dev br0; ip route add default via 192.168.64.254"
    ))?;
    let mut spec = AgentSpec::new(etcd.agent_flags());
    spec.flags.retain(|flag| !flag.starts_with("--iface"));
    let mut node = Node::with(host, spec.flag("--iface=br0"))?;
    let before = Seen::of(&node)?;
    node.agent.terminate()?;
    node.host.namespace().sh(&format!(
        "ip link set br0 address 02:00:00:00:00:77; ip address replace 192.168.64.99/24 dev br0
         ip address delete {v4}/24 dev br0; ip address replace 192.168.64.99/24 dev br0
         ip route replace default via 192.168.64.254"
    ))?;
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    check(Seen::of(&node)? == before, || format!("{before:?} became {:?}", Seen::of(&node)))?;
    check(etcd.leases()?.len() == 1, || format!("{:?}", etcd.leases()))?;
    node.agent.terminate()?;
    node.host.namespace().sh("ip link set br0 address 02:00:00:00:00:78")?;
    etcd.kill(0);
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    phase(&node.agent, "degraded")?;
    check(Seen::of(&node)? == before, || format!("{before:?} became {:?}", Seen::of(&node)))
}

/// What tells a host from others.
#[derive(Debug, PartialEq)]
struct Seen {
    identity: String,
    subnets: Vec<String>,
    macs: Vec<String>,
}

impl Seen {
    fn of(node: &Node) -> Result<Self> {
        let status = node.agent.status()?;
        let families = if status.rest["subnet_v6"] == "" { &[Family::V4][..] } else { &Family::ALL };
        let mac =
            |family: &Family| Ok(node.host.kernel().link(Datapath::KernelVxlan.device(*family))?.unwrap().address);
        Ok(Self {
            identity: status.rest["identity"].as_str().unwrap_or_default().to_owned(),
            subnets: families.iter().map(|family| node.subnet(*family)).collect::<Result<_>>()?,
            macs: families.iter().map(mac).collect::<Result<_>>()?,
        })
    }
}

/// Gives a host the state folder of another's agent, as a copy of the disk has it.
fn copy_state(from: &Agent, to: &Host) {
    let state = to.dir().join("agent/state");
    fs::create_dir_all(&state).unwrap();
    for file in fs::read_dir(from.state_dir()).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&file, state.join(file.file_name().unwrap())).unwrap();
    }
}

/// The flags of a drain on a host where no agent has run.
fn drain(etcd: &Etcd, host: &Host) -> [String; 6] {
    let file = |flag: &str, path: &str| format!("--{flag}={}", Path::new(host.dir()).join(path).display());
    let endpoints = etcd.agent_flags().into_iter().find(|flag| flag.starts_with("--etcd-endpoints")).unwrap();
    [
        endpoints,
        file("state-dir", "agent/state"),
        file("run-dir", "agent/run"),
        file("subnet-file", "agent/flannel/subnet.env"),
        file("docker-opts-file", "agent/flannel/docker_opts.env"),
        "drain".to_owned(),
    ]
}

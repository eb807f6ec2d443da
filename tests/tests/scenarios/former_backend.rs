//! Another backend in a live network: while hosts are restarted one by one, those that were speak the former backend to those that were not.

use std::{net::IpAddr, time::Duration};

use wire_tests::{AgentSpec, Etcd, Family, Host, Lab, LabError, Pings, Result, check, eventually, lab, run_binary};

use crate::{
    backend_change::{LOST_AT_A_RESTART, ping_each_other, recorded, restart_between},
    cluster::{Node, PROMPT, START, phase},
    host_gw::behind_router,
    seat::Seat,
};

const VXLAN: &str = r#"{"Type":"vxlan"}"#;
const VNI_7: &str = r#"{"Type":"vxlan","VNI":7}"#;
const UDP: &str = r#"{"Type":"udp"}"#;
const HOST_GW: &str = r#"{"Type":"host-gw"}"#;

/// The former backend goes half a minute after the last host was restarted.
const LEFT: Duration = Duration::from_secs(60);

/// A network with this backend: of both families.
fn config(backend: &str) -> String {
    format!(
        r#"{{"Network":"10.5.0.0/16","SubnetMax":"10.5.15.0","EnableIPv6":true,"IPv6Network":"fd00:5::/32",
            "IPv6SubnetMax":"fd00:5:0:ff::","Backend":{backend}}}"#
    )
}

/// A change of backend, and how it shows in the kernel.
struct Change {
    from: &'static str,
    to: &'static str,
    /// The devices of the former backend.
    devices: [&'static str; 2],
    /// The link of each peer's route afterwards, for each family.
    links: [&'static str; 2],
    /// The name of the former backend in `status`.
    name: &'static str,
    /// Its UDP port in `/proc/net/udp`, if the new one has another.
    port: Option<&'static str>,
    /// The records in the end.
    records: &'static [&'static str],
}

/// The address that a bridge with containers has.
fn bridge(node: &Node, family: Family) -> Result<IpAddr> {
    let subnet = node.subnet(family)?;
    let (address, _) = subnet.split_once('/').unwrap_or_default();
    address.parse().map_err(|_| LabError::Wrong(subnet.clone()))
}

/// A host with an agent and a bridge as Docker makes it.
fn node(host: Host, etcd: &Etcd) -> Result<Node> {
    let node = Node::with(host, AgentSpec::new(etcd.agent_flags()))?;
    let [v4, v6] = [node.subnet(Family::V4)?, node.subnet(Family::V6)?];
    node.host.namespace().sh(&format!(
        "ip link add docker0 type bridge; ip link set docker0 up; ip address add {v4} dev docker0
         ip address add {v6} dev docker0 nodad"
    ))?;
    Ok(node)
}

/// Waits until each host reaches each other's bridge.
fn all_talk(nodes: &[Node; 3]) -> Result {
    for (from, to) in [(0, 1), (0, 2), (1, 2)] {
        for family in Family::ALL {
            let target = bridge(&nodes[to], family)?;
            eventually(START, || check(nodes[from].host.pings(target), || nodes[from].agent.log()))?;
        }
    }
    Ok(())
}

/// Nothing is left of the former backend: no device, and so no address, FDB entry, neighbour or route on one; no route elsewhere; no rule; no
/// socket; no word in etcd or on disk.
fn nothing_is_left(change: &Change, etcd: &Etcd, nodes: &[Node; 3]) -> Result {
    let records = recorded(etcd)?;
    check(records == change.records, || format!("{records:?}"))?;
    for node in nodes {
        let kernel = node.host.kernel();
        for device in change.devices {
            check(kernel.link(device)?.is_none(), || format!("{device} is left\n{}", node.agent.log()))?;
        }
        for (family, link) in Family::ALL.into_iter().zip(change.links) {
            let ours = kernel.routes(family)?.into_iter().filter(|route| route.protocol == "91");
            let others = ours.filter(|route| route.device.as_deref() != Some(link) && !route.destination.is_empty());
            let others: Vec<_> = others.filter(|route| route.device.is_some()).collect();
            check(others.is_empty(), || {
                let all = node.host.namespace().sh("ip -d -6 route; ip nexthop").unwrap_or_default();
                format!("{others:?}\n{all}\n{}", node.agent.log())
            })?;
        }
        let rules = node.host.namespace().sh("nft list ruleset; iptables-save; ip6tables-save")?;
        let is_gone = |word: &str| !rules.contains(&format!("\"{word}\"")) && !rules.contains(&format!(" {word} "));
        check(change.devices.into_iter().all(is_gone) && !rules.contains("-beside"), || rules.clone())?;
        let sockets = node.host.namespace().sh("cat /proc/net/udp /proc/net/udp6")?;
        check(change.port.is_none_or(|port| !sockets.contains(port)), || sockets.clone())?;
        let status = node.agent.status()?;
        check(status.phase == "ready" && !status.rest["warnings"].to_string().contains("former"), || {
            format!("{status:?}")
        })?;
        let state = std::fs::read_to_string(node.agent.state_dir().join("state.json")).unwrap_or_default();
        check(state.contains("joined") && !state.contains("former"), || state.clone())?;
    }
    Ok(())
}

/// The others are named in `status`, and `peers` says by what each is reached.
fn names_the_others(change: &Change, nodes: &[Node; 3]) -> Result {
    let [first, second, third] = nodes;
    let mut others = [second, third].map(|node| node.host.v4());
    others.sort();
    let expected = format!(
        "{} is still spoken, to hosts that have not left it since the network config was changed: {}, {}; restart \
         wire-agent on them, one after the other",
        change.name, others[0], others[1]
    );
    eventually(START, || {
        let warnings = first.agent.status()?.rest["warnings"].to_string();
        check(warnings.contains(&expected), || warnings.clone())
    })?;
    let spoken = |node: &Node, peer: &Node| {
        let own = node.agent.peers()?.peers.into_iter().find(|seen| seen.public_ip == Some(peer.host.v4().to_string()));
        let own = own.ok_or_else(|| LabError::Wrong("no such peer".to_owned()))?;
        check(own.programmed, || format!("{own:?}\n{}", node.agent.log()))?;
        let by = own.rest.get("reached_by").and_then(serde_json::Value::as_str);
        Ok::<_, LabError>(by.unwrap_or_default().to_owned())
    };
    eventually(START, || {
        let [by_first, by_second, between] = [spoken(first, second)?, spoken(second, first)?, spoken(second, third)?];
        let is_right = by_first == change.name && by_second == change.name && between.is_empty();
        check(is_right, || format!("{by_first:?} {by_second:?} {between:?}"))
    })?;
    Ok(())
}

fn all_pairs_talk(lab: &Lab, change: &Change) -> Result {
    let etcd = Etcd::start(lab)?;
    etcd.put_config(&config(change.from))?;
    let [one, two, three] = lab.hosts::<3>()?;
    let mut nodes = [node(one, &etcd)?, node(two, &etcd)?, node(three, &etcd)?];
    all_talk(&nodes)?;
    etcd.put_config(&config(change.to))?;
    restart_between(&mut nodes, &Family::ALL, bridge, |nodes| names_the_others(change, nodes))?;
    all_talk(&nodes)?;
    // All speak the new one: to leave the other costs nothing.
    let pings = ping_each_other(&nodes, &Family::ALL, bridge)?;
    eventually(LEFT, || nothing_is_left(change, &etcd, &nodes))?;
    for (from, to, family, running) in pings {
        let seen = running.stop()?;
        check(seen.lost().is_empty(), || format!("{from} to {to}, {family}: of {} lost {:?}", seen.sent, seen.lost()))?;
    }
    for node in &nodes {
        let spoofed =
            eventually(PROMPT, || node.filtered("spoofed").map(drop)).and_then(|_| node.filtered("spoofed"))?;
        check(spoofed == 0, || format!("{spoofed} packets were dropped as spoofed"))?;
    }
    all_talk(&nodes)
}

const DEVICES: [&str; 2] = ["flannel.1", "flannel-v6.1"];
const TUNS: [&str; 2] = ["flannel0", "flannel-v60"];
const ON_8472: &str = r#"{"Port":8472}"#;
const ON_8285: &str = r#"{"Port":8285}"#;

#[test]
fn with_another_vni_all_pairs_talk_while_hosts_are_restarted_and_nothing_of_the_old_one_stays() -> Result {
    all_pairs_talk(
        &lab!(),
        &Change {
            from: VXLAN,
            to: VNI_7,
            devices: DEVICES,
            links: ["flannel.7", "flannel-v6.7"],
            name: "vxlan with VNI 1",
            port: None,
            records: &[ON_8472; 3],
        },
    )
}

#[test]
fn from_vxlan_to_host_gw_all_pairs_talk_while_hosts_are_restarted_and_nothing_of_vxlan_stays() -> Result {
    all_pairs_talk(
        &lab!(),
        &Change {
            from: VXLAN,
            to: HOST_GW,
            devices: DEVICES,
            links: ["eth0"; 2],
            name: "vxlan with VNI 1",
            port: Some(":2118 "),
            records: &[],
        },
    )
}

#[test]
fn from_host_gw_to_vxlan_all_pairs_talk_while_hosts_are_restarted_and_nothing_of_host_gw_stays() -> Result {
    all_pairs_talk(
        &lab!(),
        &Change {
            from: HOST_GW,
            to: VXLAN,
            devices: ["none"; 2],
            links: DEVICES,
            name: "host-gw",
            port: None,
            records: &[ON_8472; 3],
        },
    )
}

#[test]
fn from_vxlan_to_udp_all_pairs_talk_while_hosts_are_restarted_and_nothing_of_vxlan_stays() -> Result {
    all_pairs_talk(
        &lab!(),
        &Change {
            from: VXLAN,
            to: UDP,
            devices: DEVICES,
            links: TUNS,
            name: "vxlan with VNI 1",
            port: Some(":2118 "),
            records: &[ON_8285; 3],
        },
    )
}

#[test]
fn from_udp_to_vxlan_all_pairs_talk_while_hosts_are_restarted_and_nothing_of_udp_stays() -> Result {
    all_pairs_talk(
        &lab!(),
        &Change {
            from: UDP,
            to: VXLAN,
            devices: TUNS,
            links: DEVICES,
            name: "udp",
            port: Some(":205D "),
            records: &[ON_8472; 3],
        },
    )
}

/// Restarts the agent of a host, and runs `wire-agent verify` on it.
fn restart(seat: &mut Seat) -> Result {
    seat.node.agent.terminate()?;
    seat.node.agent.restart()?;
    seat.node.agent.wait_ready(START)?;
    let is_right = || {
        let verified = seat.node.agent.run_with_its_flags("verify")?;
        check(verified.status.success(), || format!("{verified:?}"))
    };
    eventually(START, is_right).map(drop)
}

fn warns(seat: &Seat, text: &str) -> Result {
    let is_said = || {
        let said = seat.node.agent.status()?.rest["warnings"].to_string();
        check(said.contains(text), || format!("{said}\n{}", seat.node.agent.log()))
    };
    eventually(START, is_said).map(drop)
}

/// With Docker's own drops, and a host that host-gw does not reach.
#[test]
fn containers_go_on_talking_from_vxlan_to_host_gw_and_who_is_behind_a_router_is_named_before_it_is_cut_off() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    let of = |backend: &str| format!(r#"{{"Network":"10.5.0.0/16","SubnetMax":"10.5.15.0","Backend":{backend}}}"#);
    etcd.put_config(&of(VXLAN))?;
    let [one, two, far] = lab.hosts::<3>()?;
    let [far_v4, _] = behind_router(&lab, &far)?;
    let (mut one, mut two) = (Seat::new(one, &etcd, &["--ip-masq"])?, Seat::new(two, &etcd, &[])?);
    let mut far = Seat::new(far, &etcd, &[])?;
    one.connects(&far)?;
    let endpoints = format!("--etcd-endpoints={}", etcd.endpoints());
    let told = run_binary(Some(one.node.host.namespace()), &["config", "set", &of(HOST_GW), &endpoints])?;
    let said = String::from_utf8_lossy(&told.stdout).into_owned();
    let is_told = said.contains("all go on talking") && said.contains("not on one link are cut off");
    check(is_told, || format!("{told:?}"))?;

    let inside = std::path::PathBuf::from(format!("/proc/{}/ns/net", one.container.pid()?));
    let (to_two, to_far) = (Pings::start(&inside, None, two.address()?)?, Pings::start(&inside, None, far.address()?)?);
    for running in [&to_two, &to_far] {
        running.wait_answered()?;
    }
    // The former one outlives another restart.
    for _ in 0..2 {
        restart(&mut one)?;
        warns(&one, "vxlan with VNI 1 is still spoken")?;
        one.connects(&two)?;
        far.connects(&one)?;
    }
    restart(&mut two)?;
    two.connects(&one)?;
    restart(&mut far)?;
    for seat in [&one, &two] {
        warns(seat, &format!("no route to the containers of {far_v4}"))?;
    }
    for (running, most) in [(to_two, 3 * LOST_AT_A_RESTART), (to_far, 3 * LOST_AT_A_RESTART)] {
        let seen = running.stop()?;
        println!("containers: {} of {} lost", seen.lost().len(), seen.sent);
        check(seen.lost().len() <= most, || format!("of {} lost {:?}", seen.sent, seen.lost()))?;
    }
    eventually(LEFT, || check(one.node.host.kernel().link("flannel.1")?.is_none(), || one.node.agent.log()))?;
    one.connects(&two)?;
    two.connects(&one)?;
    check(!one.container.pings(far.address()?, 1), || "host-gw reaches a host behind a router".to_owned())
}

/// Both sides of a pair know from the disk what both speak.
#[test]
fn a_start_while_etcd_is_away_has_the_former_backend_too() -> Result {
    let lab = lab!();
    let mut etcd = Etcd::start(&lab)?;
    etcd.put_config(&config(VXLAN))?;
    let [one, two, three] = lab.hosts::<3>()?;
    let mut nodes = [node(one, &etcd)?, node(two, &etcd)?, node(three, &etcd)?];
    all_talk(&nodes)?;
    etcd.put_config(&config(VNI_7))?;
    nodes[0].agent.terminate()?;
    nodes[0].agent.restart()?;
    nodes[0].agent.wait_ready(START)?;
    all_talk(&nodes)?;
    let saved = |node: &Node, words: &str| {
        let files = ["network.json", "network.journal"].map(|file| node.agent.state_dir().join(file));
        let text: String = files.iter().filter_map(|file| std::fs::read_to_string(file).ok()).collect();
        check(text.contains(words), || text.clone())
    };
    eventually(START, || saved(&nodes[0], "VNI\\\":7"))?;
    eventually(START, || saved(&nodes[1], "former"))?;
    for node in &mut nodes[..2] {
        node.agent.terminate()?;
    }
    etcd.kill(0);
    for node in &mut nodes[..2] {
        node.host.namespace().sh("for link in flannel.1 flannel-v6.1 flannel.7 flannel-v6.7; do
             ip link delete $link 2>&1 || :; done")?;
        node.agent.restart()?;
        node.agent.wait_ready(START)?;
    }
    all_talk(&nodes)
}

/// Another program has made a device of the former backend's name while the agent did not run.
#[test]
fn a_former_device_that_cannot_be_made_is_named_and_does_not_keep_the_agent_from_ready() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(&config(VXLAN))?;
    let [one, two] = lab.hosts::<2>()?;
    let mut nodes = [node(one, &etcd)?, node(two, &etcd)?];
    etcd.put_config(&config(VNI_7))?;
    for node in &mut nodes {
        node.agent.terminate()?;
    }
    nodes[0].host.namespace().sh("ip link delete flannel.1; ip link add flannel.1 type bridge")?;
    for node in &mut nodes {
        node.agent.restart()?;
        node.agent.wait_ready(START)?;
    }
    let reason = phase(&nodes[0].agent, "degraded")?;
    check(reason.contains("flannel.1"), || reason)?;
    let [there, back] = [bridge(&nodes[1], Family::V4)?, bridge(&nodes[0], Family::V4)?];
    eventually(START, || {
        let talk = nodes[0].host.pings(there) && nodes[1].host.pings(back);
        check(talk, || format!("{}\n{}", nodes[0].agent.log(), nodes[1].agent.log()))
    })
    .map(drop)
}

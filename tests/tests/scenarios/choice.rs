//! Which interface and which address the other hosts are told, and which of their addresses are believed.

use std::{thread, time::Duration};

use wire_tests::{Agent, AgentSpec, Etcd, Family, Host, Result, check, eventually, lab};

use crate::{
    cluster::{DUAL, Node, PROMPT, START, V4, peer, phase},
    datapath::Datapath,
};

/// Long enough for an agent to have done what it should not do.
const WHILE: Duration = Duration::from_millis(2500);

/// A host with a second interface, which leads nowhere.
fn with_second(lab: &wire_tests::Underlay, address: &str) -> Result<Host> {
    let host = lab.host("a")?;
    host.namespace().sh("ip link add eth1 mtu 1400 type veth peer far; ip link set far up; ip link set eth1 up")?;
    if !address.is_empty() {
        host.namespace().ip(&format!("address add {address} dev eth1"))?;
    }
    Ok(host)
}

/// An agent with these flags and no others for its interface.
fn asked(etcd: &Etcd, flags: &[&str]) -> AgentSpec {
    let mut spec = AgentSpec::new(etcd.agent_flags());
    spec.flags.retain(|flag| !flag.starts_with("--iface"));
    flags.iter().fold(spec, |spec, flag| spec.flag(flag))
}

fn is_known_by(agent: &Agent, link: &str, address: &str) -> Result {
    let status = agent.status()?;
    let of = |field: &str| status.rest.get(field).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let known = [of("underlay"), of("public_ip"), of("public_ipv6")];
    check(known[0] == link && known[1..].contains(&address.to_owned()), || known.join(" "))
}

fn warnings(agent: &Agent) -> Result<String> {
    Ok(agent.status()?.rest["warnings"].to_string())
}

#[test]
fn an_address_that_is_away_for_a_moment_is_waited_for_and_nothing_of_the_overlay_taken_in_its_place() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let host = with_second(&lab, "172.20.0.2/24")?;
    let node = Node::with(host, asked(&etcd, &["--iface-regex=^1(0|72)\\."]))?;
    is_known_by(&node.agent, "eth1", "172.20.0.2")?;
    let bridge = node.subnet(Family::V4)?;
    node.host
        .namespace()
        .sh(&format!("ip link add docker0 type bridge; ip link set docker0 up; ip address add {bridge} dev docker0"))?;
    let before = (etcd.leases()?, node.host.kernel().link("flannel.1")?.map(|link| link.index));
    node.host.namespace().ip("address delete 172.20.0.2/24 dev eth1")?;
    let reason = phase(&node.agent, "degraded")?;
    check(reason.contains("underlay"), || reason)?;
    thread::sleep(WHILE);
    let after = (etcd.leases()?, node.host.kernel().link("flannel.1")?.map(|link| link.index));
    check(before == after, || format!("{before:?} became {after:?}\n{}", node.agent.log()))?;
    node.host.namespace().ip("address add 172.20.0.2/24 dev eth1")?;
    eventually(PROMPT * 5, || check(node.agent.status()?.phase == "ready", || node.agent.log()))?;
    check(!node.agent.log().contains("joining anew"), || node.agent.log())
}

#[test]
fn an_interface_that_is_renamed_stays_the_underlay_and_a_flag_with_its_old_name_is_warned_of() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [a, b] = lab.hosts::<2>()?;
    let nodes = [Node::with(a, asked(&etcd, &[]))?, Node::with(b, asked(&etcd, &["--iface=eth0"]))?];
    let device = |node: &Node| -> Result<_> { Ok(node.host.kernel().link("flannel.1")?.map(|link| link.index)) };
    for node in &nodes {
        let before = device(node)?;
        node.host.namespace().sh(
            "ip link set eth0 down; ip link set eth0 name ens3; ip link set ens3 up; ip route replace default via 192.168.64.254 dev ens3",
        )?;
        eventually(PROMPT * 5, || {
            is_known_by(&node.agent, "ens3", &node.host.v4().to_string())?;
            check(node.agent.status()?.phase == "ready", || node.agent.log())
        })?;
        check(device(node)? == before, || node.agent.log())?;
    }
    let said = [warnings(&nodes[0].agent)?, warnings(&nodes[1].agent)?];
    check(!said[0].contains("eth0") && said[1].contains("ens3 was named eth0"), || said.join("\n"))?;
    // A later look at the host's addresses finds nothing new: it shows by the lease that has one of them.
    let lease = peer(100, &[Family::V4]);
    etcd.put(&lease.key(), &lease.value())?;
    for node in &nodes {
        node.host.namespace().ip(&format!("address add {}/32 dev lo", lease.public_ip))?;
        eventually(PROMPT * 5, || {
            let peers = node.agent.peers()?;
            check(peers.refused.len() == 1 && node.agent.status()?.phase == "ready", || format!("{peers:?}"))
        })?;
        let joined_anew = node.agent.log().matches("joining anew").count();
        check(joined_anew == 1, || node.agent.log())?;
    }
    eventually(PROMPT, || check(nodes[0].host.pings(nodes[1].vtep(Family::V4)?), || nodes[0].agent.log())).map(drop)
}

#[test]
fn a_public_address_alone_chooses_its_link_and_an_earlier_wish_is_taken_once_its_address_is_there() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let host = with_second(&lab, "172.20.0.2/24")?;
    host.namespace().ip("route delete default")?;
    let mut node = Node::with(host, asked(&etcd, &["--public-ip=172.20.0.2"]))?;
    is_known_by(&node.agent, "eth1", "172.20.0.2")?;
    let device = node.host.kernel().link("flannel.1")?.unwrap();
    check((device.mtu, &device.linkinfo.data["link"]) == (1350, &"eth1".into()), || format!("{device:?}"))?;
    // The network has no IPv6.
    node.host.namespace().ip("address add fd99::7/64 dev eth1 nodad")?;

    thread::sleep(PROMPT);
    check(!node.agent.log().contains("joining anew"), || node.agent.log())?;
    node.agent.terminate()?;
    node.host.namespace().ip("address delete 172.20.0.2/24 dev eth1")?;
    let spec = asked(&etcd, &["--iface=eth1", "--iface=eth0"]);
    node.agent.spec_mut().flags = spec.flags;
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    is_known_by(&node.agent, "eth0", &node.host.v4().to_string())?;
    node.host.namespace().ip("address add 172.20.0.3/24 dev eth1")?;
    eventually(PROMPT * 5, || is_known_by(&node.agent, "eth1", "172.20.0.3")).map(drop)
}

#[test]
fn a_second_ipv6_address_changes_nothing_over_a_restart_too_until_the_first_is_gone() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    let mut node = Node::with(lab.host("a")?, AgentSpec::new(etcd.agent_flags()))?;
    let (own, other) = (node.host.v6(), "fd64::100");
    node.host.namespace().ip(&format!("address add {other}/128 dev eth0 nodad"))?;
    thread::sleep(WHILE);
    is_known_by(&node.agent, "eth0", &own.to_string())?;
    check(!node.agent.log().contains("joining anew"), || node.agent.log())?;
    node.agent.terminate()?;
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    is_known_by(&node.agent, "eth0", &own.to_string())?;
    node.host.namespace().ip(&format!("address change {own}/64 dev eth0 preferred_lft 0"))?;
    eventually(PROMPT * 5, || is_known_by(&node.agent, "eth0", other)).map(drop)
}

#[test]
fn hosts_inside_the_network_beside_its_range_reach_each_other_by_each_datapath() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    let [a, b, c, d] = lab.hosts::<4>()?;
    for (datapath, a, b) in [(Datapath::KernelVxlan, a, b), (Datapath::UserspaceUdp, c, d)] {
        let kind = if datapath == Datapath::UserspaceUdp { "udp" } else { "vxlan" };
        etcd.put_config(&format!(
            r#"{{"Network":"192.168.0.0/16","SubnetMin":"192.168.130.0","SubnetMax":"192.168.140.0","Backend":{{"Type":"{kind}"}}}}"#
        ))?;
        let node = |host| Node::by(datapath, host, AgentSpec::new(etcd.agent_flags()));
        let (a, b) = (node(a)?, node(b)?);
        let (to_a, to_b) = (a.vtep(Family::V4)?, b.vtep(Family::V4)?);
        eventually(PROMPT * 5, || {
            let refused = a.agent.peers()?.refused;
            check(refused.is_empty(), || format!("{refused:?}"))?;
            check(a.host.pings(to_b) && b.host.pings(to_a), || format!("{kind}\n{}", a.agent.log()))
        })?;
        check(a.host.reaches(b.host.v4().into()), || "the underlay is cut off".to_owned())?;
        etcd.delete_all(Etcd::PREFIX)?;
    }
    Ok(())
}

#[test]
fn a_lease_with_an_address_of_this_host_is_refused_for_as_long_as_the_host_has_it() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let node = Node::start(lab.host("a")?, &etcd)?;
    let (public, lease) = ("203.0.113.127", peer(100, &[Family::V4]));
    let value = lease.value().replace(&lease.public_ip.to_string(), public);
    etcd.put(&lease.key(), &value)?;
    let is_sent_to = |expected: bool| {
        eventually(PROMPT * 3, || {
            let fdb = node.host.kernel().fdb("flannel.1")?;
            let told = format!("{fdb:?}");
            check(told.contains(public) == expected, || format!("{told}\n{}", node.agent.log()))
        })
        .map(drop)
    };
    is_sent_to(true)?;
    // Its own address, then the broadcast address of a prefix that it is on.
    for address in [format!("{public}/32"), "203.0.113.1/25".to_owned()] {
        node.host.namespace().ip(&format!("address add {address} dev lo"))?;
        is_sent_to(false)?;
        node.host.namespace().ip(&format!("address delete {address} dev lo"))?;
        is_sent_to(true)?;
    }
    Ok(())
}

#[test]
fn a_subnet_that_a_bridge_of_the_host_has_is_leased_last_and_named() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(&V4.replace(r#""SubnetMax":"10.5.15.0""#, r#""SubnetMin":"10.5.121.0","SubnetMax":"10.5.122.0""#))?;
    let [a, b] = lab.hosts::<2>()?;
    let bridge = "ip link add virbr0 type bridge; ip link set virbr0 up; ip address add 10.5.122.1/24 dev virbr0";
    for host in [&a, &b] {
        host.namespace().sh(bridge)?;
    }
    let a = Node::start(a, &etcd)?;
    check(a.subnet(Family::V4)? == "10.5.121.1/24", || format!("{:?}", a.subnet(Family::V4)))?;
    check(!warnings(&a.agent)?.contains("virbr0"), || "nothing is leased there yet".to_owned())?;
    let mut b = Node::start(b, &etcd)?;
    check(b.subnet(Family::V4)? == "10.5.122.1/24", || format!("{:?}", b.subnet(Family::V4)))?;
    let names = |node: &Node, part: &str| {
        eventually(PROMPT * 5, || {
            let said = warnings(&node.agent)?;
            check(said.contains("virbr0 has 10.5.122.0/24") && said.contains(part), || said)
        })
        .map(drop)
    };
    names(&b, "the subnet that this host leases")?;
    names(&a, &format!("10.5.122.0/24 of {}", b.host.v4()))?;
    b.agent.terminate()?;
    b.agent.restart()?;
    b.agent.wait_ready(START)?;
    names(&b, "the subnet that this host leases")?;
    b.host.namespace().ip("link delete virbr0")?;
    eventually(PROMPT * 5, || check(!warnings(&b.agent)?.contains("virbr0"), || b.agent.log())).map(drop)
}

//! What joining, or joining anew, waits for, and what goes on meanwhile.

use std::{thread, time::Duration};

use nix::sys::signal::Signal;
use wire_tests::{Agent, AgentSpec, Etcd, Family, Host, Result, check, eventually, lab};

use crate::cluster::{DUAL, Node, PROMPT, START, V4, cluster, exact, peer, phase, put_peers, settle};

/// etcd is reached by another network card, so that the address is all that is wrong.
#[test]
fn an_address_that_another_host_has_is_named_stops_nothing_and_putting_ours_back_cures_it_at_once() -> Result {
    let lab = lab!();
    let (etcd, [mut node, other]) = cluster::<2>(&lab, V4)?;
    by_another_card(&etcd, &node.host)?;
    let (own, subnet) = (node.host.v4(), node.subnet(Family::V4)?);
    node.host.change_address(other.host.v4().into())?;
    let reason = phase(&node.agent, "degraded")?;
    eventually(START, || {
        let status = node.agent.status()?;
        let reason = status.reason.unwrap_or_default();
        check(reason.contains("another agent") && reason.contains("lives"), || {
            format!("{reason}\n{}", node.agent.log())
        })
    })?;
    check(!reason.contains("joining"), || reason)?;
    // Others come and go meanwhile.
    let newcomer = peer(90, &[Family::V4]);
    etcd.put(&newcomer.key(), &newcomer.value())?;
    eventually(PROMPT * 3, || {
        let peers = node.agent.peers()?;
        check(
            peers.peers.iter().any(|peer| peer.programmed && peer.public_ip == Some(newcomer.public_ip.to_string())),
            || format!("{peers:?}"),
        )
    })?;
    check(
        etcd.leases()?.iter().filter(|lease| lease.value().contains(&other.host.v4().to_string())).count() == 1,
        || format!("two leases say one address: {:?}", etcd.leases()),
    )?;
    node.host.change_address(own.into())?;
    eventually(PROMPT * 3, || {
        exact(&etcd, &[&node, &other], &[Family::V4])?;
        check(node.agent.status()?.phase == "ready", || node.agent.log())
    })?;
    check(node.subnet(Family::V4)? == subnet, || format!("{subnet} became {:?}", node.subnet(Family::V4)))
}

#[test]
fn a_hangup_while_the_lease_is_lost_takes_no_other_subnet() -> Result {
    let lab = lab!();
    let (etcd, [node]) = cluster::<1>(&lab, V4)?;
    let subnet = node.subnet(Family::V4)?;
    let own = etcd.leases()?.into_iter().next().unwrap();
    let thief =
        wire_tests::PeerLease { subnet: subnet.replace(".1/24", ".0").parse().unwrap(), ..peer(70, &[Family::V4]) };
    etcd.revoke(own.lease)?;
    etcd.put(&thief.key(), &thief.value())?;
    eventually(START, || {
        let reason = node.agent.status()?.reason.unwrap_or_default();
        check(reason.contains("is leased by the host"), || reason)
    })?;
    node.agent.signal(Signal::SIGHUP)?;
    eventually(START, || check(node.agent.log().contains("joining anew"), || node.agent.log()))?;
    thread::sleep(PROMPT);
    check(etcd.leases()?.len() == 1, || format!("{:?}", etcd.leases()))?;
    check(node.subnet(Family::V4)? == subnet, || format!("{subnet} became {:?}", node.subnet(Family::V4)))?;
    put_peers(&etcd, 3, &[Family::V4])?;
    eventually(PROMPT * 3, || {
        let peers = node.agent.peers()?;
        check(peers.peers.iter().filter(|peer| peer.programmed).count() == 3, || format!("{peers:?}"))
    })?;
    etcd.delete(&thief.key())?;
    eventually(START, || check(node.agent.status()?.phase == "ready", || node.agent.log()))?;
    settle(&etcd, &[&node], &[Family::V4]).map(drop)
}

#[test]
fn an_interface_or_a_family_that_comes_later_than_the_agent_is_named_and_waited_for() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    let host = lab.host("late")?;
    host.namespace()
        .sh("ip link set eth0 down; ip link set eth0 name eth9; ip link set eth9 up; ip address flush dev eth9")?;
    let agent = AgentSpec::new(etcd.agent_flags());
    let mut agent = Agent::spawn(&host, agent)?;
    by_another_card(&etcd, &host)?;
    waits_for(&agent, "this host has no link eth0; it has ")?;
    check(agent.log().contains("eth9"), || agent.log())?;
    host.namespace().sh("ip link set eth9 down; ip link set eth9 name eth0; ip link set eth0 up")?;
    host.add_address(host.v4().into())?;
    waits_for(&agent, "IPv6")?;
    check(agent.is_running() && agent.ready_after().is_none(), || agent.log())?;
    host.add_address(host.v6().into())?;
    agent.wait_ready(START).map(drop)
}

/// A new state folder: the lease with our address may be another host's that lives.
#[test]
fn a_start_that_asks_whether_its_address_is_free_says_so_and_looks_at_the_underlay() -> Result {
    let lab = lab!();
    let (etcd, [node]) = cluster::<1>(&lab, V4)?;
    let mut twin = lab.host("twin")?;
    by_another_card(&etcd, &twin)?;
    let own = twin.v4();
    twin.change_address(node.host.v4().into())?;
    let mut agent = Agent::spawn(&twin, AgentSpec::new(etcd.agent_flags()))?;
    waits_for(&agent, &format!("whether another host has {}", node.host.v4()))?;
    waits_for(&agent, "lives")?;
    twin.change_address(own.into())?;
    agent.wait_ready(START)?;
    let twin = Node { agent, host: twin, datapath: node.datapath };
    settle(&etcd, &[&node, &twin], &[Family::V4])?;
    let macs = [&node, &twin].map(|node| node.host.kernel().link("flannel.1").ok().flatten().map(|link| link.address));
    check(macs[0] != macs[1], || format!("{macs:?}"))
}

fn waits_for(agent: &Agent, named: &str) -> Result {
    eventually(START, || {
        let status = agent.status()?;
        let reason = status.reason.unwrap_or_default();
        check(status.phase == "waiting" && reason.contains(named), || format!("{reason}\n{}", agent.log()))
    })
    .map(drop)
}

/// Gives a host a second card, by which it reaches etcd from now on.
fn by_another_card(etcd: &Etcd, host: &Host) -> Result {
    let (there, name) = (etcd.host(0), host.namespace().name());
    there.namespace().sh(&format!(
        "ip link add store type veth peer name store netns {name}; ip address add 172.30.0.1/24 dev store; ip link set store up"
    ))?;
    host.namespace().sh(&format!(
        "ip address add 172.30.0.2/24 dev store; ip link set store up; ip route add {}/32 via 172.30.0.1 src 172.30.0.2",
        there.v4()
    ))?;
    eventually(Duration::from_secs(5), || check(host.pings(there.v4().into()), || "no way to etcd".to_owned()))
        .map(drop)
}

//! Hosts join, leave and move; peers change while an agent is down. All others hold exactly the right entries.

use std::net::IpAddr;

use wire_tests::{Etcd, Family, Lab, LossMeter, PeerLease, Result, check, control_run, eventually, lab};

use crate::cluster::{
    DUAL, Node, PROMPT, START, V4, cluster, exact, families, path, peer, promptly, put_peers, settle,
};

#[test]
fn others_follow_a_host_that_joins_moves_and_leaves_and_lose_no_ping() -> Result {
    let lab = lab!();
    let (etcd, [mut a, b, c]) = cluster::<3>(&lab, DUAL)?;
    let path = path(&lab, (&b.host, b.vtep(Family::V4)?), (&c.host, c.vtep(Family::V4)?));
    control_run(&path)?;
    let meter = LossMeter::start(&path)?;

    let d = Node::start(lab.host("d")?, &etcd)?;
    eventually(PROMPT, || exact(&etcd, &[&a, &b, &c, &d], &Family::ALL))?;

    let before = (a.subnet(Family::V4)?, a.subnet(Family::V6)?);
    for address in ["192.168.64.200", "fd64::200"] {
        let address: IpAddr = address.parse().unwrap();
        a.host.change_address(address)?;
        // The agent notices, publishes, and the others follow.
        eventually(PROMPT * 2, || published(&etcd, address))?;
        eventually(PROMPT, || exact(&etcd, &[&a, &b, &c, &d], &Family::ALL))?;
    }
    check((a.subnet(Family::V4)?, a.subnet(Family::V6)?) == before, || "the subnet has changed".to_owned())?;
    let reaches = a.host.reaches(d.vtep(Family::V4)?) && a.host.reaches(d.vtep(Family::V6)?);
    check(reaches, || format!("the host that moved reaches nobody\n{}", a.agent.log()))?;

    leave(d, &etcd)?;
    eventually(PROMPT, || exact(&etcd, &[&a, &b, &c], &Family::ALL))?;
    meter.stop_without_loss().map(drop)
}

fn published(etcd: &Etcd, address: IpAddr) -> Result {
    let leases = etcd.leases()?;
    let found = leases.iter().any(|lease| lease.value().contains(&format!("\"{address}\"")));
    check(found, || {
        format!("no lease has {address}: {:?}", leases.iter().map(wire_tests::Stored::value).collect::<Vec<_>>())
    })
}

fn leave(mut node: Node, etcd: &Etcd) -> Result {
    node.agent.kill();
    let public = format!("\"{}\"", node.host.v4());
    let leases = etcd.leases()?;
    let own = leases.iter().find(|lease| lease.value().contains(&public)).unwrap();
    etcd.revoke(own.lease)
}

#[test]
fn a_restart_with_another_public_ip_keeps_the_subnet() -> Result {
    let lab = lab!();
    let (etcd, [mut a, b]) = cluster::<2>(&lab, V4)?;
    let before = a.subnet(Family::V4)?;
    a.agent.terminate()?;
    a.host.add_address("192.168.64.201".parse().unwrap())?;
    a.agent.spec_mut().flags.push("--public-ip=192.168.64.201".to_owned());
    a.agent.restart()?;
    a.agent.wait_ready(START)?;
    check(a.subnet(Family::V4)? == before, || format!("{before} became {:?}", a.subnet(Family::V4)))?;
    check(etcd.leases()?.len() == 2, || format!("{:?}", etcd.leases()))?;
    eventually(PROMPT, || exact(&etcd, &[&b], &[Family::V4]))?;
    let reaches = a.host.reaches(b.vtep(Family::V4)?);
    check(reaches, || "the host that moved reaches nobody".to_owned())
}

#[test]
fn a_public_ip_that_other_hosts_would_refuse_is_published_by_none_and_one_of_no_use_is_named() -> Result {
    let lab = lab!();
    let (etcd, [mut a]) = cluster::<1>(&lab, V4)?;
    let leases = etcd.leases()?;
    a.agent.terminate()?;
    a.agent.spec_mut().flags.push("--public-ip=10.5.9.1".to_owned());
    a.agent.restart()?;
    let status = a.agent.wait(START)?;
    let said = a.agent.log().contains("--public-ip=10.5.9.1: 10.5.9.1 lies inside the overlay network");
    check(said && status.code() == Some(64), || format!("{status}: {}", a.agent.log()))?;
    check(etcd.leases()? == leases, || format!("{:?}", etcd.leases()))?;
    *a.agent.spec_mut().flags.last_mut().unwrap() = "--public-ipv6=2001:db8::9".to_owned();
    a.agent.restart()?;
    a.agent.wait_ready(START)?;
    let status = a.agent.status()?;
    let said = status.rest["warnings"].to_string();
    let named = said.contains("--public-ipv6=2001:db8::9 is ignored");
    check(named && status.phase == "ready", || format!("{}: {said}", status.phase))
}

#[test]
fn one_lease_more_or_less_is_followed_within_a_second_over_ipv4() -> Result {
    follow(&lab!(), V4)
}

#[test]
fn one_lease_more_or_less_is_followed_within_a_second_over_both_families() -> Result {
    follow(&lab!(), DUAL)
}

fn follow(lab: &Lab, config: &str) -> Result {
    let (etcd, nodes) = cluster::<1>(lab, config)?;
    let families = families(config);
    put_peers(&etcd, 100, families)?;
    settle(&etcd, &nodes.each_ref(), families)?;
    let holds = || exact(&etcd, &nodes.each_ref(), families);
    let newcomer = peer(20, families);
    promptly(|| etcd.put(&newcomer.key(), &newcomer.value()), holds)?;
    let moved = PeerLease { public_ip: "172.20.9.9".parse().unwrap(), ..newcomer.clone() };
    promptly(|| etcd.put(&moved.key(), &moved.value()), holds)?;
    let other_mac = PeerLease { mac: "02:bb:00:00:00:01".to_owned(), ..moved.clone() };
    promptly(|| etcd.put(&other_mac.key(), &other_mac.value()), holds)?;
    promptly(|| etcd.delete(&newcomer.key()), holds)
}

#[test]
fn what_changed_while_the_agent_was_down_is_right_when_it_is_ready_over_ipv4() -> Result {
    change_while_down(&lab!(), V4)
}

#[test]
fn what_changed_while_the_agent_was_down_is_right_when_it_is_ready_over_both_families() -> Result {
    change_while_down(&lab!(), DUAL)
}

fn change_while_down(lab: &Lab, config: &str) -> Result {
    let families = families(config);
    let (etcd, [mut node]) = cluster::<1>(lab, config)?;
    let peers = put_peers(&etcd, 20, families)?;
    settle(&etcd, &[&node], families)?;
    node.agent.kill();
    for gone in &peers[..5] {
        etcd.delete(&gone.key())?;
    }
    let moved = PeerLease { public_ip: "172.20.9.1".parse().unwrap(), ..peers[5].clone() };
    let other_mac = PeerLease { mac: "02:bb:00:00:00:02".to_owned(), ..peers[6].clone() };
    for changed in [moved, other_mac, peer(21, families), peer(22, families)] {
        etcd.put(&changed.key(), &changed.value())?;
    }
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    exact(&etcd, &[&node], families)
}

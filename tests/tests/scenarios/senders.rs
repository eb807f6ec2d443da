//! Row 41: what strangers, members and containers send encapsulated is dropped where it is not theirs to send, and counted.

use std::net::IpAddr;

use wire_tests::{AgentSpec, Etcd, Family, Host, PeerLease, Result, check, eventually, lab};

use crate::{
    cluster::{Node, PROMPT, V4, cluster, phase, settle},
    seat::{BACK, seats},
};

/// A stranger's VXLAN device that sends to a host as a peer would, with a source inside the other's subnet.
fn forge(stranger: &Host, victim: &Node, source: IpAddr) -> Result {
    let vtep = victim.vtep(Family::V4)?;
    let link = victim.host.kernel().link("flannel.1")?;
    let mac = link.map(|link| link.address).unwrap_or_default();
    stranger.namespace().sh(&format!(
        "ip link add vx type vxlan id 1 dev eth0 local {} dstport 8472 nolearning; ip link set vx up
         ip address add {source}/32 dev vx; ip route add {vtep}/32 dev vx src {source}
         ip neighbour add {vtep} lladdr {mac} dev vx; bridge fdb append {mac} dev vx dst {} self permanent",
        stranger.v4(),
        victim.host.v4()
    ))?;
    Ok(())
}

/// How many echo requests a host's kernel has taken.
fn echoes(host: &Host) -> Result<u64> {
    let text = host.exec("cat /proc/net/snmp")?;
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("Icmp:")).collect();
    let column = lines[0].split_whitespace().position(|word| word == "InEchos").unwrap();
    Ok(lines[1].split_whitespace().nth(column).unwrap().parse().unwrap())
}

fn firewall(node: &Node, field: &str) -> Result<serde_json::Value> {
    Ok(node.agent.status()?.rest["firewall"][field].clone())
}

#[test]
fn what_strangers_and_members_forge_is_dropped_counted_and_named() -> Result {
    let lab = lab!();
    let (_etcd, [node, member, third]) = cluster::<3>(&lab, V4)?;
    let stranger = lab.host("stranger")?;
    let vtep = node.vtep(Family::V4)?;
    // A member's honest packet arrives, or the rest says nothing.
    let before = echoes(&node.host)?;
    check(member.host.pings(vtep), || "a member cannot ping".to_owned())?;
    check(echoes(&node.host)? == before + 1, || "the honest ping was not counted".to_owned())?;

    // Who has no lease, with a source inside a member's subnet.
    forge(&stranger, &node, member.vtep(Family::V4)?)?;
    let _ = stranger.exec(&format!("ping -c 3 -i 0.2 -W 1 {vtep}"));
    check(echoes(&node.host)? == before + 1, || "a stranger was let in".to_owned())?;
    // A member whose source lies outside all leases.
    member.host.namespace().sh("ip address add 10.99.9.9/32 dev lo")?;
    let _ = member.host.exec(&format!("ping -c 3 -i 0.2 -W 1 -I 10.99.9.9 {vtep}"));
    check(echoes(&node.host)? == before + 1, || "a foreign source was let in".to_owned())?;
    // A member whose source is leased to another.
    let source = third.vtep(Family::V4)?;
    member.host.namespace().sh(&format!("ip address add {source}/32 dev lo"))?;
    let _ = member.host.exec(&format!("ping -c 3 -i 0.2 -W 1 -I {source} {vtep}"));
    check(echoes(&node.host)? == before + 1, || "another member's source was let in".to_owned())?;
    check(third.host.pings(vtep), || "whose source that is cannot ping".to_owned())?;
    eventually(BACK + PROMPT, || {
        let (strangers, spoofed) = (firewall(&node, "strangers")?, firewall(&node, "spoofed")?);
        check(strangers == 3 && spoofed == 6, || format!("{strangers} and {spoofed} were counted"))
    })?;
    let senders = firewall(&node, "senders")?;
    check(senders[0] == stranger.v4().to_string(), || format!("named are {senders}"))?;
    let text = node.agent.ctl(&["status"])?;
    check(text.contains("dropped 3 packets from hosts without a lease (192.168.64."), || text)
}

#[test]
fn strangers_are_let_in_where_peers_are_behind_a_nat() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host, stranger] = lab.hosts::<2>()?;
    let node = Node::with(host, AgentSpec::new(etcd.agent_flags()).flag("--peers-only=false"))?;
    let before = echoes(&node.host)?;
    let peer = PeerLease::numbered(200);
    etcd.put(&peer.key(), &peer.value())?;
    settle(&etcd, &[&node], &[Family::V4])?;
    forge(&stranger, &node, peer.subnet.into())?;
    let _ = stranger.exec(&format!("ping -c 1 -W 1 {}", node.vtep(Family::V4)?));
    check(echoes(&node.host)? == before + 1, || "it was dropped".to_owned())
}

#[test]
fn containers_send_nothing_encapsulated_to_any_host() -> Result {
    let lab = lab!();
    let (_etcd, [one, other]) = seats(&lab, V4, &["--ip-masq"])?;
    let leaving =
        lab.count(&format!("ip saddr {} udp sport != 8472 udp dport 8472 @th,64,8 0x78", one.node.host.v4()))?;
    for target in [one.node.host.v4().to_string(), other.node.host.v4().to_string(), other.address()?.to_string()] {
        let send =
            format!("nsenter -t {} -n bash -c 'echo xxxxxxxxxxxx > /dev/udp/{target}/8472'", one.container.pid()?);
        one.sh(&send)?;
    }
    eventually(BACK + PROMPT, || {
        let counted = firewall(&one.node, "containers")?;
        check(counted == 2, || format!("{counted} were counted"))
    })?;
    let leaving = leaving.packets()?;
    check(leaving == 0, || format!("{leaving} left the host as if it were its own"))?;
    // To a container of another host it is a packet as any other.
    let counted = firewall(&other.node, "containers")?;
    check(counted == 0, || format!("{counted} were counted at the other host"))
}

#[test]
fn another_firewall_that_drops_what_peers_send_is_named() -> Result {
    let lab = lab!();
    let (_etcd, [node, member]) = cluster::<2>(&lab, V4)?;
    let vtep = node.vtep(Family::V4)?;
    check(member.host.pings(vtep), || "a member cannot ping".to_owned())?;
    // As ufw does for a port that was not opened.
    node.host
        .namespace()
        .sh("iptables -N ufw-user-input; iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -p tcp -j ACCEPT; iptables -A INPUT -p icmp -j ACCEPT
         iptables -A INPUT -j ufw-user-input; iptables -P INPUT DROP")?;
    std::thread::sleep(BACK);
    let _ = member.host.pings(vtep);
    let reason = phase(&node.agent, "degraded")?;
    check(reason.contains("ufw allow 8472/udp"), || reason)?;
    node.host.namespace().sh("iptables -I ufw-user-input -p udp --dport 8472 -j ACCEPT")?;
    check(member.host.pings(vtep), || "it is still blocked".to_owned())?;
    phase(&node.agent, "ready").map(drop)
}

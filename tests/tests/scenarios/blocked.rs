//! Another firewall of a host that drops what peers send is named, with what opens it.

use std::{net::IpAddr, time::Duration};

use wire_tests::{Family, Guest, LabError, OTHER_FIREWALLS, Result, Share, check, eventually, lab, steadily};

use crate::{
    cluster::{DUAL, Node, PROMPT, START, V4, cluster, phase},
    seat::{BACK, seats},
};

/// How soon who drops what peers send is named, while they go on sending: a doubt, and then the proof.
const NAMED: Duration = Duration::from_secs(30);

#[test]
fn another_firewall_that_drops_what_peers_send_is_named() -> Result {
    let lab = lab!();
    let (_etcd, [node, member]) = cluster::<2>(&lab, V4)?;
    let vtep = node.vtep(Family::V4)?;
    check(member.host.reaches(vtep), || "a member cannot ping".to_owned())?;
    // As ufw does for a port that was not opened.
    node.host
        .namespace()
        .sh("iptables -N ufw-user-input; iptables -A INPUT -i lo -j ACCEPT; iptables -A INPUT -p tcp -j ACCEPT; iptables -A INPUT -p icmp -j ACCEPT
         iptables -A INPUT -j ufw-user-input; iptables -P INPUT DROP")?;
    let reason = blocked(&node, &member, vtep)?;
    check(reason.contains("ufw allow 8472/udp"), || reason)?;
    node.host.namespace().sh("iptables -I ufw-user-input -p udp --dport 8472 -j ACCEPT")?;
    check(member.host.reaches(vtep), || "it is still blocked".to_owned())?;
    phase(&node.agent, "ready").map(drop)
}

/// The other family's traffic goes on meanwhile.
#[test]
fn of_two_families_the_one_that_is_blocked_is_named() -> Result {
    let lab = lab!();
    let (_etcd, [node, member]) = cluster::<2>(&lab, DUAL)?;
    node.host.namespace().sh("ip6tables -A INPUT -p udp --dport 8472 -j DROP")?;
    let (open, closed) = (node.vtep(Family::V4)?, node.vtep(Family::V6)?);
    let (one, other) = (member.host.reaches(open), member.host.pings(closed));
    check(one && !other, || format!("IPv4 {one}, IPv6 {other}"))?;
    let reason = blocked(&node, &member, closed)?;
    check(reason.contains("drops what peers send over IPv6 to UDP port 8472"), || reason)?;
    check(member.host.reaches(open), || "the open one is blocked".to_owned())?;
    steadily(BACK + PROMPT, || check(node.agent.status()?.phase == "degraded", || "it is forgotten".to_owned()))?;
    node.host.namespace().sh("ip6tables -F INPUT")?;
    check(member.host.reaches(closed), || "it is still blocked".to_owned())?;
    phase(&node.agent, "ready").map(drop)
}

/// Waits until an agent that is sent pings names who drops them.
fn blocked(node: &Node, member: &Node, target: IpAddr) -> Result<String> {
    eventually(NAMED, || {
        let _ = member.host.pings(target);
        check(node.agent.status()?.phase == "degraded", || format!("nothing is named\n{}", node.agent.log()))
    })?;
    phase(&node.agent, "degraded")
}

/// Waits until the agent names who drops what peers send, and does what it says.
fn do_as_status_says(node: &Node, member: &Node, firewall: &Guest, who: &str) -> Result {
    let vtep = node.vtep(Family::V4)?;
    check(!member.host.pings(vtep), || "it drops nothing".to_owned())?;
    let reason = blocked(node, member, vtep)?;
    // Both have rules that look at connections.
    let tracked = node.tracked()?;
    check(!tracked.is_empty(), || "what peers send is not tracked".to_owned())?;
    let said = reason.strip_prefix(&format!("encapsulation: {who} drops what peers send to UDP port 8472: "));
    firewall.sh(said.ok_or_else(|| LabError::Wrong(reason.clone()))?)?;
    check(member.host.reaches(vtep), || format!("it is still blocked after {reason}"))?;
    phase(&node.agent, "ready").map(drop)
}

#[test]
fn ufw_is_named_and_opened_as_status_says() -> Result {
    let lab = lab!(Share::Seat, &[OTHER_FIREWALLS]);
    let (_etcd, [one, other]) = seats(&lab, V4, &["--ip-masq"])?;
    let ufw = Guest::start(&one.node.host, OTHER_FIREWALLS, "exec sleep 86400")?;
    ufw.sh("ufw --force enable")?;
    do_as_status_says(&one.node, &other.node, &ufw, "ufw")?;
    // ufw denies what is routed too, but stands behind us there.
    let routed = ufw.sh("ufw status verbose")?;
    check(routed.contains("deny (routed)"), || routed)?;
    one.connects(&other)?;
    other.connects(&one)
}

#[test]
fn firewalld_is_named_and_opened_as_status_says() -> Result {
    let lab = lab!(Share::Seat, &[OTHER_FIREWALLS]);
    let (_etcd, [one, other]) = seats(&lab, V4, &["--ip-masq"])?;
    let script = "mkdir -p /run/dbus; dbus-daemon --system --nofork & firewalld --nofork --nopid & wait";
    let firewalld = Guest::start(&one.node.host, OTHER_FIREWALLS, script)?;
    eventually(START, || firewalld.sh("firewall-cmd --state").map(drop))?;
    do_as_status_says(&one.node, &other.node, &firewalld, "firewalld")?;
    one.connects(&other)?;
    other.connects(&one)
}

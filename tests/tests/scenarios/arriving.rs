//! Encapsulated packets as they come in: tracked only where somebody looks at connections, and let alone where they only pass through.

use std::net::IpAddr;

use wire_tests::{Family, Host, Result, check, eventually, lab};

use crate::cluster::{DUAL, Node, START, V4, cluster};

/// The connections that a host's kernel tracks to a UDP port from one address, by its own list.
fn tracked(host: &Host, from: IpAddr, port: u16) -> Result<Vec<String>> {
    let list = host.exec("cat /proc/net/nf_conntrack")?;
    // An IPv6 address is written in full.
    let source = match from {
        IpAddr::V4(from) => format!("src={from} "),
        IpAddr::V6(from) => {
            format!("src={} ", from.segments().map(|segment| format!("{segment:04x}")).join(":"))
        }
    };
    let of_port = |line: &&str| {
        // Behind the way there is the way back.
        let there = line.split("src=").nth(1).map(|there| format!("src={there}"));
        there.is_some_and(|there| there.starts_with(&source) && there.contains(&format!("dport={port} ")))
    };
    Ok(list.lines().filter(of_port).map(str::to_owned).collect())
}

/// Waits until `status` gives these reasons.
fn said(node: &Node, expected: &[&str]) -> Result {
    eventually(START, || {
        let said = node.tracked()?;
        check(said == expected, || format!("{said:?}, not {expected:?}"))
    })
    .map(drop)
}

#[test]
fn what_peers_send_is_tracked_only_while_a_rule_looks_at_connections_and_gets_through_either_way() -> Result {
    let lab = lab!();
    let (_etcd, [node, member]) = cluster::<2>(&lab, DUAL)?;
    let sh = |script: &str| node.host.namespace().sh(script).map(drop);
    said(&node, &[])?;
    let pings = |tracks: [bool; 2]| -> Result {
        for (family, tracks) in Family::ALL.into_iter().zip(tracks) {
            let vtep = node.vtep(family)?;
            check(member.host.reaches(vtep), || format!("{family}: a member cannot ping"))?;
            let found = tracked(&node.host, member.host.on_underlay(family), 8472)?;
            check(found.is_empty() != tracks, || format!("{family}: tracked of a member: {found:?}"))?;
        }
        Ok(())
    };
    pings([false, false])?;
    // An operator's, before a drop: what is of no connection would not get through.
    sh(
        "iptables -A INPUT -p udp -m conntrack --ctstate NEW,ESTABLISHED --dport 8472 -j ACCEPT; iptables -A INPUT -p udp --dport 8472 -j DROP",
    )?;
    said(&node, &["IPv4: ip filter INPUT looks at connections"])?;
    pings([true, false])?;
    sh(
        "ip6tables -A INPUT -p udp -m state --state NEW,ESTABLISHED --dport 8472 -j ACCEPT; ip6tables -A INPUT -p udp --dport 8472 -j DROP",
    )?;
    said(&node, &["IPv4: ip filter INPUT looks at connections", "IPv6: ip6 filter INPUT looks at connections"])?;
    pings([true, true])?;
    sh("iptables -F INPUT; ip6tables -F INPUT")?;
    said(&node, &[])
}

/// What this host is only a router for: same port, same VNI, another destination.
#[test]
fn what_is_encapsulated_for_others_passes_through_and_is_tracked() -> Result {
    let lab = lab!();
    let (_etcd, [node]) = cluster::<1>(&lab, V4)?;
    let (from, to) = (lab.host("from")?, lab.host("to")?);
    let target: IpAddr = "10.99.0.1".parse().unwrap();
    // Its own header, and a plain inner packet of no lease.
    let vxlan = |host: &Host, remote: &str, own: &str| {
        host.namespace().sh(&format!(
            "ip link add other type vxlan id 1 dev eth0 remote {remote} dstport 8472; ip address add {own}/24 dev other; ip link set other up"
        ))
    };
    from.namespace().sh(&format!("ip route add {target} via {}", node.host.v4()))?;
    node.host.namespace().sh(&format!("ip route add {target} via {}", to.v4()))?;
    to.namespace()
        .sh(&format!("ip address add {target}/32 dev lo; ip route replace {}/32 dev eth0 src {target}", from.v4()))?;
    vxlan(&from, &target.to_string(), "10.98.0.1")?;
    vxlan(&to, &from.v4().to_string(), "10.98.0.2")?;
    check(from.reaches("10.98.0.2".parse().unwrap()), || "it does not pass".to_owned())?;
    let found = tracked(&node.host, from.v4().into(), 8472)?;
    check(!found.is_empty(), || "it is not tracked".to_owned())?;
    for name in ["strangers", "spoofed", "containers"] {
        let dropped = node.filtered(name)?;
        check(dropped == 0, || format!("{dropped} are counted as {name}"))?;
    }
    Ok(())
}

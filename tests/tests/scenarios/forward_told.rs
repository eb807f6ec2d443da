//! The userspace path at its limits: a sender is told why a packet goes no further, and `status` counts what became of each.

use wire_tests::{Family, Lab, Result, Tunnel, check, eventually, lab};

use crate::{
    cluster::PROMPT,
    datapath::Datapath,
    ends::{End, ends},
};

/// Addresses in the network that no host has leased.
const NOBODYS: [&str; 2] = ["10.5.200.9", "fd00:5:0:c8::9"];
/// Pings, and the bytes of one: 56, and the headers of ICMP and IP.
const PINGS: u64 = 20;

#[test]
fn raw_udp_is_a_hop_that_tells_of_used_up_hops_and_of_nobodys_addresses() -> Result {
    let lab = lab!();
    let (_etcd, [a, b]) = ends(&lab, [Datapath::UserspaceUdp; 2], &[])?;
    for (family, nobodys) in Family::ALL.into_iter().zip(NOBODYS) {
        hops(&a, &b, family)?;
        let before = a.node.tunnel(family)?;
        let said = a.ping(nobodys.parse().unwrap(), "-c 1")?;
        let unreachable = match family {
            Family::V4 => format!("From {nobodys} icmp_seq=1 Destination Net Unreachable"),
            Family::V6 => format!("From {nobodys} icmp_seq=1 Destination unreachable: No route"),
        };
        check(said.contains(&unreachable), || format!("the sender was not told {unreachable:?}: {said}"))?;
        counted(&a, family, &before, "no_route")?;
    }
    a.undamaged()
}

#[test]
fn userspace_vxlan_is_a_hop_that_tells_of_used_up_hops() -> Result {
    let lab = lab!();
    let (_etcd, [a, b]) = ends(&lab, [Datapath::UserspaceVxlan; 2], &[])?;
    Family::ALL.into_iter().try_for_each(|family| hops(&a, &b, family))?;
    a.undamaged()
}

/// As traceroute sees them: the sender's host, its agent, the other host, and there.
fn hops(a: &End, b: &End, family: Family) -> Result {
    let to = b.address(family)?;
    let peer = b.node.vtep(family)?.to_string();
    let gateway = a.node.subnet(family)?;
    let gateway = gateway.split('/').next().unwrap_or_default();
    let exceeded = match family {
        Family::V4 => "Time to live exceeded",
        Family::V6 => "Time exceeded: Hop limit",
    };
    // The agent speaks as the peer's device, which is the far end of its link.
    for (ttl, whose) in [(1, gateway), (2, &peer), (3, &peer)] {
        let before = a.node.tunnel(family)?;
        let said = a.ping(to, &format!("-c 1 -t {ttl}"))?;
        let told = format!("From {whose} icmp_seq=1 {exceeded}");
        check(said.contains(&told), || format!("with {ttl} hops the sender was not told {told:?}: {said}"))?;
        if ttl == 2 {
            counted(a, family, &before, "ttl")?;
        }
    }
    let said = a.ping(to, "-c 1 -t 4")?;
    check(said.contains(" 0% packet loss"), || format!("four hops are not enough: {said}"))
}

/// Checks that one was dropped for this reason since, at least, and that its sender was told by the agent.
fn counted(end: &End, family: Family, before: &Tunnel, reason: &str) -> Result {
    for counter in [format!("dropped_{reason}"), "icmp_sent".to_owned()] {
        let (before, after) = (before.counter(&counter), end.node.tunnel(family)?.counter(&counter));
        check(after > before, || format!("{counter} was {before} and is {after}"))?;
    }
    Ok(())
}

#[test]
fn what_raw_udp_cannot_send_is_counted_as_dropped_and_not_as_sent() -> Result {
    send_errors(&lab!(), Datapath::UserspaceUdp)
}

#[test]
fn what_userspace_vxlan_cannot_send_is_counted_as_dropped_and_not_as_sent() -> Result {
    send_errors(&lab!(), Datapath::UserspaceVxlan)
}

fn send_errors(lab: &Lab, datapath: Datapath) -> Result {
    let (_etcd, [a, b]) = ends(lab, [datapath; 2], &[])?;
    let host = a.node.host.namespace();
    // To who sends, what this drops is an error.
    host.sh(&format!(
        "nft add table inet fault; nft add chain inet fault out '{{ type filter hook output priority 0; }}'
         nft add rule inet fault out udp dport {} drop",
        datapath.encapsulation().port()
    ))?;
    pings(&a, &b, [0, 0, PINGS])?;
    host.sh("nft delete table inet fault")?;
    pings(&a, &b, [PINGS, PINGS * (20 + 8 + 56), 0])
}

/// Sends pings and checks how much more was counted as packets and bytes sent, and as dropped.
fn pings(a: &End, b: &End, want: [u64; 3]) -> Result {
    let counters = || -> Result<[u64; 3]> {
        let tunnel = a.node.tunnel(Family::V4)?;
        Ok(["to_peers_packets", "to_peers_bytes", "dropped_send_error"].map(|name| tunnel.counter(name)))
    };
    let before = counters()?;
    a.ping(b.address(Family::V4)?, &format!("-c {PINGS} -i 0.02 -W 1"))?;
    let more = || {
        let after = counters()?;
        let more = [0, 1, 2].map(|at| after[at] - before[at]);
        check(more == want, || format!("packets, bytes and drops: {more:?} more, not {want:?}"))
    };
    eventually(PROMPT, more).map(drop)
}

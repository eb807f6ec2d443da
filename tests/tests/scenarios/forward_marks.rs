//! Congestion marks of the underlay reach the ends that can slow down, as with the kernel's VXLAN (RFC 6040).

use std::collections::BTreeMap;

use wire_tests::{Exchange, Family, Lab, LabError, Namespace, Result, Underlay, carried_codepoints, check, lab};

use crate::{
    cluster::{Node, cluster_of},
    datapath::Datapath,
    ends::{End, ends},
};

/// Codepoints (RFC 3168 §5).
const NOT_ECT: u8 = 0;
const ECT1: u8 = 1;
const ECT0: u8 = 2;
const CE: u8 = 3;

#[test]
fn marks_pass_between_kernel_and_userspace_vxlan_both_ways() -> Result {
    use Datapath::{KernelVxlan, UserspaceVxlan};
    let lab = lab!();
    let (_etcd, [kernel, first, second]) =
        cluster_of(&lab, KernelVxlan.config(), [KernelVxlan, UserspaceVxlan, UserspaceVxlan], &[])?;
    for (from, to) in [(&kernel, &first), (&first, &kernel), (&first, &second)] {
        Family::ALL.iter().try_for_each(|family| marks(&lab, from, to, *family))?;
    }
    Ok(())
}

#[test]
fn marks_pass_over_raw_udp() -> Result {
    let lab = lab!();
    let datapath = Datapath::UserspaceUdp;
    let (_etcd, [from, to]) = cluster_of(&lab, datapath.config(), [datapath; 2], &[])?;
    Family::ALL.iter().try_for_each(|family| marks(&lab, &from, &to, *family))
}

fn marks(lab: &Underlay, from: &Node, to: &Node, family: Family) -> Result {
    let what = format!("{:?} to {:?}, {family:?}", from.datapath, to.datapath);
    let carried = || carried_codepoints(from.host.namespace(), to.host.namespace(), to.vtep(family)?);
    let expect = |fault: &str, expected: &[(u8, u8)]| {
        let carried = carried()?;
        check(carried == BTreeMap::from_iter(expected.iter().copied()), || format!("{what}, {fault}: {carried:?}"))
    };

    // What the outer header says, on the way.
    let port = from.datapath.encapsulation().port();
    let header = header(family);
    let on_the_way = |name: &str| lab.count(&format!("udp dport {port} {header} ecn {name}"));
    let counts = [on_the_way("ect0")?, on_the_way("ect1")?, on_the_way("ce")?];
    expect("unmarked", &[(NOT_ECT, NOT_ECT), (ECT0, ECT0), (ECT1, ECT1), (CE, CE)])?;
    let counted = counts.iter().map(wire_tests::Fault::packets).collect::<Result<Vec<_>>>()?;
    // The kernel carries CE as ECT(0), by RFC 3168: what arrives is the same.
    let expected = if from.datapath == Datapath::KernelVxlan { [2, 1, 0] } else { [1, 1, 1] };
    check(counted == expected, || format!("{what}: ECT(0), ECT(1), CE on the way {counted:?}"))?;

    let mark = |codepoint| lab.change(&format!("udp dport {port} {header} ecn set {codepoint}"));
    let before = congested(to, family)?;
    let marked = mark("ce")?;
    expect("marked CE", &[(ECT0, CE), (ECT1, CE), (CE, CE)])?;
    marked.heal();
    if to.datapath != Datapath::KernelVxlan {
        let dropped = congested(to, family)? - before;
        check(dropped >= 1, || format!("{what}: {dropped} are counted as dropped"))?;
    }
    let marked = mark("ect1")?;
    expect("marked ECT(1)", &[(NOT_ECT, NOT_ECT), (ECT0, ECT1), (ECT1, ECT1), (CE, CE)])?;
    marked.heal();
    Ok(())
}

fn header(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

fn congested(node: &Node, family: Family) -> Result<u64> {
    if node.datapath == Datapath::KernelVxlan {
        return Ok(0);
    }
    Ok(node.tunnel(family)?.counters.get("dropped_congestion").copied().unwrap_or_default())
}

#[test]
fn streams_marked_on_their_way_arrive_whole_and_know_it_over_userspace_vxlan() -> Result {
    streams(&lab!(), Datapath::UserspaceVxlan)
}

#[test]
fn streams_marked_on_their_way_arrive_whole_and_know_it_over_raw_udp() -> Result {
    streams(&lab!(), Datapath::UserspaceUdp)
}

/// Cut and joined, with some marked and some not.
fn streams(lab: &Lab, datapath: Datapath) -> Result {
    let (_etcd, [a, b]) = ends(lab, [datapath; 2], &[])?;
    for end in [&a, &b] {
        end.leg.namespace().sh("sysctl -qw net.ipv4.tcp_ecn=1")?;
    }
    let port = datapath.encapsulation().port();
    for family in Family::ALL {
        let header = header(family);
        let some = format!("udp dport {port} {header} ecn != not-ect numgen random mod 4 == 0 {header} ecn set ce");
        let marked = lab.change(&some)?;
        a.exchange(&b, family, &Exchange::Streams("5000011,65537".to_owned()), 2)?;
        marked.heal();
        told(&b, family)?;
    }
    a.undamaged()?;
    b.undamaged()
}

/// Checks that the leg has counted marked packets.
fn told(end: &End, family: Family) -> Result {
    let marked = marked_packets(end.leg.namespace(), family)?;
    check(marked > 0, || format!("{family:?}: no mark has reached the end"))
}

fn marked_packets(leg: &Namespace, family: Family) -> Result<u64> {
    let script = match family {
        Family::V4 => {
            "awk '/^IpExt:/ { if (!seen++) split($0, name); else for (i in name) if (name[i] == \"InCEPkts\") print $i }' /proc/net/netstat"
        }
        Family::V6 => "awk '$1 == \"Ip6InCEPkts\" { print $2 }' /proc/net/snmp6",
    };
    let text = leg.sh(script)?;
    text.trim().parse().map_err(|_| LabError::Wrong(format!("the leg has counted {text:?}")))
}

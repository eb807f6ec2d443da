//! The userspace path: whatever a host sends arrives unchanged, and the limits of the path are told.

use wire_tests::{Exchange, Family, Lab, Result, TrafficServer, check, lab};

use crate::{
    cluster::exact,
    datapath::Datapath,
    ends::{End, KERNELS_OWN, ends},
};

#[test]
fn raw_udp_carries_everything_unchanged_over_ipv4() -> Result {
    carry(&lab!(), Datapath::UserspaceUdp, &[Family::V4])
}

#[test]
fn raw_udp_carries_everything_unchanged_over_ipv6() -> Result {
    carry(&lab!(), Datapath::UserspaceUdp, &[Family::V6])
}

#[test]
fn userspace_vxlan_carries_everything_unchanged_over_ipv4() -> Result {
    carry(&lab!(), Datapath::UserspaceVxlan, &[Family::V4])
}

#[test]
fn userspace_vxlan_carries_everything_unchanged_over_ipv6() -> Result {
    carry(&lab!(), Datapath::UserspaceVxlan, &[Family::V6])
}

/// The control run: what these scenarios ask for is what the kernel gives.
#[test]
fn kernel_vxlan_carries_everything_unchanged_over_both_families() -> Result {
    carry(&lab!(), Datapath::KernelVxlan, &Family::ALL)
}

fn carry(lab: &Lab, datapath: Datapath, families: &[Family]) -> Result {
    let (etcd, [a, b]) = ends(lab, [datapath; 2], &[])?;
    for family in families {
        // First, while no one knows the path's MTU.
        path_mtu(&a, &b, *family)?;
        fragments(&a, &b, *family)?;
        a.essentials(&b, *family)?;
        b.greets(&a, *family)?;
        a.exchange(&b, *family, &Exchange::Streams("31457280".to_owned()), 1)?;
        a.exchange(&b, *family, &Exchange::Streams("65537".to_owned()), 32)?;
        a.exchange(&b, *family, &Exchange::Datagrams("1..=64".to_owned()), 32)?;
        between_hosts(&a, &b, *family)?;
        for end in [&a, &b] {
            end.undamaged()?;
            nothing_dropped(end, *family)?;
        }
    }
    exact(&etcd, &[&a.node, &b.node], &Family::ALL)
}

/// What fits exactly passes; of what is one byte too long its sender is told how long it may be.
fn path_mtu(a: &End, b: &End, family: Family) -> Result {
    let (to, largest) = (b.address(family)?, a.node.datapath.largest_payload(family));
    let mtu = a.node.datapath.encapsulation().mtu(family);
    let said = a.ping(to, &format!("-c 1 -M do -s {}", largest + 1))?;
    let told = match family {
        Family::V4 => format!("Frag needed and DF set (mtu = {mtu})"),
        Family::V6 => format!("Packet too big: mtu={mtu}"),
    };
    check(said.contains(&told), || format!("the sender was not told {told:?}: {said}"))?;
    let said = a.ping(to, &format!("-c 2 -i 0.2 -M do -s {largest}"))?;
    check(said.contains(" 0% packet loss"), || format!("what just fits does not pass: {said}"))
}

/// Pings in three, and in fifteen fragments.
fn fragments(a: &End, b: &End, family: Family) -> Result {
    // Over IPv6 the one who answers learns the path's MTU by the loss of its first answer.
    a.ping(b.address(family)?, "-c 1 -W 1 -s 4000")?;
    for size in [4000, 20_000] {
        let said = a.ping(b.address(family)?, &format!("-c 3 -i 0.2 -s {size}"))?;
        check(said.contains(" 0% packet loss"), || format!("pings of {size} bytes: {said}"))?;
    }
    Ok(())
}

/// The hosts' own traffic, which the device cuts and sums up as it can.
fn between_hosts(a: &End, b: &End, family: Family) -> Result {
    let server = TrafficServer::start(b.node.host.namespace(), b.node.vtep(family)?)?;
    let largest = a.node.datapath.largest_payload(family);
    let from = a.node.host.namespace();
    server.exchange(from, &Exchange::Streams("65537,5000011".to_owned()), 2)?;
    server.exchange(from, &Exchange::Datagrams(format!("1..=64,1400..={largest},20001")), 1)
}

/// Checks that the agent dropped nothing but what its kernel sends to groups.
fn nothing_dropped(end: &End, family: Family) -> Result {
    if end.node.datapath == Datapath::KernelVxlan {
        return Ok(());
    }
    end.node.tells_its_datapath()?;
    let mut dropped = end.node.tunnel(family)?.dropped();
    dropped.retain(|reason, _| !KERNELS_OWN.contains(&reason.as_str()));
    check(dropped.is_empty(), || format!("{} has dropped {dropped:?}", end.node.host.name()))
}

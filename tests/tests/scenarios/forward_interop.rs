//! The userspace path speaks what others speak. Kernel VXLAN hosts take it for one of them, and a plain peer of
//! flannel's `udp` backend, one packet a system call, understands it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use wire_tests::{
    Capture, Datagram, Encapsulation, Etcd, Exchange, ExpectedPeer, Family, Host, IpPacket, Lab, LabError, Leg,
    OnePacket, OnePacketSpec, PeerLease, Result, TrafficServer, Vxlan, check, eventually, expect_carried, lab,
    peers_of,
};

use crate::{
    cluster::{PROMPT, START, exact},
    datapath::Datapath,
    ends::{End, STREAMS, ends},
};

#[test]
fn a_host_without_vxlan_among_kernel_vxlan_hosts_is_one_of_them_over_ipv4() -> Result {
    among_kernel_hosts(&lab!(), Family::V4)
}

#[test]
fn a_host_without_vxlan_among_kernel_vxlan_hosts_is_one_of_them_over_ipv6() -> Result {
    among_kernel_hosts(&lab!(), Family::V6)
}

/// The control run: what is asked of the userspace path is what the kernel does.
#[test]
fn a_kernel_vxlan_host_among_others_is_one_of_them() -> Result {
    let lab = lab!();
    let (etcd, ends) = ends(&lab, [Datapath::KernelVxlan; 3], &[])?;
    talk_and_look(&lab, &etcd, &ends, Family::V4)
}

fn among_kernel_hosts(lab: &Lab, family: Family) -> Result {
    let datapaths = [Datapath::UserspaceVxlan, Datapath::KernelVxlan, Datapath::KernelVxlan];
    let (etcd, ends) = ends(lab, datapaths, &[])?;
    ends[0].essentials(&ends[1], family)?;
    ends[2].essentials(&ends[0], family)?;
    talk_and_look(lab, &etcd, &ends, family)
}

#[test]
fn a_later_start_replaces_the_tun_by_kernel_vxlan_and_back_and_keeps_subnet_and_mac() -> Result {
    let lab = lab!();
    let (etcd, [mut a, b]) = ends(&lab, [Datapath::UserspaceVxlan, Datapath::KernelVxlan], &[])?;
    let identity = |end: &End| {
        let subnets = Family::ALL.iter().map(|family| end.node.subnet(*family)).collect::<Result<Vec<_>>>()?;
        Ok::<_, LabError>((subnets, macs(&etcd, &[&end.node.host, &b.node.host], Family::V4)?))
    };
    let before = identity(&a)?;
    for datapath in [Datapath::KernelVxlan, Datapath::UserspaceVxlan] {
        a.node.restart_by(datapath)?;
        eventually(PROMPT, || exact(&etcd, &[&a.node, &b.node], &Family::ALL))?;
        check(identity(&a)? == before, || format!("{before:?} became {:?}", identity(&a)))?;
        if datapath == Datapath::KernelVxlan {
            let link = a.node.host.kernel().link(datapath.device(Family::V4))?;
            let own = IpAddr::from(a.node.host.v4());
            let address = link.map(|link| link.address);
            check(address.as_ref() == before.1.get(&own), || format!("the device has {address:?}"))?;
        }
        for family in Family::ALL {
            a.greets(&b, family).and_then(|()| b.greets(&a, family))?;
        }
        a.node.tells_its_datapath()?;
    }
    Ok(())
}

/// Lets the first host talk with the others, both ways, and looks at each datagram between them.
fn talk_and_look(lab: &Lab, etcd: &Etcd, ends: &[End; 3], family: Family) -> Result {
    let [own, others @ ..] = ends;
    // What was learnt on the way lets the packets that are looked at be whole ones.
    ends.iter().try_for_each(|end| end.node.host.cut_frames())?;
    others.iter().try_for_each(|other| own.greets(other, family).and_then(|()| other.greets(own, family)))?;
    let capture = Capture::start(lab.namespace(), own.node.host.port())?;
    for other in others {
        own.exchange(other, family, &Exchange::Streams("20011".to_owned()), 8)?;
        other.exchange(own, family, &Exchange::Streams("20011".to_owned()), 8)?;
        own.exchange(other, family, &Exchange::Datagrams("1..=100".to_owned()), 1)?;
        other.exchange(own, family, &Exchange::Datagrams("1..=100".to_owned()), 1)?;
    }
    let seen = capture.stop_at_port(Encapsulation::Vxlan.port())?;
    // Seen from the bridge, what comes in is what the host has sent.
    let (received, sent): (Vec<_>, Vec<_>) = seen.into_iter().partition(|(outgoing, _)| *outgoing);
    let macs = &macs(etcd, &[&own.node.host, &others[0].node.host], family)?;
    let look = |datagrams: Vec<(bool, Datagram)>, sent| {
        datagrams.iter().try_for_each(|(_, datagram)| as_vxlan(datagram, &Look { macs, own, others, family, sent }))
    };
    let ports: BTreeSet<u16> = sent.iter().map(|(_, datagram)| datagram.source.port()).collect();
    check(ports.len() > 8, || format!("34 flows from {} source ports: {ports:?}", ports.len()))?;
    check(sent.len() > 400 && received.len() > 400, || format!("{} sent, {} received", sent.len(), received.len()))?;
    look(sent, true)?;
    look(received, false)?;
    ends.iter().try_for_each(End::undamaged)?;
    exact(etcd, &ends.each_ref().map(|end| &end.node), &Family::ALL)?;
    ends.iter().try_for_each(|end| told_peers(end, etcd))
}

/// What a datagram between the first host and the others must agree with.
struct Look<'a> {
    macs: &'a BTreeMap<IpAddr, String>,
    own: &'a End,
    others: &'a [End],
    family: Family,
    /// Whether the first host has sent it.
    sent: bool,
}

/// Checks one datagram: addresses, the port 8472, flags, VNI, both inner MACs, and an inner packet between the two legs.
fn as_vxlan(datagram: &Datagram, look: &Look<'_>) -> Result {
    let Look { macs, own, others, family, sent } = *look;
    let own_address = own.node.host.on_underlay(family);
    let ends = if sent { (datagram.source, datagram.destination) } else { (datagram.destination, datagram.source) };
    let other = others.iter().find(|other| other.node.host.on_underlay(family) == ends.1.ip());
    let other = other.ok_or_else(|| LabError::Wrong(format!("from or to nobody: {datagram:?}")))?;
    check(ends.0.ip() == own_address, || format!("the own address is {own_address}: {datagram:?}"))?;
    check(datagram.destination.port() == 8472, || format!("another port: {datagram:?}"))?;
    check(datagram.payload.len() <= 1472, || format!("a datagram of {} bytes", datagram.payload.len()))?;

    let vxlan = Vxlan::from_payload(&datagram.payload);
    let vxlan = vxlan.ok_or_else(|| LabError::Wrong(format!("no VXLAN: {datagram:?}")))?;
    check((vxlan.flags, vxlan.vni) == (Vxlan::HAS_VNI, 1), || format!("{vxlan:?}"))?;
    let macs = (macs[&own_address].clone(), macs[&ends.1.ip()].clone());
    let want = if sent { macs } else { (macs.1, macs.0) };
    let have = (text(vxlan.source_mac), text(vxlan.destination_mac));
    check(have == want, || format!("from and to {have:?} instead of {want:?}"))?;
    inner(&vxlan, look, other)
}

fn inner(vxlan: &Vxlan, look: &Look<'_>, other: &End) -> Result {
    let packet = IpPacket::from_bytes(&vxlan.packet);
    let packet = packet.ok_or_else(|| LabError::Wrong(format!("no inner packet: {vxlan:?}")))?;
    let legs = (look.own.address(look.family)?, other.address(look.family)?);
    let want = if look.sent { legs } else { (legs.1, legs.0) };
    check((packet.source(), packet.destination()) == want, || format!("not between the legs: {packet:?}"))?;
    check(packet.bytes().len() == vxlan.packet.len(), || format!("something lies behind the packet: {vxlan:?}"))?;
    check(packet.ether_type() == vxlan.ether_type, || format!("{:#x}: {packet:?}", vxlan.ether_type))?;
    // A kernel leaves the inner sum to the device of the underlay, which a veth never computes.
    let finished = look.sent && look.own.node.datapath == Datapath::UserspaceVxlan;
    check(!finished || packet.checksums_hold(), || format!("a wrong checksum: {packet:?}"))
}

/// The VTEP's MAC in the lease of each host, by its address on the underlay. Each host's is seen by another one.
fn macs(etcd: &Etcd, hosts: &[&Host; 2], family: Family) -> Result<BTreeMap<IpAddr, String>> {
    let seen = hosts.iter().map(|host| peers_of(host, etcd, family)).collect::<Result<Vec<_>>>()?;
    Ok(seen.into_iter().flatten().map(|peer| (peer.public, peer.mac)).collect())
}

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Checks that `peers` lists exactly the other hosts, each of them programmed.
fn told_peers(end: &End, etcd: &Etcd) -> Result {
    let told = end.node.agent.peers()?;
    let fields = told.peers.iter().flat_map(|peer| {
        check(peer.programmed, || format!("not programmed: {peer:?}")).ok()?;
        Some([(peer.subnet.clone(), peer.public_ip.clone()), (peer.subnet_v6.clone(), peer.public_ipv6.clone())])
    });
    let have: BTreeSet<_> = fields.flatten().collect();
    let leases =
        Family::ALL.iter().map(|family| peers_of(&end.node.host, etcd, *family)).collect::<Result<Vec<_>>>()?;
    let field = |peer: ExpectedPeer| (Some(format!("{}/{}", peer.subnet, peer.len)), Some(peer.public.to_string()));
    let want: BTreeSet<_> = leases.into_iter().flatten().map(field).collect();
    check(have == want && told.refused.is_empty(), || format!("{told:?} instead of {want:?}"))
}

#[test]
fn a_plain_peer_of_raw_udp_and_the_agent_understand_each_other_over_ipv4() -> Result {
    with_a_plain_peer(&lab!(), Family::V4)
}

#[test]
fn a_plain_peer_of_raw_udp_and_the_agent_understand_each_other_over_ipv6() -> Result {
    with_a_plain_peer(&lab!(), Family::V6)
}

/// One host with an agent, one with a program that moves one packet a system call, as flannel does.
fn with_a_plain_peer(lab: &Lab, family: Family) -> Result {
    let (etcd, [end]) = ends(lab, [Datapath::UserspaceUdp], &[])?;
    let host = lab.host("plain")?;
    let lease = PeerLease {
        public_ip: host.v4(),
        public_ipv6: Some(host.v6()),
        encapsulation: Encapsulation::RawIp,
        ..PeerLease::numbered(100).dual_stack()
    };
    etcd.put(&lease.key(), &lease.value())?;
    let plain = Plain::new(host, &end, family)?;
    let device = Datapath::UserspaceUdp.device(family);
    // Its answers are let in a moment after packets are sent to it.
    let ping = format!("ping -c 1 -W 1 {}", plain.leg.address(family)?);
    eventually(START, || end.leg.namespace().exec(&ping).map(drop))?;

    let largest = Datapath::UserspaceUdp.largest_payload(family);
    let sizes = Exchange::Datagrams(format!("1..={largest}"));
    let streams = Exchange::Streams(STREAMS.to_owned());
    // The plain side takes one packet at a time: more bursts at once are more than its socket holds.
    let bursts = Exchange::Bursts(format!("1,1200,{largest}"));
    for (exchange, flows) in [(&streams, 4), (&Exchange::Streams("65537".to_owned()), 4), (&bursts, 1)] {
        plain.server.exchange(end.leg.namespace(), exchange, flows)?;
        end.server(family).exchange(plain.leg.namespace(), exchange, flows)?;
    }

    // Nothing is cut after this point but by the two programs, so that packets can be compared one by one.
    [&end.node.host, &plain.host].into_iter().try_for_each(Host::cut_frames)?;
    let wire = Capture::start(lab.namespace(), end.node.host.port())?;
    let given = [Capture::start(end.node.host.namespace(), device)?, Capture::start(plain.host.namespace(), device)?];
    plain.server.exchange(end.leg.namespace(), &sizes, 1)?;
    end.server(family).exchange(plain.leg.namespace(), &sizes, 1)?;
    let carried = wire.stop_at_port(Encapsulation::RawIp.port())?;
    for (capture, received) in given.into_iter().zip([false, true]) {
        let carried = carried.iter().filter(|(outgoing, _)| *outgoing == received).map(|(_, datagram)| datagram);
        // There and back, of each size, with echoes from both sides.
        let compared = expect_carried(&capture.stop()?, carried)?;
        let least = 2 * usize::try_from(largest).unwrap();
        check(compared >= least, || format!("{compared} packets were compared instead of {least}"))?;
    }
    end.undamaged()?;
    let damaged = (plain.host.kernel().damaged()?, plain.leg.kernel().damaged()?);
    check(damaged.0.is_empty() && damaged.1.is_empty(), || format!("the plain side has counted {damaged:?}"))?;
    exact(&etcd, &[&end.node], &Family::ALL)
}

/// The host without an agent. Dropped from top to bottom.
struct Plain {
    server: TrafficServer,
    leg: Leg,
    _program: OnePacket,
    host: Host,
}

impl Plain {
    fn new(host: Host, peer: &End, family: Family) -> Result<Self> {
        host.sysctl("net.ipv4.ip_forward", "1")?;
        host.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        let (gateway, own, network) = match family {
            Family::V4 => ("10.5.100.1/24", "10.5.100.0/32", "10.5.0.0/16"),
            Family::V6 => ("fd00:5:564::1/64", "fd00:5:564::/128", "fd00:5::/32"),
        };
        let leg = Leg::new(&host, &[gateway.to_owned()], 1500)?;
        let program = OnePacket::start(
            &host,
            &OnePacketSpec {
                tun: Datapath::UserspaceUdp.device(family),
                mtu: Encapsulation::RawIp.mtu(family),
                address: own,
                network,
                local: SocketAddr::new(host.on_underlay(family), Encapsulation::RawIp.port()),
                peers: vec![(peer.node.subnet(family)?, SocketAddr::new(peer.node.host.on_underlay(family), 8285))],
            },
        )?;
        let server = TrafficServer::start(leg.namespace(), leg.address(family)?)?;
        Ok(Self { server, leg, _program: program, host })
    }
}

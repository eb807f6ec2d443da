//! The tools that look at traffic: that they see what passes, and notice what is wrong with it.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use wire_tests::{
    Capture, Datagram, Encapsulation, Exchange, Family, Host, IpPacket, Leg, LossMeter, OnePacket, OnePacketSpec, Path,
    Result, TrafficServer, Vxlan, check, control_run, eventually, expect_carried, expect_tunnel, lab,
};

use crate::overlay::Overlay;

fn address(host: &Host, family: Family) -> IpAddr {
    match family {
        Family::V4 => host.v4().into(),
        Family::V6 => host.v6().into(),
    }
}

#[test]
fn checked_traffic_passes_a_plain_veth_in_both_families() -> Result {
    let lab = lab!();
    let [a, b] = lab.hosts()?;
    for (family, largest) in [(Family::V4, 1472), (Family::V6, 1452)] {
        let server = TrafficServer::start(b.namespace(), address(&b, family))?;
        for cut in [false, true] {
            if cut {
                a.cut_frames()?;
            }
            server.exchange(a.namespace(), &Exchange::Streams("0,1,1447,65537,5000011".to_owned()), 1)?;
            server.exchange(a.namespace(), &Exchange::Streams("65537".to_owned()), 32)?;
            server.exchange(a.namespace(), &Exchange::Datagrams(format!("0..={largest},9000,60000")), 1)?;
            server.exchange(a.namespace(), &Exchange::Bursts(format!("1,100,1200,{largest}")), 4)?;
        }
        for host in [&a, &b] {
            let damaged = host.kernel().damaged()?;
            check(damaged.is_empty(), || format!("{} has counted {damaged:?}", host.name()))?;
        }
    }
    Ok(())
}

#[test]
fn a_byte_that_changes_on_the_way_is_noticed_by_the_traffic_tool_and_by_the_counters() -> Result {
    let lab = lab!();
    let [a, b] = lab.hosts()?;
    let server = TrafficServer::start(b.namespace(), b.v4().into())?;
    let change = |matching: &str, place: u32| {
        let rule = format!("iifname {} {matching} @th,{place},8 set 0x00", a.port());
        let chain = "add chain bridge faults damage { type filter hook forward priority 0; }";
        let script = format!("nft '{chain}; flush chain bridge faults damage; add rule bridge faults damage {rule}'");
        lab.namespace().sh(&script)
    };
    let wrong = |exchange: Exchange| match server.exchange(a.namespace(), &exchange, 1) {
        Ok(()) => Err(wire_tests::LabError::Wrong(format!("the damage to {exchange:?} is not noticed"))),
        Err(error) => Ok(error.to_string()),
    };

    // The checksum is left to the device on a veth, so that no one but the tool can notice.
    change("udp length 508", 8 * 108)?;
    let error = wrong(Exchange::Datagrams("499..=501".to_owned()))?;
    check(error.contains("of 500 bytes, the one at 100 is 0x00 instead of"), || error)?;
    change("udp length > 1000", 8 * 20)?;
    let error = wrong(Exchange::Bursts("1200".to_owned()))?;
    check(error.contains("on the way there") && error.contains("datagram 0"), || error)?;
    change("tcp dport 7000 ip length > 1000", 8 * 500)?;
    let error = wrong(Exchange::Streams("100000".to_owned()))?;
    check(error.contains("on the way there: SHA-256"), || error)?;
    let damaged = b.kernel().damaged()?;
    check(damaged.is_empty(), || format!("a checksum was verified: {damaged:?}"))?;

    // A datagram in fragments has its checksum before they are made.
    change("ip frag-off & 0x3fff 0x2000", 8 * 100)?;
    let socket = a.namespace().inside(|| UdpSocket::bind("0.0.0.0:0"))?.expect("a free port");
    socket.send_to(&[1; 3000], SocketAddr::new(b.v4().into(), 7000)).expect("a route");
    eventually(Duration::from_secs(1), || {
        let damaged = b.kernel().damaged()?;
        check(damaged.get("UdpInCsumErrors") == Some(&1), || format!("{damaged:?}"))
    })
    .map(drop)
}

#[test]
fn a_capture_shows_outer_and_inner_packets_of_kernel_vxlan() -> Result {
    let lab = lab!();
    let [a, b] = lab.hosts()?;
    for family in [Family::V4, Family::V6] {
        let overlay = Overlay::of(family);
        overlay.put(&a, &b, [1, 2])?;
        overlay.put(&b, &a, [2, 1])?;
        a.cut_frames()?;
        let server = TrafficServer::start(b.namespace(), overlay.address(2))?;
        let (outside, inside) =
            (Capture::start(lab.namespace(), a.port())?, Capture::start(a.namespace(), overlay.device)?);
        server.exchange(a.namespace(), &Exchange::Streams("65537".to_owned()), 8)?;
        server.exchange(a.namespace(), &Exchange::Datagrams("1..=100".to_owned()), 1)?;
        let outer = outside.stop_at_port(Encapsulation::Vxlan.port())?;
        let sent: Vec<&Datagram> = outer.iter().filter(|(outgoing, _)| !outgoing).map(|(_, outer)| outer).collect();
        check(sent.len() > 300 && sent.len() < outer.len(), || format!("{} of {}", sent.len(), outer.len()))?;
        for datagram in &sent {
            check(datagram.source.ip() == address(&a, family), || format!("{datagram:?}"))?;
            check(datagram.destination == SocketAddr::new(address(&b, family), 8472), || format!("{datagram:?}"))?;
            check(datagram.payload.len() <= 1472, || format!("a frame is not cut: {}", datagram.payload.len()))?;
        }
        let ports: BTreeSet<u16> = sent.iter().map(|datagram| datagram.source.port()).collect();
        check(ports.len() > 4, || format!("few source ports for nine flows: {ports:?}"))?;

        // What the overlay's device was given is what is carried.
        let given: BTreeSet<Vec<u8>> = inside
            .stop()?
            .iter()
            .filter_map(|frame| Some(IpPacket::from_bytes(frame.bytes.get(14..)?)?.lasting()))
            .collect();
        let mut datagrams = 0;
        for vxlan in sent.iter().filter_map(|datagram| Vxlan::from_payload(&datagram.payload)) {
            let header = (vxlan.flags, vxlan.vni, vxlan.source_mac[5], vxlan.destination_mac[5]);
            check(header == (Vxlan::HAS_VNI, 1, 1, 2), || format!("{vxlan:?}"))?;
            let Some(packet) = IpPacket::from_bytes(&vxlan.packet) else { continue };
            if Datagram::from_packet(&packet).is_some() {
                datagrams += 1;
                check(given.contains(&packet.lasting()), || format!("carried, but not given: {packet:?}"))?;
            }
        }
        check(datagrams == 100, || format!("{datagrams} of 100 datagrams were seen"))?;
    }
    Ok(())
}

/// Two plain peers of flannel's backend `udp`, without an agent: what the lab's tools say of raw IP.
#[test]
fn captures_and_the_loss_meter_see_raw_udp_between_two_plain_peers() -> Result {
    let lab = lab!();
    let [a, b] = lab.hosts()?;
    for (family, device, network) in
        [(Family::V4, "flannel0", "10.5.0.0/16"), (Family::V6, "flannel-v60", "fd00:5::/32")]
    {
        let socket = |host: &Host| SocketAddr::new(address(host, family), Encapsulation::RawIp.port());
        let (own, len, whole) = if family == Family::V4 { ("10.5.N.0", 24, 32) } else { ("fd00:5:N::", 64, 128) };
        let [first, second] = ["1", "2"].map(|number| own.replace('N', number));
        let mtu = Encapsulation::RawIp.mtu(family);
        let start = |host: &Host, own: &str, other: &str, peer: &Host| {
            let (own, peers) = (format!("{own}/{whole}"), vec![(format!("{other}/{len}"), socket(peer))]);
            let spec = OnePacketSpec { tun: device, mtu, address: &own, network, local: socket(host), peers };
            OnePacket::start(host, &spec)
        };
        let _programs = [start(&a, &first, &second, &b)?, start(&b, &second, &first, &a)?];
        let [first, second] = [first, second].map(|address| address.parse::<IpAddr>().expect("an address"));

        let path = Path { underlay: &lab, from: (&a, first), to: (&b, second), encapsulation: Encapsulation::RawIp };
        let meter = LossMeter::start(&path)?;
        std::thread::sleep(Duration::from_millis(500));
        meter.stop_without_loss()?;
        control_run(&path)?;

        let server = TrafficServer::start(b.namespace(), second)?;
        server.exchange(a.namespace(), &Exchange::Streams("65537".to_owned()), 1)?;
        a.cut_frames()?;
        let (wire, given) = (Capture::start(lab.namespace(), a.port())?, Capture::start(a.namespace(), device)?);
        server.exchange(a.namespace(), &Exchange::Datagrams(format!("1..={}", mtu - 48)), 1)?;
        let wire = wire.stop_at_port(Encapsulation::RawIp.port())?;
        let sent = wire.iter().filter(|(outgoing, _)| !outgoing).map(|(_, datagram)| datagram);
        let compared = expect_carried(&given.stop()?, sent)?;
        check(compared == usize::try_from(mtu - 48).unwrap_or(0), || format!("{compared} packets were compared"))?;
    }
    Ok(())
}

#[test]
fn a_leg_reaches_its_host_and_what_lies_behind() -> Result {
    let lab = lab!();
    let [a, b] = lab.hosts()?;
    let leg = Leg::new(&a, &["10.5.7.1/24".to_owned(), "fd00:5:7::1/64".to_owned()], 1500)?;
    a.sysctl("net.ipv4.ip_forward", "1")?;
    a.sysctl("net.ipv6.conf.all.forwarding", "1")?;
    b.namespace().ip(&format!("route add 10.5.7.0/24 via {}", a.v4()))?;
    b.namespace().ip(&format!("route add fd00:5:7::/64 via {}", a.v6()))?;
    for family in Family::ALL {
        // The hosts' own link-local addresses may be used a second or two after they are made.
        let ping = format!("ping -c 1 -W 1 {}", address(&b, family));
        eventually(Duration::from_secs(5), || leg.namespace().exec(&ping).map(drop))?;
        check(b.pings(leg.address(family)?), || format!("no answer from {:?}", leg.address(family)))?;
    }
    Ok(())
}

#[test]
fn a_tunnel_is_judged_by_its_kind_and_its_routes() -> Result {
    let lab = lab!();
    let host = lab.host("h1")?;
    let namespace = host.namespace();
    namespace.ip("tuntap add dev flannel0 mode tun")?;
    namespace.ip("address add 10.5.7.0/32 dev flannel0")?;
    namespace.ip("address add fd00:5:7::/128 dev flannel0")?;
    namespace.ip("link set flannel0 up")?;
    namespace.ip("route add 10.5.0.0/16 dev flannel0 protocol 91")?;
    namespace.ip("route add fd00:5::/32 dev flannel0 protocol 91")?;
    for (family, network) in [(Family::V4, "10.5.0.0/16"), (Family::V6, "fd00:5::/32")] {
        expect_tunnel(&host, "flannel0", family, &[network.to_owned()])?;
        let fails = |device: &str, routes: &[String]| expect_tunnel(&host, device, family, routes).is_err();
        check(fails("flannel0", &[]), || "a route too much passes".to_owned())?;
        check(fails("flannel0", &[network.to_owned(), "10.6.0.0/16".to_owned()]), || {
            "a missing one passes".to_owned()
        })?;
        check(fails("eth0", &[]), || "another device passes".to_owned())?;
        check(fails("flannel1", &[]), || "no device passes".to_owned())?;
    }
    Ok(())
}

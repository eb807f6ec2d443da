//! What a member sends with VLAN tags: the kernel takes off all with VID 0, so that the inner packet lies further behind than our rules
//! look. Each frame here has its sender's own subnet where the inner source of an untagged one would lie.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use wire_tests::{Etcd, Family, Host, IPV6, IpPacket, LabError, PeerLease, Result, Vxlan, check, eventually, lab};

use crate::{
    cluster::{Node, settle},
    seat::BACK,
};

/// The second octet is UDP's protocol number, which a tag moves to where the source's second octet would lie.
const CONFIG: &str = r#"{"Network":"10.17.0.0/16","SubnetMax":"10.17.15.0","Backend":{"Type":"vxlan"}}"#;
/// The sender's subnet and one of another member.
const OWN: Ipv4Addr = Ipv4Addr::new(10, 17, 64, 0);
const OTHERS: Ipv4Addr = Ipv4Addr::new(10, 17, 99, 0);
/// Where the victim listens in the overlay.
const EAR: u16 = 7000;

#[test]
fn vlan_tags_of_any_number_bring_no_source_of_another_member_in() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(CONFIG)?;
    let [host, member] = lab.hosts::<2>()?;
    let node = Node::start(host, &etcd)?;
    let own = PeerLease { subnet: OWN, public_ip: member.v4(), ..PeerLease::numbered(200) };
    let others = PeerLease { subnet: OTHERS, ..PeerLease::numbered(201) };
    etcd.put_all(&[own.entry(), others.entry()])?;
    settle(&etcd, &[&node], &[Family::V4])?;
    let to = SocketAddr::new(node.vtep(Family::V4)?, EAR);
    let io = |source| LabError::Io { what: format!("cannot listen on {to}"), source };
    let ear = node.host.namespace().inside(|| UdpSocket::bind(to))?.map_err(io)?;
    ear.set_read_timeout(Some(Duration::from_secs(1))).map_err(io)?;

    let link = node.host.kernel().link("flannel.1")?;
    let mac = link.map(|link| link.address).unwrap_or_default();
    let send = |tags: usize, packet: &IpPacket| send(&member, &node, &Vxlan::carrying(packet, &mac, tags).to_payload());
    let heard = || ear.recv_from(&mut [0; 100]).map(|(_, from)| from.ip());
    let packet = |from: Ipv4Addr| IpPacket::udp((from | Ipv4Addr::new(0, 0, 0, 5), 4000).into(), to, b"tagged");
    // What it may send arrives, or the rest says nothing.
    send(0, &packet(OWN))?;
    check(heard().ok() == Some(IpAddr::from(OWN | Ipv4Addr::new(0, 0, 0, 5))), || {
        "an honest packet is dropped".to_owned()
    })?;

    let one = fitting(&packet(OTHERS).with_ttl(10))?;
    // Behind two tags the identification and the fragment's flags lie there.
    let two = packet(OTHERS).with_id(0x0a11);
    let shots = [(0, &packet(OTHERS)), (1, &one), (2, &two), (3, &two), (1, &packet(OWN)), (2, &packet(OWN))];
    for (tags, packet) in shots {
        send(tags, packet)?;
    }
    let error = heard().map_err(|error| error.kind());
    check(error == Err(ErrorKind::WouldBlock), || format!("let in was what came from {error:?}"))?;
    // An IPv6 packet in the IPv4 overlay is nobody's.
    let six = IpPacket::udp("[fd00:5::1]:4000".parse().unwrap(), "[fd00:5::2]:7000".parse().unwrap(), b"tagged");
    check(six.ether_type() == IPV6, || "it is none of IPv6".to_owned())?;
    send(0, &six)?;
    eventually(BACK, || {
        let (sent, spoofed) = (shots.len() as u64 + 1, node.filtered("spoofed")?);
        check(spoofed == sent, || format!("{spoofed} of {sent} were counted"))
    })
    .map(drop)
}

/// The identification with which the checksum begins as the third octet of the sender's subnet: the four bytes are its address then.
fn fitting(packet: &IpPacket) -> Result<IpPacket> {
    let mut ids = (0..=u16::MAX).map(|id| packet.clone().with_id(id));
    let fits = |packet: &IpPacket| packet.bytes()[8..11] == OWN.octets()[..3];
    ids.find(fits).ok_or_else(|| LabError::Wrong("no checksum fits".to_owned()))
}

fn send(from: &Host, to: &Node, payload: &[u8]) -> Result {
    let io = |source| LabError::Io { what: "cannot send a frame".to_owned(), source };
    let socket = from.namespace().inside(|| UdpSocket::bind((from.on_underlay(Family::V4), 0)))?.map_err(io)?;
    let to = SocketAddr::new(to.host.on_underlay(Family::V4), 8472);
    socket.send_to(payload, to).map(drop).map_err(io)
}

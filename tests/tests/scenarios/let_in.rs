//! Ways on which the kernel finds an encapsulated packet to be for this host where our rules do not: none of what comes in by them comes
//! out of the device.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt::Priority};
use wire_tests::{Family, Host, IpPacket, LabError, Result, Vxlan, check, eventually, lab};

use crate::{
    cluster::{DUAL, Node, V4, cluster, device},
    seat::BACK,
};

/// Where the victim listens in the overlay.
const EAR: u16 = 7000;

/// A host that listens in the overlay, and what is said to it as if by another.
struct Ear {
    socket: UdpSocket,
    payload: Vec<u8>,
}

impl Ear {
    fn of(node: &Node, from: &Node, family: Family) -> Result<Self> {
        let to = SocketAddr::new(node.vtep(family)?, EAR);
        let socket = node.host.namespace().inside(|| UdpSocket::bind(to))?.map_err(io("cannot listen"))?;
        socket.set_read_timeout(Some(Duration::from_secs(1))).map_err(io("cannot listen"))?;
        let mac = node.host.kernel().link(device(family))?.map(|link| link.address).unwrap_or_default();
        let packet = IpPacket::udp(SocketAddr::new(from.vtep(family)?, 4000), to, b"forged");
        Ok(Self { socket, payload: Vxlan::carrying(&packet, &mac, 0).to_payload() })
    }

    fn hears(&self) -> bool {
        self.socket.recv_from(&mut [0; 100]).is_ok()
    }
}

fn io(what: &str) -> impl FnOnce(std::io::Error) -> LabError {
    let what = what.to_owned();
    move |source| LabError::Io { what, source }
}

fn send(from: &Host, address: IpAddr, to: SocketAddr, payload: &[u8]) -> Result {
    let socket = from.namespace().inside(|| UdpSocket::bind((address, 0)))?.map_err(io("cannot bind"))?;
    // What is let in is known by this priority, which no sender can give it: not through a veth either, as containers would.
    setsockopt(&socket, Priority, &0x7769_0000).map_err(|error| io("cannot set a priority")(error.into()))?;
    socket.send_to(payload, to).map(drop).map_err(io("cannot send"))
}

fn counted(node: &Node, name: &str, expected: u64) -> Result {
    eventually(BACK * 2, || {
        let found = node.filtered(name)?;
        check(found == expected, || format!("{found} are counted as {name}, not {expected}"))
    })
    .map(drop)
}

#[test]
fn a_stranger_gets_in_by_no_address_port_or_table_that_the_rules_do_not_know() -> Result {
    let lab = lab!();
    let (_etcd, [node, member]) = cluster::<2>(&lab, V4)?;
    let stranger = lab.host("stranger")?;
    let ear = Ear::of(&node, &member, Family::V4)?;
    let (local, own) = (node.host.on_underlay(Family::V4), stranger.on_underlay(Family::V4));
    send(&member.host, member.host.on_underlay(Family::V4), SocketAddr::new(local, 8472), &ear.payload)?;
    check(ear.hears(), || "an honest packet is dropped".to_owned())?;

    stranger.namespace().ip(&format!("route add 203.0.113.0/24 via {local}"))?;
    node.host.namespace().sh(&format!(
        "nft add table ip x; nft add chain ip x pre '{{ type nat hook prerouting priority -100; }}'
         nft add rule ip x pre ip daddr 203.0.113.9 dnat to {local}; nft add rule ip x pre udp dport 4789 redirect to :8472
         ip rule add to 203.0.113.10 lookup 77; ip route add local 203.0.113.10 dev lo table 77"
    ))?;
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let ways = [(local, 8472), (address("203.0.113.9"), 8472), (local, 4789), (address("203.0.113.10"), 8472)];
    for (number, (to, port)) in (1..).zip(ways) {
        send(&stranger, own, SocketAddr::new(to, port), &ear.payload)?;
        check(!ear.hears(), || format!("a stranger gets in by {to} port {port}"))?;
        counted(&node, "strangers", number)?;
    }
    // Nobody who is no stranger is kept out by that.
    check(member.host.reaches(node.vtep(Family::V4)?), || "a member cannot ping".to_owned())
}

/// Such a device takes headers with bits that others must not have.
#[test]
fn where_headers_carry_a_group_policy_members_are_heard_with_and_without_one_and_strangers_with_none() -> Result {
    let lab = lab!();
    let config = V4.replace(r#""Type":"vxlan""#, r#""Type":"vxlan","GBP":true"#);
    check(config.contains("GBP"), || config.clone())?;
    let (_etcd, [node, member]) = cluster::<2>(&lab, &config)?;
    let stranger = lab.host("stranger")?;
    let ear = Ear::of(&node, &member, Family::V4)?;
    let to = SocketAddr::new(node.host.on_underlay(Family::V4), 8472);
    // RFC 7348 §5, and the G bit with a policy's number (draft-smith-vxlan-group-policy).
    for (number, header) in (1..).zip([[0x08, 0, 0, 0], [0x88, 0, 0, 0], [0x88, 0x08, 0x12, 0x34]]) {
        let payload = [&header, &ear.payload[4..]].concat();
        send(&member.host, member.host.on_underlay(Family::V4), to, &payload)?;
        check(ear.hears(), || format!("{header:x?}: a member's is dropped"))?;
        send(&stranger, stranger.on_underlay(Family::V4), to, &payload)?;
        check(!ear.hears(), || format!("{header:x?}: a stranger's is let in"))?;
        counted(&node, "strangers", number)?;
    }
    Ok(())
}

/// IPv6 knows no martians: the kernel forwards what has an address of its own for a source.
#[test]
fn nobody_sends_through_a_host_to_its_peers_with_its_own_address() -> Result {
    let lab = lab!();
    let (_etcd, [node, member]) = cluster::<2>(&lab, DUAL)?;
    let stranger = lab.host("stranger")?;
    let ear = Ear::of(&member, &node, Family::V6)?;
    let [own, to] = [&node, &member].map(|node| node.host.on_underlay(Family::V6));
    send(&node.host, own, SocketAddr::new(to, 8472), &ear.payload)?;
    check(ear.hears(), || "an honest packet is dropped".to_owned())?;
    let link_local = node.host.exec("ip -6 -o address show dev eth0 scope link")?;
    let gateway = link_local.split_whitespace().nth(3).and_then(|text| text.split('/').next().map(str::to_owned));
    let gateway = gateway.ok_or_else(|| LabError::Wrong(format!("no address in {link_local}")))?;
    stranger.namespace().sh(&format!(
        "ip -6 address add {own}/128 dev lo nodad; ip -6 route add {to}/128 via {gateway} dev eth0 src {own}"
    ))?;
    send(&stranger, own, SocketAddr::new(to, 8472), &ear.payload)?;
    check(!ear.hears(), || "it is taken for its own".to_owned())?;
    counted(&node, "containers", 1)
}

//! Frames that come to a bridge by a VXLAN device and from containers: who forges a source reaches nobody.

mod groups;
mod judged;

use std::{
    net::{IpAddr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns, unshare};
use wire_net::{MacAddr, Mtu, Vni};
use wire_netlink::lab::{in_namespace, run};
use wire_state::{
    DesiredFirewall, DesiredKind, DesiredLink, DesiredNet, DesiredVxlan, KernelKind, NeighbourKey, Reconciler,
};

use super::reconciler;
use crate::{BridgeTable, ContainerPort, FirewallDataplane, Overlays, tests::name};

/// A host with two containers on a bridge; 192.0.2.2 is another host, with the address 10.128.0.64.
struct Bridge {
    containers: [OwnedFd; 2],
    other: UdpSocket,
}

fn mac(last: u8) -> MacAddr {
    MacAddr::new([2, 0x57, 10, 128, 0, last])
}

/// The addresses of a sender.
fn addresses(last: u8) -> [IpAddr; 2] {
    [[10, 128, 0, last].into(), format!("fd57:5000::{last:x}").parse().unwrap()]
}

pub(super) fn new_namespace() -> OwnedFd {
    let made = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        std::fs::File::open("/proc/thread-self/ns/net").unwrap()
    });
    made.join().unwrap().into()
}

/// Runs a shell command in a namespace.
pub(super) fn run_in(namespace: &OwnedFd, command: &str) -> String {
    std::thread::scope(|scope| {
        let inside = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            run(command)
        };
        scope.spawn(inside).join().unwrap()
    })
}

/// Sends a packet from a namespace.
pub(super) fn send_from(namespace: &OwnedFd, to: &str, packet: &[u8]) {
    std::thread::scope(|scope| {
        let inside = || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            UdpSocket::bind("0.0.0.0:0").unwrap().send_to(packet, to).unwrap();
        };
        scope.spawn(inside).join().unwrap();
    });
}

impl Bridge {
    fn new() -> Self {
        run("ip link set lo up; ip address add 192.0.2.1/24 dev lo; ip address add 192.0.2.2/24 dev lo");
        run("ip link add wb.5000 type bridge mcast_snooping 0; ip link set wb.5000 up");
        run("ip link add wv.5000 type vxlan id 5000 local 192.0.2.1 dstport 8472 nolearning");
        run("ip link set wv.5000 up master wb.5000");
        let bridge =
            Self { containers: [new_namespace(), new_namespace()], other: UdpSocket::bind("192.0.2.2:0").unwrap() };
        for (number, last) in [33, 34].into_iter().enumerate() {
            let peer = format!("/proc/{}/fd/{}", std::process::id(), bridge.containers[number].as_raw_fd());
            run(&format!(
                "ip link add wp{last} type veth peer name eth0 netns {peer}; ip link set wp{last} up master wb.5000"
            ));
            let ([v4, v6], mac) = (addresses(last), mac(last));
            bridge.inside(number, &format!("ip link set eth0 address {mac}; ip link set eth0 up"));
            bridge.inside(number, &format!("ip addr add {v4}/20 dev eth0; ip addr add {v6}/64 dev eth0 nodad"));
            bridge.inside(number, "until [ -z \"$(ip -6 addr show tentative)\" ]; do sleep 0.01; done");
        }
        bridge.inside(
            0,
            "nft 'table netdev lab { chain in { type filter hook ingress device eth0 priority 0; ether daddr 03:00:00:00:00:77 counter; }; }'",
        );
        bridge
    }

    fn inside(&self, container: usize, command: &str) -> String {
        run_in(&self.containers[container], command)
    }

    /// The number of frames that have come to the first container.
    fn arrived(&self) -> u64 {
        packets(&self.inside(0, "nft list table netdev lab"))
    }

    fn send(&self, frame: &[u8]) {
        let header = [8, 0, 0, 0, 0, 0x13, 0x88, 0];
        self.other.send_to(&[&header, frame].concat(), "192.0.2.1:8472").unwrap();
    }

    /// Asserts that a frame of the other host comes to the first container.
    fn assert_arrives(&self, what: &str, frame: &[u8]) {
        let before = self.arrived();
        self.send(frame);
        wait_until(what, || self.arrived() > before);
    }

    /// Asserts that a frame of the other host is dropped and counted, and does not come to the first container.
    fn assert_dropped(&self, what: &str, frame: &[u8]) {
        let (arrived, dropped) = (self.arrived(), forged());
        self.send(frame);
        wait_until(what, || forged() > dropped);
        assert_eq!((self.arrived(), forged()), (arrived, dropped + 1), "{what}");
    }

    fn reaches(&self, from: usize, to: IpAddr) -> bool {
        self.inside(from, &format!("ping -c1 -W1 {to} > /dev/null && echo yes || true")).contains("yes")
    }
}

pub(super) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(super) fn packets(listed: &str) -> u64 {
    listed.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok()).unwrap()
}

fn forged() -> u64 {
    packets(&run("nft list counter bridge wire-agent forged"))
}

/// A frame to a group that nothing else is sent to.
fn frame(from: MacAddr, ether_type: u16, content: &[u8]) -> Vec<u8> {
    let mut frame = [&[3, 0, 0, 0, 0, 0x77][..], &from.octets(), &ether_type.to_be_bytes(), content].concat();
    frame.resize(frame.len().max(90), 0);
    frame
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn ipv4(from: MacAddr, source: IpAddr) -> Vec<u8> {
    let mut header = [&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0], &octets(source)[..], &[10, 128, 0, 33]].concat();
    // A host with br_netfilter drops packets with a wrong checksum (RFC 791 §3.1).
    let sum: u32 = header.chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let [_, _, high, low] = (!(sum + (sum >> 16)) & 0xffff).to_be_bytes();
    header[10..12].copy_from_slice(&[high, low]);
    frame(from, 0x0800, &header)
}

/// A packet of ICMPv6 with a message of this type, and an address in it.
fn icmpv6(from: MacAddr, source: IpAddr, kind: u8, about: IpAddr) -> Vec<u8> {
    let to: IpAddr = "ff02::1".parse().unwrap();
    let header = [&[0x60, 0, 0, 0, 0, 24, 58, 255], &octets(source)[..], &octets(to)].concat();
    frame(from, 0x86dd, &[&header[..], &[kind, 0, 0, 0, 0x20, 0, 0, 0], &octets(about)].concat())
}

/// A question of ARP, with the sender's MAC and address as it tells them.
fn arp(from: MacAddr, told: MacAddr, source: IpAddr) -> Vec<u8> {
    let head = [0, 1, 8, 0, 6, 4, 0, 1];
    frame(from, 0x0806, &[&head[..], &told.octets(), &octets(source), &[0; 6], &[10, 128, 0, 33]].concat())
}

pub(super) fn desired(remote: &[u8]) -> DesiredFirewall {
    let mut net = DesiredNet::default();
    let kind = DesiredKind::Kernel(KernelKind::Vxlan(DesiredVxlan::new(Vni::new(5000).unwrap())));
    let link = DesiredLink { master: Some(name("wb.5000")), ..DesiredLink::new(kind, Mtu(1450)) };
    net.links.insert(name("wv.5000"), link);
    for last in remote {
        let neighbours = addresses(*last).map(|address| (NeighbourKey { link: name("wb.5000"), address }, mac(*last)));
        net.neighbours.extend(neighbours);
    }
    let port = |last: u8| ContainerPort {
        link: name(&format!("wp{last}")),
        mac: mac(last),
        addresses: addresses(last).into(),
    };
    let table = BridgeTable::new(&net, &[port(33), port(34)], Overlays::Checked).table().clone();
    DesiredFirewall { bridge: Some(table), ..DesiredFirewall::default() }
}

fn in_lab(test: impl FnOnce(Bridge, Reconciler<FirewallDataplane>) + Send + 'static) {
    in_namespace(|| {
        let bridge = Bridge::new();
        let mut reconciler = reconciler();
        let report = reconciler.round(&desired(&[64]));
        assert!(report.converged, "{report:?}");
        test(bridge, reconciler);
    });
}

#[test]
fn what_another_host_sends_arrives_by_its_own_sources_and_what_it_forges_is_dropped_and_counted() {
    in_lab(|bridge, _| {
        let ([v4, v6], [other, other_v6]) = (addresses(64), addresses(34));
        let local: IpAddr = "fe80::57:aff:fe80:40".parse().unwrap();
        let own = [
            ("IPv4", ipv4(mac(64), v4)),
            ("ARP", arp(mac(64), mac(64), v4)),
            ("IPv6", icmpv6(mac(64), v6, 128, v6)),
            ("a solicitation", icmpv6(mac(64), local, 135, other_v6)),
            ("an advertisement", icmpv6(mac(64), v6, 136, v6)),
        ];
        for (what, frame) in own {
            bridge.assert_arrives(what, &frame);
        }
        assert_eq!(forged(), 0);
        let mut tagged = ipv4(mac(64), v4);
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        let wrong = [
            ("another's address", ipv4(mac(64), other)),
            ("another's MAC", ipv4(mac(34), v4)),
            ("the source of nobody", ipv4(mac(64), [198, 51, 100, 1].into())),
            ("ARP by another's address", arp(mac(64), mac(64), other)),
            ("ARP that tells another MAC", arp(mac(64), mac(34), v4)),
            ("ARP from another MAC", arp(mac(34), mac(64), v4)),
            ("the gateway's address", arp(mac(64), mac(64), [10, 128, 0, 1].into())),
            ("IPv6 of another", icmpv6(mac(64), other_v6, 128, other_v6)),
            ("a link-local address of another", icmpv6(mac(64), "fe80::1".parse().unwrap(), 135, other_v6)),
            ("an advertisement of another's address", icmpv6(mac(64), v6, 136, other_v6)),
            ("a router", icmpv6(mac(64), local, 134, v6)),
            ("a redirection", icmpv6(mac(64), local, 137, v6)),
            ("a tag", tagged),
            ("another protocol", frame(mac(64), 0x88cc, &[0; 40])),
        ];
        for (what, frame) in wrong {
            bridge.assert_dropped(what, &frame);
        }
    });
}

#[test]
fn containers_reach_each_other_by_their_own_addresses_alone() {
    in_lab(|bridge, _| {
        for address in addresses(34) {
            assert!(bridge.reaches(0, address), "{address}");
        }
        let before = forged();
        bridge.inside(0, "ip addr add 10.128.0.99/20 dev eth0");
        bridge.inside(0, "ping -c1 -W1 -I 10.128.0.99 10.128.0.34 > /dev/null && exit 1 || true");
        assert!(forged() > before);
        // With the MAC of another, all is dropped: the bridge learns nothing of it.
        bridge.inside(0, &format!("ip link set eth0 address {}", mac(64)));
        assert!(!bridge.reaches(0, [10, 128, 0, 34].into()));
        assert!(!run("bridge fdb show dev wp33").contains(&mac(64).to_string()));
    });
}

#[test]
fn the_table_follows_and_is_read_back_repaired_and_removed() {
    in_lab(|bridge, mut first| {
        let mut again = reconciler();
        let report = again.round(&desired(&[64]));
        assert_eq!((report.written, report.removed, report.converged), (0, 0, true), "{report:?}");
        let from = |last: u8| ipv4(mac(last), addresses(last)[0]);
        bridge.assert_dropped("before", &from(65));
        let report = again.round(&desired(&[65]));
        assert!(report.converged && report.written == 1, "{report:?}");
        bridge.assert_arrives("after", &from(65));
        bridge.assert_dropped("after", &from(64));
        for harm in [
            "nft flush set bridge wire-agent senders-v4",
            "nft flush chain bridge wire-agent senders",
            "nft delete table bridge wire-agent",
        ] {
            run(harm);
            assert!(super::repair(&mut again, &desired(&[65])).converged, "{harm}");
            bridge.assert_arrives(harm, &from(65));
            bridge.assert_dropped(harm, &from(64));
        }
        first.invalidate();
        assert!(first.round(&DesiredFirewall::default()).converged);
        assert!(!run("nft list ruleset").contains("wire"));
        bridge.assert_arrives("without a table", &from(64));
    });
}

#[test]
fn a_port_of_ours_whose_container_is_not_known_sends_nothing() {
    in_lab(|bridge, mut first| {
        let [v4, _] = addresses(34);
        run("ip link set wp33 name wp35");
        let before = forged();
        assert!(!bridge.reaches(0, v4) && forged() > before);
        // What somebody else has put on the bridge is theirs.
        run("ip link set wp35 name other");
        wait_until("a link of others", || bridge.reaches(0, v4));
        run("ip link set other name wp33");
        wait_until("a port that is known", || bridge.reaches(0, v4));
        run("ip link set wv.5000 name wv.5001");
        let dropped = forged();
        bridge.send(&ipv4(mac(64), addresses(64)[0]));
        wait_until("a device that is not known", || forged() > dropped);
        assert!(first.round(&desired(&[64])).converged);
    });
}

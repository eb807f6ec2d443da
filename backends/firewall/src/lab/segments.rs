//! Networks over several hosts: who may send to them, and where their packets go.

use std::{
    net::{IpAddr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use wire_net::{DualStack, MacAddr, NetworkName, Vni};
use wire_netlink::lab::{in_namespace, run};
use wire_state::{DesiredFirewall, DesiredNet, FirewallOp};

use super::{
    bridges::{new_namespace, packets, run_in, send_from, wait_until},
    reconciler, repair,
};
use crate::{HostFacts, SegmentFilter, SegmentMember, SegmentShare, tests::name};

fn vni(number: u32) -> Vni {
    Vni::new(number).unwrap()
}

/// A network whose only other host has these addresses on the underlay; its own ones follow from the VNI.
pub(super) fn share(number: u32, publics: &[&str]) -> SegmentShare {
    let blocks = [format!("10.{}.0.64/27", number - 4872), format!("fd57:{number}::a80:40/123")];
    let blocks = blocks.map(|block| block.parse().unwrap()).to_vec();
    let single = format!("10.{}.9.9", number - 4872).parse().unwrap();
    let addresses = vec![(single, "02:00:00:00:00:09".parse().unwrap())];
    let member = |public: &&str| {
        let (blocks, addresses) = (blocks.clone(), addresses.clone());
        let member = SegmentMember { public: public.parse().unwrap(), blocks, addresses };
        ((*public).to_owned(), Arc::new(member))
    };
    SegmentShare {
        bridge: name(&format!("wb.{number}")),
        vni: vni(number),
        pools: DualStack {
            v4: format!("10.{}.0.0/20", number - 4872).parse().ok(),
            v6: format!("fd57:{number}::/64").parse().ok(),
        },
        internal: number == 5002,
        local: [192, 0, 2, 1].into(),
        underlay: name("lo"),
        port: 8472,
        blocks: blocks.clone(),
        members: publics.iter().map(member).collect(),
        singles: [single].into_iter().collect(),
        net: DesiredNet::default(),
        ports: Vec::new(),
    }
}

/// Networks 5000, 5001 and 5002, of which the last is internal. The host with the last byte 2 is a member of the first two.
pub(super) fn desired() -> DesiredFirewall {
    let publics = ["192.0.2.2", "2001:db8::2"];
    beside_docker([share(5000, &publics), share(5001, &publics), share(5002, &[])])
}

fn beside_docker<const N: usize>(shares: [SegmentShare; N]) -> DesiredFirewall {
    of(shares, &HostFacts { bridges: [name("docker0")].into(), ..HostFacts::default() })
}

/// The rules of these networks, but for the table for bridges.
pub(super) fn of<const N: usize>(shares: [SegmentShare; N], facts: &HostFacts) -> DesiredFirewall {
    let shares: Vec<(NetworkName, Arc<SegmentShare>)> =
        shares.into_iter().map(|share| (format!("n{}", share.vni).parse().unwrap(), Arc::new(share))).collect();
    let mut filter = SegmentFilter::default();
    filter.update(shares.iter().map(|(name, share)| (name, share)), facts);
    DesiredFirewall { bridge: None, ..DesiredFirewall::clone(filter.firewall()) }
}

fn counted(counter: &str) -> u64 {
    packets(&run(&format!("nft list counter inet wire-agent {counter}")))
}

#[test]
fn encapsulated_packets_of_a_network_come_from_its_members_alone() {
    in_namespace(|| {
        run("ip link set lo up; for n in 1 2 3; do ip address add 192.0.2.$n/24 dev lo; done");
        run("for n in 1 2 3; do ip address add 2001:db8::$n/64 dev lo nodad; done");
        assert!(reconciler().round(&desired()).converged);
        let mut dropped = 0;
        for (victim, member, stranger) in [
            ("192.0.2.1:8472", "192.0.2.2:0", "192.0.2.3:0"),
            ("[2001:db8::1]:8472", "[2001:db8::2]:0", "[2001:db8::3]:0"),
        ] {
            let ear = UdpSocket::bind(victim).unwrap();
            ear.set_nonblocking(true).unwrap();
            // The last is no network of ours: others may use it as they like.
            for (from, number, arrives) in [
                (member, 5000, true),
                (member, 5001, true),
                (member, 5002, false),
                (stranger, 5000, false),
                (stranger, 5001, false),
                (stranger, 1, true),
            ] {
                let source = format!("10.{}.0.65", number.max(5000) - 4872);
                let mac = format!("02:57:0a:{:02x}:00:41", number.max(5000) - 4872);
                let packet = Inside { number, mac: &mac, source: &source, ..Inside::default() }.packet();
                UdpSocket::bind(from).unwrap().send_to(&packet, victim).unwrap();
                dropped += u64::from(!arrives);
                assert_eq!(ear.recv(&mut [0; 200]).is_ok(), arrives, "{from} {number}");
                assert_eq!(counted("segment-strangers"), dropped, "{from} {number}");
            }
        }
    });
}

/// A network's bridge on this host, with one container.
pub(super) fn network(number: u32, second: u8) -> OwnedFd {
    let container = new_namespace();
    let peer = format!("/proc/{}/fd/{}", std::process::id(), container.as_raw_fd());
    run(&format!(
        "ip link add wb.{number} type bridge; ip link set wb.{number} up; ip addr add 10.{second}.0.1/24 dev wb.{number}"
    ));
    run(&format!(
        "ip link add wp{number} type veth peer name eth0 netns {peer}; ip link set wp{number} up master wb.{number}"
    ));
    run_in(
        &container,
        &format!(
            "ip link set eth0 up; ip addr add 10.{second}.0.2/24 dev eth0; ip route add default via 10.{second}.0.1"
        ),
    );
    container
}

fn reaches(from: &OwnedFd, to: &str) -> bool {
    run_in(from, &format!("ping -c1 -W1 {to} > /dev/null && echo yes || true")).contains("yes")
}

#[test]
fn a_network_leads_to_the_outside_by_this_hosts_address_and_never_to_another_or_out_of_an_internal_one() {
    in_namespace(|| {
        run("ip link set lo up; sysctl -qw net.ipv4.ip_forward=1");
        let outside = new_namespace();
        let peer = format!("/proc/{}/fd/{}", std::process::id(), outside.as_raw_fd());
        run(&format!(
            "ip link add out type veth peer name eth0 netns {peer}; ip link set out up; ip addr add 198.51.100.1/24 dev out"
        ));
        run_in(&outside, "ip link set eth0 up; ip addr add 198.51.100.2/24 dev eth0");
        let [one, other, internal] =
            [(5000, 128), (5001, 129), (5002, 130)].map(|(number, second)| network(number, second));
        // Without rules, all but the way back from outside is open.
        assert!(reaches(&one, "10.129.0.2") && !reaches(&one, "198.51.100.2"));
        let mut reconciler = reconciler();
        assert!(reconciler.round(&desired()).converged);
        // It has no route to the network: it answers this host's address.
        assert!(reaches(&one, "198.51.100.2") && reaches(&other, "198.51.100.2"));
        for (number, (from, to)) in [
            (&one, "10.129.0.2"),
            (&other, "10.128.0.2"),
            (&one, "10.130.0.2"),
            (&internal, "10.128.0.2"),
            (&internal, "198.51.100.2"),
        ]
        .into_iter()
        .enumerate()
        {
            assert!(!reaches(from, to), "{to}");
            assert_eq!(counted("segment-crossing"), u64::try_from(number).unwrap() + 1, "{to}");
        }
        assert!(reaches(&internal, "10.130.0.1"));
        run("nft flush table inet wire-agent");
        assert!(repair(&mut reconciler, &desired()).converged);
        assert!(!reaches(&one, "10.129.0.2") && reaches(&one, "198.51.100.2"));
        let mut again = super::reconciler();
        let report = again.round(&desired());
        assert_eq!((report.written, report.removed, report.converged), (0, 0, true), "{report:?}");
    });
}

#[test]
fn what_comes_by_a_port_past_its_bridge_is_dropped_and_counted_and_nothing_by_links_of_others() {
    in_namespace(|| {
        let container = network(5000, 128);
        let mut reconciler = reconciler();
        assert!(reconciler.round(&desired()).converged);
        // Also where bridged packets pass the rules of IP (br_netfilter): they come by the bridge.
        assert!(reaches(&container, "10.128.0.1"));
        let before = counted("segment-past-bridges");
        assert_eq!(before, 0);
        run("ip link set wp5000 nomaster; ip addr del 10.128.0.1/24 dev wb.5000; ip addr add 10.128.0.1/24 dev wp5000");
        wait_until("a port without a bridge", || {
            assert!(!reaches(&container, "10.128.0.1"));
            counted("segment-past-bridges") > before
        });
        // A link of somebody who likes such names.
        let before = counted("segment-past-bridges");
        run(
            "ip link set wp5000 down; ip link set wp5000 name port; ip addr flush dev port; ip link add wpan0 type bridge; ip link set wpan0 up",
        );
        run("ip link set port up master wpan0; ip addr add 10.128.0.1/24 dev wpan0");
        wait_until("a link of somebody else", || reaches(&container, "10.128.0.1"));
        assert_eq!(counted("segment-past-bridges"), before);
    });
}

/// A packet of VXLAN: of IPv4, IPv6 or, with the MAC that it tells, of ARP.
#[derive(Clone, Copy)]
pub(super) struct Inside<'a> {
    pub(super) number: u32,
    pub(super) mac: &'a str,
    pub(super) ether_type: u16,
    pub(super) source: &'a str,
    pub(super) told: Option<&'a str>,
}

impl Default for Inside<'_> {
    fn default() -> Self {
        Self { number: 5000, mac: "02:57:0a:80:00:41", ether_type: 0x0800, source: "10.128.0.65", told: None }
    }
}

impl Inside<'_> {
    pub(super) fn packet(&self) -> Vec<u8> {
        let [_, a, b, c] = u32::to_be_bytes(self.number);
        let mac = |text: &str| text.parse::<MacAddr>().unwrap().octets();
        let header = [8, 0, 0, 0, a, b, c, 0];
        let ether_type = self.ether_type.to_be_bytes();
        let mut packet = [&header[..], &[2; 6], &mac(self.mac), &ether_type, &[0; 60]].concat();
        let (offset, octets) = match self.source.parse().unwrap() {
            IpAddr::V4(address) => (if self.told.is_some() { 14 } else { 12 }, address.octets().to_vec()),
            IpAddr::V6(address) => (8, address.octets().to_vec()),
        };
        packet[22 + offset..22 + offset + octets.len()].copy_from_slice(&octets);
        if let Some(told) = self.told {
            packet[30..36].copy_from_slice(&mac(told));
        }
        packet
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Arrives,
    Dropped,
    Counted,
}

/// Frames of the member of network 5000 that has 10.128.0.64/27 with fd57:5000::a80:40/123, and 10.128.9.9 with a MAC of its own.
const SENT: [(&str, u16, &str, Option<&str>, Fate); 32] = {
    use Fate::{Arrives, Counted, Dropped};
    const OWN: &str = "02:57:0a:80:00:41";
    const LAST: &str = "02:57:0a:80:00:5f";
    const NEXT: &str = "02:57:0a:80:00:60";
    const SINGLE: &str = "02:00:00:00:00:09";
    [
        (OWN, 0x0800, "10.128.0.65", None, Arrives),
        (LAST, 0x0800, "10.128.0.95", None, Arrives),
        (SINGLE, 0x0800, "10.128.9.9", None, Arrives),
        // A source, a MAC, or both of another block.
        (OWN, 0x0800, "10.128.0.96", None, Counted),
        (OWN, 0x0800, "10.128.0.63", None, Counted),
        (NEXT, 0x0800, "10.128.0.65", None, Counted),
        (NEXT, 0x0800, "10.128.0.96", None, Counted),
        ("02:57:0a:80:01:41", 0x0800, "10.128.0.65", None, Counted),
        (SINGLE, 0x0800, "10.128.0.65", None, Counted),
        (OWN, 0x0800, "10.128.9.9", None, Counted),
        (OWN, 0x0800, "10.128.0.1", None, Counted),
        (OWN, 0x0800, "198.51.100.1", None, Counted),
        (OWN, 0x0800, "0.0.0.0", None, Dropped),
        (OWN, 0x0806, "10.128.0.65", Some(OWN), Arrives),
        (SINGLE, 0x0806, "10.128.9.9", Some(SINGLE), Arrives),
        // The MAC that is told is the one that others send to.
        (OWN, 0x0806, "10.128.0.65", Some(NEXT), Counted),
        (NEXT, 0x0806, "10.128.0.65", Some(OWN), Counted),
        (OWN, 0x0806, "10.128.0.1", Some(OWN), Counted),
        (OWN, 0x0806, "10.128.0.96", Some(OWN), Counted),
        (OWN, 0x0806, "0.0.0.0", Some(OWN), Dropped),
        (OWN, 0x86dd, "fd57:5000::a80:41", None, Arrives),
        (LAST, 0x86dd, "fd57:5000::a80:5f", None, Arrives),
        (OWN, 0x86dd, "fe80::57:aff:fe80:41", None, Arrives),
        (SINGLE, 0x86dd, "fe80::ff:fe00:9", None, Arrives),
        // Link-local addresses of another block, and of none.
        (OWN, 0x86dd, "fe80::57:aff:fe80:60", None, Counted),
        (OWN, 0x86dd, "fe80::41", None, Counted),
        (NEXT, 0x86dd, "fe80::57:aff:fe80:41", None, Counted),
        (OWN, 0x86dd, "fd57:5000::a80:61", None, Counted),
        (NEXT, 0x86dd, "fd57:5000::a80:41", None, Counted),
        (OWN, 0x86dd, "::", None, Dropped),
        // Neither IP nor ARP, and a tag.
        (OWN, 0x8847, "10.128.0.65", None, Counted),
        (OWN, 0x8100, "10.128.0.65", None, Counted),
    ]
};

#[test]
fn a_member_sends_from_its_own_addresses_alone() {
    in_namespace(|| {
        run("ip link set lo up; for n in 1 2; do ip address add 192.0.2.$n/24 dev lo; done");
        run("for n in 1 2; do ip address add 2001:db8::$n/64 dev lo nodad; done");
        let mut first = reconciler();
        assert!(first.round(&desired()).converged);
        first.invalidate();
        assert_eq!(first.round(&desired()).written, 0);
        let mut dropped = 0;
        for (victim, member) in [("192.0.2.1:8472", "192.0.2.2:0"), ("[2001:db8::1]:8472", "[2001:db8::2]:0")] {
            let (ear, socket) = (UdpSocket::bind(victim).unwrap(), UdpSocket::bind(member).unwrap());
            ear.set_nonblocking(true).unwrap();
            for (mac, ether_type, source, told, fate) in SENT {
                let inside = Inside { number: 5000, mac, ether_type, source, told };
                socket.send_to(&inside.packet(), victim).unwrap();
                dropped += u64::from(fate == Fate::Counted);
                let what = format!("{member} {mac} {ether_type:#x} {source} {told:?}");
                assert_eq!(ear.recv(&mut [0; 200]).is_ok(), fate == Fate::Arrives, "{what}");
                assert_eq!(counted("segment-forged"), dropped, "{what}");
            }
        }
    });
}

#[test]
fn networks_and_members_that_come_and_go_change_elements_alone_and_the_kernel_has_them() {
    in_namespace(|| {
        let mut reconciler = reconciler();
        let steps = [
            beside_docker([share(5000, &[])]),
            beside_docker([share(5000, &["192.0.2.2"]), share(5001, &["2001:db8::2"]), share(5002, &["192.0.2.2"])]),
            desired(),
            beside_docker([share(5002, &["192.0.2.3", "2001:db8::3"])]),
        ];
        for (number, desired) in steps.iter().enumerate() {
            let report = reconciler.round(desired);
            assert!(report.converged, "{report:?}");
            let is_put = report.changes.iter().any(|op| matches!(op, FirewallOp::PutTable(_)));
            assert_eq!(is_put, number == 0, "{report:?}");
            let mut other = super::reconciler();
            let report = other.round(desired);
            assert_eq!((report.written, report.removed, report.converged), (0, 0, true), "{report:?}");
        }
    });
}

#[test]
fn what_only_passes_this_host_stays_in_connection_tracking_and_what_comes_to_it_does_not() {
    in_namespace(|| {
        run("ip link set lo up; sysctl -qw net.ipv4.ip_forward=1");
        let [member, other] = [("one", "192.0.2", "2"), ("two", "198.51.100", "2")].map(|(link, net, last)| {
            let namespace = new_namespace();
            let peer = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
            run(&format!("ip link add {link} type veth peer name eth0 netns {peer}; ip link set {link} up"));
            run(&format!("ip addr add {net}.1/24 dev {link}"));
            run_in(&namespace, &format!("ip link set eth0 up; ip addr add {net}.{last}/24 dev eth0"));
            run_in(&namespace, &format!("ip route add default via {net}.1"));
            namespace
        });
        run("nft add table ip operator; nft add counter ip operator untracked; nft add counter ip operator passed");
        run("nft 'add chain ip operator in { type filter hook input priority 0; }'");
        run("nft add rule ip operator in udp dport 8472 ct state untracked counter name untracked");
        run("nft 'add chain ip operator through { type filter hook forward priority 0; policy drop; }'");
        run("nft add rule ip operator through ct state new,established counter name passed accept");
        assert!(reconciler().round(&desired()).converged);
        let counted = |counter: &str| packets(&run(&format!("nft list counter ip operator {counter}")));
        let packet = Inside::default().packet();
        send_from(&member, "198.51.100.2:8472", &packet);
        wait_until("a packet that passes", || counted("passed") == 1);
        send_from(&member, "192.0.2.1:8472", &packet);
        wait_until("a packet to this host", || counted("untracked") == 1);
        // Of another block.
        let forged = Inside { source: "10.128.0.96", ..Inside::default() }.packet();
        send_from(&member, "198.51.100.2:8472", &forged);
        wait_until("a forged packet", || self::counted("segment-forged") == 1);
        assert_eq!(counted("passed"), 1);
        drop(other);
    });
}

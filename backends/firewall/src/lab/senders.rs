//! Packets that the table lets in, sent over the loopback device: a host is a peer, an unknown peer or a container by
//! its address alone.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use wire_net::Family;
use wire_state::DesiredFirewall;

use super::reconciler;
use wire_netlink::lab::{in_namespace, run};

use crate::{
    FirewallPolicy, HostFacts, Masquerade, Nftables, Senders, Support,
    tests::{bounded, policy, wanted, wanted_over},
};

/// An inner frame behind these VLAN tags. The bytes that would be the inner source of an untagged frame are `seen`.
fn tagged(tags: &[u16], ether_type: u16, seen: IpAddr) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend(tags.iter().flat_map(|tag| [tag.to_be_bytes(), [0, 0]].concat()));
    frame.extend(ether_type.to_be_bytes());
    let (place, octets) = match seen {
        IpAddr::V4(v4) => (26, v4.octets().to_vec()),
        IpAddr::V6(v6) => (22, v6.octets().to_vec()),
    };
    frame.resize(120, 0);
    frame[place..place + octets.len()].copy_from_slice(&octets);
    [&[8, 0, 0, 0, 0, 0, 1, 0], frame.as_slice()].concat()
}

/// The kernel removes all VLAN tags with VID 0, and then uses the header behind them.
#[test]
fn a_peers_frame_with_vlan_tags_or_of_another_family_is_dropped_and_counted_whatever_lies_where_its_source_would() {
    const ODD: [(&[u16], u16); 9] = [
        (&[0x8100], 0x0800),
        (&[0x88a8], 0x0800),
        (&[0x8100, 0x8100], 0x0800),
        (&[0x88a8, 0x8100], 0x86dd),
        (&[0x8100; 5], 0x0800),
        (&[], 0x0806),
        (&[], 0x8847),
        (&[], 0x0000),
        (&[0x9100], 0x86dd),
    ];
    in_namespace(|| {
        run("ip link set lo up; ip address add 192.0.2.1/24 dev lo; ip address add 192.0.2.2/24 dev lo
             ip address add 2001:db8::1/64 dev lo nodad; ip address add 2001:db8::2/64 dev lo nodad");
        let mut reconciler = reconciler();
        // All is sent over lo: if the devices send through another link, it comes by an unusual one.
        for (nftables, parent, v4_len) in [
            (Nftables::Whole, None, 24),
            (Nftables::Whole, Some("lo"), 24),
            (Nftables::Whole, Some("eth9"), 24),
            (Nftables::Whole, Some("lo"), 20),
            (Nftables::Simple, Some("lo"), 24),
        ] {
            let mut policy = policy(true);
            policy.pools.v4.as_mut().unwrap().subnet_len = v4_len;
            let facts = HostFacts { support: Support { nftables, ..Support::default() }, ..HostFacts::default() };
            // Counts begin anew with each table.
            assert!(reconciler.round(&DesiredFirewall::default()).converged);
            let want = wanted_over(&policy, &[2], &facts, parent);
            assert!(reconciler.round(&want).converged);
            for (family, peer, victim, source, own, other) in [
                (Family::V4, "192.0.2.2:0", "192.0.2.1:8472", "10.5.2.9", 0x0800, 0x86dd),
                (Family::V6, "[2001:db8::2]:0", "[2001:db8::1]:8472", "fd00:5:0:2::9", 0x86dd, 0x0800),
            ] {
                let (ear, socket) = (UdpSocket::bind(victim).unwrap(), UdpSocket::bind(peer).unwrap());
                ear.set_nonblocking(true).unwrap();
                let source = source.parse().unwrap();
                let before = reconciler.driver().counted().unwrap().spoofed;
                for (tags, ether_type) in ODD.into_iter().chain([(&[][..], other)]) {
                    socket.send_to(&tagged(tags, ether_type, source), victim).unwrap();
                    assert!(
                        ear.recv(&mut [0; 200]).is_err(),
                        "{nftables:?} {parent:?} {tags:x?} {ether_type:x} is let in"
                    );
                }
                socket.send_to(&tagged(&[], own, source), victim).unwrap();
                assert!(
                    ear.recv(&mut [0; 200]).is_ok(),
                    "{nftables:?} {parent:?} {v4_len} {family}: an honest one is not let in"
                );
                let counted = reconciler.driver().counted().unwrap();
                assert_eq!(counted.spoofed - before, ODD.len() as u64 + 1);
                assert_eq!(counted.arrived.get(family), Some(&1));
            }
            // The count of a rule is no part of its identity.
            reconciler.invalidate();
            let report = reconciler.round(&want);
            assert!(report.read_back && report.written == 0, "{report:?}");
        }
    });
}

#[test]
fn a_peer_that_lives_in_the_network_beside_the_range_is_heard_and_what_may_be_a_container_is_not() {
    in_namespace(|| {
        run("ip link set lo up; for last in 2.1 2.2 10.7; do ip address add 192.0.$last/16 dev lo; done
             for last in :1 :2 10::7; do ip address add 2001:db8:$last/32 dev lo nodad; done");
        for (senders, heard) in [(Senders::Peers, [1, 0]), (Senders::Anyone, [1, 1])] {
            let mut reconciler = reconciler();
            let policy = FirewallPolicy { senders, masquerade: Masquerade::Off, ..bounded() };
            assert!(reconciler.round(&DesiredFirewall::default()).converged);
            let want = wanted(&policy, &[2], &[]);
            assert!(reconciler.round(&want).converged);
            reconciler.invalidate();
            assert_eq!(reconciler.round(&want).written, 0);
            for (family, victim, inner, peer, container, unknown) in [
                (Family::V4, "192.0.2.1", "10.5.2.9", "192.0.2.2", "192.0.10.7", "127.0.0.9"),
                (Family::V6, "2001:db8::1", "fd00:5:0:2::9", "2001:db8::2", "2001:db8:10::7", "::1"),
            ] {
                let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 0);
                let victim = SocketAddr::new(victim.parse().unwrap(), 8472);
                let ear = UdpSocket::bind(victim).unwrap();
                ear.set_nonblocking(true).unwrap();
                let ether_type = if family == Family::V4 { 0x0800 } else { 0x86dd };
                let frame = tagged(&[], ether_type, inner.parse().unwrap());
                let before = reconciler.driver().counted().unwrap();
                let arrives = |from: &str| {
                    UdpSocket::bind(address(from)).unwrap().send_to(&frame, victim).unwrap();
                    usize::from(ear.recv(&mut [0; 200]).is_ok())
                };
                assert_eq!([arrives(peer), arrives(unknown)], heard, "{senders:?} {family}");
                assert_eq!(arrives(container), 0, "{senders:?} {family}");
                let counted = reconciler.driver().counted().unwrap();
                assert_eq!(counted.containers - before.containers, 1, "{counted:?}");
                let claim = (address(unknown).ip(), inner.parse().unwrap());
                assert_eq!(counted.claims.contains(&claim), senders == Senders::Peers, "{counted:?}");
            }
        }
    });
}

/// The first fragment has the ports, and what comes later has none.
#[test]
fn what_comes_in_fragments_is_judged_whole_in_both_families_whatever_is_masqueraded() {
    in_namespace(|| {
        run("ip link set lo up mtu 1300; ip address add 192.0.2.1/24 dev lo; ip address add 192.0.2.2/24 dev lo
             ip address add 2001:db8::1/64 dev lo nodad; ip address add 2001:db8::2/64 dev lo nodad");
        // Of IPv4 the names come first, then the values.
        let put_together = || {
            run("awk '/^Ip:/ && !n { for (i = 1; i <= NF; i++) if ($i == \"ReasmOKs\") n = i; next } /^Ip:/ { print $n }
                 /^Ip6ReasmOKs/ { print $2 }' /proc/net/snmp /proc/net/snmp6")
        };
        let mut reconciler = reconciler();
        for (masquerade, forward) in [(Masquerade::Random, true), (Masquerade::Off, false)] {
            let policy = FirewallPolicy { masquerade, forward, ..policy(true) };
            let want = wanted(&policy, &[2], &["docker0"]);
            assert!(reconciler.round(&want).converged);
            for (peer, victim, ether_type, own, other) in [
                ("192.0.2.2:0", "192.0.2.1:8472", 0x0800, "10.5.2.9", "10.5.3.9"),
                ("[2001:db8::2]:0", "[2001:db8::1]:8472", 0x86dd, "fd00:5:0:2::9", "fd00:5:0:3::9"),
            ] {
                let (ear, socket) = (UdpSocket::bind(victim).unwrap(), UdpSocket::bind(peer).unwrap());
                ear.set_nonblocking(true).unwrap();
                let arrives = |source: &str| {
                    let mut frame = tagged(&[], ether_type, source.parse().unwrap());
                    frame.resize(3000, 0);
                    let before = put_together();
                    socket.send_to(&frame, victim).unwrap();
                    let heard = ear.recv(&mut [0; 4000]).ok();
                    // For IPv6, reassembly is counted only if the packet is delivered.
                    assert!(heard.is_none() || before != put_together(), "it came whole");
                    heard
                };
                assert_eq!(arrives(own), Some(3000), "{masquerade:?} {victim}");
                assert_eq!(arrives(other), None, "{masquerade:?} {victim}");
            }
        }
    });
}

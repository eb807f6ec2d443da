//! Packets of IP protocol 4 that come in, sent over the loopback device: the kernel needs no IPIP to judge them.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::{AsRawFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
use wire_net::Family;
use wire_netlink::lab::{in_namespace, run};
use wire_state::DesiredFirewall;

use super::reconciler;
use crate::{
    FirewallPolicy, HostFacts, Masquerade, Nftables, Senders, Support,
    tests::{all_of, ipip::devices, peer, policy},
};

/// RFC 2003: IPv4 in IPv4.
const IPIP: u8 = 4;
/// ICMP, RFC 792.
const ICMP: u8 = 1;

/// A host that forges any packet.
struct Sender(OwnedFd);

impl Sender {
    fn new() -> Self {
        Self(socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).unwrap())
    }

    /// Sends an IPIP packet to this host.
    fn send(&self, outer: &str, inner: &str) {
        let address = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        let us = address("192.0.2.1");
        let inside = header(ICMP, address(inner), address("10.5.1.9"), 8);
        let outside = header(IPIP, address(outer), us, inside.len() + 8);
        let packet = [outside, inside, vec![0; 8]].concat();
        let to = SockaddrIn::from(SocketAddrV4::new(us, 0));
        assert_eq!(sendto(self.0.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap(), packet.len());
    }
}

/// An IPv4 header without options, RFC 791 §3.1. The kernel fills in the checksum of the outer one.
fn header(protocol: u8, from: Ipv4Addr, to: Ipv4Addr, content: usize) -> Vec<u8> {
    let length = u16::try_from(20 + content).unwrap().to_be_bytes();
    let fixed = [0x45, 0, length[0], length[1], 0, 0, 0, 0, 64, protocol, 0, 0];
    [&fixed[..], &from.octets(), &to.octets()].concat()
}

/// The number of packets of protocol 4 that this host takes, by a chain of an operator's behind ours.
fn taken() -> u64 {
    let said = run("nft list counter inet watch taken");
    said.split("packets ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap()
}

#[test]
fn packets_of_protocol_4_are_taken_from_peers_with_sources_leased_to_them_and_all_others_are_dropped_and_counted() {
    in_namespace(|| {
        run("ip link set lo up; for last in 1 2 3 77; do ip address add 192.0.2.$last/24 dev lo; done
             nft add table inet watch; nft add counter inet watch taken
             nft add chain inet watch in '{ type filter hook input priority 100; }'
             nft add rule inet watch in ip protocol 4 counter name taken");
        let (mut reconciler, sender) = (reconciler(), Sender::new());
        for (senders, nftables, len) in [
            (Senders::Peers, Nftables::Whole, 24),
            (Senders::Peers, Nftables::Whole, 20),
            (Senders::Peers, Nftables::Simple, 24),
            (Senders::Anyone, Nftables::Whole, 24),
        ] {
            let said = format!("{senders:?} {nftables:?} {len}");
            let mut policy = FirewallPolicy { senders, masquerade: Masquerade::Off, ..policy(false) };
            policy.pools.v4.as_mut().unwrap().subnet_len = len;
            let facts = HostFacts { support: Support { nftables, ..Support::default() }, ..HostFacts::default() };
            let want = policy.desired(peer(1, false).subnet, &all_of(&[2, 3], false).into_iter(), &devices(), &facts);
            assert!(reconciler.round(&DesiredFirewall::default()).converged);
            assert!(reconciler.round(&want).converged, "{said}");
            reconciler.invalidate();
            assert_eq!(reconciler.round(&want).written, 0, "what was put is read back as wanted ({said})");
            let (whole, anyone) = (nftables == Nftables::Whole, senders == Senders::Anyone);
            for (outer, inner, is_let_in, counter) in [
                ("192.0.2.2", "10.5.2.9", true, "arrived"),
                ("192.0.2.2", "10.5.3.9", anyone || !whole, "spoofed"),
                ("192.0.2.2", "203.0.113.9", anyone || !whole, "spoofed"),
                ("192.0.2.77", "10.5.2.9", anyone, "strangers"),
                ("10.5.2.9", "10.5.2.9", false, "containers"),
            ] {
                let before = (taken(), reconciler.driver().counted().unwrap());
                sender.send(outer, inner);
                let after = (taken(), reconciler.driver().counted().unwrap());
                let arrived = |counted: &crate::Counted| counted.arrived.get(Family::V4).copied().unwrap_or_default();
                let said = format!("{said}: {inner} from {outer}");
                assert_eq!(after.0 - before.0, u64::from(is_let_in), "{said}");
                assert_eq!(arrived(&after.1) - arrived(&before.1), u64::from(is_let_in), "{said}");
                let of = |kind: &str, counted: &crate::Counted| match kind {
                    "spoofed" => counted.spoofed,
                    "strangers" => counted.unknown_peers,
                    _ => counted.containers,
                };
                if !is_let_in {
                    assert_eq!(of(counter, &after.1) - of(counter, &before.1), 1, "{said}");
                }
            }
        }
    });
}

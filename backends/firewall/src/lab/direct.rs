//! Packets without encapsulation that come by the underlay's link, to a host with containers on `docker0`. Another host sends them.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::mpsc::{Receiver, Sender, channel},
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use wire_net::Family;
use wire_netlink::lab::{in_namespace, run};
use wire_state::{DesiredFirewall, Reconciler};

use super::reconciler;
use crate::{
    FirewallDataplane, FirewallPolicy, HostFacts, OverlayDevice, Senders,
    tests::{all_of, devices_over, name, peer, policy},
};

/// A host in a namespace of its own, on the links `eth0`, `flannel.1` and `flannel-v6.1`. It has any source that it is asked to send from.
struct Far {
    asked: Sender<(IpAddr, &'static str, SocketAddr)>,
    done: Receiver<()>,
}

impl Far {
    fn new() -> Self {
        let ((asked, questions), (answers, done), (tell, told)) = (channel(), channel(), channel());
        let (go, gone) = channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(gettid()).unwrap();
            gone.recv().unwrap();
            run("ip link set lo up; for link in eth0 flannel.1 flannel-v6.1; do ip link set $link up; done
                 ip address add 192.0.2.2/24 dev eth0; ip address add 2001:db8::2/64 dev eth0 nodad");
            answers.send(()).unwrap();
            while let Ok((source, link, to)) = questions.recv() {
                send(source, link, to);
                answers.send(()).unwrap();
            }
        });
        let tid = told.recv().unwrap();
        run(&format!(
            "ip link add eth0 type veth peer name eth0 netns {tid}
             ip link add flannel.1 type veth peer name flannel.1 netns {tid}
             ip link add flannel-v6.1 type veth peer name flannel-v6.1 netns {tid}"
        ));
        go.send(()).unwrap();
        done.recv().unwrap();
        Self { asked, done }
    }

    fn send(&self, source: &str, link: &'static str, to: SocketAddr) {
        self.asked.send((source.parse().unwrap(), link, to)).unwrap();
        self.done.recv().unwrap();
    }
}

/// Sends one datagram by a link, to whoever is at its other end.
fn send(source: IpAddr, link: &str, to: SocketAddr) {
    let nodad = if source.is_ipv6() { "nodad" } else { "" };
    let mac = "02:00:00:00:00:01";
    run(&format!(
        "ip address add {source} dev lo {nodad}; ip route replace {to} dev {link} src {source}
         ip neigh replace {to} lladdr {mac} dev {link}",
        to = to.ip()
    ));
    UdpSocket::bind((source, 0)).unwrap().send_to(b"direct", to).unwrap();
    run(&format!("ip address del {source} dev lo"));
}

fn host() -> Far {
    run("ip link set lo up; ip link add docker0 type bridge; ip link set docker0 up
         ip address add 10.5.1.1/24 dev docker0; ip address add fd00:5:0:1::1/64 dev docker0 nodad");
    let far = Far::new();
    run("for link in eth0 flannel.1 flannel-v6.1; do ip link set $link address 02:00:00:00:00:01 up
           echo 0 >/proc/sys/net/ipv4/conf/$link/rp_filter; done; echo 0 >/proc/sys/net/ipv4/conf/all/rp_filter
         ip address add 192.0.2.1/24 dev eth0; ip address add 2001:db8::1/64 dev eth0 nodad
         ip route add 10.5.2.0/24 via 192.0.2.2; ip route add fd00:5:0:2::/64 via 2001:db8::2
         ip route add 10.5.3.0/24 dev flannel.1; ip route add fd00:5:0:3::/64 dev flannel-v6.1");
    far
}

/// True if a packet is heard, false if it is dropped and counted as spoofed: one of both happens in the end.
fn is_heard(reconciler: &mut Reconciler<FirewallDataplane>, ear: &UdpSocket, send: impl FnOnce()) -> bool {
    let before = reconciler.driver().counted().unwrap().spoofed;
    send();
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if ear.recv(&mut [0; 99]).is_ok() {
            return true;
        }
        if reconciler.driver().counted().unwrap().spoofed > before {
            return false;
        }
        assert!(Instant::now() < end, "neither heard nor counted");
    }
}

#[test]
fn direct_packets_are_let_in_by_their_source_and_encapsulated_ones_of_the_same_peers_too() {
    in_namespace(|| {
        let far = host();
        let mut reconciler = reconciler();
        let mut devices = OverlayDevice::of(&devices_over(true, Some("eth0")));
        // Packets out of the agent's own devices were judged before.
        devices = devices.map(|_, device| OverlayDevice { in_kernel: false, ..*device });
        let (own, peers) = (peer(1, true).subnet, all_of(&[2, 3], true));
        for senders in [Senders::Peers, Senders::Anyone] {
            let policy = FirewallPolicy { senders, direct: Some(name("eth0")), ..policy(true) };
            let want = policy.desired(own, &peers.clone().into_iter(), &devices, &HostFacts::default());
            assert!(reconciler.round(&DesiredFirewall::default()).converged);
            assert!(reconciler.round(&want).converged);
            reconciler.invalidate();
            assert_eq!(reconciler.round(&want).written, 0, "what was put is read back as wanted");
            let open = senders == Senders::Anyone;
            for (family, victim, network) in
                [(Family::V4, "10.5.1.1", "10.5."), (Family::V6, "fd00:5:0:1::1", "fd00:5:0:")]
            {
                let address = SocketAddr::new(victim.parse().unwrap(), 4000);
                let ear = UdpSocket::bind(address).unwrap();
                ear.set_nonblocking(true).unwrap();
                let source = |number: u8| match family {
                    Family::V4 => format!("{network}{number}.9"),
                    Family::V6 => format!("{network}{number}::9"),
                };
                let overlay = if family == Family::V4 { "flannel.1" } else { "flannel-v6.1" };
                // Our own subnet, a peer on the link, one that we see behind a router, and no lease.
                for (number, link, expected) in [
                    (1, "eth0", false),
                    (2, "eth0", true),
                    (3, "eth0", true),
                    (77, "eth0", open),
                    (1, overlay, false),
                    (2, overlay, true),
                    (3, overlay, true),
                    (77, overlay, open),
                ] {
                    let heard = is_heard(&mut reconciler, &ear, || far.send(&source(number), link, address));
                    assert_eq!(heard, expected, "{senders:?} {} by {link}", source(number));
                }
                let outside = if family == Family::V4 { "203.0.113.9" } else { "2001:db8:99::9" };
                assert!(is_heard(&mut reconciler, &ear, || far.send(outside, "eth0", address)), "no overlay source");
            }
        }
    });
}

#[test]
fn a_lease_changes_one_element_of_the_set_of_direct_sources() {
    in_namespace(|| {
        let policy = FirewallPolicy { direct: Some(name("eth0")), ..policy(true) };
        let want = |peers: &[u8]| crate::tests::wanted(&policy, peers, &["docker0"]);
        let mut reconciler = reconciler();
        assert!(reconciler.round(&want(&[2, 3])).converged);
        assert_eq!(reconciler.round(&want(&[3, 4])).written, 1, "all sets in one transaction");
        assert!(!reconciler.driver().has_changed());
        let sets = run("nft list set inet wire-agent direct-v4-24; nft list set inet wire-agent direct-v6-64");
        for there in ["10.5.3.0, 10.5.4.0", "fd00:5:0:3::", "fd00:5:0:4::"] {
            assert!(sets.contains(there), "{sets}");
        }
        assert!(!sets.contains("10.5.2.0") && !sets.contains("fd00:5:0:2::"), "{sets}");
        reconciler.invalidate();
        assert_eq!(reconciler.round(&want(&[3, 4])).written, 0);
    });
}

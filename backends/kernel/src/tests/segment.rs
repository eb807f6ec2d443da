//! A network over three hosts on one bridge, with a container on each: packets arrive, and nobody is asked for what is known.

use std::{
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use nix::sched::{CloneFlags, setns};
use wire_backends::{NetFromSegment, Segment, SegmentHost, SegmentHosts, SegmentOuter};
use wire_net::{DualStack, LinkName, MacAddr, Mtu, Vni};
use wire_state::{LinkId, Namespace, PerNamespace, Reconciler, Scope};

use super::lab::{self, KernelAlone, new_namespace, run, run_inside};
use crate::{KernelDataplane, RouteForm};

const VNI: u32 = 5000;

/// A host with one container, each in a namespace. Its block has 32 addresses: the first is its own, the second its container's.
struct Member {
    number: u8,
    host: OwnedFd,
    container: OwnedFd,
}

fn path(namespace: &OwnedFd) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd())
}

/// An address of a host's block.
fn addresses(number: u8, nth: u8) -> [IpAddr; 2] {
    let last = 32 * number + nth;
    [[10, 128, 0, last].into(), format!("fd57:5000::a80:{last:x}").parse().unwrap()]
}

impl Member {
    fn new(number: u8) -> Self {
        let member = Self { number, host: new_namespace(), container: new_namespace() };
        let host = path(&member.host);
        run(&format!(
            "ip link add up{number} type veth peer name eth0 netns {host}; ip link set up{number} master sw up"
        ));
        run_inside(
            &member.host,
            &format!("ip link set lo up; ip link set eth0 up; ip addr add 192.0.2.{number}/24 dev eth0"),
        );
        member
    }

    fn segment(&self) -> Segment {
        let [v4, v6] = addresses(self.number, 0);
        let index: u32 = run_inside(&self.host, "ip -o link show eth0 | cut -d: -f1").trim().parse().unwrap();
        let name: LinkName = "eth0".parse().unwrap();
        Segment {
            vni: Vni::new(VNI).unwrap(),
            pools: DualStack {
                v4: Some("10.128.0.0/20".parse().unwrap()),
                v6: Some("fd57:5000::/64".parse().unwrap()),
            },
            broadcast: true,
            internal: false,
            mtu: None,
            own: DualStack { v4: Some(v4), v6: Some(v6) },
            mac: MacAddr::new([2, 0, 0, 0, 5, self.number]),
            outer: SegmentOuter {
                parent: LinkId { namespace: Namespace::Host, index, name },
                local: [192, 0, 2, self.number].into(),
                port: 8472,
                mtu: Mtu(1500),
                agent: None,
            },
        }
    }

    fn as_host(&self) -> Arc<SegmentHost> {
        let [v4, v6] = addresses(self.number, 0);
        let blocks = [format!("{v4}/27"), format!("{v6}/123")].iter().map(|block| block.parse().unwrap()).collect();
        let public = DualStack { v4: Some([192, 0, 2, self.number].into()), v6: None };
        Arc::new(SegmentHost { public, port: 8472, blocks, ..SegmentHost::default() })
    }

    /// Makes all that the network needs on this host, and returns how many changes that were.
    fn reconcile(&self, members: &[Self]) -> usize {
        self.reconcile_as(&self.segment(), members)
    }

    fn reconcile_as(&self, segment: &Segment, members: &[Self]) -> usize {
        let others = members.iter().filter(|other| other.number != self.number);
        let others = others.map(|other| (other.number.to_string(), other.as_host())).collect();
        let net = NetFromSegment::new(segment, &SegmentHosts { own: self.as_host(), others });
        let want = PerNamespace::host(net.net().clone());
        let devices = want.get(Namespace::Host).unwrap().links.keys().copied().collect();
        let scope = PerNamespace::host(Scope { devices, ..Scope::default() });
        let round = || {
            setns(&self.host, CloneFlags::CLONE_NEWNET).unwrap();
            let kernel = KernelAlone(KernelDataplane::open(RouteForm::default()).unwrap());
            let report = Reconciler::new(kernel, scope).round(&want);
            assert!(report.converged, "{:?} {}", report.failures, report.findings);
            report.written + report.removed
        };
        std::thread::scope(|threads| threads.spawn(round).join().unwrap())
    }

    fn attach(&self) {
        let [v4, v6] = addresses(self.number, 1);
        let container = path(&self.container);
        run_inside(
            &self.host,
            &format!(
                "ip link add wp1 mtu 1450 type veth peer name eth0 netns {container}; ip link set wp1 master wb.{VNI} up"
            ),
        );
        let mac = Segment::mac_of(v4);
        run_inside(
            &self.container,
            &format!(
                "ip link set lo up; ip link set eth0 mtu 1450 address {mac}; ip link set eth0 up; \
                 ip addr add {v4}/20 dev eth0; ip addr add {v6}/64 dev eth0 nodad; \
                 ip route add default via 10.128.0.1; ip -6 route add default via fd57:5000::1"
            ),
        );
    }

    /// Counts the questions for neighbours that arrive from other hosts.
    fn count_questions(&self) {
        run_inside(
            &self.host,
            &format!(
                "nft 'table netdev lab {{ chain in {{ type filter hook ingress device wv.{VNI} priority 0; \
                 arp operation request counter; icmpv6 type nd-neighbor-solicit counter; }}; }}'"
            ),
        );
    }

    /// The numbers of requests that have arrived, by ARP and by neighbour discovery.
    fn questions(&self) -> [u64; 2] {
        let listed = run_inside(&self.host, "nft list table netdev lab");
        let counts = listed.lines().filter_map(|line| line.split_once("packets ")?.1.split(' ').next()?.parse().ok());
        counts.collect::<Vec<u64>>().try_into().unwrap()
    }
}

/// Three hosts on one underlay, each with a container in the network.
fn in_lab(test: impl FnOnce([Member; 3]) + Send + 'static) {
    lab::in_namespace(|| {
        run("ip link set lo up; ip link add sw type bridge; ip link set sw up");
        let members = [1, 2, 3].map(Member::new);
        for member in &members {
            assert!(member.reconcile(&members) > 0);
            member.count_questions();
            member.attach();
        }
        // The kernel makes each address of IPv6 usable a moment after its link is up.
        for member in &members {
            let tentative = "until [ -z \"$(ip -6 addr show tentative)\" ]; do sleep 0.01; done";
            run_inside(&member.container, tentative);
            run_inside(&member.host, tentative);
        }
        test(members);
    });
}

#[test]
fn a_first_packet_to_a_container_elsewhere_arrives_and_nobody_is_asked_for_its_mac() {
    in_lab(|members| {
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            for address in addresses(members[to].number, 1) {
                run_inside(&members[from].container, &format!("ping -c1 -W2 {address}"));
            }
        }
        for member in &members {
            assert_eq!(member.questions(), [0, 0], "host {}", member.number);
        }
    });
}

#[test]
fn a_host_reaches_containers_elsewhere_from_its_own_address_and_the_gateway_answers_everywhere() {
    in_lab(|members| {
        let [own, own_v6] = addresses(1, 0);
        for (to, own) in addresses(2, 1).into_iter().zip([own, own_v6]) {
            let route = run_inside(&members[0].host, &format!("ip route get {to}"));
            assert!(route.contains(&format!("src {own} ")), "{route}");
            run_inside(&members[0].host, &format!("ping -c1 -W2 {to}"));
            // And back, since other hosts know this address too.
            run_inside(&members[1].container, &format!("ping -c1 -W2 {own}"));
        }
        for member in &members {
            for gateway in ["10.128.0.1", "fd57:5000::1"] {
                run_inside(&member.container, &format!("ping -c1 -W2 {gateway}"));
            }
            assert_eq!(member.questions(), [0, 0], "host {}", member.number);
        }
    });
}

#[test]
fn a_second_round_of_a_network_writes_nothing_and_a_host_that_left_is_forgotten() {
    in_lab(|members| {
        assert_eq!(members[0].reconcile(&members), 0);
        // Both FDB entries of each MAC, a neighbour of each family, and the flood entry.
        let forgotten = members[0].reconcile(&members[..2]);
        assert_eq!(forgotten, 32 + 32 + 2 * 32 + 1);
        let entries = run_inside(&members[0].host, &format!("bridge fdb show dev wv.{VNI}"));
        assert!(!entries.contains("192.0.2.3") && entries.contains("192.0.2.2"), "{entries}");
    });
}

#[test]
fn a_question_for_an_address_that_nobody_has_reaches_all_hosts_and_nobody_without_broadcast() {
    in_lab(|members| {
        let ask = || {
            for address in ["10.128.9.9", "fd57:5000::a80:909"] {
                let asked = format!("ping -c1 -W1 {address} || true");
                run_inside(&members[0].container, &asked);
            }
        };
        ask();
        for member in &members[1..] {
            let [arp, nd] = member.questions();
            assert!(arp > 0 && nd > 0, "host {}: {arp} {nd}", member.number);
        }
        let quiet = Segment { broadcast: false, ..members[0].segment() };
        members[0].reconcile_as(&quiet, &members);
        let before = members.each_ref().map(Member::questions);
        run_inside(&members[0].container, "ip neigh flush all");
        ask();
        assert_eq!(members.each_ref().map(Member::questions), before);
        for address in addresses(2, 1) {
            run_inside(&members[0].container, &format!("ping -c1 -W2 {address}"));
        }
    });
}

#[test]
fn whatever_is_deleted_or_changed_of_a_network_by_hand_is_made_again() {
    in_lab(|members| {
        let mac = Segment::mac_of(addresses(2, 1)[0]);
        for harm in [
            "ip link del wv.5000".to_owned(),
            "ip link set wv.5000 nomaster".to_owned(),
            "ip link set wv.5000 down".to_owned(),
            "bridge link set dev wv.5000 neigh_suppress off learning on isolated on".to_owned(),
            "ip link set wv.5000 type bridge_slave group_fwd_mask 8".to_owned(),
            "ip link set wb.5000 type bridge mcast_snooping 1 stp_state 1".to_owned(),
            format!("bridge fdb del {mac} dev wv.5000 master"),
            format!("bridge fdb del {mac} dev wv.5000"),
            "ip neigh flush dev wb.5000 nud permanent".to_owned(),
            "ip addr flush dev wb.5000".to_owned(),
            "ip link del wb.5000".to_owned(),
        ] {
            run_inside(&members[0].host, &harm);
            assert!(members[0].reconcile(&members) > 0, "{harm}");
            assert_eq!(members[0].reconcile(&members), 0, "{harm}");
            let ports = "ip link set wp1 master wb.5000; bridge -d link show dev wv.5000
                         ip -d link show wv.5000; ip -d link show wb.5000";
            let shown = run_inside(&members[0].host, ports);
            let parts = ["neigh_suppress on", "learning off", "isolated off", "mcast_snooping 0", "stp_state 0"];
            for part in parts.into_iter().chain(["group_fwd_mask 0xfffd"]) {
                assert!(shown.contains(part), "{harm}: no {part} in {shown}");
            }
            for address in addresses(2, 1) {
                run_inside(&members[0].host, &format!("ping -c1 -W2 {address}"));
            }
        }
    });
}

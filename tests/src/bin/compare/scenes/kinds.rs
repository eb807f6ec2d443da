//! Kinds of networks, and of ways that packets travel.

use wire_tests::{Encapsulation, PeerLease, Result};

use super::{DUAL, Scene, peers};
use crate::stage::Stage;

pub(super) const SCENES: &[Scene] = &[
    Scene {
        name: "dual-stack",
        about: "a host joins a network of both families, with every flag of the packet filter on",
        config: DUAL,
        play: |stage| {
            join(stage, Encapsulation::Vxlan, &["--ip-masq", "--ip-masq-fully-random-disable", "--ip-blackhole-route"])
        },
        has: &[
            ("h1 links", "flannel.1: "),
            ("h1 links", "flannel-v6.1: "),
            ("h1 routes", "10.5.100.0/24 via 10.5.100.0 dev flannel.1"),
            ("h1 routes of IPv6", "fd00:5:564::/64 via fd00:5:564:: dev flannel-v6.1"),
            ("h1 neighbours", "fd00:5:564:: dev flannel-v6.1 lladdr 02:aa:06:00:00:64 PERMANENT"),
            ("h1 nftables", "masquerade"),
            ("h1 ip6tables", "-A FORWARD -j WIRE-"),
            ("h1 files", "FLANNEL_IPV6_SUBNET=fd00:5:0:1::1/64"),
            ("h1 status --json", "\"phase\": \"ready\""),
            ("etcd", "/coreos.com/network/subnets/10.5.1.0-24&fd00:5:0:1::-64 (lease LEASE-"),
        ],
        lacks: &[],
    },
    Scene {
        name: "udp",
        about: "a host joins a network of flannel's udp backend",
        config: r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.1.0","EnableIPv6":true,
            "IPv6Network":"fd00:5::/32","IPv6SubnetMin":"fd00:5:0:1::","IPv6SubnetMax":"fd00:5:0:1::",
            "Backend":{"Type":"udp","Port":8285}}"#,
        play: |stage| join(stage, Encapsulation::RawIp, &[]),
        has: &[
            ("h1 links", "flannel0: "),
            ("h1 links", "tun type tun"),
            ("h1 udp sockets", ":8285"),
            ("h1 routes", "10.5.0.0/16 dev flannel0"),
            ("h1 nftables", "8285"),
            ("h1 status --json", "\"kind\": \"userspace-udp\""),
            ("h1 status --json", "\"phase\": \"ready\""),
            ("h1 peers --json", "10.5.101.0/24"),
        ],
        lacks: &[],
    },
    Scene {
        name: "userspace-vxlan",
        about: "a host joins that speaks VXLAN itself",
        config: DUAL,
        play: |stage| join(stage, Encapsulation::Vxlan, &["--userspace-vxlan"]),
        has: &[
            ("h1 links", "flannel.1: "),
            ("h1 links", "tun type tun"),
            ("h1 udp sockets", ":8472"),
            ("h1 routes", "10.5.100.0/24 via 10.5.100.0 dev flannel.1"),
            ("h1 routes of IPv6", "fd00:5:564::/64 via fd00:5:564:: dev flannel-v6.1"),
            ("h1 status --json", "\"kind\": \"userspace-vxlan\""),
            ("h1 status --json", "\"phase\": \"ready\""),
            ("h1 peers --json", "10.5.101.0/24"),
        ],
        lacks: &[("h1 links", "vxlan id")],
    },
];

fn join(stage: &mut Stage, encapsulation: Encapsulation, flags: &[&str]) -> Result {
    stage.put(&peers().map(|peer| PeerLease { encapsulation, ..peer.dual_stack() }))?;
    stage.join(flags)
}

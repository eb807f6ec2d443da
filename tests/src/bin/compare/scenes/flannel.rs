//! A host that was flannel's.

use std::fs;

use wire_tests::{Host, LabError, PeerLease, Result};

use super::{Scene, V4, peer};
use crate::stage::Stage;

pub(super) const SCENES: &[Scene] = &[Scene {
    name: "adoption",
    about: "the host has flannel's device, lease, file and FLANNEL chains",
    config: V4,
    play: adoption,
    has: &[
        ("h1 links", "link/ether 02:f1:a0:00:00:01"),
        ("h1 routes", "10.5.100.0/24 via 10.5.100.0 dev flannel.1"),
        ("h1 iptables", "192.0.2.7"),
        ("h1 iptables", "WIRE-"),
        ("h1 files", "FLANNEL_SUBNET=10.5.1.1/24"),
        ("h1 status --json", "\"phase\": \"ready\""),
        ("etcd", "/coreos.com/network/subnets/10.5.1.0-24 (lease LEASE-"),
    ],
    lacks: &[("h1 iptables", "FLANNEL-"), ("h1 nftables", "flannel-ipv4")],
}];

/// Where an agent of the lab looks for flannel's file, in the folder of its host.
const SUBNET_FILE: &str = "agent/flannel/subnet.env";

fn adoption(stage: &mut Stage) -> Result {
    let host = stage.lab.host("h1")?;
    let mac = "02:f1:a0:00:00:01".to_owned();
    let own = PeerLease { subnet: [10, 5, 1, 0].into(), public_ip: host.v4(), mac, ..peer(9) };
    let other = peer(0);
    stage.put(&[own.clone(), other.clone()])?;
    as_flannel(&host, &own, &other)?;
    let file = host.dir().join(SUBNET_FILE);
    let what = || LabError::io(format!("cannot write {}", file.display()));
    fs::create_dir_all(file.with_file_name("")).map_err(what())?;
    let env = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n";
    fs::write(&file, env).map_err(what())?;
    stage.join_on(host, &["--ip-masq"])
}

/// What flannel leaves in the kernel of a host with one peer, and in its packet filter.
fn as_flannel(host: &Host, own: &PeerLease, peer: &PeerLease) -> Result {
    let (ip, mac, subnet) = (own.public_ip, &own.mac, own.subnet);
    let (peer_ip, peer_mac, peer_subnet) = (peer.public_ip, &peer.mac, peer.subnet);
    let script = format!(
        "sysctl -qw net.ipv4.ip_forward=1
         ip link add flannel.1 address {mac} type vxlan id 1 dev eth0 local {ip} dstport 8472 nolearning
         ip link set flannel.1 mtu 1450
         ip address add {subnet}/32 dev flannel.1
         ip link set flannel.1 up
         ip neighbour add {peer_subnet} lladdr {peer_mac} dev flannel.1 nud permanent
         bridge fdb add {peer_mac} dev flannel.1 dst {peer_ip}
         ip route add {peer_subnet}/24 via {peer_subnet} dev flannel.1 onlink
         iptables -t nat -N FLANNEL-POSTRTG
         iptables -t nat -A POSTROUTING -m comment --comment 'flanneld masq' -j FLANNEL-POSTRTG
         iptables -t nat -A FLANNEL-POSTRTG -s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment 'flanneld masq' -j MASQUERADE --random-fully
         iptables -N FLANNEL-FWD
         iptables -A FORWARD -m comment --comment 'flanneld forward' -j FLANNEL-FWD
         iptables -A FLANNEL-FWD -s 10.5.0.0/16 -m comment --comment 'flanneld forward' -j ACCEPT
         iptables -A FORWARD -s 192.0.2.7 -j DROP
         nft add table ip flannel-ipv4"
    );
    host.namespace().sh(&script).map(drop)
}

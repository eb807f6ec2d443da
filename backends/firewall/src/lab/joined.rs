//! The rules of networks by name and of a flat network, in the chains that both have in common.

use std::{net::UdpSocket, os::fd::AsRawFd};

use wire_net::NetworkName;
use wire_netlink::lab::{in_namespace, run};
use wire_state::{DesiredFirewall, Firewall, Resource as _, Share};

use super::{
    bridges::{new_namespace, packets, run_in, send_from, wait_until},
    reconciler,
    segments::{Inside, network, of, share},
};
use crate::{
    HostFacts, SegmentShare,
    tests::{name, policy, wanted},
};

/// The UDP port of the network by name. The flat one has 8472.
const PORT: u16 = 4790;

fn named() -> DesiredFirewall {
    let facts = HostFacts { bridges: [name("docker0")].into(), flat_ports: [8472].into(), ..HostFacts::default() };
    of([SegmentShare { port: PORT, ..share(5000, &["192.0.2.2"]) }], &facts)
}

fn joined() -> DesiredFirewall {
    let (flat, named) = (wanted(&policy(false), &[2], &["docker0"]), named());
    let network = NetworkName::default();
    let (joined, clashes) = Firewall::merge(&[&flat, &named].map(|desired| Share { network: &network, desired }));
    assert_eq!(clashes, []);
    joined
}

fn strangers() -> u64 {
    packets(&run("nft list counter inet wire-agent strangers"))
}

#[test]
fn what_a_container_of_a_network_by_name_sends_to_a_flat_networks_port_is_judged_by_the_flat_network() {
    in_namespace(|| {
        run("ip link set lo up; ip address add 192.0.2.1/32 dev lo");
        let container = network(5000, 128);
        assert!(reconciler().round(&joined()).converged);
        let [flat, other] = ["192.0.2.1:8472", "192.0.2.1:9999"].map(|to| UdpSocket::bind(to).unwrap());
        flat.set_nonblocking(true).unwrap();
        other.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        send_from(&container, "192.0.2.1:8472", &Inside { number: 1, ..Inside::default() }.packet());
        wait_until("a packet to the flat network's port", || strangers() == 1);
        assert!(flat.recv(&mut [0; 200]).is_err());
        send_from(&container, "192.0.2.1:9999", b"to a program of this host");
        assert!(other.recv(&mut [0; 200]).is_ok());
        assert_eq!(strangers(), 1);
    });
}

/// A peer of the flat network forges a packet of a member of the other, and sends it through the flat network.
#[test]
fn what_comes_out_of_a_flat_networks_device_is_judged_by_the_flat_network_also_with_a_members_source() {
    in_namespace(|| {
        let peer = new_namespace();
        let at = format!("/proc/{}/fd/{}", std::process::id(), peer.as_raw_fd());
        run("ip link set lo up; ip address add 192.0.2.1/32 dev lo");
        run(&format!("ip link add flannel.1 type veth peer name eth0 netns {at}; ip link set flannel.1 up"));
        run("ip route add 192.0.2.2 dev flannel.1; sysctl -qw net.ipv4.conf.flannel/1.rp_filter=0");
        run_in(&peer, "ip link set eth0 up; ip addr add 192.0.2.2/32 dev eth0; ip route add 192.0.2.1 dev eth0");
        let to = format!("192.0.2.1:{PORT}");
        let ear = UdpSocket::bind(&to).unwrap();
        ear.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let packet = Inside::default().packet();
        // Where there is no flat network, a member may send so.
        assert!(reconciler().round(&named()).converged);
        send_from(&peer, &to, &packet);
        assert!(ear.recv(&mut [0; 200]).is_ok());
        assert!(reconciler().round(&joined()).converged);
        send_from(&peer, &to, &packet);
        wait_until("a packet that came through the flat network", || strangers() == 1);
        ear.set_nonblocking(true).unwrap();
        assert!(ear.recv(&mut [0; 200]).is_err());
    });
}

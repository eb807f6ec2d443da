//! Frames to the groups that bridges do not forward (01:80:c2:00:00:00 to 0f, IEEE 802.1D §7.12.6).
//!
//! At a port as the kernel makes it they pass no rule: the bridge learns their source, and the host takes what is in them.

use std::os::fd::AsRawFd;

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket},
};

use super::*;

/// The group whose frames the kernel itself drops: pauses.
const PAUSE: u8 = 1;

impl Bridge {
    /// Sends a frame as a container with a raw socket does.
    fn send_raw(&self, container: usize, frame: &[u8]) {
        std::thread::scope(|scope| {
            let inside = || {
                setns(&self.containers[container], CloneFlags::CLONE_NEWNET).unwrap();
                let of_link = |found: nix::ifaddrs::InterfaceAddress| {
                    found.address?.as_link_addr().copied().filter(|_| found.interface_name == "eth0")
                };
                let link: LinkAddr = getifaddrs().unwrap().find_map(of_link).unwrap();
                let raw = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
                assert_eq!(sendto(raw.as_raw_fd(), frame, &link, MsgFlags::empty()).unwrap(), frame.len());
            };
            scope.spawn(inside).join().unwrap();
        });
    }
}

/// Sets at each port that such frames take the way of all others, or not.
fn tell_ports(mask: &str) {
    run(&format!("for port in wp33 wp34 wv.5000; do ip link set $port type bridge_slave group_fwd_mask {mask}; done"));
}

fn to_group(mut frame: Vec<u8>, group: u8) -> Vec<u8> {
    frame.splice(..6, [1, 0x80, 0xc2, 0, 0, group]);
    frame
}

fn tagged(mut frame: Vec<u8>, vlan: u8) -> Vec<u8> {
    frame.splice(12..12, [0x81, 0, 0, vlan]);
    frame
}

/// An encapsulated packet of another host, by IPv4, to this host.
fn encapsulated(from: MacAddr) -> Vec<u8> {
    let mut packet = ipv4(from, [192, 0, 2, 2].into());
    packet.splice(34..42, [0x21, 0x18, 0x21, 0x18, 0, 20, 0, 0]);
    packet
}

/// Frames with the MAC of a sender, or of another one, by all that they can be.
fn kinds(from: MacAddr, source: [IpAddr; 2]) -> Vec<(&'static str, Vec<u8>)> {
    let [v4, v6] = source;
    vec![
        ("IPv4", ipv4(from, v4)),
        ("encapsulated", encapsulated(from)),
        ("IPv6", icmpv6(from, v6, 128, v6)),
        ("an advertisement", icmpv6(from, v6, 136, v6)),
        ("ARP", arp(from, from, v4)),
        ("LLDP", frame(from, 0x88cc, &[2, 7, 4])),
        ("spanning tree", frame(from, 38, &[0x42, 0x42, 3])),
        ("a tag", tagged(ipv4(from, v4), 7)),
        ("a priority", tagged(ipv4(from, v4), 0)),
    ]
}

/// Counts, on the host, what its IP layer and ARP get of such frames; and in the second container, what reaches it.
fn count_arrivals(bridge: &Bridge) {
    const GROUPS: &str = "ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter";
    run(&format!("nft 'table inet lab {{ chain in {{ type filter hook prerouting priority -400; {GROUPS}; }}; }}'"));
    run("nft 'table arp lab { chain in { type filter hook input priority -400; iifname \"w*\" counter; }; }'");
    bridge.inside(
        1,
        &format!(
            "nft 'table netdev lab {{ chain in {{ type filter hook ingress device eth0 priority 0; {GROUPS}; }}; }}'"
        ),
    );
}

/// What has arrived at the host's IP layer, at its ARP, and at the second container.
fn arrivals(bridge: &Bridge) -> [u64; 3] {
    ["nft list table inet lab", "nft list table arp lab"]
        .map(|list| packets(&run(list)))
        .into_iter()
        .chain([packets(&bridge.inside(1, "nft list table netdev lab"))])
        .collect::<Vec<u64>>()
        .try_into()
        .unwrap()
}

/// The MACs that the bridge has learnt, each with its port.
fn learnt() -> Vec<String> {
    let mut lines: Vec<String> = run("bridge fdb show br wb.5000 | grep -v -e permanent -e '^33:33' -e '^01:00'")
        .lines()
        .map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
        .collect();
    lines.sort();
    lines
}

#[test]
fn what_goes_to_the_groups_of_a_link_reaches_nobody_teaches_nothing_and_is_counted() {
    in_lab(|bridge, _| {
        run(&format!("ip link set wb.5000 address {}", mac(1)));
        count_arrivals(&bridge);
        assert!(bridge.reaches(0, addresses(34)[0]));
        // At ports as the kernel makes them the rules see nothing of them, which is why this is tried.
        let unseen = to_group(encapsulated(mac(65)), 0x0e);
        bridge.send_raw(0, &unseen);
        wait_until("a frame past all rules", || arrivals(&bridge)[0] > 0);
        assert!(learnt().contains(&format!("{} dev wp33", mac(65))) && forged() == 0);
        run(&format!("bridge fdb del {} dev wp33 master", mac(65)));

        tell_ports("0xfffd");
        let (arrived, known) = (arrivals(&bridge), learnt());
        assert_eq!(known, [format!("{} dev wp33", mac(33)), format!("{} dev wp34", mac(34))]);
        // The sender itself, another container, the host with the VXLAN device, nobody, and the gateway.
        let senders = [33, 34, 64, 66, 1].map(|last| (mac(last), addresses(last)));
        let mut dropped = 0;
        for (from, source) in senders {
            for (what, frame) in kinds(from, source) {
                for group in 0..16 {
                    let frame = to_group(frame.clone(), group);
                    bridge.send_raw(0, &frame);
                    bridge.send(&frame);
                    dropped += if group == PAUSE { 0 } else { 2 };
                }
                wait_until(what, || forged() >= dropped);
                assert_eq!((forged(), arrivals(&bridge)), (dropped, arrived), "{what} from {from}");
            }
        }
        assert_eq!(learnt(), known);
        assert!(bridge.reaches(0, addresses(34)[0]) && bridge.reaches(1, addresses(33)[1]));
        assert_eq!(forged(), dropped);
    });
}

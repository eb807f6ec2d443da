use proptest::prelude::*;
use wire_net::{Mtu, Vni};
use wire_state::{Capabilities, DesiredKind, DesiredLink, DesiredVxlan, Framing, KernelKind, Tunnel};

use super::*;
use crate::{nft, tests::name};

fn mac(last: u8) -> MacAddr {
    MacAddr::new([2, 0x57, 10, 128, 0, last])
}

/// A network's bridge and VXLAN device, with these addresses on other hosts: the last byte of the address and of the MAC.
fn net(remote: &[(u8, u8)]) -> DesiredNet {
    let mut net = DesiredNet::default();
    let kind = DesiredKind::Kernel(KernelKind::Vxlan(DesiredVxlan::new(Vni::new(5000).unwrap())));
    let link = DesiredLink { master: Some(name("wb.5000")), ..DesiredLink::new(kind, Mtu(1450)) };
    net.links.insert(name("wv.5000"), link);
    for (last, of) in remote {
        let link = name("wb.5000");
        net.neighbours.insert(NeighbourKey { link, address: [10, 128, 0, *last].into() }, mac(*of));
        let v6 = IpAddr::V6(format!("fd57:5000::{last:x}").parse().unwrap());
        net.neighbours.insert(NeighbourKey { link, address: v6 }, mac(*of));
    }
    net
}

/// The same, where the agent moves the packets.
fn moved_by_agent(mut net: DesiredNet) -> DesiredNet {
    let vni = Vni::new(5000).unwrap();
    let tunnel = Tunnel {
        framing: Framing::Ethernet { vni },
        local: "192.0.2.1:61000".parse().unwrap(),
        own: None,
        source_check: true,
        queues: 1,
        capabilities: Capabilities::ALL,
    };
    let kind = DesiredKind::Tunnel(tunnel);
    let link = DesiredLink { master: Some(name("wb.5000")), ..DesiredLink::new(kind, Mtu(1450)) };
    net.links.insert(name("wv.5000"), link);
    net
}

fn port(last: u8) -> ContainerPort {
    let addresses = vec![[10, 128, 0, last].into(), format!("fd57:5000::{last:x}").parse().unwrap()];
    ContainerPort { link: name(&format!("wp{last}")), mac: mac(last), addresses }
}

#[test]
fn each_port_has_those_who_may_send_there() {
    let table = BridgeTable::new(&net(&[(64, 64)]), &[port(33)], Overlays::Checked);
    insta::assert_snapshot!(nft::put_table(table.table()), @r#"
    add table bridge wire-agent
    delete table bridge wire-agent
    add table bridge wire-agent
    add counter bridge wire-agent forged
    add set bridge wire-agent ports { type ifname; }
    add element bridge wire-agent ports { "wp33", "wv.5000" }
    add set bridge wire-agent senders-v4 { type ifname . ether_addr . ipv4_addr; }
    add element bridge wire-agent senders-v4 { "wp33" . 02:57:0a:80:00:21 . 0.0.0.0, "wp33" . 02:57:0a:80:00:21 . 10.128.0.33, "wv.5000" . 02:57:0a:80:00:40 . 10.128.0.64 }
    add set bridge wire-agent senders-v6 { typeof iifname . ether saddr . @nh,64,128; }
    add element bridge wire-agent senders-v6 { "wp33" . 02:57:0a:80:00:21 . 0x0, "wp33" . 02:57:0a:80:00:21 . 0xfd575000000000000000000000000021, "wp33" . 02:57:0a:80:00:21 . 0xfe8000000000000000570afffe800021, "wv.5000" . 02:57:0a:80:00:40 . 0xfd575000000000000000000000000040, "wv.5000" . 02:57:0a:80:00:40 . 0xfe8000000000000000570afffe800040 }
    add set bridge wire-agent tunnels { type ifname; }
    add chain bridge wire-agent senders { type filter hook prerouting priority -300; policy accept; }
    add rule bridge wire-agent senders ether type ip @ll,0,32 != 0x0180c200 iifname . ether saddr . ip saddr @senders-v4 accept comment "senders v4 c5e7fb56e478bbe6"
    add rule bridge wire-agent senders iifname "wp*" iifname != @ports counter name "forged" drop comment "containers not known d43c7b8f86b9c24b"
    add rule bridge wire-agent senders iifname "wv.*" iifname != @ports counter name "forged" drop comment "hosts not known 4b7cfce112a080c1"
    add rule bridge wire-agent senders iifname != @ports accept comment "not checked 8dac5b937856f43e"
    add rule bridge wire-agent senders @ll,96,16 { 0x8100, 0x88a8 } counter name "forged" drop comment "tags 293f94192f40fe68"
    add rule bridge wire-agent senders ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 counter name "forged" drop comment "groups of a link f5d763706959150b"
    add rule bridge wire-agent senders iifname . ether saddr . ip saddr @senders-v4 accept comment "senders v4 2eb3b085e2ba058e"
    add rule bridge wire-agent senders icmpv6 type { nd-router-advert, nd-redirect } counter name "forged" drop comment "routers 13c166f9039ca077"
    add rule bridge wire-agent senders icmpv6 type nd-neighbor-advert iifname . ether saddr . @th,64,128 != @senders-v6 counter name "forged" drop comment "advertised b6d7e5b30b85322a"
    add rule bridge wire-agent senders meta protocol ip6 iifname . ether saddr . @nh,64,128 @senders-v6 accept comment "senders v6 19c34cabc72c496c"
    add rule bridge wire-agent senders iifname . ether saddr . arp saddr ip @senders-v4 iifname . arp saddr ether . arp saddr ip @senders-v4 accept comment "senders arp b8ebdd11bb33a73c"
    add rule bridge wire-agent senders iifname "wv.*" ip saddr 0.0.0.0 drop comment "no source v4 601ecd2125e04a25"
    add rule bridge wire-agent senders iifname "wv.*" ip6 saddr :: drop comment "no source v6 05dc1c708476e6a9"
    add rule bridge wire-agent senders counter name "forged" drop comment "forged 5188691e3bb81e9e"
    "#);
}

#[test]
fn a_neighbour_of_another_link_sends_nothing_on_bridges() {
    let mut net = net(&[]);
    net.neighbours.insert(NeighbourKey { link: name("flannel.1"), address: [10, 5, 2, 0].into() }, mac(1));
    let table = BridgeTable::new(&net, &[], Overlays::Checked);
    assert!(table.table().sets["senders-v4"].elements.is_empty());
}

proptest! {
    /// Brought forward over any neighbours, ports and kinds of device, it is what is computed from all.
    #[test]
    fn brought_forward_it_is_as_computed_from_all(
        steps in prop::collection::vec((prop::collection::btree_map(60..66u8, 60..64u8, 0..6), 33..36u8, any::<bool>()), 1..8),
    ) {
        let mut kept = BridgeTable::new(&net(&[]), &[], Overlays::Checked);
        for (remote, ports, is_moved) in steps {
            let remote: Vec<(u8, u8)> = remote.into_iter().collect();
            let net = if is_moved { moved_by_agent(net(&remote)) } else { net(&remote) };
            let ports: Vec<ContainerPort> = (33..ports).map(port).collect();
            kept.update(&net, &ports);
            let computed = BridgeTable::new(&net, &ports, Overlays::Checked);
            prop_assert_eq!(kept.table(), computed.table());
        }
    }
}

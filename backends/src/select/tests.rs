mod direct;
mod ipip;

use std::{net::IpAddr, sync::Arc};

use wire_lease::{BackendData, Entry, Lease, LeaseTable, Origin};
use wire_net::{DualStack, LocalAddress, MacAddr, Prefix};
use wire_state::{DesiredKind, DesiredVxlan, KernelKind, ObservedNet, Underlay, samples::plan_host};
use wire_store::Revision;

use super::*;
use crate::{ForwardSettings, VxlanBy};

fn config(families: &str, backend: &str) -> NetworkConfig {
    let json = format!(
        r#"{{"Network":"10.5.0.0/16","IPv6Network":"fd00:5::/48",{families}"Backend":{{"Type":"{backend}"}}}}"#
    );
    NetworkConfig::from_json(json.as_bytes()).unwrap()
}

const V4: &str = "";
const BOTH: &str = r#""EnableIPv6":true,"#;
const V6: &str = r#""EnableIPv4":false,"EnableIPv6":true,"#;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn placement() -> Placement {
    let addresses = DualStack { v4: Some(ip("192.0.2.1")), v6: Some(ip("2001:db8::1")) };
    let underlay = Underlay {
        link: "eth0".parse().unwrap(),
        index: 2,
        mtu: Mtu(1500),
        mac: None,
        addresses,
        local: [("192.0.2.1", 24), ("2001:db8::1", 64), ("203.0.113.5", 32)]
            .map(|(address, len)| LocalAddress::new(ip(address), len).unwrap())
            .to_vec(),
        on_link: ["192.0.2.0/24", "2001:db8::/64"].map(|prefix| prefix.parse().unwrap()).to_vec(),
        connected: Vec::new(),
        attached: Vec::new(),
    };
    let mac = |last| Some(MacAddr::new([2, 0, 0, 0, 0, last]));
    Placement {
        underlay,
        public: addresses,
        macs: DualStack { v4: mac(4), v6: mac(6) },
        blackhole: false,
        forward: ForwardSettings::default(),
    }
}

/// A host's own lease and the table of its peers, decoded from keys and values of etcd.
fn leases(own: (&str, &str), peers: &[(&str, &str)]) -> (Lease, LeaseTable) {
    let lease = |(key, value): (&str, &str)| Lease::from_value(key.parse().unwrap(), value.as_bytes()).unwrap();
    let mut table = LeaseTable::default();
    for peer in peers {
        let lease = lease(*peer);
        let origin = Origin { create_revision: Revision(1), mod_revision: Revision(1), lease: None };
        table.peers.insert(lease.subnet, Arc::new(Entry { lease, origin }));
    }
    (lease(own), table)
}

const OWN: &str = r#"{"PublicIP":"192.0.2.1","PublicIPv6":"2001:db8::1"}"#;
const PEER: &str = r#"{"PublicIP":"192.0.2.2","PublicIPv6":"2001:db8::2","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0a:00:00:00:00:02"},"BackendV6Data":{"VNI":1,"VtepMAC":"0a:00:00:00:06:02"}}"#;

fn report(config: &NetworkConfig, own: &str, peers: &[(&str, &str)], blackhole: bool) -> String {
    let backend = select(config, Placement { blackhole, ..placement() }).unwrap();
    let (own, table) = leases((own, OWN), peers);
    let want = backend.desired(&own, &table);
    format!("mtu {}\n{}", backend.mtu(), plan_host(&ObservedNet::default(), &want))
}

#[test]
fn both_families_are_the_same_with_other_data() {
    let peer = ("10.5.2.0-24&fd00:5:0:2::-64", PEER);
    insta::assert_snapshot!(report(&config(BOTH, "vxlan"), "10.5.0.0-24&fd00:5::-64", &[peer], false), @"
    mtu 1430
    create link flannel-v6.1: vxlan vni 1 dev eth0 local 2001:db8::1 port 8472 nolearning mac 02:00:00:00:00:06 mtu 1430 up
    create link flannel.1: vxlan vni 1 dev eth0 local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:04 mtu 1450 up
    set sysctl net.ipv6.conf.flannel-v6/1.disable_ipv6 = 0
    set sysctl net.ipv4.ip_forward = 1
    set sysctl net.ipv6.conf.all.forwarding = 1
    set sysctl net.ipv4.conf.flannel/1.forwarding = 1
    set sysctl net.ipv6.conf.flannel-v6/1.forwarding = 1
    add address fd00:5::/128 dev flannel-v6.1
    add address 10.5.0.0/32 dev flannel.1
    set FDB entry 0a:00:00:00:06:02 dev flannel-v6.1 dst 2001:db8::2
    set FDB entry 0a:00:00:00:00:02 dev flannel.1 dst 192.0.2.2
    set neighbour fd00:5:0:2:: dev flannel-v6.1 lladdr 0a:00:00:00:06:02
    set neighbour 10.5.2.0 dev flannel.1 lladdr 0a:00:00:00:00:02
    add route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
    add route fd00:5:0:2::/64 via fd00:5:0:2:: dev flannel-v6.1 onlink
    ");
}

#[test]
fn one_family_alone_asks_nothing_of_the_other() {
    insta::assert_snapshot!(report(&config(V4, "vxlan"), "10.5.0.0-24", &[("10.5.2.0-24", PEER)], true), @"
    mtu 1450
    create link flannel.1: vxlan vni 1 dev eth0 local 192.0.2.1 port 8472 nolearning mac 02:00:00:00:00:04 mtu 1450 up
    set sysctl net.ipv4.ip_forward = 1
    set sysctl net.ipv4.conf.flannel/1.forwarding = 1
    add address 10.5.0.0/32 dev flannel.1
    set FDB entry 0a:00:00:00:00:02 dev flannel.1 dst 192.0.2.2
    set neighbour 10.5.2.0 dev flannel.1 lladdr 0a:00:00:00:00:02
    add route 10.5.0.0/24 metric 4294967295 blackhole
    add route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
    ");
    insta::assert_snapshot!(report(&config(V6, "vxlan"), "fd00:5::-64", &[("fd00:5:0:2::-64", PEER)], false), @"
    mtu 1430
    create link flannel-v6.1: vxlan vni 1 dev eth0 local 2001:db8::1 port 8472 nolearning mac 02:00:00:00:00:06 mtu 1430 up
    set sysctl net.ipv6.conf.flannel-v6/1.disable_ipv6 = 0
    set sysctl net.ipv6.conf.all.forwarding = 1
    set sysctl net.ipv6.conf.flannel-v6/1.forwarding = 1
    add address fd00:5::/128 dev flannel-v6.1
    set FDB entry 0a:00:00:00:06:02 dev flannel-v6.1 dst 2001:db8::2
    set neighbour fd00:5:0:2:: dev flannel-v6.1 lladdr 0a:00:00:00:06:02
    add route fd00:5:0:2::/64 via fd00:5:0:2:: dev flannel-v6.1 onlink
    ");
}

#[test]
fn peers_of_other_backends_and_without_a_family_have_no_entries() {
    let peers = [
        ("10.5.2.0-24", r#"{"PublicIP":"192.0.2.2"}"#),
        ("10.5.3.0-24", r#"{"PublicIP":"192.0.2.3","BackendType":"host-gw"}"#),
        ("10.5.4.0-24", PEER),
    ];
    let text = report(&config(BOTH, "vxlan"), "10.5.0.0-24&fd00:5::-64", &peers, false);
    assert_eq!(text.matches("add route").count(), 1, "{text}");
    assert!(text.contains("add route 10.5.4.0/24"));
}

#[test]
fn alloc_has_no_network_but_a_blackhole_if_asked() {
    let text = report(&config(V4, "alloc"), "10.5.0.0-24", &[("10.5.2.0-24", PEER)], true);
    insta::assert_snapshot!(text, @"
    mtu 1500
    set sysctl net.ipv4.ip_forward = 1
    add route 10.5.0.0/24 metric 4294967295 blackhole
    ");
    let backend = select(&config(V4, "alloc"), placement()).unwrap();
    assert_eq!(backend.data(), BackendData::Untyped);
}

#[test]
fn the_lease_names_vni_and_mac_of_each_family() {
    let backend = select(&config(BOTH, "vxlan"), placement()).unwrap();
    let BackendData::Vxlan(vteps) = backend.data() else { panic!() };
    assert_eq!(vteps.v4.unwrap().mac.to_string(), "02:00:00:00:00:04");
    assert_eq!(vteps.v6.unwrap().mac.to_string(), "02:00:00:00:00:06".to_owned());
    assert_eq!(vteps.v6.unwrap().vni, Vni::new(1));
    let devices: Vec<String> = backend.scope().devices.iter().map(ToString::to_string).collect();
    assert_eq!(devices, ["flannel-v6.1", "flannel.1"]);
}

/// A peer of flannel's udp backend.
const UDP_PEER: &str = r#"{"PublicIP":"192.0.2.2","PublicIPv6":"2001:db8::2"}"#;

#[test]
fn udp_has_a_device_for_each_family_and_one_route_for_the_network() {
    let peer = ("10.5.2.0-24&fd00:5:0:2::-64", UDP_PEER);
    // A peer of another backend gets no entries.
    let other = ("10.5.3.0-24&fd00:5:0:3::-64", PEER);
    insta::assert_snapshot!(report(&config(BOTH, "udp"), "10.5.0.0-24&fd00:5::-64", &[peer, other], false), @"
    mtu 1452
    create link flannel-v60: tun raw local [2001:db8::1]:8285 mtu 1452 up
    create link flannel0: tun raw local 192.0.2.1:8285 mtu 1472 up
    set sysctl net.ipv6.conf.flannel-v60.disable_ipv6 = 0
    set sysctl net.ipv4.ip_forward = 1
    set sysctl net.ipv6.conf.all.forwarding = 1
    set sysctl net.ipv4.conf.flannel0.forwarding = 1
    set sysctl net.ipv6.conf.flannel-v60.forwarding = 1
    add address fd00:5::/128 dev flannel-v60
    add address 10.5.0.0/32 dev flannel0
    set forwarding fd00:5:0:2::/64 dev flannel-v60 to 2001:db8::2
    set forwarding 10.5.2.0/24 dev flannel0 to 192.0.2.2
    add route 10.5.0.0/16 dev flannel0
    add route fd00:5::/48 dev flannel-v60
    ");
    let absent = NetworkConfig::from_json(br#"{"Network":"10.5.0.0/16"}"#).unwrap();
    assert_eq!(select(&absent, placement()).unwrap().data(), BackendData::Untyped);
}

#[test]
fn udp_routes_only_the_leased_range_if_a_host_is_inside_the_network() {
    let json = br#"{"Network":"10.0.0.0/8","SubnetLen":20,"SubnetMin":"10.10.0.0","SubnetMax":"10.99.0.0","Backend":{"Type":"udp"}}"#;
    let config = NetworkConfig::from_json(json).unwrap();
    let led = |public: &str| -> Vec<Prefix> {
        let inside = format!(r#"{{"PublicIP":"{public}"}}"#);
        let (own, table) =
            leases(("10.10.0.0-20", UDP_PEER), &[("10.99.0.0-20", &inside), ("10.100.0.0-20", UDP_PEER)]);
        select(&config, placement()).unwrap().desired(&own, &table).routes.keys().map(|key| key.destination).collect()
    };
    assert_eq!(led("192.0.2.3"), ["10.0.0.0/8".parse().unwrap()], "as flannel has it");
    let led = led("10.240.1.9");
    let leads = |address: &str| led.iter().filter(|prefix| prefix.contains(ip(address))).count();
    for (address, routes) in [
        ("10.9.255.255", 0),
        ("10.10.0.0", 1),
        ("10.64.1.2", 1),
        ("10.99.15.255", 1),
        ("10.99.16.0", 0),
        ("10.100.1.1", 1),
        ("10.240.1.9", 0),
    ] {
        assert_eq!(leads(address), routes, "{address} by {led:?}");
    }
}

#[test]
fn udp_routes_only_the_leased_subnets_if_an_address_of_etcd_is_inside_the_range() {
    let config = |bounds: &str| {
        let json = format!(
            r#"{{"Network":"10.0.0.0/8",{bounds}"EnableIPv6":true,"IPv6Network":"fd00::/16","Backend":{{"Type":"udp"}}}}"#
        );
        NetworkConfig::from_json(json.as_bytes()).unwrap()
    };
    let led = |config: &NetworkConfig, outside: &[&str]| -> Vec<String> {
        let peers = ["10.10.2.0-24&fd00:5:0:2::-64", "10.200.3.0-24&fd00:5:0:3::-64"].map(|key| (key, UDP_PEER));
        let (own, mut table) = leases(("10.10.0.0-24&fd00:5::-64", UDP_PEER), &peers);
        table.outside = outside.iter().map(|address| ip(address)).collect();
        let routes = select(config, placement()).unwrap().desired(&own, &table).routes;
        routes.keys().map(|key| key.destination.to_string()).collect()
    };
    let subnets = ["10.10.2.0/24", "10.200.3.0/24", "fd00:5:0:2::/64", "fd00:5:0:3::/64"];
    let whole = config("");
    assert_eq!(led(&whole, &[]), ["10.0.0.0/8", "fd00::/16"], "as flannel has it");
    assert_eq!(
        led(&whole, &["10.9.0.5"]),
        [subnets[0], subnets[1], "fd00::/16"],
        "the other family is none of its concern"
    );
    assert_eq!(led(&whole, &["10.9.0.5", "fd00:9::5"]), subnets);
    let bounded = config(r#""SubnetMin":"10.10.0.0","SubnetMax":"10.11.255.0","#);
    assert_eq!(led(&bounded, &["10.9.0.5"]), ["10.10.0.0/15", subnets[1], "fd00::/16"], "etcd lies beside the range");
    assert_eq!(led(&bounded, &["10.11.0.5", "fd00:9::5"]), subnets);
}

#[test]
fn userspace_vxlan_is_the_same_network_to_its_peers() {
    let forward = ForwardSettings { vxlan: VxlanBy::AgentRequested, ..ForwardSettings::default() };
    let (config, placement) = (config(V4, "vxlan"), placement());
    let kernel = select(&config, placement.clone()).unwrap();
    let ours = select(&config, Placement { forward, ..placement }).unwrap();
    assert_eq!(ours.data(), kernel.data());
    assert_eq!(ours.mtu(), kernel.mtu());
    assert_eq!(ours.scope(), kernel.scope());
    let (own, table) = leases(("10.5.0.0-24", OWN), &[("10.5.2.0-24", PEER)]);
    assert_eq!(ours.desired(&own, &table).routes, kernel.desired(&own, &table).routes);
    insta::assert_snapshot!(plan_host(&ObservedNet::default(), &ours.desired(&own, &table)), @"
    create link flannel.1: tun vxlan vni 1 local 192.0.2.1:8472 lladdr 02:00:00:00:00:04 mtu 1450 up
    set sysctl net.ipv4.ip_forward = 1
    set sysctl net.ipv4.conf.flannel/1.forwarding = 1
    add address 10.5.0.0/32 dev flannel.1
    set forwarding 10.5.2.0/24 dev flannel.1 to 192.0.2.2 lladdr 0a:00:00:00:00:02
    add route 10.5.2.0/24 via 10.5.2.0 dev flannel.1 onlink
    ");
}

#[test]
fn settings_of_the_config_reach_the_device() {
    let json = br#"{"Network":"10.5.0.0/16","Backend":{"Type":"VXLAN","VNI":7,"Port":4789,"MTU":1400,"GBP":true,"Learning":true}}"#;
    let mut placement = placement();
    placement.public.v4 = Some(ip("203.0.113.5"));
    let backend = select(&NetworkConfig::from_json(json).unwrap(), placement).unwrap();
    let (own, table) = leases(("10.5.0.0-24", OWN), &[]);
    let want = backend.desired(&own, &table);
    let link = &want.links[&"flannel.7".parse().unwrap()];
    assert_eq!(link.mtu, Mtu(1350));
    assert_eq!(backend.mtu(), Mtu(1350));
    let DesiredKind::Kernel(KernelKind::Vxlan(DesiredVxlan { port, gbp, learning, local, .. })) = &link.kind else {
        panic!()
    };
    assert_eq!(*port, Some(4789));
    assert!(*gbp);
    assert!(*learning);
    assert_eq!(*local, Some(ip("203.0.113.5")));
}

#[test]
fn a_config_that_cannot_work_is_refused_with_the_remedy() {
    let refuse = |config: &NetworkConfig, placement| select(config, placement).err().unwrap().to_string();
    let no_v6 = || {
        let mut placement = placement();
        placement.underlay.addresses.v6 = None;
        placement
    };
    let small = || {
        let mut placement = placement();
        placement.underlay.mtu = Mtu(1340);
        placement
    };
    let mut behind_nat = placement();
    behind_nat.public.v4 = Some(ip("198.51.100.7"));
    let long = br#"{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan","VNI":16777215}}"#;
    let long = NetworkConfig::from_json(long).unwrap();
    let said = [
        refuse(&config(V4, "host-gw"), behind_nat),
        refuse(&config(BOTH, "host-gw"), no_v6()),
        refuse(&config(BOTH, "vxlan"), no_v6()),
        refuse(&config(BOTH, "ipip"), placement()),
        refuse(&config(V6, "ipip"), placement()),
        refuse(&config(BOTH, "vxlan"), small()),
        refuse(&long, placement()),
    ];
    insta::assert_snapshot!(said.join("\n"), @r#"
    host-gw needs a public address that this host has: peers would send to 198.51.100.7, and eth0 has 192.0.2.1; leave out --public-ip and --public-ipv6, or behind NAT set Backend.Type to vxlan in the network config
    the link eth0 has no IPv6 address, so it cannot carry the IPv6 overlay: give it one, choose another link with --iface, or turn IPv6 off in the network config
    the link eth0 has no IPv6 address, so it cannot carry the IPv6 overlay: give it one, choose another link with --iface, or turn IPv6 off in the network config
    the backend ipip carries IPv4 alone: set EnableIPv6 to false and EnableIPv4 to true in the network config, or Backend.Type to vxlan
    the backend ipip carries IPv4 alone: set EnableIPv6 to false and EnableIPv4 to true in the network config, or Backend.Type to vxlan
    an MTU of 1340 on eth0 leaves 1270 bytes for IPv6, which needs 1280: raise it
    VNI 16777215 makes the device name flannel.16777215, which is longer than 15 characters: choose a smaller VNI
    "#);
}

#[test]
fn a_backend_that_is_flannels_alone_is_refused_by_its_name_with_the_remedy() {
    for name in ["wireguard", "ipsec", "ali-vpc", "tencent-vpc", "aws-vpc", "gce", "extension"] {
        let said = select(&config(V4, name), placement()).err().unwrap().to_string();
        assert!(said.starts_with(&format!("the backend {name} ")), "{said}");
        assert!(said.contains("set Backend.Type to vxlan in the network config"), "{said}");
    }
}

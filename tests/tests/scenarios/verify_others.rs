//! `wire-agent verify` names what is damaged of networks that have other things than a flat VXLAN network: a bridge with ports, or routes by the
//! underlay's link.

use wire_tests::{Etcd, Family, LabError, Result, check, eventually, lab};

use crate::{
    cluster::{DUAL, Node, START, cluster},
    host_gw::subnet,
    named::{expose_on, network},
    verify::expect_silence,
    verify_damage::{Case, case, expect_named_and},
};

/// What a damaged entry was like is in the file `$kept` until it is mended.
const NAMED: [Case; 13] = [
    case(
        "ip link delete $device",
        &["network: device $device is missing, and 66 entries on it: no host can be reached through it"],
        "",
    ),
    case(
        "ip link set $device type bridge_slave learning on",
        &["network: device $device has learning on in its bridge, and should have it off"],
        "ip link set $device type bridge_slave learning off",
    ),
    case(
        "ip link set $bridge type bridge mcast_snooping 1",
        &["network: device $bridge sends multicast only to ports that asked for it, and should not"],
        "ip link set $bridge type bridge mcast_snooping 0",
    ),
    case(
        "ip -o -6 address show dev $bridge scope global | head -1 > $kept; set -- $(cat $kept); ip address delete $4 dev $bridge",
        &["network: address fd57:"],
        "set -- $(cat $kept); ip address add $4 dev $bridge nodad",
    ),
    case(
        "bridge fdb show dev $device | grep ' dst $host' | grep -v '^00:' | head -1 > $kept
         set -- $(cat $kept); bridge fdb delete $1 dev $device dst $host",
        &["on $device is missing: host $host cannot be reached"],
        "set -- $(cat $kept); bridge fdb add $1 dev $device dst $host",
    ),
    case(
        "bridge fdb delete 00:00:00:00:00:00 dev $device dst $host",
        &[
            "network: flood entry 00:00:00:00:00:00 to $host on $device is missing: flooded frames do not reach host $host",
        ],
        "bridge fdb append 00:00:00:00:00:00 dev $device dst $host",
    ),
    case(
        "bridge fdb show dev $device | grep 'master $bridge static' | head -1 > $kept
         set -- $(cat $kept); bridge fdb delete $1 dev $device master",
        &["network: bridge FDB entry 02:57:0a:"],
        "set -- $(cat $kept); bridge fdb add $1 dev $device master static sticky",
    ),
    case(
        "ip -4 neigh show nud permanent dev $bridge | head -1 > $kept; set -- $(cat $kept); ip neigh delete $1 dev $bridge",
        &["network: neighbour 10.128."],
        "set -- $(cat $kept); ip neigh add $1 dev $bridge lladdr $3 nud permanent",
    ),
    case(
        "ip -6 neigh show nud permanent dev $bridge | head -1 > $kept; set -- $(cat $kept); ip neigh delete $1 dev $bridge",
        &["network: neighbour fd57:"],
        "set -- $(cat $kept); ip neigh add $1 dev $bridge lladdr $3 nud permanent",
    ),
    case("nft delete table bridge wire-agent", &["firewall: table bridge wire-agent is missing"], ""),
    case(
        "nft insert rule bridge wire-agent $(nft list table bridge wire-agent | sed -n 's/.*chain \\([a-z-]*\\) .*/\\1/p' | head -1) counter",
        &["was put there by somebody else, and should not be there"],
        "",
    ),
    case(
        "nft delete rule inet wire-agent segments-in handle $(nft -a list chain inet wire-agent segments-in | sed -n '/comment/s/.*# handle //p' | head -1)",
        &["firewall: rule 1 of chain segments-in"],
        "",
    ),
    case(
        "nft add rule inet wire-agent segments-through ip saddr 192.0.2.7 drop",
        &["in chain segments-through was put there by somebody else, and should not be there"],
        "nft delete rule inet wire-agent segments-through handle $(handle 192.0.2.7)",
    ),
];

#[test]
fn each_thing_of_a_network_by_name_that_is_damaged_is_named() -> Result {
    let lab = lab!();
    let (_etcd, [mut node, other]) = cluster::<2>(&lab, DUAL)?;
    network(&node, "create app --ipv6")?;
    for host in [&node, &other] {
        expose_on(host, "app")?;
    }
    eventually(START, || {
        let flooded = node.host.namespace().sh("bridge fdb show | grep ^00:00:00:00:00:00")?;
        check(flooded.contains(&format!("dst {} ", other.host.v4())), || flooded.clone())
    })?;
    node.agent.terminate()?;
    expect_silence(&node, &["verify"])?;
    let (device, bridge) = (link(&node, "wv.")?, link(&node, "wb.")?);
    let (host, kept) = (other.host.v4().to_string(), node.agent.dir().join("kept").display().to_string());
    let words = [("$device", device.as_str()), ("$bridge", &bridge), ("$host", &host), ("$kept", &kept)];
    NAMED.iter().try_for_each(|case| expect_named_and(exposed_again, &mut node, (&["verify"], &words), case))
}

/// READY does not wait for networks by name.
fn exposed_again(node: &mut Node) -> Result {
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    expose_on(node, "app")?;
    eventually(START, || expect_silence(node, &["verify"])).map(drop)
}

const HOST_GW: [Case; 6] = [
    case(
        "ip route delete $subnet",
        &["network: route $subnet is missing: host $host cannot be reached"],
        "ip route add $subnet via $host dev eth0 proto 91",
    ),
    case(
        "ip route replace $subnet via $elsewhere dev eth0 proto 91",
        &["network: route $subnet leads to $elsewhere on eth0, and should lead to $host on eth0: host $host cannot"],
        "ip route replace $subnet via $host dev eth0 proto 91",
    ),
    case(
        "ip route add 10.5.200.0/24 via $host dev eth0 proto 91",
        &["network: route 10.5.200.0/24 should not be there"],
        "ip route delete 10.5.200.0/24",
    ),
    case(
        "sysctl -qw net.ipv4.conf.eth0.forwarding=0",
        &["network: sysctl net.ipv4.conf.eth0.forwarding is 0, and should be 1"],
        "sysctl -qw net.ipv4.conf.eth0.forwarding=1",
    ),
    case("nft delete table inet wire-agent", &["firewall: table inet wire-agent is missing"], ""),
    case(
        "iptables -D WIRE-POLICY -s 10.5.0.0/16 -j ACCEPT",
        &["firewall: chain WIRE-POLICY of iptables filter lacks the rule \"-s 10.5.0.0/16 -j ACCEPT\""],
        "",
    ),
];

#[test]
fn each_thing_of_a_network_by_host_gw_that_is_damaged_is_named() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.15.0","Backend":{"Type":"host-gw"}}"#)?;
    let [one, two] = lab.hosts::<2>()?;
    let (mut node, other) = (Node::start(one, &etcd)?, Node::start(two, &etcd)?);
    let (subnet, host) = (subnet(&other, Family::V4)?, other.host.v4().to_string());
    eventually(START, || {
        let routes = node.host.namespace().ip("route show")?;
        check(routes.contains(&subnet), || routes)
    })?;
    eventually(START, || expect_silence(&node, &["verify"]))?;
    node.agent.terminate()?;
    let elsewhere = etcd.host(0).v4().to_string();
    let words = [("$subnet", subnet.as_str()), ("$host", &host), ("$elsewhere", &elsewhere)];
    HOST_GW.iter().try_for_each(|case| expect_named_and(verified_again, &mut node, (&["verify"], &words), case))
}

fn verified_again(node: &mut Node) -> Result {
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    eventually(START, || expect_silence(node, &["verify"])).map(drop)
}

/// The link whose name begins so.
fn link(node: &Node, beginning: &str) -> Result<String> {
    let links = node.host.namespace().ip("-o link show")?;
    let mut names = links.lines().filter_map(|line| line.split(": ").nth(1));
    let found = names.find_map(|name| name.split('@').next().filter(|name| name.starts_with(beginning)));
    found.map(str::to_owned).ok_or_else(|| LabError::Wrong(links.clone()))
}

//! Hosts on one link reach each other's containers without encapsulation: by host-gw, and by vxlan with DirectRouting. Another host is
//! behind a router.

use std::net::IpAddr;

use wire_tests::{Etcd, Family, Host, Lab, Result, check, eventually, lab};

use crate::{
    cluster::{Node, PROMPT, START},
    firewall::drop_as_docker_28,
    seat::Seat,
};

pub(crate) const HOST_GW: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.15.0","EnableIPv6":true,"IPv6Network":"fd00:5::/32",
    "IPv6SubnetMax":"fd00:5:0:ff::","Backend":{"Type":"host-gw"}}"#;
const DIRECT: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.15.0","EnableIPv6":true,"IPv6Network":"fd00:5::/32",
    "IPv6SubnetMax":"fd00:5:0:ff::","Backend":{"Type":"vxlan","DirectRouting":true}}"#;

/// Puts a host into other prefixes, with the router between them and the first ones.
pub(crate) fn behind_router(lab: &Lab, host: &Host) -> Result<[IpAddr; 2]> {
    lab.namespace().sh("ip address add 192.168.65.254/24 dev br0; ip address add fd65::fe/64 dev br0 nodad
         sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
         for link in all br0; do echo 0 > /proc/sys/net/ipv4/conf/$link/send_redirects; done")?;
    let number = host.v4().octets()[3];
    let [v4, v6] = [format!("192.168.65.{number}"), format!("fd65::{number}")];
    host.namespace().sh(&format!(
        "ip address flush dev eth0 scope global
         ip address add {v4}/24 dev eth0; ip address add {v6}/64 dev eth0 nodad
         ip route add default via 192.168.65.254; ip -6 route replace default via fd65::fe"
    ))?;
    Ok([v4.parse().unwrap(), v6.parse().unwrap()])
}

/// The routes of a host to peers' subnets, as `subnet via gateway dev link`, sorted.
pub(crate) fn routes(host: &Host, family: Family) -> Result<Vec<String>> {
    let all = host.kernel().routes(family)?;
    let peers = all.iter().filter(|route| route.gateway.is_some() && route.destination.contains("5"));
    let peers = peers.filter(|route| route.destination != "default" && route.protocol == "91");
    let mut told: Vec<String> = peers
        .map(|route| {
            let (gateway, device) = (route.gateway.unwrap(), route.device.as_deref().unwrap_or_default());
            format!("{} via {gateway} dev {device}", route.destination)
        })
        .collect();
    told.sort();
    Ok(told)
}

/// A node's subnet as a prefix: `10.5.7.0/24`.
pub(crate) fn subnet(node: &Node, family: Family) -> Result<String> {
    let own = node.subnet(family)?;
    let prefix: wire_net::Prefix = own.parse().unwrap();
    Ok(prefix.to_string())
}

pub(crate) fn direct(to: &Node, family: Family) -> Result<String> {
    Ok(format!("{} via {} dev eth0", subnet(to, family)?, to.host.on_underlay(family)))
}

pub(crate) fn has(node: &Node, family: Family, mut expected: Vec<String>) -> Result {
    expected.sort();
    let found = routes(&node.host, family)?;
    check(found == expected, || format!("{found:?} and not {expected:?}\n{}", node.agent.log()))
}

#[test]
fn containers_of_hosts_on_one_link_reach_each_other_by_host_gw_and_one_behind_a_router_is_named() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(HOST_GW)?;
    let [one, two, far] = lab.hosts::<3>()?;
    let [far_v4, _] = behind_router(&lab, &far)?;
    let (one, mut two) = (Seat::new(one, &etcd, &["--ip-masq"])?, Seat::new(two, &etcd, &[])?);
    let far = Seat::new(far, &etcd, &[])?;
    for family in Family::ALL {
        eventually(START, || has(&one.node, family, vec![direct(&two.node, family)?]))?;
        eventually(START, || has(&two.node, family, vec![direct(&one.node, family)?]))?;
        eventually(START, || has(&far.node, family, vec![]))?;
    }
    check(one.node.agent.subnet_env()?["FLANNEL_MTU"] == "1500", || "the MTU is not the link's".to_owned())?;
    for (family, (from, to)) in
        Family::ALL.into_iter().flat_map(|family| [(family, (&one, &two)), (family, (&two, &one))])
    {
        from.connects_over(family, to)?;
        check(from.container.pings(to.container.address(family)?, 2), || format!("no answer over {family}"))?;
    }
    // Named, where it is seen and where it is asked for.
    eventually(START, || {
        let said = one.node.agent.status()?.rest["warnings"].to_string();
        check(said.contains(&format!("no route to the containers of {far_v4}")), || {
            format!("{said}\n{:?}\n{}", one.node.agent.peers(), one.node.agent.log())
        })
    })?;
    let peers = one.node.agent.peers()?;
    let programmed: Vec<Option<&str>> =
        peers.peers.iter().filter(|peer| peer.programmed).map(|peer| peer.public_ip.as_deref()).collect();
    check(programmed == [Some(two.node.host.v4().to_string().as_str())], || format!("{peers:?}"))?;
    check(!one.container.pings(far.address()?, 1), || "there is a way to the host behind the router".to_owned())?;
    // The lease is flannel's, byte for byte.
    let stored = etcd.list(&format!("{}/subnets/", Etcd::PREFIX))?;
    let [v4, v6] = Family::ALL.map(|family| one.node.host.on_underlay(family));
    let expected = format!(r#"{{"PublicIP":"{v4}","PublicIPv6":"{v6}","BackendType":"host-gw"}}"#);
    check(stored.iter().any(|stored| stored.value() == expected), || format!("{stored:?}"))?;

    // A host that leaves takes its routes along.
    two.node.agent.terminate()?;
    let drained = two.node.agent.run_with_its_flags("drain")?;
    check(drained.status.success(), || format!("{drained:?}"))?;
    for family in Family::ALL {
        check(routes(&two.node.host, family)?.is_empty(), || format!("drain leaves routes of {family}"))?;
        eventually(PROMPT * 5, || has(&one.node, family, vec![]))?;
    }
    Ok(())
}

#[test]
fn dockers_drops_stop_the_underlay_and_no_direct_packet_of_a_peer() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(HOST_GW)?;
    let [one, two, outside] = lab.hosts::<3>()?;
    let (mut one, two) = (Seat::new(one, &etcd, &["--ip-masq"])?, Seat::new(two, &etcd, &["--ip-masq"])?);
    for (family, network) in [(Family::V4, "10.5.0.0/16"), (Family::V6, "fd00:5::/32")] {
        drop_as_docker_28(&one, family)?;
        drop_as_docker_28(&two, family)?;
        eventually(START, || has(&one.node, family, vec![direct(&two.node, family)?]))?;
        one.connects_over(family, &two)?;
        two.connects_over(family, &one)?;
        // Another host on the link, which is no peer.
        outside.namespace().ip(&format!("route add {network} via {}", one.node.host.on_underlay(family)))?;
        let target = one.container.address(family)?;
        check(!outside.pings(target), || format!("another host reaches a container over {family}"))?;
    }
    // Without our rules nothing comes in, so that this says something.
    one.node.agent.terminate()?;
    for (tables, family) in [("iptables", Family::V4), ("ip6tables", Family::V6)] {
        one.sh(&format!("{tables} -t raw -F WIRE-RAW"))?;
        let target = one.container.address(family)?;
        check(!two.container.pings(target, 1), || format!("{family} passes Docker's drops without our rules"))?;
    }
    Ok(())
}

#[test]
fn direct_routing_takes_the_link_where_it_can_and_vxlan_elsewhere_and_follows_what_is_on_the_link() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DIRECT)?;
    let [one, two, far] = lab.hosts::<3>()?;
    behind_router(&lab, &far)?;
    let (one, two) = (Seat::new(one, &etcd, &["--ip-masq"])?, Seat::new(two, &etcd, &[])?);
    let far = Seat::new(far, &etcd, &[])?;
    let through_overlay = |to: &Node, family| {
        let prefix = subnet(to, family)?;
        let (gateway, device) = (prefix.split('/').next().unwrap().to_owned(), to.datapath.device(family));
        Ok(format!("{prefix} via {gateway} dev {device}"))
    };
    for family in Family::ALL {
        let expected = || Ok(vec![direct(&two.node, family)?, through_overlay(&far.node, family)?]);
        eventually(START, || has(&one.node, family, expected()?))?;
    }
    let encapsulated = lab.count("udp dport 8472")?;
    check(one.container.pings(two.address()?, 2), || "no answer on the link".to_owned())?;
    one.connects(&two)?;
    check(encapsulated.packets()? == 0, || "packets between hosts on the link are encapsulated".to_owned())?;
    for (from, to) in [(&one, &far), (&far, &two)] {
        from.connects(to)?;
    }

    // The first host sees the second no longer on its link, and the second sees the first on it: what comes by one way and is answered
    // by another arrives.
    one.node.host.namespace().sh(&format!(
        "ip address add {ip}/32 dev eth0; ip address del {ip}/24 dev eth0; ip route replace 192.168.64.254 dev eth0
         ip route replace default via 192.168.64.254",
        ip = one.node.host.v4()
    ))?;
    eventually(START, || {
        has(
            &one.node,
            Family::V4,
            vec![through_overlay(&two.node, Family::V4)?, through_overlay(&far.node, Family::V4)?],
        )
    })?;
    check(two.container.pings(one.address()?, 2), || "no answer where both see the link differently".to_owned())?;
    one.connects(&two)?;
    two.connects(&one)?;
    check(one.node.filtered("spoofed")? == 0 && two.node.filtered("spoofed")? == 0, || "dropped as spoofed".to_owned())
}

//! What strangers, members and containers send encapsulated is dropped where it is not theirs to send, and counted.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use wire_tests::{AgentSpec, Etcd, Family, Host, Lab, LabError, PeerLease, Result, check, eventually, lab};

use crate::{
    cluster::{DUAL, Node, PROMPT, V4, cluster, device, peer, settle},
    seat::{Seat, seats},
};

/// How old what `status` counts may be, and how long a busy machine may take to tell it.
const COUNTED: Duration = Duration::from_secs(15);

/// A stranger's VXLAN device that sends to a host as a peer would, with a source inside the other's subnet.
fn forge(stranger: &Host, victim: &Node, source: IpAddr) -> Result {
    forge_from(stranger, stranger.on_underlay(Family::of(source)), victim, source)
}

/// The same with another address outside too.
fn forge_from(stranger: &Host, local: IpAddr, victim: &Node, source: IpAddr) -> Result {
    let family = Family::of(source);
    let vtep = victim.vtep(family)?;
    let link = victim.host.kernel().link(device(family))?;
    let mac = link.map(|link| link.address).unwrap_or_default();
    let remote = victim.host.on_underlay(family);
    let (vx, all, flag) = match family {
        Family::V4 => ("vx4", 32, ""),
        Family::V6 => ("vx6", 128, "nodad"),
    };
    stranger.namespace().sh(&format!(
        "ip link add {vx} type vxlan id 1 dev eth0 local {local} dstport 8472 nolearning; ip link set {vx} up
         ip address add {source}/{all} dev {vx} {flag}; ip route add {vtep}/{all} dev {vx} src {source}
         ip neighbour add {vtep} lladdr {mac} dev {vx}; bridge fdb append {mac} dev {vx} dst {remote} self permanent"
    ))?;
    Ok(())
}

/// How many echo requests a host's kernel has taken.
pub(crate) fn echoes(host: &Host, family: Family) -> Result<u64> {
    let wrong = |text: &str| LabError::Wrong(format!("no echo requests in {text}"));
    let number = match family {
        Family::V4 => {
            let text = host.exec("cat /proc/net/snmp")?;
            let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("Icmp:")).collect();
            let column = lines[0].split_whitespace().position(|word| word == "InEchos");
            column.and_then(|column| lines[1].split_whitespace().nth(column)).map(str::to_owned)
        }
        Family::V6 => {
            let text = host.exec("cat /proc/net/snmp6")?;
            text.lines().find_map(|line| line.strip_prefix("Icmp6InEchos")).map(|number| number.trim().to_owned())
        }
    };
    number.and_then(|number| number.parse().ok()).ok_or_else(|| wrong(host.name()))
}

/// An address inside a host's subnet that nothing has.
fn inside(node: &Node, family: Family) -> Result<IpAddr> {
    Ok(match node.vtep(family)? {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + 77).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + 77).into(),
    })
}

#[test]
fn what_strangers_and_members_forge_over_ipv4_is_dropped_counted_and_named() -> Result {
    nothing_forged_is_taken(&lab!(), Family::V4)
}

#[test]
fn what_strangers_and_members_forge_over_ipv6_is_dropped_counted_and_named() -> Result {
    nothing_forged_is_taken(&lab!(), Family::V6)
}

fn nothing_forged_is_taken(lab: &Lab, family: Family) -> Result {
    let (_etcd, [node, mut member, third]) = cluster::<3>(lab, DUAL)?;
    let vtep = node.vtep(family)?;
    // A member's honest packet arrives, or the rest says nothing.
    let before = echoes(&node.host, family)?;
    check(member.host.reaches(vtep), || "a member cannot ping".to_owned())?;
    let taken = || Ok(echoes(&node.host, family)? - before);
    check(taken()? == 1, || "the honest ping was not counted".to_owned())?;

    // Who has no lease, with a source inside a member's subnet, and inside the victim's own.
    let sources = [("a", member.vtep(family)?), ("b", inside(&node, family)?)];
    let mut strangers = Vec::new();
    for (name, source) in sources {
        let stranger = lab.host(&format!("stranger-{name}"))?;
        forge(&stranger, &node, source)?;
        let _ = stranger.exec(&format!("ping -c 3 -i 0.2 -W 1 {vtep}"));
        check(taken()? == 1, || format!("a stranger was let in with {source}"))?;
        strangers.push(stranger);
    }
    // A member with a source outside all leases, of another member, of the victim's own subnet, and one of its own lease that the
    // victim reaches elsewhere.
    let (outside, all, flag): (IpAddr, u8, &str) = match family {
        Family::V4 => (Ipv4Addr::new(10, 99, 9, 9).into(), 32, ""),
        Family::V6 => (Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 9).into(), 128, "nodad"),
    };
    // Its agent would see that it has addresses of others, and leave them out.
    member.agent.terminate()?;
    let elsewhere = inside(&member, family)?;
    let router = third.host.on_underlay(family);
    node.host.namespace().ip(&format!("route add {elsewhere}/{all} via {router} dev eth0"))?;
    for source in [outside, third.vtep(family)?, inside(&third, family)?, inside(&node, family)?, elsewhere] {
        member.host.namespace().sh(&format!("ip address add {source}/{all} dev lo {flag}"))?;
        let _ = member.host.exec(&format!("ping -c 3 -i 0.2 -W 1 -I {source} {vtep}"));
        check(taken()? == 1, || format!("a member was let in with {source}"))?;
    }
    check(third.host.reaches(vtep), || "whose source that is cannot ping".to_owned())?;
    eventually(COUNTED, || {
        let (strangers, spoofed) = (node.filtered("strangers")?, node.filtered("spoofed")?);
        check(strangers == 6 && spoofed == 15, || format!("{strangers} and {spoofed} were counted"))
    })?;
    let first = &strangers[0];
    let strangers: Vec<String> = strangers.iter().map(|host| host.on_underlay(family).to_string()).collect();
    let status = node.agent.status()?;
    let senders = &status.rest["firewall"]["senders"];
    check(*senders == serde_json::json!(strangers), || format!("named are {senders}"))?;
    let text = node.agent.ctl(&["status"])?;
    let said = format!("dropped 6 packets from hosts without a lease ({})", strangers.join(", "));
    check(text.contains(&said), || text.clone())?;
    // The first might be the member itself, by another address than its lease has.
    let subnet = match family {
        Family::V4 => member.vtep(family)?.to_string() + "/24",
        Family::V6 => member.vtep(family)?.to_string() + "/64",
    };
    let public = member.host.on_underlay(family);
    let said = format!(
        "packets from {} with sources in {subnet} are dropped, since the lease of {subnet} has the public IP \
         {public}: ",
        first.on_underlay(family)
    );
    check(text.contains(&said) && text.contains("wire-agent here with --peers-only=false"), || text)
}

#[test]
fn no_container_gets_a_forged_source_into_another_host() -> Result {
    let lab = lab!();
    let (_etcd, [mut one, other]) = seats(&lab, V4, &[])?;
    let attacker = one.run(&["--cap-add", "NET_ADMIN"])?;
    let (victim, forged) = (other.address()?, inside(&other.node, Family::V4)?);
    for source in [forged, Ipv4Addr::new(10, 99, 9, 9).into()] {
        attacker.exec(&format!("ip address add {source}/32 dev lo"))?;
        let _ = attacker.exec(&format!("ping -c 3 -W 1 -I {source} {victim}"));
    }
    let taken = other.container.exec("cat /proc/net/snmp")?;
    let inside = taken.lines().filter(|line| line.starts_with("Icmp: ")).nth(1).map(str::to_owned).unwrap_or_default();
    check(inside.starts_with("Icmp: 0 "), || format!("the victim has taken {inside}"))?;
    eventually(COUNTED, || {
        let spoofed = other.node.filtered("spoofed")?;
        check(spoofed == 6, || format!("{spoofed} were counted"))
    })?;
    // With its own source it does arrive.
    check(attacker.pings(victim, 3), || "the honest source does not pass".to_owned())
}

/// What docs/adr/0007 says of it: let in as that member is, with its sources and no others.
#[test]
fn a_stranger_that_forges_a_members_address_too_has_that_members_sources_and_no_others() -> Result {
    let lab = lab!();
    let (_etcd, [node, member, third]) = cluster::<3>(&lab, V4)?;
    let stranger = lab.host("stranger")?;
    // Its forged address stays unknown to the neighbours, who answer the member.
    stranger.sysctl("net.ipv4.conf.all.arp_ignore", "1")?;
    stranger.sysctl("net.ipv4.conf.all.arp_announce", "2")?;
    stranger.namespace().ip(&format!("address add {}/32 dev lo", member.host.v4()))?;
    let (vtep, ping) = (node.vtep(Family::V4)?, format!("ping -c 3 -i 0.2 -W 1 {}", node.vtep(Family::V4)?));
    let before = echoes(&node.host, Family::V4)?;
    forge_from(&stranger, member.host.v4().into(), &node, third.vtep(Family::V4)?)?;
    let _ = stranger.exec(&ping);
    check(echoes(&node.host, Family::V4)? == before, || "another member's source was let in".to_owned())?;
    eventually(COUNTED, || {
        let spoofed = node.filtered("spoofed")?;
        check(spoofed == 3, || format!("{spoofed} were counted"))
    })?;
    let source = member.vtep(Family::V4)?;
    stranger
        .namespace()
        .sh(&format!("ip address add {source}/32 dev vx4; ip route replace {vtep}/32 dev vx4 src {source}"))?;
    let _ = stranger.exec(&ping);
    let taken = echoes(&node.host, Family::V4)? - before;
    check(taken == 3, || format!("{taken} of 3 were let in: the limit that is documented is another one now"))
}

#[test]
fn strangers_are_let_in_where_peers_are_behind_a_nat() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host, stranger] = lab.hosts::<2>()?;
    let node = Node::with(host, AgentSpec::new(etcd.agent_flags()).flag("--peers-only=false"))?;
    let before = echoes(&node.host, Family::V4)?;
    let peer = PeerLease::numbered(200);
    etcd.put(&peer.key(), &peer.value())?;
    settle(&etcd, &[&node], &[Family::V4])?;
    forge(&stranger, &node, peer.subnet.into())?;
    let _ = stranger.exec(&format!("ping -c 1 -W 1 {}", node.vtep(Family::V4)?));
    check(echoes(&node.host, Family::V4)? == before + 1, || "it was dropped".to_owned())
}

#[test]
fn of_strangers_that_are_let_in_no_source_is_taken_that_would_be_answered_elsewhere_over_ipv4() -> Result {
    no_foreign_source(&lab!(), Family::V4)
}

#[test]
fn of_strangers_that_are_let_in_no_source_is_taken_that_would_be_answered_elsewhere_over_ipv6() -> Result {
    no_foreign_source(&lab!(), Family::V6)
}

/// Where anyone may send, no rule looks at pairs of sender and source. With the kernel's rp_filter off as well, what is left is our
/// own look at the way back.
fn no_foreign_source(lab: &Lab, family: Family) -> Result {
    let etcd = Etcd::start(lab)?;
    etcd.put_config(DUAL)?;
    let [host, stranger] = lab.hosts::<2>()?;
    ["all", "default"].iter().try_for_each(|all| host.sysctl(&format!("net.ipv4.conf.{all}.rp_filter"), "0"))?;
    let node = Node::with(host, AgentSpec::new(etcd.agent_flags()).flag("--peers-only=false"))?;
    let link = device(family);
    let filter = node.host.exec(&format!("cat /proc/sys/net/ipv4/conf/{link}/rp_filter"))?;
    check(filter.trim() == "0", || format!("the rp_filter of {link} is {filter}"))?;
    let peer = peer(200, &Family::ALL);
    etcd.put(&peer.key(), &peer.value())?;
    settle(&etcd, &[&node], &Family::ALL)?;
    let leased =
        peer.expected(family).map(|peer| peer.subnet).ok_or_else(|| LabError::Wrong("no such side".to_owned()))?;
    // In the network, and in none.
    let (unleased, outside, forging, all, flag): (IpAddr, IpAddr, _, u8, _) = match family {
        Family::V4 => ([10, 5, 222, 9].into(), [10, 99, 9, 9].into(), "vx4", 32, ""),
        Family::V6 => {
            let (unleased, outside) = ([0xfd00, 5, 0x222, 0, 0, 0, 0, 9], [0xfd99, 0, 0, 0, 0, 0, 0, 9]);
            (unleased.into(), outside.into(), "vx6", 128, "nodad")
        }
    };
    let vtep = node.vtep(family)?;
    forge(&stranger, &node, leased)?;
    let before = echoes(&node.host, family)?;
    // Nobody is answered: the way back leads elsewhere.
    let ping = |source: IpAddr| stranger.exec(&format!("ping -c 3 -i 0.2 -W 1 -I {source} {vtep}")).map(drop);
    let _ = ping(leased);
    let taken = || Ok(echoes(&node.host, family)? - before);
    check(taken()? == 3, || "a stranger's packets do not get here".to_owned())?;
    for source in [outside, unleased, inside(&node, family)?] {
        stranger.namespace().ip(&format!("address add {source}/{all} dev {forging} {flag}"))?;
        let _ = ping(source);
        let taken = taken()?;
        check(taken == 3, || format!("{} were let in with {source}", taken - 3))?;
    }
    eventually(COUNTED, || {
        let spoofed = node.filtered("spoofed")?;
        check(spoofed == 9, || format!("{spoofed} were counted"))
    })
    .map(drop)
}

#[test]
fn containers_send_nothing_encapsulated_to_any_host() -> Result {
    nothing_encapsulated_is_sent(&lab!(), V4).map(drop)
}

/// flannel's own example has a network that holds the hosts too, and a range for what is leased.
#[test]
fn nor_do_they_where_hosts_live_in_the_network_and_hear_each_other() -> Result {
    const AROUND: &str = r#"{"Network":"192.168.0.0/16","SubnetMin":"192.168.100.0","SubnetMax":"192.168.120.0",
        "Backend":{"Type":"vxlan"}}"#;
    let (_etcd, [one, other]) = nothing_encapsulated_is_sent(&lab!(), AROUND)?;
    one.connects(&other)?;
    other.connects(&one)?;
    // Its answer would not find a container's own address.
    check(one.container.pings(other.node.host.v4().into(), 1), || "the other host is not reached".to_owned())?;
    let phase = one.node.agent.status()?.phase;
    check(phase == "ready", || phase)
}

fn nothing_encapsulated_is_sent(lab: &Lab, config: &str) -> Result<(Etcd, [Seat; 2])> {
    let (etcd, [one, other]) = seats(lab, config, &["--ip-masq"])?;
    let leaving =
        lab.count(&format!("ip saddr {} udp sport != 8472 udp dport 8472 udp length 20", one.node.host.v4()))?;
    for target in [one.node.host.v4().to_string(), other.node.host.v4().to_string(), other.address()?.to_string()] {
        let send = format!(
            "nsenter -t {} -n bash -c 'printf \"\\x08\\0\\0\\0\\0\\0\\1\\0xxxx\" > /dev/udp/{target}/8472'",
            one.container.pid()?
        );
        one.sh(&send)?;
    }
    eventually(COUNTED, || {
        let counted = one.node.filtered("containers")?;
        check(counted == 2, || format!("{counted} were counted"))
    })?;
    let leaving = leaving.packets()?;
    check(leaving == 0, || format!("{leaving} left the host as if it were its own"))?;
    // To a container of another host it is a packet as any other.
    let counted = other.node.filtered("containers")?;
    check(counted == 0, || format!("{counted} were counted at the other host"))?;
    Ok((etcd, [one, other]))
}

/// A bridge that is not ours, whose containers Docker gives the host's address: what they send must not pass for a peer's.
#[test]
fn containers_of_any_other_bridge_send_nothing_encapsulated_to_peers() -> Result {
    another_bridge_is_not_heard(&lab!(), &[])
}

#[test]
fn nor_do_they_where_anyone_else_may_send() -> Result {
    another_bridge_is_not_heard(&lab!(), &["--peers-only=false"])
}

fn another_bridge_is_not_heard(lab: &Lab, flags: &[&str]) -> Result {
    let (_etcd, [mut one, other]) = seats(lab, V4, flags)?;
    one.docker.docker(&["network", "create", "--subnet", "172.30.7.0/24", "elsewhere"])?;
    let forger = one.docker.run_with(&["--network", "elsewhere"])?;
    // Its packets do come through, or the rest says nothing.
    check(forger.pings(other.node.host.v4().into(), 1), || "it has no way out".to_owned())?;
    let arrived = lab.count("udp dport 8472 @th,96,24 1 @th,240,8 0x45 udp length 58")?;
    // A VXLAN header, the MACs, and a UDP packet from this host's subnet to the other's container.
    let link = other.node.host.kernel().link("flannel.1")?;
    let mac = link.map(|link| link.address).unwrap_or_default().replace(':', "");
    let hex = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().iter().map(|octet| format!("{octet:02x}")).collect::<String>(),
        IpAddr::V6(_) => String::new(),
    };
    let (from, to) = (hex(one.address()?), hex(other.address()?));
    let frame = format!("0800000000000100{mac}02000000000108004500001c0001000040110000{from}{to}0fa0000900080000");
    let escaped: String =
        frame.as_bytes().chunks(2).map(|pair| format!("\\x{}", String::from_utf8_lossy(pair))).collect();
    for _ in 0..3 {
        let target = other.node.host.v4();
        one.sh(&format!("nsenter -t {} -n bash -c \"printf '{escaped}' | dd bs=50 iflag=fullblock status=none > /dev/udp/{target}/8472\"", forger.pid()?))?;
    }
    eventually(COUNTED, || {
        let counted = one.node.filtered("containers")?;
        check(counted == 3, || format!("{counted} were counted"))
    })?;
    let arrived = arrived.packets()?;
    check(arrived == 0, || format!("{arrived} left the host"))
}

/// The port is the kernel's default one: others use it too.
#[test]
fn another_network_with_the_same_port_is_let_alone() -> Result {
    let lab = lab!();
    let (_etcd, [node, member]) = cluster::<2>(&lab, V4)?;
    for (from, to, own) in [(&node, &member, "10.77.0.1/24"), (&member, &node, "10.77.0.2/24")] {
        from.host.namespace().sh(&format!(
            "ip link add other type vxlan id 2 dev eth0 local {} remote {} dstport 8472; ip address add {own} dev other; ip link set other up",
            from.host.v4(),
            to.host.v4()
        ))?;
    }
    check(node.host.reaches("10.77.0.2".parse().unwrap()), || "it is cut off".to_owned())?;
    let spoofed = member.filtered("spoofed")?;
    check(spoofed == 0, || format!("{spoofed} were counted"))
}

/// Each change of the firewall is told by the kernel, also our own: that must not slow down what follows.
#[test]
fn of_peers_that_join_one_after_the_other_each_is_heard_at_once() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host] = lab.hosts::<1>()?;
    let node = Node::start(host, &etcd)?;
    let mut took = Vec::new();
    for number in 100..110 {
        let peer = PeerLease::numbered(number);
        etcd.put(&peer.key(), &peer.value())?;
        took.push(eventually(PROMPT * 2, || {
            let set = node.host.namespace().sh("nft list set inet wire-agent subnets-v4-24")?;
            check(set.contains(&peer.public_ip.to_string()), || format!("peer {number} is not in {set}"))
        })?);
        std::thread::sleep(PROMPT);
    }
    println!("heard after {took:?}");
    // A delay grows with each, up to a second. Another test may have the machine for a while, but not whenever one joins.
    let quickest = took[6..].iter().min().copied().unwrap_or_default();
    check(quickest < PROMPT / 2, || format!("they were heard after {took:?}"))
}

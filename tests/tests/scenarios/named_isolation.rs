//! Networks by name are apart: who is no member, and who forges a source, reaches nobody; nothing leads from one network to another.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::Duration,
};

use wire_tests::{Family, Host, Lab, LabError, Namespace, Result, check, eventually, lab};

use crate::{
    cluster::{DUAL, Node, PROMPT, START, V4, V6, cluster, cluster_of},
    datapath::Datapath,
    named::{all_reach, asked, expose_on, network, silent},
    senders::echoes,
};

/// The age that counters of `status` may have, and the time that a busy machine may need.
const COUNTED: Duration = Duration::from_secs(15);

/// A counter of dropped packets of networks by name, by its name in `status`.
fn dropped(node: &Node, name: &str) -> Result<u64> {
    let counted = &node.agent.status()?.rest["firewall"]["networks"][name];
    counted.as_u64().ok_or_else(|| LabError::Wrong(format!("{name} is {counted}")))
}

fn is_counted(node: &Node, name: &str, least: u64) -> Result {
    let enough = || {
        let counted = dropped(node, name)?;
        check(counted >= least, || format!("{name}: {counted} and not {least}\n{}", node.agent.log()))
    };
    eventually(COUNTED, enough).map(drop)
}

fn vni(node: &Node, name: &str) -> Result<u64> {
    let inspected = asked(node, &format!("inspect {name}"))?;
    inspected["vni"].as_u64().ok_or_else(|| LabError::Wrong(inspected.to_string()))
}

/// The address that is so many behind another one.
fn behind(address: IpAddr, more: u8) -> IpAddr {
    match address {
        IpAddr::V4(first) => Ipv4Addr::from_bits(first.to_bits() + u32::from(more)).into(),
        IpAddr::V6(first) => Ipv6Addr::from_bits(first.to_bits() + u128::from(more)).into(),
    }
}

/// The last address of the network of 20 bits that an IPv4 address is in.
fn last(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from_bits(address.to_bits() | 0xfff).into(),
        IpAddr::V6(_) => address,
    }
}

/// The MAC of an address in a network by name.
fn mac_of(address: IpAddr) -> String {
    let octets = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets()[12..].to_vec(),
    };
    format!("02:57:{:02x}:{:02x}:{:02x}:{:02x}", octets[0], octets[1], octets[2], octets[3])
}

const fn all_and_flag(address: IpAddr) -> (u8, &'static str) {
    match address {
        IpAddr::V4(_) => (32, ""),
        IpAddr::V6(_) => (128, "nodad"),
    }
}

/// Sends echo requests into a network as a member would, by a VXLAN device of its own, and does not wait for answers.
fn forge(stranger: &Host, outer: Family, vni: u64, source: IpAddr, (victim, to): (&Node, IpAddr)) -> Result {
    let ((all, flag), mac) = (all_and_flag(source), mac_of(to));
    stranger.namespace().sh(&format!(
        "ip link add vx type vxlan id {vni} dev eth0 local {} dstport {} nolearning; ip link set vx address {} up
         ip address add {source}/{all} dev vx {flag}; ip route add {to}/{all} dev vx src {source}
         ip neighbour add {to} lladdr {mac} dev vx; bridge fdb append {mac} dev vx dst {} self permanent
         ping -c 3 -i 0.2 -W 1 {to} > /dev/null || true; ip link delete vx",
        stranger.on_underlay(outer),
        victim.datapath.port_of_first_network(),
        mac_of(source),
        victim.host.on_underlay(outer),
    ))?;
    Ok(())
}

/// One network of a cluster with this config, made with these flags: what others send to it.
pub(crate) fn nothing_forged_is_taken(
    lab: &Lab,
    (config, flags): (&str, &str),
    outer: Family,
    datapaths: [Datapath; 4],
) -> Result {
    let (_etcd, [one, mut two, three, outsider]) = cluster_of(lab, config, datapaths, &[])?;
    network(&one, &format!("create app{flags}"))?;
    let own = [&one, &two, &three].map(|node| expose_on(node, "app")).into_iter().collect::<Result<Vec<_>>>()?;
    all_reach(&[&one, &two, &three], &own)?;
    silent(&[&one, &two, &three])?;
    let vni = vni(&one, "app")?;
    let stranger = lab.host("stranger")?;
    for (number, to) in own[0].iter().copied().enumerate() {
        let family = Family::of(to);
        let before = echoes(&one.host, family)?;
        let taken = || Ok::<_, LabError>(echoes(&one.host, family)? - before);
        check(two.host.reaches(to) && taken()? == 1, || format!("an honest ping to {to}"))?;
        // Neither a host of nobody nor one of the flat network that has no part in this one.
        let sources = [own[1][number], behind(own[1][number], 3), behind(own[0][number], 3)];
        for host in [&stranger, &outsider.host] {
            for source in sources {
                let so_far = dropped(&one, "strangers")?;
                forge(host, outer, vni, source, (&one, to))?;
                check(taken()? == 1, || format!("{} was let in with {source}", host.name()))?;
                is_counted(&one, "strangers", so_far + 3)?;
            }
        }
    }
    // A member with the addresses of another, and of the outside.
    two.agent.kill();
    let bridge = format!("wb.{vni}");
    for (number, to) in own[0].iter().copied().enumerate() {
        let family = Family::of(to);
        let outside: IpAddr = match family {
            Family::V4 => Ipv4Addr::new(10, 99, 9, 9).into(),
            Family::V6 => Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 0, 9).into(),
        };
        let before = echoes(&one.host, family)?;
        for source in [own[2][number], behind(own[2][number], 3), outside] {
            let (all, flag) = all_and_flag(source);
            let so_far = dropped(&one, "forged")?;
            two.host.namespace().sh(&format!(
                "ip address add {source}/{all} dev lo {flag}
                 ping -c 3 -i 0.2 -W 1 -I {source} {to} > /dev/null || true; ip address del {source}/{all} dev lo"
            ))?;
            check(echoes(&one.host, family)? == before, || format!("a member was let in with {source}"))?;
            is_counted(&one, "forged", so_far + 3)?;
        }
    }
    for (number, to) in own[0].iter().copied().enumerate() {
        let before = echoes(&one.host, Family::of(to))?;
        // With the MAC of another member, and with its address or one of its own. How much leaves then is the kernel's: it forgets neighbours with the
        // old MAC.
        let mac = mac_of(own[2][number]);
        for source in [own[2][number], behind(own[1][number], 3)] {
            let (all, flag) = all_and_flag(source);
            two.host.namespace().sh(&format!(
                "old=$(ip -o link show {bridge} | sed 's/.*ether \\([0-9a-f:]*\\).*/\\1/'); ip link set {bridge} address {mac}
                 ip address add {source}/{all} dev lo {flag}; ping -c 3 -i 0.2 -W 1 -I {source} {to} > /dev/null || true
                 ip address del {source}/{all} dev lo; ip link set {bridge} address $old"
            ))?;
            check(echoes(&one.host, Family::of(to))? == before, || {
                format!("a member was let in as {source} with {mac}")
            })?;
        }
    }
    all_reach(&[&one, &three], &[own[0].clone(), own[2].clone()])?;
    silent(&[&one, &three])
}

#[test]
fn what_strangers_and_members_forge_to_a_network_is_dropped_and_counted_in_both_families() -> Result {
    nothing_forged_is_taken(&lab!(), (DUAL, " --ipv6"), Family::V4, [Datapath::KernelVxlan; 4])
}

#[test]
fn what_strangers_and_members_forge_to_a_network_over_ipv6_is_dropped_and_counted() -> Result {
    nothing_forged_is_taken(&lab!(), (V6, " --no-ipv4 --ipv6"), Family::V6, [Datapath::KernelVxlan; 4])
}

/// A namespace with a veth that somebody has put on the bridge of a network, with an address behind the host's own ones.
struct Guest {
    namespace: Namespace,
    addresses: Vec<IpAddr>,
}

impl Guest {
    fn on(node: &Node, name: &str, own: &[IpAddr]) -> Result<Self> {
        let addresses: Vec<IpAddr> = own.iter().map(|own| behind(*own, 7)).collect();
        let (vni, host) = (vni(node, name)?, node.host.name());
        let namespace = Namespace::new(node.host.namespace().run(), &format!("{host}-{name}"))?;
        let mac = mac_of(addresses[0]);
        node.host.namespace().sh(&format!(
            "mtu=$(ip -o link show wb.{vni} | sed 's/.* mtu \\([0-9]*\\).*/\\1/')
             ip link add by-{name} mtu $mtu type veth peer name eth0 mtu $mtu address {mac} netns {}
             ip link set by-{name} master wb.{vni} up",
            namespace.name()
        ))?;
        namespace.sh("ip link set lo up; ip link set eth0 up")?;
        for address in &addresses {
            let gateway = asked(node, &format!("inspect {name}"))?;
            let (key, len, flag) = match address {
                IpAddr::V4(_) => ("ipv4", 20, ""),
                IpAddr::V6(_) => ("ipv6", 64, "nodad"),
            };
            let gateway = gateway[key]["gateway"].as_str().unwrap_or_default().to_owned();
            namespace.sh(&format!(
                "ip address add {address}/{len} dev eth0 {flag}; ip route add default via {gateway} dev eth0"
            ))?;
        }
        Ok(Self { namespace, addresses })
    }

    fn reaches(&self, to: IpAddr) -> bool {
        self.namespace.exec(&format!("ping -c 1 -W 1 {to}")).is_ok()
    }

    fn reaches_soon(&self, to: IpAddr) -> Result {
        eventually(START, || check(self.reaches(to), || format!("{to} is not reached"))).map(drop)
    }
}

#[test]
fn networks_are_apart_lead_to_the_outside_as_the_host_and_internal_ones_nowhere() -> Result {
    networks_are_apart(&lab!(), [Datapath::KernelVxlan; 2])
}

pub(crate) fn networks_are_apart(lab: &Lab, datapaths: [Datapath; 2]) -> Result {
    let (_etcd, nodes) = cluster_of(lab, DUAL, datapaths, &[])?;
    let [one, two] = &nodes;
    let outside = lab.host("outside")?;
    let before = one.host.namespace().sh("nft list tables | sort; iptables-save | grep -c WIRE-SEGMENTS || true")?;
    // As Docker leaves it.
    for program in ["iptables", "ip6tables"] {
        one.host.namespace().sh(&format!("{program} -P FORWARD DROP"))?;
    }
    let names = ["front", "back", "inner"];
    for (name, flags) in names.into_iter().zip(["", "", " --internal"]) {
        network(one, &format!("create {name} --ipv6{flags}"))?;
    }
    let join = |node: &Node| names.iter().map(|name| expose_on(node, name)).collect::<Result<Vec<_>>>();
    let own = nodes.iter().map(join).collect::<Result<Vec<_>>>()?;
    for (here, there) in own[0].iter().zip(&own[1]) {
        all_reach(&[one, two], &[here.clone(), there.clone()])?;
    }
    silent(&[one, two])?;
    let guest = |node, host: usize, number: usize| Guest::on(node, names[number], &own[host][number]);
    let [front, back, inner] = [guest(one, 0, 0)?, guest(one, 0, 1)?, guest(one, 0, 2)?];
    let (far_front, far_inner) = (guest(two, 1, 0)?, guest(two, 1, 2)?);
    for family in Family::ALL {
        let of = |addresses: &[IpAddr]| {
            let found = addresses.iter().copied().find(|address| Family::of(*address) == family);
            found.ok_or_else(|| LabError::Wrong(format!("no {family} in {addresses:?}")))
        };
        // Within each network, on one host and over two.
        front.reaches_soon(of(&far_front.addresses)?)?;
        inner.reaches_soon(of(&far_inner.addresses)?)?;
        front.reaches_soon(of(&own[1][0])?)?;
        // To the outside, which has no route back: by the address of the host.
        front.reaches_soon(outside.on_underlay(family))?;
        back.reaches_soon(outside.on_underlay(family))?;
        let flat = two.vtep(family)?;
        let forbidden = [
            ("a network", &front, of(&back.addresses)?),
            ("a network", &back, of(&front.addresses)?),
            ("an internal network", &front, of(&inner.addresses)?),
            ("out of an internal network", &inner, of(&front.addresses)?),
            ("out of an internal network", &inner, outside.on_underlay(family)),
            ("the flat network", &front, flat),
        ];
        for (what, from, to) in forbidden {
            check(!from.reaches(to), || format!("{what}: {to} is reached from {:?}", from.addresses))?;
        }
    }
    is_counted(one, "crossing", 1)?;
    // What somebody deletes is back within a second.
    for damage in
        ["nft delete table bridge wire-agent", "nft flush chain inet wire-agent segments-through", "nft flush ruleset"]
    {
        one.host.namespace().sh(damage)?;
        let rules = || {
            one.host.namespace().sh("nft list table bridge wire-agent; nft list chain inet wire-agent segments-through")
        };
        let took = eventually(START, || {
            check(rules().is_ok_and(|rules| rules.contains("between networks")), || damage.to_owned())
        })?;
        check(took < PROMPT, || format!("after {damage} it took {took:?}"))?;
    }
    silent(&[one, two])?;
    check(!front.reaches(back.addresses[0]), || "after the repair".to_owned())?;
    // And nothing of it is left.
    one.host.namespace().sh("for program in iptables ip6tables; do $program -P FORWARD ACCEPT; done")?;
    for name in names {
        asked(one, &format!("hide {name}"))?;
    }
    let left = || {
        let after = one.host.namespace().sh("nft list tables | sort; iptables-save | grep -c WIRE-SEGMENTS || true")?;
        check(after == before, || format!("{before}\nbefore, and now\n{after}"))
    };
    eventually(START, left)?;
    silent(&[one])
}

/// Counts what comes to a link, by a condition of nft.
fn count(host: &Host, link: &str, what: &str, condition: &str) -> Result {
    host.namespace().sh(&format!(
        "nft 'table netdev lab-{what} {{ counter seen {{ }}; chain in {{ type filter hook ingress device \"{link}\" priority 0; {condition} counter name seen; }}; }}'"
    ))?;
    Ok(())
}

fn counted(host: &Host, what: &str) -> Result<u64> {
    let text = host.namespace().sh(&format!("nft list counter netdev lab-{what} seen"))?;
    let number = text.split_once("packets ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    number.ok_or(LabError::Wrong(text))
}

#[test]
fn broadcast_and_multicast_reach_all_members_and_nobody_else_and_nobody_where_they_are_off() -> Result {
    let lab = lab!();
    let (_etcd, nodes) = cluster::<4>(&lab, DUAL)?;
    let [one, two, three, outsider] = &nodes;
    let members = [one, two, three];
    for (name, flags) in [("loud", ""), ("quiet", " --no-broadcast")] {
        network(one, &format!("create {name} --ipv6{flags}"))?;
    }
    for (name, is_loud) in [("loud", true), ("quiet", false)] {
        let own = members.map(|node| expose_on(node, name)).into_iter().collect::<Result<Vec<_>>>()?;
        all_reach(&members, &own)?;
        let vni = vni(one, name)?;
        let v4 = own[0].iter().find(|address| address.is_ipv4()).copied().unwrap_or(own[0][0]);
        let all = last(v4);
        let kinds = [
            ("multicast", "ip daddr 239.1.2.3", format!("ping -c 3 -i 0.2 -W 1 -I {v4} 239.1.2.3")),
            ("broadcast", &format!("ip daddr {all}"), format!("ping -b -c 3 -i 0.2 -W 1 -I {v4} {all}")),
            ("v6", "ip6 daddr ff02::1:7777", format!("ping -6 -c 3 -i 0.2 -W 1 ff02::1:7777%wb.{vni}")),
        ];
        for (what, condition, _) in &kinds {
            for node in [two, three] {
                count(&node.host, &format!("wb.{vni}"), &format!("{name}-{what}"), condition)?;
            }
        }
        count(&outsider.host, "eth0", name, &format!("udp dport 8472 @th,96,24 {vni}"))?;
        for (what, _, send) in &kinds {
            // Without an answer, ping fails.
            one.host.namespace().sh(&format!("{send} > /dev/null || true"))?;
            for node in [two, three] {
                let arrived = |number: u64| {
                    let arrived = counted(&node.host, &format!("{name}-{what}"))?;
                    check(arrived == number, || format!("{name}, {what}: {arrived} arrived"))
                };
                if is_loud {
                    eventually(START, || arrived(3))?;
                } else {
                    arrived(0)?;
                }
            }
        }
        check(counted(&outsider.host, name)? == 0, || "a host that is no member has got something".to_owned())?;
        all_reach(&members, &own)?;
        for node in members {
            check(dropped(node, "at_ports")? == 0, || "something was taken for forged".to_owned())?;
        }
    }
    silent(&members)
}

#[test]
fn a_restart_of_a_member_changes_no_rule_of_the_networks_with_etcd_or_without() -> Result {
    let lab = lab!();
    let (mut etcd, mut nodes) = cluster::<2>(&lab, V4)?;
    network(&nodes[0], "create app")?;
    let own = nodes.iter().map(|node| expose_on(node, "app")).collect::<Result<Vec<_>>>()?;
    all_reach(&nodes.each_ref(), &own)?;
    let file = nodes[0].agent.state_dir().join("named/app.json");
    let other = nodes[1].agent.status()?.rest["identity"].as_str().unwrap_or_default().to_owned();
    let is_saved =
        || check(std::fs::read_to_string(&file).is_ok_and(|text| text.contains(&other)), || "not yet".to_owned());
    eventually(START, is_saved)?;
    // Handles are given anew with each table, so they tell one that was put again.
    let rules = |node: &Node| {
        node.host
            .namespace()
            .sh("nft -a list ruleset | grep -v 'counter packets'; iptables-save | grep -v '^#' | sed 's/\\[.*\\]//'")
    };
    for is_away in [false, true] {
        let before = rules(&nodes[0])?;
        nodes[0].agent.kill();
        let left = nodes[0].agent.run_with_its_flags("verify")?;
        check(left.status.success(), || format!("verify without an agent: {left:?}"))?;
        if is_away {
            etcd.kill(0);
        }
        nodes[0].agent.restart()?;
        nodes[0].agent.wait_ready(START)?;
        let is_joined = || {
            let status = nodes[0].agent.status()?;
            check(status.rest["networks"][0]["state"] == "joined", || format!("{:?}", status.rest["networks"]))
        };
        eventually(START, is_joined)?;
        thread::sleep(Duration::from_secs(2));
        let after = rules(&nodes[0])?;
        check(after == before, || format!("{before}\nbefore, after\n{after}\n{}", nodes[0].agent.log()))?;
        let firewall = nodes[0].agent.status()?.rest["firewall"].clone();
        check(firewall["written"] == 0 && firewall["removed"] == 0, || firewall.to_string())?;
        all_reach(&nodes.each_ref(), &own)?;
    }
    etcd.restart(0)?;
    Ok(())
}

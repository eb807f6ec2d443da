//! Hosts of host-gw come, go, change their addresses and are restarted, beside one that is behind a router.

use wire_tests::{AgentSpec, Comparison, Etcd, Family, Pings, Result, check, eventually, lab};

use crate::{
    cluster::{Node, START},
    host_gw::{HOST_GW, behind_router, direct, has, routes, subnet},
};

/// Gives a host an address of its subnet, as a container's bridge would, and gives that address.
fn inhabit(node: &Node, family: Family) -> Result<std::net::IpAddr> {
    let own = node.subnet(family)?;
    let nodad = if family == Family::V6 { "nodad" } else { "" };
    node.host.namespace().sh(&format!(
        "ip link show docker0 >/dev/null 2>&1 || ip link add docker0 type bridge
         ip link set docker0 up; ip address add {own} dev docker0 {nodad}"
    ))?;
    own.split('/').next().unwrap_or_default().parse().map_err(|_| wire_tests::LabError::Wrong(own.clone()))
}

/// Checks that each host has the routes to the others on the link, and no other.
fn expect_each_other(nodes: &[&Node]) -> Result {
    for node in nodes {
        for family in Family::ALL {
            let others = nodes.iter().filter(|other| other.host.name() != node.host.name());
            has(node, family, others.map(|other| direct(other, family)).collect::<Result<_>>()?)?;
        }
    }
    Ok(())
}

#[test]
fn hosts_come_go_and_change_their_addresses_and_a_restart_writes_nothing() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(HOST_GW)?;
    let [one, two, three, far] = lab.hosts::<4>()?;
    behind_router(&lab, &far)?;
    let mut one = Node::with(one, AgentSpec::new(etcd.agent_flags()).traced())?;
    let (mut two, _far) = (Node::start(two, &etcd)?, Node::start(far, &etcd)?);
    eventually(START, || expect_each_other(&[&one, &two]))?;
    let mut pings = Vec::new();
    for family in Family::ALL {
        let (source, target) = (inhabit(&one, family)?, inhabit(&two, family)?);
        let answered = || one.host.exec(&format!("ping -c 1 -W 1 -I {source} {target}")).map(drop);
        eventually(START, answered)?;
        let running = Pings::start(&one.host.namespace().path(), Some(source), target)?;
        running.wait_answered()?;
        pings.push(running);
    }

    let stored = || -> Result<Vec<_>> {
        let all = etcd.list(&format!("{}/", Etcd::PREFIX))?;
        Ok(all.into_iter().map(|stored| (stored.key, stored.mod_revision)).collect())
    };
    let before = stored()?;
    one.agent.terminate()?;
    one.agent.restart()?;
    one.agent.wait_ready(START)?;
    eventually(START, || check(one.agent.status()?.phase != "waiting", || one.agent.log()))?;
    let writes = one.agent.kernel_writes()?;
    check(writes.is_empty(), || format!("a restart wrote {writes:?}\n{}", one.agent.log()))?;
    check(stored()? == before, || format!("a restart wrote to etcd: {:?}", stored()))?;

    let mut three = Node::start(three, &etcd)?;
    eventually(START, || expect_each_other(&[&one, &two, &three]))?;
    for running in pings {
        let seen = running.stop()?;
        check(seen.lost().is_empty(), || format!("of {} lost {:?}", seen.sent, seen.lost()))?;
    }

    // The others follow its new address, and its subnet stays.
    let held = subnet(&two, Family::V4)?;
    two.host.change_address("192.168.64.77".parse().unwrap())?;
    eventually(START, || expect_each_other(&[&one, &two, &three]))?;
    check(subnet(&two, Family::V4)? == held, || "the subnet is another".to_owned())?;
    let (source, target) = (inhabited(&one, Family::V4)?, inhabited(&two, Family::V4)?);
    eventually(START, || one.host.exec(&format!("ping -c 1 -W 1 -I {source} {target}")).map(drop))?;

    // One that leaves holds nothing of ours, and nobody has a route to it.
    three.agent.terminate()?;
    let drained = three.agent.run_with_its_flags("drain")?;
    check(drained.status.success(), || format!("{drained:?}"))?;
    for family in Family::ALL {
        check(routes(&three.host, family)?.is_empty(), || format!("drain leaves routes of {family}"))?;
    }
    let left = three.host.namespace().sh("nft list tables; iptables-save; ip6tables-save")?;
    check(!left.contains("wire-agent") && !left.contains("WIRE-"), || format!("drain leaves {left}"))?;
    eventually(START, || expect_each_other(&[&one, &two])).map(drop)
}

fn inhabited(node: &Node, family: Family) -> Result<String> {
    Ok(node.subnet(family)?.split('/').next().unwrap_or_default().to_owned())
}

#[test]
fn a_trace_judges_what_comes_without_encapsulation_by_the_rules_for_it() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(HOST_GW)?;
    let [one, two] = lab.hosts::<2>()?;
    let (one, two) = (Node::start(one, &etcd)?, Node::start(two, &etcd)?);
    eventually(START, || expect_each_other(&[&one, &two]))?;
    // Written seconds after the last change of a lease; and the rules are of another loop than the routes.
    let saved = one.agent.state_dir().join("network.json");
    eventually(START, || check(saved.exists(), || "the network state is not saved".to_owned()))?;
    for family in Family::ALL {
        let (own, peer) = (inhabit(&one, family)?, inhabit(&two, family)?);
        let trace = |to: &str, from: &str| one.agent.compare(&["trace", to, "--from", from]);
        let said = |answer: &Comparison| answer.lines().last().unwrap_or_default().to_owned();
        let [own, peer] = [own.to_string(), peer.to_string()];
        eventually(START, || {
            let comes = trace(&own, &peer)?;
            check(comes.status == Some(0) && comes.text.starts_with("comes in by eth0"), || format!("{comes:?}"))?;
            check(!comes.text.contains("not looked at: the sources"), || format!("{comes:?}"))
        })?;
        let leaves = one.agent.compare(&["trace", &peer])?;
        let by = format!("sent to {} by eth0", two.host.on_underlay(family));
        check(leaves.status == Some(0) && said(&leaves).starts_with(&by), || format!("{leaves:?}"))?;
        // A source of nobody, which a route brings in by the same link.
        let held = [subnet(&one, family)?, subnet(&two, family)?];
        let numbered = |number: u8| match family {
            Family::V4 => (format!("10.5.{number}.9"), format!("10.5.{number}.0/24")),
            Family::V6 => (format!("fd00:5:0:{number:x}::9"), format!("fd00:5:0:{number:x}::/64")),
        };
        let (nobody, free) = (1..=3).map(numbered).find(|(_, free)| !held.contains(free)).expect("two are held");
        one.host.namespace().ip(&format!("route add {free} via {}", two.host.on_underlay(family)))?;
        let spoofed = trace(&own, &nobody)?;
        let by = "dropped: rule 'direct sources outside leases";
        check(spoofed.status == Some(1) && said(&spoofed).starts_with(by), || format!("{spoofed:?}"))?;
    }
    Ok(())
}

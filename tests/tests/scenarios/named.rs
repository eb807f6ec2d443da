//! Networks by name: made once, joined by `expose` on each host, left by `hide`.

use std::{
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use wire_tests::{Etcd, Family, Lab, LabError, Monitor, Result, Stored, check, eventually, lab};

use crate::{
    cluster::{DUAL, Node, PROMPT, START, V4, V6, cluster, cluster_of},
    datapath::Datapath,
};

/// Carries out `wire-agent network …` with the flags of the agent, and gives what it printed.
pub(crate) fn network(node: &Node, words: &str) -> Result<String> {
    let output = node.agent.run_with_its_flags(&format!("network {words}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    check(output.status.success(), || format!("network {words}: {output:?}\n{}", node.agent.log()))?;
    Ok(text)
}

/// The same with `--json`.
pub(crate) fn asked(node: &Node, words: &str) -> Result<Value> {
    let text = network(node, &format!("{words} --json"))?;
    serde_json::from_str(&text).map_err(|error| LabError::Wrong(format!("network {words}: {error}: {text}")))
}

/// Lets a host take part in `app`, and gives its own addresses there.
fn expose(node: &Node) -> Result<Vec<IpAddr>> {
    expose_on(node, "app")
}

/// The same for another network.
pub(crate) fn expose_on(node: &Node, name: &str) -> Result<Vec<IpAddr>> {
    let part = asked(node, &format!("expose {name}"))?;
    check(part["state"] == "joined" && part["reason"] == "", || format!("{part}\n{}", node.agent.log()))?;
    let own = ["own", "own_v6"].iter().filter_map(|name| part[*name].as_str()?.parse().ok());
    Ok(own.collect())
}

/// The parts of a host that a network by name may change, but for the MAC of its VXLAN device, which is at random.
pub(crate) fn picture(node: &Node) -> Result<String> {
    let state = node.agent.state_dir();
    node.host.namespace().sh(&format!(
        "ip -o link | cut -d: -f2 | sort; ip -o addr | tr -s ' ' | cut -d' ' -f2-4 | sort
         ip route show table all | grep -v 'table local' | sort; ip -6 route show table all | grep -v 'table local' | sort
         ip neigh show nud permanent | sort; bridge fdb show | grep -v 'dev eth0' | grep -v 'master .* permanent' | sort
         find {} -name 'named*' -type f",
        state.display()
    ))
}

/// The keys of networks by name, but for what keeps a VNI from being used again.
pub(crate) fn keys(etcd: &Etcd) -> Result<Vec<Stored>> {
    let all = etcd.list(&format!("{}/wire/", Etcd::PREFIX))?;
    let of_networks = ["/networks/", "/members/", "/blocks/", "/addresses/"];
    Ok(all.into_iter().filter(|stored| of_networks.iter().any(|folder| stored.key().contains(folder))).collect())
}

pub(crate) fn silent(nodes: &[&Node]) -> Result {
    for node in nodes {
        for word in ["verify", "plan"] {
            let said = node.agent.compare(&[word])?;
            check(said.is_silent(), || format!("{word}: {said:?}\n{}", node.agent.log()))?;
        }
    }
    Ok(())
}

/// All pairs reach each other. The last ones to join are in all kernels a moment later.
pub(crate) fn all_reach(nodes: &[&Node], own: &[Vec<IpAddr>]) -> Result {
    for (from, node) in nodes.iter().enumerate() {
        for (to, addresses) in own.iter().enumerate().filter(|(to, _)| *to != from) {
            for address in addresses {
                let reaches =
                    || check(node.host.pings(*address), || format!("{from} does not reach {to} at {address}"));
                eventually(START, reaches)?;
            }
        }
    }
    Ok(())
}

/// One network over three hosts, and nothing of it afterwards.
pub(crate) fn over_three_hosts(
    lab: &Lab,
    (config, flags): (&str, &str),
    families: &[Family],
    datapaths: [Datapath; 3],
) -> Result {
    let (etcd, nodes) = cluster_of(lab, config, datapaths, &[])?;
    let all = nodes.each_ref();
    let before = all.iter().map(|node| picture(node)).collect::<Result<Vec<_>>>()?;
    network(all[0], &format!("create app{flags}"))?;
    let own = all.iter().map(|node| expose(node)).collect::<Result<Vec<_>>>()?;
    check(own.iter().all(|own| own.len() == families.len()), || format!("{own:?}"))?;
    all_reach(&all, &own)?;
    silent(&all)?;

    let used = all[1].agent.run_with_its_flags("network rm app")?;
    check(used.status.code() == Some(1), || format!("it is in use: {used:?}"))?;
    let inspected = asked(all[2], "inspect app")?;
    check(inspected["members"].as_array().is_some_and(|members| members.len() == 3), || inspected.to_string())?;
    check(inspected["here"]["others"] == 2, || inspected.to_string())?;
    let status = all[0].agent.ctl(&["status"])?;
    check(status.lines().any(|line| line.starts_with("networks") && line.ends_with("1 joined")), || status.clone())?;

    for node in all {
        let left = asked(node, "hide app")?;
        check(left["state"] == "hidden", || left.to_string())?;
    }
    network(all[2], "rm app")?;
    for (node, before) in all.iter().zip(&before) {
        let after = picture(node)?;
        check(after == *before, || format!("before:\n{before}\nafter:\n{after}"))?;
    }
    let left = keys(&etcd)?;
    check(left.is_empty(), || format!("{left:?}"))?;
    silent(&all)
}

#[test]
fn a_network_over_three_hosts_in_ipv4_leaves_nothing_behind() -> Result {
    over_three_hosts(&lab!(), (V4, ""), &[Family::V4], [Datapath::KernelVxlan; 3])
}

#[test]
fn a_network_over_three_hosts_in_ipv6_leaves_nothing_behind() -> Result {
    over_three_hosts(&lab!(), (V6, " --no-ipv4 --ipv6"), &[Family::V6], [Datapath::KernelVxlan; 3])
}

#[test]
fn a_network_over_three_hosts_in_both_families_leaves_nothing_behind() -> Result {
    over_three_hosts(&lab!(), (DUAL, " --ipv6"), &Family::ALL, [Datapath::KernelVxlan; 3])
}

/// Two hosts with a network of both families, and their addresses on it.
fn joined<const N: usize>(nodes: &[Node; N]) -> Result<Vec<Vec<IpAddr>>> {
    network(&nodes[0], "create app --ipv6")?;
    let own = nodes.iter().map(expose).collect::<Result<Vec<_>>>()?;
    all_reach(&nodes.each_ref(), &own)?;
    silent(&nodes.each_ref())?;
    Ok(own)
}

/// The devices of the network.
fn devices(node: &Node) -> Result<[String; 2]> {
    let vni = asked(node, "inspect app")?["vni"].to_string();
    Ok([format!("wb.{vni}"), format!("wv.{vni}")])
}

#[test]
fn bridge_device_and_entries_that_are_deleted_are_back_within_a_second() -> Result {
    let lab = lab!();
    let (_etcd, nodes) = cluster::<2>(&lab, DUAL)?;
    let own = joined(&nodes)?;
    let [one, _] = &nodes;
    let [bridge, device] = devices(one)?;
    let whole = picture(one)?;
    let address = &own[1][0];
    let mac = one.host.namespace().sh(&format!("ip -o neigh show {address} dev {bridge} | cut -d' ' -f3"))?;
    let mac = mac.trim();
    for damage in [
        format!("ip link delete {bridge}"),
        format!("ip link delete {device}"),
        format!("ip link set {device} nomaster"),
        format!("ip neigh delete {address} dev {bridge}"),
        format!("bridge fdb delete {mac} dev {device} dst {}", nodes[1].host.v4()),
        format!("bridge fdb delete {mac} dev {device} master"),
        format!("bridge fdb delete 00:00:00:00:00:00 dev {device} dst {}", nodes[1].host.v4()),
        format!("ip addr flush dev {bridge} scope global"),
    ] {
        let (monitor, start) = (Monitor::listen(one.host.namespace())?, Instant::now());
        one.host.namespace().sh(&damage)?;
        let is_whole = || {
            let now = picture(one)?;
            check(now == whole, || format!("after {damage}: {now}\nand not {whole}\n{}", one.agent.log()))
        };
        eventually(START, is_whole)?;
        let last = monitor.last()?.map(|last| last - start).unwrap_or_default();
        check(!last.is_zero() && last < PROMPT, || format!("after {damage} the last write came after {last:?}"))?;
    }
    all_reach(&nodes.each_ref(), &own)?;
    silent(&nodes.each_ref())
}

#[test]
fn a_restart_of_a_member_writes_nothing_with_etcd_or_without() -> Result {
    let lab = lab!();
    let (mut etcd, mut nodes) = cluster::<2>(&lab, DUAL)?;
    let own = joined(&nodes)?;
    let before = keys(&etcd)?;
    // What is known is saved some seconds after the last change.
    let file = nodes[0].agent.state_dir().join("named/app.json");
    let both = nodes[1].agent.status()?.rest["identity"].as_str().unwrap_or_default().to_owned();
    let is_saved =
        || check(std::fs::read_to_string(&file).is_ok_and(|text| text.contains(&both)), || "not yet".to_owned());
    eventually(START, is_saved)?;
    nodes[0].agent.spec_mut().traced = true;
    for is_away in [false, true] {
        nodes[0].agent.kill();
        if is_away {
            etcd.kill(0);
        }
        let whole = picture(&nodes[0])?;
        nodes[0].agent.restart()?;
        nodes[0].agent.wait_ready(START)?;
        let is_joined = || {
            let status = nodes[0].agent.status()?;
            check(status.rest["networks"][0]["state"] == "joined", || format!("{:?}", status.rest["networks"]))
        };
        eventually(START, is_joined)?;
        thread::sleep(Duration::from_secs(2));
        let writes = nodes[0].agent.kernel_writes()?;
        check(writes.is_empty(), || format!("away: {is_away}: {writes:?}\n{}", nodes[0].agent.log()))?;
        let now = picture(&nodes[0])?;
        check(now == whole, || format!("{now}\nand not {whole}"))?;
        all_reach(&nodes.each_ref(), &own)?;
        if !is_away {
            let after = keys(&etcd)?;
            check(after == before, || format!("{before:?}\nbefore the restart, after it\n{after:?}"))?;
        }
    }
    // Without etcd, what is wished is noted, and done later.
    let part = asked(&nodes[0], "expose later")?;
    check(part["state"] == "waiting" && part["reason"] != "", || part.to_string())?;
    etcd.restart(0)?;
    let after = || {
        let now = keys(&etcd)?;
        check(now == before, || format!("{before:?}\nbefore, after it\n{now:?}"))
    };
    eventually(START, after)?;
    check(asked(&nodes[0], "hide later")?["state"] == "hidden", || "later is there".to_owned())?;
    all_reach(&nodes.each_ref(), &own)?;
    silent(&nodes.each_ref())
}

#[test]
fn what_etcd_loses_is_put_back_and_nothing_is_lost_meanwhile() -> Result {
    let lab = lab!();
    let (mut etcd, nodes) = cluster::<2>(&lab, V4)?;
    let own = joined(&nodes)?;
    let names = |stored: Vec<Stored>| stored.iter().map(|stored| (stored.key(), stored.value())).collect::<Vec<_>>();
    let before = names(keys(&etcd)?);
    let [bridge, _] = devices(&nodes[0])?;
    let index = nodes[0].host.kernel().link(&bridge)?.map(|link| link.index);
    let is_back = |etcd: &Etcd| {
        let now = names(keys(etcd)?);
        check(now == before, || format!("{before:?}\nbefore, now\n{now:?}\n{}", nodes[0].agent.log()))
    };
    // By hand, then all of it.
    etcd.delete_all(&format!("{}/wire/", Etcd::PREFIX))?;
    eventually(START, || is_back(&etcd))?;
    etcd.wipe(0)?;
    etcd.restart(0)?;
    etcd.put_config(V4)?;
    eventually(START * 3, || is_back(&etcd))?;
    check(nodes[0].host.kernel().link(&bridge)?.map(|link| link.index) == index, || "made anew".to_owned())?;
    all_reach(&nodes.each_ref(), &own)?;
    let is_ready = || nodes.iter().try_for_each(|node| node.agent.ctl(&["status"]).map(drop));
    eventually(START, is_ready)?;
    silent(&nodes.each_ref())
}

#[test]
fn a_host_that_is_gone_for_good_leaves_no_entry_and_one_that_drains_leaves_nothing() -> Result {
    let lab = lab!();
    let (etcd, [one, mut two, mut three]) = cluster::<3>(&lab, V4)?;
    let before = picture(&three)?;
    network(&one, "create app")?;
    let own = [&one, &two, &three].map(expose).into_iter().collect::<Result<Vec<_>>>()?;
    all_reach(&[&one, &two, &three], &own)?;
    let [_, device] = devices(&one)?;
    let leads_to = |node: &Node| -> Result<usize> {
        let fdb = one
            .host
            .namespace()
            .sh(&format!("bridge fdb show dev {device} | grep -c 'dst {}' || true", node.host.v4()))?;
        Ok(fdb.trim().parse().unwrap_or_default())
    };
    // A guest answers as soon as its own entry is there: the rest of its block may still be on the way.
    eventually(START, || {
        let entries = (leads_to(&two)?, leads_to(&three)?);
        check(entries == (33, 33), || format!("a block and a flood entry each: {entries:?}"))
    })?;
    two.agent.kill();
    let leases = etcd.leases()?;
    let address = format!("\"{}\"", two.host.v4());
    let lease = leases.iter().find(|lease| lease.value().contains(&address)).map(|lease| lease.lease);
    etcd.revoke(lease.unwrap_or_default())?;
    eventually(START, || check(leads_to(&two)? == 0, || "entries of the host that is gone".to_owned()))?;
    check(leads_to(&three)? == 33, || "another host".to_owned())?;

    three.agent.terminate()?;
    let planned = three.agent.run_with_its_flags("drain --dry-run")?;
    let planned = String::from_utf8_lossy(&planned.stdout).into_owned();
    check(planned.contains("networks: leave app"), || planned.clone())?;
    let drained = three.agent.run_with_its_flags("drain")?;
    check(drained.status.success(), || format!("{drained:?}"))?;
    let left = three.host.namespace().sh("ip -o link | grep -E 'w[bv][.]' || true")?;
    check(left.is_empty() && !picture(&three)?.contains("named"), || format!("{left}\n{before}"))?;
    eventually(START, || check(leads_to(&three)? == 0, || "entries of the host that has left".to_owned()))?;
    let members = keys(&etcd)?.iter().filter(|stored| !stored.key().contains("/networks/")).count();
    check(members == 2, || format!("one member and its block: {:?}", keys(&etcd)))?;
    silent(&[&one])
}

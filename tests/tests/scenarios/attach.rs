//! Containers and namespaces on networks by name: `wire-agent attach`, `detach` and `attachments`, with a real dockerd and the helper of root.

use std::{collections::BTreeSet, net::IpAddr, thread};

use nix::sys::signal::Signal;
use wire_tests::{Family, Lab, LabError, Result, check, eventually, lab};

use crate::{
    attach_site::{Made, Site, addresses, attach, ctl, json, keys, refused, silent, sites, states},
    cluster::{DUAL, Node, PROMPT, START, V4, V6},
};

/// The parts of a host that attachments may change.
fn picture(node: &Node) -> Result<String> {
    let state = node.agent.state_dir();
    node.host.namespace().sh(&format!(
        "ip -o link | grep -v docker | cut -d: -f2 | sort; ip -o addr | tr -s ' ' | cut -d' ' -f2-4 | sort
         ip route show table all | grep -v 'table local' | sort; ip -6 route show table all | grep -v 'table local' | sort
         ip neigh show nud permanent | sort; bridge fdb show | grep -v 'dev eth0' | grep -v 'master .* permanent' | sort
         find {0} -name 'named*' -type f; find {0}/attachments -type f 2>/dev/null || true",
        state.display()
    ))
}

/// A container on each of two hosts, from the first packet on.
fn two_containers(lab: &Lab, config: &str, flags: &str, families: &[Family]) -> Result {
    let (etcd, mut sites) = sites::<2>(lab, config, true)?;
    let before = sites.iter().map(|site| picture(&site.node)).collect::<Result<Vec<_>>>()?;
    let containers = sites.iter_mut().map(Site::run).collect::<Result<Vec<_>>>()?;
    ctl(&sites[0].node, &format!("network create app{flags}"))?;
    let mut all = Vec::new();
    for (site, container) in sites.iter().zip(&containers) {
        all.push(attach(&site.node, &format!("{} app", container.name()))?);
    }
    check(all.iter().all(|addresses| addresses.len() == families.len()), || format!("{all:?}"))?;
    for (container, others) in containers.iter().zip(all.iter().rev()) {
        for address in others {
            let log = || sites.iter().map(|site| site.node.agent.log()).collect::<String>();
            check(container.pings(*address, 3), || format!("no packet to {address} is lost\n{}", log()))?;
        }
    }
    // A later endpoint needs nothing of etcd.
    let written = keys(&etcd)?;
    let later = sites[0].run()?;
    let addresses = attach(&sites[0].node, &format!("{} app", later.name()))?;
    for address in &addresses {
        check(containers[1].pings(*address, 3), || format!("the first packet to {address}"))?;
        check(containers[0].pings(*address, 3), || format!("{address} on the same host"))?;
    }
    check(keys(&etcd)? == written, || "a later endpoint has written to etcd".to_owned())?;
    silent(&sites)?;
    let again = json(&sites[0].node, &format!("attach {} app", later.name()))?;
    check(again["already"] == true, || again.to_string())?;
    let inspected = json(&sites[0].node, "network inspect app")?;
    let endpoints = inspected["here"]["endpoints"].as_array().map_or(0, Vec::len);
    check(endpoints == 2, || inspected.to_string())?;
    let used = refused(&sites[1].node, "network rm app")?;
    check(used.0 == Some(1), || format!("it is in use: {used:?}"))?;
    let status = sites[0].node.agent.ctl(&["status"])?;
    check(status.lines().any(|line| line.starts_with("attached") && line.ends_with("2 attached")), || status.clone())?;

    for (site, name) in [(0, containers[0].name()), (0, later.name()), (1, containers[1].name())] {
        ctl(&sites[site].node, &format!("detach {name}"))?;
    }
    let is_left = || {
        check(keys(&etcd)?.iter().all(|stored| stored.key().contains("/networks/")), || format!("{:?}", keys(&etcd)))
    };
    eventually(START, is_left)?;
    ctl(&sites[1].node, "network rm app")?;
    for (site, before) in sites.iter().zip(&before) {
        let is_clean = || {
            let after = picture(&site.node)?;
            check(after == *before, || format!("before:\n{before}\nafter:\n{after}\n{}", site.node.agent.log()))
        };
        eventually(START, is_clean)?;
    }
    let links = containers[0].exec("ip -o link")?;
    check(!links.contains("eth1"), || links.clone())?;
    silent(&sites)
}

#[test]
fn containers_on_two_hosts_reach_each_other_in_ipv4_from_the_first_packet_on() -> Result {
    two_containers(&lab!(), V4, "", &[Family::V4])
}

#[test]
fn containers_on_two_hosts_reach_each_other_in_ipv6_from_the_first_packet_on() -> Result {
    two_containers(&lab!(), V6, " --no-ipv4 --ipv6", &[Family::V6])
}

#[test]
fn containers_on_two_hosts_reach_each_other_in_both_families_from_the_first_packet_on() -> Result {
    two_containers(&lab!(), DUAL, " --ipv6", &Family::ALL)
}

#[test]
fn a_container_that_is_started_again_has_its_address_again_with_etcd_or_without() -> Result {
    let lab = lab!();
    let (mut etcd, mut sites) = sites::<2>(&lab, DUAL, true)?;
    ctl(&sites[0].node, "network create app --ipv6")?;
    let (one, other) = (sites[0].run()?, sites[1].run()?);
    let own = attach(&sites[0].node, &format!("{} app", one.name()))?;
    let far = attach(&sites[1].node, &format!("{} app", other.name()))?;
    let reach = |sites: &[Site], what: &str| {
        let is_attached = || {
            check(states(&sites[0].node)?.iter().all(|(_, state)| state == "attached"), || {
                format!("{what}: {:?}\n{}", states(&sites[0].node), sites[0].node.agent.log())
            })
        };
        eventually(START, is_attached)?;
        for (container, addresses) in [(&one, &far), (&other, &own)] {
            for address in addresses {
                let pings = || check(container.pings(*address, 1), || format!("{what}: {address}"));
                eventually(START, pings)?;
            }
        }
        Ok::<(), LabError>(())
    };
    reach(&sites, "at first")?;
    sites[0].docker(&["restart", "--time", "0", one.name()])?;
    reach(&sites, "started again")?;
    // The agent starts again and finds all as it should be.
    sites[0].node.agent.spec_mut().traced = true;
    sites[0].node.agent.kill();
    sites[0].node.agent.restart()?;
    sites[0].node.agent.wait_ready(START)?;
    reach(&sites, "with another agent")?;
    // An id for a namespace is nothing of ours in it (RTM_NEWNSID).
    let mut writes = sites[0].node.agent.kernel_writes()?;
    writes.retain(|write| !write.contains("NSID") && write != "0x58");
    check(writes.is_empty(), || format!("{writes:?}\n{}", sites[0].node.agent.log()))?;
    // Without etcd: a restart, a later attachment, and its end.
    etcd.kill(0);
    sites[0].docker(&["restart", "--time", "0", one.name()])?;
    reach(&sites, "without etcd")?;
    let later = sites[0].run()?;
    let addresses = attach(&sites[0].node, &format!("{} app", later.name()))?;
    for address in &addresses {
        check(other.pings(*address, 3), || format!("{address} was given without etcd"))?;
    }
    ctl(&sites[0].node, &format!("detach {} app", later.name()))?;
    let gone = later.exec("ip -o link")?;
    check(!gone.contains("eth1"), || gone.clone())?;
    etcd.restart(0)?;
    reach(&sites, "with etcd again")?;
    silent(&sites)
}

#[test]
fn an_agent_killed_while_it_attaches_gives_no_address_twice() -> Result {
    const COUNT: usize = 20;
    let lab = lab!();
    let (_etcd, mut sites) = sites::<2>(&lab, V4, false)?;
    ctl(&sites[0].node, "network create app")?;
    let site = &mut sites[0];
    let name = |number: usize| format!("{}-g{number}", site.node.host.namespace().name());
    let names: Vec<String> = (0..COUNT).map(name).collect();
    let made: Vec<Made> = names.iter().map(|name| Made::new(name)).collect::<Result<_>>()?;
    let commands: Vec<String> = names.iter().map(|name| format!("attach /run/netns/{name} app")).collect();
    let node = &site.node;
    thread::scope(|scope| {
        for command in &commands {
            // Many are cut off.
            scope.spawn(move || node.agent.run_with_its_flags(command).map(drop));
        }
        let some = || check(!states(node).unwrap_or_default().is_empty(), || "none yet".to_owned());
        let begun = eventually(START, some);
        node.agent.signal(Signal::SIGKILL)?;
        begun.map(drop)
    })?;
    site.node.agent.kill();
    site.node.agent.restart()?;
    site.node.agent.wait_ready(START)?;
    for command in &commands {
        attach(&site.node, command.trim_start_matches("attach "))?;
    }
    let all = json(&site.node, "attachments")?;
    let given: Vec<IpAddr> = all.as_array().into_iter().flatten().flat_map(addresses).collect();
    let apart: BTreeSet<IpAddr> = given.iter().copied().collect();
    check(given.len() == COUNT && apart.len() == COUNT, || all.to_string())?;
    silent(&sites)?;
    drop(made);
    Ok(())
}

#[test]
fn a_port_that_is_deleted_is_back_within_a_second_and_of_a_guest_that_ends_nothing_stays() -> Result {
    let lab = lab!();
    let (_etcd, mut sites) = sites::<2>(&lab, DUAL, false)?;
    ctl(&sites[0].node, "network create app --ipv6")?;
    let node = &sites[0].node;
    let name = format!("{}-x", node.host.namespace().name());
    let made = Made::new(&name)?;
    let own = attach(node, &format!("/run/netns/{name} app --name lan0"))?;
    let far = format!("{}-y", sites[1].node.host.namespace().name());
    let _other = Made::new(&far)?;
    let others = attach(&sites[1].node, &format!("/run/netns/{far} app"))?;
    let inside = |line: &str| {
        let words = ["netns", "exec", &name].into_iter().chain(line.split_whitespace());
        wire_tests::output(std::process::Command::new("ip").args(words.collect::<Vec<_>>()))
    };
    let all = json(node, "attachments")?;
    let port = all[0]["endpoints"][0]["port"].as_str().unwrap_or_default().to_owned();
    for address in &others {
        inside(&format!("ping -c 1 -W 5 {address}"))?;
    }
    node.host.namespace().ip(&format!("link delete {port}"))?;
    let is_back = || {
        let found = inside("ip -o addr show dev lan0")?;
        check(own.iter().all(|address| found.contains(&address.to_string())), || found.clone())
    };
    let took = eventually(START, is_back)?;
    check(took < PROMPT, || format!("it took {took:?}\n{}", node.agent.log()))?;
    for address in &others {
        eventually(START, || inside(&format!("ping -c 1 -W 5 {address}")).map(drop))?;
    }
    silent(&sites)?;
    let second = node.agent.run_with_its_flags(&format!("attach /run/netns/{name} app --name eth5"))?;
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    check(second.status.code() == Some(1) && said.contains("is on app already"), || format!("{second:?}"))?;
    // The name of an interface that is there already.
    ctl(node, "network create more")?;
    inside("ip link add eth5 type veth peer name eth6")?;
    let taken = node.agent.run_with_its_flags(&format!("attach /run/netns/{name} more --name eth5"))?;
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    check(taken.status.code() == Some(1) && said.contains("eth5 is there already"), || format!("{taken:?}"))?;
    ctl(node, &format!("detach /run/netns/{name} --name eth5"))?;
    let links = inside("ip -o link")?;
    check(links.contains("eth5") && links.contains("lan0"), || links.clone())?;
    drop(made);
    let is_gone = || {
        let links = node.host.namespace().sh("ip -o link")?;
        check(!links.contains(&port), || format!("{links}\n{}", node.agent.log()))
    };
    eventually(START, is_gone)?;
    check(states(node)? == [(format!("netns:/run/netns/{name}"), "waiting".to_owned())], || {
        format!("{:?}", states(node))
    })?;
    let _again = Made::new(&name)?;
    eventually(START, is_back)?;
    silent(&sites)?;
    // A network with a container on it is not left by `hide`, and by `drain` with all that is attached.
    json(node, "network expose app")?;
    let kept = json(node, "network hide app")?;
    check(kept["state"] == "joined", || kept.to_string())?;
    is_back()?;
    let node = &mut sites[0].node;
    node.agent.terminate()?;
    let drained = node.agent.run_with_its_flags("drain")?;
    check(drained.status.success(), || format!("{drained:?}"))?;
    let left = picture(node)?;
    check(!left.contains("wp") && !left.contains("named") && !left.contains("attachments/"), || left.clone())?;
    let links = inside("ip -o link")?;
    check(!links.contains("lan0"), || links.clone())
}

#[test]
fn what_cannot_be_attached_is_refused_with_the_reason() -> Result {
    let lab = lab!();
    let (_etcd, mut sites) = sites::<1>(&lab, V4, true)?;
    ctl(&sites[0].node, "network create app --subnet 10.77.0.0/24")?;
    let container = sites[0].run()?;
    let (node, web) = (&sites[0].node, container.name());
    for (words, status, said) in [
        ("attach nobody app", 3, "nobody is not running: start it, or give --when-started"),
        ("attach /run/netns/nobody app", 3, "is not running"),
        (&format!("attach {web} none"), 1, "there is no network none"),
        (&format!("attach {web} default"), 1, "Docker itself puts containers on it"),
        (&format!("attach {web} app --ip 10.9.9.9"), 1, "10.9.9.9 is none of the addresses"),
        (&format!("attach {web} app --ip6 fd00::5"), 1, "the network has no IPv6 addresses"),
        (&format!("attach pid:{} app", node.agent.pid()?), 1, "has the network of this host itself"),
        (&format!("attach {web} app --mac 01:00:5e:00:00:01"), 64, "for groups"),
        (&format!("attach {web} app --name lo"), 64, "lo is the container's own"),
        ("attach a:b app", 64, "is not supported"),
        (&format!("detach {web}"), 1, "there is no such attachment"),
    ] {
        let (found, text) = refused(node, words)?;
        check(found == Some(status) && text.contains(said), || {
            format!("{words}: {found:?} {text}\n{}", node.agent.log())
        })?;
    }
    check(states(node)?.is_empty(), || format!("{:?}", states(node)))?;
    let fixed = attach(node, &format!("{web} app --ip 10.77.0.200 --mac 02:00:00:00:00:77"))?;
    check(fixed == [IpAddr::from([10, 77, 0, 200])], || format!("{fixed:?}"))?;
    let link = container.exec("ip -o link show dev eth1")?;
    check(link.contains("02:00:00:00:00:77"), || link.clone())?;
    let kept = json(node, "attach later app --when-started")?;
    check(kept["attachment"]["state"] == "waiting", || kept.to_string())?;
    silent(&sites)
}

//! A container, a network or an address that is bad concerns nobody else.

use std::{net::IpAddr, thread, time::Duration};

use wire_tests::{Etcd, Family, LabError, Result, check, eventually, lab, steadily};

use crate::{
    attach_site::{Made, addresses, attach, ctl, has_link, json, of_guest, port, refused, silent, sites, states},
    cluster::{START, V4},
};

/// The longest pause between two tries at what cannot be made.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

#[test]
fn a_container_in_which_no_link_can_be_made_says_so_and_stops_no_other() -> Result {
    let lab = lab!();
    let (_etcd, sites) = sites::<1>(&lab, V4, false)?;
    let node = &sites[0].node;
    ctl(node, "network create app")?;
    let (bad, good, later) = (Made::of(node, "bad")?, Made::of(node, "good")?, Made::of(node, "later")?);
    bad.run("ip link add left type veth peer name right")?;
    bad.run("ip link property add dev left altname eth1")?;
    let (status, said) = refused(node, &format!("attach {} app", bad.path()))?;
    check(status == Some(1) && said.contains("eth1 is there already, perhaps as another name of a link"), || {
        format!("{status:?} {said}\n{}", node.agent.log())
    })?;
    // Others come, are repaired and go; so do those of the host.
    let own = attach(node, &format!("{} app", good.path()))?;
    attach(node, &format!("{} app", later.path()))?;
    let kept = format!("netns:{}", good.path());
    let of_good = port(node, &kept)?;
    node.host.namespace().ip(&format!("link delete {of_good}"))?;
    eventually(START, || later.pings(own[0]))?;
    let of_later = port(node, &format!("netns:{}", later.path()))?;
    ctl(node, &format!("detach {}", later.path()))?;
    check(!has_link(node, &of_later)?, || "the port of who is detached is there".to_owned())?;
    node.host.namespace().ip("link delete flannel.1")?;
    eventually(START, || check(has_link(node, "flannel.1")?, || node.agent.log()))?;
    check(of_guest(node, &kept)?[0]["state"] == "attached", || format!("{:?}", states(node)))?;
    bad.run("ip link property del dev left altname eth1")?;
    let is_made = || {
        let all = states(node)?;
        check(all.iter().all(|(_, state)| state == "attached"), || format!("{all:?}\n{}", node.agent.log()))
    };
    eventually(LONGEST_PAUSE + START, is_made)?;
    eventually(START, || bad.pings(own[0]))?;
    silent(&sites)
}

#[test]
fn a_network_that_is_refused_after_it_was_joined_lets_its_containers_go_and_takes_no_new_ones() -> Result {
    let lab = lab!();
    let (etcd, sites) = sites::<1>(&lab, V4, false)?;
    let node = &sites[0].node;
    // The older one.
    ctl(node, "network create old --subnet 10.78.0.0/24")?;
    ctl(node, "network create app --subnet 10.77.0.0/24")?;
    let (one, dead, new) = (Made::of(node, "one")?, Made::of(node, "dead")?, Made::of(node, "new")?);
    for guest in [&one, &dead] {
        attach(node, &format!("{} app", guest.path()))?;
    }
    let ports = [&one, &dead].map(|guest| port(node, &format!("netns:{}", guest.path())));
    let [of_one, of_dead] = ports;
    let (of_one, of_dead) = (of_one?, of_dead?);
    let key = format!("{}/wire/networks/old", Etcd::PREFIX);
    let record = etcd.get(&key)?.ok_or_else(|| LabError::Wrong("no record".to_owned()))?.value();
    etcd.put(&key, &record.replace("10.78.0.0/24", "10.77.0.0/24"))?;
    let is_refused = || {
        let inspected = json(node, "network inspect app")?;
        let reason = inspected["here"]["reason"].as_str().unwrap_or_default();
        check(reason.contains("is refused"), || inspected.to_string())
    };
    eventually(START, is_refused)?;
    let (status, said) = refused(node, &format!("attach {} app", new.path()))?;
    check(status == Some(4) && said.contains("is refused"), || format!("{status:?} {said}"))?;
    ctl(node, &format!("detach {}", one.path()))?;
    let links = one.run("ip -o link")?;
    check(!has_link(node, &of_one)? && !links.contains("eth1"), || format!("{links}\n{}", node.agent.log()))?;
    check(has_link(node, &of_dead)?, || "the other one goes on".to_owned())?;
    let kept = format!("netns:{}", dead.path());
    drop(dead);
    eventually(START, || check(!has_link(node, &of_dead)?, || format!("it is kept alive\n{}", node.agent.log())))?;
    ctl(node, &format!("detach {kept}"))?;
    etcd.put(&key, &record)?;
    let is_made = || {
        let all = states(node)?;
        check(all.len() == 1 && all[0].1 == "attached", || format!("{all:?}\n{}", node.agent.log()))
    };
    eventually(START, is_made)?;
    silent(&sites)
}

#[test]
fn an_address_that_another_host_has_is_refused_with_its_name() -> Result {
    let lab = lab!();
    let (_etcd, sites) = sites::<2>(&lab, V4, false)?;
    ctl(&sites[0].node, "network create app")?;
    let (near, far) = (Made::of(&sites[0].node, "near")?, Made::of(&sites[1].node, "far")?);
    let beside = Made::of(&sites[0].node, "beside")?;
    let other = attach(&sites[1].node, &format!("{} app", far.path()))?;
    let public = sites[1].node.host.on_underlay(Family::V4);
    let asked = format!("attach {} app --ip {}", near.path(), other[0]);
    // The first of a host joins the network before, and the second one does not.
    for _ in 0..2 {
        let (status, said) = refused(&sites[0].node, &asked)?;
        check(status == Some(1) && said.contains("the host "), || format!("{status:?} {said}"))?;
        attach(&sites[0].node, &format!("{} app", near.path()))?;
        let named = format!("({public}) has {}", other[0]);
        let second = format!("attach {} app --ip {}", beside.path(), other[0]);
        let is_named = || {
            let (status, said) = refused(&sites[0].node, &second)?;
            check(status == Some(1) && said.contains(&named), || format!("{status:?} {said}"))
        };
        eventually(START, is_named)?;
        ctl(&sites[0].node, &format!("detach {}", near.path()))?;
    }
    eventually(START, || far.run(&format!("ip -o addr show to {}", other[0])).map(drop))?;
    silent(&sites)
}

#[test]
fn an_address_that_was_told_while_its_network_was_being_left_is_kept() -> Result {
    const ROUNDS: usize = 8;
    let lab = lab!();
    let (_etcd, sites) = sites::<1>(&lab, V4, false)?;
    let node = &sites[0].node;
    ctl(node, "network create app")?;
    let (old, new) = (Made::of(node, "old")?, Made::of(node, "new")?);
    let kept = format!("netns:{}", new.path());
    for _ in 0..ROUNDS {
        attach(node, &format!("{} app", old.path()))?;
        let told = thread::scope(|scope| {
            let detached = scope.spawn(|| ctl(node, &format!("detach {}", old.path())));
            let told = json(node, &format!("attach {} app --when-started", new.path()));
            detached.join().expect("it does not panic").and(told)
        })?;
        let told: Vec<IpAddr> = addresses(&told["attachment"]);
        let is_kept = || {
            let has: Vec<IpAddr> = of_guest(node, &kept)?.iter().flat_map(addresses).collect();
            check(told.is_empty() || has == told, || format!("told {told:?}, has {has:?}\n{}", node.agent.log()))
        };
        steadily(Duration::from_secs(1), is_kept)?;
        let is_attached = || {
            let state = &of_guest(node, &kept)?[0]["state"];
            check(state == "attached", || format!("{state}\n{}", node.agent.log()))
        };
        eventually(START, is_attached)?;
        is_kept()?;
        ctl(node, &format!("detach {}", new.path()))?;
    }
    silent(&sites)
}

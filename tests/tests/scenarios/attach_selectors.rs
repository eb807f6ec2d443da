//! Guests by label, by service of Compose, by id, and processes: who is meant, and when an attachment ends by itself.

use std::{collections::BTreeSet, net::IpAddr};

use serde_json::Value;
use wire_tests::{Container, LabError, Result, check, eventually, lab};

use crate::{
    attach_site::{Made, Site, attach, ctl, has_link, of_guest, port, refused, silent, sites, states},
    cluster::{Node, START, V4},
};

/// The labels that Compose gives the containers of a service.
fn of_compose(number: u32, is_oneoff: bool) -> [String; 5] {
    let oneoff = if is_oneoff { "True" } else { "False" };
    [
        "--label=tier=web".to_owned(),
        "--label=com.docker.compose.project=shop".to_owned(),
        "--label=com.docker.compose.service=web".to_owned(),
        format!("--label=com.docker.compose.container-number={number}"),
        format!("--label=com.docker.compose.oneoff={oneoff}"),
    ]
}

fn run(site: &mut Site, labels: &[String]) -> Result<Container> {
    let docker = site.docker.as_mut().ok_or_else(|| LabError::Wrong("no dockerd".to_owned()))?;
    let options: Vec<&str> = labels.iter().map(String::as_str).chain(["--cap-add=NET_ADMIN"]).collect();
    docker.run_with(&options)
}

/// The addresses that containers have by an attachment now, once so many have one.
fn addresses_of(node: &Node, guest: &str, count: usize) -> Result<BTreeSet<IpAddr>> {
    let mut given = BTreeSet::new();
    let has_all = || {
        let all = of_guest(node, guest)?;
        let endpoints = all.first().and_then(|one| one["endpoints"].as_array()).cloned().unwrap_or_default();
        let is_there = |endpoint: &&Value| endpoint["since"].as_str().is_some_and(|since| !since.is_empty());
        let address = |endpoint: &Value| endpoint["address"].as_str()?.parse().ok();
        given = endpoints.iter().filter(is_there).filter_map(address).collect();
        let is_all = given.len() == count && endpoints.len() == count && all[0]["state"] == "attached";
        check(is_all, || format!("{all:?}\n{}", node.agent.log()))
    };
    eventually(START, has_all)?;
    Ok(given)
}

#[test]
fn containers_with_a_label_and_of_a_service_of_compose_are_attached_as_they_come_and_go() -> Result {
    let lab = lab!();
    let (_etcd, mut sites) = sites::<2>(&lab, V4, true)?;
    // A network for each, since a container answers by the first of two interfaces in one network.
    let far = sites[1].run()?;
    let mut own = Vec::new();
    for network in ["app", "shop", "second"] {
        ctl(&sites[0].node, &format!("network create {network}"))?;
        own.extend(attach(&sites[1].node, &format!("{} {network}", far.name()))?);
    }
    let [one, two] = [1, 2].map(|number| run(&mut sites[0], &of_compose(number, false)));
    let (one, two) = (one?, two?);
    let node = &sites[0].node;
    for (guest, network, name) in [
        ("label:tier=web", "app", "eth1"),
        ("compose:shop/web", "shop", "eth2"),
        ("compose:shop/web/2", "second", "eth3"),
    ] {
        ctl(node, &format!("attach {guest} {network} --name {name}"))?;
    }
    let by_label = addresses_of(node, "label:tier=web", 2)?;
    let by_service = addresses_of(node, "compose:shop/web", 2)?;
    let by_number = addresses_of(node, "compose:shop/web/2", 1)?;
    let all: BTreeSet<IpAddr> = by_label.iter().chain(&by_service).chain(&by_number).copied().collect();
    check(all.len() == 5, || format!("{all:?}"))?;
    for address in &all {
        check(far.pings(*address, 2), || format!("{address}"))?;
    }
    check(!one.exec("ip -o link")?.contains("eth3") && two.exec("ip -o link")?.contains("eth3"), || {
        "the second one alone is meant by its number".to_owned()
    })?;
    let (status, said) = refused(node, "attach label:tier=web app --name eth9 --ip 10.128.0.77")?;
    check(status == Some(1) && said.contains("can be several containers"), || format!("{status:?} {said}"))?;
    // Another replica, and one that was run by hand, which has the label alone in common with them.
    let three = run(&mut sites[0], &of_compose(3, false))?;
    let by_hand = run(&mut sites[0], &of_compose(1, true))?;
    let node = &sites[0].node;
    let more = addresses_of(node, "label:tier=web", 4)?;
    check(more.is_superset(&by_label), || format!("{by_label:?} {more:?}"))?;
    check(addresses_of(node, "compose:shop/web", 3)?.is_superset(&by_service), || {
        "a replica keeps its address".to_owned()
    })?;
    check(!by_hand.exec("ip -o link")?.contains("eth2"), || "it is no replica".to_owned())?;
    check(three.pings(own[0], 2), || "the new replica reaches the other host".to_owned())?;
    // One in the place of another has its address.
    sites[0].docker(&["rm", "--force", one.name()])?;
    let next = run(&mut sites[0], &of_compose(1, false))?;
    let node = &sites[0].node;
    check(addresses_of(node, "label:tier=web", 4)? == more, || "another address".to_owned())?;
    check(next.pings(own[0], 2), || "the one in its place reaches the other host".to_owned())?;
    silent(&sites)
}

#[test]
fn of_two_selectors_of_one_container_the_later_one_is_refused_or_blocked_until_the_first_is_detached() -> Result {
    let lab = lab!();
    let (_etcd, mut sites) = sites::<1>(&lab, V4, true)?;
    ctl(&sites[0].node, "network create app")?;
    ctl(&sites[0].node, "attach label:tier=web app --when-started")?;
    ctl(&sites[0].node, "attach name:late app --name eth2 --when-started")?;
    let container = run(&mut sites[0], &["--label=tier=web".to_owned()])?;
    let node = &sites[0].node;
    let address = addresses_of(node, "label:tier=web", 1)?;
    // It is known that both mean this container.
    let (status, said) = refused(node, &format!("attach {} app", container.name()))?;
    check(status == Some(1) && said.contains("of label:tier=web (eth1)"), || format!("{status:?} {said}"))?;
    // It comes to be known.
    sites[0].docker(&["rename", container.name(), "late"])?;
    let is_blocked = || {
        let late = of_guest(node, "name:late")?;
        let is_said = late[0]["reason"].as_str().is_some_and(|why| why.contains("of label:tier=web (eth1)"));
        check(late[0]["state"] == "blocked" && is_said, || format!("{late:?}\n{}", node.agent.log()))
    };
    eventually(START, is_blocked)?;
    check(addresses_of(node, "label:tier=web", 1)? == address, || "the first one is as it was".to_owned())?;
    let links = || sites[0].docker(&["exec", "late", "ip", "-o", "link"]);
    check(!links()?.contains("eth2"), || "it has a second interface".to_owned())?;
    ctl(node, "detach label:tier=web")?;
    addresses_of(node, "name:late", 1)?;
    check(links()?.contains("eth2") && !links()?.contains("eth1"), || "not by the other one's name".to_owned())?;
    silent(&sites)
}

/// A process in a network namespace of its own.
fn process(node: &Node, name: &str) -> Result<wire_tests::Process> {
    let words = ["--net", "sleep", "86400"].map(str::to_owned);
    node.host.start("unshare", &words, name)
}

#[test]
fn an_attachment_of_a_process_or_of_a_container_by_id_ends_with_it_and_one_by_name_or_path_does_not() -> Result {
    let lab = lab!();
    let (_etcd, mut sites) = sites::<1>(&lab, V4, true)?;
    ctl(&sites[0].node, "network create app")?;
    let containers = [sites[0].run()?, sites[0].run()?, sites[0].run()?];
    let [by_id, by_name, unseen] = &containers;
    let id = |container: &Container| -> Result<String> {
        Ok(container.inspect()?["Id"].as_str().unwrap_or_default().to_owned())
    };
    let (first, last) = (id(by_id)?, id(unseen)?);
    let mut sleeper = process(&sites[0].node, "sleeper.log")?;
    let path = Made::of(&sites[0].node, "path")?;
    let node = &sites[0].node;
    attach(node, &format!("id:{} app", &first[..12]))?;
    attach(node, &format!("{} app", &last[..12]))?;
    attach(node, &format!("{} app", by_name.name()))?;
    attach(node, &format!("{} app", path.path()))?;
    // It enters its namespace a moment after its start.
    let pid = sleeper.pid().to_string();
    eventually(START, || attach(node, &format!("{pid} app")).map(drop))?;
    let kept = |begin: &str| -> Result<Vec<(String, String)>> {
        Ok(states(node)?.into_iter().filter(|(guest, _)| guest.starts_with(begin)).collect())
    };
    let is_so = |begin: &str, state: Option<&str>| {
        let has = || {
            let found = kept(begin)?;
            let is_it = found.iter().map(|(_, state)| Some(state.as_str())).next().unwrap_or_default() == state;
            check(is_it && found.len() <= 1, || format!("{begin}: {found:?}\n{}", node.agent.log()))
        };
        eventually(START, has).map(drop)
    };
    is_so(&format!("pid:{pid}@"), Some("attached"))?;
    // The name of a process, later.
    let (status, said) = refused(node, "attach pid:2147483647 app --when-started")?;
    check(status == Some(3), || format!("{status:?} {said}"))?;
    let port_of_process = port(node, &kept("pid:")?[0].0)?;
    sleeper.kill();
    is_so("pid:", None)?;
    eventually(START, || check(!has_link(node, &port_of_process)?, || "its port is there".to_owned()))?;
    // A container that is stopped is known, one that is removed is not.
    let by_first = format!("id:{first}");
    sites[0].docker(&["stop", "--time", "0", by_id.name()])?;
    is_so(&by_first, Some("waiting"))?;
    sites[0].docker(&["start", by_id.name()])?;
    is_so(&by_first, Some("attached"))?;
    let port_of_first = port(node, &by_first)?;
    sites[0].docker(&["rm", "--force", by_id.name()])?;
    is_so(&by_first, None)?;
    eventually(START, || check(!has_link(node, &port_of_first)?, || "its port is there".to_owned()))?;
    let (status, said) = refused(node, &format!("detach id:{}", &first[..12]))?;
    check(status == Some(1) && said.contains("there is no such attachment"), || format!("{status:?} {said}"))?;
    // By name it is another container's later, and by path another namespace's.
    let named = format!("name:{}", by_name.name());
    sites[0].docker(&["rm", "--force", by_name.name()])?;
    is_so(&named, Some("waiting"))?;
    sites[0].docker(&["run", "--detach", "--name", by_name.name(), "--cap-add=NET_ADMIN", "lab", "sleep", "86400"])?;
    is_so(&named, Some("attached"))?;
    let (kept_path, again) = (format!("netns:{}", path.path()), path.path());
    drop(path);
    is_so(&kept_path, Some("waiting"))?;
    let again = Made::new(again.trim_start_matches("/run/netns/"))?;
    is_so(&kept_path, Some("attached"))?;
    // Removed while the agent was not there.
    let by_last = format!("id:{last}");
    is_so(&by_last, Some("attached"))?;
    sites[0].node.agent.kill();
    sites[0].docker(&["rm", "--force", unseen.name()])?;
    sites[0].node.agent.restart()?;
    sites[0].node.agent.wait_ready(START)?;
    let has_two = || {
        let all = states(&sites[0].node)?;
        let is_so = all.len() == 2 && all.iter().all(|(guest, state)| *guest != by_last && state == "attached");
        check(is_so, || format!("{all:?}\n{}", sites[0].node.agent.log()))
    };
    eventually(START, has_two)?;
    silent(&sites)?;
    drop(again);
    Ok(())
}

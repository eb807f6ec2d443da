//! Networks by name when etcd is asked for too much at once, loses all, or comes back from an older backup.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Output,
    thread,
};

use wire_tests::{Etcd, LabError, Pings, Result, check, eventually, lab};

use crate::{
    attach_site::{Made, attach, ctl, refused, sites},
    cluster::{Node, START, V4, cluster},
    named::{all_reach, asked, expose_on, keys, network, silent},
};

/// Room for four networks.
const FOUR: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.15.0","Backend":{"Type":"vxlan"},
    "Networks":{"IPv4Pool":"10.130.0.0/22","IPv4Len":24}}"#;

/// The keys below `<prefix>/wire/`, of one folder.
fn folder(etcd: &Etcd, name: &str) -> Result<Vec<(String, String)>> {
    let all = etcd.list(&format!("{}/wire/{name}/", Etcd::PREFIX))?;
    Ok(all.into_iter().map(|stored| (stored.key(), stored.value())).collect())
}

/// The names and values of all records of networks.
fn records(etcd: &Etcd) -> Result<Vec<(String, String)>> {
    Ok(keys(etcd)?.into_iter().map(|stored| (stored.key(), stored.value())).collect())
}

/// Waits until `verify` and `plan` have nothing to say on any host.
pub(crate) fn silent_soon(nodes: &[&Node]) -> Result {
    eventually(START, || silent(nodes)).map(drop)
}

fn logs(nodes: &[&Node]) -> String {
    nodes.iter().map(|node| node.agent.log()).collect()
}

/// A backup, after which etcd goes on.
fn back_up(etcd: &Etcd) -> Result<PathBuf> {
    let backup = etcd.back_up()?;
    let mut gateway = etcd.gateway()?;
    (0..50).try_for_each(|_| gateway.put(b"/other", b""))?;
    Ok(backup)
}

/// Starts etcd with a backup, and waits until the hosts have put it right.
fn restore(etcd: &mut Etcd, backup: &Path, nodes: &[&Node], before: &[(String, String)]) -> Result {
    etcd.restore(backup)?;
    etcd.restart(0)?;
    back(etcd, nodes, before)
}

/// Waits until etcd has the records of networks as before.
fn back(etcd: &Etcd, nodes: &[&Node], before: &[(String, String)]) -> Result {
    let is_back = || {
        let now = records(etcd)?;
        check(now == before, || format!("{before:?}\nbefore, now\n{now:?}\n{}", logs(nodes)))
    };
    eventually(START * 3, is_back).map(drop)
}

#[test]
fn two_hosts_that_make_one_name_at_once_make_one_network_and_one_of_them_is_told() -> Result {
    let lab = lab!();
    let (etcd, nodes) = cluster::<2>(&lab, V4)?;
    for name in ["app", "db", "web", "log"] {
        let words = format!("network create {name}");
        let outputs: Vec<Output> = thread::scope(|scope| {
            let both = nodes.each_ref().map(|node| scope.spawn(|| node.agent.run_with_its_flags(&words)));
            let ended = |one: thread::ScopedJoinHandle<'_, Result<Output>>| {
                one.join().unwrap_or_else(|_| Err(LabError::Wrong("it panicked".to_owned())))
            };
            both.into_iter().map(ended).collect::<Result<_>>()
        })?;
        let (made, told): (Vec<_>, Vec<_>) = outputs.iter().partition(|output| output.status.success());
        check(made.len() == 1 && told.len() == 1, || format!("{outputs:?}"))?;
        let said = String::from_utf8_lossy(&told[0].stderr).into_owned();
        let is_told = told[0].status.code() == Some(1) && said.contains(&format!("there is a network {name} already"));
        check(is_told, || format!("{outputs:?}"))?;
        let vnis = folder(&etcd, "vnis")?;
        let of_name = vnis.iter().filter(|(_, value)| value.contains(&format!("\"{name}\""))).count();
        check(of_name == 1, || format!("{name}: {vnis:?}"))?;
    }
    let records = folder(&etcd, "networks")?;
    check(records.len() == 4, || format!("{records:?}"))?;
    let own = nodes.iter().map(|node| expose_on(node, "app")).collect::<Result<Vec<_>>>()?;
    all_reach(&nodes.each_ref(), &own)?;
    silent_soon(&nodes.each_ref())
}

#[test]
fn a_range_or_a_network_that_is_full_is_named_with_the_remedy_and_what_was_removed_is_used_again() -> Result {
    let lab = lab!();
    let (_etcd, nodes) = cluster::<2>(&lab, FOUR)?;
    let [one, two] = &nodes;
    for name in ["n0", "n1", "n2", "n3"] {
        network(one, &format!("create {name}"))?;
    }
    let former = asked(one, "inspect n2")?;
    let (status, said) = refused(two, "network create n4")?;
    let sentence =
        "no /24 is free in 10.130.0.0/22: remove a network, choose one with --subnet, or make the range larger";
    check(status == Some(1) && said.contains(sentence), || format!("{status:?}: {said}"))?;
    network(two, "rm n2")?;
    network(two, "create n4")?;
    let made = asked(one, "inspect n4")?;
    let is_again = made["ipv4"]["pool"] == former["ipv4"]["pool"] && made["vni"] != former["vni"];
    check(is_again, || format!("{former}\nand then\n{made}"))?;
    let own = nodes.iter().map(|node| expose_on(node, "n4")).collect::<Result<Vec<_>>>()?;
    all_reach(&[one, two], &own)?;

    // Five addresses: two are those of the hosts.
    network(one, "create tiny --subnet 10.131.0.0/29")?;
    let own = nodes.iter().map(|node| expose_on(node, "tiny")).collect::<Result<Vec<_>>>()?;
    for name in ["a", "b", "c"] {
        one.agent.ctl(&["attach", name, "tiny", "--when-started"])?;
    }
    let full = "all addresses of 10.131.0.0/29 are taken: detach containers, or make a larger network";
    let (status, said) = refused(one, "attach d tiny --when-started")?;
    check(status == Some(1) && said.contains(full), || format!("{status:?}: {said}\n{}", one.agent.log()))?;
    let (status, said) = refused(two, "attach d tiny --when-started")?;
    check(status == Some(1) && said.contains(full), || format!("{status:?}: {said}\n{}", two.agent.log()))?;
    one.agent.ctl(&["detach", "b"])?;
    one.agent.ctl(&["attach", "d", "tiny", "--when-started"])?;
    all_reach(&[one, two], &own)?;
    silent_soon(&[one, two])
}

#[test]
fn a_wiped_etcd_has_all_again_from_the_hosts_and_containers_lose_no_packet() -> Result {
    let lab = lab!();
    let (mut etcd, sites) = sites::<2>(&lab, V4, false)?;
    let nodes: Vec<&Node> = sites.iter().map(|site| &site.node).collect();
    network(nodes[0], "create app")?;
    let names: Vec<String> = nodes.iter().map(|node| format!("{}-w", node.host.namespace().name())).collect();
    let _made = names.iter().map(|name| Made::new(name)).collect::<Result<Vec<_>>>()?;
    let attach = |index: usize| attach(nodes[index], &format!("/run/netns/{} app", names[index]));
    let guests = [attach(0)?, attach(1)?];
    let (before, vnis) = (records(&etcd)?, folder(&etcd, "vnis")?);
    let pings = Pings::start(Path::new(&format!("/run/netns/{}", names[0])), None, guests[1][0])?;
    pings.wait_answered()?;
    etcd.wipe(0)?;
    etcd.restart(0)?;
    etcd.put_config(V4)?;
    back(&etcd, &nodes, &before)?;
    let of_names = || check(folder(&etcd, "vnis")? == vnis, || format!("{vnis:?} before\n{}", logs(&nodes)));
    eventually(START * 3, of_names)?;
    let seen = pings.stop()?;
    check(seen.lost().is_empty(), || format!("{:?} of {} pings were lost\n{}", seen.lost(), seen.sent, logs(&nodes)))?;
    apart(&nodes, "app")?;
    silent_soon(&nodes)
}

/// The addresses that hosts and containers have on a network, none of them twice.
pub(crate) fn apart(nodes: &[&Node], name: &str) -> Result {
    let mut all = Vec::new();
    for node in nodes {
        let here = asked(node, &format!("inspect {name}"))?["here"].clone();
        let endpoints = here["endpoints"].as_array().cloned().unwrap_or_default();
        all.extend(here["own"].as_str().map(str::to_owned));
        let of_endpoint = |endpoint: &serde_json::Value| endpoint["addresses"].as_array().cloned().unwrap_or_default();
        all.extend(endpoints.iter().flat_map(of_endpoint).filter_map(|text| text.as_str().map(str::to_owned)));
    }
    let set: BTreeSet<&String> = all.iter().collect();
    check(set.len() == all.len() && all.len() >= nodes.len(), || format!("{name}: {all:?}"))
}

/// A backup, and since then: a network was made and joined, another host has joined, and one has left.
#[test]
fn after_an_older_backup_who_joined_since_is_back_and_who_has_left_leaves_again() -> Result {
    let lab = lab!();
    let (mut etcd, nodes) = cluster::<4>(&lab, V4)?;
    let [one, two, three, four] = &nodes;
    for name in ["app", "formerly"] {
        network(one, &format!("create {name}"))?;
    }
    let mut own = vec![expose_on(one, "app")?, expose_on(two, "app")?];
    // One host has no other network, one has.
    for node in [three, four] {
        expose_on(node, "formerly")?;
    }
    let backup = back_up(&etcd)?;
    own.push(expose_on(three, "app")?);
    network(two, "create late")?;
    let late: Vec<Vec<IpAddr>> = [two, three].into_iter().map(|node| expose_on(node, "late")).collect::<Result<_>>()?;
    for node in [three, four] {
        network(node, "hide formerly")?;
    }
    all_reach(&[one, two, three], &own)?;
    let before = records(&etcd)?;
    let pings = Pings::start(&one.host.namespace().path(), Some(own[0][0]), own[1][0])?;
    pings.wait_answered()?;

    restore(&mut etcd, &backup, &nodes.each_ref(), &before)?;
    network(four, "rm formerly")?;
    all_reach(&[one, two, three], &own)?;
    all_reach(&[two, three], &late)?;
    let seen = pings.stop()?;
    check(seen.lost().is_empty(), || {
        format!("{:?} of {} pings were lost\n{}", seen.lost(), seen.sent, logs(&nodes.each_ref()))
    })?;
    for node in &nodes {
        let left =
            node.host.namespace().sh(&format!("grep -l formerly -r {} || true", node.agent.state_dir().display()))?;
        check(left.is_empty(), || left.clone())?;
    }
    apart(&[one, two, three], "app")?;
    apart(&[two, three], "late")?;
    eventually(START, || nodes.iter().try_for_each(|node| node.agent.ctl(&["status"]).map(drop)))?;
    silent_soon(&nodes.each_ref())
}

/// An address of a container is given to another host by a backup that has it: the container was elsewhere then.
#[test]
fn after_an_older_backup_a_container_keeps_its_address_which_another_host_had_then() -> Result {
    let lab = lab!();
    let (mut etcd, sites) = sites::<3>(&lab, V4, false)?;
    let nodes: Vec<&Node> = sites.iter().map(|site| &site.node).collect();
    network(nodes[0], "create app")?;
    let own = nodes.iter().map(|node| expose_on(node, "app")).collect::<Result<Vec<_>>>()?;
    let address = outside(own.iter().map(|own| own[0]))?;
    let former = Made::of(nodes[0], "f")?;
    attach(nodes[0], &format!("{} app --ip {address}", former.path()))?;
    let backup = back_up(&etcd)?;
    nodes[0].agent.ctl(&["detach", &former.path()])?;
    let guest = Made::of(nodes[1], "g")?;
    eventually(START, || ctl(nodes[1], &format!("attach {} app --ip {address}", guest.path())).map(drop))?;
    let third = Made::of(nodes[2], "t")?;
    attach(nodes[2], &format!("{} app", third.path()))?;
    let before = records(&etcd)?;
    third.pings(address)?;
    let attachments = || ctl(nodes[1], "attachments");
    let attached = attachments()?;

    restore(&mut etcd, &backup, &nodes, &before)?;
    let now = attachments()?;
    check(now == attached, || format!("{attached}\nbefore, now\n{now}\n{}", logs(&nodes)))?;
    // Others were led to the former host for as long as etcd said so.
    eventually(START, || third.pings(address))?;
    guest.pings(own[2][0])?;
    apart(&nodes, "app")?;
    silent_soon(&nodes)
}

/// An address of the network in none of the blocks of these hosts.
fn outside(own: impl Iterator<Item = IpAddr>) -> Result<IpAddr> {
    let own: BTreeSet<IpAddr> = own.collect();
    let [IpAddr::V4(first), ..] = own.iter().copied().collect::<Vec<_>>()[..] else {
        return Err(LabError::Wrong(format!("{own:?}")));
    };
    let base = u32::from(first) & !0xfff;
    let blocks: BTreeSet<u32> = own
        .iter()
        .filter_map(|address| match address {
            IpAddr::V4(address) => Some(u32::from(*address) >> 5),
            IpAddr::V6(_) => None,
        })
        .collect();
    let free = (1..127).map(|block| base + 32 * block + 9).find(|address| !blocks.contains(&(address >> 5)));
    free.map(|address| IpAddr::V4(address.into())).ok_or_else(|| LabError::Wrong("no free block".to_owned()))
}

//! Addresses of a network by name that change hands: of a host that is gone for good, and of one that drains.

use std::{
    net::IpAddr,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use wire_tests::{Etcd, LabError, Result, check, eventually, lab, output};

use crate::{
    attach_site::{Made, attach, ctl, json, sites},
    cluster::{Node, START, V4, cluster},
    named::{all_reach, asked, expose_on, keys, network},
    named_store::{apart, silent_soon},
};

/// The MAC that follows from an address.
fn mac_of(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            format!("02:57:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
        }
        IpAddr::V6(_) => unreachable!("these networks have IPv4"),
    }
}

/// All that a host's kernel has of the networks: FDB entries, neighbours, rules with their sets.
fn entries(node: &Node) -> Result<String> {
    node.host.namespace().sh("bridge fdb show | grep -v 'dev eth0'; ip neigh show nud permanent; nft list ruleset")
}

/// Checks that a host's kernel names none of these.
fn names_none(node: &Node, gone: &[String]) -> Result {
    let found = entries(node)?;
    let words =
        |line: &str| line.split(|at: char| !at.is_alphanumeric() && !".:".contains(at)).map(str::to_owned).collect();
    let named = |line: &&str| {
        let words: Vec<String> = words(line);
        gone.iter().any(|gone| words.contains(gone))
    };
    let lines: Vec<&str> = found.lines().filter(named).collect();
    check(lines.is_empty(), || format!("of {gone:?}: {lines:#?}\n{}", node.agent.log()))
}

/// Checks that frames to an address leave a host for this other one alone.
fn leads_to(node: &Node, device: &str, address: IpAddr, to: &Node) -> Result {
    let fdb = node.host.namespace().sh(&format!("bridge fdb show dev {device} | grep ' dst ' || true"))?;
    let mac = mac_of(address);
    let of_address: Vec<&str> = fdb.lines().filter(|line| line.starts_with(&mac)).collect();
    let is_right = of_address.len() == 1 && of_address[0].contains(&format!("dst {} ", to.host.v4()));
    check(is_right, || format!("{address}: {of_address:?}\n{}", node.agent.log()))
}

/// Ends the etcd lease of a host, as time does.
fn end_lease(etcd: &Etcd, node: &Node) -> Result {
    let address = format!("\"{}\"", node.host.v4());
    let leases = etcd.leases()?;
    let lease = leases.iter().find(|lease| lease.value().contains(&address)).map(|lease| lease.lease);
    etcd.revoke(lease.ok_or_else(|| LabError::Wrong("it has no lease".to_owned()))?)
}

fn inside(name: &str, line: &str) -> Result<String> {
    output(Command::new("ip").args(["netns", "exec", name]).args(line.split_whitespace()))
}

fn guest(node: &Node, name: &str) -> Result<(Made, String)> {
    let name = format!("{}-{name}", node.host.namespace().name());
    Ok((Made::new(&name)?, name))
}

/// One host is gone, another has its addresses, and then the first comes back with all that it had in its kernel and on its disk.
#[test]
fn the_addresses_of_a_host_that_is_gone_are_anothers_and_it_has_others_when_it_comes_back() -> Result {
    let lab = lab!();
    let (etcd, mut sites) = sites::<3>(&lab, V4, false)?;
    network(&sites[0].node, "create app --subnet 10.77.0.0/24")?;
    let vni = asked(&sites[0].node, "inspect app")?["vni"].to_string();
    let device = format!("wv.{vni}");
    let (_one, one) = guest(&sites[0].node, "g")?;
    let (_two, two) = guest(&sites[1].node, "g")?;
    attach(&sites[0].node, &format!("/run/netns/{one} app"))?;
    let of_container = attach(&sites[1].node, &format!("/run/netns/{two} app"))?[0];
    inside(&one, &format!("ping -c 1 -W 5 {of_container}"))?;
    let own = asked(&sites[1].node, "inspect app")?["here"]["own"].as_str().and_then(|own| own.parse::<IpAddr>().ok());
    let own = own.ok_or_else(|| LabError::Wrong("it has no address of its own".to_owned()))?;
    let taken = [own, of_container];

    sites[1].node.agent.kill();
    sites[1].node.host.set_carrier(false)?;
    end_lease(&etcd, &sites[1].node)?;
    let mut gone: Vec<String> = taken.iter().flat_map(|address| [address.to_string(), mac_of(*address)]).collect();
    gone.push(sites[1].node.host.v4().to_string());
    eventually(START * 3, || names_none(&sites[0].node, &gone))?;

    // Another host has them now.
    let mut held = Vec::new();
    for (number, address) in taken.iter().enumerate() {
        let (made, name) = guest(&sites[2].node, &format!("h{number}"))?;
        let given = attach(&sites[2].node, &format!("/run/netns/{name} app --ip {address}"))?;
        check(given == [*address], || format!("{given:?}"))?;
        held.push((made, name));
    }
    let nodes = |numbers: &[usize]| -> Vec<&Node> { numbers.iter().map(|number| &sites[*number].node).collect() };
    for address in taken {
        eventually(START, || inside(&one, &format!("ping -c 1 -W 1 {address}")).map(drop))?;
        leads_to(&sites[0].node, &device, address, &sites[2].node)?;
    }
    names_none(&sites[0].node, &gone[4..])?;
    silent_soon(&nodes(&[0, 2]))?;

    // The first is back, with the same kernel and the same disk.
    sites[1].node.host.set_carrier(true)?;
    sites[1].node.agent.restart()?;
    sites[1].node.agent.wait_ready(START)?;
    let back = &sites[1].node;
    let has_others = || {
        let all = json(back, "attachments")?;
        let address = all[0]["endpoints"][0]["address"].as_str().unwrap_or_default().to_owned();
        let here = asked(back, "inspect app")?["here"].clone();
        let is_right = all[0]["state"] == "attached"
            && here["state"] == "joined"
            && here["reason"] == ""
            && taken.iter().all(|taken| taken.to_string() != address && here["own"] != taken.to_string());
        check(is_right, || format!("{all}\n{here}\n{}", back.agent.log()))?;
        let links = inside(&two, "ip -o -4 address show")? + &back.host.namespace().sh("ip -o -4 address show")?;
        let left = taken.iter().find(|taken| links.contains(&format!(" {taken}/")));
        check(left.is_none(), || format!("{left:?} is still here: {links}\n{}", back.agent.log()))
    };
    eventually(START * 3, has_others)?;
    let all: Vec<&Node> = sites.iter().map(|site| &site.node).collect();
    for address in taken {
        for node in [all[0], all[1]] {
            eventually(START, || leads_to(node, &device, address, all[2]))?;
        }
        inside(&one, &format!("ping -c 1 -W 5 {address}"))?;
    }
    let address = json(back, "attachments")?[0]["endpoints"][0]["address"].as_str().unwrap_or_default().to_owned();
    eventually(START, || inside(&one, &format!("ping -c 1 -W 1 {address}")).map(drop))?;
    apart(&all, "app")?;
    silent_soon(&all)
}

/// Others have taken all addresses while a host was away: it has none, says so, and gets some when there are some.
#[test]
fn a_host_that_has_lost_all_its_addresses_uses_none_of_them_until_others_are_free() -> Result {
    let lab = lab!();
    let (etcd, mut sites) = sites::<2>(&lab, V4, false)?;
    // Five addresses.
    network(&sites[0].node, "create app --subnet 10.78.0.0/29")?;
    expose_on(&sites[0].node, "app")?;
    let (_guest, guest) = guest(&sites[1].node, "g")?;
    attach(&sites[1].node, &format!("/run/netns/{guest} app"))?;
    sites[1].node.agent.kill();
    sites[1].node.host.set_carrier(false)?;
    end_lease(&etcd, &sites[1].node)?;
    let names = ["a", "b", "c", "d"];
    for name in names {
        ctl(&sites[0].node, &format!("attach {name} app --when-started"))?;
    }

    sites[1].node.host.set_carrier(true)?;
    sites[1].node.agent.restart()?;
    sites[1].node.agent.wait_ready(START)?;
    let (one, two) = (&sites[0].node, &sites[1].node);
    let addresses_here =
        || Ok::<_, LabError>(inside(&guest, "ip -o -4 address")? + &two.host.namespace().sh("ip -o -4 address")?);
    let has_none = || {
        let links = addresses_here()?;
        let own: Vec<&str> =
            links.lines().filter(|line| line.contains(" 10.78.0.") && !line.contains(" 10.78.0.1/")).collect();
        check(own.is_empty(), || format!("{own:?}\n{}", two.agent.log()))?;
        let here = asked(two, "inspect app")?["here"].to_string();
        let says = ["all addresses of 10.78.0.0/29 are taken", "other hosts have the addresses that this one had"];
        check(says.iter().any(|says| here.contains(says)), || here)
    };
    eventually(START * 3, has_none)?;
    silent_soon(&[one])?;

    for name in names {
        ctl(one, &format!("detach {name}"))?;
    }
    network(one, "hide app")?;
    let has_some = || {
        let all = json(two, "attachments")?;
        check(all[0]["state"] == "attached", || format!("{all}\n{}", two.agent.log()))
    };
    eventually(START * 3, has_some)?;
    let own = vec![expose_on(one, "app")?, expose_on(two, "app")?];
    all_reach(&[one, two], &own)?;
    apart(&[one, two], "app")?;
    silent_soon(&[one, two])
}

/// etcd stands still while a host drains: its devices are gone before etcd has a word of it.
#[test]
fn a_host_that_drains_has_no_device_of_a_network_any_more_when_etcd_has_its_addresses_back() -> Result {
    let lab = lab!();
    let (etcd, [one, mut two]) = cluster::<2>(&lab, V4)?;
    network(&one, "create app")?;
    let own = [&one, &two].map(|node| expose_on(node, "app")).into_iter().collect::<Result<Vec<_>>>()?;
    all_reach(&[&one, &two], &own)?;
    let is_member =
        |etcd: &Etcd| Ok::<_, LabError>(keys(etcd)?.iter().filter(|stored| stored.key().contains("/members/")).count());
    two.agent.terminate()?;
    let planned = two.agent.run_with_its_flags("drain --dry-run")?;
    let planned = String::from_utf8_lossy(&planned.stdout).into_owned();
    let place = |words: &str| planned.find(words).ok_or_else(|| LabError::Wrong(format!("{words}: {planned}")));
    check(place("wb.")? < place("leave app")? && place("leave app")? < place("lease: give back")?, || planned.clone())?;

    etcd.freeze(0, true)?;
    let begun = Instant::now();
    let drained = thread::scope(|scope| {
        let drain = scope.spawn(|| two.agent.run_with_its_flags("drain"));
        let is_gone = || {
            let links = two.host.namespace().sh("ip -o link")?;
            check(!links.contains("wb.") && !links.contains("wv."), || links.clone())
        };
        let gone = eventually(Duration::from_secs(4), is_gone);
        etcd.freeze(0, false)?;
        println!("the devices were gone after {gone:?}, and etcd went on after {:?}", begun.elapsed());
        let drained = drain.join().unwrap_or_else(|_| Err(LabError::Wrong("it panicked".to_owned())))?;
        gone.map(|_| drained)
    })?;
    check(drained.status.success(), || format!("{drained:?}"))?;
    check(is_member(&etcd)? == 1, || format!("{:?}", keys(&etcd)))?;
    eventually(START, || names_none(&one, &[two.host.v4().to_string()]))?;
    silent_soon(&[&one])?;
    let again = two.agent.run_with_its_flags("drain")?;
    check(again.status.success() && Path::new(&two.agent.state_dir()).exists(), || format!("{again:?}"))?;
    ctl(&one, "network hide app")?;
    ctl(&one, "network rm app").map(drop)
}

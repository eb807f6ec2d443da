//! etcd is away for a while of attaches and detaches: what this host holds is enough for most.

use std::{collections::BTreeSet, net::IpAddr};

use wire_tests::{Result, check, eventually, lab};

use crate::{
    attach_site::{Made, attach, ctl, of_guest, refused, silent, sites, states},
    cluster::{START, V4},
};

#[test]
fn without_etcd_containers_come_and_go_with_addresses_of_the_hosts_blocks_and_what_needs_etcd_waits() -> Result {
    const GUESTS: usize = 10;
    let lab = lab!();
    let (mut etcd, sites) = sites::<2>(&lab, V4, false)?;
    let node = &sites[0].node;
    for name in ["app", "later"] {
        ctl(node, &format!("network create {name}"))?;
    }
    let (near, far) = (Made::of(node, "near")?, Made::of(&sites[1].node, "far")?);
    attach(node, &format!("{} app", near.path()))?;
    let other = attach(&sites[1].node, &format!("{} app", far.path()))?;
    eventually(START, || near.pings(other[0]))?;
    etcd.kill(0);
    let guests = (0..GUESTS).map(|number| Made::of(node, &format!("g{number}"))).collect::<Result<Vec<_>>>()?;
    let mut given: BTreeSet<IpAddr> = BTreeSet::new();
    for guest in &guests {
        given.extend(attach(node, &format!("{} app", guest.path()))?);
    }
    check(given.len() == GUESTS, || format!("{given:?}"))?;
    for address in &given {
        eventually(START, || far.pings(*address))?;
    }
    // Half of them go, and come again.
    for guest in &guests[..GUESTS / 2] {
        ctl(node, &format!("detach {}", guest.path()))?;
        let links = guest.run("ip -o link")?;
        check(!links.contains("eth1"), || links.clone())?;
    }
    for guest in &guests[..GUESTS / 2] {
        let again = attach(node, &format!("{} app", guest.path()))?;
        eventually(START, || far.pings(again[0]))?;
    }
    // A network that this host has not joined, and an address that it does not hold.
    let waiting = Made::of(node, "waiting")?;
    let (status, said) = refused(node, &format!("attach {} later", waiting.path()))?;
    check(status == Some(4) && said.contains("it is kept, and waits: "), || format!("{status:?} {said}"))?;
    let named = Made::of(node, "named")?;
    let (status, said) = refused(node, &format!("attach {} app --ip 10.128.15.200", named.path()))?;
    check(status == Some(4) && said.contains("it is kept, and waits: "), || format!("{status:?} {said}"))?;
    etcd.restart(0)?;
    let all_attached = || {
        let all = states(node)?;
        check(all.len() == GUESTS + 3 && all.iter().all(|(_, state)| state == "attached"), || {
            format!("{all:?}\n{}", node.agent.log())
        })
    };
    eventually(START, all_attached)?;
    let of_named = of_guest(node, &format!("netns:{}", named.path()))?;
    check(of_named[0]["endpoints"][0]["address"] == "10.128.15.200", || format!("{of_named:?}"))?;
    eventually(START, || far.pings(IpAddr::from([10, 128, 15, 200])))?;
    silent(&sites)
}

//! The addresses of containers where blocks run short: single ones, each claimed by itself.

use std::{collections::BTreeSet, net::IpAddr};

use wire_tests::{Etcd, LabError, Result, check, eventually, lab};

use crate::{
    attach_site::{Made, attach, ctl, keys, silent, sites},
    cluster::{START, V4},
};

/// The guests of the host that has no more blocks.
const GUESTS: usize = 8;

/// Gives the host of the block in `etcd` half of all blocks of 10.77.0.0/24, so that no host gets a further one.
fn take_half(etcd: &Etcd) -> Result {
    let taken = keys(etcd)?;
    let block = taken.iter().find(|stored| stored.key().contains("/blocks/app/"));
    let block = block.ok_or_else(|| LabError::Wrong("no block".to_owned()))?;
    let key = |number: usize| format!("{}/wire/blocks/app/10.77.0.{}-30", Etcd::PREFIX, number * 4);
    let is_free = |key: &String| taken.iter().all(|stored| stored.key() != *key);
    let entries = (32..64).map(key).filter(is_free).map(|key| (key.into_bytes(), block.value.clone()));
    etcd.put_all(&entries.collect::<Vec<_>>())
}

#[test]
fn where_blocks_run_short_containers_of_several_hosts_have_single_addresses_that_are_given_back() -> Result {
    let lab = lab!();
    let (etcd, sites) = sites::<3>(&lab, V4, false)?;
    ctl(&sites[0].node, "network create app --subnet 10.77.0.0/24")?;
    let first = Made::of(&sites[1].node, "a")?;
    let mut given = attach(&sites[1].node, &format!("{} app", first.path()))?;
    take_half(&etcd)?;
    let far = Made::of(&sites[2].node, "a")?;
    given.extend(attach(&sites[2].node, &format!("{} app", far.path()))?);
    let guests =
        (0..GUESTS).map(|number| Made::of(&sites[0].node, &format!("g{number}"))).collect::<Result<Vec<_>>>()?;
    for guest in &guests {
        given.extend(attach(&sites[0].node, &format!("{} app", guest.path()))?);
    }
    let apart: BTreeSet<IpAddr> = given.iter().copied().collect();
    check(apart.len() == GUESTS + 2 && given.len() == GUESTS + 2, || format!("{given:?}"))?;
    let singles = || {
        Ok::<_, LabError>(keys(&etcd)?.into_iter().filter(|stored| stored.key().contains("/addresses/app/")).count())
    };
    let count = singles()?;
    check((GUESTS - 3..=GUESTS).contains(&count), || format!("{count} single addresses"))?;
    for address in &given[2..] {
        eventually(START, || first.pings(*address))?;
        eventually(START, || far.pings(*address))?;
    }
    silent(&sites)?;
    for guest in &guests {
        ctl(&sites[0].node, &format!("detach {}", guest.path()))?;
    }
    eventually(START, || check(singles()? == 0, || format!("{:?}", keys(&etcd))))?;
    first.pings(given[1])?;
    silent(&sites)
}

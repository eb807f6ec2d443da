//! What others changed in etcd while the host could not see it.

use std::{
    fs,
    time::{Duration, Instant},
};

use wire_tests::{Etcd, Family, PeerLease, Result, check, eventually, lab, steadily};

use super::{HEALTH, Kernel, RESYNC, asked, confirmed, power_off, resynced, start_without_etcd};
use crate::{
    cluster::{START, V4, cluster_of, exact, peer, put_peers, settle},
    datapath::Datapath,
};

/// An etcd that comes back empty, or from an old backup. Hosts that have really gone are missed half a minute later.
#[test]
fn peers_of_which_an_etcd_that_comes_back_knows_nothing_are_held_for_half_a_minute() -> Result {
    let lab = lab!();
    let (mut etcd, [mut a]) = cluster_of(&lab, V4, [Datapath::KernelVxlan; 1], &[HEALTH])?;
    put_peers(&etcd, 20, &[Family::V4])?;
    settle(&etcd, &[&a], &[Family::V4])?;
    power_off(&mut a)?;
    let known = Kernel::of(&etcd, &a, &[Family::V4])?;
    etcd.delete_all(&format!("{}/subnets/", Etcd::PREFIX))?;
    etcd.kill(0);
    a.host.reboot()?;
    start_without_etcd(&mut a)?;
    etcd.restart(0)?;
    let back = Instant::now();
    let vanished = || {
        let reason = a.agent.status()?.reason.unwrap_or_default();
        check(reason.contains("20 vanished from etcd at once"), || reason)
    };
    resynced(RESYNC, vanished)?;
    check(asked(&a, "readyz")? == 200, || a.agent.log())?;
    steadily(Duration::from_secs(28).saturating_sub(back.elapsed()), || known.is_in(&a))?;
    eventually(START, || exact(&etcd, &[&a], &[Family::V4]).and_then(|()| confirmed(&a))).map(drop)
}

#[test]
fn a_subnet_that_another_took_meanwhile_is_left_to_it() -> Result {
    let lab = lab!();
    let (mut etcd, [mut a, b]) = cluster_of(&lab, V4, [Datapath::KernelVxlan; 2], &[HEALTH])?;
    let before = a.subnet(Family::V4)?;
    power_off(&mut a)?;
    let own = etcd.leases()?.into_iter().find(|lease| lease.value().contains(&a.host.v4().to_string())).unwrap();
    etcd.revoke(own.lease)?;
    // As flannel would, which asks nobody.
    let subnet = before.replace(".1/24", ".0").parse().unwrap();
    let thief = PeerLease { subnet, ..peer(70, &[Family::V4]) };
    etcd.put(&thief.key(), &thief.value())?;
    etcd.kill(0);
    a.host.reboot()?;
    start_without_etcd(&mut a)?;
    check(a.subnet(Family::V4)? == before, || format!("{before} became {:?}", a.subnet(Family::V4)))?;
    etcd.restart(0)?;
    resynced(RESYNC, || {
        confirmed(&a)?;
        exact(&etcd, &[&a, &b], &[Family::V4])
    })?;
    let after = a.subnet(Family::V4)?;
    check(after != before, || format!("two have {before}"))?;
    check(a.agent.log().contains("a new subnet"), || a.agent.log())?;
    let options = fs::read_to_string(a.agent.docker_opts_file()).unwrap();
    check(options.contains(&after), || options)?;
    let vtep = a.vtep(Family::V4)?;
    check(b.host.reaches(vtep), || format!("no answer from {vtep}"))
}

#[test]
fn a_config_that_was_changed_meanwhile_is_joined_once_etcd_is_there() -> Result {
    let lab = lab!();
    let (mut etcd, [mut a]) = cluster_of(&lab, V4, [Datapath::KernelVxlan; 1], &[HEALTH])?;
    let before = a.subnet(Family::V4)?;
    power_off(&mut a)?;
    etcd.put_config(&V4.replace(r#""Type":"vxlan""#, r#""Type":"vxlan","VNI":7"#))?;
    etcd.kill(0);
    a.host.reboot()?;
    start_without_etcd(&mut a)?;
    check(a.host.kernel().link("flannel.1")?.is_some(), || a.agent.log())?;
    etcd.restart(0)?;
    resynced(RESYNC, || {
        confirmed(&a)?;
        check(a.host.kernel().link("flannel.7")?.is_some(), || a.agent.log())
    })?;
    // Other hosts may have been restarted later.
    eventually(START * 3, || check(a.host.kernel().link("flannel.1")?.is_none(), || a.agent.log()))?;
    check(a.agent.status()?.phase == "ready", || a.agent.log())?;
    check(a.subnet(Family::V4)? == before, || format!("{before} became {:?}", a.subnet(Family::V4)))
}

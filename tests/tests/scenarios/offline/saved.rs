//! The network state saved on disk: what is written to it, and what is of no use.

use std::{fs, path::Path, time::Duration};

use wire_tests::{Access, AgentSpec, Etcd, Family, Result, check, eventually, lab, steadily};

use super::{HEALTH, PATIENCE, RESYNC, asked, confirmed, power_off, resynced};
use crate::{
    cluster::{Node, START, V4, cluster_of, peer, phase, put_peers},
    datapath::Datapath,
};

/// What happens after a change is kept no later than this.
const KEPT: Duration = Duration::from_secs(6);

#[test]
fn what_is_of_no_use_is_named_and_etcd_is_waited_for() -> Result {
    let lab = lab!();
    let (mut etcd, [mut a]) = cluster_of(&lab, V4, [Datapath::KernelVxlan; 1], &[])?;
    let before = a.subnet(Family::V4)?;
    power_off(&mut a)?;
    let kept = a.agent.state_dir().join("network.json");
    let whole = fs::read_to_string(&kept).unwrap();
    etcd.kill(0);
    let cases = [
        (whole[..whole.len() / 2].to_owned(), "network.json"),
        (whole.replace("/coreos.com/network", "/other"), "/other"),
        (whole.replace("10.5.", "10.6."), "held no subnet"),
    ];
    for (bad, named) in cases {
        fs::write(&kept, &bad).unwrap();
        a.host.reboot()?;
        let earlier = a.agent.log().len();
        a.agent.restart()?;
        let named_so = |line: &str| line.contains("cannot be used") && line.contains(named);
        let of_no_use = || a.agent.log()[earlier..].lines().filter(|line| named_so(line)).count() == 1;
        eventually(PATIENCE * 2, || check(of_no_use(), || format!("{named} is not named:\n{}", a.agent.log())))?;
        steadily(Duration::from_secs(1), || {
            check(a.agent.ready_after().is_none() && a.host.kernel().link("flannel.1")?.is_none(), || a.agent.log())
        })?;
        a.agent.terminate()?;
    }
    // A clone of this host has its state, but other hardware.
    fs::write(&kept, &whole).unwrap();
    a.host.reboot()?;
    a.host.namespace().sh("ip link set eth0 down address 02:64:00:00:00:ee; ip link set eth0 up
        ip route add default via 192.168.64.254 dev eth0")?;
    a.agent.restart()?;
    eventually(PATIENCE * 2, || check(a.agent.log().contains("may be a clone"), || a.agent.log()))?;
    check(a.agent.ready_after().is_none(), || a.agent.log())?;
    let reason = phase(&a.agent, "waiting")?;
    let named = ["etcd", "may be a clone", "then eth0 has 02:64:00:00:00:0", "now eth0 has 02:64:00:00:00:ee"];
    check(named.iter().all(|part| reason.contains(part)), || reason)?;
    check(a.agent.status_line().unwrap_or_default().contains("02:64:00:00:00:ee"), || {
        "systemd is not told".to_owned()
    })?;
    etcd.restart(0)?;
    a.agent.wait_ready(RESYNC + PATIENCE * 2)?;
    check(a.subnet(Family::V4)? == before, || format!("{before} became {:?}", a.subnet(Family::V4)))
}

/// It answers, but not with what can be joined by: an operator is told which it is.
#[test]
fn an_etcd_that_refuses_this_host_or_has_no_config_is_told_from_one_that_is_silent() -> Result {
    let lab = lab!();
    let etcd = Etcd::start_with(&lab, Access::Password, 1)?;
    etcd.put_config(V4)?;
    let mut a = Node::with(lab.host("a")?, AgentSpec::new(etcd.agent_flags()).flag(HEALTH))?;
    let said = |a: &Node, why: &str| {
        let reason = a.agent.status()?.reason.unwrap_or_default();
        let is_so =
            reason.starts_with(&format!("etcd: {why}")) && reason.contains("; traffic uses the leases known at ");
        check(is_so && !reason.contains("joining"), || reason)?;
        check(asked(a, "readyz")? == 503, || a.agent.log())
    };
    a.agent.terminate()?;
    let flags = a.agent.spec_mut().flags.clone();
    a.agent.spec_mut().flags.iter_mut().filter(|flag| flag.starts_with("--etcd-password=")).for_each(|flag| {
        flag.push_str("-of-yesterday");
    });
    a.agent.restart()?;
    a.agent.wait_ready(START)?;
    said(&a, "etcd refuses get: check the user root and its password: ")?;
    let log = a.agent.log();
    let goes_by_it =
        |line: &str| line.contains("check the user root") && line.contains(": using the network state saved on disk");
    check(log.lines().any(goes_by_it), || log)?;

    a.agent.terminate()?;
    a.agent.spec_mut().flags = flags;
    etcd.delete(&format!("{}/config", Etcd::PREFIX))?;
    a.agent.restart()?;
    a.agent.wait_ready(START)?;
    said(&a, "it has no network config: write one to ")?;
    let reason = a.agent.status()?.reason.unwrap_or_default();
    check(
        reason.contains("a config written with etcd's v2 API") && reason.contains("the v3 API does not see"),
        || reason,
    )?;
    etcd.put_config("{")?;
    resynced(RESYNC, || said(&a, "/coreos.com/network/config: the network config is not JSON"))?;
    etcd.put_config(V4)?;
    resynced(RESYNC, || confirmed(&a))
}

/// Among several leases a change is appended to a journal, and the base stays as it is.
#[test]
fn a_process_that_is_killed_leaves_all_that_it_has_appended() -> Result {
    let lab = lab!();
    let mut etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    put_peers(&etcd, 8, &[Family::V4])?;
    let mut node = Node::with(lab.host("a")?, AgentSpec::new(etcd.agent_flags()).flag(HEALTH))?;
    let [base, journal] = ["network.json", "network.journal"].map(|name| node.agent.state_dir().join(name));
    let has = |file: &Path, mac: &str| fs::read_to_string(file).is_ok_and(|text| text.contains(mac));
    eventually(KEPT, || check(base.exists(), || format!("no {}", base.display())))?;
    let before = fs::read(&base).unwrap();
    let newcomer = peer(80, &[Family::V4]);
    etcd.put(&newcomer.key(), &newcomer.value())?;
    eventually(KEPT, || check(has(&journal, &newcomer.mac), || "not appended".to_owned()))?;
    check(fs::read(&base).unwrap() == before, || "a new base for one lease".to_owned())?;

    node.agent.kill();
    etcd.kill(0);
    node.host.reboot()?;
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    let peers = node.agent.peers()?.peers;
    check(peers.len() == 9, || format!("{peers:?}"))?;
    etcd.restart(0)?;
    resynced(RESYNC, || confirmed(&node))?;
    lab.rest(KEPT);
    node.agent.terminate()?;
    check(has(&base, &newcomer.mac) && !journal.exists(), || "the base is not whole at the end".to_owned())
}

#[test]
fn nothing_is_kept_before_it_is_known_and_nothing_is_written_that_is_kept() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let mut node = Node::with(lab.host("a")?, AgentSpec::new(etcd.agent_flags()))?;
    let kept = node.agent.state_dir().join("network.json");
    eventually(KEPT, || check(kept.exists(), || format!("no {}", kept.display())))?;
    let inode = || std::os::unix::fs::MetadataExt::ino(&fs::metadata(&kept).unwrap());
    let newcomer = peer(80, &[Family::V4]);
    let first = inode();
    etcd.put(&newcomer.key(), &newcomer.value())?;
    eventually(KEPT, || check(fs::read_to_string(&kept).unwrap().contains(&newcomer.mac), || "not kept".to_owned()))?;
    let second = inode();
    check(first != second, || "it was written in place".to_owned())?;
    node.agent.terminate()?;
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    etcd.put(&newcomer.key(), &newcomer.value())?;
    lab.rest(KEPT);
    check(inode() == second, || "a restart or a renewal has written it again".to_owned())
}

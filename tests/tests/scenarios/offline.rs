//! A host that starts while etcd is away has its subnet and its peers by what etcd said last.

mod changed;
mod saved;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::Duration,
};

use wire_tests::{
    Etcd, ExpectedPeer, Family, Host, Lab, LabError, LossMeter, Monitor, Path, PeerLease, Result, check, control_run,
    eventually, lab, measured, steadily,
};

use crate::{
    cluster::{DUAL, Node, START, V4, cluster_of, exact, families, peer, phase, put_peers, settle},
    datapath::Datapath,
};

/// How long a start waits for etcd, and how long it may then take.
const PATIENCE: Duration = Duration::from_secs(5);
/// etcd is asked at most a second after its return; what follows takes a busy machine its time. [`resynced`] says how long it was.
const RESYNC: Duration = Duration::from_secs(10);

const HEALTH: &str = "--healthz-port=9099";

#[test]
fn a_host_that_boots_without_etcd_has_its_network_back_and_takes_what_changed_once_etcd_is_there() -> Result {
    boots(&lab!(), Datapath::KernelVxlan)
}

#[test]
fn a_host_of_userspace_vxlan_boots_without_etcd() -> Result {
    boots(&lab!(), Datapath::UserspaceVxlan)
}

#[test]
fn a_host_of_raw_udp_boots_without_etcd() -> Result {
    boots(&lab!(), Datapath::UserspaceUdp)
}

fn boots(lab: &Lab, datapath: Datapath) -> Result {
    let config = datapath.config();
    let families = families(config);
    let (mut etcd, [mut a, b]) = cluster_of(lab, config, [datapath; 2], &[HEALTH])?;
    let lease = |number| PeerLease { encapsulation: datapath.encapsulation(), ..peer(number, families) };
    let peers: Vec<PeerLease> = (100..120).map(lease).collect();
    etcd.put_all(&peers.iter().map(PeerLease::entry).collect::<Vec<_>>())?;
    settle(&etcd, &[&a, &b], families)?;
    let before = Seen::of(&a)?;
    // The last change before the end is kept too.
    let last = lease(50);
    etcd.put(&last.key(), &last.value())?;
    settle(&etcd, &[&a, &b], families)?;
    let filter = filter_of(&a.host)?;

    power_off(&mut a)?;
    let known = Kernel::of(&etcd, &a, families)?;
    etcd.kill(0);
    a.host.reboot()?;
    let waited = start_without_etcd(&mut a)?;
    check(waited >= PATIENCE, || format!("etcd was given {waited:?} only"))?;
    check(Seen::of(&a)? == before, || format!("{before:?} became {:?}", Seen::of(&a)))?;
    eventually(PATIENCE, || known.is_in(&a))?;
    // It is of another loop than routes, and may be a little later.
    eventually(PATIENCE, || {
        let now = filter_of(&a.host)?;
        let differ = || now.symmetric_difference(&filter).cloned().collect::<Vec<_>>();
        check(now == filter, || format!("the packet filter differs in {:#?}", differ()))
    })?;
    check(a.host.exec("sysctl -n net.ipv4.ip_forward")?.trim() == "1", || "no forwarding".to_owned())?;
    not_confirmed(&a)?;
    a.host.cut_frames()?;
    b.host.cut_frames()?;
    let (at_a, at_b) = ((&a.host, a.vtep(Family::V4)?), (&b.host, b.vtep(Family::V4)?));
    let path = |from, to| Path { underlay: lab, from, to, encapsulation: datapath.encapsulation() };
    control_run(&path(at_a, at_b))?;
    let meters = [LossMeter::start(&path(at_a, at_b))?, LossMeter::start(&path(at_b, at_a))?];
    steadily(Duration::from_secs(3), || not_confirmed(&a))?;
    // What an operator does meanwhile changes nothing.
    let ready = times_ready(&a);
    a.agent.signal(nix::sys::signal::Signal::SIGHUP)?;
    eventually(START, || {
        check(a.agent.log().matches("using the network state saved on disk").count() == 2, || a.agent.log())
    })?;
    thread::sleep(Duration::from_secs(1));
    not_confirmed(&a)?;
    known.is_in(&a)?;
    check(times_ready(&a) == ready, || a.agent.log())?;

    let monitor = Monitor::listen(a.host.namespace())?;
    etcd.restart(0)?;
    resynced(RESYNC, || confirmed(&a))?;
    check(Seen::of(&a)? == before, || format!("{before:?} became {:?}", Seen::of(&a)))?;
    exact(&etcd, &[&a, &b], families)?;
    for family in families {
        let device = a.host.kernel().link(datapath.device(*family))?.unwrap().index;
        let writes = monitor.writes(device)?;
        check(writes.is_empty(), || format!("what was right was written: {writes:?}"))?;
    }
    for meter in meters {
        meter.stop_without_loss()?;
    }
    etcd.delete(&peers[7].key())?;
    settle(&etcd, &[&a, &b], families).map(drop)
}

/// How often its log says that it is ready, over all its starts.
fn times_ready(node: &Node) -> usize {
    node.agent.log().matches(" ready summary=").count()
}

#[test]
fn what_changes_while_the_host_is_cut_off_from_etcd_is_there_once_it_is_not() -> Result {
    let lab = lab!();
    let (etcd, [mut a, b]) = cluster_of(&lab, DUAL, [Datapath::KernelVxlan; 2], &[HEALTH])?;
    let peers = put_peers(&etcd, 20, &Family::ALL)?;
    settle(&etcd, &[&a, &b], &Family::ALL)?;
    let before = Seen::of(&a)?;
    power_off(&mut a)?;
    let known = Kernel::of(&etcd, &a, &Family::ALL)?;
    etcd.delete(&peers[0].key())?;
    a.host.reboot()?;
    // Nobody refuses: packets are lost.
    let cut = lab.partition(&a.host, etcd.host(0))?;
    start_without_etcd(&mut a)?;
    let moved = PeerLease { mac: "02:bb:00:00:00:01".to_owned(), ..peers[1].clone() };
    etcd.put(&moved.key(), &moved.value())?;
    let new = peer(60, &Family::ALL);
    etcd.put(&new.key(), &new.value())?;
    steadily(Duration::from_secs(3), || known.is_in(&a).and_then(|()| not_confirmed(&a)))?;
    cut.heal();
    // A SYN that was lost is sent again after a second (RFC 6298 §2).
    resynced(RESYNC + Duration::from_secs(1), || {
        confirmed(&a)?;
        exact(&etcd, &[&a, &b], &Family::ALL)
    })?;
    check(Seen::of(&a)? == before, || format!("{before:?} became {:?}", Seen::of(&a)))
}

#[test]
fn an_agent_that_is_restarted_while_etcd_is_away_writes_and_loses_nothing() -> Result {
    let lab = lab!();
    let (mut etcd, [mut a, b]) = cluster_of(&lab, DUAL, [Datapath::KernelVxlan; 2], &[HEALTH])?;
    put_peers(&etcd, 100, &Family::ALL)?;
    settle(&etcd, &[&a, &b], &Family::ALL)?;
    etcd.kill(0);
    a.agent.terminate()?;
    a.agent.spec_mut().traced = true;
    let (at_a, at_b) = ((&a.host, a.vtep(Family::V4)?), (&b.host, b.vtep(Family::V4)?));
    let path = Path { underlay: &lab, from: at_b, to: at_a, encapsulation: Datapath::KernelVxlan.encapsulation() };
    control_run(&path)?;
    let meter = LossMeter::start(&path)?;
    a.agent.restart()?;
    a.agent.wait_ready(PATIENCE + START)?;
    not_confirmed(&a)?;
    etcd.restart(0)?;
    resynced(RESYNC, || confirmed(&a))?;
    exact(&etcd, &[&a, &b], &Family::ALL)?;
    meter.stop_without_loss()?;
    let writes = a.agent.kernel_writes()?;
    check(writes.is_empty(), || format!("it wrote {writes:?}"))
}

#[test]
fn an_underlay_that_becomes_another_while_etcd_is_away_is_gone_by_at_once() -> Result {
    let lab = lab!();
    let (mut etcd, [mut a]) = cluster_of(&lab, V4, [Datapath::KernelVxlan; 1], &[HEALTH])?;
    power_off(&mut a)?;
    etcd.kill(0);
    a.host.reboot()?;
    start_without_etcd(&mut a)?;
    a.host.namespace().sh("ip link set eth0 address 02:00:00:00:77:01 mtu 1400")?;
    eventually(START, || {
        let mtu = a.host.kernel().link("flannel.1")?.map(|link| link.mtu);
        check(mtu == Some(1350), || format!("the device's MTU is {mtu:?}"))
    })?;
    not_confirmed(&a)?;
    etcd.restart(0)?;
    resynced(RESYNC, || confirmed(&a))?;
    phase(&a.agent, "ready").map(drop)
}

/// Ends the agent as a host does that goes down, once what it knows is on the disk.
fn power_off(node: &mut Node) -> Result {
    node.agent.terminate()?;
    let files = [node.agent.subnet_file(), node.agent.docker_opts_file()];
    // They lie in /run.
    files.iter().for_each(|file| fs::remove_file(file).unwrap());
    Ok(())
}

/// Starts it while etcd is away, and says how long it took until systemd was told READY.
fn start_without_etcd(node: &mut Node) -> Result<Duration> {
    let links = node.host.kernel().links()?;
    check(links.iter().all(|link| !link.name.starts_with("flannel")), || format!("outlived the reboot: {links:?}"))?;
    node.agent.restart()?;
    node.agent.wait_ready(PATIENCE + START)
}

/// Waits until all is as etcd has it, from its return on, and says how long that took.
fn resynced(limit: Duration, holds: impl FnMut() -> Result) -> Result {
    let took = eventually(limit, holds)?;
    measured("confirmed-after-etcd-is-back", took)
}

/// systemd is told that it is ready; a load balancer is not, and an operator is told why.
fn not_confirmed(node: &Node) -> Result {
    let status = node.agent.status()?;
    let reason = status.reason.clone().unwrap_or_default();
    check(status.phase == "degraded", || format!("{}: {reason}\n{}", status.phase, node.agent.log()))?;
    let is_said = reason.contains("etcd: it does not answer") && reason.contains("; traffic uses the leases known at");
    check(is_said, || reason.clone())?;
    check(status.rest["store"]["synced"] != true, || format!("{:?}", status.rest["store"]))?;
    let told = node.agent.status_line().unwrap_or_default();
    check(told.starts_with("degraded: etcd: it does not answer"), || told)?;
    let codes = (asked(node, "readyz")?, asked(node, "healthz")?);
    check(codes == (503, 200), || format!("readyz and healthz say {codes:?}"))
}

fn confirmed(node: &Node) -> Result {
    let code = asked(node, "readyz")?;
    check(code == 200, || format!("readyz says {code}\n{}", node.agent.log()))?;
    let status = node.agent.status()?;
    check(status.phase == "ready", || format!("{status:?}"))
}

fn asked(node: &Node, path: &str) -> Result<u16> {
    let url = format!("http://{}:9099/{path}", node.host.v4());
    let answer =
        node.host.namespace().sh(&format!("busybox wget -q -O /dev/null {url} 2>&1 && echo HTTP/1.1 200 || true"))?;
    let code = answer.split_once("HTTP/1.1 ").and_then(|(_, rest)| rest.get(..3)?.parse().ok());
    code.ok_or(LabError::Wrong(answer))
}

/// What Docker and peers know this host by.
#[derive(Debug, PartialEq)]
struct Seen {
    files: BTreeMap<String, String>,
    options: String,
    devices: Vec<Option<(String, u32)>>,
}

impl Seen {
    fn of(node: &Node) -> Result<Self> {
        let device = |family: &Family| {
            let link = node.host.kernel().link(node.datapath.device(*family))?;
            Ok(link.map(|link| (link.address, link.mtu)))
        };
        Ok(Self {
            files: node.agent.subnet_env()?,
            options: fs::read_to_string(node.agent.docker_opts_file()).unwrap(),
            devices: Family::ALL.iter().map(device).collect::<Result<_>>()?,
        })
    }
}

/// What a host's kernel must hold, for when there is no etcd to compare it with.
struct Kernel(Vec<(Family, Vec<ExpectedPeer>)>);

impl Kernel {
    fn of(etcd: &Etcd, node: &Node, families: &[Family]) -> Result<Self> {
        let peers = families.iter().map(|family| Ok((*family, node.datapath.peers_of(&node.host, etcd, *family)?)));
        peers.collect::<Result<_>>().map(Self)
    }

    fn is_in(&self, node: &Node) -> Result {
        self.0.iter().try_for_each(|(family, peers)| node.datapath.holds(&node.host, *family, peers))
    }
}

/// What is ours in the packet filter, without the counts: each rule, and each element of a set.
fn filter_of(host: &Host) -> Result<BTreeSet<String>> {
    let rules = "nft -s list table inet wire-agent; iptables-save | grep WIRE-; ip6tables-save | grep WIRE- || true";
    let text = host.namespace().sh(rules)?;
    let parts = text.lines().flat_map(|line| line.trim().trim_start_matches("elements = {").split(", "));
    Ok(parts.map(|part| part.trim_matches([' ', ',', '}']).to_owned()).collect())
}

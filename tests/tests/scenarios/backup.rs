//! etcd comes back from an older backup: its revisions go back, and what happened since is unknown to it.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use wire_tests::{Etcd, Family, LossMeter, Monitor, PeerLease, Result, Underlay, check, control_run, eventually, lab};

use crate::{
    cluster::{Node, START, device, path, peer, phase, put_peers, settle},
    etcd_away::own_key,
};

const V4: &[Family] = &[Family::V4];
/// Room for five hosts.
const FIVE: &str =
    r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.5.0","Backend":{"Type":"vxlan"}}"#;
/// The promise for the time from etcd's return until hosts have listed the leases and have written their own again.
const RESYNC: Duration = Duration::from_secs(2);

/// Hosts, and what they have done since the backup.
struct Site {
    /// Nothing.
    unchanged: [Node; 2],
    /// It has another address.
    moved: Node,
    /// It has joined.
    late: Node,
}

impl Site {
    fn nodes(&self) -> [&Node; 4] {
        let [a, b] = &self.unchanged;
        [a, b, &self.moved, &self.late]
    }
}

#[test]
fn an_etcd_from_an_older_backup_is_told_again_what_it_does_not_know_and_unchanged_hosts_lose_no_packet() -> Result {
    let lab = lab!();
    let mut etcd = Etcd::start(&lab)?;
    etcd.put_config(FIVE)?;
    let node = |name: &str| Node::start(lab.host(name)?, &etcd);
    let (unchanged, mut moved) = ([node("a")?, node("b")?], node("moved")?);
    put_peers(&etcd, 10, V4)?;
    let backup = etcd.back_up()?;
    // More revisions than the hosts make when etcd is back.
    let mut gateway = etcd.gateway()?;
    (0..50).try_for_each(|_| gateway.put(b"/other", b""))?;
    moved.host.change_address("192.168.64.200".parse().unwrap())?;
    eventually(START, || own_key(&etcd, &moved).map(drop))?;
    let site = Site { unchanged, moved, late: node("late")? };
    settle(&etcd, &site.nodes(), V4)?;
    let (before, keys) = (etcd.revision()?, keys_of(&etcd, &site)?);
    let (meter, monitor) = (meter(&lab, &site)?, Monitor::listen(site.unchanged[0].host.namespace())?);

    etcd.restore(&backup)?;
    etcd.restart(0)?;
    let back = Instant::now();
    let same = || keys_of(&etcd, &site).is_ok_and(|now| now == keys);
    eventually(START, || check(same(), || format!("{keys:?} are not there again\n{}", site.moved.agent.log())))?;
    let told = back.elapsed();
    settle(&etcd, &site.nodes(), V4)?;
    println!("each lease was there again after {told:?}, and in each kernel after {:?}", back.elapsed());
    check(told < RESYNC, || format!("each lease was there again after {told:?}"))?;
    for node in site.nodes() {
        phase(&node.agent, "ready")?;
    }
    // What comes later is heard of, though its revision is one that was heard of before.
    let newcomer = peer(50, V4);
    etcd.put(&newcomer.key(), &newcomer.value())?;
    let revision = etcd.revision()?;
    check(revision < before, || format!("the revision went from {before} to {revision}"))?;
    settle(&etcd, &site.nodes(), V4)?;
    meter.stop_without_loss()?;
    untouched(&site, &monitor)
}

/// The subnet of a host that left was leased again after the backup. The backup has the lease of the former owner, which is the older.
#[test]
fn of_two_owners_after_a_restore_the_older_has_the_subnet_and_the_other_says_so_and_has_it_back_once_that_goes()
-> Result {
    let lab = lab!();
    let mut etcd = Etcd::start(&lab)?;
    etcd.put_config(&FIVE.replace("10.5.5.0", "10.5.2.0"))?;
    let other = Node::start(lab.host("a")?, &etcd)?;
    let taken = other.subnet(Family::V4)?;
    let free = if taken.starts_with("10.5.1.") { "10.5.2.0" } else { "10.5.1.0" };
    let former = PeerLease { subnet: free.parse().unwrap(), ..peer(70, V4) };
    etcd.put(&former.key(), &former.value())?;
    let backup = etcd.back_up()?;
    etcd.delete(&former.key())?;
    let node = Node::start(lab.host("b")?, &etcd)?;
    settle(&etcd, &[&other, &node], V4)?;
    let subnet = node.subnet(Family::V4)?;

    etcd.restore(&backup)?;
    etcd.restart(0)?;
    settle(&etcd, &[&other], V4)?;
    let stored = etcd.get(&former.key())?.map(|stored| stored.value());
    check(stored.as_deref() == Some(&former.value()), || format!("the older lease became {stored:?}"))?;
    let reason = phase(&node.agent, "degraded")?;
    check(reason.contains(&format!("is leased by the host {}", former.public_ip)), || reason)?;
    check(node.subnet(Family::V4)? == subnet, || format!("{subnet} became {:?}", node.subnet(Family::V4)))?;
    // An operator finds that the former host is gone.
    etcd.delete(&former.key())?;
    eventually(START, || own_key(&etcd, &node).map(drop))?;
    settle(&etcd, &[&other, &node], V4)?;
    phase(&node.agent, "ready")?;
    check(node.subnet(Family::V4)? == subnet, || format!("{subnet} became {:?}", node.subnet(Family::V4)))
}

/// The keys of the hosts' leases.
fn keys_of(etcd: &Etcd, site: &Site) -> Result<Vec<String>> {
    site.nodes().into_iter().map(|node| own_key(etcd, node)).collect()
}

/// Pings between the hosts for which nothing changes.
fn meter(lab: &Underlay, site: &Site) -> Result<LossMeter> {
    let [a, b] = &site.unchanged;
    let path = path(lab, (&b.host, b.vtep(Family::V4)?), (&a.host, a.vtep(Family::V4)?));
    control_run(&path)?;
    LossMeter::start(&path)
}

/// Checks that a host that did not change has written nothing for the other.
fn untouched(site: &Site, monitor: &Monitor) -> Result {
    let [a, b] = &site.unchanged;
    let subnet: IpAddr = b.vtep(Family::V4)?;
    let IpAddr::V4(subnet) = subnet else { return check(false, || "it is of IPv6".to_owned()) };
    let index = a.host.kernel().link(device(Family::V4))?.map_or(0, |link| link.index);
    let writes = monitor.writes(index)?;
    let of_other = |body: &[u8]| body.windows(4).any(|bytes| bytes == subnet.octets());
    let writes: Vec<_> = writes.iter().filter(|change| of_other(&change.body)).collect();
    check(writes.is_empty(), || format!("the kernel was written: {writes:?}"))
}

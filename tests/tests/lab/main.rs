//! The lab tests itself: that it is what the scenarios take it for, and that nothing of it stays.

mod overlay;
mod tools;

use std::{
    collections::BTreeSet,
    net::IpAddr,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Duration,
};

use overlay::Overlay;
use wire_tests::{
    Access, Agent, AgentSpec, Change, Dockerd, Encapsulation, Etcd, ExpectedPeer, Family, Host, Lab, LossMeter,
    Monitor, Path, PeerLease, Result, check, control_run, eventually, expect_peers, lab, namespaces_of, processes_in,
    remove,
};

#[test]
fn three_hosts_ping_each_other_on_the_underlay_in_both_families() -> Result {
    let lab = lab!();
    let hosts = lab.hosts::<3>()?;
    for from in &hosts {
        for to in &hosts {
            let addresses: [IpAddr; 2] = [to.v4().into(), to.v6().into()];
            for address in addresses {
                check(from.pings(address), || format!("{} does not reach {address}", from.name()))?;
            }
        }
        check(from.exec("cat /proc/sys/net/ipv4/ip_forward")?.trim() == "0", || "ip_forward is on".to_owned())?;
    }
    Ok(())
}

#[test]
fn a_partition_cuts_exactly_one_pair_until_it_is_healed() -> Result {
    let lab = lab!();
    let [a, b, c] = lab.hosts()?;
    let reaches = |from: &Host, to: &Host| from.pings(to.v4().into()) && from.pings(to.v6().into());
    let cut = lab.partition(&a, &b)?;
    check(!a.pings(b.v4().into()) && !b.pings(a.v4().into()), || "the cut pair still talks".to_owned())?;
    check(!a.pings(b.v6().into()), || "the cut pair still talks IPv6".to_owned())?;
    check(cut.packets()? > 0, || "the cut has counted nothing".to_owned())?;
    check(reaches(&a, &c) && reaches(&b, &c), || "another pair was cut too".to_owned())?;
    cut.heal();
    eventually(Duration::from_secs(5), || check(reaches(&a, &b), || "the pair stays cut".to_owned()))?;
    let gone = lab.isolate(&c)?;
    check(!a.pings(c.v4().into()), || "an isolated host answers".to_owned())?;
    gone.heal();
    a.set_carrier(false)?;
    check(!c.pings(a.v4().into()), || "a host without carrier answers".to_owned())
}

#[test]
fn a_host_changes_its_address_and_comes_back_from_a_reboot() -> Result {
    let lab = lab!();
    let [mut a, b] = lab.hosts()?;
    a.change_address([192, 168, 64, 77].into())?;
    check(b.pings([192, 168, 64, 77].into()), || "the new address does not answer".to_owned())?;
    check(!b.pings([192, 168, 64, 2].into()), || "the old address still answers".to_owned())?;
    a.exec("ip link add left type bridge")?;
    a.reboot()?;
    check(a.kernel().link("left")?.is_none(), || "a device has outlived the reboot".to_owned())?;
    check(b.pings(a.v4().into()) && b.pings(a.v6().into()), || "the host does not answer after its reboot".to_owned())
}

#[test]
fn an_open_etcd_keeps_bytes_and_tells_leases() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(r#"{"Network":"10.5.0.0/16"}"#)?;
    let key = [b"/coreos.com/network/subnets/".as_slice(), &[0xff, 0xfe]].concat();
    etcd.put_all(&[(key.clone(), vec![0, 1, 255]), PeerLease::numbered(7).entry()])?;
    let leases = etcd.leases()?;
    check(leases.len() == 2 && leases[1].key == key && leases[1].value == [0, 1, 255], || format!("{leases:?}"))?;
    check(leases[0].lease != 0, || "a put lease has no etcd lease".to_owned())?;
    let literal = r#"{"PublicIP":"172.20.0.8","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:aa:00:00:00:07"}}"#;
    check(leases[0].value() == literal, || leases[0].value())?;
    check(leases[0].key() == "/coreos.com/network/subnets/10.5.7.0-24", || leases[0].key())?;
    let peer = ExpectedPeer::from_stored(&leases[0], Family::V4)?;
    check(peer == PeerLease::numbered(7).expected(Family::V4), || format!("{peer:?}"))?;
    etcd.revoke(leases[0].lease)?;
    check(etcd.leases()?.is_empty(), || "a revoked lease stays".to_owned())?;
    etcd.compact()
}

#[test]
fn each_kind_of_access_lets_its_own_clients_in_and_no_others() -> Result {
    let lab = lab!();
    for access in [Access::CaAlone, Access::ClientCertificates, Access::Password] {
        let etcd = Etcd::start_with(&lab, access, 1)?;
        etcd.put("k", "v")?;
        check(etcd.get("k")?.is_some_and(|stored| stored.value == b"v"), || format!("{access:?}: no value"))?;
        let bare = format!("env ETCDCTL_API=3 etcdctl --command-timeout=2s --endpoints={} get k", etcd.endpoints());
        check(etcd.host(0).exec(&bare).is_err(), || format!("{access:?}: a stranger may read"))?;
    }
    Ok(())
}

#[test]
fn three_members_go_on_without_one_and_not_without_two() -> Result {
    let lab = lab!();
    let mut etcd = Etcd::start_with(&lab, Access::Open, 3)?;
    etcd.put("k", "1")?;
    etcd.kill(2);
    eventually(Duration::from_secs(5), || etcd.put("k", "2"))?;
    etcd.kill(1);
    check(etcd.ctl(&["put", "--command-timeout=2s", "k", "3"]).is_err(), || "one of three accepts a write".to_owned())?;
    etcd.restart(1)?;
    // What was refused may have been written down all the same, and count as soon as a second member agrees.
    let value = etcd.get("k")?.map(|stored| stored.value());
    check(matches!(value.as_deref(), Some("2" | "3")), || format!("the value is lost: {value:?}"))
}

#[test]
fn a_dockerd_runs_containers_on_the_subnet_it_is_given() -> Result {
    let lab = lab!();
    let host = lab.host("h1")?;
    let options = host.dir().join("docker_opts.env");
    let text = "DOCKER_OPT_BIP=\"--bip=10.5.52.1/24 --ipv6 --fixed-cidr-v6=fd00:5:52::/64\"\n\
                DOCKER_OPT_IPMASQ=\"--ip-masq=false\"\nDOCKER_OPT_MTU=\"--mtu=1450\"\n";
    std::fs::write(&options, text).expect("the host's directory is ours");
    let mut dockerd = Dockerd::start_with_file(&host, &options)?;
    let (first, second) = (dockerd.run()?, dockerd.run()?);
    check(first.address(Family::V4)?.to_string() == "10.5.52.2", || format!("{:?}", first.address(Family::V4)))?;
    check(first.address(Family::V6)?.to_string().starts_with("fd00:5:52::"), || "no IPv6 address".to_owned())?;
    check(first.pings(second.address(Family::V4)?, 3), || "containers of one host do not talk".to_owned())?;
    check(!first.pings([10, 5, 52, 99].into(), 1), || "a ping that cannot be answered is".to_owned())?;
    let link = host.kernel().link("docker0")?;
    check(link.is_some_and(|link| link.mtu == 1450 && link.linkinfo.kind == "bridge"), || "no docker0".to_owned())?;
    check(first.exec("cat /sys/class/net/eth0/mtu")?.trim() == "1450", || "the MTU is not handed on".to_owned())
}

#[test]
fn the_loss_meter_and_the_kernel_views_agree_with_an_overlay_made_by_hand() -> Result {
    let lab = lab!();
    let [a, b] = lab.hosts()?;
    for family in [Family::V4, Family::V6] {
        let overlay = Overlay::of(family);
        overlay.put(&a, &b, [1, 2])?;
        overlay.put(&b, &a, [2, 1])?;
        let peer = overlay.peer(&b, 2);
        expect_peers(&a, overlay.device, family, std::slice::from_ref(&peer))?;
        let other = ExpectedPeer { mac: "02:00:00:00:00:09".to_owned(), ..peer.clone() };
        check(expect_peers(&a, overlay.device, family, &[other]).is_err(), || "a wrong MAC passes".to_owned())?;
        check(expect_peers(&a, overlay.device, family, &[]).is_err(), || "a peer too much passes".to_owned())?;

        let path = Path {
            underlay: &lab,
            from: (&a, overlay.address(1)),
            to: (&b, overlay.address(2)),
            encapsulation: Encapsulation::Vxlan,
        };
        let meter = LossMeter::start(&path)?;
        std::thread::sleep(Duration::from_secs(1));
        let loss = meter.stop_without_loss()?;
        check(loss.sent > 90, || format!("{loss:?}"))?;
        control_run(&path)?;

        let meter = LossMeter::start(&path)?;
        let cut = lab.partition(&a, &b)?;
        std::thread::sleep(Duration::from_millis(300));
        cut.heal();
        std::thread::sleep(Duration::from_millis(300));
        let lost = meter.stop()?.lost.len();
        check((10..=60).contains(&lost), || format!("a cut of 300 ms has lost {lost} pings"))?;

        let monitor = Monitor::listen(a.namespace())?;
        a.namespace().ip(&format!("route delete {}/{} dev {}", peer.subnet, peer.len, overlay.device))?;
        eventually(Duration::from_secs(1), || {
            check(monitor.count(Change::DELETE_ROUTE).0 == 1, || "the monitor heard no deletion".to_owned())
        })?;
        check(expect_peers(&a, overlay.device, family, &[peer]).is_err(), || "a missing route passes".to_owned())?;
    }
    Ok(())
}

#[test]
fn a_trace_shows_each_write_to_the_kernel_and_no_reading() -> Result {
    let lab = lab!();
    let host = lab.host("h1")?;
    // In the agent's place: a shell that writes twice, reads once, and waits. (`ip link` writes more: it asks first what the kernel can do.)
    let script =
        "ip address add 192.0.2.1/32 dev lo; ip route show; ip rule add from 192.0.2.1 table 99; exec sleep 60";
    let wrapper = ["sh", "-c", script].map(str::to_owned).to_vec();
    let mut stand_in = Agent::spawn(&host, AgentSpec { wrapper, ..AgentSpec::default() }.traced())?;
    let mut writes = Vec::new();
    eventually(Duration::from_secs(10), || {
        writes = stand_in.kernel_writes()?;
        check(writes.len() >= 2, || format!("{writes:?}"))
    })?;
    check(writes == ["RTM_NEWADDR", "RTM_NEWRULE"], || format!("{writes:?}"))?;
    // The signal reaches the traced process itself, not its tracer.
    let (status, _) = stand_in.terminate()?;
    check(status.code().is_none(), || format!("it ended with {status}"))
}

#[test]
fn nothing_of_a_lab_stays_after_a_panic() -> Result {
    let lab = lab!();
    let (id, dir) = (lab.run().id().to_owned(), lab.run().dir().to_owned());
    let unwound = catch_unwind(AssertUnwindSafe(move || {
        let _inhabitants = Inhabitants::new(&lab).expect("all of them");
        // The same unwinding as a panic's, without its message among the results.
        resume_unwind(Box::new(processes_in(&namespaces_of(lab.run().id()))));
    }));
    let before = unwound.expect_err("it panics").downcast::<BTreeSet<i32>>().expect("as thrown");
    nothing_stays(&id, &dir, &before)
}

#[test]
fn a_run_that_nobody_cleans_up_is_removed_by_its_id() -> Result {
    let lab = lab!();
    let (id, dir) = (lab.run().id().to_owned(), lab.run().dir().to_owned());
    std::mem::forget(Inhabitants::new(&lab)?);
    let before = processes_in(&namespaces_of(&id));
    remove(&id);
    nothing_stays(&id, &dir, &before)
}

/// One of each of what runs in a lab.
struct Inhabitants {
    _dockerd: Dockerd,
    _etcd: Etcd,
    _host: Host,
}

impl Inhabitants {
    fn new(lab: &Lab) -> Result<Self> {
        let host = lab.host("h1")?;
        let etcd = Etcd::start(lab)?;
        let mut dockerd = Dockerd::start(&host, &["--bip=10.5.1.1/24".to_owned()])?;
        let pid = dockerd.run()?.pid()?;
        // A container lives in a namespace of its own: it must be found through the process that started it.
        let all = processes_in(&namespaces_of(lab.run().id()));
        check(all.contains(&pid.cast_signed()), || format!("the container {pid} is not among {all:?}"))?;
        Ok(Self { _dockerd: dockerd, _etcd: etcd, _host: host })
    }
}

fn nothing_stays(id: &str, dir: &std::path::Path, before: &BTreeSet<i32>) -> Result {
    check(before.len() >= 4, || format!("too few processes to prove anything: {before:?}"))?;
    let alive: Vec<_> = before.iter().filter(|pid| is_alive(**pid)).collect();
    check(alive.is_empty(), || format!("processes that stay: {alive:?}"))?;
    check(namespaces_of(id).is_empty(), || format!("namespaces that stay: {:?}", namespaces_of(id)))?;
    check(!dir.exists(), || format!("{} stays", dir.display()))
}

/// Zombies do not count: they hold nothing.
fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z')))
}

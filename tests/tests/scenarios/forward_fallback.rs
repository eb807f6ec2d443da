//! Without any one of the kernel's offloads, and without all of them, the userspace path still carries everything
//! unchanged; and its counters and the underlay show that the offload was really off.

use wire_tests::{Capture, Etcd, Exchange, Family, Lab, Result, Tunnel, binary, check, eventually, lab};

use crate::{
    cluster::{PROMPT, START, exact},
    datapath::Datapath,
    ends::{End, ends},
};

/// What the kernel does for the userspace path, as `--forward-without` and `status` name it.
const OFFLOADS: [&str; 4] = ["uso", "tso", "gso", "gro"];
/// The flag that switches some of them off.
const WITHOUT: &str = "--forward-without=";

#[test]
fn raw_udp_falls_back_one_offload_at_a_time_over_ipv4() -> Result {
    fall_back(&lab!(), Datapath::UserspaceUdp, Family::V4)
}

#[test]
fn raw_udp_falls_back_one_offload_at_a_time_over_ipv6() -> Result {
    fall_back(&lab!(), Datapath::UserspaceUdp, Family::V6)
}

#[test]
fn userspace_vxlan_falls_back_one_offload_at_a_time_over_ipv4() -> Result {
    fall_back(&lab!(), Datapath::UserspaceVxlan, Family::V4)
}

#[test]
fn userspace_vxlan_falls_back_one_offload_at_a_time_over_ipv6() -> Result {
    fall_back(&lab!(), Datapath::UserspaceVxlan, Family::V6)
}

#[test]
fn a_kernel_without_vxlan_makes_the_agent_a_member_all_the_same() -> Result {
    let lab = lab!();
    let (etcd, [mut a, b]) = ends(&lab, [Datapath::KernelVxlan; 2], &[])?;
    a.node.agent.terminate()?;
    for family in Family::ALL {
        a.node.host.namespace().ip(&format!("link del {}", Datapath::KernelVxlan.device(family)))?;
    }
    a.node.agent.spec_mut().flags.push(format!("{WITHOUT}vxlan"));
    a.node.agent.restart()?;
    a.node.agent.wait_ready(START)?;
    // Nobody has asked for it.
    a.node.datapath = Datapath::UserspaceVxlan;
    a.node.tells_its_datapath()?;
    let why = a.node.agent.status()?.datapath.unwrap_or_default().why;
    check(why == "this kernel cannot make VXLAN devices", || why.clone())?;
    eventually(PROMPT, || exact(&etcd, &[&a.node, &b.node], &Family::ALL))?;
    Family::ALL.iter().try_for_each(|family| a.essentials(&b, *family))
}

#[test]
fn without_a_tun_device_there_is_one_clear_refusal() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(Datapath::UserspaceUdp.config())?;
    let [host] = lab.hosts()?;
    let folder = host.dir().display();
    let line = format!(
        "{} {} --iface=eth0 --run-dir={folder}/r --state-dir={folder}/s --subnet-file={folder}/e --docker-opts-file=",
        binary()?.display(),
        etcd.agent_flags().join(" ")
    );
    let hidden =
        format!("unshare -m sh -c 'mount -t tmpfs none /dev/net && exec timeout 20 {line}' 2>&1 || echo status $?");
    let said = host.namespace().sh(&hidden)?;
    check(said.ends_with("status 71\n") && said.contains("modprobe tun"), || said.clone())
}

#[test]
fn several_threads_move_raw_udp_of_many_flows() -> Result {
    by_several_threads(&lab!(), Datapath::UserspaceUdp)
}

#[test]
fn several_threads_move_userspace_vxlan_of_many_flows() -> Result {
    by_several_threads(&lab!(), Datapath::UserspaceVxlan)
}

fn by_several_threads(lab: &Lab, datapath: Datapath) -> Result {
    let (_etcd, [a, b]) = ends(lab, [datapath; 2], &["--forward-queues=4"])?;
    a.essentials(&b, Family::V4)?;
    a.exchange(&b, Family::V4, &Exchange::Streams("65537".to_owned()), 32)?;
    a.undamaged().and_then(|()| b.undamaged())
}

fn fall_back(lab: &Lab, datapath: Datapath, family: Family) -> Result {
    let (etcd, [mut a, mut b]) = ends(lab, [datapath; 2], &[])?;
    a.essentials(&b, family)?;
    // The control: with all of them, each is used.
    as_offloaded(lab, [&a, &b], family, &[])?;
    for off in OFFLOADS.chunks(1).chain([&OFFLOADS[..]]) {
        for end in [&mut a, &mut b] {
            let flags = &mut end.node.agent.spec_mut().flags;
            flags.retain(|flag| !flag.starts_with(WITHOUT));
            flags.push(format!("{WITHOUT}{}", off.join(",")));
            end.node.restart_by(datapath)?;
        }
        eventually(PROMPT, || exact(&etcd, &[&a.node, &b.node], &Family::ALL))?;
        a.essentials(&b, family)?;
        as_offloaded(lab, [&a, &b], family, off)?;
    }
    a.undamaged().and_then(|()| b.undamaged())
}

/// Checks that the offloads that are off are not used, and that the others are.
fn as_offloaded(lab: &Lab, ends: [&End; 2], family: Family, off: &[&str]) -> Result {
    let on = |offload: &str| !off.contains(&offload);
    let [a, b] = ends;
    let tunnels = || Ok::<_, wire_tests::LabError>([a.node.tunnel(family)?, b.node.tunnel(family)?]);
    let before = tunnels()?;
    for tunnel in &before {
        let wrong =
            OFFLOADS.iter().find(|offload| tunnel.capabilities.iter().any(|has| has == *offload) != on(offload));
        check(wrong.is_none(), || format!("without {off:?} {} says {:?}", tunnel.link, tunnel.capabilities))?;
    }

    let wire = Capture::start(lab.namespace(), a.node.host.port())?;
    a.exchange(b, family, &Exchange::Bursts("100,1200".to_owned()), 1)?;
    let between = tunnels()?;
    a.exchange(b, family, &Exchange::Streams("65537,300001".to_owned()), 2)?;
    let after = tunnels()?;
    let port = a.node.datapath.encapsulation().port();
    let wire = wire.stop_at_port(port)?;

    let more = |name: &str, from: &[Tunnel; 2], to: &[Tunnel; 2]| {
        to.iter().map(|tunnel| tunnel.counter(name)).sum::<u64>()
            - from.iter().map(|tunnel| tunnel.counter(name)).sum::<u64>()
    };
    let used = |offload: &str, what: &str, times: u64| {
        check((times > 0) == on(offload), || format!("without {off:?} there were {times} {what}"))
    };
    used("uso", "bursts to be cut", more("segmented", &before, &between))?;
    used("tso", "pieces of streams to be cut", more("segmented", &between, &after))?;
    // A veth hands a datagram of many to the other end as it is, and so to a capture.
    let uncut = wire.iter().filter(|(outgoing, datagram)| !outgoing && datagram.payload.len() > 1472).count();
    used("gso", "datagrams left to the kernel to cut", uncut as u64)?;
    // And only those are what the other end can receive many at a time.
    let many = more("gro_datagrams", &before, &after);
    check(if on("gro") { many > 0 || !on("gso") } else { many == 0 }, || {
        format!("without {off:?} there were {many} receives of many datagrams at a time")
    })
}

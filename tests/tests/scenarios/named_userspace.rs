//! Networks by name on hosts whose kernel has no VXLAN: the agent moves the frames of their bridges, and hosts with VXLAN see no difference.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    thread,
};

use wire_tests::{
    AgentSpec, Etcd, Exchange, Family, Lab, LabError, Namespace, Result, TrafficServer, check, eventually, lab,
};

use crate::{
    attach_site::{Site, attach, ctl, json, silent},
    cluster::{DUAL, Node, START, V4, V6, cluster_of, put_peers, settle},
    datapath::Datapath,
    host_gw::HOST_GW,
    named::{over_three_hosts, picture},
    named_isolation::{networks_are_apart, nothing_forged_is_taken},
};

use Datapath::{KernelVxlan, UserspaceVxlan};

/// One host of kernel VXLAN, and two of userspace VXLAN.
const MIXED: [Datapath; 3] = [KernelVxlan, UserspaceVxlan, UserspaceVxlan];

/// A namespace on a network, and its addresses there.
struct Attached {
    guest: Namespace,
    addresses: Vec<IpAddr>,
}

impl Attached {
    fn on(site: &Site, network: &str) -> Result<Self> {
        let host = site.node.host.namespace();
        let guest = Namespace::new(host.run(), &format!("{}-{network}", site.node.host.name()))?;
        guest.sh("ip link set lo up")?;
        let addresses = attach(&site.node, &format!("/run/netns/{} {network}", guest.name()))?;
        Ok(Self { guest, addresses })
    }

    fn ping(&self, flags: &str, to: IpAddr) -> Result {
        let said = self.guest.exec(&format!("ping {flags} {to}"))?;
        check(said.contains(" 0% packet loss"), || format!("ping {flags} {to}: {said}"))
    }
}

fn sites<const N: usize>(lab: &Lab, config: &str, datapaths: [Datapath; N]) -> Result<(Etcd, Vec<Site>)> {
    let (etcd, nodes) = cluster_of(lab, config, datapaths, &[])?;
    let sites = nodes.into_iter().map(|node| Site::new(node, false)).collect::<Result<Vec<_>>>()?;
    Ok((etcd, sites))
}

fn logs(sites: &[Site]) -> String {
    sites.iter().map(|site| site.node.agent.log()).collect()
}

/// Pairs of guests of different hosts, with an address of the second.
fn pairs(all: &[Attached]) -> impl Iterator<Item = (&Attached, &Attached, IpAddr)> {
    let others = move |from: usize| all.iter().enumerate().filter(move |(to, _)| *to != from);
    let each = all.iter().enumerate().flat_map(move |(from, one)| others(from).map(move |(_, other)| (one, other)));
    each.flat_map(|(one, other)| other.addresses.iter().map(move |address| (one, other, *address)))
}

/// The entries of the others are in all kernels a moment after the last one has joined.
fn all_meet(sites: &[Site], all: &[Attached]) -> Result {
    for (one, _, address) in pairs(all) {
        let meets = || {
            let pinged = one.ping("-c 1 -W 2", address);
            check(pinged.is_ok(), || format!("{:?} does not reach {address}\n{}", one.addresses, logs(sites)))
        };
        eventually(START, meets)?;
    }
    Ok(())
}

/// Packets as large as the MTU, and fragments; streams and datagrams of all sizes, unchanged.
fn carry(all: &[Attached]) -> Result {
    for (one, other, address) in pairs(all) {
        let headers = if address.is_ipv4() { 28 } else { 48 };
        let mtu = one.guest.sh("cat /sys/class/net/eth*/mtu | sort -n | head -1")?;
        let largest = mtu.trim().parse::<u32>().map_err(|_| LabError::Wrong(mtu.clone()))? - headers;
        one.ping(&format!("-c 2 -i 0.2 -M do -s {largest}"), address)?;
        one.ping("-c 2 -i 0.2 -s 9000", address)?;
        let server = TrafficServer::start(&other.guest, address)?;
        server.exchange(&one.guest, &Exchange::Streams("65537,5000011".to_owned()), 2)?;
        server.exchange(&one.guest, &Exchange::Datagrams(format!("1..=64,1300..={largest},20001")), 1)?;
        server.exchange(&one.guest, &Exchange::Bursts("100,1200".to_owned()), 1)?;
    }
    Ok(())
}

fn containers_meet(lab: &Lab, (config, flags): (&str, &str), families: &[Family]) -> Result {
    let (_etcd, sites) = sites(lab, config, MIXED)?;
    ctl(&sites[0].node, &format!("network create app{flags}"))?;
    let all = sites.iter().map(|site| Attached::on(site, "app")).collect::<Result<Vec<_>>>()?;
    check(all.iter().all(|one| one.addresses.len() == families.len()), || "a family is missing".to_owned())?;
    all_meet(&sites, &all)?;
    // A later one on each host, which needs nothing of the others: its first packets are not lost.
    for site in &sites {
        let guest = Namespace::new(site.node.host.namespace().run(), &format!("{}-late", site.node.host.name()))?;
        let addresses = attach(&site.node, &format!("/run/netns/{} app", guest.name()))?;
        let late = Attached { guest, addresses };
        for one in &all {
            late.addresses.iter().try_for_each(|address| one.ping("-c 3 -i 0.2 -W 5", *address))?;
            one.addresses.iter().try_for_each(|address| late.ping("-c 3 -i 0.2 -W 5", *address))?;
        }
        ctl(&site.node, &format!("detach /run/netns/{}", late.guest.name()))?;
    }
    carry(&all)?;
    silent(&sites)
}

#[test]
fn containers_of_kernel_and_userspace_hosts_meet_in_ipv4() -> Result {
    containers_meet(&lab!(), (V4, ""), &[Family::V4])
}

#[test]
fn containers_of_kernel_and_userspace_hosts_meet_in_ipv6() -> Result {
    containers_meet(&lab!(), (V6, " --no-ipv4 --ipv6"), &[Family::V6])
}

#[test]
fn containers_of_kernel_and_userspace_hosts_meet_in_both_families() -> Result {
    containers_meet(&lab!(), (DUAL, " --ipv6"), &Family::ALL)
}

#[test]
fn a_network_over_kernel_and_userspace_hosts_leaves_nothing_behind() -> Result {
    over_three_hosts(&lab!(), (DUAL, " --ipv6"), &Family::ALL, MIXED)
}

#[test]
fn networks_of_userspace_hosts_are_apart() -> Result {
    networks_are_apart(&lab!(), [UserspaceVxlan; 2])
}

#[test]
fn networks_of_a_userspace_and_a_kernel_host_are_apart() -> Result {
    networks_are_apart(&lab!(), [UserspaceVxlan, KernelVxlan])
}

#[test]
fn what_is_forged_to_a_userspace_host_of_a_network_is_dropped_and_counted() -> Result {
    let datapaths = [UserspaceVxlan, KernelVxlan, UserspaceVxlan, KernelVxlan];
    nothing_forged_is_taken(&lab!(), (DUAL, " --ipv6"), Family::V4, datapaths)
}

#[test]
fn what_is_forged_to_a_userspace_host_over_ipv6_is_dropped_and_counted() -> Result {
    let datapaths = [UserspaceVxlan, KernelVxlan, UserspaceVxlan, KernelVxlan];
    nothing_forged_is_taken(&lab!(), (V6, " --no-ipv4 --ipv6"), Family::V6, datapaths)
}

/// Without the entries that the bridge has learnt at ports of containers: they come with the next packet.
fn without_learnt(picture: &str) -> String {
    picture.lines().filter(|line| !line.contains(" dev wp")).collect::<Vec<_>>().join("\n")
}

#[test]
fn devices_and_entries_of_a_userspace_host_that_are_deleted_are_back() -> Result {
    let lab = lab!();
    let (_etcd, sites) = sites(&lab, DUAL, [UserspaceVxlan, KernelVxlan])?;
    ctl(&sites[0].node, "network create app --ipv6")?;
    let all = sites.iter().map(|site| Attached::on(site, "app")).collect::<Result<Vec<_>>>()?;
    all_meet(&sites, &all)?;
    silent(&sites)?;
    let one = &sites[0].node;
    let vni = json(one, "network inspect app")?["vni"].to_string();
    let (bridge, device, address) = (format!("wb.{vni}"), format!("wv.{vni}"), all[1].addresses[0]);
    let host = one.host.namespace();
    let mac = host.sh(&format!("ip -o neigh show {address} dev {bridge} | cut -d' ' -f3"))?;
    let whole = without_learnt(&picture(one)?);
    for damage in [
        format!("ip link delete {device}"),
        format!("ip link set {device} nomaster"),
        format!("ip link set {device} down"),
        format!("bridge link set dev {device} neigh_suppress off flood on"),
        format!("ip neigh delete {address} dev {bridge}"),
        format!("bridge fdb delete {} dev {device} master", mac.trim()),
        format!("ip addr flush dev {bridge} scope global"),
        format!("ip link delete {bridge}"),
    ] {
        host.sh(&damage)?;
        let is_whole = || {
            let now = without_learnt(&picture(one)?);
            check(now == whole, || format!("after {damage}: {now}\nand not {whole}\n{}", one.agent.log()))
        };
        eventually(START, is_whole)?;
        all_meet(&sites, &all)?;
        silent(&sites)?;
    }
    one.agent.ctl(&["debug", "panic", "worker"])?;
    all_meet(&sites, &all)
}

/// systemd keeps the device's queue and the sockets, and packets wait in them.
#[test]
fn a_restart_of_a_userspace_host_loses_nothing_on_a_network() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL)?;
    let [one, other] = lab.hosts::<2>()?;
    let spec = || AgentSpec { hand_over: true, ..AgentSpec::new(etcd.agent_flags()) };
    let nodes = [Node::by(UserspaceVxlan, one, spec())?, Node::by(KernelVxlan, other, spec())?];
    let mut sites = nodes.into_iter().map(|node| Site::new(node, false)).collect::<Result<Vec<_>>>()?;
    ctl(&sites[0].node, "network create app --ipv6")?;
    let all = sites.iter().map(|site| Attached::on(site, "app")).collect::<Result<Vec<_>>>()?;
    all_meet(&sites, &all)?;
    for address in &all[0].addresses {
        let (from, agent) = (&all[1], &mut sites[0].node.agent);
        let pinged = thread::scope(|scope| {
            let pings = scope.spawn(|| from.ping("-c 400 -i 0.02 -W 10", *address));
            agent.terminate()?;
            agent.restart()?;
            agent.wait_ready(START)?;
            pings.join().map_err(|_| LabError::Wrong("no pings".to_owned()))?
        });
        pinged.map_err(|error| LabError::Wrong(format!("{error:?}\n{}", logs(&sites))))?;
    }
    silent(&sites)
}

/// The device is made anew, and the others learn the other port.
#[test]
fn a_host_that_starts_without_vxlan_and_later_with_it_stays_on_its_networks_and_drains() -> Result {
    let lab = lab!();
    let (etcd, mut sites) = sites(&lab, DUAL, [KernelVxlan; 2])?;
    let before = picture(&sites[0].node)?;
    ctl(&sites[0].node, "network create app --ipv6")?;
    ctl(&sites[0].node, "network create more")?;
    let mut all = sites.iter().map(|site| Attached::on(site, "app")).collect::<Result<Vec<_>>>()?;
    let more = sites.iter().map(|site| Attached::on(site, "more")).collect::<Result<Vec<_>>>()?;
    all_meet(&sites, &all)?;
    let with_vxlan = picture(&sites[0].node)?;
    for datapath in [UserspaceVxlan, KernelVxlan, UserspaceVxlan] {
        sites[0].node.restart_by(datapath)?;
        let here = || {
            let inspected = ["app", "more"].map(|name| json(&sites[0].node, &format!("network inspect {name}")));
            let [app, more] = inspected.map(|inspected| inspected.map(|inspected| inspected["here"].clone()));
            let (app, more) = (app?, more?);
            let ports = [&app, &more].map(|here| here["port"].as_u64().unwrap_or_default());
            let (is_right, lacks) = match datapath {
                UserspaceVxlan => (ports.iter().all(|port| *port >= 61_000) && ports[0] != ports[1], "broadcast"),
                KernelVxlan | Datapath::UserspaceUdp => (ports == [8472; 2], ""),
            };
            let says = app["lacks"].as_str().unwrap_or_default();
            let is_said = says.starts_with(lacks) && says.is_empty() == lacks.is_empty();
            check(is_right && is_said, || format!("{app} {more}\n{}", sites[0].node.agent.log()))
        };
        eventually(START, here)?;
        all_meet(&sites, &all)?;
        all_meet(&sites, &more)?;
        silent(&sites)?;
        let status = sites[0].node.agent.ctl(&["status"])?;
        check(status.contains("without broadcast") == (datapath == UserspaceVxlan), || status.clone())?;
    }
    check(picture(&sites[0].node)? != with_vxlan, || "the kernel's VXLAN is there".to_owned())?;
    all.clear();
    drop(more);
    sites[0].node.agent.terminate()?;
    let drained = sites[0].node.agent.run_with_its_flags("drain")?;
    check(drained.status.success(), || format!("{drained:?}"))?;
    let left =
        sites[0].node.host.namespace().sh("ip -o link | grep -E 'w[bvp]' || true; ip neigh show nud permanent")?;
    check(left.is_empty(), || format!("{left}\n{before}"))?;
    let members = etcd.list(&format!("{}/wire/members/", Etcd::PREFIX))?;
    check(members.len() == 2, || format!("the other one's: {members:?}"))
}

/// The default network has no use for VXLAN, so it is a network by name that finds that the kernel has none.
#[test]
fn a_kernel_without_vxlan_is_on_networks_by_name_whatever_the_default_networks_backend() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(HOST_GW)?;
    let spec = || AgentSpec::new(etcd.agent_flags()).flag("--forward-without=vxlan");
    let site = |host| Site::new(Node::with(host, spec())?, false);
    let mut sites = lab.hosts::<2>()?.into_iter().map(site).collect::<Result<Vec<_>>>()?;
    ctl(&sites[0].node, "network create app --ipv6")?;
    let all = sites.iter().map(|site| Attached::on(site, "app")).collect::<Result<Vec<_>>>()?;
    all_meet(&sites, &all)?;
    silent(&sites)?;
    for site in &sites {
        let said = site.node.agent.log();
        check(said.matches("this kernel cannot make VXLAN devices").count() == 1, || said.clone())?;
        check(site.node.agent.status()?.phase == "ready", || site.node.agent.log())?;
    }
    restarts_as_it_was(&mut sites[0])?;
    all_meet(&sites, &all)?;
    silent(&sites)
}

/// A start begins with what was: the device stays, the port is the same, and no other way is tried. `verify` knows it without the agent, and misses its tunnel alone.
fn restarts_as_it_was(site: &mut Site) -> Result {
    let port = |site: &Site| Ok::<_, LabError>(json(&site.node, "network inspect app")?["here"]["port"].clone());
    let device = |site: &Site| site.node.host.namespace().sh("ip -o link show type tun | cut -d: -f1,2");
    let before = (port(site)?, device(site)?);
    check(!before.1.is_empty(), || "no TAP device".to_owned())?;
    site.node.agent.terminate()?;
    let verified = site.node.agent.run_with_its_flags("verify")?;
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    let is_of_tunnel = |line: &str| line.contains("has no tunnel of this agent") || line.contains("forwarding entry");
    check(!said.is_empty() && said.lines().all(is_of_tunnel), || format!("{verified:?}"))?;
    site.node.agent.restart()?;
    site.node.agent.wait_ready(START)?;
    let is_as_before = || {
        let is_joined = json(&site.node, "network inspect app")?["here"]["state"] == "joined";
        let after = (port(site)?, device(site)?);
        check(is_joined && after == before, || format!("{after:?} and not {before:?}\n{}", site.node.agent.log()))
    };
    eventually(START, is_as_before).map(drop)
}

/// A socket of somebody else, at all addresses.
fn foreign_socket(site: &Site, port: u16) -> Result<UdpSocket> {
    let bound = site.node.host.namespace().inside(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?;
    bound.map_err(|error| LabError::Wrong(format!("port {port}: {error}")))
}

/// New ports are looked at before; one that was had in an earlier run is given up. The default network goes on in any case.
#[test]
fn a_port_that_a_program_has_is_left_to_it() -> Result {
    let lab = lab!();
    let (etcd, mut sites) = sites(&lab, V4, [UserspaceVxlan, KernelVxlan])?;
    let first = foreign_socket(&sites[0], 61_000)?;
    ctl(&sites[0].node, "network create app")?;
    let all = sites.iter().map(|site| Attached::on(site, "app")).collect::<Result<Vec<_>>>()?;
    all_meet(&sites, &all)?;
    let port = |site: &Site| Ok::<_, LabError>(json(&site.node, "network inspect app")?["here"]["port"].clone());
    check(port(&sites[0])? == 61_001, || logs(&sites))?;
    sites[0].node.agent.terminate()?;
    let second = foreign_socket(&sites[0], 61_001)?;
    sites[0].node.agent.restart()?;
    sites[0].node.agent.wait_ready(START)?;
    eventually(START, || check(port(&sites[0])? == 61_002, || logs(&sites)))?;
    all_meet(&sites, &all)?;
    put_peers(&etcd, 1, &[Family::V4])?;
    let nodes: Vec<&Node> = sites.iter().map(|site| &site.node).collect();
    settle(&etcd, &nodes, &[Family::V4])?;
    silent(&sites)?;
    drop((first, second));
    Ok(())
}

/// True once a host says why it is not on the network: another device has the name of its own.
fn says_what_is_in_the_way(node: &Node, device: &str) -> Result {
    let here = json(node, "network inspect app")?["here"].clone();
    let reason = here["reason"].as_str().unwrap_or_default();
    check(reason.contains(device) && reason.contains("rename or remove it"), || format!("{here}\n{}", node.agent.log()))
}

/// A device of another kind in the place of ours: the tunnel stops, and has nothing to stop when the network goes.
#[test]
fn a_network_that_goes_while_its_tunnel_does_not_run_leaves_no_socket_and_says_why_it_did_not_run() -> Result {
    let lab = lab!();
    let (_etcd, sites) = sites(&lab, V4, [UserspaceVxlan])?;
    let (node, host) = (&sites[0].node, sites[0].node.host.namespace());
    ctl(node, "network create app")?;
    ctl(node, "network expose app")?;
    let inspected = || json(node, "network inspect app");
    let device = format!("wv.{}", inspected()?["vni"]);
    host.sh(&format!("ip link delete {device} && ip link add {device} type bridge"))?;
    eventually(START, || says_what_is_in_the_way(node, &device))?;
    host.sh(&format!("ip link delete {device}"))?;
    eventually(START, || check(inspected()?["here"]["reason"] == "", || node.agent.log()))?;
    host.sh(&format!("ip link delete {device} && ip link add {device} type bridge"))?;
    eventually(START, || says_what_is_in_the_way(node, &device))?;
    ctl(node, "network hide app")?;
    foreign_socket(&sites[0], 61_000).map(drop)
}

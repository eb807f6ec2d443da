//! flannel's lease is a peer, and flannel's device and entries are taken over in place.

use wire_tests::{
    Agent, AgentSpec, Encapsulation, Etcd, Family, Host, LossMeter, PeerLease, Result, check, eventually, expect_peers,
    lab,
};

use crate::cluster::{Node, PROMPT, START, V4, device, exact, path, settle};

const OWN_MAC: &str = "02:f1:a0:00:00:01";
const PEER_MAC: &str = "02:f1:a0:00:00:02";

#[test]
fn a_host_of_flannel_is_taken_over_without_a_write_or_a_lost_ping() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host, peer] = lab.hosts::<2>()?;
    let (own, other) = (lease("10.5.9.0", &host, OWN_MAC), lease("10.5.8.0", &peer, PEER_MAC));
    let mut gateway = etcd.gateway()?;
    let etcd_lease = gateway.grant(86_400)?;
    gateway.put_all(&[own.entry(), other.entry()], etcd_lease)?;
    as_flannel(&host, &own, &other)?;
    as_flannel(&peer, &other, &own)?;
    let path = path(&lab, (&peer, other.subnet.into()), (&host, own.subnet.into()));
    let before = host.kernel().link(device(Family::V4))?;
    let meter = LossMeter::start(&path)?;

    let mut agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()).traced())?;
    agent.wait_ready(START)?;
    eventually(START, || check(agent.status()?.phase == "ready", || agent.log()))?;
    check(agent.subnet_env()?["FLANNEL_SUBNET"] == "10.5.9.1/24", || format!("{:?}", agent.subnet_env()))?;
    let writes = agent.kernel_writes()?;
    check(writes.is_empty(), || format!("it wrote {writes:?}\n{}", agent.log()))?;
    check(host.kernel().link(device(Family::V4))? == before, || "the device is another".to_owned())?;
    expect_peers(&host, device(Family::V4), Family::V4, &[other.expected(Family::V4).unwrap()])?;
    let peers = agent.peers()?;
    check(peers.peers.len() == 1 && peers.peers[0].programmed, || format!("{peers:?}"))?;
    meter.stop_without_loss()?;
    // The key is still that of flannel, with the lease it had.
    let stored = etcd.get(&own.key())?.unwrap();
    check(stored.value() == own.value() && stored.lease == etcd_lease, || format!("{stored:?}"))?;

    // Adopted state is kept like our own.
    etcd.delete(&other.key())?;
    eventually(PROMPT, || expect_peers(&host, device(Family::V4), Family::V4, &[])).map(drop)
}

#[test]
fn the_subnet_of_a_former_flannel_is_preferred_and_its_stale_entries_go() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [host, peer] = lab.hosts::<2>()?;
    // Its lease has expired, its peer is gone, and what is left is the file and the kernel's state.
    as_flannel(&host, &lease("10.5.11.0", &host, OWN_MAC), &lease("10.5.8.0", &peer, PEER_MAC))?;
    let mut agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()))?;
    // Where an agent would find flannel's file.
    agent.kill();
    let _ = std::fs::remove_dir_all(agent.state_dir());
    etcd.delete_all(&format!("{}/subnets/", Etcd::PREFIX))?;
    etcd.delete_all(&format!("{}/wire/", Etcd::PREFIX))?;
    let env = "FLANNEL_NETWORK=10.5.0.0/16\nFLANNEL_SUBNET=10.5.11.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
    std::fs::create_dir_all(agent.subnet_file().parent().unwrap()).unwrap();
    std::fs::write(agent.subnet_file(), env).unwrap();
    agent.restart()?;
    agent.wait_ready(START)?;
    check(agent.subnet_env()?["FLANNEL_SUBNET"] == "10.5.11.1/24", || agent.log())?;
    let link = host.kernel().link(device(Family::V4))?.unwrap();
    check(link.address == OWN_MAC, || format!("the MAC of the device in use is not kept: {link:?}"))?;
    eventually(PROMPT, || expect_peers(&host, device(Family::V4), Family::V4, &[])).map(drop)
}

#[test]
fn a_large_network_can_be_handed_back_to_flannel_while_traffic_flows() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(
        r#"{"Network":"10.0.0.0/8","SubnetMin":"10.0.1.0","SubnetMax":"10.0.15.0","Backend":{"Type":"vxlan"}}"#,
    )?;
    let [a, b] = lab.hosts::<2>()?;
    let (mut a, b) = (Node::start(a, &etcd)?, Node::start(b, &etcd)?);
    let peers: Vec<PeerLease> = (1..=600).map(PeerLease::numbered).collect();
    etcd.put_all(&peers.iter().map(PeerLease::entry).collect::<Vec<_>>())?;
    settle(&etcd, &[&a, &b], &[Family::V4])?;
    let with_objects = |node: &Node| -> Result<usize> {
        let routes = node.host.kernel().routes_through(device(Family::V4), Family::V4)?;
        Ok(routes.iter().filter(|route| route.nexthop.is_some()).count())
    };
    check(with_objects(&a)? > 0, || "a network this large has no nexthop objects".to_owned())?;
    let path = path(&lab, (&b.host, b.vtep(Family::V4)?), (&a.host, a.vtep(Family::V4)?));
    let meter = LossMeter::start(&path)?;
    // What a running agent would put back again is not undone.
    let refused = a.agent.run_with_its_flags("hand-back")?;
    check(refused.status.code() == Some(75) && with_objects(&a)? > 0, || format!("while it runs: {refused:?}"))?;
    a.agent.terminate()?;
    let output = a.agent.run_with_its_flags("hand-back")?;
    check(output.status.success(), || format!("{output:?}"))?;
    check(with_objects(&a)? == 0, || format!("{} routes still have nexthop objects", with_objects(&a).unwrap()))?;
    exact(&etcd, &[&a], &[Family::V4])?;
    meter.stop_without_loss()?;
    // A deletion by gateway and device, flannel's, finds its route.
    let subnet = peers[598].subnet;
    a.host.namespace().ip(&format!("route delete {subnet}/24 via {subnet} dev flannel.1 onlink")).map(drop)
}

#[test]
fn a_peer_as_older_flannels_write_it_is_a_peer() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let node = Node::start(lab.host("a")?, &etcd)?;
    for value in [
        r#"{"PublicIP":"172.20.0.1","BackendType":"vxlan","BackendData":{"VtepMAC":"02:aa:00:00:00:14"}}"#,
        r#"{"publicip":"172.20.0.1","publicipv6":null,"backendtype":"vxlan","backenddata":{"vni":1,"vtepmac":"02:AA:00:00:00:14"},"New":{"x":[1]}}"#,
    ] {
        etcd.put(&format!("{}/subnets/10.5.20.0-24", Etcd::PREFIX), value)?;
        let peer = PeerLease { public_ip: "172.20.0.1".parse().unwrap(), ..PeerLease::numbered(20) };
        eventually(PROMPT, || {
            expect_peers(&node.host, device(Family::V4), Family::V4, &[peer.expected(Family::V4).unwrap()])
        })?;
        etcd.delete(&peer.key())?;
        eventually(PROMPT, || exact(&etcd, &[&node], &[Family::V4]))?;
    }
    Ok(())
}

fn lease(subnet: &str, host: &Host, mac: &str) -> PeerLease {
    PeerLease {
        subnet: subnet.parse().unwrap(),
        subnet_v6: None,
        public_ip: host.v4(),
        public_ipv6: None,
        mac: mac.to_owned(),
        mac_v6: String::new(),
        encapsulation: Encapsulation::Vxlan,
    }
}

/// What flannel leaves in the kernel of a host with one peer.
fn as_flannel(host: &Host, own: &PeerLease, peer: &PeerLease) -> Result {
    let (ip, mac, subnet) = (own.public_ip, &own.mac, own.subnet);
    let script = format!(
        "sysctl -qw net.ipv4.ip_forward=1
         ip link add flannel.1 address {mac} type vxlan id 1 dev eth0 local {ip} dstport 8472 nolearning
         ip link set flannel.1 mtu 1450
         ip address add {subnet}/32 dev flannel.1
         ip link set flannel.1 up
         ip neighbour add {} lladdr {} dev flannel.1 nud permanent
         bridge fdb add {} dev flannel.1 dst {}
         ip route add {}/24 via {} dev flannel.1 onlink",
        peer.subnet, peer.mac, peer.mac, peer.public_ip, peer.subnet, peer.subnet
    );
    host.namespace().sh(&format!("set -e\n{script}")).map(drop)
}

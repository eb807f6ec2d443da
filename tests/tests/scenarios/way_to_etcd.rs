//! The way to etcd, which neither a lease nor a route for the whole network may lead into the overlay.

use std::{fs, net::IpAddr};

use wire_tests::{AgentSpec, Etcd, Family, Host, PeerLease, Result, check, eventually, lab};

use crate::{
    cluster::{Node, PROMPT, START, V4, peer, phase},
    datapath::Datapath,
};

/// etcd's address lies in this network, behind the default route.
const NETWORK: &str = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.9.0.0","SubnetMax":"10.9.3.0","Backend":{"Type":"vxlan"}}"#;
const ETCD: &str = "10.9.0.5";

#[test]
fn a_lease_that_holds_an_address_of_etcd_is_named_and_never_cuts_a_host_off() -> Result {
    let lab = lab!();
    let mut etcd = Etcd::start(&lab)?;
    etcd.put_config(NETWORK)?;
    let mut node = Node::with(behind_default_route(&etcd, lab.host("a")?)?, by_that_address(&etcd))?;
    let evil = PeerLease { subnet: "10.9.0.0".parse().unwrap(), ..peer(70, &[Family::V4]) };
    etcd.put(&evil.key(), &evil.value())?;
    eventually(PROMPT * 3, || is_refused(&node))?;
    goes_on(&etcd, &node, 71)?;

    // What an earlier version has kept of it, for a start while etcd is away.
    node.agent.terminate()?;
    let kept = node.agent.state_dir().join("network.json");
    let mut known: serde_json::Value = serde_json::from_str(&fs::read_to_string(&kept).unwrap()).unwrap();
    let of_evil = serde_json::json!({"key": evil.key(), "value": evil.value(), "create_revision": 3});
    known["leases"].as_array_mut().unwrap().insert(0, of_evil);
    fs::write(&kept, known.to_string()).unwrap();
    etcd.kill(0);
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    phase(&node.agent, "degraded")?;
    is_refused(&node)?;
    etcd.restart(0)?;
    eventually(START, || check(node.agent.status()?.phase == "ready", || node.agent.log()))?;
    goes_on(&etcd, &node, 72)?;

    // Written for a host that has none yet, it is no lease of that host.
    let host = behind_default_route(&etcd, lab.host("b")?)?;
    etcd.put(&evil.key(), &format!(r#"{{"PublicIP":"{}"}}"#, host.v4()))?;
    let other = Node::with(host, by_that_address(&etcd))?;
    let subnet = other.subnet(Family::V4)?;
    check(!subnet.starts_with("10.9.0."), || subnet)?;
    is_refused(&node)
}

#[test]
fn the_udp_backend_never_leads_an_address_of_etcd_that_lies_in_the_network_into_its_device() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(r#"{"Network":"10.0.0.0/8","SubnetLen":24,"Backend":{"Type":"udp"}}"#)?;
    let [a, b] = lab.hosts::<2>()?;
    let node = |host| Node::by(Datapath::UserspaceUdp, behind_default_route(&etcd, host)?, by_that_address(&etcd));
    let (a, b) = (node(a)?, node(b)?);
    let (to_a, to_b) = (a.vtep(Family::V4)?, b.vtep(Family::V4)?);
    eventually(PROMPT * 5, || {
        check(a.host.pings(to_b) && b.host.pings(to_a), || format!("{}\n{}", a.agent.log(), b.agent.log()))
    })?;
    for (number, node) in [(71, &a), (72, &b)] {
        is_not_led_away(node)?;
        goes_on(&etcd, node, number)?;
    }
    Ok(())
}

/// The bridge of such a network would have a route to all of its addresses.
#[test]
fn a_network_by_name_with_an_address_of_etcd_is_refused_where_it_is_made_and_where_it_is_joined() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    let [a, b] = lab.hosts::<2>()?;
    let node = Node::with(behind_default_route(&etcd, a)?, by_that_address(&etcd))?;
    let create = "network create app --subnet=10.9.0.0/20";
    let made = node.agent.run_with_its_flags(create)?;
    let said = String::from_utf8_lossy(&made.stderr);
    check(!made.status.success() && said.contains("10.9.0.5/32, an address of etcd"), || said.to_string())?;

    // A host that reaches etcd by another address does not know of this one.
    let other = Node::start(b, &etcd)?;
    let made = other.agent.run_with_its_flags(create)?;
    check(made.status.success(), || format!("{made:?}"))?;
    let exposed = other.agent.run_with_its_flags("network expose app")?;
    check(exposed.status.success(), || format!("{exposed:?}"))?;
    let exposed = node.agent.run_with_its_flags("network expose app")?;
    let said = format!("{exposed:?}");
    check(said.contains("overlaps 10.9.0.5/32, an address of etcd"), || said)?;
    is_not_led_away(&node)?;
    goes_on(&etcd, &node, 73)
}

fn is_refused(node: &Node) -> Result {
    let peers = node.agent.peers()?;
    let named = |reason: &str| reason.contains(ETCD) && reason.contains("reaches etcd");
    check(peers.refused.iter().any(|refused| named(&refused.reason)), || format!("{peers:?}"))?;
    is_not_led_away(node)
}

fn is_not_led_away(node: &Node) -> Result {
    let route = node.host.exec(&format!("ip route get {ETCD}"))?;
    check(route.contains("dev eth0"), || route)
}

/// The host still learns of leases.
fn goes_on(etcd: &Etcd, node: &Node, number: u16) -> Result {
    let newcomer = PeerLease { encapsulation: node.datapath.encapsulation(), ..peer(number, &[Family::V4]) };
    etcd.put(&newcomer.key(), &newcomer.value())?;
    eventually(PROMPT * 3, || {
        let peers = node.agent.peers()?;
        let public = Some(newcomer.public_ip.to_string());
        check(peers.peers.iter().any(|peer| peer.programmed && peer.public_ip == public), || format!("{peers:?}"))
    })
    .map(drop)
}

/// etcd's host is the host's router, and answers for etcd's address.
fn behind_default_route(etcd: &Etcd, host: Host) -> Result<Host> {
    let there = etcd.host(0);
    let address: IpAddr = there.v4().into();
    there.namespace().sh(&format!(
        "nft 'add table ip store; add chain ip store pre {{ type nat hook prerouting priority -100; }};
         flush chain ip store pre; add rule ip store pre ip daddr {ETCD} dnat to {address}'"
    ))?;
    host.namespace().ip(&format!("route replace default via {address} dev eth0"))?;
    Ok(host)
}

fn by_that_address(etcd: &Etcd) -> AgentSpec {
    let mut spec = AgentSpec::new(etcd.agent_flags());
    let address = etcd.host(0).v4().to_string();
    let endpoints = spec.flags.iter_mut().filter(|flag| flag.starts_with("--etcd-endpoints"));
    endpoints.for_each(|flag| *flag = flag.replace(&address, ETCD));
    spec
}

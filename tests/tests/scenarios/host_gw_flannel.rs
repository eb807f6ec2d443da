//! flannel's own state of host-gw is taken over and handed back: its leases, and its routes on the underlay's link.

use std::net::IpAddr;

use wire_tests::{Agent, AgentSpec, Etcd, Family, Host, Pings, Result, check, eventually, lab};

use crate::cluster::{PROMPT, START};

const DUAL_HOST_GW: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.15.0","EnableIPv6":true,"IPv6Network":"fd00:5::/32",
    "IPv6SubnetMax":"fd00:5:0:ff::","Backend":{"Type":"host-gw"}}"#;

/// The protocol of flannel's routes, as [`Flannel::protocol`] has it.
const BOOT: Option<&str> = Some("");

/// A host as flannel left it: the number of its subnet, and a bridge in it.
struct Flannel {
    host: Host,
    number: u8,
}

impl Flannel {
    fn new(host: Host, number: u8) -> Result<Self> {
        host.namespace().sh(&format!(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             ip link add docker0 type bridge; ip link set docker0 up
             ip address add 10.5.{number}.1/24 dev docker0; ip address add fd00:5:0:{number}::1/64 dev docker0 nodad"
        ))?;
        Ok(Self { host, number })
    }

    fn subnet(&self, family: Family) -> String {
        subnet(self.number, family)
    }

    fn inside(&self, family: Family) -> IpAddr {
        let subnet: wire_net::Prefix = self.subnet(family).parse().unwrap();
        match subnet.network() {
            IpAddr::V4(v4) => IpAddr::from((u32::from(v4) + 1).to_be_bytes()),
            IpAddr::V6(v6) => IpAddr::from((u128::from(v6) + 1).to_be_bytes()),
        }
    }

    fn key(&self) -> String {
        format!("{}/subnets/10.5.{number}.0-24&fd00:5:0:{number}::-64", Etcd::PREFIX, number = self.number)
    }

    fn value(&self) -> String {
        let [v4, v6] = [Family::V4, Family::V6].map(|family| self.host.on_underlay(family));
        format!(r#"{{"PublicIP":"{v4}","PublicIPv6":"{v6}","BackendType":"host-gw"}}"#)
    }

    /// Adds a route as flannel does, or as an operator does who names no protocol.
    fn routes_to(&self, number: u8, by: &Host) -> Result {
        for family in Family::ALL {
            let (subnet, gateway) = (subnet(number, family), by.on_underlay(family));
            self.host.namespace().ip(&format!("route add {subnet} via {gateway} dev eth0"))?;
        }
        Ok(())
    }

    /// The protocol of the route to a subnet, by ip's word, which has none for `boot`; `None` if there is no route.
    fn protocol(&self, number: u8, family: Family) -> Result<Option<String>> {
        let routes = self.host.kernel().routes(family)?;
        let found = routes.into_iter().find(|route| route.destination == subnet(number, family));
        Ok(found.map(|route| route.protocol))
    }

    fn expect(&self, number: u8, protocol: Option<&str>) -> Result {
        for family in Family::ALL {
            let found = self.protocol(number, family)?;
            check(found.as_deref() == protocol, || format!("route {}: {found:?}", subnet(number, family)))?;
        }
        Ok(())
    }
}

fn subnet(number: u8, family: Family) -> String {
    match family {
        Family::V4 => format!("10.5.{number}.0/24"),
        Family::V6 => format!("fd00:5:0:{number}::/64"),
    }
}

/// The leases and records in etcd, with the revision that wrote each last.
fn stored(etcd: &Etcd) -> Result<Vec<(Vec<u8>, i64)>> {
    let all = etcd.list(&format!("{}/", Etcd::PREFIX))?;
    Ok(all.into_iter().map(|stored| (stored.key, stored.mod_revision)).collect())
}

#[test]
fn flannels_direct_routes_are_taken_over_without_a_lost_ping_and_handed_back_and_stale_ones_go_on_request() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(DUAL_HOST_GW)?;
    let [host, peer, gone] = lab.hosts::<3>()?;
    let (own, peer) = (Flannel::new(host, 9)?, Flannel::new(peer, 8)?);
    let mut gateway = etcd.gateway()?;
    let lease = gateway.grant(86_400)?;
    let entry = |of: &Flannel| (of.key().into_bytes(), of.value().into_bytes());
    gateway.put_all(&[entry(&own), entry(&peer)], lease)?;
    own.routes_to(8, &peer.host)?;
    peer.routes_to(9, &own.host)?;
    // Left of a host that is gone; and an operator's, beside the range that hosts lease from, and with a protocol.
    own.routes_to(12, &gone)?;
    own.routes_to(200, &gone)?;
    own.host.namespace().ip(&format!(
        "route add {} via {} dev eth0 proto static",
        subnet(13, Family::V4),
        gone.v4()
    ))?;

    let mut pings = Vec::new();
    for family in Family::ALL {
        // An IPv6 neighbour is found only once the link has a link-local address.
        eventually(START, || check(peer.host.pings(own.inside(family)), || format!("no answer over {family}")))?;
        let running = Pings::start(&peer.host.namespace().path(), Some(peer.inside(family)), own.inside(family))?;
        running.wait_answered()?;
        pings.push(running);
    }
    let mut agent = Agent::spawn(&own.host, AgentSpec::new(etcd.agent_flags()).traced())?;
    agent.wait_ready(START)?;
    check(agent.subnet_env()?["FLANNEL_SUBNET"] == "10.5.9.1/24", || agent.log())?;
    eventually(START, || own.expect(8, Some("91")))?;
    // Its lease is as flannel wrote it, and bound to the same lease of etcd.
    let kept = etcd.get(&own.key())?.unwrap();
    check(kept.value() == own.value() && kept.lease == lease, || format!("{kept:?}"))?;

    // What flannel has left of the host that is gone is named, by the agent and without it; the operator's is not.
    let named = || -> Result {
        let answer = agent.compare(&["verify"])?;
        let stale: Vec<&str> = answer.lines().filter(|line| line.starts_with("stale: ")).collect();
        let is_it = |line: &&str| line.contains(&subnet(12, Family::V4)) || line.contains(&subnet(12, Family::V6));
        check(answer.status == Some(1) && stale.len() == 2 && stale.iter().all(is_it), || format!("{answer:?}"))
    };
    eventually(START, named)?;
    own.expect(12, BOOT)?;

    // A restart writes nothing, in the kernel or in etcd.
    let before = stored(&etcd)?;
    agent.terminate()?;
    let answer = agent.compare(&["verify"])?;
    check(answer.lines().filter(|line| line.starts_with("stale: ")).count() == 2, || format!("{answer:?}"))?;
    agent.restart()?;
    agent.wait_ready(START)?;
    eventually(START, || check(agent.status()?.phase == "ready", || agent.log()))?;
    let writes = agent.kernel_writes()?;
    check(writes.is_empty(), || format!("it wrote {writes:?}\n{}", agent.log()))?;
    let after = stored(&etcd)?;
    check(before == after, || format!("{before:?} and then {after:?}"))?;

    let removed = agent.compare(&["verify", "--remove-stale"])?;
    check(removed.status == Some(0), || format!("{removed:?}"))?;
    own.expect(12, None)?;
    own.expect(200, BOOT)?;
    check(own.protocol(13, Family::V4)?.as_deref() == Some("static"), || "the operator's route is gone".to_owned())?;
    eventually(START, || {
        let answer = agent.compare(&["verify"])?;
        check(answer.is_silent(), || format!("{answer:?}"))
    })?;

    // Back to flanneld: the routes stay, and a deletion as flannel's, without a protocol, finds them.
    agent.terminate()?;
    let output = agent.run_with_its_flags("hand-back")?;
    check(output.status.success(), || format!("{output:?}"))?;
    own.expect(8, Some("91"))?;
    for running in pings {
        let seen = running.stop()?;
        check(seen.lost().is_empty(), || format!("of {} lost {:?}", seen.sent, seen.lost()))?;
    }
    let delete = |family| format!("route delete {} via {} dev eth0", subnet(8, family), peer.host.on_underlay(family));
    own.host.namespace().ip(&delete(Family::V6))?;
    check(own.protocol(8, Family::V6)?.is_none(), || "the route is still there".to_owned())?;

    // And to the agent again: a peer that goes takes along what was flannel's, and drain what is left.
    agent.restart()?;
    agent.wait_ready(START)?;
    eventually(START, || own.expect(8, Some("91")))?;
    etcd.delete(&peer.key())?;
    eventually(PROMPT * 5, || own.expect(8, None))?;
    etcd.put(&peer.key(), &peer.value())?;
    eventually(PROMPT * 5, || own.expect(8, Some("91")))?;
    agent.terminate()?;
    let drained = agent.run_with_its_flags("drain")?;
    check(drained.status.success(), || format!("{drained:?}"))?;
    own.expect(8, None)?;
    own.expect(200, BOOT)
}

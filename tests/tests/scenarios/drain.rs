//! Leaving the network: what `wire-agent drain` leaves behind, which is nothing.

use wire_tests::{AgentSpec, Etcd, Host, Lab, Result, check, lab};

use crate::{
    cluster::{DUAL, Node},
    datapath::{DUAL_UDP, Datapath},
};

#[test]
fn a_host_of_kernel_vxlan_leaves_nothing_behind() -> Result {
    leave(&lab!(), Datapath::KernelVxlan, DUAL)
}

#[test]
fn a_host_of_raw_udp_leaves_nothing_behind() -> Result {
    leave(&lab!(), Datapath::UserspaceUdp, DUAL_UDP)
}

fn leave(lab: &Lab, datapath: Datapath, config: &str) -> Result {
    let etcd = Etcd::start(lab)?;
    etcd.put_config(config)?;
    let [host, other] = lab.hosts()?;
    let before = picture(&host)?;
    let stays = Node::by(datapath, other, AgentSpec::new(etcd.agent_flags()))?;
    let spec = AgentSpec::new(etcd.agent_flags()).flag("--ip-blackhole-route");
    let mut node = Node::by(datapath, host, spec)?;
    check(picture(&node.host)? != before, || "the agent has changed nothing".to_owned())?;

    let refused = node.agent.run_with_its_flags("drain")?;
    check(refused.status.code() == Some(75), || format!("while the agent runs: {refused:?}"))?;
    node.agent.terminate()?;
    for time in ["first", "second"] {
        let drained = node.agent.run_with_its_flags("drain")?;
        check(drained.status.success(), || format!("the {time} time: {drained:?}"))?;
    }
    let after = picture(&node.host)?;
    check(after == before, || format!("before:\n{before}\nafter:\n{after}"))?;
    let files = node.host.namespace().sh(&format!("ls {}", node.agent.dir().display()))?;
    let left = ["subnet.env", "docker", "state.json"].iter().find(|name| files.contains(**name));
    check(left.is_none(), || format!("left: {files}"))?;

    let keys: Vec<String> =
        etcd.list(Etcd::PREFIX)?.into_iter().map(|stored| String::from_utf8_lossy(&stored.key).into_owned()).collect();
    let subnet = stays.subnet(wire_tests::Family::V4)?.replace(".1/24", ".0");
    let foreign = |key: &&String| !key.ends_with("/config") && !key.contains(&subnet) && !key.contains("guards");
    check(!keys.iter().any(|key| foreign(&key)), || format!("keys: {keys:?}"))?;
    let guards = keys.iter().filter(|key| key.contains("guards")).count();
    check(guards == 2, || format!("guards: {keys:?}"))
}

/// All that an agent may change in a kernel, but forwarding, which stays on (and with it the kernel's anycast addresses).
fn picture(host: &Host) -> Result<String> {
    host.namespace().sh(
        "ip -o link | cut -d: -f2; ip -o addr | tr -s ' ' | cut -d' ' -f2-4; ip route show table all | grep -v 'table local'; ip -6 route show table all | grep -v 'table local'
         ip rule; ip nexthop; ip neigh show nud permanent; bridge fdb show | grep -v 'dev eth0' || true
         iptables-save | grep -i wire || true; ip6tables-save | grep -i wire || true; nft list tables | grep -i wire || true",
    )
}

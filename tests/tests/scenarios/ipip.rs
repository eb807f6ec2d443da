//! The backend ipip. Few kernels of test machines have IPIP: what needs it is looked at by `make test-kernel` (tests/kernel/guest/ipip).

use wire_tests::{Agent, AgentSpec, Etcd, Result, check, eventually, lab};

use crate::cluster::START;

const IPIP: &str = r#"{"Network":"10.5.0.0/16","Backend":{"Type":"ipip"}}"#;

#[test]
fn where_the_kernel_has_no_ipip_there_is_one_clear_refusal_and_where_it_has_the_device_is_flannels() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(IPIP)?;
    let [host] = lab.hosts()?;
    let probe = "ip link add probe type ipip local 192.0.2.1 && ip link del probe && echo there || echo none";
    if host.namespace().sh(probe)?.ends_with("there\n") {
        let mut agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()))?;
        agent.wait_ready(START)?;
        let made = host.namespace().sh("ip -d link show flannel.ipip")?;
        let expected = format!("ipip ipip remote any local {}", host.v4());
        return check(made.contains(&expected) && made.contains("mtu 1480"), || made.clone());
    }
    let mut agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()))?;
    let ended = agent.wait(START)?;
    check(ended.code() == Some(71) && agent.log().contains("modprobe ipip"), || format!("{ended}\n{}", agent.log()))?;
    check(!host.namespace().sh("ip route")?.contains("10.5."), || "a route without a device".to_owned())?;

    // What the log says helps: the backend that was tried before is in nobody's way.
    etcd.put_config(&IPIP.replace("ipip", "vxlan"))?;
    agent.restart()?;
    agent.wait_ready(START)?;
    eventually(START, || check(agent.status()?.phase == "ready", || agent.log()))?;
    check(!host.namespace().sh("ip link")?.contains("flannel.ipip"), || "a device of ipip".to_owned())
}

#[test]
fn an_ipip_network_with_ipv6_is_refused_with_the_remedy() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(
        r#"{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00:5::/32","Backend":{"Type":"ipip"}}"#,
    )?;
    let [host] = lab.hosts()?;
    let mut agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()))?;
    let ended = agent.wait(START)?;
    check(ended.code() == Some(78), || format!("{ended}\n{}", agent.log()))?;
    check(agent.log().contains("ipip carries IPv4 alone: set EnableIPv6 to false"), || agent.log())
}

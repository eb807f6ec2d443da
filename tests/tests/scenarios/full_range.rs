//! Thirty agents in a range of exactly thirty have a subnet each.

use std::collections::BTreeSet;

use wire_tests::{Agent, AgentSpec, Etcd, Family, Host, Lab, LabError, Result, Share, Stored, check, eventually, lab};

use crate::cluster::{PROMPT, START, phase};

const COUNT: usize = 30;
const V4: &str =
    r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.30.0","Backend":{"Type":"alloc"}}"#;
const DUAL: &str = r#"{"Network":"10.5.0.0/16","SubnetMin":"10.5.1.0","SubnetMax":"10.5.30.0","EnableIPv6":true,
    "IPv6Network":"fd00:5::/48","IPv6SubnetMin":"fd00:5:0:1::","IPv6SubnetMax":"fd00:5:0:1e::","Backend":{"Type":"alloc"}}"#;

#[test]
fn thirty_agents_at_once_share_exactly_thirty_subnets() -> Result {
    let lab = lab!(Share::Alone);
    let etcd = Etcd::start(&lab)?;
    let hosts: Vec<Host> = (0..=COUNT).map(|number| lab.host(&format!("h{number}"))).collect::<Result<_>>()?;
    let (last, hosts) = hosts.split_last().unwrap();
    let agents = run(&lab, &etcd, hosts, V4, &[Family::V4])?;

    // One more stays, says why, and gets the first subnet that is given back.
    let late = Agent::spawn(last, AgentSpec::new(etcd.agent_flags()))?;
    let reason = phase(&late, "waiting")?;
    eventually(START, || {
        let reason = late.status()?.reason.unwrap_or_default();
        let told = ["10.5.1.0", "10.5.30.0", "30", "ends in"].iter().all(|part| reason.contains(part));
        check(told, || format!("the reason does not tell the range, how many are taken and when one ends: {reason}"))
    })
    .map_err(|error| LabError::Wrong(format!("{error:?}, first {reason}")))?;
    let given_back = etcd.leases()?.remove(7);
    drop(agents);
    etcd.revoke(given_back.lease)?;
    eventually(PROMPT * 3, || {
        let env = late.subnet_env()?;
        check(key_of(&env)? == given_back.key(), || format!("{env:?} instead of {}", given_back.key()))
    })?;
    drop(late);

    etcd.delete_all(Etcd::PREFIX)?;
    run(&lab, &etcd, hosts, DUAL, &Family::ALL).map(drop)
}

/// Starts an agent on each host. They wait for the network config, which is the barrier, and then all want a subnet at once.
fn run(_lab: &Lab, etcd: &Etcd, hosts: &[Host], config: &str, families: &[Family]) -> Result<Vec<Agent>> {
    for host in hosts {
        let _ = std::fs::remove_dir_all(host.dir());
        std::fs::create_dir_all(host.dir()).unwrap();
    }
    let mut agents: Vec<Agent> =
        hosts.iter().map(|host| Agent::spawn(host, AgentSpec::new(etcd.agent_flags()))).collect::<Result<_>>()?;
    for agent in &agents {
        phase(agent, "waiting")?;
    }
    etcd.put_config(config)?;
    for agent in &mut agents {
        agent.wait_ready(START * 2)?;
    }
    let leases = etcd.leases()?;
    let keys: BTreeSet<String> = leases.iter().map(Stored::key).collect();
    check(keys.len() == COUNT, || format!("{} leases: {keys:?}", keys.len()))?;
    for family in families {
        let prefixes: BTreeSet<&str> = keys.iter().filter_map(|key| part(key, *family)).collect();
        check(prefixes.len() == COUNT, || format!("{family}: {prefixes:?}"))?;
    }
    for agent in &mut agents {
        check(agent.is_running(), || agent.log())?;
        let key = key_of(&agent.subnet_env()?)?;
        check(keys.contains(&key), || format!("{key} is no lease: {keys:?}"))?;
    }
    let told = agents.iter().map(|agent| key_of(&agent.subnet_env()?)).collect::<Result<BTreeSet<_>>>()?;
    check(told == keys, || format!("the files tell {told:?}, etcd {keys:?}"))?;
    Ok(agents)
}

fn part(key: &str, family: Family) -> Option<&str> {
    let name = key.rsplit('/').next()?;
    name.split('&').find(|part| part.contains(':') == (family == Family::V6))
}

/// The key that a subnet.env belongs to. The file has each subnet's second address.
fn key_of(env: &std::collections::BTreeMap<String, String>) -> Result<String> {
    let subnet = |name: &str| env.get(name).and_then(|text| text.split_once('/'));
    let (v4, len) = subnet("FLANNEL_SUBNET").ok_or_else(|| LabError::Wrong(format!("no FLANNEL_SUBNET in {env:?}")))?;
    let v4 = v4.strip_suffix(".1").unwrap();
    let v6 = subnet("FLANNEL_IPV6_SUBNET").map(|(v6, len)| format!("&{}-{len}", v6.strip_suffix('1').unwrap()));
    Ok(format!("{}/subnets/{v4}.0-{len}{}", Etcd::PREFIX, v6.unwrap_or_default()))
}

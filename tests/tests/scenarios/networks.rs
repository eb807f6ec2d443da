//! Several networks on one host: two agents, each with a name of its own.

use std::{thread, time::Duration};

use wire_tests::{Agent, AgentSpec, Encapsulation, Etcd, Host, LossMeter, Monitor, Path, Result, check, lab};

use crate::cluster::{START, V4};

/// The prefix and the config of the second network.
const BLUE: &str = "/blue/network";
const BLUE_CONFIG: &str = r#"{"Network":"10.6.0.0/16","Backend":{"Type":"vxlan","VNI":6}}"#;

/// How long nothing may be written.
fn quiet() -> Duration {
    let seconds = std::env::var("WIRE_TESTS_QUIET_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(30))
}

fn blue_spec(etcd: &Etcd) -> AgentSpec {
    let mut flags = etcd.agent_flags();
    flags.retain(|flag| !flag.starts_with("--etcd-prefix="));
    let spec = AgentSpec::new(flags).flag(&format!("--etcd-prefix={BLUE}")).flag("--network=blue");
    AgentSpec { suffix: "-blue", ..spec }
}

fn start(host: &Host, spec: AgentSpec) -> Result<Agent> {
    let mut agent = Agent::spawn(host, spec)?;
    agent.wait_ready(START)?;
    Ok(agent)
}

fn rules_of_default(host: &Host) -> Result<String> {
    host.namespace().sh("nft -s -a list table inet wire-agent; iptables-save | grep -E 'WIRE-[A-Z]+( |$)' | sort")
}

#[test]
fn two_agents_with_two_networks_live_side_by_side_and_one_leaves_without_the_other() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    etcd.put(&format!("{BLUE}/config"), BLUE_CONFIG)?;
    let hosts = lab.hosts::<2>()?;
    let own = |host: &Host| start(host, AgentSpec::new(etcd.agent_flags()));
    let agents = [own(&hosts[0])?, own(&hosts[1])?];
    let before = rules_of_default(&hosts[0])?;
    let mut blue = [start(&hosts[0], blue_spec(&etcd))?, start(&hosts[1], blue_spec(&etcd))?];
    let after = rules_of_default(&hosts[0])?;
    check(before == after, || format!("before:\n{before}\nafter:\n{after}"))?;

    let monitor = Monitor::listen_to_nftables(hosts[0].namespace())?;
    monitor.forget();
    thread::sleep(quiet());
    let changes = monitor.changes()?;
    check(changes.is_empty(), || format!("changes of nftables: {changes:?}\n{}\n{}", agents[0].log(), blue[0].log()))?;
    let log = format!("{}{}", agents[0].log(), blue[0].log());
    check(!log.contains("another wire-agent"), || log)?;

    let address = |agent: &Agent| Ok(agent.subnet_env()?["FLANNEL_SUBNET"].replace(".1/24", ".0").parse().unwrap());
    let path = Path {
        underlay: &lab,
        from: (&hosts[0], address(&agents[0])?),
        to: (&hosts[1], address(&agents[1])?),
        encapsulation: Encapsulation::Vxlan,
    };
    let meter = LossMeter::start(&path)?;
    blue[0].terminate()?;
    blue[0].restart()?;
    blue[0].wait_ready(START)?;
    blue[0].terminate()?;
    let drained = blue[0].run_with_its_flags("drain")?;
    check(drained.status.success(), || format!("{drained:?}"))?;
    meter.stop_without_loss()?;
    let left = hosts[0].namespace().sh("nft list tables; ip -br link; iptables-save")?;
    check(!left.contains("wire-agent-blue") && !left.contains("flannel.6"), || left.clone())?;
    check(left.contains("inet wire-agent") && left.contains("flannel.1"), || left)?;
    check(rules_of_default(&hosts[0])? == before, || "the rules of the default network are others".to_owned())
}

#[test]
fn an_agent_whose_device_another_network_has_is_refused_by_name() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    etcd.put(&format!("{BLUE}/config"), &BLUE_CONFIG.replace(r#","VNI":6"#, ""))?;
    let [host] = lab.hosts::<1>()?;
    let _agent = start(&host, AgentSpec::new(etcd.agent_flags()))?;
    let mut blue = Agent::spawn(&host, blue_spec(&etcd))?;
    let status = blue.wait(START)?;
    let log = blue.log();
    let said = log.contains("flannel.1 belongs to the agent of network default") && log.contains("another VNI");
    check(status.code() == Some(75) && said, || format!("{status}: {log}"))
}

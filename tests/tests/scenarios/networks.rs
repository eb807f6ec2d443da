//! Several networks on one host: by two agents, and by one.

use std::{path, thread, time::Duration};

use wire_tests::{
    Agent, AgentSpec, Container, Dockerd, Encapsulation, Etcd, Family, Host, Lab, LabError, LossMeter, Monitor, Path,
    Result, check, docker_options, eventually, lab,
};

use crate::{
    cluster::{Node, START, V4, cluster},
    named::{asked, expose_on},
};

/// The prefix and the config of the second network.
const BLUE: &str = "/blue/network";
const BLUE_CONFIG: &str = r#"{"Network":"10.6.0.0/16","Backend":{"Type":"vxlan","VNI":6}}"#;

/// The time in which nothing may be written.
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

    let seat = |host: usize| Containers::start(&hosts[host], &agents[host], &blue[host].docker_opts_file());
    reach_their_network_alone(&[seat(0)?, seat(1)?])?;
    let before = rules_of_default(&hosts[0])?;
    let meter = LossMeter::start(&way(&lab, &hosts, &agents)?)?;
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

/// The way between the overlay addresses of two hosts, in the default network.
fn way<'a>(lab: &'a Lab, hosts: &'a [Host; 2], agents: &[Agent; 2]) -> Result<Path<'a>> {
    let address = |agent: &Agent| Ok(agent.subnet_env()?["FLANNEL_SUBNET"].replace(".1/24", ".0").parse().unwrap());
    Ok(Path {
        underlay: lab,
        from: (&hosts[0], address(&agents[0])?),
        to: (&hosts[1], address(&agents[1])?),
        encapsulation: Encapsulation::Vxlan,
    })
}

/// Two hosts, each with one agent for two networks, of these configs.
fn of_one_agent(etcd: &Etcd, hosts: &[Host; 2], [default, blue]: [&str; 2]) -> Result<[Agent; 2]> {
    etcd.put_config(default)?;
    etcd.put(&format!("{BLUE}/config"), blue)?;
    let spec = || AgentSpec::new(etcd.agent_flags()).flag(&format!("--flat=blue={BLUE}"));
    Ok([start(&hosts[0], spec())?, start(&hosts[1], spec())?])
}

/// A container of each network on a host, by one dockerd.
struct Containers {
    default: Container,
    blue: Container,
    _docker: Dockerd,
}

impl Containers {
    /// With the options of an agent for both networks.
    fn of_one(host: &Host, agent: &Agent) -> Result<Self> {
        Self::start(host, agent, &agent.docker_opts_file().with_file_name("networks/blue.docker.env"))
    }

    fn start(host: &Host, agent: &Agent, of_blue: &path::Path) -> Result<Self> {
        let mut docker = Dockerd::start_with_file(host, &agent.docker_opts_file())?;
        let options = docker_options(of_blue)?;
        let value = |flag: &str| options.iter().find_map(|option| option.strip_prefix(flag)).unwrap_or_default();
        let (subnet, mtu) = (value("--bip=").to_owned(), format!("com.docker.network.driver.mtu={}", value("--mtu=")));
        let subnet = subnet.replace(".1/", ".0/");
        let masquerade = "com.docker.network.bridge.enable_ip_masquerade=false";
        let name = "com.docker.network.bridge.name=blue0";
        docker.docker(&["network", "create", "-o", name, "-o", &mtu, "-o", masquerade, "--subnet", &subnet, "blue"])?;
        let (default, blue) = (docker.run()?, docker.run_with(&["--network=blue"])?);
        Ok(Self { default, blue, _docker: docker })
    }
}

fn reach_their_network_alone([one, two]: &[Containers; 2]) -> Result {
    let reaches = |from: &Container, to: &Container| -> Result<bool> { Ok(from.pings(to.address(Family::V4)?, 2)) };
    for (from, to) in [(&one.default, &two.default), (&one.blue, &two.blue), (&two.blue, &one.blue)] {
        check(reaches(from, to)?, || format!("{} does not reach {} of its network", from.name(), to.name()))?;
    }
    let others =
        [(&one.default, &two.blue), (&one.blue, &two.default), (&one.blue, &one.default), (&one.default, &one.blue)];
    for (from, to) in others {
        check(!reaches(from, to)?, || format!("{} reaches {} of another network", from.name(), to.name()))?;
    }
    Ok(())
}

#[test]
fn one_agent_holds_two_networks_with_containers_on_both_and_one_leaves_without_the_other() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    let hosts = lab.hosts::<2>()?;
    let mut agents = of_one_agent(&etcd, &hosts, [V4, BLUE_CONFIG])?;
    let seat = |host: usize| Containers::of_one(&hosts[host], &agents[host]);
    reach_their_network_alone(&[seat(0)?, seat(1)?])?;

    let said = agents[0].ctl(&["status"])?;
    check(said.contains("network blue: ready: 10.6."), || said.clone())?;
    let peers = agents[0].ctl(&["peers", "--network=blue"])?;
    check(peers.contains("10.6.") && !peers.contains("10.5."), || peers)?;
    for network in ["default", "blue"] {
        let verified = agents[0].ask(&["verify", "--network", network])?;
        check(verified.status.success(), || format!("{network}: {verified:?}"))?;
    }

    let before = rules_of_default(&hosts[0])?;
    let meter = LossMeter::start(&way(&lab, &hosts, &agents)?)?;
    let monitor = Monitor::listen_to_nftables(hosts[0].namespace())?;
    agents[0].terminate()?;
    agents[0].restart()?;
    agents[0].wait_ready(START)?;
    let changes = monitor.changes()?;
    check(changes.is_empty(), || format!("a restart has changed nftables: {changes:?}"))?;

    agents[0].terminate()?;
    let drained = agents[0].run_with_its_flags("drain --network=blue")?;
    check(drained.status.success(), || format!("{drained:?}"))?;
    agents[0].spec_mut().flags.retain(|flag| !flag.starts_with("--flat"));
    agents[0].restart()?;
    agents[0].wait_ready(START)?;
    meter.stop_without_loss()?;
    let left = hosts[0].namespace().sh("nft list tables; ip -br link; iptables-save")?;
    check(!left.contains("wire-agent-blue") && !left.contains("flannel.6"), || left.clone())?;
    let leases = etcd.list(&format!("{BLUE}/subnets/"))?;
    check(leases.len() == 1, || format!("{leases:?}"))?;
    check(rules_of_default(&hosts[0])? == before, || "the rules of the default network are others".to_owned())?;

    // Without a name, all networks of the flags are left; one that no flag names is told of.
    agents[1].terminate()?;
    let flat = agents[1].spec_mut().flags.pop();
    let told = agents[1].run_with_its_flags("drain --dry-run")?;
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    check(told.contains("network blue is not left"), || told)?;
    agents[1].spec_mut().flags.extend(flat);
    let drained = agents[1].run_with_its_flags("drain")?;
    check(drained.status.success(), || format!("{drained:?}"))?;
    let left = hosts[1].namespace().sh("nft list tables; ip -br link; iptables-save")?;
    check(!left.contains("wire-agent") && !left.contains("flannel") && !left.contains("WIRE-"), || left)?;
    let leases = etcd.list(&format!("{BLUE}/subnets/"))?;
    check(leases.is_empty(), || format!("{leases:?}"))
}

/// Neither has a device by which its packets could be told from the other's.
#[test]
fn two_networks_by_host_gw_are_apart_also_after_a_restart_and_for_verify_without_an_agent() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    let hosts = lab.hosts::<2>()?;
    let configs = [
        r#"{"Network":"10.5.0.0/16","Backend":{"Type":"host-gw"}}"#,
        r#"{"Network":"10.6.0.0/16","Backend":{"Type":"host-gw"}}"#,
    ];
    let mut agents = of_one_agent(&etcd, &hosts, configs)?;
    let seats = [Containers::of_one(&hosts[0], &agents[0])?, Containers::of_one(&hosts[1], &agents[1])?];
    reach_their_network_alone(&seats)?;

    let monitor = Monitor::listen_to_nftables(hosts[0].namespace())?;
    agents[0].terminate()?;
    for word in ["verify", "verify --offline"] {
        let verified = agents[0].run_with_its_flags(&format!("{word} --network=blue"))?;
        check(verified.status.success() && verified.stdout.is_empty(), || format!("{word}: {verified:?}"))?;
    }
    agents[0].restart()?;
    agents[0].wait_ready(START)?;
    reach_their_network_alone(&seats)?;
    let changes = monitor.changes()?;
    check(changes.is_empty(), || format!("a restart has changed nftables: {changes:?}"))
}

#[test]
fn a_network_whose_range_overlaps_another_one_is_refused_and_the_other_goes_on() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    etcd.put(&format!("{BLUE}/config"), &BLUE_CONFIG.replace("10.6.0.0/16", "10.5.128.0/17"))?;
    let [host] = lab.hosts::<1>()?;
    let agent = Agent::spawn(&host, AgentSpec::new(etcd.agent_flags()).flag(&format!("--flat=blue={BLUE}")))?;
    eventually(START, || {
        let (default, blue) = (agent.ask(&["status"])?, agent.ask(&["status", "--network=blue"])?);
        let said = String::from_utf8_lossy(&blue.stdout).into_owned();
        let refused = said.contains("the range 10.5.128.0/17 overlaps 10.5.0.0/16 of network default");
        check(default.status.success() && refused && said.contains("waiting"), || format!("{default:?}\n{said}"))
    })?;
    etcd.put(&format!("{BLUE}/config"), BLUE_CONFIG)?;
    eventually(START, || {
        let blue = agent.ask(&["status", "--network=blue"])?;
        check(blue.status.success(), || format!("{blue:?}"))
    })?;
    Ok(())
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
    let said = log.contains("flannel.1 belongs to network default") && log.contains("another VNI");
    check(status.code() == Some(75) && said, || format!("{status}: {log}"))
}

/// Two sockets of the agent with one port would each get some packets of the other.
#[test]
fn networks_whose_packets_the_agent_moves_need_ports_of_their_own() -> Result {
    let lab = lab!();
    let etcd = Etcd::start(&lab)?;
    etcd.put_config(V4)?;
    etcd.put(&format!("{BLUE}/config"), BLUE_CONFIG)?;
    let [host] = lab.hosts::<1>()?;
    let flags = AgentSpec::new(etcd.agent_flags()).flag(&format!("--flat=blue={BLUE}")).flag("--userspace-vxlan");
    let mut agent = Agent::spawn(&host, flags)?;
    // READY does not wait for a network that cannot be.
    agent.wait_ready(START)?;
    let status = |network: &str| -> Result<String> {
        Ok(String::from_utf8_lossy(&agent.ask(&["status", "--network", network])?.stdout).into_owned())
    };
    let said = status("blue")?;
    check(said.contains("the UDP port 8472 belongs to network default"), || said)?;
    etcd.put(&format!("{BLUE}/config"), &BLUE_CONFIG.replace(r#""VNI":6"#, r#""VNI":6,"Port":8473"#))?;
    eventually(START, || {
        let said = status("blue")?;
        check(said.contains("ready") && said.contains("10.6."), || said)
    })?;
    Ok(())
}

/// The VNI of the flat network is the operator's, and may become that of a network that was made before.
#[test]
fn of_two_networks_that_want_one_vni_both_are_named_and_nothing_else_of_either_is_lost() -> Result {
    let lab = lab!();
    let (etcd, [mut node, other]) = cluster::<2>(&lab, V4)?;
    let (app, vni) = with_short_vni(&node)?;
    for host in [&node, &other] {
        expose_on(host, &app)?;
    }
    etcd.put_config(&V4.replace(r#""vxlan""#, &format!(r#""vxlan","VNI":{vni}"#)))?;
    node.agent.terminate()?;
    node.agent.restart()?;
    node.agent.wait_ready(START)?;
    eventually(START, || {
        let conditions = node.agent.status()?.conditions;
        let clash = conditions.iter().find(|condition| condition.name == "clash-in-kernel");
        let names = ["default", &app, &vni.to_string()];
        let is_named = clash.is_some_and(|clash| names.iter().all(|name| clash.sentence.contains(name)));
        check(is_named, || format!("{conditions:#?}\n{}", node.agent.log()))
    })?;
    let bridge = format!("wb.{vni}");
    let links = node.host.namespace().ip("-br address")?;
    check(links.contains(&format!("flannel.{vni}")) && links.contains(&bridge), || links.clone())?;
    check(links.lines().any(|line| line.contains(&bridge) && line.contains("10.128.")), || links.clone())?;
    // By the backend that both speak.
    let there = other.vtep(Family::V4)?;
    eventually(START, || check(node.host.pings(there), || node.agent.log())).map(drop)
}

/// Makes networks by name until one has a VNI that flannel's device can have in its name. VNIs are drawn at random.
fn with_short_vni(node: &Node) -> Result<(String, u64)> {
    for number in 0..30 {
        let name = format!("app{number}");
        let made = asked(node, &format!("create {name}"))?;
        if let Some(vni) = made["vni"].as_u64().filter(|vni| *vni < 10_000_000) {
            return Ok((name, vni));
        }
    }
    Err(LabError::Wrong("thirty VNIs of eight digits".to_owned()))
}

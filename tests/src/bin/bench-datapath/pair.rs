//! One contestant's two hosts, from the bare underlay to a ping that is answered.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde_json::Value;
use wire_lease::Family;
use wire_tests::{
    Agent, AgentSpec, Etcd, Host, LabError, Leg, Namespace, OnePacket, OnePacketSpec, Process, Result, Underlay, check,
    eventually,
};

use crate::{
    contestant::{Carrier, Contestant, Setting},
    rules::Rules,
};

/// How long a pair may take to be there.
const START: Duration = Duration::from_secs(20);
/// The port of the `udp` backend.
const PORT: u16 = 8285;

/// Two hosts and what carries packets between them.
pub(crate) struct Pair {
    /// Whose pair it is.
    pub(crate) contestant: Contestant,
    // What runs on the hosts goes before them.
    agents: Vec<Agent>,
    forwarders: Vec<OnePacket>,
    _server: Process,
    /// What stands for a container of each host, near and far; none where the hosts themselves send and receive.
    legs: Vec<Leg>,
    /// The host that sends, or whose container does.
    pub(crate) near: Host,
    /// The host that receives, or whose container does.
    pub(crate) far: Host,
    /// The first three bytes of the far host's subnet, a /24. All addresses of it that the host has not are the receiver's own.
    prefix: [u8; 3],
}

/// The carriers of one contestant, and the subnets of its near and its far host.
#[derive(Default)]
struct Carriers {
    agents: Vec<Agent>,
    forwarders: Vec<OnePacket>,
    legs: Vec<Leg>,
    subnets: [[u8; 3]; 2],
}

impl Pair {
    /// Sets one up and waits until the far host answers.
    ///
    /// # Errors
    /// Where it does not; names the contestant.
    pub(crate) fn set(underlay: &Underlay, etcd: &Etcd, contestant: Contestant) -> Result<Self> {
        let host = |side: &str| underlay.host(&format!("{contestant}-{side}"));
        let (near, far) = (host("near")?, host("far")?);
        let hosts = [&near, &far];
        let carriers = match contestant.carrier() {
            Carrier::Route => route(contestant, hosts),
            Carrier::OnePacket => forwarders(contestant, hosts),
            Carrier::Agents(setting) => agents(etcd, contestant, setting, hosts),
            Carrier::Containers(setting, rules) => containers(etcd, contestant, setting, rules, hosts),
        }
        .map_err(|error| LabError::Wrong(format!("{contestant} does not start: {error:?}")))?;
        let Carriers { agents, forwarders, legs, subnets: [_, prefix] } = carriers;
        let receiver = legs.last().map_or(far.namespace(), Leg::namespace);
        receiver.ip(&format!("route add local {} dev lo", subnet(prefix)))?;
        let server = far.start_in(receiver, "iperf3", &["-s".to_owned()], "iperf3.log")?;
        let pair = Self { contestant, agents, forwarders, _server: server, legs, near, far, prefix };
        let ping = format!("ping -c 1 -W 1 {}", pair.target());
        eventually(START, || check(pair.sender().exec(&ping).is_ok(), || "the far host does not answer".to_owned()))
            .map_err(|error| LabError::Wrong(format!("{contestant}: {error:?}\n{}", pair.logs())))?;
        Ok(pair)
    }

    /// Where packets are sent.
    pub(crate) fn sender(&self) -> &Namespace {
        self.legs.first().map_or(self.near.namespace(), Leg::namespace)
    }

    /// Where they are received.
    pub(crate) fn receiver(&self) -> &Namespace {
        self.legs.last().map_or(self.far.namespace(), Leg::namespace)
    }

    /// The address that is measured to.
    pub(crate) const fn target(&self) -> Ipv4Addr {
        self.address(0)
    }

    /// One of the receiver's addresses, by number; a container's host has the first.
    pub(crate) const fn address(&self, number: u8) -> Ipv4Addr {
        let [first, second, third] = self.prefix;
        Ipv4Addr::new(first, second, third, if self.legs.is_empty() { 1 } else { 2 } + number)
    }

    /// What the near agent says of its data path, where it says anything.
    pub(crate) fn datapath(&self) -> Result<Option<Value>> {
        let Some(agent) = self.agents.first() else { return Ok(None) };
        Ok(agent.status()?.rest.remove("datapath"))
    }

    /// What went wrong, with the name of who it went wrong with.
    pub(crate) fn failed(&self, what: &str, error: &LabError) -> LabError {
        LabError::Wrong(format!("{}, {what}: {error:?}\n{}", self.contestant, self.logs()))
    }

    fn logs(&self) -> String {
        let logs = self.agents.iter().map(Agent::log).chain(self.forwarders.iter().map(OnePacket::log));
        let ends = logs.map(|log| log.lines().rev().take(5).map(str::to_owned).collect::<Vec<_>>());
        ends.flat_map(|end| end.into_iter().rev()).collect::<Vec<_>>().join("\n")
    }
}

/// Routes, and nothing else.
fn route(contestant: Contestant, [near, far]: [&Host; 2]) -> Result<Carriers> {
    let subnets = [1, 2].map(|third| [10, contestant.network(), third]);
    near.namespace().ip(&format!("route add {} via {} dev eth0", subnet(subnets[1]), far.v4()))?;
    Ok(Carriers { subnets, ..Carriers::default() })
}

/// A forwarder on each.
fn forwarders(contestant: Contestant, hosts: [&Host; 2]) -> Result<Carriers> {
    let subnets = [1, 2].map(|third| [10, contestant.network(), third]);
    let at = |host: &Host| SocketAddr::from((host.v4(), PORT));
    let start = |own: usize, other: usize| {
        let [first, second, third] = subnets[own];
        let spec = OnePacketSpec {
            tun: "flannel0",
            // The underlay's 1500 bytes without the outer IP and UDP headers.
            mtu: 1500 - 20 - 8,
            address: &format!("{first}.{second}.{third}.0/32"),
            network: &format!("{first}.{second}.0.0/16"),
            local: at(hosts[own]),
            peers: vec![(subnet(subnets[other]), at(hosts[other]))],
        };
        OnePacket::start(hosts[own], &spec)
    };
    let forwarders = vec![start(0, 1)?, start(1, 0)?];
    Ok(Carriers { subnets, forwarders, ..Carriers::default() })
}

/// An agent on each, in a network of this contestant alone.
fn agents(etcd: &Etcd, contestant: Contestant, setting: Setting, hosts: [&Host; 2]) -> Result<Carriers> {
    let prefix = format!("/bench/{contestant}");
    let network = format!(r#"{{"Network":"10.{}.0.0/16","Backend":{}}}"#, contestant.network(), setting.backend);
    etcd.put(&format!("{prefix}/config"), &network)?;
    let mut carriers = Carriers::default();
    for (number, host) in hosts.into_iter().enumerate() {
        let mut flags = etcd.agent_flags();
        flags.retain(|flag| !flag.starts_with("--etcd-prefix="));
        flags.push(format!("--etcd-prefix={prefix}"));
        flags.extend(setting.flag.map(str::to_owned));
        let mut agent = Agent::spawn(host, AgentSpec::new(flags))?;
        agent.wait_ready(START)?;
        let (device, kind) = setting.device;
        let link = host.kernel().link(device)?.map(|link| link.linkinfo.kind);
        check(link.as_deref() == Some(kind), || format!("{device} is no {kind} device: {link:?}"))?;
        let env = agent.subnet_env()?;
        let own = env.get("FLANNEL_SUBNET").and_then(|text| text.split('/').next()?.parse::<Ipv4Addr>().ok());
        let own = own.ok_or_else(|| LabError::Wrong(format!("no subnet in {env:?}")))?;
        let [first, second, third, _] = own.octets();
        carriers.subnets[number] = [first, second, third];
        carriers.agents.push(agent);
    }
    Ok(carriers)
}

/// An agent on each, a container behind each, and these rules on both.
fn containers(
    etcd: &Etcd,
    contestant: Contestant,
    setting: Setting,
    rules: Rules,
    hosts: [&Host; 2],
) -> Result<Carriers> {
    let mut carriers = agents(etcd, contestant, setting, hosts)?;
    let network = format!("10.{}.0.0/16", contestant.network());
    for ((host, agent), own) in hosts.into_iter().zip(&carriers.agents).zip(carriers.subnets) {
        let env = agent.subnet_env()?;
        let mtu = env.get("FLANNEL_MTU").and_then(|text| text.parse().ok());
        let mtu = mtu.ok_or_else(|| LabError::Wrong(format!("no MTU in {env:?}")))?;
        let [first, second, third] = own;
        carriers.legs.push(Leg::new(host, &[format!("{first}.{second}.{third}.1/24")], mtu)?);
    }
    // Both know each other, before one of them ends.
    let [near, far] = carriers.legs.as_slice() else { unreachable!("one for each host") };
    let ping = format!("ping -c 1 -W 1 {}", far.address(Family::V4)?);
    eventually(START, || check(near.namespace().exec(&ping).is_ok(), || format!("`{ping}` is not answered")))?;
    if rules != Rules::Ours {
        // What they have set up stays, and nobody puts their rules back.
        carriers.agents.clear();
    }
    for (host, own) in hosts.into_iter().zip(carriers.subnets) {
        rules.put(host, [&network, &subnet(own)])?;
    }
    Ok(carriers)
}

fn subnet([first, second, third]: [u8; 3]) -> String {
    format!("{first}.{second}.{third}.0/24")
}

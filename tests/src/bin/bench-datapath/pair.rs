//! One contestant's two hosts, from the bare underlay to a ping that is answered.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde_json::Value;
use wire_net::Family;
use wire_tests::{
    Agent, AgentSpec, Etcd, Host, LabError, Leg, Namespace, OnePacket, OnePacketSpec, PeerLease, Process, Result,
    Underlay, check, eventually,
};

use crate::{
    contestant::{Carrier, Contestant, Setting},
    named,
    rules::{self, Rules},
};

/// How long a pair may take to be there.
pub(crate) const START: Duration = Duration::from_secs(20);
/// The port of the `udp` backend.
const PORT: u16 = 8285;

/// Two hosts and what carries packets between them.
pub(crate) struct Pair {
    /// Whose pair it is.
    pub(crate) contestant: Contestant,
    // What runs on the hosts goes before them.
    pub(crate) agents: Vec<Agent>,
    forwarders: Vec<OnePacket>,
    _server: Process,
    /// What stands for a container of each host, near and far; none where the hosts themselves send and receive.
    pub(crate) legs: Vec<Leg>,
    _helpers: Vec<Process>,
    /// The host that sends, or whose container does.
    pub(crate) near: Host,
    /// The host that receives, or whose container does.
    pub(crate) far: Host,
    /// The first three bytes of the far host's subnet, a /24. All addresses of it that the host has not are the receiver's own.
    prefix: [u8; 3],
    /// The receiver's only address, in a network by name.
    only: Option<Ipv4Addr>,
}

/// What carries packets between two hosts, and the IPv4 subnets of the near and the far one.
#[derive(Default)]
pub(crate) struct Carriers {
    pub(crate) agents: Vec<Agent>,
    forwarders: Vec<OnePacket>,
    pub(crate) legs: Vec<Leg>,
    pub(crate) helpers: Vec<Process>,
    pub(crate) only: Option<Ipv4Addr>,
    subnets: [[u8; 3]; 2],
}

/// What etcd holds for the agents of two hosts.
pub(crate) struct Network {
    /// The prefix of all keys.
    pub(crate) prefix: String,
    /// The network config.
    pub(crate) config: String,
    /// How many leases there are before the first of the two hosts comes, all of other hosts.
    pub(crate) leases: u16,
}

impl Network {
    /// The one of a contestant alone.
    pub(crate) fn of(contestant: Contestant, setting: Setting) -> Self {
        let (network, backend) = (contestant.network(), setting.backend);
        let pool = format!(r#","Networks":{{"IPv4Pool":"{}"}}"#, named::POOL);
        let networks = if Contestant::NAMED_RULES.contains(&contestant) { &pool } else { "" };
        let config = format!(r#"{{"Network":"{network}","SubnetLen":24,"Backend":{backend}{networks}}}"#);
        Self { prefix: format!("/bench/{contestant}"), config, leases: contestant.leases() }
    }
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
            Carrier::Agents(setting) => agents(etcd, &Network::of(contestant, setting), setting, hosts),
            Carrier::Containers(setting, rules) => containers(etcd, &Network::of(contestant, setting), setting, hosts)
                .and_then(|carriers| filtered(carriers, contestant, rules, hosts)),
            Carrier::Named(setting, rules) => named::attached(etcd, &Network::of(contestant, setting), setting, hosts)
                .and_then(|carriers| filtered(carriers, contestant, rules, hosts)),
        }
        .map_err(|error| LabError::Wrong(format!("{contestant} does not start: {error:?}")))?;
        let Carriers { agents, forwarders, legs, helpers, only, subnets: [_, prefix] } = carriers;
        let receiver = legs.last().map_or(far.namespace(), Leg::namespace);
        if only.is_none() {
            receiver.ip(&format!("route add local {} dev lo", subnet(prefix)))?;
        }
        if !legs.is_empty() && only.is_none() {
            // But the gateway's address: a container that takes it for its own answers no ARP request of its host.
            let [first, second, third] = prefix;
            receiver.ip(&format!("route add {first}.{second}.{third}.1 dev eth0 table local"))?;
        }
        let server = far.start_in(receiver, "iperf3", &["-s".to_owned()], "iperf3.log")?;
        let (_server, _helpers) = (server, helpers);
        let pair = Self { contestant, agents, forwarders, _server, legs, _helpers, near, far, prefix, only };
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

    /// One of the receiver's addresses, by number; a container's host has the first. In a network by name there is one.
    pub(crate) const fn address(&self, number: u8) -> Ipv4Addr {
        if let Some(only) = self.only {
            return only;
        }
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
    let subnets = [1, 2].map(|third| [10, contestant.second_byte(), third]);
    near.namespace().ip(&format!("route add {} via {} dev eth0", subnet(subnets[1]), far.v4()))?;
    Ok(Carriers { subnets, ..Carriers::default() })
}

/// A forwarder on each.
fn forwarders(contestant: Contestant, hosts: [&Host; 2]) -> Result<Carriers> {
    let subnets = [1, 2].map(|third| [10, contestant.second_byte(), third]);
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

/// An agent on each.
pub(crate) fn agents(etcd: &Etcd, network: &Network, setting: Setting, hosts: [&Host; 2]) -> Result<Carriers> {
    let Network { prefix, config, leases } = network;
    etcd.put(&format!("{prefix}/config"), config)?;
    let others: Vec<_> = (1..=*leases).map(|number| PeerLease::numbered(number).entry_in(prefix)).collect();
    if !others.is_empty() {
        etcd.put_all(&others)?;
    }
    let mut carriers = Carriers::default();
    for (number, host) in hosts.into_iter().enumerate() {
        let mut flags = etcd.agent_flags();
        flags.retain(|flag| !flag.starts_with("--etcd-prefix="));
        flags.push(format!("--etcd-prefix={prefix}"));
        flags.extend(setting.flags.iter().map(|flag| (*flag).to_owned()));
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

/// An agent on each, and a container behind each.
pub(crate) fn containers(etcd: &Etcd, network: &Network, setting: Setting, hosts: [&Host; 2]) -> Result<Carriers> {
    let mut carriers = agents(etcd, network, setting, hosts)?;
    for (host, agent) in hosts.into_iter().zip(&carriers.agents) {
        let env = agent.subnet_env()?;
        let mtu = env.get("FLANNEL_MTU").and_then(|text| text.parse().ok());
        let mtu = mtu.ok_or_else(|| LabError::Wrong(format!("no MTU in {env:?}")))?;
        let gateways: Vec<String> =
            ["FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"].iter().filter_map(|name| env.get(*name).cloned()).collect();
        carriers.legs.push(Leg::new(host, &gateways, mtu)?);
    }
    if network.leases > 0 {
        // All of them and the other host's.
        let all = usize::from(network.leases) + 1;
        let hold = |host: &Host| {
            let elements = rules::elements(&rules::set(host, "subnets-v4-24")?);
            check(elements == all, || format!("{} holds {elements} of {all} leases", host.name()))
        };
        hosts.iter().try_for_each(|host| eventually(START, || hold(host)).map(drop))?;
    }
    // Both know each other, before one of them ends.
    let [near, far] = carriers.legs.as_slice() else { unreachable!("one for each host") };
    for address in Family::ALL.into_iter().filter_map(|family| far.address(family).ok()) {
        let ping = format!("ping -c 1 -W 1 {address}");
        eventually(START, || check(near.namespace().exec(&ping).is_ok(), || format!("`{ping}` is not answered")))?;
    }
    Ok(carriers)
}

/// The same with these rules on both hosts.
fn filtered(mut carriers: Carriers, contestant: Contestant, rules: Rules, hosts: [&Host; 2]) -> Result<Carriers> {
    if rules != Rules::Ours {
        // What they have set up stays, and nobody puts their rules back.
        carriers.agents.clear();
    }
    let network = contestant.network();
    for (host, own) in hosts.into_iter().zip(carriers.subnets) {
        rules.put(host, [&network, &subnet(own)])?;
    }
    Ok(carriers)
}

fn subnet([first, second, third]: [u8; 3]) -> String {
    format!("{first}.{second}.{third}.0/24")
}

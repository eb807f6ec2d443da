//! One contestant's two hosts, from the bare underlay to a ping that is answered.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use serde_json::Value;
use wire_tests::{
    Agent, AgentSpec, Etcd, Host, LabError, OnePacket, OnePacketSpec, Process, Result, Underlay, check, eventually,
};

use crate::contestant::{Carrier, Contestant, Setting};

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
    /// The host that sends.
    pub(crate) near: Host,
    /// The host that receives. All of its subnet is its own.
    pub(crate) far: Host,
    /// The first three bytes of the far host's subnet, a /24.
    prefix: [u8; 3],
}

/// The carriers of one contestant, and the subnets of its near and its far host.
#[derive(Default)]
struct Carriers {
    agents: Vec<Agent>,
    forwarders: Vec<OnePacket>,
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
        }
        .map_err(|error| LabError::Wrong(format!("{contestant} does not start: {error:?}")))?;
        let prefix = carriers.subnets[1];
        far.namespace().ip(&format!("route add local {} dev lo", subnet(prefix)))?;
        let server = far.start("iperf3", &["-s".to_owned()], "iperf3.log")?;
        let (agents, forwarders) = (carriers.agents, carriers.forwarders);
        let pair = Self { contestant, agents, forwarders, _server: server, near, far, prefix };
        eventually(START, || {
            check(pair.near.pings(pair.target().into()), || "the far host does not answer".to_owned())
        })
        .map_err(|error| LabError::Wrong(format!("{contestant}: {error:?}\n{}", pair.logs())))?;
        Ok(pair)
    }

    /// The address that is measured to.
    pub(crate) const fn target(&self) -> Ipv4Addr {
        self.address(1)
    }

    /// Any other of the far host's addresses.
    pub(crate) const fn address(&self, last: u8) -> Ipv4Addr {
        let [first, second, third] = self.prefix;
        Ipv4Addr::new(first, second, third, last)
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

fn subnet([first, second, third]: [u8; 3]) -> String {
    format!("{first}.{second}.{third}.0/24")
}

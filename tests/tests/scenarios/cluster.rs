//! What most scenarios begin with: an etcd with a network config, hosts, an agent on each.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use wire_tests::{
    Agent, AgentSpec, Encapsulation, Etcd, Family, Host, LabError, Path, PeerLease, Result, Underlay, check,
    eventually, expect_senders,
};

use crate::datapath::Datapath;

/// The network configs of the three kinds of network. Hosts lease from the first subnets of each; peers that are only leases
/// ([`PeerLease`]) have others, so that none is in another's way.
pub(crate) const V4: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.15.0","Backend":{"Type":"vxlan"}}"#;
pub(crate) const DUAL: &str = r#"{"Network":"10.5.0.0/16","SubnetMax":"10.5.15.0","EnableIPv6":true,"IPv6Network":"fd00:5::/32",
    "IPv6SubnetMax":"fd00:5:0:ff::","Backend":{"Type":"vxlan"}}"#;
pub(crate) const V6: &str = r#"{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fd00:5::/32","IPv6SubnetMax":"fd00:5:0:ff::",
    "Backend":{"Type":"vxlan"}}"#;

/// The limit of a start: the machine has two cores and other tests.
pub(crate) const START: Duration = Duration::from_secs(20);
/// The promise for one change of the leases or the kernel.
pub(crate) const PROMPT: Duration = Duration::from_secs(1);

/// A host with its agent. The agent is dropped first.
pub(crate) struct Node {
    pub(crate) agent: Agent,
    pub(crate) host: Host,
    /// How its packets travel.
    pub(crate) datapath: Datapath,
}

impl Node {
    /// Starts an agent on a host and waits until it is ready.
    pub(crate) fn start(host: Host, etcd: &Etcd) -> Result<Self> {
        Self::with(host, AgentSpec::new(etcd.agent_flags()))
    }

    pub(crate) fn with(host: Host, spec: AgentSpec) -> Result<Self> {
        Self::by(Datapath::KernelVxlan, host, spec)
    }

    /// With packets that travel in this way.
    pub(crate) fn by(datapath: Datapath, host: Host, mut spec: AgentSpec) -> Result<Self> {
        spec.flags.extend(datapath.flag().map(str::to_owned));
        let mut agent = Agent::spawn(&host, spec)?;
        agent.wait_ready(START)?;
        Ok(Self { agent, host, datapath })
    }

    /// Its subnet, as subnet.env has it: `10.5.7.1/24`.
    pub(crate) fn subnet(&self, family: Family) -> Result<String> {
        let name = match family {
            Family::V4 => "FLANNEL_SUBNET",
            Family::V6 => "FLANNEL_IPV6_SUBNET",
        };
        let env = self.agent.subnet_env()?;
        env.get(name).cloned().ok_or_else(|| LabError::Wrong(format!("no {name} in {env:?}")))
    }

    /// How many packets its packet filter has dropped, by the name that `status` has for that.
    pub(crate) fn filtered(&self, name: &str) -> Result<u64> {
        let status = self.agent.status()?;
        let counted = &status.rest["firewall"][name];
        counted.as_u64().ok_or_else(|| LabError::Wrong(format!("{name} is {counted}")))
    }

    /// Why it has encapsulated packets tracked, as `status` says it.
    pub(crate) fn tracked(&self) -> Result<Vec<String>> {
        let status = self.agent.status()?;
        let reasons = status.rest["firewall"]["tracked"].as_array().cloned().unwrap_or_default();
        Ok(reasons.iter().filter_map(|reason| reason.as_str().map(str::to_owned)).collect())
    }

    /// The address of its overlay's device: the first one of its subnet.
    pub(crate) fn vtep(&self, family: Family) -> Result<IpAddr> {
        let device = self.datapath.device(family);
        let addresses = self.host.kernel().addresses(device)?;
        let own = addresses.iter().find(|address| Family::of(address.local) == family && address.scope == "global");
        own.map(|address| address.local).ok_or_else(|| LabError::Wrong(format!("{device} has {addresses:?}")))
    }
}

/// The kernel's VXLAN device of a family.
pub(crate) fn device(family: Family) -> &'static str {
    Datapath::KernelVxlan.device(family)
}

/// An etcd with this config, and `N` hosts with an agent each, all of them in each other's kernels.
pub(crate) fn cluster<const N: usize>(lab: &Underlay, config: &str) -> Result<(Etcd, [Node; N])> {
    cluster_of(lab, config, [Datapath::KernelVxlan; N], &[])
}

/// The same with a way for each host's packets, and further flags for every agent.
pub(crate) fn cluster_of<const N: usize>(
    lab: &Underlay,
    config: &str,
    datapaths: [Datapath; N],
    flags: &[&str],
) -> Result<(Etcd, [Node; N])> {
    let etcd = Etcd::start(lab)?;
    etcd.put_config(config)?;
    let mut nodes = Vec::new();
    for (host, datapath) in lab.hosts::<N>()?.into_iter().zip(datapaths) {
        let spec = flags.iter().fold(AgentSpec::new(etcd.agent_flags()), |spec, flag| spec.flag(flag));
        nodes.push(Node::by(datapath, host, spec)?);
    }
    let nodes: [Node; N] = nodes.try_into().map_err(|_| LabError::Wrong("not all nodes".to_owned()))?;
    settle(&etcd, &nodes.each_ref(), families(config))?;
    Ok((etcd, nodes))
}

/// The families of a config.
pub(crate) fn families(config: &str) -> &'static [Family] {
    let v4 = !config.contains(r#""EnableIPv4":false"#);
    match (v4, config.contains(r#""EnableIPv6":true"#)) {
        (true, true) => &Family::ALL,
        (true, false) => &[Family::V4],
        (false, _) => &[Family::V6],
    }
}

/// Waits until each node holds exactly the leases in etcd, and lets in what they send.
pub(crate) fn settle(etcd: &Etcd, nodes: &[&Node], families: &[Family]) -> Result<Duration> {
    eventually(START, || exact(etcd, nodes, families))
}

/// Checks that each node holds exactly the leases in etcd. The packet filter is of another loop of the agent than routes, and may be a
/// little later: until then what a new host sends is dropped.
pub(crate) fn exact(etcd: &Etcd, nodes: &[&Node], families: &[Family]) -> Result {
    for node in nodes {
        for family in families {
            node.datapath.exact(&node.host, etcd, *family)?;
            expect_senders(&node.host, etcd, *family)?;
        }
    }
    Ok(())
}

/// Puts `count` peers that are only leases.
pub(crate) fn put_peers(etcd: &Etcd, count: u16, families: &[Family]) -> Result<Vec<PeerLease>> {
    let peers: Vec<PeerLease> = (0..count).map(|number| peer(100 + number, families)).collect();
    etcd.put_all(&peers.iter().map(PeerLease::entry).collect::<Vec<_>>())?;
    Ok(peers)
}

pub(crate) fn peer(number: u16, families: &[Family]) -> PeerLease {
    let peer = PeerLease::numbered(number);
    if families.contains(&Family::V6) { peer.dual_stack() } else { peer }
}

/// The way of the loss meter between two hosts, each with an address within its subnet, over VXLAN.
pub(crate) fn path<'a>(underlay: &'a Underlay, from: (&'a Host, IpAddr), to: (&'a Host, IpAddr)) -> Path<'a> {
    Path { underlay, from, to, encapsulation: Encapsulation::Vxlan }
}

/// Does something and checks that `holds` comes true within the promised time from then.
pub(crate) fn promptly(cause: impl FnOnce() -> Result, mut holds: impl FnMut() -> Result) -> Result {
    let start = Instant::now();
    cause()?;
    eventually(PROMPT.saturating_sub(start.elapsed()), &mut holds)?;
    Ok(())
}

/// Waits until the agent's status has this phase, and returns the reason it gives.
pub(crate) fn phase(agent: &Agent, phase: &str) -> Result<String> {
    let mut reason = String::new();
    eventually(START, || {
        let status = agent.status()?;
        reason = status.reason.unwrap_or_default();
        check(status.phase == phase, || format!("the phase is {}: {reason}\n{}", status.phase, agent.log()))
    })?;
    Ok(reason)
}

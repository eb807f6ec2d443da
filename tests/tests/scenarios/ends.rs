//! What the scenarios of the userspace path begin with: hosts whose packets travel in a given way, a leg behind each, and traffic
//! between the legs whose contents are checked.

use std::net::IpAddr;

use wire_tests::{Etcd, Exchange, Family, LabError, Leg, Result, TrafficServer, Tunnel, Underlay, check};

use crate::{
    cluster::{Node, START, cluster_of, exact},
    datapath::Datapath,
};

/// Odd sizes: nothing, less than a packet, one more than 64 KiB, some megabytes.
pub(crate) const STREAMS: &str = "0,1,1447,65537,5000011";

/// The reasons for which an agent drops what its own kernel sends to groups, as each device that comes up makes it do: they go
/// nowhere, and those of MLD have no hop left.
pub(crate) const KERNELS_OWN: [&str; 3] = ["no_route", "ttl", "multicast"];

/// A host with an agent, and a leg behind it. Dropped from top to bottom.
pub(crate) struct End {
    servers: Vec<TrafficServer>,
    pub(crate) leg: Leg,
    pub(crate) node: Node,
}

impl End {
    pub(crate) fn new(node: Node) -> Result<Self> {
        let gateways = Family::ALL.iter().map(|family| node.subnet(*family)).collect::<Result<Vec<_>>>()?;
        // 1500, and not what the agent asks for: so TCP has to learn the MTU of the path, too.
        let leg = Leg::new(&node.host, &gateways, 1500)?;
        let server = |family: &Family| TrafficServer::start(leg.namespace(), leg.address(*family)?);
        let servers = Family::ALL.iter().map(server).collect::<Result<_>>()?;
        Ok(Self { servers, leg, node })
    }

    pub(crate) fn address(&self, family: Family) -> Result<IpAddr> {
        self.leg.address(family)
    }

    /// The server of its leg.
    pub(crate) fn server(&self, family: Family) -> &TrafficServer {
        &self.servers[usize::from(family == Family::V6)]
    }

    /// Exchanges something with another end's server.
    pub(crate) fn exchange(&self, with: &Self, family: Family, exchange: &Exchange, flows: u16) -> Result {
        let done = with.server(family).exchange(self.leg.namespace(), exchange, flows);
        done.map_err(|error| LabError::Wrong(format!("{error}\n{}{}", self.node.dropped(), with.node.dropped())))
    }

    /// Streams, datagrams of every size that passes in one packet and two that do not, and bursts.
    pub(crate) fn essentials(&self, with: &Self, family: Family) -> Result {
        let largest = self.node.datapath.largest_payload(family).min(with.node.datapath.largest_payload(family));
        self.exchange(with, family, &Exchange::Streams(STREAMS.to_owned()), 1)?;
        self.exchange(with, family, &Exchange::Datagrams(format!("0..={largest},4001,20001")), 1)?;
        self.exchange(with, family, &Exchange::Bursts(format!("1,100,1200,{largest}")), 2)
    }

    /// A little of each, to see that traffic passes at all.
    pub(crate) fn greets(&self, with: &Self, family: Family) -> Result {
        self.exchange(with, family, &Exchange::Streams("65537".to_owned()), 1)?;
        self.exchange(with, family, &Exchange::Datagrams("1..=20".to_owned()), 1)
    }

    /// Runs ping in its leg and gives what it said, whatever came of it.
    pub(crate) fn ping(&self, to: IpAddr, options: &str) -> Result<String> {
        self.leg.namespace().sh(&format!("ping -W 2 {options} {to} 2>&1 || true"))
    }

    /// Checks that not one packet was thrown away for its checksum, on the host or in its leg.
    pub(crate) fn undamaged(&self) -> Result {
        for (name, kernel) in [("host", self.node.host.kernel()), ("leg", self.leg.kernel())] {
            let damaged = kernel.damaged()?;
            check(damaged.is_empty(), || format!("the {name} {} has counted {damaged:?}", self.node.host.name()))?;
        }
        Ok(())
    }
}

impl Node {
    /// The tunnel of a family, as its status has it.
    pub(crate) fn tunnel(&self, family: Family) -> Result<Tunnel> {
        let device = self.datapath.device(family);
        let datapath = self.agent.status()?.datapath.unwrap_or_default();
        let found = datapath.tunnels.iter().find(|tunnel| tunnel.link == device).cloned();
        found.ok_or_else(|| LabError::Wrong(format!("the status has no tunnel {device}: {datapath:?}")))
    }

    /// Checks that its status says how its packets travel.
    pub(crate) fn tells_its_datapath(&self) -> Result {
        let datapath = self.agent.status()?.datapath.unwrap_or_default();
        let want = self.datapath.kind();
        check(datapath.kind == want, || format!("{} says {datapath:?}, not {want}", self.host.name()))
    }

    /// Starts its agent again, from now on with packets that travel in this way.
    pub(crate) fn restart_by(&mut self, datapath: Datapath) -> Result {
        self.agent.terminate()?;
        self.agent.spec_mut().flags.retain(|flag| Some(flag.as_str()) != self.datapath.flag());
        self.agent.spec_mut().flags.extend(datapath.flag().map(str::to_owned));
        self.datapath = datapath;
        self.agent.restart()?;
        self.agent.wait_ready(START).map(drop)
    }

    /// What its tunnels have dropped, for messages.
    fn dropped(&self) -> String {
        let datapath = self.agent.status().ok().and_then(|status| status.datapath).unwrap_or_default();
        let host = self.host.name();
        let line = |tunnel: &Tunnel| format!("{host} {} has dropped {:?}\n", tunnel.link, tunnel.dropped());
        datapath.tunnels.iter().map(line).collect()
    }
}

/// An etcd, and an end for each of these ways, all of them in each other's tables, with further flags for the agents.
pub(crate) fn ends<const N: usize>(
    lab: &Underlay,
    datapaths: [Datapath; N],
    flags: &[&str],
) -> Result<(Etcd, [End; N])> {
    let (etcd, nodes) = cluster_of(lab, datapaths[0].config(), datapaths, flags)?;
    let ends = nodes.into_iter().map(End::new).collect::<Result<Vec<_>>>()?;
    exact(&etcd, &ends.iter().map(|end| &end.node).collect::<Vec<_>>(), &Family::ALL)?;
    Ok((etcd, ends.try_into().map_err(|_| LabError::Wrong("not all ends".to_owned()))?))
}

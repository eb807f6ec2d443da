//! A host with everything on it: an agent, a dockerd as the agent wants it, and a container.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use wire_tests::{AgentSpec, Container, Dockerd, Etcd, Family, Host, Lab, Result, check, eventually};

use crate::cluster::{Node, PROMPT, settle};

/// The promise for what anyone has flushed, and how old what `status` counts may be.
pub(crate) const BACK: Duration = Duration::from_secs(5);

/// A host with an agent, a dockerd with the options the agent wrote, and one container.
pub(crate) struct Seat {
    pub(crate) container: Container,
    pub(crate) docker: Dockerd,
    pub(crate) node: Node,
}

impl Seat {
    pub(crate) fn new(host: Host, etcd: &Etcd, flags: &[&str]) -> Result<Self> {
        let spec = flags.iter().fold(AgentSpec::new(etcd.agent_flags()), |spec, flag| spec.flag(flag));
        let node = Node::with(host, spec)?;
        let mut docker = Dockerd::start_with_file(&node.host, &node.agent.docker_opts_file())?;
        Ok(Self { container: docker.run()?, docker, node })
    }

    pub(crate) fn sh(&self, script: &str) -> Result<String> {
        self.node.host.namespace().sh(script)
    }

    pub(crate) fn address(&self) -> Result<IpAddr> {
        self.container.address(Family::V4)
    }

    /// Runs a shell script in the container.
    pub(crate) fn inside(&self, options: &[&str], script: &str) -> Result<String> {
        let words = ["exec"].into_iter().chain(options.iter().copied());
        self.docker.docker(&words.chain([self.container.name(), "sh", "-c", script]).collect::<Vec<_>>())
    }

    /// Carries a line over a new TCP connection from this container to another.
    pub(crate) fn connects(&self, to: &Self) -> Result {
        static PORT: AtomicU16 = AtomicU16::new(5100);
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let address = to.address()?;
        // busybox's nc ends when its own input does.
        to.inside(&["-d"], &format!("sleep 20 | nc -l -p {port} > /tmp/{port}"))?;
        let send =
            format!("for i in 1 2 3 4 5; do echo over | nc -w 2 {address} {port} && exit 0; sleep 0.2; done; exit 1");
        self.inside(&[], &send)?;
        let arrived = || Ok(to.inside(&[], &format!("cat /tmp/{port}"))?.contains("over"));
        eventually(PROMPT, || check(arrived()?, || format!("nothing arrived at {address}"))).map(drop)
    }
}

/// Two of them, where forwarding was on before Docker started.
pub(crate) fn seats(lab: &Lab, config: &str, flags: &[&str]) -> Result<(Etcd, [Seat; 2])> {
    let etcd = Etcd::start(lab)?;
    etcd.put_config(config)?;
    let [one, other] = lab.hosts::<2>()?;
    for host in [&one, &other] {
        // As on a host where something else has switched it on: Docker leaves the policy as it is.
        host.sysctl("net.ipv4.ip_forward", "1")?;
    }
    let seats = [Seat::new(one, &etcd, flags)?, Seat::new(other, &etcd, flags)?];
    settle(&etcd, &[&seats[0].node, &seats[1].node], &[Family::V4])?;
    Ok((etcd, seats))
}

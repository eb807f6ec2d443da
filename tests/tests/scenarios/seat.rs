//! A host with everything on it: an agent, a dockerd as the agent wants it, and a container.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use wire_tests::{
    AgentSpec, Container, Dockerd, Etcd, Family, Host, Lab, LabError, Result, check, docker_options, eventually,
};

use crate::cluster::{Node, START, settle};

/// The promise for what anyone has flushed, and how old what `status` counts may be.
pub(crate) const BACK: Duration = Duration::from_secs(5);

/// A host with an agent, a dockerd with the options the agent wrote, and one container.
pub(crate) struct Seat {
    pub(crate) container: Container,
    pub(crate) docker: Dockerd,
    pub(crate) node: Node,
    /// Docker's network that its containers are in.
    network: &'static str,
}

/// Docker's default network.
const DEFAULT: &str = "bridge";

impl Seat {
    /// Where forwarding was on before Docker came: Docker leaves the policy of FORWARD as it is.
    pub(crate) fn new(host: Host, etcd: &Etcd, flags: &[&str]) -> Result<Self> {
        host.sysctl("net.ipv4.ip_forward", "1")?;
        Self::beside(node(host, etcd, flags)?)
    }

    /// With an agent that runs already.
    pub(crate) fn beside(node: Node) -> Result<Self> {
        let docker = Dockerd::start_with_file(&node.host, &node.agent.docker_opts_file())?;
        Self::with(node, docker, DEFAULT)
    }

    /// Where Docker came before the agent: it has switched forwarding on itself, and sets the policy of FORWARD to DROP.
    pub(crate) fn of_former_docker(host: Host, etcd: &Etcd, flags: &[&str]) -> Result<Self> {
        let before = host.exec("sysctl -n net.ipv4.ip_forward")?;
        let mut docker = Dockerd::start(&host, &[])?;
        let policy = host.namespace().sh("iptables -S FORWARD | head -1")?;
        check(before.trim() == "0" && policy.trim() == "-P FORWARD DROP", || format!("docker left {policy}"))?;
        let node = node(host, etcd, flags)?;
        docker.restart(&docker_options(&node.agent.docker_opts_file())?)?;
        Self::with(node, docker, DEFAULT)
    }

    /// With a network that was made for our subnet, and a Docker whose default one is elsewhere or nowhere. As README has it.
    /// `dockerd` are flags of it, `network` those of `docker network create`.
    pub(crate) fn with_own_network(
        host: Host,
        etcd: &Etcd,
        flags: &[&str],
        [dockerd, network]: [&[&str]; 2],
    ) -> Result<Self> {
        const OWN: &str = "overlay";
        let node = node(host, etcd, flags)?;
        let status = node.agent.ctl(&["status"])?;
        let dockerd: Vec<String> = dockerd.iter().map(|flag| (*flag).to_owned()).collect();
        let docker = Dockerd::start(&node.host, &dockerd)?;
        let subnets = status.lines().find_map(|line| line.strip_prefix("subnet ")).unwrap_or_default().trim();
        let (v4, v6) = subnets.split_once(' ').ok_or_else(|| LabError::Wrong(status.clone()))?;
        let mtu = format!("com.docker.network.driver.mtu={}", node.agent.subnet_env()?["FLANNEL_MTU"]);
        let own = ["network", "create", "--subnet", v4, "--ipv6", "--subnet", v6, "-o", &mtu];
        docker.docker(&[own.as_slice(), network, &[OWN]].concat())?;
        Self::with(node, docker, OWN)
    }

    fn with(node: Node, mut docker: Dockerd, network: &'static str) -> Result<Self> {
        let container = docker.run_with(&["--network", network])?;
        Ok(Self { container, docker, node, network })
    }

    /// One more container, with these options of `docker run`.
    pub(crate) fn run(&mut self, options: &[&str]) -> Result<Container> {
        self.docker.run_with(&[&["--network", self.network], options].concat())
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
        self.connects_over(Family::V4, to)
    }

    /// The same over a family.
    pub(crate) fn connects_over(&self, family: Family, to: &Self) -> Result {
        static PORT: AtomicU16 = AtomicU16::new(5100);
        let port = PORT.fetch_add(1, Ordering::Relaxed);
        let address = to.container.address(family)?;
        // busybox's nc ends when its own input does.
        to.inside(&["-d"], &format!("sleep 60 | nc -l -p {port} > /tmp/{port}"))?;
        self.inside(&[], &until_done(&format!("echo over | nc -w 2 {address} {port}")))?;
        let arrived = || Ok(to.inside(&[], &format!("cat /tmp/{port}"))?.contains("over"));
        eventually(START, || check(arrived()?, || format!("nothing arrived at {address}"))).map(drop)
    }
}

/// A shell script that repeats a command for ten seconds until it succeeds: a listener that was started just now may not listen yet.
pub(crate) fn until_done(command: &str) -> String {
    format!("end=$(($(date +%s) + 10)); until {command}; do [ $(date +%s) -lt $end ] || exit 1; sleep 0.2; done")
}

fn node(host: Host, etcd: &Etcd, flags: &[&str]) -> Result<Node> {
    let spec = flags.iter().fold(AgentSpec::new(etcd.agent_flags()), |spec, flag| spec.flag(flag));
    Node::with(host, spec)
}

/// Two of them, where forwarding was on before Docker started.
pub(crate) fn seats(lab: &Lab, config: &str, flags: &[&str]) -> Result<(Etcd, [Seat; 2])> {
    seats_by(lab, config, |host, etcd| Seat::new(host, etcd, flags))
}

/// Two of them, each made so.
pub(crate) fn seats_by(
    lab: &Lab,
    config: &str,
    seat: impl Fn(Host, &Etcd) -> Result<Seat>,
) -> Result<(Etcd, [Seat; 2])> {
    let etcd = Etcd::start(lab)?;
    etcd.put_config(config)?;
    let [one, other] = lab.hosts::<2>()?;
    let seats = [seat(one, &etcd)?, seat(other, &etcd)?];
    settle(&etcd, &[&seats[0].node, &seats[1].node], &[Family::V4])?;
    Ok((etcd, seats))
}

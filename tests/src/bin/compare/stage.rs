//! What a scene is played on: an etcd, hosts with agents of one binary, and what has been said.

use std::{
    path::PathBuf,
    process::{ExitStatus, Output},
    time::Duration,
};

use wire_tests::{Agent, AgentSpec, Dockerd, Etcd, Host, Lab, PeerLease, Result, check, eventually};

/// The limit of a start, a stop and a change: the machine has two cores and other work.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Everything on the stage. The lab is dropped last: it sweeps up what the others leave.
pub(crate) struct Stage {
    pub(crate) dockers: Vec<Dockerd>,
    pub(crate) sites: Vec<Site>,
    pub(crate) etcd: Etcd,
    /// Whether etcd answers.
    pub(crate) etcd_runs: bool,
    /// What has ended and how, and what commands have said, in order.
    pub(crate) said: Vec<String>,
    binary: PathBuf,
    pub(crate) lab: Lab,
}

/// A host with its agent. The agent is dropped first.
pub(crate) struct Site {
    pub(crate) agent: Agent,
    pub(crate) host: Host,
}

impl Stage {
    /// An etcd with this network config, for agents of this binary.
    pub(crate) fn set(binary: PathBuf, config: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let etcd = Etcd::start(&lab)?;
        etcd.put_config(config)?;
        Ok(Self { dockers: Vec::new(), sites: Vec::new(), etcd, etcd_runs: true, said: Vec::new(), binary, lab })
    }

    /// Puts peers that are only leases.
    pub(crate) fn put(&self, peers: &[PeerLease]) -> Result {
        self.etcd.put_all(&peers.iter().map(PeerLease::entry).collect::<Vec<_>>())
    }

    /// Starts an agent on a host and does not wait.
    pub(crate) fn spawn(&mut self, host: Host, flags: &[&str]) -> Result {
        let spec = flags.iter().fold(AgentSpec::new(self.etcd.agent_flags()), |spec, flag| spec.flag(flag));
        let spec = AgentSpec { binary: Some(self.binary.clone()), ..spec };
        self.sites.push(Site { agent: Agent::spawn(&host, spec)?, host });
        Ok(())
    }

    /// Starts an agent on the next host, and waits until it is ready.
    pub(crate) fn join(&mut self, flags: &[&str]) -> Result {
        let name = format!("h{}", self.sites.len() + 1);
        let host = self.lab.host(&name)?;
        self.join_on(host, flags)
    }

    /// The same on this host.
    pub(crate) fn join_on(&mut self, host: Host, flags: &[&str]) -> Result {
        self.spawn(host, flags)?;
        self.sites.last_mut().expect("it was pushed just now").ready()
    }

    /// The first host.
    pub(crate) fn first(&mut self) -> &mut Site {
        &mut self.sites[0]
    }

    /// Ends the first agent with SIGTERM, and notes how it went.
    pub(crate) fn terminate(&mut self) -> Result {
        let (status, _) = self.first().agent.terminate()?;
        self.ended("SIGTERM", status);
        Ok(())
    }

    /// Kills the first agent.
    pub(crate) fn kill(&mut self) -> Result {
        let agent = &mut self.first().agent;
        agent.kill();
        let status = agent.wait(SOON)?;
        self.ended("SIGKILL", status);
        Ok(())
    }

    /// Runs a command with the flags of the first agent, and notes what it said.
    pub(crate) fn command(&mut self, word: &str) -> Result {
        let output = self.first().agent.run_with_its_flags(word)?;
        self.said.push(shown(&format!("wire-agent {word}"), &output));
        Ok(())
    }

    fn ended(&mut self, by: &str, status: ExitStatus) {
        self.said.push(format!("the agent ended by {by}: {status}\n"));
    }
}

impl Site {
    /// Waits until the agent says READY and that it is ready.
    pub(crate) fn ready(&mut self) -> Result {
        self.agent.wait_ready(SOON)?;
        self.phase("ready")
    }

    /// Starts the agent again, and waits until it is ready.
    pub(crate) fn again(&mut self) -> Result {
        self.agent.restart()?;
        self.ready()
    }

    /// Waits until the agent is in this phase.
    pub(crate) fn phase(&self, phase: &str) -> Result {
        self.says(phase, "")
    }

    /// The same, with this among its reasons and warnings.
    pub(crate) fn says(&self, phase: &str, said: &str) -> Result {
        eventually(SOON, || {
            let status = self.agent.status()?;
            let all = format!("{} {}", status.reason.clone().unwrap_or_default(), status.rest["warnings"]);
            let end: String = self.agent.log().lines().rev().take(20).collect::<Vec<_>>().join("\n");
            check(status.phase == phase && all.contains(said), || format!("{}: {all}\n{end}", status.phase))
        })
        .map(drop)
    }

    /// Waits until a script in its namespace prints something with this in it.
    pub(crate) fn shows(&self, script: &str, text: &str) -> Result {
        eventually(SOON, || {
            let shown = self.host.namespace().sh(script)?;
            check(shown.contains(text), || format!("`{script}` has no {text:?}: {shown}"))
        })
        .map(drop)
    }
}

/// What a command said, and how it ended.
pub(crate) fn shown(command: &str, output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{command}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr))
}

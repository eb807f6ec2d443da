//! The agent of one host, on any ports: starts the loops, joins the network, and stays in it.

use std::{collections::BTreeMap, ffi::OsString, sync::Arc};

use tokio::{sync::mpsc, task::JoinSet};
use tracing::{debug, info, warn};
use wire_net::{DualStack, NetworkName, Prefix};

use crate::{
    cli::Cli,
    exit::Exit,
    host::Host,
    loops::Loops,
    named::{Named, NetworkWishes},
    network::Network,
    notify::Stored,
    ports::Ports,
    pulse::{Part, Watchdog},
    session::Ended,
    settings::Settings,
    state::StateFile,
    status::{AgentCondition, StatusWriter},
};

/// The flags of an agent, read and checked.
#[derive(Debug)]
pub struct AgentSettings(Settings);

impl AgentSettings {
    /// Reads the flags of the program, without its name.
    ///
    /// # Errors
    /// When one of them cannot be used, or there is a command among them.
    pub fn from_flags(flags: &[&str]) -> Result<Self, AgentError> {
        let words = ["wire-agent"].iter().chain(flags).map(OsString::from);
        let Cli { etcd, run_dir, run, .. } = Cli::read(words).map_err(|error| AgentError::Flags(error.to_string()))?;
        Ok(Self(Settings::new(etcd, run, &run_dir).map_err(Exit::from)?))
    }
}

/// The reason why an agent has ended, or could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The flags cannot be read.
    #[error("{0}")]
    Flags(String),
    /// Any other reason, with the exit status of the program.
    #[error("{reason}")]
    Ended {
        /// The sentence in the log.
        reason: String,
        /// The exit status.
        status: u8,
    },
}

impl From<Exit> for AgentError {
    fn from(exit: Exit) -> Self {
        Self::Ended { reason: exit.report(), status: exit.status() }
    }
}

/// Tells how an agent is, as `wire-agent status` does. Readable also after the agent has ended.
#[derive(Clone, Debug)]
pub struct AgentStatus(StatusWriter);

impl AgentStatus {
    /// `waiting`, `ready`, `degraded` or `stopping`.
    #[must_use]
    pub fn phase(&self) -> &'static str {
        self.0.look(|seen| seen.phase().0.name())
    }

    /// The subnet that this host has joined with.
    #[must_use]
    pub fn subnet(&self) -> DualStack<Prefix> {
        self.0.look(|seen| seen.subnet)
    }

    /// The networks by name that this host has a part in: for each `waiting`, `joined` or `leaving`.
    #[must_use]
    pub fn networks(&self) -> BTreeMap<NetworkName, &'static str> {
        self.0.look(|seen| seen.networks.iter().map(|(name, part)| (name.clone(), part.state.name())).collect())
    }

    /// The conditions that hold now, each as its name and its sentence.
    #[must_use]
    pub fn conditions(&self) -> Vec<(&'static str, String)> {
        self.0.look(|seen| seen.conditions().map(|current| (current.condition.name(), current.text.clone())).collect())
    }
}

/// The agent of one host. When it is dropped, traffic and lease stay as they are.
pub struct Agent<P: Ports> {
    pub(crate) host: Host<P>,
    pub(crate) loops: Loops,
    network: Network<P>,
    /// Networks by name, beside the default one.
    pub(crate) named: Option<Named<P::Store>>,
    /// The task of `named`. Ends with the agent.
    _beside: JoinSet<()>,
}

impl<P: Ports> Agent<P> {
    /// Starts the loops. Nothing but the state file is written before the network is joined.
    ///
    /// # Errors
    /// When the state cannot be read or written, or a loop cannot be started.
    pub fn start(ports: P, settings: AgentSettings) -> Result<Self, AgentError> {
        let status = StatusWriter::new(ports.clone());
        Ok(Self::with(ports, settings.0.into(), Stored::default(), status, Watchdog::default())?)
    }

    /// Tells how this agent is.
    #[must_use]
    pub fn status(&self) -> AgentStatus {
        AgentStatus(self.host.status.clone())
    }

    /// Takes commands about this host's part in networks by name; `None` if it has none, since this is not the default network.
    #[must_use]
    pub fn networks(&self) -> Option<NetworkWishes> {
        let named = self.named.as_ref()?;
        Some(NetworkWishes::new(named.requests.clone(), self.host.status.clone()))
    }

    /// `stored` are the descriptors that the service manager has stored for this run.
    pub(crate) fn with(
        ports: P,
        settings: Arc<Settings>,
        stored: Stored,
        status: StatusWriter,
        watchdog: Watchdog,
    ) -> Result<Self, Exit> {
        status.set_all(AgentCondition::FLAG, settings.warnings.iter().cloned().map(AgentCondition::Flag));
        let mut host = Host::open(ports, settings, StateFile::load, status, watchdog)?;
        host.save_identity()?;
        if host.settings.network.is_default() && host.falls_back_again()? {
            host.encapsulate();
        }
        let loops = Loops::start(&host, stored.clone())?;
        let mut beside = JoinSet::new();
        let is_default = host.settings.network.is_default();
        let named = is_default.then(|| Named::start(&host, &loops, &mut beside)).transpose()?;
        let network = Network::new(host.settings.network.clone(), &host, (loops.clone(), named.clone()), stored);
        Ok(Self { host, loops, network, named, _beside: beside })
    }

    /// Joins the network, and joins it anew after each change of underlay, lease or after a `hangup`. Joining anew writes nothing that is
    /// already correct.
    ///
    /// # Errors
    /// The reason why it ends by itself.
    pub async fn run(self, hangups: mpsc::Receiver<()>) -> Result<(), AgentError> {
        Ok(self.stay(hangups).await?)
    }

    pub(crate) async fn stay(self, mut hangups: mpsc::Receiver<()>) -> Result<(), Exit> {
        let Self { mut host, loops: _, mut network, named: _, _beside } = self;
        let mut heartbeat = host.watchdog.part(Part::Session);
        loop {
            let ended = tokio::select! {
                ended = network.join(&mut host, &mut heartbeat) => ended?,
                Some(()) = hangups.recv() => Ended::Reload,
            };
            match ended {
                Ended::UnderlayChanged => info!("the underlay has changed, joining anew"),
                Ended::Reload => info!("joining anew, certificates are read again"),
                Ended::Retry => debug!("joining anew, the last time failed"),
                Ended::NoVxlan => host.encapsulate(),
                Ended::OtherSubnet => info!("another subnet is leased, joining anew with it"),
                Ended::FormerUnneeded => {
                    info!("all hosts speak the new backend: the former one is left");
                    host.forget_former();
                }
                Ended::FormerImpossible => {
                    warn!(
                        "the former backend is not spoken: this kernel lacks what it needs; hosts that are not restarted yet are cut off"
                    );
                    host.forget_former();
                }
                Ended::EtcdAnswered => info!("etcd has answered, joining with its leases"),
            }
        }
    }
}

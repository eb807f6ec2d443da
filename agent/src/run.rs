//! A run of the agent: the checks before it starts, the tasks beside the network, and its end.

use std::{
    convert::Infallible, fs, io, net::SocketAddr, os::unix::fs::OpenOptionsExt, path::Path, sync::Arc, time::Duration,
};

use caps::{CapSet, Capability};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::resource::{Resource, getrlimit, setrlimit},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc::{self, error::TrySendError},
    task::JoinSet,
};
use tracing::{Instrument as _, debug, error, info, info_span, warn};
use wire_net::{NetworkName, chain};
use wire_store::EtcdStore;

use crate::{
    agent::Agent,
    control,
    exit::Exit,
    files::RealDisk,
    health,
    inherited::Inherited,
    named::DocumentFile,
    notify::{self, Stored, Systemd},
    overview::Overview,
    ports::System,
    pulse::Watchdog,
    settings::Settings,
    status::{AgentCondition, StatusWriter},
};

/// Runs until SIGTERM or SIGINT. Traffic and leases stay.
///
/// # Errors
/// The reason why it ends by itself; see [`Exit`].
pub(crate) async fn run(networks: Vec<Settings>) -> Result<(), Exit> {
    for settings in &networks {
        info!(version = env!("CARGO_PKG_VERSION"), network = %settings.network, prefix = %settings.prefix, "starting");
        settings.check_underlay()?;
        // Endpoints and certificates are checked before anything is written.
        EtcdStore::open(settings.etcd.clone()).await?;
    }
    let first = networks.first().map(|settings| settings.warnings.as_slice()).unwrap_or_default();
    first.iter().for_each(|warning| warn!("{warning}"));
    require_capability()?;
    raise_descriptors();
    let locks: Result<Vec<_>, Exit> = networks.iter().map(|settings| lock(&settings.folders.run_dir)).collect();
    let _locks = locks?;
    let Signals { mut terminate, mut interrupt } = Signals::new().map_err(Exit::Signals)?;
    let mut inherited = Inherited::take();
    let health = networks.first().and_then(|settings| settings.health);
    let members: Vec<Member> = networks.into_iter().map(|settings| Member::new(settings, &mut inherited)).collect();
    let overview = Overview::new(members.iter().map(|member| (member.name().clone(), member.status.clone())));
    let mut beside = JoinSet::new();
    beside.spawn(check_health(health, overview.clone()));
    let watchdogs = members.iter().map(|member| member.watchdog.clone()).collect();
    let ports: Vec<System> = members.iter().map(|member| member.ports.clone()).collect();
    let (systemd, seen) = (Systemd, overview.clone());
    beside.spawn(async move { notify::follow(&systemd, seen, watchdogs).await });
    let result = tokio::select! {
        result = stay(members) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    overview.statuses().for_each(|status| status.update(|seen| seen.stopping = true));
    notify::stopping(&Systemd);
    if result.is_ok() {
        info!("ending; traffic and lease stay as they are");
    }
    for ports in ports {
        ports.loops_ended().await;
    }
    result
}

/// Stays in all networks. The only one of a run ends it when it ends; of several, one that ends is tried again, and the others go on.
async fn stay(mut members: Vec<Member>) -> Result<(), Exit> {
    if let [only] = members.as_mut_slice() {
        return only.stay().await;
    }
    let mut tasks = JoinSet::new();
    let mut earlier: Vec<StatusWriter> = Vec::new();
    for member in members {
        let (span, before, status) =
            (info_span!("network", name = %member.name()), earlier.clone(), member.status.clone());
        let in_turn = async move {
            let _tried = tokio::time::timeout(AGAIN, joined(before)).await;
            member.stay_always().await
        };
        tasks.spawn(in_turn.instrument(span));
        earlier.push(status);
    }
    match tasks.join_next().await {
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        Some(Ok(never)) => match never {},
        None => Ok(()),
    }
}

/// Waits until all are joined: of two networks that cannot both be, the first one of the flags is.
async fn joined(networks: Vec<StatusWriter>) {
    for network in networks {
        let mut seen = network.subscribe();
        if seen.wait_for(|seen| seen.joined).await.is_err() {
            return;
        }
    }
}

/// A network of this run, and what outlives the attempts to stay in it.
struct Member {
    settings: Arc<Settings>,
    ports: System,
    stored: Stored,
    status: StatusWriter,
    watchdog: Watchdog,
}

/// The pause before a network that has ended is tried again.
const AGAIN: Duration = Duration::from_secs(10);

impl Member {
    fn new(settings: Settings, inherited: &mut Inherited) -> Self {
        let document = DocumentFile::in_folder(&settings.folders.state_dir);
        let (kept, stored) = inherited.of(&settings.network, document.devices(&RealDisk));
        let ports = System::new(settings.network.clone(), kept);
        let status = StatusWriter::new(ports.clone());
        Self { settings: settings.into(), ports, stored, status, watchdog: Watchdog::default() }
    }

    fn name(&self) -> &NetworkName {
        &self.settings.network
    }

    async fn stay_always(mut self) -> Infallible {
        loop {
            let why = match self.stay().await {
                Ok(()) => "it has ended".to_owned(),
                Err(exit) => exit.report(),
            };
            error!("{why}; trying again in {} s, the other networks go on", AGAIN.as_secs());
            self.status.begin_anew();
            self.status.wait_for(why);
            // Its status is told meanwhile.
            let _told = tokio::time::timeout(AGAIN, self.only_tell()).await;
        }
    }

    /// Stays in the network until it ends by itself.
    async fn stay(&mut self) -> Result<(), Exit> {
        let Self { settings, ports, stored, status, watchdog } = self;
        let agent = Agent::with(ports.clone(), settings.clone(), stored.clone(), status.clone(), watchdog.clone())?;
        let mut beside = JoinSet::new();
        let attaching = agent.named.as_ref().map(|named| (named.attaching.clone(), named.watched.clone()));
        let running = control::Running { loops: agent.loops.clone(), networks: agent.networks(), attaching };
        beside.spawn(self.control(Some(running))?.in_current_span());
        let (to_agent, hangups) = mpsc::channel(1);
        beside.spawn(pass_on(signal(SignalKind::hangup()).map_err(Exit::Signals)?, to_agent));
        agent.stay(hangups).await
    }

    /// Answers questions about the network while there is no agent of it.
    async fn only_tell(&self) {
        match self.control(None) {
            Ok(control) => control.await,
            Err(exit) => debug!("{}", exit.report()),
        }
        std::future::pending::<()>().await;
    }

    /// Opens the control socket. The result answers.
    fn control(&self, running: Option<control::Running>) -> Result<impl Future<Output = ()> + Send + use<>, Exit> {
        let run_dir = &self.settings.folders.run_dir;
        let unmade = |source| Exit::SocketUnmade { path: control::socket(run_dir), source };
        let listener = control::listen(run_dir).map_err(unmade)?;
        let control = control::serve(listener, self.status.clone(), self.watchdog.clone(), running);
        Ok(async move {
            if let Err(error) = control.await {
                error!(error = chain(&error), "the control socket broke");
            }
        })
    }
}

/// Passes the signal on. Several that come while the agent has not taken the first count as one.
async fn pass_on(mut hangup: Signal, to_agent: mpsc::Sender<()>) {
    while hangup.recv().await.is_some() {
        if let Err(TrySendError::Closed(())) = to_agent.try_send(()) {
            return;
        }
    }
}

async fn check_health(address: Option<SocketAddr>, networks: Overview) {
    let Some(address) = address else { return };
    if let Err(error) = health::serve(address, networks.clone()).await {
        error!(%address, %error, "no health checks: --healthz-ip and --healthz-port cannot be used");
        let fault = || AgentCondition::NoHealthChecks { address, error: error.to_string() };
        for status in networks.statuses() {
            status.raise(fault());
        }
    }
}

/// Raises the limit of descriptors to the kernel's maximum: the usual limit of 1024 is for programs that use select().
fn raise_descriptors() {
    let raised =
        getrlimit(Resource::RLIMIT_NOFILE).and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        debug!(%error, "the limit of descriptors stays as it is");
    }
}

/// # Errors
/// [`Exit::NoCapability`] without CAP_NET_ADMIN.
pub(crate) fn require_capability() -> Result<(), Exit> {
    match caps::has_cap(None, CapSet::Effective, Capability::CAP_NET_ADMIN) {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => Err(Exit::NoCapability),
    }
}

/// Locks the run folder for this agent, for as long as the result lives.
///
/// # Errors
/// [`Exit::LockHeld`] if another agent holds it.
pub(crate) fn lock(run_dir: &Path) -> Result<Flock<fs::File>, Exit> {
    let path = run_dir.join("lock");
    let cannot = |source: io::Error| Exit::LockUnmade { path: path.clone(), source };
    fs::create_dir_all(run_dir).map_err(cannot)?;
    // The folder belongs to the agent's user, and `drain` runs as root: it must not follow a link there.
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(false).write(true).custom_flags(nix::libc::O_NOFOLLOW);
    let file = options.open(&path).map_err(cannot)?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|_| Exit::LockHeld { path })
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        // Each network listens for itself, once it runs. Before the first listener, a hangup would end the process.
        drop(signal(SignalKind::hangup())?);
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_lock_that_is_a_link_makes_no_file_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        symlink(&elsewhere, folder.path().join("lock")).unwrap();
        let refused = lock(folder.path()).unwrap_err();
        assert!(refused.status() == 73 && refused.to_string().contains("lock"), "{refused}");
        assert!(!elsewhere.exists());
    }
}

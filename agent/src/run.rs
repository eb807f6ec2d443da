//! A run of the agent: the checks before it starts, the tasks beside the network, and its end.

use std::{fs, io, os::unix::fs::OpenOptionsExt, path::Path};

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
use tracing::{debug, error, info, warn};
use wire_net::chain;
use wire_store::EtcdStore;

use crate::{
    agent::Agent,
    control,
    exit::Exit,
    health,
    host::Host,
    inherited::{self, Inherited},
    notify,
    ports::{Ports, System},
    settings::Settings,
    status::AgentCondition,
};

/// Runs until SIGTERM or SIGINT. Traffic and lease stay.
///
/// # Errors
/// The reason why it ends by itself; see [`Exit`].
pub(crate) async fn run(settings: Settings) -> Result<(), Exit> {
    info!(version = env!("CARGO_PKG_VERSION"), prefix = %settings.prefix, "starting");
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    settings.check_underlay()?;
    // Endpoints and certificates are checked before anything is written.
    EtcdStore::open(settings.etcd.clone()).await?;
    require_capability()?;
    raise_descriptors();
    let _lock = lock(&settings.folders.run_dir)?;
    let Signals { mut terminate, mut interrupt, hangup } = Signals::new().map_err(Exit::Signals)?;
    let Inherited { kept, stored } = inherited::take();
    let agent = Agent::with(System::new(settings.network.clone(), kept), settings, stored)?;
    let (ports, status) = (agent.host.ports.clone(), agent.host.status.clone());
    let mut beside = beside(&agent)?;
    let (to_agent, hangups) = mpsc::channel(1);
    beside.spawn(pass_on(hangup, to_agent));
    let result = tokio::select! {
        result = agent.stay(hangups) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    status.update(|seen| seen.stopping = true);
    notify::stopping(ports.supervisor());
    if result.is_ok() {
        info!("ending; traffic and lease stay as they are");
    }
    result
}

/// Passes the signal on. Several that come while the agent has not taken the first count as one.
async fn pass_on(mut hangup: Signal, to_agent: mpsc::Sender<()>) {
    while hangup.recv().await.is_some() {
        if let Err(TrySendError::Closed(())) = to_agent.try_send(()) {
            return;
        }
    }
}

/// The control socket, health checks and systemd's messages. They end when the set is dropped.
fn beside(agent: &Agent<System>) -> Result<JoinSet<()>, Exit> {
    let Host { ports, settings, status, watchdog, .. } = &agent.host;
    let tunnels = agent.loops.tunnels.clone();
    let mut tasks = JoinSet::new();
    let run_dir = &settings.folders.run_dir;
    let listener =
        control::listen(run_dir).map_err(|source| Exit::SocketUnmade { path: control::socket(run_dir), source })?;
    let control = control::serve(listener, status.clone(), watchdog.clone(), agent.loops.clone());
    tasks.spawn(async move {
        if let Err(error) = control.await {
            error!(error = chain(&error), "the control socket broke");
        }
    });
    if let Some(address) = settings.health {
        let (health, faults) = (health::serve(address, status.clone()), status.clone());
        tasks.spawn(async move {
            if let Err(error) = health.await {
                error!(%address, %error, "no health checks: --healthz-ip and --healthz-port cannot be used");
                faults.raise(AgentCondition::NoHealthChecks { address, error: error.to_string() });
            }
        });
    }
    tasks.spawn(notify::follow(ports.clone(), status.clone(), watchdog.clone(), tunnels));
    Ok(tasks)
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
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
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

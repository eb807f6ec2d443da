//! A run of the agent: the checks before it starts, the tasks beside the network, and its end.

use std::{fs, io, os::unix::fs::OpenOptionsExt, path::Path};

use caps::{CapSet, Capability};
use nix::{
    fcntl::{Flock, FlockArg},
    sys::resource::{Resource, getrlimit, setrlimit},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinSet,
};
use tracing::{debug, error, info, warn};
use wire_net::{NetworkName, chain};

use crate::{
    control,
    exit::Exit,
    health,
    host::Host,
    inherited,
    loops::Loops,
    network::{self, Network},
    notify,
    pulse::{Part, Watchdog},
    session::Ended,
    settings::Settings,
    state::StateFile,
    status::{AgentCondition, StatusWriter},
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
    network::open(&settings).await?;
    require_capability()?;
    raise_descriptors();
    let _lock = lock(&settings.folders.run_dir)?;
    let Signals { mut terminate, mut interrupt, mut hangup } = Signals::new().map_err(Exit::Signals)?;
    let status = StatusWriter::new();
    status.set_all(AgentCondition::FLAG, settings.warnings.iter().cloned().map(AgentCondition::Flag));
    let watchdog = Watchdog::default();
    let mut host = Host::open(settings, StateFile::load, status.clone(), watchdog.clone())?;
    host.save_identity()?;
    let inherited = inherited::take();
    let stored = inherited.stored.clone();
    let loops = Loops::start(&host, inherited)?;
    let network = Network::new(NetworkName::default(), &host, loops.clone(), stored);
    let _beside = beside(&host, loops)?;
    let result = tokio::select! {
        result = stay(host, network, &mut hangup) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    status.update(|seen| seen.stopping = true);
    notify::stopping();
    if result.is_ok() {
        info!("ending; traffic and lease stay as they are");
    }
    result
}

/// Joins the network, and joins it anew after each change of underlay, lease or signal. Joining anew writes nothing
/// that is already correct.
async fn stay(mut host: Host, mut network: Network, hangup: &mut Signal) -> Result<(), Exit> {
    let mut heartbeat = host.watchdog.part(Part::Session);
    loop {
        let ended = tokio::select! {
            ended = network.join(&mut host, &mut heartbeat) => ended?,
            _ = hangup.recv() => Ended::Reload,
        };
        match ended {
            Ended::UnderlayChanged => info!("the underlay has changed, joining anew"),
            Ended::Reload => info!("joining anew, certificates are read again"),
            Ended::Retry => debug!("joining anew, the last time failed"),
            Ended::NoVxlan => host.encapsulate(),
            Ended::OtherSubnet => info!("another subnet is leased, joining anew with it"),
            Ended::EtcdAnswered => info!("etcd has answered, joining with its leases"),
        }
    }
}

/// The control socket, health checks and systemd's messages. They end when the set is dropped.
fn beside(host: &Host, loops: Loops) -> Result<JoinSet<()>, Exit> {
    let Host { settings, status, watchdog, .. } = host;
    let tunnels = loops.tunnels.clone();
    let mut tasks = JoinSet::new();
    let run_dir = &settings.folders.run_dir;
    let listener =
        control::listen(run_dir).map_err(|source| Exit::SocketUnmade { path: control::socket(run_dir), source })?;
    let control = control::serve(listener, status.clone(), watchdog.clone(), loops);
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
    tasks.spawn(notify::follow(status.clone(), watchdog.clone(), tunnels));
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

//! `wire-agent drain`: leaving the network. The devices of networks by name go first, since another host may get their addresses as soon as etcd has
//! them back. Then the lease is given back, so that peers stop sending to this host; then our other entries in the kernel, our settings for Docker, the
//! files for other programs, and last the agent's own state go.

mod kernel;

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use wire_kernel::HostNetwork;
use wire_lease::{
    HeldLease, Owner, give_back,
    named::{NetworkError, NetworkStore},
};
use wire_net::chain;
use wire_state::{DesiredFile, DesiredFiles, FileOp, PerNamespace, Reconciler, Writing};
use wire_store::{EtcdStore, Random, StoreError};

use self::kernel::{kernel, remove_from_kernel, scope_left, scope_of_networks};
use crate::{
    all_attachments,
    attach::Folder,
    daemon_json::{self, DaemonJsonError, Without},
    docker_opts::SubnetEnv,
    docker_unit::{DockerUnit, FOR_DOCKER},
    exit::{CANNOT_CREATE, Exit, NO, UNAVAILABLE},
    files::{FileDriver, RealDisk},
    firewall,
    flat::NETWORKS,
    last_known::LastKnownFile,
    machine::{Kinship, Seen},
    named::{Document, DocumentFile, KnownFiles},
    other_agents::OtherRanges,
    output::{answer, complain, report},
    ports::System,
    run::{lock, require_capability},
    settings::Settings,
    state::{State, StateFile},
    upkeep::files_failure,
};

/// Said where devices of networks by name are left.
const KEPT: &str = "the lease and the addresses on networks by name are kept in etcd, and the rules of the firewall, since containers here may still answer there";

/// The host has not left the network, or not completely.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DrainError {
    #[error("cannot read the state in {}", folder.display())]
    StateUnread { folder: PathBuf, source: io::Error },
    /// Everything else is removed.
    #[error("the lease was not given back")]
    LeaseLeft(#[source] StoreError),
    /// `--dry-run`: Docker's settings cannot be read.
    #[error(transparent)]
    Docker(DaemonJsonError),
    /// Each of the failures is a sentence.
    #[error("not everything could be removed, run wire-agent drain again: {}", failures.join("; "))]
    Incomplete { failures: Vec<String> },
}

impl DrainError {
    /// The exit status.
    pub(crate) const fn status(&self) -> u8 {
        match self {
            Self::StateUnread { .. } => CANNOT_CREATE,
            Self::LeaseLeft(_) => UNAVAILABLE,
            Self::Docker(_) | Self::Incomplete { .. } => NO,
        }
    }

    /// The next step for the reader, if there is one.
    pub(crate) const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::LeaseLeft(_) => Some("run wire-agent drain again, or let the lease expire"),
            Self::StateUnread { .. } | Self::Docker(_) | Self::Incomplete { .. } => None,
        }
    }
}

/// Leaves networks, the further ones first. What fails in one stops no other.
///
/// # Errors
/// The first of [`run`].
pub(crate) async fn all(networks: Vec<Settings>) -> Result<(), Exit> {
    name_others(&networks);
    let mut result = Ok(());
    for settings in networks.into_iter().rev() {
        if !settings.network.is_default() {
            report(format_args!("network {}:", settings.network));
        }
        result = result.and(run(settings).await);
    }
    result
}

/// Names the networks that this host was in, and that no flag names: their prefixes are not known.
fn name_others(networks: &[Settings]) {
    let Some(default) = networks.iter().find(|settings| settings.network.is_default()) else { return };
    let folders = std::fs::read_dir(default.folders.state_dir.join(NETWORKS)).into_iter().flatten().flatten();
    let left = folders.filter(|folder| StateFile::in_folder(&folder.path()).is_there());
    for name in left.map(|folder| folder.file_name().to_string_lossy().into_owned()) {
        if !networks.iter().any(|settings| settings.network.as_str() == name) {
            complain(format_args!(
                "network {name} is not left: run wire-agent --flat {name}=PREFIX --network {name} drain"
            ));
        }
    }
}

/// Leaves a network. Something that is gone already counts as removed; a failure stops nothing else, and the command can be repeated.
///
/// # Errors
/// [`Exit::LockHeld`] while the agent runs, [`DrainError::LeaseLeft`] if etcd does not answer (all else is done then),
/// [`DrainError::Incomplete`] if something could not be removed. What cannot be removed from the kernel in time counts so.
async fn run(settings: Settings) -> Result<(), Exit> {
    require_capability()?;
    let folders = &settings.folders;
    let _lock = lock(&folders.run_dir)?;
    let state_file = StateFile::in_folder(&folders.state_dir);
    let state = state_file.load(&System::default()).map_err(|source| unread(&settings, source))?;
    let document_file = DocumentFile::in_folder(&folders.state_dir);
    let document = document_file.peek(&RealDisk).map_err(|source| unread(&settings, source))?;
    let mut failures = Vec::new();
    let of_networks = scope_of_networks(&document);
    if !of_networks.devices.is_empty() {
        failures.extend(remove_from_kernel(of_networks));
    }
    let (mut networks, mut lease) = (Ok(()), Ok(()));
    let are_left = !failures.is_empty();
    if are_left {
        failures.push(KEPT.to_owned());
    } else {
        networks = leave_networks(&settings, &state, &document).await;
        lease = release(&settings, &state).await;
    }
    failures.extend(remove_from_kernel(scope_left(&settings, &state, &document)));
    if !are_left {
        match firewall::remove(settings.network.clone()) {
            Ok(removed) => report(format_args!("firewall: {removed} tables and chains removed")),
            Err(error) => failures.push(error.report()),
        }
    }
    let (files, failure) = FilesLeft::of(&settings, &state);
    failures.extend(failure.map(|error| chain(&error)));
    failures.extend(files.leave());
    if !failures.is_empty() {
        failures.extend([networks, lease].into_iter().filter_map(Result::err).map(|error| error.report()));
        return Err(DrainError::Incomplete { failures }.into());
    }
    // The lease can be given back only as long as the state file names it.
    lease.and(networks)?;
    let failures = FilesLeft::of_state(&settings, &document).leave();
    if failures.is_empty() { Ok(()) } else { Err(DrainError::Incomplete { failures }.into()) }
}

/// Prints what [`all`] would do, and does nothing.
///
/// # Errors
/// When the state, the kernel or the packet filter cannot be read.
pub(crate) fn dry_run(networks: &[Settings]) -> Result<(), Exit> {
    require_capability()?;
    name_others(networks);
    networks.iter().rev().try_for_each(dry_run_of)
}

fn dry_run_of(settings: &Settings) -> Result<(), Exit> {
    if !settings.network.is_default() {
        answer(&format!("network {}:\n", settings.network))?;
    }
    let state_file = StateFile::in_folder(&settings.folders.state_dir);
    let state = state_file.peek(&System::default()).map_err(|source| unread(settings, source))?;
    let subnet = shown(&state);
    let lease = if subnet.is_empty() {
        "none".to_owned()
    } else {
        match Seen::now(&System::default())?.kinship(&state) {
            Kinship::Same | Kinship::Unknown => format!("give back {subnet}"),
            Kinship::Other(differs) => not_given_back(&subnet, &differs),
        }
    };
    let document_file = DocumentFile::in_folder(&settings.folders.state_dir);
    let document = document_file.peek(&RealDisk).map_err(|source| unread(settings, source))?;
    let nothing_there = PerNamespace::default();
    let of_networks = kernel(scope_of_networks(&document))?.preview(&nothing_there)?.ops;
    let mut network = kernel(scope_left(settings, &state, &document))?.preview(&nothing_there)?.ops;
    network.retain(|op| !of_networks.contains(op));
    let (mut firewall, nothing) = firewall::leaving(settings.network.clone());
    let rules = firewall.preview(&nothing)?.ops;
    let (files, failure) = FilesLeft::of(settings, &state);
    let files = files.ops().into_iter().chain(FilesLeft::of_state(settings, &document).ops());
    let of_networks = of_networks.iter().map(|op| format!("network: {op}"));
    let lines = of_networks
        .chain(document.names().map(|name| format!("networks: leave {name}")))
        .chain(std::iter::once(format!("lease: {lease}")))
        .chain(network.iter().map(|op| format!("network: {op}")))
        .chain(rules.iter().map(|op| format!("firewall: {op}")))
        .chain(files.map(|op| format!("files: {op}")));
    answer(&lines.map(|line| line + "\n").collect::<String>())?;
    failure.map_or(Ok(()), |error| Err(DrainError::Docker(error).into()))
}

/// The subnet held last.
fn shown(state: &State) -> String {
    state.subnet.iter().map(|(_, prefix)| prefix.to_string()).collect::<Vec<_>>().join(" ")
}

fn not_given_back(subnet: &str, differs: &str) -> String {
    format!(
        "{subnet} is not given back, because this host may be a clone of the one that holds it; if it is not, the lease \
         expires by itself: {differs}"
    )
}

fn unread(settings: &Settings, source: io::Error) -> DrainError {
    DrainError::StateUnread { folder: settings.folders.state_dir.clone(), source }
}

async fn release(settings: &Settings, state: &State) -> Result<(), Exit> {
    if state.subnet.is_empty() {
        report("lease: this host has never held one");
        return Ok(());
    }
    let subnet = shown(state);
    let seen = Seen::now(&System::default())?;
    let owner = match seen.kinship(state) {
        Kinship::Same => Owner::Proven,
        Kinship::Unknown => Owner::At(addresses()?),
        Kinship::Other(differs) => {
            report(format_args!("lease: {}", not_given_back(&subnet, &differs)));
            return Ok(());
        }
    };
    let store = EtcdStore::open(settings.etcd.clone()).await?;
    let held = HeldLease { identity: &state.identity, subnet: &state.subnet, owner: &owner };
    let given = give_back(&store, &settings.prefix, &held).await;
    match given {
        Ok(true) => report(format_args!("lease: {subnet} is given back")),
        Ok(false) => report(format_args!(
            "lease: {subnet} is no longer this host's, or is a reservation that never expires: nothing to give back"
        )),
        Err(error) => return Err(DrainError::LeaseLeft(error).into()),
    }
    Ok(())
}

/// Gives back what this host has on networks by name. Those of the host that this one is a clone of stay.
async fn leave_networks(settings: &Settings, state: &State, document: &Document) -> Result<(), Exit> {
    let Some(host) = document.holder().filter(|host| host.to_string() == state.identity) else { return Ok(()) };
    if matches!(Seen::now(&System::default())?.kinship(state), Kinship::Other(_)) {
        return Ok(());
    }
    let store = EtcdStore::open(settings.etcd.clone()).await?;
    let networks = NetworkStore::new(store.clone(), settings.prefix.clone(), Random::of_system());
    for name in document.names() {
        match networks.leave(name, host).await {
            Ok(()) => report(format_args!("network {name}: left")),
            Err(NetworkError::Store(error)) => return Err(DrainError::LeaseLeft(error).into()),
            Err(error) => return Err(error.into()),
        }
    }
    all_attachments::tell(&store, &settings.prefix, host, &BTreeMap::new()).await.map_err(DrainError::LeaseLeft)?;
    Ok(())
}

/// All addresses of this host.
fn addresses() -> Result<Vec<IpAddr>, Exit> {
    let host = HostNetwork::read([])?;
    Ok(host.links.iter().flat_map(|link| &link.addresses).map(|own| own.local.address).collect())
}

/// The files to remove, and Docker's settings without ours.
struct FilesLeft {
    /// The files, in the order in which they are reported.
    order: Vec<PathBuf>,
    reconciler: Reconciler<FileDriver<RealDisk>>,
    desired: DesiredFiles,
    /// The file with Docker's settings, and our keys in it.
    docker: Option<(PathBuf, String)>,
}

impl FilesLeft {
    /// All but the agent's state. An error about Docker's settings leaves them as they are.
    fn of(settings: &Settings, state: &State) -> (Self, Option<DaemonJsonError>) {
        let folders = &settings.folders;
        let last_known = LastKnownFile::in_folder(&folders.state_dir, settings.prefix.clone());
        let options_file = folders.docker_opts_file.as_deref();
        let for_docker = settings.network.is_default().then(|| Path::new(FOR_DOCKER));
        let files = [Some(folders.subnet_file.as_path()), options_file, for_docker];
        let files = files.into_iter().flatten().chain(last_known.paths());
        let mut order: Vec<PathBuf> = files.map(Path::to_owned).collect();
        // After a reboot there may be no such file; then the MTU is not known, and its key stays.
        let read = SubnetEnv::read(&RealDisk, &folders.subnet_file);
        let env = read.unwrap_or_else(|| SubnetEnv::of_subnet(state.subnet, settings.ip_masq));
        let path = DockerUnit::read(Path::new("/")).settings_path();
        let mut desired = DesiredFiles::new();
        let (mut docker, mut failure) = (None, None);
        match daemon_json::without_ours(&path, &env.daemon_options(true)) {
            Ok(None) => {}
            Ok(Some(Without { keys, left })) => {
                desired.extend(left.map(|content| (path.clone(), DesiredFile { content, writing: Writing::InPlace })));
                order.insert(0, path.clone());
                docker = Some((path, keys.join(", ")));
            }
            Err(error) => failure = Some(error),
        }
        let reconciler = Reconciler::new(FileDriver(RealDisk), order.iter().cloned().collect());
        (Self { order, reconciler, desired, docker }, failure)
    }

    /// The agent's state. The identity goes last: all else belongs to it.
    fn of_state(settings: &Settings, document: &Document) -> Self {
        let folder = &settings.folders.state_dir;
        let known = KnownFiles::in_folder(folder, settings.prefix.clone());
        let of_networks = document.names().map(|name| known.path(name)).chain(Folder::in_folder(folder).files());
        let of_networks = of_networks.chain([OtherRanges::path(folder)]);
        let last = [DocumentFile::in_folder(folder).path().to_owned(), StateFile::in_folder(folder).path().to_owned()];
        let order: Vec<PathBuf> = of_networks.chain(last).collect();
        let reconciler = Reconciler::new(FileDriver(RealDisk), order.iter().cloned().collect());
        Self { order, reconciler, desired: DesiredFiles::new(), docker: None }
    }

    fn ops(mut self) -> Vec<FileOp> {
        self.preview()
    }

    /// The operations that are not done. Files can always be read: one that cannot is removed as it is.
    fn preview(&mut self) -> Vec<FileOp> {
        let mut ops = self.reconciler.preview(&self.desired).map(|plan| plan.ops).unwrap_or_default();
        ops.sort_by_key(|op| self.order.iter().position(|path| path == op.path()));
        ops
    }

    /// Carries out all, and reports each. Returns what failed.
    fn leave(mut self) -> Vec<String> {
        let wanted = self.preview();
        let round = self.reconciler.round(&self.desired);
        let left = self.preview();
        for op in wanted.iter().filter(|op| !left.contains(op)) {
            let path = op.path().display();
            match &self.docker {
                Some((file, keys)) if file == op.path() => report(format_args!(
                    "docker: {keys} removed from {path}; a running Docker uses them until it is restarted"
                )),
                Some(_) | None => report(format_args!("file: {path} is removed")),
            }
        }
        left.iter().map(|op| files_failure(&round, op)).collect()
    }
}

//! `wire-agent drain`: leaving the network. The lease is given back first, so that peers stop sending to this host; then
//! our entries in the kernel, our settings for Docker, the files for other programs, and last the agent's own state go.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use wire_kernel::{HostNetwork, KernelDataplane, RouteForm};
use wire_lease::{HeldLease, Owner, give_back};
use wire_net::{LinkName, chain};
use wire_state::{Marks, PerNamespace, Reconciler, Scope};
use wire_store::StoreError;

use crate::{
    daemon_json::{self, DaemonJsonError},
    docker_opts::SubnetEnv,
    docker_unit::{DockerUnit, FOR_DOCKER},
    exit::{CANNOT_CREATE, Exit, NO, UNAVAILABLE},
    firewall,
    host_dataplane::HostDataplane,
    last_known::LastKnownFile,
    machine::{Kinship, Seen},
    network,
    output::report,
    run::{lock, require_capability},
    settings::Settings,
    state::{State, StateFile},
};

/// The host has not left the network, or not completely.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DrainError {
    #[error("cannot read the state in {}", folder.display())]
    StateUnread { folder: PathBuf, source: io::Error },
    /// Everything else is removed.
    #[error("the lease was not given back")]
    LeaseLeft(#[source] StoreError),
    #[error("cannot remove {}", file.display())]
    FileLeft { file: PathBuf, source: io::Error },
    /// Each of the failures is a sentence.
    #[error("not everything could be removed, run wire-agent drain again: {}", failures.join("; "))]
    Incomplete { failures: Vec<String> },
}

impl DrainError {
    /// As [`Exit::status`].
    pub(crate) const fn status(&self) -> u8 {
        match self {
            Self::StateUnread { .. } => CANNOT_CREATE,
            Self::LeaseLeft(_) => UNAVAILABLE,
            Self::FileLeft { .. } | Self::Incomplete { .. } => NO,
        }
    }

    /// As [`Exit::remedy`].
    pub(crate) const fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::LeaseLeft(_) => Some("run wire-agent drain again, or let the lease expire"),
            Self::StateUnread { .. } | Self::FileLeft { .. } | Self::Incomplete { .. } => None,
        }
    }
}

/// Leaves the network. Something that is gone already counts as removed; a failure stops nothing else, and the command can be repeated.
///
/// # Errors
/// [`Exit::LockHeld`] while the agent runs, [`DrainError::LeaseLeft`] if etcd does not answer (all else is done then),
/// [`DrainError::Incomplete`] or [`DrainError::FileLeft`] if something could not be removed.
pub(crate) async fn run(settings: Settings) -> Result<(), Exit> {
    require_capability()?;
    let folders = &settings.folders;
    let _lock = lock(&folders.run_dir)?;
    let state = StateFile::in_folder(&folders.state_dir)
        .load()
        .map_err(|source| DrainError::StateUnread { folder: folders.state_dir.clone(), source })?;
    let lease = release(&settings, &state).await;
    let mut failures = remove_from_kernel(&state);
    match firewall::remove() {
        Ok(removed) => report(format_args!("firewall: {removed} tables and chains removed")),
        Err(error) => failures.push(error.report()),
    }
    failures.extend(leave_docker(&settings, &state).err().map(|error| chain(&error)));
    let last_known = LastKnownFile::in_folder(&folders.state_dir, settings.prefix.clone());
    let for_docker = Some(Path::new(FOR_DOCKER));
    let files =
        [Some(folders.subnet_file.as_path()), folders.docker_opts_file.as_deref(), for_docker, Some(last_known.path())];
    for file in files.into_iter().flatten() {
        failures.extend(remove(file).err().map(|error| chain(&error)));
    }
    if !failures.is_empty() {
        failures.extend(lease.err().map(|error| error.report()));
        return Err(DrainError::Incomplete { failures }.into());
    }
    // The lease can be given back only as long as the state file names it.
    lease?;
    Ok(remove(&folders.state_dir.join("state.json"))?)
}

async fn release(settings: &Settings, state: &State) -> Result<(), Exit> {
    if state.subnet.is_empty() {
        report("lease: this host has never held one");
        return Ok(());
    }
    let subnet: Vec<String> = state.subnet.iter().map(|(_, prefix)| prefix.to_string()).collect();
    let subnet = subnet.join(" ");
    let seen = Seen::now()?;
    let owner = match seen.kinship(state) {
        Kinship::Same => Owner::Proven,
        Kinship::Unknown => Owner::At(addresses()?),
        Kinship::Other(differs) => {
            report(format_args!(
                "lease: {subnet} is not given back, because this host may be a clone of the one that holds it; if it \
                 is not, the lease expires by itself: {differs}"
            ));
            return Ok(());
        }
    };
    let store = network::open(settings).await?;
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

/// All addresses of this host.
fn addresses() -> Result<Vec<IpAddr>, Exit> {
    let host = HostNetwork::read([])?;
    Ok(host.links.iter().flat_map(|link| &link.addresses).map(|own| own.local.address).collect())
}

/// Removes all entries of ours from the kernel by one round with an empty desired state. Returns what failed.
fn remove_from_kernel(state: &State) -> Vec<String> {
    let marks = Marks { macs: state.macs.values().copied().collect(), ..Marks::default() };
    let devices = state.macs.keys().filter_map(|name| name.parse::<LinkName>().ok()).collect();
    let kernel = match KernelDataplane::open(RouteForm::default()) {
        Ok(kernel) => kernel,
        Err(error) => return vec![chain(&error)],
    };
    // The blackhole route of our own subnet is on no device, so it is found by its network.
    let networks = state.subnet.iter().map(|(_, subnet)| *subnet).collect();
    let scope = Scope { devices, marks, parent: None, networks };
    let driver = HostDataplane::without_tunnels(kernel);
    let round = Reconciler::new(driver, PerNamespace::host(scope)).round(&PerNamespace::default());
    report(format_args!("kernel: {} devices and entries removed", round.removed));
    round.failures.iter().map(ToString::to_string).collect()
}

/// Removes the keys that `docker-opts --daemon-json` has written from Docker's settings.
fn leave_docker(settings: &Settings, state: &State) -> Result<(), DaemonJsonError> {
    // After a reboot there may be no such file; then the MTU is not known, and its key stays.
    let read = SubnetEnv::read(&settings.folders.subnet_file);
    let env = read.unwrap_or_else(|| SubnetEnv::of_subnet(state.subnet, settings.ip_masq));
    let path = DockerUnit::read(Path::new("/")).settings_path();
    let keys = daemon_json::take_out(&path, &env.daemon_options(true))?.join(", ");
    if !keys.is_empty() {
        report(format_args!(
            "docker: {keys} removed from {}; a running Docker uses them until it is restarted",
            path.display()
        ));
    }
    Ok(())
}

fn remove(file: &Path) -> Result<(), DrainError> {
    match fs::remove_file(file) {
        Ok(()) => report(format_args!("file: {} is removed", file.display())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(DrainError::FileLeft { file: file.to_owned(), source }),
    }
    Ok(())
}

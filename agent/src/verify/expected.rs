//! What this host should hold, computed without a running agent: by the stages of joining that ask and do not write.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::Notify;
use wire_firewall::OverlayDevice;
use wire_kernel::{KernelDataplane, RouteForm};
use wire_lease::{Admission, Entries, Entry, Lease, LeaseTable, Origin, StoredConfig, own_entry};
use wire_net::NetworkName;
use wire_state::PerNamespace;
use wire_store::{LeaseStore, Listing, Revision};

use super::{Compared, VerifyError};
use crate::{
    config_command::ConfigCommandError,
    datapath::{NetworkLoop, NetworkShare},
    docker_opts::DockerOptions,
    exit::Exit,
    firewall::{FirewallLoop, FirewallShare},
    host::Host,
    host_dataplane::HostDataplane,
    last_known::LastKnownFile,
    machine::Kinship,
    network::{self, Chosen, JoinContext, ParsedConfig},
    notify::Stored,
    pulse::{Part, Watchdog},
    reconcile_loop::{Kept, Shares},
    settings::Settings,
    state::StateFile,
    status::StatusWriter,
    upkeep::{FilesLoop, FilesShare},
};

/// Compares this host with its desired state, as far as it is known without a running agent.
///
/// # Errors
/// When etcd or the disk does not say what is desired, or there is no underlay.
pub(super) async fn compare(settings: Settings, is_offline: bool) -> Result<Compared, Exit> {
    let host = Host::open(settings, StateFile::peek, StatusWriter::new(), Watchdog::default())?;
    let folder = || host.settings.folders.state_dir.display().to_string();
    if let Kinship::Other(differs) = host.kinship()? {
        return Err(VerifyError::Clone { folder: folder(), differs }.into());
    }
    let last_known = LastKnownFile::in_folder(&host.settings.folders.state_dir, host.settings.prefix.clone());
    let (config, listing) = if is_offline { saved(&host, &last_known)? } else { stored(&host).await? };
    let expected = expected(host, &last_known, (config, listing), is_offline).await?;
    expected.compare()
}

/// The network config and the leases in etcd.
async fn stored(host: &Host) -> Result<(ParsedConfig, Listing), Exit> {
    let prefix = &host.settings.prefix;
    let store = network::open(&host.settings).await?;
    let stored = StoredConfig::read(&store, prefix).await?;
    let json =
        stored.json.ok_or_else(|| VerifyError::NoConfig(ConfigCommandError::Missing { prefix: prefix.clone() }))?;
    let parsed = ParsedConfig::new(prefix, json, stored.revision)?;
    let listing = store.list(&prefix.leases(parsed.config.pools.v4.is_some())).await?;
    Ok((parsed, listing))
}

/// The network config and the leases that were saved on disk.
fn saved(host: &Host, last_known: &LastKnownFile) -> Result<(ParsedConfig, Listing), Exit> {
    let folder = host.settings.folders.state_dir.display().to_string();
    let known = last_known.load().map_err(|why| VerifyError::SavedUnusable { why })?;
    let (known, _) = known.ok_or(VerifyError::NotSaved { folder })?;
    let listing = known.listing();
    let parsed = ParsedConfig::new(&host.settings.prefix, known.config.into_bytes(), listing.revision)?;
    Ok((parsed, listing))
}

/// What the default network wants of this host.
struct Expected {
    settings: Arc<Settings>,
    status: StatusWriter,
    network: NetworkShare,
    firewall: FirewallShare,
    files: FilesShare,
}

async fn expected(
    mut host: Host,
    last_known: &LastKnownFile,
    (parsed, listing): (ParsedConfig, Listing),
    is_offline: bool,
) -> Result<Expected, Exit> {
    host.look_for_endpoints(last_known).await;
    let context = host.join_context(parsed.config)?;
    let Chosen { backend, scope, macs } = host.backend(&context, &listing)?;
    let own = match own(&host, &context, &listing, is_offline) {
        Some(entry) => Arc::new(entry),
        None if is_offline => Arc::new(held(&host, &context, backend.data()).ok_or(VerifyError::NoLease)?),
        None => return Err(VerifyError::NoLease.into()),
    };
    host.state.macs = macs;
    let env = host.remember(&context, &own, backend.mtu());
    let options = env.daemon_options(true);
    let leases = Arc::new(admitted(&host, &context, &own, &listing));
    let desired = backend.desired(&own.lease, &leases);
    let told = DockerOptions { file: host.settings.folders.docker_opts_file.clone(), options: options.clone() };
    Ok(Expected {
        firewall: FirewallShare {
            policy: Arc::new(host.settings.firewall.policy(&context.config)),
            own,
            leases,
            devices: OverlayDevice::of(&desired),
            told: Arc::new(told),
            mtu: backend.mtu().0,
            is_userspace: backend.datapath().is_userspace,
            joins: 0,
        },
        network: NetworkShare { desired: Arc::new(PerNamespace::host(desired)), scope, revision: listing.revision },
        files: host.files_share(&env),
        settings: host.settings,
        status: host.status,
    })
}

/// Our lease in etcd.
fn own(host: &Host, context: &JoinContext, listing: &Listing, is_offline: bool) -> Option<Entry> {
    // The saved leases are those of others.
    if is_offline {
        return None;
    }
    own_entry(listing, &host.settings.prefix, &context.public, &context.config.pools)
}

/// The lease that this host held last.
fn held(host: &Host, context: &JoinContext, data: wire_lease::BackendData) -> Option<Entry> {
    let subnet = host.subnet_held(&context.config)?;
    let origin = Origin { create_revision: Revision(0), mod_revision: Revision(0), lease: None };
    Some(Entry { lease: Lease { subnet, public: context.public, data }, origin })
}

/// The leases of others that this host accepts.
fn admitted(host: &Host, context: &JoinContext, own: &Entry, listing: &Listing) -> LeaseTable {
    let directory = host.settings.prefix.leases(context.config.pools.v4.is_some());
    let admission: Admission = context.admission(own, host.endpoints());
    Entries::listed(directory, listing).admit(&admission)
}

impl Expected {
    /// Compares each resource by its loop, which is not started.
    fn compare(self) -> Result<Compared, Exit> {
        let Self { settings, status, network, firewall, files } = self;
        let driver = HostDataplane::without_tunnels(KernelDataplane::open(RouteForm::default())?);
        let heartbeat = Watchdog::default().part(Part::Firewall);
        let mut loops = (
            NetworkLoop::new(driver, status.clone(), Stored::default(), Arc::new(Notify::new())),
            FirewallLoop::new(settings.firewall.every, status.clone(), &heartbeat)?,
            FilesLoop::new(status),
        );
        Ok(Compared {
            network: loops.0.compare(&alone(network)),
            firewall: loops.1.compare(&alone(firewall)),
            files: loops.2.compare(&alone(files)),
        })
    }
}

fn alone<T>(share: T) -> Shares<T> {
    BTreeMap::from([(NetworkName::default(), share)])
}

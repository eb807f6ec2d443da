//! Computes what this host should hold without a running agent, by the stages of joining that only read.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::Notify;
use wire_backends::identify;
use wire_firewall::{FirewallPolicy, OverlayDevice};
use wire_kernel::{KernelDataplane, RouteForm};
use wire_lease::{
    Admission, Entries, Entry, Folder, LeaseTable, StoredConfig, WithRecords, named::NamedRecords, own_entry,
};
use wire_net::NetworkName;
use wire_state::{ObservedKind, Owner, PerNamespace};
use wire_store::EtcdStore;

use super::{Compared, VerifyError};
use crate::{
    config_command::ConfigCommandError,
    datapath::{NetworkLoop, NetworkShare},
    exit::Exit,
    files::RealDisk,
    firewall::{FilterShare, FirewallLoop, FirewallShare},
    host::Host,
    host_dataplane::HostDataplane,
    last_known::LastKnownFile,
    machine::Kinship,
    named::{self, DocumentFile, KnownFiles, NamedShares},
    network::{Chosen, JoinContext, ParsedConfig, Snapshot, Source, occupied, outer_of_named},
    notify::Stored,
    ports::{Ports, System},
    pulse::{Part, Watchdog},
    reconcile_loop::{ResourceLoop, Shares},
    settings::Settings,
    stale::Subnets,
    state::StateFile,
    status::StatusWriter,
    upkeep::{FilesLoop, FilesShare},
};

/// Compares this host with its desired state, as far as it is known without a running agent.
///
/// # Errors
/// When etcd or the disk does not say what is desired, or there is no underlay.
pub(super) async fn compare(settings: Settings, is_offline: bool) -> Result<Compared, Exit> {
    let host = Host::open(
        System::of(settings.network.clone()),
        settings.into(),
        StateFile::peek,
        StatusWriter::default(),
        Watchdog::default(),
    )?;
    let folder = || host.settings.folders.state_dir.display().to_string();
    if let Kinship::Other(differs) = host.kinship()? {
        return Err(VerifyError::Clone { folder: folder(), differs }.into());
    }
    let last_known = LastKnownFile::in_folder(&host.settings.folders.state_dir, host.settings.prefix.clone());
    let snapshot = if is_offline { saved(&host, &last_known)? } else { stored(&host).await? };
    let by_name = if is_offline { None } else { Some(listed_by_name(&host).await?) };
    expected(host, &last_known, snapshot, by_name).await?.compare()
}

/// The network config and the leases in etcd.
async fn stored(host: &Host<System>) -> Result<Snapshot, Exit> {
    let prefix = &host.settings.prefix;
    let store = EtcdStore::open(host.settings.etcd.clone()).await?;
    let stored = StoredConfig::read(&store, prefix).await?;
    let json =
        stored.json.ok_or_else(|| VerifyError::NoConfig(ConfigCommandError::Missing { prefix: prefix.clone() }))?;
    let parsed = ParsedConfig::new(prefix, json, stored.revision)?;
    let (directory, records) = (parsed.directory(prefix), prefix.records());
    let (listing, records) = tokio::try_join!(Entries::list(&store, directory), Folder::list(&store, &records))?;
    Ok(Snapshot { parsed, listing: Arc::new(listing), records: Some(records), source: Source::Etcd })
}

/// The network config and the leases that were saved on disk.
fn saved(host: &Host<System>, last_known: &LastKnownFile) -> Result<Snapshot, Exit> {
    let folder = host.settings.folders.state_dir.display().to_string();
    let known = last_known.load(&RealDisk).map_err(|why| VerifyError::SavedUnusable { why })?;
    let (known, as_of) = known.ok_or(VerifyError::NotSaved { folder })?;
    let (listing, records, prefix) = (known.listing, Folder::of(known.records), &host.settings.prefix);
    let parsed = ParsedConfig::new(prefix, known.config.into_bytes(), listing.revision)?;
    let listing = Arc::new(Entries::listed(parsed.directory(prefix), &listing));
    Ok(Snapshot { parsed, listing, records: Some(records), source: Source::Cache(as_of) })
}

/// The shares of the default network in the desired state of this host.
struct Expected {
    ports: System,
    settings: Arc<Settings>,
    status: StatusWriter,
    network: NetworkShare,
    firewall: FirewallShare,
    named: NamedShares,
    files: FilesShare,
}

/// The records of networks by name in etcd.
async fn listed_by_name(host: &Host<System>) -> Result<NamedRecords, Exit> {
    let store = EtcdStore::open(host.settings.etcd.clone()).await?;
    Ok(named::list(&store, &host.settings.prefix).await?)
}

/// The shares of networks by name. Without records, what is saved on disk counts.
fn named(host: &Host<System>, context: &JoinContext, records: Option<NamedRecords>) -> Result<NamedShares, Exit> {
    let folder = &host.settings.folders.state_dir;
    let unread = |source| Exit::StateUnread { folder: folder.clone(), source };
    let document = DocumentFile::in_folder(folder).peek(&RealDisk).map_err(unread)?;
    let (Ok(identity), Some(outer)) = (host.state.identity.parse(), outer_of_named(context, host.moves_itself()))
    else {
        return Ok(NamedShares::default());
    };
    let files = KnownFiles::in_folder(folder, host.settings.prefix.clone());
    let records = records.unwrap_or_else(|| named::saved(&RealDisk, &files, &document, identity));
    Ok(named::expected(document, identity, (outer, &occupied(context, &host.endpoints())), &records))
}

async fn expected(
    mut host: Host<System>,
    last_known: &LastKnownFile,
    snapshot: Snapshot,
    by_name: Option<NamedRecords>,
) -> Result<Expected, Exit> {
    let Snapshot { parsed, listing, records, source } = snapshot;
    host.look_for_endpoints(last_known).await;
    let ParsedConfig { config, json, .. } = parsed;
    let context = host.join_context(config)?;
    let mut chosen = host.backend(&context, &listing)?;
    if encapsulates_by_fallback(&host, &context, &chosen)? || host.falls_back_again()? {
        host.no_vxlan = true;
        chosen = host.backend(&context, &listing)?;
    }
    let Chosen { backend, scope, macs, own_port, record: _, former, ports: _ } = chosen;
    let own = match source {
        Source::Etcd => own_entry(&listing, &context.public, &context.config.pools).ok_or(VerifyError::NoLease)?,
        // The saved leases are only those of other hosts.
        Source::Cache(_) => host.lease_held_last(&context, backend.data()).ok_or_else(|| {
            VerifyError::NoSubnetSaved { folder: host.settings.folders.state_dir.display().to_string() }
        })?,
    };
    let own = Arc::new(own);
    host.state.macs = macs;
    host.note_spoken(&json, former);
    let env = host.remember(&context, &own, backend.mtu());
    let leases = admitted(&host, &context, &own, &listing);
    let leases = Arc::new(WithRecords::default().update(&leases, records.as_ref(), own_port));
    let desired = backend.desired(&own.lease, &leases);
    let named = named(&host, &context, by_name)?;
    let subnets = Subnets { pools: context.config.pools, leases: leases.clone() };
    let policy = host.settings.firewall.policy(host.settings.network.clone(), &context.config, backend.direct());
    let policy = FirewallPolicy { beside: OverlayDevice::beside(&desired), ..policy };
    Ok(Expected {
        firewall: FirewallShare {
            policy: Arc::new(policy),
            own,
            leases,
            devices: OverlayDevice::of(&desired),
            docker_options: Arc::new(host.docker_options(&env)),
            mtu: backend.mtu().0,
            is_userspace: backend.datapath().is_userspace,
            joins: 0,
        },
        network: NetworkShare {
            desired: Arc::new(PerNamespace::host(desired)),
            scope,
            spare: backend.spare(),
            guests: BTreeMap::new(),
            subnets: Some(subnets),
            revision: Some(listing.revision()),
            tries: 0,
        },
        named,
        files: host.files_share(&env),
        ports: host.ports,
        settings: host.settings,
        status: host.status,
    })
}

/// Whether an earlier run of the agent has found that this kernel has no VXLAN: it has left a TUN device of that name.
fn encapsulates_by_fallback(host: &Host<System>, context: &JoinContext, chosen: &Chosen) -> Result<bool, Exit> {
    if chosen.backend.datapath().is_userspace {
        return Ok(false);
    }
    let found = host.ports.observed(&chosen.scope)?;
    // A former backend may have one by right.
    let devices = identify(&context.config)?.devices;
    let mut found = devices.iter().filter_map(|(_, name)| found.links.get(name));
    let is_tun = found.any(|link| matches!(link.kind, ObservedKind::Tun(_)) && link.owner == Owner::Ours);
    Ok(is_tun || host.settings.forward.without_vxlan)
}

/// The leases of others that this host accepts.
fn admitted(host: &Host<System>, context: &JoinContext, own: &Entry, listing: &Entries) -> LeaseTable {
    let admission: Admission = context.admission(own, host.endpoints());
    listing.admit(&admission)
}

impl Expected {
    /// Compares each resource with the code of its loop. No loop is started.
    fn compare(self) -> Result<Compared, Exit> {
        let Self { ports, settings, status, network, firewall, named, files } = self;
        let default = &settings.network;
        let driver = HostDataplane::without_tunnels(KernelDataplane::open(RouteForm::default())?);
        let heartbeat = Watchdog::default().part(Part::Firewall);
        let underlay_changed = Arc::new(Notify::new());
        let mut network_loop =
            NetworkLoop::new(ports.clone(), driver, status.clone(), Stored::default(), underlay_changed);
        let mut firewall_loop = FirewallLoop::new(ports.clone(), &settings, status.clone(), &heartbeat)?;
        Ok(Compared {
            network: network_loop.compare(&beside(default, network, named.network)),
            firewall: firewall_loop.compare(&beside(default, FilterShare::Flat(firewall), named.firewall)),
            files: FilesLoop::new(ports, status).compare(&beside(default, files, Shares::new())),
        })
    }
}

fn beside<T>(network: &NetworkName, share: T, mut others: Shares<T>) -> Shares<T> {
    others.insert(network.clone(), share);
    others
}

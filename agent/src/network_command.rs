//! `wire-agent network`: networks by name, made once for all hosts. Needs etcd alone.

mod flags;
mod here;
mod occupied;
mod show;

use std::{
    net::IpAddr,
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::json;
use wire_lease::{
    Folder, NetworkConfig, NetworkRange,
    named::{
        NamedNetworks, NamedRecords, NetworkChange, NetworkError, NetworkStore, Occupied, PoolError, Record, Records,
        Stored,
    },
};
use wire_net::{Family, KeyPrefix, NetworkName};
use wire_store::{EtcdSettings, EtcdStore, LeaseStore, Random, endpoint_addresses};

pub(crate) use self::flags::NetworkCommand;
use self::{
    flags::{CreateFlags, UpdateFlags},
    show::Site,
};
use crate::{
    cli::{EtcdFlags, Output},
    commands::print_json,
    exit::{Exit, NO, UNAVAILABLE, USAGE},
    output,
    settings::etcd_settings,
};

/// The time that a new network waits for the names of etcd's members.
const PATIENCE: Duration = Duration::from_secs(2);

/// A command about networks was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NetworkCommandError {
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(
        "-o encrypted: wire-agent does not encrypt the packets of a network: let the underlay do it (WireGuard, IPsec), and leave the option out"
    )]
    Encrypted,
    #[error("-o {name}: there is no such option of a network")]
    Option { name: String },
    #[error("--subnet: {0}")]
    Subnet(#[source] PoolError),
    #[error("two {family} subnets are given: a network has one")]
    SubnetTwice { family: Family },
    #[error("--no-ipv4 is given together with an IPv4 subnet: leave one of them out")]
    NoIpv4,
    #[error("--no-ipv4 leaves the network without addresses: add --ipv6")]
    NoFamily,
    #[error("nothing to change is given: see wire-agent network update --help")]
    NoChange,
    #[error("{name} is a flat network of this host (--flat): give the network another name")]
    Flat { name: NetworkName },
    #[error("some networks were not removed")]
    NotAllRemoved,
}

impl NetworkCommandError {
    /// The exit status.
    pub(crate) const fn status(&self) -> u8 {
        match self {
            Self::Network(error) => match error {
                NetworkError::Store(_) => UNAVAILABLE,
                NetworkError::Pool(_) | NetworkError::Record(_) => USAGE,
                NetworkError::Exists { .. }
                | NetworkError::Missing { .. }
                | NetworkError::Invalid { .. }
                | NetworkError::Default
                | NetworkError::TooMany(_)
                | NetworkError::Full(_)
                | NetworkError::Conflict(_)
                | NetworkError::InUse { .. }
                | NetworkError::NoMember { .. }
                | NetworkError::Address { .. }
                | NetworkError::Raced => NO,
            },
            Self::Encrypted
            | Self::Option { .. }
            | Self::Subnet(_)
            | Self::SubnetTwice { .. }
            | Self::NoIpv4
            | Self::NoFamily
            | Self::NoChange => USAGE,
            Self::Flat { .. } | Self::NotAllRemoved => NO,
        }
    }
}

impl From<NetworkError> for Exit {
    fn from(error: NetworkError) -> Self {
        NetworkCommandError::from(error).into()
    }
}

/// Carries out one command.
///
/// # Errors
/// [`Exit::Store`] when etcd does not answer, and those of [`NetworkCommandError`].
pub(crate) async fn run(command: NetworkCommand, etcd: EtcdFlags, run_dir: &Path) -> Result<(), Exit> {
    match command {
        NetworkCommand::Create(flags) => {
            refuse_flat(&flags.name, &etcd)?;
            create(flags, Etcd::open(etcd).await?).await
        }
        NetworkCommand::Expose { name, output } => here::expose(run_dir, &name, output).await,
        NetworkCommand::Hide { name, output } => here::hide(run_dir, &name, output).await,
        NetworkCommand::Ls(output) => {
            let all = Etcd::open(etcd).await?.site().await?.all();
            if output.json { print_json(&all) } else { output::answer(&show::table(&all)) }
        }
        NetworkCommand::Inspect { name, output } => {
            let one = Etcd::open(etcd).await?.site().await?.one(&name);
            let mut one = one.ok_or_else(|| NetworkError::Missing { name: name.clone() })?;
            one["here"] = here::part(run_dir, &name).await;
            if output.json { print_json(&one) } else { output::answer(&show::lines(&one)) }
        }
        NetworkCommand::Update(flags) => update(flags, etcd).await,
        NetworkCommand::Rm { names, force, output } => remove(&names, force, output, Etcd::open(etcd).await?).await,
    }
}

/// Flat networks and networks by name have one space of names, so that a name means one network.
fn refuse_flat(name: &NetworkName, etcd: &EtcdFlags) -> Result<(), NetworkCommandError> {
    if etcd.is_flat(name) {
        return Err(NetworkCommandError::Flat { name: name.clone() });
    }
    Ok(())
}

async fn create(flags: CreateFlags, etcd: Etcd) -> Result<(), Exit> {
    let output = flags.output;
    let created = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let json = etcd.config().await?;
    let ranges = NetworkRange::of_config(json.as_deref().unwrap_or(b"{}"), &etcd.prefix)?;
    let config = json.map(|json| NetworkConfig::from_json(&json)).transpose()?;
    let wanted = flags.wanted(&ranges, created)?;
    let mut occupied = occupied::by_flat_network(&etcd.store, &etcd.prefix, config.as_ref()).await?;
    occupied.extend(occupied::by_routes()?);
    occupied.extend(etcd.way().await);
    let made = etcd.networks().create(&wanted, &occupied).await?;
    if output.json {
        return print_json(&show::network(&wanted.name, &made.record));
    }
    let pools: Vec<String> = made.record.pools.prefixes().map(|pool| pool.to_string()).collect();
    output::answer(&format!("{}: {}, VNI {}\n", wanted.name, pools.join(" and "), made.record.vni))
}

async fn update(flags: UpdateFlags, etcd: EtcdFlags) -> Result<(), Exit> {
    let UpdateFlags { name, label, remove_label, broadcast, output } = flags;
    let set = label.into_iter().map(|(name, value)| (name, Some(value)));
    let change =
        NetworkChange { labels: remove_label.into_iter().map(|name| (name, None)).chain(set).collect(), broadcast };
    if change == NetworkChange::default() {
        return Err(NetworkCommandError::NoChange.into());
    }
    let record = Etcd::open(etcd).await?.networks().update(&name, &change).await?;
    let shown = show::network(&name, &record);
    if output.json { print_json(&shown) } else { output::answer(&show::lines(&shown)) }
}

/// Removes one after another. One that is refused keeps no other.
async fn remove(names: &[NetworkName], force: bool, output: Output, etcd: Etcd) -> Result<(), Exit> {
    let (networks, mut removed, mut first) = (etcd.networks(), Vec::new(), None);
    for name in names {
        match networks.remove(name, force).await {
            Ok(()) if output.json => removed.push(name.as_str()),
            Ok(()) => output::report(format_args!("{name} is removed")),
            Err(error) if names.len() == 1 => return Err(error.into()),
            Err(error) => {
                output::complain(format_args!("wire-agent: {}", wire_net::chain(&error)));
                first = first.or(Some(NetworkCommandError::NotAllRemoved));
            }
        }
    }
    if output.json {
        print_json(&json!({ "removed": removed }))?;
    }
    first.map_or(Ok(()), |error| Err(error.into()))
}

struct Etcd {
    store: EtcdStore,
    settings: EtcdSettings,
    prefix: KeyPrefix,
}

impl Etcd {
    async fn open(flags: EtcdFlags) -> Result<Self, Exit> {
        let prefix = KeyPrefix::new(&flags.etcd_prefix);
        let settings = etcd_settings(flags)?;
        Ok(Self { store: EtcdStore::open(settings.clone()).await?, settings, prefix })
    }

    /// The addresses of the way to etcd, as far as its names are resolved in time.
    async fn way(&self) -> Vec<Occupied> {
        let found: Vec<IpAddr> = endpoint_addresses(&self.settings, PATIENCE).await.found.into_iter().collect();
        Occupied::by_etcd(&found).collect()
    }

    fn networks(&self) -> NetworkStore<EtcdStore> {
        NetworkStore::new(self.store.clone(), self.prefix.clone(), Random::of_system())
    }

    async fn config(&self) -> Result<Option<Vec<u8>>, Exit> {
        Ok(self.store.get(&self.prefix.config()).await?.found.map(|kv| kv.value))
    }

    /// All that etcd has of networks. A flat network without a valid config is left out.
    async fn site(&self) -> Result<Site, Exit> {
        let flat = self.config().await?.and_then(|json| NetworkConfig::from_json(&json).ok());
        let networks = Folder::<Stored<_>>::list(&self.store, &self.prefix.networks()).await?;
        let records = NamedRecords {
            networks: networks.items,
            members: self.records().await?,
            blocks: self.records().await?,
            addresses: self.records().await?,
        };
        let occupied = occupied::by_flat_network(&self.store, &self.prefix, flat.as_ref()).await?;
        let invalid = networks.refused.iter().map(|(name, fault)| (name.clone(), fault.clone())).collect();
        Ok(Site { flat, networks: NamedNetworks::of(&records, &occupied), records, invalid })
    }

    async fn records<R: Record>(&self) -> Result<Records<R>, Exit> {
        Ok(Folder::<Stored<R>>::list(&self.store, &R::folder(&self.prefix)).await?.items)
    }
}

#[cfg(test)]
mod tests;

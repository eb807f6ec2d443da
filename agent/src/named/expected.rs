//! What this host should hold of networks by name, computed without the task.

use std::{collections::BTreeMap, sync::Arc};
use tokio::time::Instant;
use wire_backends::SegmentOuter;
use wire_lease::{
    Folder,
    named::{NamedAdmission, NamedRecords, Occupied, Record, Records, Stored},
};
use wire_net::{HostId, KeyPrefix, NetworkName};
use wire_store::{LeaseStore, StoreError};

use super::{
    Document, KnownFiles,
    part::{FreePorts, Part},
};
use crate::{datapath::NetworkShare, firewall::FilterShare, ports::Disk, reconcile_loop::Shares};

/// The shares of networks by name in the loops of `Network` and `Firewall`.
#[derive(Debug, Default)]
pub(crate) struct NamedShares {
    pub(crate) network: Shares<NetworkShare>,
    pub(crate) firewall: Shares<FilterShare>,
}

/// All that the store has of networks by name.
///
/// # Errors
/// When the store does not answer.
pub(crate) async fn list(store: &impl LeaseStore, prefix: &KeyPrefix) -> Result<NamedRecords, StoreError> {
    Ok(NamedRecords {
        networks: records(store, prefix).await?,
        members: records(store, prefix).await?,
        blocks: records(store, prefix).await?,
        addresses: records(store, prefix).await?,
    })
}

async fn records<R: Record>(store: &impl LeaseStore, prefix: &KeyPrefix) -> Result<Records<R>, StoreError> {
    Ok(Folder::<Stored<R>>::list(store, &R::folder(prefix)).await?.items)
}

/// The saved records of the networks in the document.
pub(crate) fn saved(disk: &impl Disk, files: &KnownFiles, document: &Document, host: HostId) -> NamedRecords {
    let mut known = NamedRecords::default();
    document.held().for_each(|(name, kept)| files.load(disk, name, kept, &mut known, host));
    known
}

/// The shares of the networks in the document, as they follow from these records.
pub(crate) fn expected(
    mut document: Document,
    host: HostId,
    (outer, occupied): (SegmentOuter, &[Occupied]),
    records: &NamedRecords,
) -> NamedShares {
    document.belong_to(host);
    let mut admission = NamedAdmission::default();
    let admitted = admission.update(records, occupied);
    let mut shares = NamedShares::default();
    let entries = document.networks.into_iter();
    for (name, mut part) in with_ports(entries.map(|(name, entry)| (name, Part::new(host, entry))).collect(), &outer) {
        if let Some(network) = admitted.networks.get(&name).filter(|_| part.entry.is_wanted()) {
            part.admit(network, Instant::now());
        }
        part.set_ports(part.entry.container_ports());
        let network = part.share(outer);
        let filter = if network.is_some() { part.filter() } else { part.closed(outer) };
        shares.network.extend(network.map(|share| (name.clone(), share)));
        shares.firewall.extend(filter.map(|share| (name, FilterShare::Named(Arc::new(share)))));
    }
    shares
}

/// The parts with the UDP ports that the task chooses.
fn with_ports(mut parts: BTreeMap<NetworkName, Part>, outer: &SegmentOuter) -> BTreeMap<NetworkName, Part> {
    let names: Vec<NetworkName> = parts.keys().cloned().collect();
    for name in names {
        let Some(mut part) = parts.remove(&name) else { continue };
        let as_kept = FreePorts { is_free: |_| true, has_inherited: |_| true };
        part.choose_port(outer, parts.values(), &as_kept);
        parts.insert(name, part);
    }
    parts
}

//! Makes a network.

use std::collections::BTreeSet;

use tracing::debug;
use wire_net::{DualStack, NetworkName, Prefix, Vni, chain};
use wire_store::{Compare, LeaseStore, Txn, Write};

use super::{ATTEMPTS, NetworkError, NetworkStore, as_read};
use crate::{
    Folder, NetworkRange, Origin, Taken,
    named::{
        Labels, MOST_NETWORKS, NetworkPools, NetworkRecord, NetworkRefusal, Occupied, Record, Stored, choose_subnet,
        choose_vni,
    },
};

/// A network that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNetwork {
    /// Its name.
    pub name: NetworkName,
    /// Its subnets, of each family that it shall have.
    pub subnets: DualStack<SubnetWish>,
    /// True if it shall have no way to the outside.
    pub internal: bool,
    /// True if broadcast and multicast shall reach all members.
    pub broadcast: bool,
    /// The MTU in bytes; 0 for the underlay's without VXLAN's overhead.
    pub mtu: u32,
    /// Its labels.
    pub labels: Labels,
    /// The time, RFC 3339.
    pub created: String,
}

/// The wish for a subnet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubnetWish {
    /// Exactly this one.
    Of(Prefix),
    /// A free one of this range.
    From(NetworkRange),
}

impl<S: LeaseStore> NetworkStore<S> {
    /// Makes a network by one transaction: its name and its VNI are new, and no network was made since the listing that its subnets were
    /// chosen from. `occupied` names addresses that it may not have.
    ///
    /// # Errors
    /// If its name or its addresses are taken, a setting breaks a rule, or the store does not answer. After
    /// [`StoreError::Unavailable`](wire_store::StoreError::Unavailable) it may have been made.
    pub async fn create(
        &self,
        wanted: &NewNetwork,
        occupied: &[Occupied],
    ) -> Result<Stored<NetworkRecord>, NetworkError> {
        for attempt in 0..ATTEMPTS {
            // Read before the listing, so that whatever is made after it is noticed.
            let lock = self.key(&self.prefix.networks_changed()).await?;
            if self.network_key(&wanted.name).await?.is_some() {
                return Err(NetworkError::Exists { name: wanted.name.clone() });
            }
            let networks = Folder::<Stored<NetworkRecord>>::list(&self.store, &self.prefix.networks()).await?;
            let record = self.chosen(wanted, &networks, occupied)?;
            let network = NetworkRecord::key(&self.prefix, &wanted.name);
            let vni = self.prefix.vni(record.vni);
            let txn = Txn {
                when: vec![
                    Compare::Absent(network.clone()),
                    Compare::Absent(vni),
                    as_read(self.prefix.networks_changed(), lock.as_ref()),
                ],
                then: self.writes(&wanted.name, &record),
            };
            match self.commit(txn).await {
                Ok(committed) if committed.succeeded => {
                    let revision = committed.revision;
                    let origin = Origin { create_revision: revision, mod_revision: revision, lease: None };
                    return Ok(Stored { record: record.into(), origin });
                }
                Ok(_) => {
                    debug!(network = %wanted.name, "another host has made a network at the same time");
                    self.pause(attempt).await;
                }
                Err(error) => return self.made_nevertheless(&wanted.name, &record, error).await,
            }
        }
        Err(NetworkError::Raced)
    }

    /// The writes that make a network.
    pub(super) fn writes(&self, name: &NetworkName, record: &NetworkRecord) -> Vec<Write> {
        vec![
            record.write(&self.prefix, name, None),
            Write::Put { key: self.prefix.vni(record.vni), value: vni_value(name), lease: None },
            Write::Put { key: self.prefix.networks_changed(), value: name.to_string().into_bytes(), lease: None },
        ]
    }

    /// The network, if its transaction was carried out although the answer was lost.
    async fn made_nevertheless(
        &self,
        name: &NetworkName,
        record: &NetworkRecord,
        error: NetworkError,
    ) -> Result<Stored<NetworkRecord>, NetworkError> {
        debug!(network = %name, error = %chain(&error), "whether the network was made is not known");
        match self.network(name).await {
            // The VNI was drawn at random: no other host has made the same.
            Ok(stored) if *stored.record == *record => Ok(stored),
            Ok(_) | Err(_) => Err(error),
        }
    }

    fn chosen(
        &self,
        wanted: &NewNetwork,
        networks: &Folder<Stored<NetworkRecord>>,
        occupied: &[Occupied],
    ) -> Result<NetworkRecord, NetworkError> {
        if networks.items.len() >= MOST_NETWORKS {
            return Err(NetworkError::TooMany(networks.items.len()));
        }
        let others = networks.items.values().flat_map(|stored| stored.record.pools.prefixes());
        let taken: Taken = occupied.iter().map(|occupied| occupied.prefix).chain(others).collect();
        let mut prefixes = DualStack::default();
        for (family, wish) in wanted.subnets.iter() {
            let prefix = match wish {
                SubnetWish::From(NetworkRange { range, len }) => choose_subnet(*range, *len, &taken)?,
                SubnetWish::Of(prefix) => match conflict(*prefix, networks, occupied) {
                    Some(refusal) => return Err(NetworkError::Conflict(refusal)),
                    None => *prefix,
                },
            };
            prefixes.set(family, Some(prefix));
        }
        let vnis: BTreeSet<Vni> = networks.items.values().map(|stored| stored.record.vni).collect();
        let record = NetworkRecord {
            vni: choose_vni(&vnis, self.random.number(0..1 << 24))?,
            pools: NetworkPools::of(prefixes)?,
            internal: wanted.internal,
            broadcast: wanted.broadcast,
            mtu: wanted.mtu,
            labels: wanted.labels.clone(),
            created: wanted.created.clone(),
        };
        record.check()?;
        Ok(record)
    }
}

/// The value of the key of a VNI.
pub(super) fn vni_value(network: &NetworkName) -> Vec<u8> {
    serde_json::json!({ "Network": network.as_str() }).to_string().into_bytes()
}

fn conflict(pool: Prefix, networks: &Folder<Stored<NetworkRecord>>, occupied: &[Occupied]) -> Option<NetworkRefusal> {
    if let Some(occupied) = occupied.iter().copied().find(|occupied| occupied.prefix.overlaps(pool)) {
        return Some(NetworkRefusal::Occupied { pool, occupied });
    }
    let overlaps = |stored: &Stored<NetworkRecord>| stored.record.pools.prefixes().any(|other| other.overlaps(pool));
    let other = networks.items.iter().find(|(_, stored)| overlaps(stored));
    other.map(|(name, _)| NetworkRefusal::Pool { pool, other: name.clone() })
}

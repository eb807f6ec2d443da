//! The transactions on networks by name. Each is create-only or compares with what was read, so that of two hosts one is told no.

mod claims;
mod create;
mod memberships;
mod put_back;
mod remove;
mod room;

use std::time::Duration;

use wire_net::{HostId, KeyPrefix, NetworkName};
use wire_store::{Committed, Compare, KeyValue, LeaseStore, Random, StoreError, Txn};

pub use self::{
    claims::{Joined, Joining},
    create::{NewNetwork, SubnetWish},
    put_back::{Kept, PutBack},
    remove::NetworkChange,
    room::Room,
};
use super::{NetworkRecord, NetworkRecordError, NetworkRefusal, NothingFree, PoolError, Record, Stored};

/// The networks by name in a store.
#[derive(Clone, Debug)]
pub struct NetworkStore<S> {
    store: S,
    prefix: KeyPrefix,
    random: Random,
}

/// A change was not made.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The store did not answer, or refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The network exists already.
    #[error("there is a network {name} already")]
    Exists {
        /// The name.
        name: NetworkName,
    },
    /// There is no such network.
    #[error("there is no network {name}: see wire-agent network ls")]
    Missing {
        /// The name.
        name: NetworkName,
    },
    /// The value of the network's key is not valid.
    #[error(
        "the record of the network {name} is not valid ({fault}): remove it with wire-agent network rm --force {name}"
    )]
    Invalid {
        /// The name.
        name: NetworkName,
        /// The fault.
        fault: String,
    },
    /// The flat network has no record.
    #[error(
        "\"default\" is the flat network: it comes from the network config (wire-agent config), and is neither created nor removed"
    )]
    Default,
    /// There are as many networks as are admitted.
    #[error("there are {0} networks already, and no host takes part in more: remove one")]
    TooMany(usize),
    /// Nothing is left to choose.
    #[error(transparent)]
    Full(#[from] NothingFree),
    /// The pools break a rule.
    #[error(transparent)]
    Pool(#[from] PoolError),
    /// The settings break a rule.
    #[error(transparent)]
    Record(#[from] NetworkRecordError),
    /// The wanted subnet is in conflict with something.
    #[error("the network cannot be made: {0}")]
    Conflict(NetworkRefusal),
    /// Hosts have endpoints on the network.
    #[error("the network {name} is in use on {}: detach its containers there, or use --force if the hosts are gone for good", named(.hosts))]
    InUse {
        /// The name.
        name: NetworkName,
        /// The hosts, with their addresses.
        hosts: Vec<String>,
    },
    /// The host has no membership.
    #[error("the host {host} is not a member of the network {name}")]
    NoMember {
        /// The name.
        name: NetworkName,
        /// The host.
        host: HostId,
    },
    /// The address is not one that containers may have, or another host has it.
    #[error("{address} cannot be had on the network {name}: {reason}")]
    Address {
        /// The name.
        name: NetworkName,
        /// The address.
        address: std::net::IpAddr,
        /// The reason.
        reason: String,
    },
    /// Others changed the same keys again and again.
    #[error("other hosts change networks at the same time, again and again: try again")]
    Raced,
}

/// Names some hosts, and counts the rest.
fn named(hosts: &[String]) -> String {
    const SOME: usize = 5;
    let some = hosts.iter().take(SOME).cloned().collect::<Vec<_>>().join(", ");
    match hosts.len().checked_sub(SOME) {
        None | Some(0) => some,
        Some(more) => format!("{some} and {more} more"),
    }
}

/// The number of attempts of a change that others make impossible.
const ATTEMPTS: u32 = 60;
/// The longest pause after the first lost race. It grows with each.
const PAUSE: Duration = Duration::from_millis(10);

impl<S: LeaseStore> NetworkStore<S> {
    /// The networks below this prefix.
    pub const fn new(store: S, prefix: KeyPrefix, random: Random) -> Self {
        Self { store, prefix, random }
    }

    /// Reads one network.
    ///
    /// # Errors
    /// If there is none, or it is not valid.
    pub async fn network(&self, name: &NetworkName) -> Result<Stored<NetworkRecord>, NetworkError> {
        let found = self.network_key(name).await?.ok_or_else(|| NetworkError::Missing { name: name.clone() })?;
        Stored::of(&found).map_err(|fault| NetworkError::Invalid { name: name.clone(), fault })
    }

    async fn network_key(&self, name: &NetworkName) -> Result<Option<KeyValue>, NetworkError> {
        if name.is_default() {
            return Err(NetworkError::Default);
        }
        self.key(&NetworkRecord::key(&self.prefix, name)).await
    }

    async fn key(&self, key: &[u8]) -> Result<Option<KeyValue>, NetworkError> {
        Ok(self.store.get(key).await?.found)
    }

    async fn listed(&self, folder: &[u8]) -> Result<Vec<KeyValue>, NetworkError> {
        Ok(self.store.list(folder).await?.entries)
    }

    async fn commit(&self, txn: Txn) -> Result<Committed, NetworkError> {
        Ok(self.store.commit(txn).await?)
    }

    /// Waits a moment after a lost race, so that two hosts do not meet again.
    async fn pause(&self, attempt: u32) {
        tokio::time::sleep(self.random.shortened(PAUSE * attempt.min(10), 1.0)).await;
    }
}

/// The condition that a key is as it was read.
fn as_read(key: Vec<u8>, found: Option<&KeyValue>) -> Compare {
    match found {
        Some(kv) => Compare::Unchanged(key, kv.mod_revision),
        None => Compare::Absent(key),
    }
}

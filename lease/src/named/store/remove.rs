//! Removes a network, and changes what may be changed of one.

use std::{collections::BTreeMap, time::Duration};

use tracing::debug;
use wire_net::{MemberKey, NetworkName, chain};
use wire_store::{Compare, KeyValue, LeaseStore, Txn, Write};

use super::{ATTEMPTS, NetworkError, NetworkStore, as_read, claims::WRITES, create::vni_value, put_back::names};
use crate::named::{MemberRecord, NetworkRecord, Record, Stored};

/// The time within which the VNI of a removed network is not used again: as long as the longest lease of a host by default.
const VNI_REST: Duration = Duration::from_secs(24 * 3600);

/// A change of a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkChange {
    /// The labels to set, or with `None` to remove.
    pub labels: BTreeMap<String, Option<String>>,
    /// True if broadcast and multicast reach all members.
    pub broadcast: Option<bool>,
}

impl NetworkChange {
    fn applied(&self, record: &NetworkRecord) -> NetworkRecord {
        let mut changed = record.clone();
        changed.broadcast = self.broadcast.unwrap_or(record.broadcast);
        for (name, value) in &self.labels {
            match value {
                Some(value) => drop(changed.labels.insert(name.clone(), value.clone())),
                None => drop(changed.labels.remove(name)),
            }
        }
        changed
    }
}

impl<S: LeaseStore> NetworkStore<S> {
    /// Changes labels and broadcast of a network.
    ///
    /// # Errors
    /// If there is no such network, a label breaks a rule, or the store does not answer. Safe to repeat.
    pub async fn update(&self, name: &NetworkName, change: &NetworkChange) -> Result<NetworkRecord, NetworkError> {
        for attempt in 0..ATTEMPTS {
            let stored = self.network(name).await?;
            let changed = change.applied(&stored.record);
            changed.check()?;
            if changed == *stored.record {
                return Ok(changed);
            }
            let write = changed.write(&self.prefix, name, None);
            let txn = Txn { when: vec![self.is_as(name, &stored)], then: vec![write] };
            if self.commit(txn).await?.succeeded {
                return Ok(changed);
            }
            self.pause(attempt).await;
        }
        Err(NetworkError::Raced)
    }

    /// Removes a network that no host has an endpoint on; with `force` also another one, with all that hosts have on it. Its VNI is not used again for
    /// 24 hours.
    ///
    /// # Errors
    /// If there is no such network, it is in use, or the store does not answer.
    pub async fn remove(&self, name: &NetworkName, force: bool) -> Result<(), NetworkError> {
        for attempt in 0..ATTEMPTS {
            let found = self.network_key(name).await?.ok_or_else(|| NetworkError::Missing { name: name.clone() })?;
            let left = self.left_over(name).await?;
            if !force {
                self.refuse_in_use(name).await?;
            }
            let vnis = match Stored::<NetworkRecord>::of(&found) {
                Ok(stored) => vec![self.prefix.vni(stored.record.vni)],
                Err(_) => self.vnis_of(name).await?,
            };
            let rest = self.rest_of_vnis(name, vnis).await?;
            let delete = Write::Delete(found.key.clone());
            let when = vec![as_read(found.key.clone(), Some(&found))];
            let txn = Txn { when, then: std::iter::once(delete).chain(rest).collect() };
            match self.commit(txn).await {
                Ok(committed) if committed.succeeded => {}
                Ok(_) => {
                    self.pause(attempt).await;
                    continue;
                }
                Err(error) => self.gone_nevertheless(name, &found, error).await?,
            }
            if !force && let Err(in_use) = self.refuse_in_use(name).await {
                self.undo(name, &found).await?;
                return Err(in_use);
            }
            // What a host claims of a new network of this name in the meantime has other revisions, and stays.
            for kv in &left {
                self.delete(std::slice::from_ref(kv)).await?;
            }
            return Ok(());
        }
        Err(NetworkError::Raced)
    }

    /// All keys that hosts have on a network.
    async fn left_over(&self, name: &NetworkName) -> Result<Vec<KeyValue>, NetworkError> {
        let mut all = Vec::new();
        for folder in [self.prefix.members_of(name), self.prefix.blocks_of(name), self.prefix.addresses_of(name)] {
            all.extend(self.listed(&folder).await?);
        }
        Ok(all)
    }

    async fn refuse_in_use(&self, name: &NetworkName) -> Result<(), NetworkError> {
        let folder = self.prefix.members();
        let members = self.listed(&self.prefix.members_of(name)).await?;
        let hosts: Vec<String> = members.iter().filter_map(|kv| shown(kv, &folder)).collect();
        if hosts.is_empty() { Ok(()) } else { Err(NetworkError::InUse { name: name.clone(), hosts }) }
    }

    /// The keys of VNIs that name a network, whose own record does not tell which it has.
    async fn vnis_of(&self, name: &NetworkName) -> Result<Vec<Vec<u8>>, NetworkError> {
        let all = self.listed(&self.prefix.vnis()).await?;
        Ok(all.into_iter().filter(|kv| names(kv, name)).map(|kv| kv.key).take(WRITES).collect())
    }

    /// The writes that keep VNIs from being used again for a while.
    async fn rest_of_vnis(&self, name: &NetworkName, vnis: Vec<Vec<u8>>) -> Result<Vec<Write>, NetworkError> {
        if vnis.is_empty() {
            return Ok(Vec::new());
        }
        let lease = self.store.grant(VNI_REST).await?;
        let rest = |key| Write::Put { key, value: vni_value(name), lease: Some(lease) };
        Ok(vnis.into_iter().map(rest).collect())
    }

    /// Succeeds if the network was removed although the answer was lost.
    async fn gone_nevertheless(
        &self,
        name: &NetworkName,
        found: &KeyValue,
        error: NetworkError,
    ) -> Result<(), NetworkError> {
        debug!(network = %name, error = %chain(&error), "whether the network was removed is not known");
        match self.network_key(name).await {
            Ok(None) => Ok(()),
            Ok(Some(now)) if now.create_revision > found.create_revision => Ok(()),
            Ok(Some(_)) | Err(_) => Err(error),
        }
    }

    /// Puts a network back that a host has joined while it was removed.
    async fn undo(&self, name: &NetworkName, found: &KeyValue) -> Result<(), NetworkError> {
        let Ok(stored) = Stored::<NetworkRecord>::of(found) else { return Ok(()) };
        let when = vec![Compare::Absent(found.key.clone())];
        self.commit(Txn { when, then: self.writes(name, &stored.record) }).await.map(|_| ())
    }
}

/// Names a member for people.
fn shown(kv: &KeyValue, folder: &[u8]) -> Option<String> {
    let key = MemberKey::of_key(kv.key.strip_prefix(folder)?).ok()?;
    let record = MemberRecord::from_value(&kv.value).ok();
    let publics = record.iter().flat_map(|record| record.public.iter().map(|(_, address)| address.to_string()));
    let publics: Vec<String> = publics.collect();
    Some(if publics.is_empty() { key.host.to_string() } else { format!("{} ({})", publics.join(" and "), key.host) })
}

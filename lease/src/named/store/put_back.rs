//! Puts back what a host has on disk, after the store was wiped or restored from a backup.

use serde_json::Value;
use wire_net::{MemberKey, NetworkName};
use wire_store::{Compare, KeyValue, LeaseStore, Txn};

use super::{
    ATTEMPTS, Joining, NetworkError, NetworkStore, as_read,
    room::{Owner, Room},
};
use crate::named::{MemberRecord, NetworkRecord, Record, Stored};

/// The part of a host in a network, as it is on disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The network.
    pub record: NetworkRecord,
    /// The membership.
    pub member: MemberRecord,
    /// The blocks and single addresses.
    pub rooms: Vec<Room>,
}

/// The outcome of putting a network back.
#[derive(Clone, Debug, PartialEq)]
pub enum PutBack {
    /// The store has the network as it is on disk. These blocks and addresses are another host's now.
    There {
        /// The blocks and addresses.
        lost: Vec<Room>,
    },
    /// The store has another network of that name, or another network has the VNI. Nothing was written.
    Other,
}

impl<S: LeaseStore> NetworkStore<S> {
    /// Writes a network, and what this host has on it, wherever the store has no such keys. What others have written since stays. Safe to repeat.
    ///
    /// # Errors
    /// If the store does not answer, or others change the same keys again and again.
    pub async fn put_back(&self, name: &NetworkName, kept: &Kept, joining: &Joining) -> Result<PutBack, NetworkError> {
        for attempt in 0..ATTEMPTS {
            match self.put_network_back(name, &kept.record).await? {
                Step::Done(network) => {
                    let lost = self.put_rooms_back(name, kept, joining).await?;
                    // A host that has lost all, or has nothing, joins anew.
                    let has_some = lost.len() < kept.rooms.len();
                    if !has_some || self.put_member_back(name, (kept, &network), joining).await? {
                        return Ok(PutBack::There { lost });
                    }
                    self.pause(attempt).await;
                }
                Step::Other => return Ok(PutBack::Other),
                Step::Raced => self.pause(attempt).await,
            }
        }
        Err(NetworkError::Raced)
    }

    async fn put_network_back(&self, name: &NetworkName, record: &NetworkRecord) -> Result<Step, NetworkError> {
        if let Some(kv) = self.network_key(name).await? {
            return Ok(match Stored::<NetworkRecord>::of(&kv) {
                Ok(found) if found.record.vni == record.vni && found.record.pools == record.pools => Step::Done(found),
                Ok(_) | Err(_) => Step::Other,
            });
        }
        let vni = self.prefix.vni(record.vni);
        let found = self.key(&vni).await?;
        if found.as_ref().is_some_and(|kv| !names(kv, name)) {
            return Ok(Step::Other);
        }
        let when = vec![Compare::Absent(NetworkRecord::key(&self.prefix, name)), as_read(vni, found.as_ref())];
        self.commit(Txn { when, then: self.writes(name, record) }).await?;
        // The next turn finds it.
        Ok(Step::Raced)
    }

    /// False if others have changed the same keys.
    async fn put_member_back(
        &self,
        name: &NetworkName,
        (kept, network): (&Kept, &Stored<NetworkRecord>),
        joining: &Joining,
    ) -> Result<bool, NetworkError> {
        let key = self.prefix.member(name, joining.host);
        let found = self.key(&key).await?;
        if found.as_ref().is_some_and(|kv| kv.lease == joining.lease) {
            return Ok(true);
        }
        let member = MemberKey { network: name.clone(), host: joining.host };
        let then = vec![kept.member.write(&self.prefix, &member, joining.lease)];
        let when = vec![self.is_as(name, network), as_read(key, found.as_ref())];
        Ok(self.commit(Txn { when, then }).await?.succeeded)
    }

    /// Returns what another host has now.
    async fn put_rooms_back(
        &self,
        name: &NetworkName,
        kept: &Kept,
        joining: &Joining,
    ) -> Result<Vec<Room>, NetworkError> {
        let owner = Owner { host: joining.host, lease: joining.lease };
        let mut lost = Vec::new();
        for room in &kept.rooms {
            let key = room.key(&self.prefix, name);
            let when = vec![Compare::Absent(key.clone())];
            let then = vec![room.write(&self.prefix, name, owner)];
            if self.commit(Txn { when, then: then.clone() }).await?.succeeded {
                continue;
            }
            match self.key(&key).await? {
                Some(kv) if !super::claims::is_of(joining.host, *room, &kv) => lost.push(*room),
                Some(kv) if kv.lease == owner.lease => {}
                found => {
                    self.commit(Txn { when: vec![as_read(key, found.as_ref())], then }).await?;
                }
            }
        }
        Ok(lost)
    }
}

/// The state of the network's own key.
enum Step {
    Done(Stored<NetworkRecord>),
    Other,
    /// It was written, or changed: look again.
    Raced,
}

/// True if the value of a VNI's key names the network.
pub(super) fn names(kv: &KeyValue, network: &NetworkName) -> bool {
    let value: Option<Value> = serde_json::from_slice(&kv.value).ok();
    value.is_some_and(|value| value.get("Network").and_then(Value::as_str) == Some(network.as_str()))
}

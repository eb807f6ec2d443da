//! The networks that a host is a member of, as the store has it.

use std::collections::BTreeSet;

use wire_net::{HostId, MemberKey, NetworkName};
use wire_store::{KeySink, KeyValue, LeaseStore};

use super::{Kept, NetworkError, NetworkStore};
use crate::named::{MemberRecord, Record};

/// The members of one host in a listing of all: no more is kept of it.
struct OfHost<'a> {
    host: HostId,
    known: &'a BTreeSet<NetworkName>,
    folder: Vec<u8>,
    found: Vec<(NetworkName, KeyValue)>,
}

impl KeySink for OfHost<'_> {
    fn clear(&mut self) {
        self.found.clear();
    }

    fn push(&mut self, kv: KeyValue) {
        let key = kv.key.strip_prefix(&*self.folder).and_then(|name| MemberKey::of_key(name).ok());
        if let Some(MemberKey { network, .. }) =
            key.filter(|key| key.host == self.host && !self.known.contains(&key.network))
        {
            self.found.push((network, kv));
        }
    }
}

impl<S: LeaseStore> NetworkStore<S> {
    /// The networks that a host is a member of, but for those that are `known`: each costs a question. Of a network whose record or membership is not valid only the name is known, and of none the blocks.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn memberships(
        &self,
        host: HostId,
        known: &BTreeSet<NetworkName>,
    ) -> Result<Vec<(NetworkName, Option<Kept>)>, NetworkError> {
        let mut sink = OfHost { host, known, folder: self.prefix.members(), found: Vec::new() };
        self.store.list_into(&self.prefix.members(), &mut sink).await?;
        let mut all = Vec::new();
        for (name, kv) in sink.found {
            let network = match self.network(&name).await {
                Ok(network) => Some((*network.record).clone()),
                Err(error @ NetworkError::Store(_)) => return Err(error),
                Err(_) => None,
            };
            let member = MemberRecord::from_value(&kv.value).ok();
            let kept = network.zip(member).map(|(record, member)| Kept { record, member, rooms: Vec::new() });
            all.push((name, kept));
        }
        Ok(all)
    }
}

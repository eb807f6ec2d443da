//! What etcd had last of the networks that this host takes part in, saved on disk for a start while etcd is away, a file for each network. Keys and
//! values are as etcd has them, and are read by the code that reads its answers.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tracing::warn;
use wire_lease::{
    FolderItem, Origin,
    named::{AddressRecord, BlockRecord, Kept, NamedRecords, Record, Records, Room, Stored},
};
use wire_net::{AddressKey, BlockKey, Family, HostId, KeyPrefix, MemberKey, NetworkName, Prefix};
use wire_store::{KeyValue, LeaseId, Revision};

use crate::{files::WriteError, ports::Disk};

/// The files.
#[derive(Clone, Debug)]
pub(crate) struct KnownFiles {
    folder: PathBuf,
    prefix: KeyPrefix,
}

/// A file: what one network had.
#[derive(Serialize, Deserialize)]
struct File {
    prefix: String,
    entries: Vec<Saved>,
}

/// A key as it is saved.
#[derive(Serialize, Deserialize)]
struct Saved {
    key: String,
    value: String,
    create_revision: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<i64>,
}

impl KnownFiles {
    pub(crate) fn in_folder(state_dir: &Path, prefix: KeyPrefix) -> Self {
        Self { folder: state_dir.join("named"), prefix }
    }

    /// The file of a network.
    pub(crate) fn path(&self, network: &NetworkName) -> PathBuf {
        self.folder.join(format!("{network}.json"))
    }

    /// Saves what the records have of a network.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn save(
        &self,
        disk: &impl Disk,
        network: &NetworkName,
        records: &NamedRecords,
    ) -> Result<(), WriteError> {
        let mut entries = Vec::new();
        let prefix = &self.prefix;
        entries.extend(records.networks.get(network).map(|stored| Saved::of(prefix, network, stored)));
        let first = MemberKey { network: network.clone(), host: HostId::MIN };
        let members = records.members.range(first..).take_while(|(key, _)| key.network == *network);
        entries.extend(members.map(|(key, stored)| Saved::of(prefix, key, stored)));
        let lowest = Prefix::from_bits(Family::V4, 0, 0).expect("no bits");
        let first = BlockKey { network: network.clone(), block: lowest };
        let blocks = records.blocks.range(first..).take_while(|(key, _)| key.network == *network);
        entries.extend(blocks.map(|(key, stored)| Saved::of(prefix, key, stored)));
        let first = AddressKey { network: network.clone(), address: lowest.network() };
        let addresses = records.addresses.range(first..).take_while(|(key, _)| key.network == *network);
        entries.extend(addresses.map(|(key, stored)| Saved::of(prefix, key, stored)));
        let file = File { prefix: prefix.to_string(), entries };
        let content = |out: &mut dyn Write| serde_json::to_writer(out, &file).map_err(io::Error::from);
        disk.put_in_pieces(&self.path(network), content).map(drop)
    }

    /// Removes the file of a network, if there is one.
    pub(super) fn remove(&self, disk: &impl Disk, network: &NetworkName) {
        let path = self.path(network);
        if disk.observe(&path).is_some()
            && let Err(error) = disk.remove(&path)
        {
            warn!(file = %path.display(), error = wire_net::chain(&error), "a file about a network by name stays");
        }
    }

    /// Adds what is known of a network: what this host holds, and what was saved. A file that cannot be read, or is of another prefix, adds nothing.
    pub(super) fn load(
        &self,
        disk: &impl Disk,
        network: &NetworkName,
        kept: &Kept,
        into: &mut NamedRecords,
        own: HostId,
    ) {
        put_held(network, kept, into, own);
        let path = self.path(network);
        let read = disk.read(&path).and_then(|text| serde_json::from_slice::<File>(&text).map_err(io::Error::from));
        match read {
            Ok(file) if file.prefix == self.prefix.to_string() => {
                file.entries.into_iter().map(KeyValue::from).for_each(|kv| self.put(&kv, network, into));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                warn!(file = %path.display(), %error, "what was known of a network by name cannot be read");
            }
        }
    }

    /// Decodes a key of the network. All else is left out.
    fn put(&self, kv: &KeyValue, network: &NetworkName, into: &mut NamedRecords) {
        put(&self.prefix, kv, &mut into.networks, |key| key == network);
        put(&self.prefix, kv, &mut into.members, |key| key.network == *network);
        put(&self.prefix, kv, &mut into.blocks, |key| key.network == *network);
        put(&self.prefix, kv, &mut into.addresses, |key| key.network == *network);
    }
}

fn put<R: Record>(prefix: &KeyPrefix, kv: &KeyValue, into: &mut Records<R>, is_its: impl Fn(&R::Key) -> bool) {
    let Some(name) = kv.key.strip_prefix(&*R::folder(prefix)) else { return };
    if let (Ok(key), Ok(stored)) = (R::parse_key(name), Stored::<R>::decode(kv))
        && is_its(&key)
    {
        into.insert(key, stored);
    }
}

/// The records of this host's own part, as if etcd had them.
fn put_held(network: &NetworkName, Kept { record, member, rooms }: &Kept, into: &mut NamedRecords, host: HostId) {
    into.networks.insert(network.clone(), stored(record.clone()));
    into.members.insert(MemberKey { network: network.clone(), host }, stored(*member));
    for room in rooms {
        let network = network.clone();
        match *room {
            Room::Block(block) => drop(into.blocks.insert(BlockKey { network, block }, stored(BlockRecord { host }))),
            Room::Address(address, mac) => {
                into.addresses.insert(AddressKey { network, address }, stored(AddressRecord { host, mac }));
            }
        }
    }
}

fn stored<R>(record: R) -> Stored<R> {
    let origin = Origin { create_revision: Revision(0), mod_revision: Revision(0), lease: None };
    Stored { record: record.into(), origin }
}

impl Saved {
    fn of<R: Record>(prefix: &KeyPrefix, key: &R::Key, stored: &Stored<R>) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("our own keys and values are JSON or plainer");
        Self {
            key: text(R::key(prefix, key)),
            value: text(stored.record.to_value()),
            create_revision: stored.origin.create_revision.0,
            lease: stored.origin.lease.map(|lease| lease.0),
        }
    }
}

impl From<Saved> for KeyValue {
    fn from(saved: Saved) -> Self {
        let revision = Revision(saved.create_revision);
        Self {
            key: saved.key.into_bytes(),
            value: saved.value.into_bytes(),
            create_revision: revision,
            mod_revision: revision,
            lease: saved.lease.map(LeaseId),
        }
    }
}

#[cfg(test)]
mod tests;

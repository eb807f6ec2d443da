//! The document of this host: the networks by name that it takes part in, and what it holds on each. It is on disk before anything of it is in
//! etcd, and before a command is answered; so what etcd loses is put back from it.

mod lines;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::warn;
use wire_backends::Segment;
use wire_firewall::ContainerPort;
use wire_lease::named::{Kept, MemberRecord, NetworkRecord, Record, Room};
use wire_net::{AddressKey, BlockKey, HostId, LinkName, MacAddr, NetworkName};
use wire_state::{DesiredFile, Writing};

pub(super) use self::lines::Lines;
use super::part::is_of_agent;
use crate::{
    attach::{AttachmentId, Endpoint},
    files::WriteError,
    ports::Disk,
};

/// The networks by name of this host.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Document {
    /// The host that holds what is in it. A clone of that host holds nothing.
    pub(super) host: Option<HostId>,
    pub(super) networks: BTreeMap<NetworkName, Entry>,
}

/// This host's part in a network.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Entry {
    /// True if its operator has said that it shall take part.
    pub(super) is_exposed: bool,
    /// The interfaces of attachments there. It takes part for them too.
    pub(super) endpoints: BTreeMap<AttachmentId, Vec<Endpoint>>,
    /// The ports of containers whose addresses were taken away. They are not to be there, also after a restart.
    pub(super) dropped: BTreeSet<LinkName>,
    /// The network as this host has joined it, and what it holds there; `None` before it has joined.
    pub(super) held: Option<Kept>,
}

impl Entry {
    /// True if this host shall take part. If not, it is leaving.
    pub(super) fn is_wanted(&self) -> bool {
        self.is_exposed || !self.endpoints.is_empty()
    }

    /// The ports of all containers, with what may be sent there.
    pub(super) fn container_ports(&self) -> Vec<ContainerPort> {
        let all = self.endpoints.iter().flat_map(|(id, endpoints)| endpoints.iter().map(|endpoint| (*id, endpoint)));
        let port = |(id, endpoint): (AttachmentId, &Endpoint)| ContainerPort {
            link: id.port(endpoint.slot),
            mac: endpoint.mac,
            addresses: endpoint.addresses.iter().map(|(_, address)| *address).collect(),
        };
        all.map(port).collect()
    }
}

/// The file of the document.
#[derive(Clone, Debug)]
pub(crate) struct DocumentFile(PathBuf);

impl DocumentFile {
    pub(crate) fn in_folder(state_dir: &Path) -> Self {
        Self(state_dir.join("named.json"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Reads it. An invalid file is renamed and logged; of a valid one, an entry that is not valid counts as one that has not joined.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub(super) fn load(&self, disk: &impl Disk) -> io::Result<Document> {
        let Some(text) = self.read(disk)? else { return Ok(Document::default()) };
        match serde_json::from_slice::<Stored>(&text) {
            Ok(stored) => Ok(stored.into()),
            Err(error) => {
                let aside = self.0.with_extension("json.bad");
                warn!(file = %self.0.display(), aside = %aside.display(), %error, "the document of networks by name is not valid, this host takes part in none");
                disk.rename(&self.0, &aside)?;
                Ok(Document::default())
            }
        }
    }

    /// Reads it, and writes nothing. One that is not valid is as good as none.
    ///
    /// # Errors
    /// When the file exists and cannot be read.
    pub(crate) fn peek(&self, disk: &impl Disk) -> io::Result<Document> {
        let text = self.read(disk)?;
        Ok(text.and_then(|text| serde_json::from_slice::<Stored>(&text).ok()).map(Document::from).unwrap_or_default())
    }

    /// True for a device that somebody here may want again: all but those of networks by name of which the document has nothing. One that cannot be
    /// read may have any.
    pub(crate) fn devices<D: Disk>(&self, disk: &D) -> impl Fn(LinkName) -> bool + use<D> {
        let devices = |document: Document| document.held().map(|(_, kept)| Segment::overlay(kept.record.vni)).collect();
        let held: Option<BTreeSet<LinkName>> = self.peek(disk).ok().map(devices);
        move |link| !Segment::has_device(link) || held.as_ref().is_none_or(|held| held.contains(&link))
    }

    fn read(&self, disk: &impl Disk) -> io::Result<Option<Vec<u8>>> {
        match disk.read(&self.0) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes its text ([`Lines::text`]), so that a power cut does not lose it. A document without networks has no file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn save(&self, disk: &impl Disk, text: Option<String>) -> Result<(), WriteError> {
        match text {
            Some(content) => disk.put(&self.0, &DesiredFile { content, writing: Writing::Durable }).map(drop),
            None => disk.observe(&self.0).map_or(Ok(()), |_| disk.remove(&self.0)),
        }
    }
}

impl Document {
    /// The networks with what this host holds on each.
    pub(crate) fn held(&self) -> impl Iterator<Item = (&NetworkName, &Kept)> {
        self.networks.iter().filter_map(|(name, entry)| Some((name, entry.held.as_ref()?)))
    }

    /// True if the agent moved the packets of a network when it was last joined.
    pub(crate) fn is_moved_by_agent(&self) -> bool {
        self.held().any(|(_, kept)| is_of_agent(kept.member.port))
    }

    /// The host that holds what is in it.
    pub(crate) const fn holder(&self) -> Option<HostId> {
        self.host
    }

    /// The ends on this host of the links to containers.
    pub(crate) fn ports(&self) -> impl Iterator<Item = LinkName> {
        let all = self.networks.values().flat_map(|entry| &entry.endpoints);
        let ports = all.flat_map(|(id, endpoints)| endpoints.iter().map(|endpoint| id.port(endpoint.slot)));
        ports.chain(self.networks.values().flat_map(|entry| entry.dropped.iter().copied()))
    }

    /// The names of all networks in it.
    pub(crate) fn names(&self) -> impl Iterator<Item = &NetworkName> {
        self.networks.keys()
    }

    /// Makes it this host's. What another host holds, whose disk was copied, is forgotten.
    pub(super) fn belong_to(&mut self, host: HostId) {
        if self.host.is_some_and(|other| other != host) {
            self.networks.retain(|_, entry| entry.is_wanted());
            for entry in self.networks.values_mut() {
                entry.held = None;
                entry.endpoints.values_mut().for_each(Vec::clear);
                entry.dropped.clear();
            }
        }
        self.host = Some(host);
    }
}

/// The document as it is on disk, which [`Lines`] writes. Records and keys are as etcd has them.
#[derive(Deserialize)]
struct Stored {
    #[serde(default)]
    host: Option<HostId>,
    networks: BTreeMap<String, StoredEntry>,
}

#[derive(Serialize, Deserialize)]
struct StoredEntry {
    exposed: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    attachments: BTreeMap<AttachmentId, Vec<Endpoint>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    dropped: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    held: Option<StoredKept>,
}

#[derive(Serialize, Deserialize)]
struct StoredKept {
    network: Value,
    member: Value,
    #[serde(default)]
    blocks: Vec<String>,
    #[serde(default)]
    addresses: BTreeMap<String, MacAddr>,
}

impl From<Stored> for Document {
    fn from(stored: Stored) -> Self {
        let networks = stored.networks.into_iter().filter_map(|(name, entry)| entry.parse(&name));
        Self { host: stored.host, networks: networks.collect() }
    }
}

impl StoredEntry {
    fn of(name: &NetworkName, entry: &Entry) -> Self {
        Self {
            exposed: entry.is_exposed,
            attachments: entry.endpoints.clone(),
            dropped: entry.dropped.iter().map(ToString::to_string).collect(),
            held: entry.held.as_ref().map(|kept| StoredKept::of(name, kept)),
        }
    }

    fn parse(self, name: &str) -> Option<(NetworkName, Entry)> {
        let name: NetworkName = name.parse().ok().filter(|name: &NetworkName| !name.is_default())?;
        let held = self.held.map(|held| held.parse(&name)).transpose().unwrap_or_else(|fault| {
            warn!(network = %name, fault, "what this host holds on a network is not readable on disk: it joins anew");
            None
        });
        let dropped = self.dropped.iter().filter_map(|port| port.parse().ok()).filter(is_port).collect();
        Some((name, Entry { is_exposed: self.exposed, endpoints: self.attachments, dropped, held }))
    }
}

/// True for a name of ours: no other link is to be removed.
fn is_port(name: &LinkName) -> bool {
    name.as_str().starts_with("wp")
}

impl StoredKept {
    fn of(name: &NetworkName, Kept { record, member, rooms }: &Kept) -> Self {
        let (mut blocks, mut addresses) = (Vec::new(), BTreeMap::new());
        for room in rooms {
            match *room {
                Room::Block(block) => blocks.push(BlockKey { network: name.clone(), block }.to_string()),
                Room::Address(address, mac) => {
                    addresses.insert(AddressKey { network: name.clone(), address }.to_string(), mac);
                }
            }
        }
        Self { network: json(&record.to_value()), member: json(&member.to_value()), blocks, addresses }
    }

    fn parse(self, name: &NetworkName) -> Result<Kept, String> {
        let is_its = |network: &NetworkName| if network == name { Ok(()) } else { Err(format!("it is of {network}")) };
        let mut rooms = Vec::new();
        for key in &self.blocks {
            let BlockKey { network, block } = BlockKey::of_key(key.as_bytes()).map_err(|error| error.to_string())?;
            is_its(&network)?;
            rooms.push(Room::Block(block));
        }
        for (key, mac) in &self.addresses {
            let key = AddressKey::of_key(key.as_bytes()).map_err(|error| error.to_string())?;
            is_its(&key.network)?;
            rooms.push(Room::Address(key.address, *mac));
        }
        Ok(Kept {
            record: NetworkRecord::from_value(self.network.to_string().as_bytes())?,
            member: MemberRecord::from_value(self.member.to_string().as_bytes())?,
            rooms,
        })
    }
}

fn json(value: &[u8]) -> Value {
    serde_json::from_slice(value).expect("the value of a record is JSON")
}

#[cfg(test)]
mod tests;

//! The attachments of all hosts in etcd (`<prefix>/wire/attachments/HOST/ID`): each host tells its own, for people and programs to read. No agent
//! reads them: docs/adr/0024-attachments-in-etcd.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use comfy_table::{Table, presets};
use serde_json::{Value, json};
use wire_lease::{
    Folder, FolderItem,
    named::{MemberRecord, Record, Stored},
};
use wire_net::{HostId, KeyPrefix};
use wire_store::{Compare, EtcdStore, KeySink, KeyValue, LeaseStore, StoreError, Txn, Write};

use crate::{
    attach::{Attachment, AttachmentId, MOST},
    cli::EtcdFlags,
    commands::print_json,
    exit::Exit,
    output,
    settings::etcd_settings,
};

/// The largest number of writes in a transaction. Each document is at most as long as a value in a listing, and etcd takes 1.5 MB.
const WRITES: usize = 50;

/// An attachment as its host has told it.
#[derive(Clone, Debug, PartialEq)]
struct Told(Arc<Attachment>);

impl FolderItem for Told {
    type Key = (HostId, AttachmentId);

    fn key(name: &[u8]) -> Result<Self::Key, String> {
        let name = std::str::from_utf8(name).map_err(|_| "the key is not UTF-8")?;
        let (host, id) = name.split_once('/').ok_or("the key has not the form HOST/ID")?;
        Ok((host.parse().map_err(|error| format!("{error}"))?, id.parse().map_err(|error| format!("{error}"))?))
    }

    fn decode(kv: &KeyValue) -> Result<Self, String> {
        if kv.value.len() > KeyValue::LONGEST_VALUE {
            return Err(format!("the value has more than {} bytes", KeyValue::LONGEST_VALUE));
        }
        let attachment: Attachment = serde_json::from_slice(&kv.value).map_err(|error| error.to_string())?;
        attachment.check().map_err(|refused| refused.to_string())?;
        match id_of(&kv.key) {
            Some(id) if id == attachment.id => Ok(Self(attachment.into())),
            Some(_) | None => Err(format!("it holds attachment {}", attachment.id)),
        }
    }
}

/// The keys of a host's attachments in the store, and not many more than it can have.
#[derive(Default)]
struct OfHost(Vec<KeyValue>);

impl KeySink for OfHost {
    fn clear(&mut self) {
        self.0.clear();
    }

    fn push(&mut self, kv: KeyValue) {
        if self.0.len() < 2 * MOST && id_of(&kv.key).is_some() {
            self.0.push(kv);
        }
    }
}

/// The attachment that a key is of.
fn id_of(key: &[u8]) -> Option<AttachmentId> {
    let id = key.rsplit(|byte| *byte == b'/').next()?;
    std::str::from_utf8(id).ok()?.parse().ok()
}

/// Has the store hold exactly a host's documents, which outlive its lease. Safe to repeat. False if others write the same keys.
///
/// # Errors
/// When the store does not answer.
pub(crate) async fn tell<S: LeaseStore>(
    store: &S,
    prefix: &KeyPrefix,
    host: HostId,
    documents: &BTreeMap<AttachmentId, Attachment>,
) -> Result<bool, StoreError> {
    let folder = prefix.attachments_of(host);
    let mut there = OfHost::default();
    store.list_into(&folder, &mut there).await?;
    let value = |attachment| serde_json::to_vec(attachment).expect("a document has only text keys");
    let key = |id: &AttachmentId| [&*folder, id.to_string().as_bytes()].concat();
    let mut wanted: BTreeMap<Vec<u8>, Vec<u8>> =
        documents.iter().map(|(id, attachment)| (key(id), value(attachment))).collect();
    let mut changes: Vec<(Compare, Write)> = Vec::new();
    for kv in there.0 {
        let as_read = Compare::Unchanged(kv.key.clone(), kv.mod_revision);
        match wanted.remove(&kv.key) {
            Some(value) if value == kv.value && kv.lease.is_none() => {}
            Some(value) => changes.push((as_read, Write::Put { key: kv.key, value, lease: None })),
            None => changes.push((as_read, Write::Delete(kv.key))),
        }
    }
    let new = |(key, value): (Vec<u8>, Vec<u8>)| (Compare::Absent(key.clone()), Write::Put { key, value, lease: None });
    changes.extend(wanted.into_iter().map(new));
    let mut all = true;
    for some in changes.chunks(WRITES) {
        let (when, then) = some.iter().cloned().unzip();
        all &= store.commit(Txn { when, then }).await?.succeeded;
    }
    Ok(all)
}

/// `wire-agent attachments --all`.
///
/// # Errors
/// [`Exit::Store`] when etcd does not answer.
pub(crate) async fn list(etcd: EtcdFlags, as_json: bool) -> Result<(), Exit> {
    let prefix = KeyPrefix::new(&etcd.etcd_prefix);
    let store = EtcdStore::open(etcd_settings(etcd)?).await?;
    let told = Folder::<Told>::list(&store, &prefix.attachments()).await?;
    let members = Folder::<Stored<MemberRecord>>::list(&store, &MemberRecord::folder(&prefix)).await?;
    let mut publics: BTreeMap<HostId, BTreeSet<String>> = BTreeMap::new();
    for (key, stored) in &members.items {
        let addresses = stored.record.public.iter().map(|(_, address)| address.to_string());
        publics.entry(key.host).or_default().extend(addresses);
    }
    let none = BTreeSet::new();
    let shown = |((host, id), told): (&(HostId, AttachmentId), &Told)| {
        row(*host, publics.get(host).unwrap_or(&none), *id, &told.0)
    };
    let rows: Vec<Value> = told.items.iter().map(shown).collect();
    if as_json { print_json(&rows) } else { output::answer(&table(&rows)) }
}

/// `wire-agent attachments --forget HOST`: of a host that is gone for good.
///
/// # Errors
/// [`Exit::Store`] when etcd does not answer.
pub(crate) async fn forget(etcd: EtcdFlags, host: HostId) -> Result<(), Exit> {
    let prefix = KeyPrefix::new(&etcd.etcd_prefix);
    let store = EtcdStore::open(etcd_settings(etcd)?).await?;
    tell(&store, &prefix, host, &BTreeMap::new()).await?;
    output::answer(&format!(
        "the attachments of {host} are forgotten; if its agent runs, it tells them again when it joins next, gets another lease, or lists etcd anew\n"
    ))
}

fn row(host: HostId, publics: &BTreeSet<String>, id: AttachmentId, attachment: &Attachment) -> Value {
    let wishes: Vec<String> = attachment.addresses.iter().map(ToString::to_string).collect();
    json!({
        "host": host,
        "public": publics,
        "id": id,
        "guest": attachment.guest,
        "network": attachment.network().as_str(),
        "interface": attachment.interface.to_string(),
        "addresses": wishes,
        "mac": attachment.mac.map(|mac| mac.to_string()).unwrap_or_default(),
    })
}

/// For people: a line for each attachment. A host is named by its addresses on the underlay, if it is a member of a network.
fn table(rows: &[Value]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["HOST", "ID", "GUEST", "NETWORK", "INTERFACE", "ADDRESS", "MAC"]);
    let texts = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    for row in rows {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let publics = texts(&row["public"]);
        let host = if publics.is_empty() { text("host") } else { publics.join(" ") };
        let addresses = texts(&row["addresses"]).join(" ");
        table.add_row([host, text("id"), text("guest"), text("network"), text("interface"), addresses, text("mac")]);
    }
    format!("{}\n", table.trim_fmt())
}

#[cfg(test)]
mod tests {
    use wire_store::SimStore;

    use super::*;
    use crate::attach::document;

    const HOST: HostId = HostId::new(7);

    fn prefix() -> KeyPrefix {
        KeyPrefix::new("/n")
    }

    fn documents(fields: &[&str]) -> BTreeMap<AttachmentId, Attachment> {
        fields.iter().map(|fields| document(fields)).map(|attachment| (attachment.id, attachment)).collect()
    }

    async fn told(store: &SimStore) -> Vec<(HostId, AttachmentId)> {
        Folder::<Told>::list(store, &prefix().attachments()).await.unwrap().items.keys().copied().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn the_store_has_exactly_the_documents_of_a_host_and_what_is_there_is_not_written() {
        let store = SimStore::new(1);
        let both = documents(&["{}", r#"{"id":"00000000000000bb","guest":"db"}"#]);
        assert!(tell(&store, &prefix(), HOST, &both).await.unwrap());
        let ids: Vec<(HostId, AttachmentId)> = both.keys().map(|id| (HOST, *id)).collect();
        assert_eq!(told(&store).await, ids);
        let before = store.get(b"x").await.unwrap().revision;
        assert!(tell(&store, &prefix(), HOST, &both).await.unwrap());
        assert_eq!(store.get(b"x").await.unwrap().revision, before);
        let one = documents(&[r#"{"generation":9}"#]);
        assert!(tell(&store, &prefix(), HOST, &one).await.unwrap());
        let listing = store.list(&prefix().attachments()).await.unwrap();
        assert_eq!(listing.entries.len(), 1);
        assert!(
            listing.entries[0].lease.is_none()
                && listing.entries[0].value.windows(14).any(|it| it == b"\"generation\":9")
        );
        let other = HostId::new(8);
        assert!(tell(&store, &prefix(), other, &both).await.unwrap());
        assert!(tell(&store, &prefix(), HOST, &BTreeMap::new()).await.unwrap());
        assert!(told(&store).await.iter().all(|(host, _)| *host == other), "those of others stay");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_no_attachment_is_left_out_and_what_was_forged_in_a_hosts_name_goes() {
        let store = SimStore::new(1);
        let text = |fields: &str| serde_json::to_string(&document(fields)).unwrap();
        for (key, value) in [
            (format!("{HOST}/00000000000000aa"), "{".to_owned()),
            (format!("{HOST}/00000000000000bb"), text("{}")),
            (format!("{HOST}/00000000000000cc"), "x".repeat(100_000)),
            (format!("{HOST}/x"), text("{}")),
            ("nobody/00000000000000aa".to_owned(), text("{}")),
            (format!("{HOST}/00000000000000dd"), text(r#"{"id":"00000000000000dd","addresses":["10.1.1.0/24"]}"#)),
        ] {
            store.put(format!("/n/wire/attachments/{key}"), value, None);
        }
        assert_eq!(told(&store).await, []);
        store.put(format!("/n/wire/attachments/{HOST}/00000000000000ee"), text(r#"{"id":"00000000000000ee"}"#), None);
        assert_eq!(told(&store).await.len(), 1);
        let one = documents(&["{}"]);
        assert!(tell(&store, &prefix(), HOST, &one).await.unwrap());
        assert_eq!(told(&store).await, [(HOST, *one.keys().next().unwrap())]);
    }
}

//! Conversions between etcd_client's types and ours.

use std::time::Duration;

use etcd_client::{EventType, PutOptions, TxnOp};

use crate::{Compare, Event, KeyValue, LeaseId, Revision, Txn, Write};

/// The first key after all that begin with `prefix`; a single zero byte means "to the end" in etcd.
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

pub(super) fn etcd_txn(txn: Txn) -> etcd_client::Txn {
    use etcd_client::CompareOp::Equal;
    let when: Vec<etcd_client::Compare> = txn
        .when
        .into_iter()
        .map(|compare| match compare {
            Compare::Absent(key) => etcd_client::Compare::version(key, Equal, 0),
            Compare::Unchanged(key, revision) => etcd_client::Compare::mod_revision(key, Equal, revision.0),
        })
        .collect();
    let then: Vec<TxnOp> = txn
        .then
        .into_iter()
        .map(|write| match write {
            Write::Put { key, value, lease } => {
                TxnOp::put(key, value, lease.map(|lease| PutOptions::new().with_lease(lease.0)))
            }
            Write::Delete(key) => TxnOp::delete(key, None),
        })
        .collect();
    etcd_client::Txn::new().when(when).and_then(then)
}

pub(super) fn key_value(kv: etcd_client::KeyValue) -> KeyValue {
    let (create, modified, lease) = (kv.create_revision(), kv.mod_revision(), kv.lease());
    let (key, value) = kv.into_key_value();
    let lease = (lease != 0).then_some(LeaseId(lease));
    KeyValue { key, value, create_revision: Revision(create), mod_revision: Revision(modified), lease }
}

pub(super) fn event(event: &etcd_client::Event) -> Option<Event> {
    let kv = event.kv()?;
    Some(match event.event_type() {
        EventType::Put => Event::Put(key_value(kv.clone())),
        EventType::Delete => Event::Delete { key: kv.key().to_vec(), mod_revision: Revision(kv.mod_revision()) },
    })
}

pub(super) fn revision(header: Option<&etcd_client::ResponseHeader>) -> Revision {
    Revision(header.map_or(0, etcd_client::ResponseHeader::revision))
}

pub(super) fn seconds(number: i64) -> Option<Duration> {
    u64::try_from(number).ok().map(Duration::from_secs)
}

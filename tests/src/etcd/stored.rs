//! Keys as `etcdctl -w=json` prints them.

use serde::Deserialize;

use crate::{LabError, Result, base64};

/// A key and what etcd knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created it.
    pub create_revision: i64,
    /// The revision that wrote it last.
    pub mod_revision: i64,
    /// The etcd lease it is bound to, 0 where there is none.
    pub lease: i64,
}

impl Stored {
    /// The key as text.
    #[must_use]
    pub fn key(&self) -> String {
        String::from_utf8_lossy(&self.key).into_owned()
    }

    /// The value as text.
    #[must_use]
    pub fn value(&self) -> String {
        String::from_utf8_lossy(&self.value).into_owned()
    }
}

/// The keys of an answer, in its order.
pub(super) fn keys(text: &str) -> Result<Vec<Stored>> {
    parse(text)?.kvs.into_iter().map(StoredJson::decode).collect()
}

/// The revision of an answer.
pub(super) fn revision(text: &str) -> Result<i64> {
    Ok(parse(text)?.header.revision)
}

#[derive(Deserialize)]
struct Answer {
    header: Header,
    #[serde(default)]
    kvs: Vec<StoredJson>,
}

#[derive(Deserialize)]
struct Header {
    revision: i64,
}

#[derive(Deserialize)]
struct StoredJson {
    key: String,
    #[serde(default)]
    value: String,
    create_revision: i64,
    mod_revision: i64,
    #[serde(default)]
    lease: i64,
}

impl StoredJson {
    fn decode(self) -> Result<Stored> {
        let (create_revision, mod_revision, lease) = (self.create_revision, self.mod_revision, self.lease);
        let (key, value) = (base64::decode(&self.key)?, base64::decode(&self.value)?);
        Ok(Stored { key, value, create_revision, mod_revision, lease })
    }
}

fn parse(text: &str) -> Result<Answer> {
    serde_json::from_str(text).map_err(LabError::answer("etcdctl"))
}

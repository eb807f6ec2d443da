//! Records of the store: a key and a value, each decoded alone, with their origin.

use std::sync::Arc;

use serde::{Serialize, de::DeserializeOwned};
use wire_net::{KeyPrefix, NamedKeyError};
use wire_store::{KeyValue, LeaseId, Write};

use crate::{FolderItem, Origin};

/// A kind of record of networks by name.
pub trait Record: Clone + PartialEq + Send + Sync + Sized + 'static {
    /// The decoded key.
    type Key: Ord + Clone + Send + Sync + std::fmt::Debug + std::fmt::Display + 'static;

    /// Parses the name of a key, without its folder's.
    ///
    /// # Errors
    /// If it is no key of this kind.
    fn parse_key(name: &[u8]) -> Result<Self::Key, NamedKeyError>;

    /// The folder of the keys.
    fn folder(prefix: &KeyPrefix) -> Vec<u8>;

    /// Parses a value.
    ///
    /// # Errors
    /// The fault, for people.
    fn from_value(value: &[u8]) -> Result<Self, String>;

    /// The value for the store.
    fn to_value(&self) -> Vec<u8>;

    /// The whole key.
    fn key(prefix: &KeyPrefix, key: &Self::Key) -> Vec<u8> {
        [Self::folder(prefix), key.to_string().into_bytes()].concat()
    }

    /// The write of this record.
    fn write(&self, prefix: &KeyPrefix, key: &Self::Key, lease: Option<LeaseId>) -> Write {
        Write::Put { key: Self::key(prefix, key), value: self.to_value(), lease }
    }
}

/// A record as the store has it. A copy shares the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<R> {
    /// The record.
    pub record: Arc<R>,
    /// Its revisions, and the store's lease with which it expires.
    pub origin: Origin,
}

impl<R: Record> Stored<R> {
    /// Decodes a value with its origin.
    ///
    /// # Errors
    /// The fault, for people.
    pub fn of(kv: &KeyValue) -> Result<Self, String> {
        Ok(Self { record: Arc::new(R::from_value(&kv.value)?), origin: Origin::of(kv) })
    }
}

impl<R: Record> FolderItem for Stored<R> {
    type Key = R::Key;

    fn key(name: &[u8]) -> Result<R::Key, String> {
        R::parse_key(name).map_err(|error| error.to_string())
    }

    fn decode(kv: &KeyValue) -> Result<Self, String> {
        Self::of(kv)
    }
}

/// Parses JSON of at most `longest` bytes.
pub(super) fn from_json<T: DeserializeOwned>(value: &[u8], longest: usize) -> Result<T, String> {
    if value.len() > longest {
        return Err(format!("the value has more than {longest} bytes"));
    }
    serde_json::from_slice(value).map_err(|error| error.to_string())
}

/// Writes JSON.
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("a record has only text keys")
}

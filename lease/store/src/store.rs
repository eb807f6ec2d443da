//! What a lease needs of its store: a few key-value calls with revisions, which etcd has and the simulation imitates.

use std::{fmt, future::Future, time::Duration};

/// A point in the store's history (etcd: a revision of the whole key space). Never zero for a key that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

/// The store's own lease, to which keys are attached so that they expire together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// One key and what the store knows of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The whole key, which need not be UTF-8.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// When this key was created.
    pub create_revision: Revision,
    /// When it was written last.
    pub mod_revision: Revision,
    /// The store's lease it expires with; `None` for a key that stays.
    pub lease: Option<LeaseId>,
}

impl KeyValue {
    /// The longest part of a key behind what was listed that is kept, in bytes. A lease's has under 100.
    const LONGEST_NAME: usize = 256;

    /// The longest value that a listing returns whole, in bytes. Of a longer one a byte more is kept, which tells that it was cut.
    pub const LONGEST_VALUE: usize = 16 * 1024;

    /// As much of a key and its value as tells that they are too long, whoever wrote them. `prefix` is what was listed.
    pub(crate) fn cut(key: &[u8], value: &[u8], prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
        (Self::cut_key(key, prefix).to_vec(), value[..value.len().min(Self::LONGEST_VALUE + 1)].to_vec())
    }

    /// As much of a key as a listing of `prefix` keeps.
    #[must_use]
    pub fn cut_key<'a>(key: &'a [u8], prefix: &[u8]) -> &'a [u8] {
        &key[..key.len().min(prefix.len() + Self::LONGEST_NAME)]
    }
}

/// The answer to a read of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The key, where it exists.
    pub found: Option<KeyValue>,
    /// The revision the answer holds at.
    pub revision: Revision,
}

/// All keys under a prefix, at one revision. Keys and values that are too long are cut, so that what other programs write takes little memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// In order of key.
    pub entries: Vec<KeyValue>,
    /// The revision the answer holds at.
    pub revision: Revision,
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(Vec<u8>),
    /// The key was last written at this revision.
    Unchanged(Vec<u8>, Revision),
}

/// A write in a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a key, and attaches it to `lease` or, with `None`, to no lease.
    Put {
        /// The whole key.
        key: Vec<u8>,
        /// The new value.
        value: Vec<u8>,
        /// The store's lease the key expires with.
        lease: Option<LeaseId>,
    },
    /// Removes a key, if it is there.
    Delete(Vec<u8>),
}

impl Write {
    /// The key that is written.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// All writes, if all conditions hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub when: Vec<Compare>,
    /// The writes.
    pub then: Vec<Write>,
}

/// The outcome of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The conditions held, and the writes were made.
    pub succeeded: bool,
    /// The store's revision afterwards.
    pub revision: Revision,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was written.
    Put(KeyValue),
    /// The key is gone. Says nothing of what it held.
    Delete {
        /// The whole key.
        key: Vec<u8>,
        /// When it went.
        mod_revision: Revision,
    },
}

/// Changes that arrived together, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The changes.
    pub events: Vec<Event>,
    /// The store's revision when the batch was sent.
    pub revision: Revision,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No member answered, or the answer did not come in time. The call may or may not have been carried out.
    #[error("etcd does not answer to {operation}")]
    Unavailable {
        /// The call.
        operation: &'static str,
        /// The error of the transport.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A certificate is not trusted, ours or the store's, or a file of TLS is of no use.
    #[error("etcd cannot be asked to {operation}")]
    Insecure {
        /// The call.
        operation: &'static str,
        /// Which certificate, why, and what helps.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store refuses who we are, or what we may do.
    #[error("etcd refuses {operation}: {remedy}")]
    Unauthorised {
        /// The call.
        operation: &'static str,
        /// The user or the permission to look at.
        remedy: String,
        /// The words of the store.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store's lease that a write names has expired or was revoked.
    #[error("etcd no longer knows lease {0}")]
    LeaseGone(LeaseId),
    /// Any other refusal.
    #[error("etcd refuses {operation}")]
    Refused {
        /// The call.
        operation: &'static str,
        /// The words of the store.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The revisions asked for are no longer kept: list again.
    #[error("etcd has compacted its history up to revision {}", .0.0)]
    Compacted(Revision),
    /// The stream broke: open again.
    #[error("the watch ended")]
    Ended(#[source] StoreError),
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Where leases are kept. Each call is bounded in time by the implementation; none is retried for longer than that.
///
/// # Cancel safety
/// A call that is dropped may or may not have been carried out, as after [`StoreError::Unavailable`].
pub trait LeaseStore: Clone + Send + Sync + 'static {
    /// An open watch.
    type Watch: WatchStream;

    /// Reads one key.
    fn get(&self, key: &[u8]) -> impl Future<Output = Result<Read, StoreError>> + Send;

    /// Reads all keys that begin with `prefix`, page by page at one revision.
    fn list(&self, prefix: &[u8]) -> impl Future<Output = Result<Listing, StoreError>> + Send;

    /// Makes all writes of `txn`, or none.
    fn commit(&self, txn: Txn) -> impl Future<Output = Result<Committed, StoreError>> + Send;

    /// Makes a lease of the store that lives for `ttl` unless it is kept alive. The store may round `ttl` up.
    fn grant(&self, ttl: Duration) -> impl Future<Output = Result<LeaseId, StoreError>> + Send;

    /// Starts the store's lease anew and returns how long it now lives; `None` where the store no longer knows it.
    fn keep_alive(&self, lease: LeaseId) -> impl Future<Output = Result<Option<Duration>, StoreError>> + Send;

    /// How long the store's lease still lives, and for how long it was granted; `None` where the store no longer knows it.
    fn time_to_live(
        &self,
        lease: LeaseId,
    ) -> impl Future<Output = Result<Option<(Duration, Duration)>, StoreError>> + Send;

    /// Ends the store's lease: the keys attached to it go. Not an error where it is gone already.
    fn revoke(&self, lease: LeaseId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Opens a watch on all keys that begin with `prefix`, from revision `from` on.
    fn watch(&self, prefix: &[u8], from: Revision) -> impl Future<Output = Result<Self::Watch, WatchError>> + Send;
}

/// An open watch.
pub trait WatchStream: Send + 'static {
    /// The next changes.
    ///
    /// # Errors
    /// When the stream ended; the watch is of no use afterwards.
    ///
    /// # Cancel safety
    /// Safe: no batch is lost when the future is dropped.
    fn next(&mut self) -> impl Future<Output = Result<WatchBatch, WatchError>> + Send;
}

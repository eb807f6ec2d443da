//! The trait of a store: key-value calls with revisions, which etcd has and the simulation imitates.

use std::{fmt, future::Future, time::Duration};

use tokio::{sync::watch, time::Instant};

/// A revision of the store: a counter of all its changes. Never zero for a key that exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

/// A lease of the store itself: keys attached to it expire together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A key with its value and revisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The whole key, which need not be UTF-8.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created this key.
    pub create_revision: Revision,
    /// The revision that wrote it last.
    pub mod_revision: Revision,
    /// The store's lease with which it expires; `None` if it never does.
    pub lease: Option<LeaseId>,
}

impl KeyValue {
    /// The longest key name that a listing keeps, in bytes after the listed prefix. Names of leases have under 100.
    const LONGEST_NAME: usize = 256;

    /// The longest value that a listing keeps whole, in bytes. Of a longer one it keeps one byte more, which shows that
    /// it was cut.
    pub const LONGEST_VALUE: usize = 16 * 1024;

    /// Cuts a key and its value to the limits of a listing of `prefix`, so that entries written by other programs take
    /// little memory. What is left shows that they were too long.
    pub(crate) fn cut(mut self, prefix: &[u8]) -> Self {
        let key = Self::cut_key(&self.key, prefix);
        // Copied, since a vector that is only truncated keeps its memory.
        if key.len() < self.key.len() {
            self.key = key.to_vec();
        }
        if self.value.len() > Self::LONGEST_VALUE + 1 {
            self.value = self.value[..=Self::LONGEST_VALUE].to_vec();
        }
        self
    }

    /// Cuts a key to the limit of a listing of `prefix`.
    #[must_use]
    pub fn cut_key<'a>(key: &'a [u8], prefix: &[u8]) -> &'a [u8] {
        &key[..key.len().min(prefix.len() + Self::LONGEST_NAME)]
    }
}

/// The answer to a read of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// The key; `None` if it does not exist.
    pub found: Option<KeyValue>,
    /// The revision at which this was read.
    pub revision: Revision,
}

/// All keys under a prefix, at one revision. Keys and values that are too long are cut, so that entries written by
/// other programs take little memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The keys, in order.
    pub entries: Vec<KeyValue>,
    /// The revision at which they were read.
    pub revision: Revision,
}

/// What a listing is read into, key by key in their order: so a long one is never in memory as a whole.
pub trait KeySink: Send {
    /// Drops the keys so far: the listing begins, or begins again at another revision.
    fn clear(&mut self);

    /// Takes the next key, cut as in a [`Listing`].
    fn push(&mut self, kv: KeyValue);
}

impl KeySink for Vec<KeyValue> {
    fn clear(&mut self) {
        self.clear();
    }

    fn push(&mut self, kv: KeyValue) {
        self.push(kv);
    }
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
    /// Sets a key and attaches it to `lease`, or with `None` to no lease.
    Put {
        /// The whole key.
        key: Vec<u8>,
        /// The new value.
        value: Vec<u8>,
        /// The store's lease with which the key expires.
        lease: Option<LeaseId>,
    },
    /// Removes a key, if it exists.
    Delete(Vec<u8>),
}

impl Write {
    /// The key to write.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put { key, .. } | Self::Delete(key) => key,
        }
    }
}

/// A transaction: all writes are made if all conditions hold, else none.
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
    /// Whether the conditions held, so that the writes were made.
    pub succeeded: bool,
    /// The store's revision after the transaction.
    pub revision: Revision,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key was written.
    Put(KeyValue),
    /// The key was removed. Its last value is not reported.
    Delete {
        /// The whole key.
        key: Vec<u8>,
        /// The revision that removed it.
        mod_revision: Revision,
    },
}

impl Event {
    /// The whole key.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision of the change.
    #[must_use]
    pub const fn mod_revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }

    /// The new state of the key; `None` if it was removed.
    #[must_use]
    pub fn into_key_value(self) -> Option<KeyValue> {
        match self {
            Self::Put(kv) => Some(kv),
            Self::Delete { .. } => None,
        }
    }
}

/// Changes that arrived together, in the order in which they were made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The changes.
    pub events: Vec<Event>,
    /// The store's revision when the batch was sent.
    pub revision: Revision,
}

/// The reason why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No member answered, or not in time. The call may or may not have been carried out.
    #[error("etcd does not answer ({operation})")]
    Unavailable {
        /// The call.
        operation: &'static str,
        /// The error of the transport; `None` after a timeout.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A certificate is not trusted, ours or the store's, or a TLS file cannot be used.
    #[error("no secure connection to etcd ({operation})")]
    Insecure {
        /// The call.
        operation: &'static str,
        /// Names the certificate, the reason and the remedy.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store refuses the user or its permission.
    #[error("etcd refuses {operation}: {remedy}")]
    Unauthorised {
        /// The call.
        operation: &'static str,
        /// The user or the permission to check.
        remedy: String,
        /// The store's own message.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The store's lease named in a write has expired or was revoked.
    #[error("etcd no longer knows lease {0}")]
    LeaseGone(LeaseId),
    /// Any other refusal by the store.
    #[error("etcd refuses {operation}")]
    Refused {
        /// The call.
        operation: &'static str,
        /// The store's own message.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The reason why a watch ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The requested revisions are compacted: list again.
    #[error("etcd has compacted its history up to revision {}", .0.0)]
    Compacted(Revision),
    /// The stream broke: open the watch again.
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

/// A store of leases. The implementation limits each call in time, its retries included.
///
/// # Cancel safety
/// A call that is dropped may or may not have been carried out, as after [`StoreError::Unavailable`].
pub trait LeaseStore: Clone + Send + Sync + 'static {
    /// An open watch.
    type Watch: WatchStream;

    /// Reads one key.
    fn get(&self, key: &[u8]) -> impl Future<Output = Result<Read, StoreError>> + Send;

    /// Reads all keys that begin with `prefix` into `sink`, page by page at one revision, and returns that revision.
    ///
    /// # Errors
    /// Then `sink` may hold a part of the keys.
    fn list_into(
        &self,
        prefix: &[u8],
        sink: &mut impl KeySink,
    ) -> impl Future<Output = Result<Revision, StoreError>> + Send;

    /// Reads all keys that begin with `prefix`, at one revision. For directories that are small.
    fn list(&self, prefix: &[u8]) -> impl Future<Output = Result<Listing, StoreError>> + Send {
        async move {
            let mut entries = Vec::new();
            let revision = self.list_into(prefix, &mut entries).await?;
            Ok(Listing { entries, revision })
        }
    }

    /// Makes all writes of `txn` if all its conditions hold, else none.
    fn commit(&self, txn: Txn) -> impl Future<Output = Result<Committed, StoreError>> + Send;

    /// Grants a lease of the store that expires after `ttl` unless it is kept alive. The store may round `ttl` up.
    fn grant(&self, ttl: Duration) -> impl Future<Output = Result<LeaseId, StoreError>> + Send;

    /// Renews the store's lease and returns its new time to live; `None` if the store no longer knows it.
    fn keep_alive(&self, lease: LeaseId) -> impl Future<Output = Result<Option<Duration>, StoreError>> + Send;

    /// Returns the remaining and the granted time to live of the store's lease; `None` if the store no longer knows it.
    fn time_to_live(
        &self,
        lease: LeaseId,
    ) -> impl Future<Output = Result<Option<(Duration, Duration)>, StoreError>> + Send;

    /// Revokes the store's lease and removes the keys attached to it. Not an error if it is already gone.
    fn revoke(&self, lease: LeaseId) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Opens a watch on all keys that begin with `prefix`, starting at revision `from`.
    fn watch(&self, prefix: &[u8], from: Revision) -> impl Future<Output = Result<Self::Watch, WatchError>> + Send;

    /// The time at which the store last answered a call of this client, also with one page of a listing; at first, the
    /// time at which the client was made.
    fn answers(&self) -> watch::Receiver<Instant>;

    /// Waits for `answer` as long as the store answers single calls: a long listing, page by page, is not silence.
    /// Returns `None` after `silence` without any answer, or after `limit` in all.
    fn while_responsive<T>(
        &self,
        answer: impl Future<Output = T>,
        silence: Duration,
        limit: Duration,
    ) -> impl Future<Output = Option<T>> {
        let mut answers = self.answers();
        async move {
            let silent = async { while let Ok(Ok(())) = tokio::time::timeout(silence, answers.changed()).await {} };
            tokio::select! {
                answer = answer => Some(answer),
                () = silent => None,
                () = tokio::time::sleep(limit) => None,
            }
        }
    }
}

/// An open watch.
pub trait WatchStream: Send + 'static {
    /// Waits for the next changes.
    ///
    /// # Errors
    /// If the stream ended; the watch cannot be used afterwards.
    ///
    /// # Cancel safety
    /// Safe: no batch is lost when the future is dropped.
    fn next(&mut self) -> impl Future<Output = Result<WatchBatch, WatchError>> + Send;
}

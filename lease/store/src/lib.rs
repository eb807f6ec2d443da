//! The store that holds the leases: keys with revisions, transactions, watches, and the store's own leases, with which
//! keys expire.
//!
//! [`LeaseStore`] is what the agent needs of a store. [`EtcdStore`] implements it with etcd's v3 API, and only it names
//! etcd_client. With the feature `sim`, `SimStore` implements it in memory, with faults and virtual time. Both pass the
//! same contract tests. [`KeyWatch`] watches one key and recovers when its watch breaks.
//!
//! This crate knows keys and values, but not their meaning: it never depends on `wire-lease` or on a user of it.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod backoff;
mod etcd;
mod key_watch;
mod random;
#[cfg(feature = "sim")]
mod sim;
mod store;

pub use backoff::Backoff;
pub use etcd::{
    Credentials, EndpointAddresses, EtcdSettings, EtcdSettingsError, EtcdStore, EtcdWatch, NameError, Password,
    TlsFiles, endpoint_addresses,
};
pub use key_watch::{KeyEvent, KeyWatch};
pub use random::Random;
#[cfg(feature = "sim")]
pub use sim::{SimBackup, SimCall, SimCut, SimFault, SimStore, SimWatch};
pub use store::{
    Committed, Compare, Event, KeySink, KeyValue, LeaseId, LeaseStore, Listing, Read, Revision, StoreError, Txn,
    WatchBatch, WatchError, WatchStream, Write,
};

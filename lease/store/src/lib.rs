//! Where leases are kept: keys with revisions, transactions, watches, and leases of the store by which keys expire.
//!
//! [`LeaseStore`] says what is needed of a store. [`EtcdStore`] is that by etcd's v3 API, and only it names etcd_client; with the
//! feature `sim`, `SimStore` is that in memory, with faults and virtual time. Both are held to the same contract tests.
//! [`KeyWatch`] follows one key over breaks of its watch.
//!
//! This crate knows keys and values, not what they hold: it never depends on `wire-lease` or on what uses that.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod backoff;
mod etcd;
mod key_watch;
#[cfg(feature = "sim")]
mod sim;
mod store;

pub use backoff::{Backoff, shortened};
pub use etcd::{
    Credentials, EndpointAddresses, EtcdSettings, EtcdSettingsError, EtcdStore, EtcdWatch, NameError, Password,
    TlsFiles, endpoint_addresses,
};
pub use key_watch::{KeyEvent, KeyWatch};
#[cfg(feature = "sim")]
pub use sim::{SimBackup, SimCall, SimFault, SimStore, SimWatch};
pub use store::{
    Committed, Compare, Event, KeyValue, LeaseId, LeaseStore, Listing, Read, Revision, StoreError, Txn, WatchBatch,
    WatchError, WatchStream, Write,
};

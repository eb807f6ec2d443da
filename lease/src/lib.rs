//! What a subnet lease is, and how a host holds one in etcd.
//!
//! Flow: `EtcdStore` reads keys, [`NetworkConfig`] and [`Lease`] give them types, `follow` publishes the
//! admitted leases as a [`LeaseTable`], and `hold` acquires and keeps the lease of this host.
//!
//! This crate never depends on `wire-backends` or `wire-agent`: it knows nothing of kernels, files or command lines.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod admission;
mod allocate;
mod backoff;
mod config;
mod entries;
mod etcd;
mod family;
mod follow;
mod hold;
mod key;
mod key_watch;
mod lease;
mod mac;
mod own;
mod prefix;
#[cfg(feature = "sim")]
mod sim;
mod store;
mod stored_config;
mod table;
mod task;

pub use admission::Admission;
pub use allocate::{Full, Taken, Wish, allocate};
pub use backoff::{Backoff, shortened};
pub use config::{BackendConfig, ConfigError, NetworkConfig, Pool, VxlanConfig};
pub use entries::Entries;
pub use etcd::{Credentials, EtcdSettings, EtcdSettingsError, EtcdStore, EtcdWatch, TlsFiles};
pub use family::{DualStack, Family};
pub use follow::{Follow, FollowHealth, FollowSettings, LIST_EVERY};
pub use hold::{Hold, HoldSettings, HoldState, Offer};
pub use key::{KeyError, KeyPrefix, Subnet};
pub use lease::{BackendData, Lease, LeaseError, Vni, Vtep};
pub use mac::{MacAddr, MacError};
pub use own::own_entry;
pub use prefix::{Prefix, PrefixError};
#[cfg(feature = "sim")]
pub use sim::{SimBackup, SimCall, SimFault, SimStore, SimWatch};
pub use store::{
    Committed, Compare, Event, KeyValue, LeaseId, LeaseStore, Listing, Read, Revision, StoreError, Txn, WatchBatch,
    WatchError, WatchStream, Write, chain,
};
pub use stored_config::{ConfigEvent, ConfigWatch, StoredConfig};
pub use table::{Entry, LeaseTable, Origin, Refusal, RefusalKind};

//! Subnet leases, and how a host holds one in etcd.
//!
//! Flow:
//!
//! ```text
//! EtcdStore ─▶ StoredConfig ─▶ NetworkConfig (pools, backend)
//!     │ ▲
//!     │ └───── Hold   (our lease: acquire, keep, take back, give back) ─▶ watch::Receiver<HoldState>
//!     └──────▶ Follow (list, watch, list again)  ─▶ watch::Receiver<Option<Arc<LeaseTable>>>
//! ```
//!
//! The core is pure: [`NetworkConfig`] and [`Lease`] parse bytes, [`allocate()`] chooses a subnet, [`own_entry`] finds
//! our lease among all, and [`Entries::admit`] checks every lease. Two tasks around it use a
//! [`LeaseStore`](wire_store::LeaseStore).
//!
//! At start: read the config ([`StoredConfig::read`]), then the leases ([`Entries::list`]), each of which is decoded once;
//! find our old lease with [`own_entry`]; pass the same entries to [`Hold::spawn`] and
//! [`Follow::spawn`]. If the lease still exists, a restart needs one more round trip and writes nothing; a first lease
//! needs three (grant and guards at once, transaction, listing).
//!
//! This crate uses `wire-net` and `wire-store`. It never depends on `wire-backends` or `wire-agent`: it knows no
//! kernel, file or command line.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod admission;
mod allocate;
mod byte_order_mark;
mod clock;
mod config;
mod entries;
mod folder;
mod follow;
mod hold;
mod hold_down;
mod lease;
pub mod named;
mod own;
mod record;
mod refusal_log;
mod relisting;
mod stored_config;
mod table;
mod task;

pub use admission::Admission;
pub use allocate::{Full, Preference, Taken, allocate};
pub use byte_order_mark::byte_order_mark;
pub use clock::Clock;
pub use config::{BackendConfig, ConfigError, NetworkConfig, NetworkRange, VxlanConfig};
pub use entries::Entries;
pub use folder::{Folder, FolderItem, FollowFolder};
pub use follow::{Follow, FollowHealth, FollowSettings, LIST_EVERY};
pub use hold::{Former, HeldLease, Hold, HoldSettings, HoldState, Offer, Owner, give_back};
pub use lease::{BackendData, Lease, LeaseError, Vtep};
pub use own::own_entry;
pub use record::{BackendRecord, FormerBackend, StoredRecord, WithRecords};
pub use stored_config::{ConfigEvent, ConfigWatch, StoredConfig};
pub use table::{Entry, LeaseChange, LeaseTable, Origin, Refusal, RefusalKind, Refused};
pub use task::{Beside, Start};

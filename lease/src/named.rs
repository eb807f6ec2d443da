//! Networks by name: made once, there on each host.
//!
//! Pure: the records of the store ([`NetworkRecord`], [`MemberRecord`], [`BlockRecord`], [`AddressRecord`]), each hostile until it is parsed.

mod host_record;
mod network_record;
mod pools;
mod record;

pub use self::{
    host_record::{AddressRecord, BlockRecord, MemberRecord},
    network_record::{LEAST_VNI, Labels, NetworkRecord, NetworkRecordError},
    pools::{AddressPool, NetworkPools, PoolError, pool_prefix},
    record::{Record, Stored},
};

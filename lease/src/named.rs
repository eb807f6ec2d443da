//! Networks by name: made once, there on each host.
//!
//! Pure: the records of the store ([`NetworkRecord`], [`MemberRecord`], [`BlockRecord`], [`AddressRecord`]), each hostile until it is parsed; which of
//! them are admitted ([`NamedAdmission`]); what is chosen for a new one (`choose_room` and its neighbours).
//! [`NetworkStore`] has the transactions.

mod admission;
mod choose;
mod host_record;
mod network;
mod network_claims;
mod network_record;
mod pools;
mod record;
mod refusal;
mod store;

pub use self::{
    admission::{NamedAdmission, NamedNetworks, NamedRecords, Records},
    choose::{Asker, NothingFree, choose_own, choose_room, choose_subnet, choose_vni},
    host_record::{AddressRecord, BlockRecord, MemberRecord},
    network::NamedNetwork,
    network_claims::MOST_NETWORKS,
    network_record::{LEAST_VNI, Labels, NetworkRecord, NetworkRecordError},
    pools::{AddressPool, NetworkPools, PoolError, pool_prefix},
    record::{Record, Stored},
    refusal::{HostKey, HostRefusal, NetworkRefusal, Occupant, Occupied},
    store::{Joined, Joining, Kept, NetworkChange, NetworkError, NetworkStore, NewNetwork, PutBack, Room, SubnetWish},
};

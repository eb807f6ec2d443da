//! The values of networking that all other crates use. No I/O, no async runtime.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod error_chain;
mod family;
mod fill;
mod host_id;
mod key;
mod link_name;
mod local_address;
mod mac;
mod mtu;
mod named_key;
mod network_name;
mod pool;
mod prefix;
mod vni;

pub use error_chain::chain;
pub use family::{DualStack, Family};
pub use fill::every_other_first;
pub use host_id::{HostId, HostIdError};
pub use key::{Directory, KeyError, KeyPrefix, Subnet};
pub use link_name::{LinkName, LinkNameError};
pub use local_address::{LocalAddress, LocalUse};
pub use mac::{MacAddr, MacError};
pub use mtu::{Mtu, Overhead};
pub use named_key::{AddressKey, BlockKey, MemberKey, NamedKeyError};
pub use network_name::{NetworkName, NetworkNameError};
pub use pool::Pool;
pub use prefix::{Prefix, PrefixError};
pub use vni::Vni;

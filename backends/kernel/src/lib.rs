//! The kernel's network: links, addresses, FDB, neighbours, routes and settings are read, changed and heard of.
//!
//! [`NetlinkDataplane`] reads and writes; [`Monitor`] hears; [`Host`] says what the host around us has. No other crate does this. Knows
//! nothing of leases.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod decode;
mod encode;
mod holders;
mod host;
mod listeners;
#[cfg(test)]
mod measure;
mod monitor;
mod namespaces;
mod nexthop;
mod nics;
pub mod port;
mod read;
mod settings;
mod sysctl;
#[cfg(test)]
pub(crate) mod tests;
mod traffic;
mod underlay;
mod write;

pub use holders::Links;
pub use host::{Host, HostAddress, HostLink, Standing, Way};
pub use monitor::{Monitor, Wake};
pub use namespaces::{KernelDataplane, Others};
pub use nics::{MacOrigin, Nic};
pub use traffic::{Passed, Traffic, traffic};
pub use write::{NetlinkDataplane, RouteForm};

//! Reads, changes and monitors the kernel's links, addresses, FDB, neighbours, routes and settings.
//!
//! [`KernelDataplane`] reads and writes in several network namespaces, each by a [`NetlinkDataplane`]; [`Monitor`] receives the kernel's
//! notifications; [`HostNetwork`] holds the host's own links and routes. No other crate does this. This crate does not depend on leases.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod bypass;
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
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod sysctl;
#[cfg(test)]
pub(crate) mod tests;
mod trace_view;
mod traffic;
mod uapi;
mod underlay;
mod write;

pub use bypass::bypasses;
pub use holders::Links;
pub use host::{AddressState, HostAddress, HostLink, HostNetwork, ResolvedRoute};
pub use monitor::{Changes, Monitor};
pub use namespaces::{KernelDataplane, OpenedGuest, OtherNamespaces};
pub use nics::{MacOrigin, Nic};
pub use trace_view::TraceView;
pub use traffic::{DeviceCounters, Traffic, traffic};
pub use write::{NetlinkDataplane, RouteForm, StateReader};

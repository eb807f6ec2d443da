//! The only place that reads and changes the kernel's network.

pub(crate) mod attribute;
mod decode;
mod encode;
mod holders;
mod host;
mod listeners;
#[cfg(test)]
mod measure;
mod monitor;
mod nexthop;
mod nics;
pub(crate) mod port;
mod read;
mod settings;
pub(crate) mod socket;
mod sysctl;
#[cfg(test)]
pub(crate) mod tests;
mod traffic;
mod underlay;
mod write;

pub use holders::ContainerLink;
pub(crate) use holders::container_links;
pub use host::{Host, HostAddress, HostLink, Standing, Way};
pub use monitor::{Monitor, Wake};
pub use nics::{MacOrigin, Nic};
pub(crate) use read::link_by;
pub use traffic::{Passed, Traffic, traffic};
pub use write::{NetlinkDataplane, RouteForm};

//! The only place that reads and changes the kernel's network.

pub(crate) mod attribute;
mod decode;
mod encode;
mod error;
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

pub use error::{DataplaneError, ErrorKind, OpError};
pub use holders::ContainerLink;
pub(crate) use holders::container_links;
pub use host::{Host, HostAddress, HostLink, Standing, Way};
pub use monitor::{Monitor, Wake};
pub use nics::{MacOrigin, Nic};
pub(crate) use read::link_by;
pub use traffic::{Passed, Traffic, traffic};
pub use underlay::Underlay;
pub use write::{NetlinkDataplane, RouteForm};

use crate::{NetState, Op, Scope};

/// What became of one operation.
pub type Attempt = Result<(), OpError>;

/// The kernel, or something that behaves like it.
pub trait Dataplane {
    /// Reads all that `scope` names.
    ///
    /// # Errors
    /// When the kernel does not answer, or refuses. Nothing is known then.
    fn read(&mut self, scope: &Scope) -> Result<NetState, DataplaneError>;

    /// Carries out `ops` in order and says of each what became of it. One that fails stops no other. What is there already,
    /// or gone already, counts as done, except a route that somebody else put there first.
    fn apply(&mut self, ops: &[Op]) -> Vec<Attempt>;
}

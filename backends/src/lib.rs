//! What leases mean for this host: the state that its kernel should hold.
//!
//! Flow: [`select`] turns the network config into a [`Backend`]; its `desired` turns leases into a
//! [`NetState`](wire_state::NetState). Pure: it touches no kernel, and knows nothing of etcd, files or command lines.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod alloc;
mod backend;
mod select;
mod udp;
mod vtep;
mod vxlan;

pub use backend::{Backend, Datapath, ForwardSettings, Identity, Placement, VxlanBy};
pub use select::{SelectError, identify, select};
pub use vtep::choose;

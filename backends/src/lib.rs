//! Backends: they derive the desired state of this host's network from the leases.
//!
//! Flow: [`select()`] makes the [`Backend`] that the network config asks for; [`Backend::desired`] turns leases into a
//! [`NetState`](wire_state::NetState). Pure: this crate makes no system calls, and does not depend on etcd, files or command lines.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod addresses;
mod alloc;
mod backend;
mod direct;
mod former;
mod host_gw;
mod ipip;
mod net_from_leases;
mod port_use;
mod reaches;
mod segment;
mod select;
mod udp;
mod vtep;
mod vxlan;

pub use addresses::Addresses;
pub use backend::{Backend, Datapath, ForwardSettings, Identity, Placement, VxlanBy};
pub use former::{Spoken, WithFormer, why_not_beside};
pub use net_from_leases::{NetFromLeases, PeerEntry};
pub use port_use::{PortUse, PortUseError, Taker};
pub use reaches::Reaches;
pub use segment::{
    HostsOfNetwork, NetFromSegment, Segment, SegmentAgent, SegmentEndpoint, SegmentHost, SegmentHosts, SegmentOuter,
};
pub use select::{SelectError, identify, select};
pub use vtep::choose_mac;

//! What this host's kernel should hold for a set of leases, and getting it there.
//!
//! Flow: [`select`] turns the network config into a [`Backend`]; its `desired` turns leases into a
//! [`NetState`](wire_state::NetState); [`HostDataplane`] is the driver by which a [`Reconciler`](wire_state::Reconciler) makes
//! the kernel hold that. A [`Monitor`] says when to look again.
//!
//! This crate never depends on `wire-agent`, and knows nothing of etcd, files of others or command lines. Only
//! `dataplane`, `firewall` and `forward` touch the kernel; everything else takes values and returns values.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod alloc;
mod backend;
mod dataplane;
mod firewall;
mod forward;
mod host_dataplane;
mod udp;
mod vtep;
mod vxlan;

pub use backend::{Backend, ForwardSettings, Placement, SelectError, marks, select};
pub use dataplane::{
    ContainerLink, Host, HostAddress, HostLink, MacOrigin, Monitor, NetlinkDataplane, Nic, Passed, RouteForm, Standing,
    Traffic, Wake, Way, traffic,
};
pub use firewall::{
    ACCEPT_MARK, Counted, DockerRules, FirewallDataplane, FirewallMonitor, FirewallPolicy, Masquerade, Nftables,
    Others, OverlayDevice, Senders, Surroundings,
};
#[cfg(any(test, feature = "fuzzing"))]
pub use forward::fuzzing;
pub use forward::{Fault, Forwarder, Handle, Kept, TunnelSeen, Tunnels, Turn};
pub use host_dataplane::HostDataplane;
pub use vtep::choose;
pub use vxlan::devices;

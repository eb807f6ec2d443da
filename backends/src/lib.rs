//! What this host's kernel should hold for a set of leases, and getting it there.
//!
//! Flow: [`select`] turns the network config into a [`Backend`]; its `desired` turns leases into a [`NetState`];
//! [`plan()`] compares that with what a [`Driver`] read; a [`Reconciler`] applies the difference until nothing
//! differs. A [`Monitor`] says when to look again.
//!
//! This crate never depends on `wire-agent`, and knows nothing of etcd, files of others or command lines. Only
//! `dataplane`, `firewall` and `forward` touch the kernel; everything else takes values and returns values.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod alloc;
mod backend;
mod conflict;
mod dataplane;
mod detour;
mod firewall;
mod forward;
mod host_dataplane;
mod op;
mod ownership;
mod plan;
mod reconcile;
mod resource;
mod setting;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod state;
mod udp;
mod vtep;
mod vxlan;

pub use backend::{Backend, ForwardSettings, Placement, Scope, SelectError, select};
pub use conflict::Conflict;
pub use dataplane::{
    ContainerLink, DataplaneError, ErrorKind, Host, HostAddress, HostLink, MacOrigin, Monitor, NetlinkDataplane, Nic,
    OpError, Passed, RouteForm, Standing, Traffic, Underlay, Wake, Way, traffic,
};
pub use detour::Detours;
pub use firewall::{
    ACCEPT_MARK, BaseChain, Call, Chain, ChainChange, ChainName, ChainTable, ChainTableKind, Counted, DockerRules,
    Element, Firewall, FirewallDataplane, FirewallMonitor, FirewallOp, FirewallPolicy, FirewallState, Flowtable, Hook,
    Masquerade, Nftables, Others, OverlayDevice, Place, Rule, Senders, Set, SetChange, SetKind, Surroundings, Table,
    TableName,
};
#[cfg(any(test, feature = "fuzzing"))]
pub use forward::fuzzing;
pub use forward::{Capabilities, Fault, Forwarder, Framing, Handle, Kept, TunnelSeen, Tunnels, Turn};
pub use host_dataplane::HostDataplane;
pub use op::Op;
pub use ownership::Marks;
pub use plan::{Findings, Network, plan};
pub use reconcile::{Failure, Reconciler, Report};
pub use resource::{Attempt, Driver, NoFindings, Operation, Order, Plan, Resource};
pub use setting::Setting;
pub use state::{
    Address, Extra, FdbKey, Forward, ForwardKey, Link, LinkKind, NeighbourKey, NetState, Owner, PROTOCOL, Parent,
    Route, RouteKey, Tunnel, Via, Vxlan,
};
pub use vtep::choose;
pub use vxlan::devices;

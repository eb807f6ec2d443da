//! What a host holds and should hold, as values, and the loop that makes them equal.
//!
//! Flow: a [`Driver`] reads a [`Resource`]; [`Resource::plan`] compares that with what is desired; [`Reconciler`] applies the
//! difference until nothing differs.
//!
//! This crate knows nothing of leases, and touches no kernel: its drivers are crates of their own.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod error;
mod firewall;
mod network;
mod reconcile;
mod resource;
#[cfg(any(test, feature = "sim"))]
pub mod samples;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

pub use error::{DataplaneError, ErrorKind, OpError};
pub use firewall::{
    Attachment, BaseChain, Call, CallChange, ChainChange, ChainKind, ChainName, ChainPolicy, ChainTable,
    ChainTableKind, Creation, DesiredChain, DesiredFirewall, DesiredTable, Element, Firewall, FirewallOp, FlannelRules,
    Flowtable, Hook, InternalBridge, InternalBridges, OURS, ObservedBaseChain, ObservedCall, ObservedChain,
    ObservedFirewall, ObservedRule, ObservedTable, OperatorDrop, OtherFirewalls, OtherRules, Place, Position, Rule,
    Set, SetChange, SetKind, Table, TableName,
};
pub use network::{
    Address, Capabilities, Conflict, ContainerLink, Detours, Extra, FdbKey, Findings, Forward, ForwardKey, Framing,
    Link, LinkKind, Marks, NeighbourKey, NetState, Network, Op, Owner, PROTOCOL, Parent, Route, RouteKey, Scope,
    Setting, Tunnel, Underlay, VXLAN_LEAD, Via, Vxlan, plan, vxlan_header,
};
pub use reconcile::{Failure, Reconciler, Report};
pub use resource::{Attempt, Driver, NoFindings, Operation, Order, Plan, Resource};

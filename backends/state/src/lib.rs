//! The observed and the desired state of a host, as values, and the loop that makes them equal.
//!
//! Flow: a [`Driver`] reads a [`Resource`]; [`Resource::plan`] compares the observed state with the desired one; [`Reconciler`]
//! applies the difference until nothing differs.
//!
//! This crate does not depend on leases and makes no system calls: the drivers are crates of their own.
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
    ChainTableKind, Creation, DesiredChain, DesiredFirewall, DesiredTable, Element, EmptyTables, Firewall, FirewallOp,
    FlannelRules, Flowtable, Hook, InternalBridge, InternalBridges, OURS, ObservedBaseChain, ObservedCall,
    ObservedChain, ObservedFirewall, ObservedRule, ObservedTable, OperatorDrop, OtherFirewalls, OtherRules, Place,
    Position, Rule, Set, SetChange, SetKind, Table, TableName,
};
pub use network::{
    ALIAS, Address, Capabilities, Conflict, ContainerLink, DesiredForm, DesiredKind, DesiredLink, DesiredNet,
    DesiredVxlan, Detours, FdbKey, Findings, FloodEntry, FloodPath, Forward, ForwardKey, Framing, Ipip, KernelKind,
    KernelOp, Key, LinkId, LinkPlace, LinkRef, Macvlan, MacvlanMode, Marks, Namespace, Need, NeighbourKey, NetState,
    Network, NextHop, ObservedKind, ObservedLink, ObservedNet, ObservedRoute, ObservedVxlan, Op, Owner, PROTOCOL,
    PerNamespace, ReceiveFlag, RouteKey, Scope, Setting, Tunnel, TunnelOp, Underlay, VXLAN_LEAD, Veth, Via, Vlan, plan,
    plan_of, vxlan_header,
};
pub use reconcile::{Failure, Reconciler, Report};
pub use resource::{Attempt, Driver, Operation, Order, Plan, Resource};

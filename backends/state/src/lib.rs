//! The observed and the desired state of a host, as values, and the loop that makes them equal.
//!
//! Flow: a [`Driver`] reads a [`Resource`]; [`Resource::plan`] compares the observed state with the desired one; [`Reconciler`]
//! applies the difference until nothing differs.
//!
//! This crate does not depend on leases and makes no system calls: the drivers are crates of their own.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod difference;
mod error;
mod files;
mod firewall;
mod merge;
mod network;
mod reconcile;
mod resource;
#[cfg(any(test, feature = "sim"))]
pub mod samples;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod trace;

pub use difference::{Difference, DifferenceKind};
pub use error::{DataplaneError, ErrorKind, OpError};
pub use files::{DesiredFile, DesiredFiles, FileOp, Files, NoFindings, ObservedFile, Writing};
pub use firewall::{
    Attachment, BaseChain, Call, CallChange, ChainChange, ChainKind, ChainName, ChainPolicy, ChainTable,
    ChainTableKind, Creation, DesiredChain, DesiredFirewall, DesiredTable, Element, EmptyTables, Firewall, FirewallOp,
    FlannelRules, Flowtable, Hook, InternalBridge, InternalBridges, ObservedBaseChain, ObservedCall, ObservedChain,
    ObservedFirewall, ObservedRule, ObservedTable, OperatorDrop, OtherFirewalls, OtherRules, OurTable, Place, Position,
    Purpose, Rule, SegmentPurpose, Set, SetChange, SetKind, Table, TableFamily, TableName, names,
};
pub use merge::{Clash, Share};
pub use network::{
    ALIAS, Address, Bridge, BridgeFdbKey, Capabilities, Conflict, ContainerLink, DesiredForm, DesiredKind, DesiredLink,
    DesiredNet, DesiredVxlan, Detours, FdbKey, FdbTarget, Findings, FloodEntry, FloodPath, ForeignRoutes, Forward,
    ForwardKey, Framing, Ipip, KernelKind, KernelOp, Key, LeadsToLink, LinkId, LinkPlace, LinkRef, Macvlan,
    MacvlanMode, Marks, Namespace, Need, NeighbourKey, NetState, Network, NetworkPart, NextHop, ObservedKind,
    ObservedLink, ObservedNet, ObservedRoute, ObservedVxlan, Op, Owner, PROTOCOL, PerNamespace, PortFlag, PortFlags,
    ReceiveFlag, RouteKey, Scope, Setting, StaleRoute, Tunnel, TunnelOp, Underlay, VXLAN_LEAD, Veth, Via, Vlan,
    bypassing, plan, plan_of, retain, takes_packets, vxlan_header,
};
pub use reconcile::{Comparison, Failure, Reconciler, Report};
pub use resource::{Attempt, Before, Driver, Operation, Order, Plan, Reread, Resource};
pub use trace::{
    Delivery, DirectNetwork, Encapsulated, Entry, Gap, Hop, HostRoute, HostState, Journey, Leg, Outcome, Packet,
    PolicyRule, Reason, ReversePath, RuleAction, Sending, Site, Surroundings, Trace, VxlanHeader, trace, trace_across,
};

//! The resource `Network`: the part of a host's network state that the agent reads and changes.
//!
//! Observed and desired state have the same tables; only links and routes have a type for each. The keys are those by which the kernel
//! itself finds an entry, so two entries that the kernel cannot hold together cannot be held here either.

mod apart;
mod apply;
mod as_desired;
mod bypass;
mod conflict;
mod container_link;
mod detour;
mod difference;
mod link;
mod merge;
mod namespace;
mod on_link;
mod op;
mod order;
mod part;
pub(crate) mod plan;
mod route;
mod scope;
mod setting;
mod stale;
mod tables;
mod tunnel;
mod underlay;

pub(crate) use self::route::innermost;
pub use self::{
    bypass::{bypassing, takes_packets},
    conflict::{Conflict, Need},
    container_link::ContainerLink,
    detour::Detours,
    link::{
        Bridge, DesiredKind, DesiredLink, DesiredVxlan, Ipip, KernelKind, LinkId, LinkPlace, LinkRef, Macvlan,
        MacvlanMode, ObservedKind, ObservedLink, ObservedVxlan, PortFlag, PortFlags, ReceiveFlag, Veth, Vlan,
    },
    namespace::{Namespace, PerNamespace},
    op::{KernelOp, Op, TunnelOp},
    part::NetworkPart,
    plan::{Findings, ForeignRoutes, Key, Network, plan, plan_of},
    route::{DesiredForm, NextHop, ObservedRoute, PROTOCOL, RouteKey, Via},
    scope::{ALIAS, Marks, Scope},
    setting::Setting,
    stale::StaleRoute,
    tables::{
        Address, BridgeFdbKey, DesiredNet, FdbKey, FdbTarget, FloodEntry, FloodPath, Forward, ForwardKey, LeadsToLink,
        NeighbourKey, NetState, ObservedNet, Owner, retain,
    },
    tunnel::{Capabilities, Framing, Tunnel, VXLAN_LEAD, vxlan_header},
    underlay::Underlay,
};

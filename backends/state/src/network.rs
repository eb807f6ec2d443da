//! The state of the kernel's network as far as it concerns us.
//!
//! What was read and what is desired have the same tables, with links and routes of two types. Keys are the kernel's own index, so
//! that two entries the kernel cannot hold together cannot be held here.

mod conflict;
mod container_link;
mod detour;
mod link;
mod namespace;
mod op;
mod order;
pub(crate) mod plan;
mod route;
mod scope;
mod setting;
mod tables;
mod tunnel;
mod underlay;

pub use self::{
    conflict::{Conflict, Need},
    container_link::ContainerLink,
    detour::Detours,
    link::{
        DesiredKind, DesiredLink, DesiredVxlan, Extra, Ipip, KernelKind, LinkId, LinkPlace, LinkRef, Macvlan,
        MacvlanMode, ObservedKind, ObservedLink, ObservedVxlan, Veth, Vlan,
    },
    namespace::{Namespace, PerNamespace},
    op::{KernelOp, Op, TunnelOp},
    plan::{Findings, Key, Network, plan, plan_of},
    route::{NextHop, ObservedRoute, PROTOCOL, RouteKey, Via},
    scope::{ALIAS, Marks, Scope},
    setting::Setting,
    tables::{
        Address, DesiredNet, FdbKey, FloodEntry, Forward, ForwardKey, NeighbourKey, NetState, ObservedNet, Owner,
    },
    tunnel::{Capabilities, Framing, Tunnel, VXLAN_LEAD, vxlan_header},
    underlay::Underlay,
};

//! Says which way a packet takes, from what kernels hold: over one host, or over several. Pure.
//!
//! Flow on one host: a packet comes in (`walk`: our filter, the check of its source), its route is looked up (`routes`), and it is delivered
//! (`arrival`: taken out of its outer packet, if it has one) or leaves (`leaving`: neighbour, FDB, outer packet). Over several: `site`.
//! In a network over several hosts it goes over a bridge (`bridge`, `segment`), judged by rules of its own (`segment_filter`).
//!
//! What decides and is not looked at is named in the trace ([`Gap`], [`Trace::not_looked_at`]).

mod arrival;
mod bridge;
mod device;
mod filter;
mod host;
mod leaving;
mod outcome;
mod packet;
mod routes;
mod segment;
mod segment_filter;
mod site;
#[cfg(test)]
mod tests;
mod walk;

use wire_net::LinkName;

pub use self::{
    host::{DirectNetwork, HostRoute, HostState, PolicyRule, ReversePath, RuleAction, Surroundings},
    outcome::{Delivery, Gap, Hop, Outcome, Reason, Sending},
    packet::{Encapsulated, Packet, VxlanHeader},
    site::{Journey, Leg, Site, trace_across},
};

/// The place where a packet begins its way on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A program of this host sends it.
    Here,
    /// It comes in by this link. At a port of the bridge of a network over several hosts, who is behind it sends it.
    Link(LinkName),
    /// It comes out of this overlay device, from an outer packet that was let in.
    Decapsulated(LinkName),
}

/// The way of a packet on one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Its steps.
    pub hops: Vec<Hop>,
    /// Its fate.
    pub outcome: Outcome,
    /// What may decide about this packet and was not looked at.
    pub not_looked_at: Vec<String>,
}

/// Follows a packet on one host.
#[must_use]
pub fn trace(host: &HostState<'_>, packet: &Packet, from: Entry) -> Trace {
    walk::Walk::new(host).follow(packet, from)
}

//! The packet filter: accepts forwarding for the overlay, keeps source addresses within it and masquerades what leaves
//! it, and accepts encapsulated packets from peers only.
//!
//! Flow: [`SupportProbe`] knows what this host can hold; [`FirewallPolicy::desired`] computes the rules;
//! [`FirewallDataplane`] reads those of the kernel, and applies the difference that
//! [`plan`](wire_state::Resource::plan) finds. Our rules are in an nftables table and in iptables chains of our own; in
//! what others have made, only calls of our chains are changed. Only `netfilter`, `monitor` and `program` touch the
//! kernel; everything else takes values and returns values.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod address_range;
mod behind;
mod bridges;
mod chains;
mod common_rule;
mod dataplane;
mod decode;
mod direct;
mod encode;
mod facts;
mod family_rules;
mod flowtable;
mod from_peers;
mod iptables;
mod monitor;
mod nat;
mod netfilter;
mod nft;
mod nfta;
mod overlay_device;
mod overruled;
mod peer_sets;
mod policy;
mod program;
mod render;
mod rule;
mod segment_filter;
mod segments;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
mod support;
mod tracking;

pub use bridges::{BridgeTable, ContainerPort, Overlays};
pub use dataplane::{Counted, FirewallDataplane, ForeignRules, SegmentsCounted};
pub use facts::{DockerRules, HostFacts, TrackingReason};
pub use from_peers::FirewallFromPeers;
pub use monitor::FirewallMonitor;
pub use overlay_device::{Carrier, OverlayDevice};
pub use policy::{ACCEPT_MARK, FirewallPolicy, Masquerade, Peer, Senders};
pub use segment_filter::{SegmentFilter, SegmentMember, SegmentShare};
pub use support::{Learned, Nftables, Support, SupportProbe};

#[cfg(test)]
mod contract;
#[cfg(test)]
mod lab;
#[cfg(test)]
pub(crate) mod tests;

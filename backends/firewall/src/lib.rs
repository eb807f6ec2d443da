//! The packet filter: forwarding accepted, addresses kept within the overlay and masqueraded beyond it, and encapsulated
//! packets taken from peers alone.
//!
//! Flow: [`FirewallPolicy::desired`] says what there should be; [`FirewallDataplane`] reads what there is, and carries
//! out what [`plan`](wire_state::Resource::plan) finds different. Our own table of nftables and chains of our own in
//! iptables: of what others have made nothing is changed but a rule that leads to ours. Only `netfilter` and `program` touch
//! the kernel; everything else takes values and returns values.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may panic"))]

mod chains;
mod dataplane;
mod decode;
mod encode;
mod family_rules;
mod flowtable;
mod iptables;
mod monitor;
mod netfilter;
mod nft;
mod overlay;
mod overruled;
mod policy;
mod program;
mod rule;
mod tracking;

pub use dataplane::{Counted, FirewallDataplane, Others};
pub use monitor::FirewallMonitor;
pub use policy::{
    ACCEPT_MARK, DockerRules, FirewallPolicy, HostFacts, Masquerade, Nftables, OverlayDevice, Peer, Senders,
};

#[cfg(test)]
mod lab;
#[cfg(test)]
pub(crate) mod tests;

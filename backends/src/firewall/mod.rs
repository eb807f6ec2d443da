//! The packet filter: forwarding accepted, addresses kept within the overlay and masqueraded beyond it, and encapsulated
//! packets taken from peers alone.
//!
//! Flow: [`FirewallPolicy::desired`] says what there should be, as a part of [`crate::NetState`]; [`FirewallDataplane`] reads
//! what there is, and carries out what [`crate::plan()`] finds different. Our own table of nftables and chains of our own in
//! iptables: of what others have made nothing is changed but a rule that leads to ours. Only `netfilter` and `program` touch
//! the kernel; everything else takes values and returns values.

mod dataplane;
mod diff;
mod iptables;
mod netfilter;
mod nft;
mod policy;
mod program;
mod state;

pub use dataplane::{Counted, FirewallDataplane, Others};
pub(crate) use diff::changes;
pub use netfilter::FirewallMonitor;
pub use policy::{ACCEPT_MARK, DockerRules, FirewallPolicy, Masquerade, OverlayDevice, Senders, Surroundings};
pub use state::{
    BaseChain, Call, Chain, ChainChange, ChainName, ChainTable, ChainTableKind, Element, Firewall, FirewallOp, Hook,
    Place, Rule, Set, SetKind, Table, TableName,
};

#[cfg(test)]
mod lab;
#[cfg(test)]
pub(crate) mod tests;

//! The resource `Firewall`: the packet filter as far as it concerns us, as it should be and as it was read.

mod difference;
mod iptables;
mod merge;
pub mod names;
mod nftables;
mod op;
mod others;
mod plan;
mod purpose;

use std::collections::{BTreeMap, BTreeSet};

use wire_net::Family;

pub use iptables::{
    Call, ChainName, ChainTable, ChainTableKind, Creation, DesiredChain, InternalBridge, InternalBridges, ObservedCall,
    ObservedChain, Place, Position,
};
pub use names::{OurTable, TableFamily, TableName};
pub use nftables::{
    Attachment, BaseChain, ChainKind, ChainPolicy, DesiredTable, Element, Flowtable, Hook, ObservedBaseChain,
    ObservedRule, ObservedTable, Rule, Set, SetKind, Table,
};
pub use op::{CallChange, ChainChange, FirewallOp, SetChange};
pub use others::{OperatorDrop, OtherFirewalls, OtherRules};
pub use plan::Firewall;
pub use purpose::{Purpose, SegmentPurpose};

/// The rules that the packet filter should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredFirewall {
    /// Our table of nftables, if there should be one.
    pub table: Option<DesiredTable>,
    /// Our table of nftables for frames that bridges forward, if there should be one.
    pub bridge: Option<DesiredTable>,
    /// Our chains of iptables.
    pub chains: BTreeMap<ChainName, DesiredChain>,
    /// The treatment of flanneld's rules.
    pub flannel: FlannelRules,
    /// The treatment of tables that are empty once our chains are deleted.
    pub empty_tables: EmptyTables,
}

/// The treatment of rules that flanneld has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlannelRules {
    /// They are deleted.
    #[default]
    Delete,
    /// They stay: flanneld may use them again.
    Keep,
}

/// The treatment of a table of iptables-nft that is empty once our chains in it are deleted. iptables-nft creates a table with its first
/// chain, and never deletes one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EmptyTables {
    /// It stays: it is used again with the next chain.
    #[default]
    Keep,
    /// It is deleted.
    Delete,
}

/// The rules that the packet filter holds, as far as they concern us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedFirewall {
    /// Our table of nftables.
    pub table: Option<ObservedTable>,
    /// Our table of nftables for frames that bridges forward.
    pub bridge: Option<ObservedTable>,
    /// The families in which flanneld has left a table of nftables.
    pub flannel_tables: BTreeSet<Family>,
    /// Chains of iptables: ours, and those of a former flanneld.
    pub chains: BTreeMap<ChainName, ObservedChain>,
    /// Chains of ours in the variant of iptables that is not in use. They are left there when the host, or Docker, is switched between
    /// iptables-nft and iptables-legacy.
    pub abandoned: BTreeMap<ChainName, ObservedChain>,
    /// Chains of others that may call ours, besides the built-in ones.
    pub callers: BTreeSet<ChainName>,
    /// Bridges that Docker isolates (`docker network create --internal`).
    pub internal_bridges: BTreeSet<InternalBridge>,
    /// Tables of iptables in which others have rules, or a policy that drops.
    pub used: BTreeSet<ChainTable>,
    /// Rules of others that may decide about the same packets.
    pub others: OtherRules,
}

impl DesiredFirewall {
    /// Our tables of nftables that should be there.
    pub fn tables(&self) -> impl Iterator<Item = &DesiredTable> {
        self.table.iter().chain(&self.bridge)
    }

    fn table_named(&self, name: &OurTable) -> Option<&DesiredTable> {
        self.tables().find(|table| table.name == *name)
    }
}

impl ObservedFirewall {
    /// Our tables of nftables that are there.
    pub fn tables(&self) -> impl Iterator<Item = &ObservedTable> {
        self.table.iter().chain(&self.bridge)
    }

    pub(crate) fn table_named(&self, name: &OurTable) -> Option<&ObservedTable> {
        self.tables().find(|table| table.name == *name)
    }
}

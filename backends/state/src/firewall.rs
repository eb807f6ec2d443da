//! The packet filter as far as it concerns us, wanted or read, in the same form.

mod op;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use wire_net::{Family, LinkName, Prefix};

/// Chains of ours begin so, and nobody else's.
pub const OURS: &str = "WIRE-";

pub use op::{ChainChange, FirewallOp, SetChange};
pub use plan::Firewall;

/// The packet filter as far as it concerns us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FirewallState {
    /// Tables of nftables: ours, and those of a former flanneld.
    pub tables: BTreeMap<TableName, Table>,
    /// Chains of iptables: ours, and those of a former flanneld.
    pub chains: BTreeMap<ChainName, Chain>,
    /// Chains of others that ours may be called from, as far as they are there. Not part of what is wanted.
    pub callers: BTreeSet<ChainName>,
    /// Bridges that Docker keeps to themselves (`docker network create --internal`), by their names as iptables-save writes them.
    /// Not part of what is wanted.
    pub internal: BTreeSet<(Family, String)>,
    /// Tables of iptables in which others have rules, or drop by a policy. Not part of what is wanted.
    pub used: BTreeSet<ChainTable>,
}

/// The name of a table of nftables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableName {
    /// Ours, of both families: `inet wire-agent`.
    Ours,
    /// What flanneld makes of `EnableNFTables`: `ip flannel-ipv4`, `ip6 flannel-ipv6`.
    Flannel(Family),
}

/// A table of nftables. Of flannel's only the name matters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// `NFT_TABLE_F_*` of linux/netfilter/nf_tables.h. Ours has none: one that is dormant holds its rules and does nothing.
    pub flags: u32,
    /// Base chains by name.
    pub chains: BTreeMap<String, BaseChain>,
    /// Sets by name.
    pub sets: BTreeMap<String, Set>,
    /// Named counters.
    pub counters: BTreeSet<String>,
    /// Flowtables by name.
    pub flowtables: BTreeMap<String, Flowtable>,
}

/// A chain that the kernel itself calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// `filter` or `nat`.
    pub kind: String,
    /// Where packets are taken.
    pub hook: Hook,
    /// When, among the chains there.
    pub priority: i32,
    /// Where that is [`Hook::Ingress`], of which link.
    pub device: Option<LinkName>,
    /// Its rules.
    pub rules: Vec<Rule>,
}

/// Where packets are taken (linux/netfilter.h, `enum nf_inet_hooks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// As they come in.
    Prerouting,
    /// On their way to this host.
    Input,
    /// On their way through this host.
    Forward,
    /// On their way from this host.
    Output,
    /// As they go out.
    Postrouting,
    /// As one link takes them, before all others.
    Ingress,
}

/// Flows that the kernel takes from link to link as they come in, before any chain of `prerouting` sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flowtable {
    /// `NFT_FLOWTABLE_*` of linux/netfilter/nf_tables.h. Ours has none.
    pub flags: u32,
    /// When, among the chains at [`Hook::Ingress`] of its links.
    pub priority: i32,
    /// The links whose packets are looked for in it. The kernel takes out one that goes.
    pub devices: BTreeSet<LinkName>,
}

/// A rule of nftables. The kernel holds no text: what is compared is the mark, a comment with a checksum of the text.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it is for and the checksum of its text.
    pub mark: String,
    /// As nft reads it; empty where it was read from the kernel.
    pub text: String,
}

/// A set of nftables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// What it holds.
    pub kind: SetKind,
    /// What is in it. Of what packets fill by themselves nothing is kept.
    pub elements: BTreeSet<Element>,
}

/// What a set of nftables holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Addresses.
    Addresses(Family),
    /// Names of links.
    Links,
    /// Public addresses, each with the inner sources that may come from it.
    Leases(Family),
    /// The same of subnets of one length, in bits, each pair a key that is found by its hash.
    Subnets(Family, u8),
    /// Addresses that packets put there, for an hour each.
    Seen(Family),
    /// The same, each with an inner source that came from it.
    Claims(Family),
}

/// An element of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// An address.
    Address(IpAddr),
    /// The name of a link.
    Link(LinkName),
    /// A public address and a subnet that is leased to it, as a range of inner sources.
    Lease(IpAddr, Prefix),
    /// The same as a key by itself.
    Subnet(IpAddr, Prefix),
}

/// A table of iptables or ip6tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainTable {
    /// Which of the two.
    pub family: Family,
    /// The table.
    pub kind: ChainTableKind,
}

/// The tables of iptables that matter to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainTableKind {
    /// Before connections are tracked.
    Raw,
    /// Where packets are let through.
    Filter,
    /// Where addresses are changed.
    Nat,
}

impl ChainTableKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Filter, Self::Nat];
}

/// A chain of iptables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainName {
    /// Its table.
    pub table: ChainTable,
    /// Its name.
    pub name: String,
}

/// A chain of iptables, with the rules of other chains that lead to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// Its rules, as iptables-save writes them after `-A CHAIN `.
    pub rules: Vec<String>,
    /// Of a wanted chain, whether it leaves internal bridges to Docker: its rules then come behind some that say so.
    pub spares_internal: bool,
    /// Of a wanted chain, whether it is put only where others use its table. It stays once it is there.
    pub answers_others: bool,
    /// By chain, the rules that call this one. Of a wanted chain only those count whose chain is there.
    pub calls: BTreeMap<String, Call>,
}

/// The rules of one chain that call another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Where the first of them stands.
    pub place: Place,
    /// As iptables-save writes them after `-A CHAIN `.
    pub rules: Vec<String>,
}

/// Where a rule stands in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before all others.
    First,
    /// Behind others; where it is wanted, anywhere.
    Behind,
}

impl FirewallState {
    /// What is left when all that is ours goes.
    #[must_use]
    pub fn without_ours(mut self) -> Self {
        self.tables.retain(|name, _| *name != TableName::Ours);
        self.chains.retain(|name, _| !name.name.starts_with(OURS));
        self
    }
}

impl Rule {
    /// A rule with its mark. `what` says in a few words what it is for.
    #[must_use]
    pub fn new(what: &str, text: String) -> Self {
        Self { mark: format!("{what} {:016x}", checksum(&text)), text }
    }
}

/// FNV-1a: the same in each version of this program, so that an upgrade changes no rule that is right.
fn checksum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.mark == other.mark
    }
}

impl Eq for Rule {}

impl Table {
    /// Whether only what is in its sets may differ.
    #[must_use]
    pub fn is_built_as(&self, other: &Self) -> bool {
        let kinds = |table: &Self| -> Vec<(String, SetKind)> {
            table.sets.iter().map(|(name, set)| (name.clone(), set.kind)).collect()
        };
        self.flags == other.flags
            && self.chains == other.chains
            && self.counters == other.counters
            && self.flowtables == other.flowtables
            && kinds(self) == kinds(other)
    }
}

impl Call {
    /// Whether a call that was found does what is wanted.
    #[must_use]
    pub fn serves_as(&self, want: &Self) -> bool {
        let place = match want.place {
            Place::First => self.place == Place::First,
            Place::Behind => true,
        };
        place && self.rules == want.rules
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "inet wire-agent",
            Self::Flannel(Family::V4) => "ip flannel-ipv4",
            Self::Flannel(Family::V6) => "ip6 flannel-ipv6",
        })
    }
}

impl fmt::Display for ChainTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let program = match self.family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        write!(f, "{program} {}", self.kind)
    }
}

impl fmt::Display for ChainTableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Filter => "filter",
            Self::Nat => "nat",
        })
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Ingress => "ingress",
        })
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Link(link) => link.fmt(f),
            Self::Lease(public, subnet) | Self::Subnet(public, subnet) => write!(f, "{subnet} of {public}"),
        }
    }
}

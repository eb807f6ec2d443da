//! A table of nftables, desired or as read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use imbl::OrdSet;
use wire_net::{Family, LinkName, MacAddr, Prefix, Vni};

use super::names::OurTable;

/// A table of ours. `C` is a base chain, which differs between a table that is desired and one that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table<C> {
    /// Its name.
    pub name: OurTable,
    /// `NFT_TABLE_F_*` of linux/netfilter/nf_tables.h. Ours has none: a dormant table holds its rules and does nothing.
    pub flags: u32,
    /// Base chains by name.
    pub chains: BTreeMap<String, C>,
    /// Sets by name.
    pub sets: BTreeMap<String, Set>,
    /// Named counters.
    pub counters: BTreeSet<String>,
    /// Flowtables by name.
    pub flowtables: BTreeMap<String, Flowtable>,
}

/// Our table as it should be.
pub type DesiredTable = Table<BaseChain>;

/// Our table as it was read.
pub type ObservedTable = Table<ObservedBaseChain>;

/// A chain that accepts packets which no rule matches, or that goes on with the chain that has called it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    /// Its place in the kernel; `None` if only other chains call it.
    pub attachment: Option<Attachment>,
    /// Its rules.
    pub rules: Vec<Rule>,
    /// True if they come before those that other contributions want in a chain of this name. False once all are merged.
    pub leads: bool,
}

/// A chain of our table as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedBaseChain {
    /// Its place in the kernel; `None` if the kernel does not call it, or at a place that we never use.
    pub attachment: Option<Attachment>,
    /// The fate of packets that no rule matches.
    pub policy: ChainPolicy,
    /// Its rules.
    pub rules: Vec<ObservedRule>,
}

/// The place of a chain in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its type.
    pub kind: ChainKind,
    /// Its hook.
    pub hook: Hook,
    /// Its priority among the chains of that hook; the lowest comes first.
    pub priority: i32,
    /// The link of [`Hook::Ingress`]. The other hooks take packets of all links.
    pub device: Option<LinkName>,
}

/// The type of a base chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChainKind {
    /// `filter`: sees each packet.
    Filter,
    /// `nat`: sees the first packet of each connection.
    Nat,
}

/// The fate of packets that no rule of a chain matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChainPolicy {
    /// `accept`
    #[default]
    Accept,
    /// `drop`
    Drop,
}

/// A hook of the kernel, at which chains take packets (linux/netfilter.h, `enum nf_inet_hooks`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Packets that come in.
    Prerouting,
    /// Packets to this host.
    Input,
    /// Packets that this host forwards.
    Forward,
    /// Packets from this host.
    Output,
    /// Packets that go out.
    Postrouting,
    /// Packets that one link receives, before all other hooks.
    Ingress,
}

/// Flows that the kernel forwards from link to link as they come in, before any chain of `prerouting` sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flowtable {
    /// `NFT_FLOWTABLE_*` of linux/netfilter/nf_tables.h. Ours has none.
    pub flags: u32,
    /// Its priority among the chains at [`Hook::Ingress`] of its links.
    pub priority: i32,
    /// The links whose packets are looked up in it. The kernel removes a link that is deleted.
    pub devices: BTreeSet<LinkName>,
}

/// A rule of nftables. The kernel holds no text, so rules are compared by their mark: a comment with a checksum of the
/// text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its purpose and the checksum of its text.
    pub mark: String,
    /// Its text in nft's language.
    pub text: String,
}

/// A rule of our table as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedRule {
    /// A rule with this mark.
    Marked(String),
    /// A rule with a mark of ours, and with other expressions than that rule has.
    Altered,
    /// A rule without a mark, put there by somebody else.
    Unmarked,
}

/// A set of nftables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// The kind of its elements.
    pub kind: SetKind,
    /// Its elements. Those of sets that packets fill are left out. Copies share what is equal in them.
    pub elements: OrdSet<Element>,
}

/// The kind of the elements of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Addresses.
    Addresses(Family),
    /// Names of links.
    Links,
    /// Public addresses, each with the inner sources that may come from it.
    Leases(Family),
    /// The same for subnets of one length, in bits: each pair is a key that is found by its hash.
    Subnets(Family, u8),
    /// The subnets whose containers may send without encapsulation, by their leading bits: keys of this length that are found by their
    /// hash.
    Sources(Family, u8),
    /// Ports of bridges, each with a MAC and an address that may send there.
    Senders(Family),
    /// Networks of VXLAN.
    Vnis,
    /// UDP ports.
    Ports,
    /// Public addresses, each with a network of VXLAN that it is a member of.
    Vteps(Family),
    /// Public addresses of the first family, each with the networks of VXLAN, and the leading bits of MACs and of sources of the second family that
    /// may come from it: of sources that many, of MACs as many as leave the same number free. Keys that are found by their hash.
    Behind(Family, Family, u8),
    /// Ports of bridges, each with the leading bits of MACs, and of the addresses that they may advertise there: of these that many.
    Advertised(u8),
    /// Links between which packets stay as they are: each with itself.
    Within,
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
    /// The same as a single key.
    Subnet(IpAddr, Prefix),
    /// A subnet by itself.
    Source(Prefix),
    /// A port of a bridge, and a MAC with an address that may send there.
    Sender(LinkName, MacAddr, IpAddr),
    /// A network of VXLAN.
    Vni(Vni),
    /// A UDP port.
    Port(u16),
    /// A host, and a network of VXLAN that it is a member of.
    Vtep(IpAddr, Vni),
    /// A host, a network of VXLAN that it is a member of, and the block of addresses that it has there, with the first MAC of it.
    Behind(IpAddr, Vni, MacAddr, Prefix),
    /// A link, as the one that packets come by and leave by.
    Within(LinkName),
}

impl<C> Default for Table<C> {
    fn default() -> Self {
        Self {
            name: OurTable::default(),
            flags: 0,
            chains: BTreeMap::new(),
            sets: BTreeMap::new(),
            counters: BTreeSet::new(),
            flowtables: BTreeMap::new(),
        }
    }
}

impl ObservedTable {
    /// True if nothing but the elements of sets may differ from `desired`.
    #[must_use]
    pub fn is_built_as(&self, desired: &DesiredTable) -> bool {
        self.name == desired.name
            && self.flags == desired.flags
            && self.chains.len() == desired.chains.len()
            && self.chains.iter().zip(&desired.chains).all(|(observed, desired)| are_same(observed, desired))
            && self.counters == desired.counters
            && self.flowtables == desired.flowtables
            && self.set_kinds().eq(desired.set_kinds())
    }

    /// True if it is the table that is desired.
    #[must_use]
    pub fn equals(&self, desired: &DesiredTable) -> bool {
        self.is_built_as(desired) && self.sets == desired.sets
    }
}

fn are_same(observed: (&String, &ObservedBaseChain), desired: (&String, &BaseChain)) -> bool {
    observed.0 == desired.0 && observed.1.equals(desired.1)
}

impl DesiredTable {
    /// True if nothing but the elements of sets differs from `other`.
    pub(crate) fn is_built_like(&self, other: &Self) -> bool {
        // Each part by name: a new one must be thought of here.
        let Self { name, flags, chains, sets: _, counters, flowtables } = self;
        *name == other.name
            && *flags == other.flags
            && *chains == other.chains
            && *counters == other.counters
            && *flowtables == other.flowtables
            && self.set_kinds().eq(other.set_kinds())
    }
}

impl<C> Table<C> {
    fn set_kinds(&self) -> impl Iterator<Item = (&String, SetKind)> {
        self.sets.iter().map(|(name, set)| (name, set.kind))
    }
}

impl ObservedBaseChain {
    fn equals(&self, desired: &BaseChain) -> bool {
        let rules = self.rules.iter().zip(&desired.rules);
        self.attachment == desired.attachment
            && self.policy == ChainPolicy::Accept
            && self.rules.len() == desired.rules.len()
            && rules.into_iter().all(|(observed, desired)| observed.is(desired))
    }
}

impl ObservedRule {
    /// True if it is the rule that is desired.
    pub(crate) fn is(&self, desired: &Rule) -> bool {
        match self {
            Self::Marked(mark) => *mark == desired.mark,
            Self::Altered | Self::Unmarked => false,
        }
    }
}

/// The table that is read once it was written.
impl From<&DesiredTable> for ObservedTable {
    fn from(desired: &DesiredTable) -> Self {
        Self {
            name: desired.name.clone(),
            flags: desired.flags,
            chains: desired.chains.iter().map(|(name, chain)| (name.clone(), chain.into())).collect(),
            sets: desired.sets.clone(),
            counters: desired.counters.clone(),
            flowtables: desired.flowtables.clone(),
        }
    }
}

impl From<&BaseChain> for ObservedBaseChain {
    fn from(desired: &BaseChain) -> Self {
        let rules = desired.rules.iter().map(|rule| ObservedRule::Marked(rule.mark.clone())).collect();
        Self { attachment: desired.attachment, policy: ChainPolicy::Accept, rules }
    }
}

impl Attachment {
    /// The place of a chain of the type `filter`, for packets of all links.
    #[must_use]
    pub const fn filter(hook: Hook, priority: i32) -> Self {
        Self { kind: ChainKind::Filter, hook, priority, device: None }
    }

    /// The place of a chain of the type `nat`.
    #[must_use]
    pub const fn nat(hook: Hook, priority: i32) -> Self {
        Self { kind: ChainKind::Nat, hook, priority, device: None }
    }

    /// The place of a chain for packets that one link receives.
    #[must_use]
    pub const fn ingress(device: LinkName, priority: i32) -> Self {
        Self { kind: ChainKind::Filter, hook: Hook::Ingress, priority, device: Some(device) }
    }
}

impl Rule {
    /// Creates a rule with its mark. `purpose` is a few words.
    #[must_use]
    pub fn new(purpose: &str, text: String) -> Self {
        Self { mark: format!("{purpose} {:016x}", checksum(&text)), text }
    }
}

/// FNV-1a: the same in each version of this program, so that an upgrade changes no rule that is right.
pub(super) fn checksum(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl fmt::Display for ChainKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
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
            Self::Source(subnet) => subnet.fmt(f),
            Self::Sender(port, mac, address) => write!(f, "{address} of {mac} at {port}"),
            Self::Port(port) => write!(f, "UDP port {port}"),
            Self::Vni(vni) => write!(f, "VNI {vni}"),
            Self::Vtep(host, vni) => write!(f, "{host} of VNI {vni}"),
            Self::Behind(host, vni, mac, block) => write!(f, "{block} from {mac} of {host} in VNI {vni}"),
            Self::Within(link) => write!(f, "within {link}"),
        }
    }
}

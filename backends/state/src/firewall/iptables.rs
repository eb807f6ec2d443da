//! Chains of iptables, desired or as read.

use std::{collections::BTreeMap, fmt};

use wire_net::Family;

use super::names;

/// A table of iptables or ip6tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainTable {
    /// IPv4 for iptables, IPv6 for ip6tables.
    pub family: Family,
    /// The table.
    pub kind: ChainTableKind,
}

/// The tables of iptables that we use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChainTableKind {
    /// Before connections are tracked.
    Raw,
    /// Accepts and drops packets.
    Filter,
    /// Changes addresses.
    Nat,
}

impl ChainTableKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Filter, Self::Nat];
}

/// The name of a chain of iptables.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChainName {
    /// Its table.
    pub table: ChainTable,
    /// Its name within the table.
    pub name: String,
}

/// A chain of ours as it should be, and the rules that call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredChain {
    /// Its rules, as iptables-save writes them after `-A CHAIN `.
    pub rules: Vec<String>,
    /// Its treatment of packets from and to internal bridges.
    pub internal_bridges: InternalBridges,
    /// The condition for its creation.
    pub creation: Creation,
    /// The calls of this chain by other chains, by their names. Chains that are not there are not created.
    pub calls: BTreeMap<String, Call>,
}

/// The treatment of packets from and to bridges that Docker isolates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InternalBridges {
    /// Rules in front of all others return them to the caller: Docker decides.
    Return,
    /// They are treated as any others.
    Ignore,
}

/// The condition for the creation of a chain. One that exists is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Creation {
    /// It is created at once.
    Always,
    /// It is created once others use its table ([`super::ObservedFirewall::used`]).
    WhenTableIsUsed,
}

/// A call of a chain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Its place in the calling chain.
    pub place: Place,
    /// The rule, as iptables-save writes it after `-A CHAIN `.
    pub rule: String,
}

/// The place that a rule should have in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Before all others.
    First,
    /// Anywhere; behind all others when it is added.
    Anywhere,
}

/// A chain of ours or of flanneld's as it was read, and the rules that call it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedChain {
    /// Its rules, as iptables-save writes them after `-A CHAIN `.
    pub rules: Vec<String>,
    /// The calls of this chain by other chains, by their names.
    pub calls: BTreeMap<String, ObservedCall>,
}

/// The rules of one chain that call another, as they were read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedCall {
    /// The position of the first of them.
    pub position: Position,
    /// As iptables-save writes them after `-A CHAIN `.
    pub rules: Vec<String>,
}

/// The position of a rule in its chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// Before all others.
    First,
    /// Behind at least one other.
    Behind,
}

/// A bridge that Docker isolates.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InternalBridge {
    /// The family in which it is isolated.
    pub family: Family,
    /// Its name as iptables-save writes it.
    pub name: String,
}

impl ObservedCall {
    /// True if it is the call that is desired.
    #[must_use]
    pub fn serves_as(&self, desired: &Call) -> bool {
        let is_in_place = match desired.place {
            Place::First => self.position == Position::First,
            Place::Anywhere => true,
        };
        is_in_place && self.rules == [desired.rule.as_str()]
    }
}

/// The call that is read once it was written.
impl From<&Call> for ObservedCall {
    fn from(desired: &Call) -> Self {
        let position = match desired.place {
            Place::First => Position::First,
            Place::Anywhere => Position::Behind,
        };
        Self { position, rules: vec![desired.rule.clone()] }
    }
}

impl ChainName {
    /// True if the chain is one of ours, of any network; otherwise it is flanneld's or somebody else's.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        names::is_a_chain(&self.name)
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

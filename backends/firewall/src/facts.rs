//! The facts of this host that the rules depend on. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use wire_net::{Family, LinkName, Prefix};
use wire_state::ContainerLink;

use super::{
    nft::is_plain,
    support::{Nftables, Support},
};

/// The facts of this host that the rules depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The links with containers of our subnet.
    pub bridges: BTreeSet<LinkName>,
    /// These and all other bridges. No rule depends on them.
    pub links: Vec<ContainerLink>,
    /// The form in which Docker keeps its rules.
    pub docker: DockerRules,
    /// The parts of our table that nftables and the kernel support.
    pub support: Support,
    /// The families whose encapsulated packets must stay tracked for rules of others.
    pub tracked: BTreeMap<Family, TrackingReason>,
    /// The families in which rules of others may drop what ours let in.
    pub doubted: BTreeSet<Family>,
    /// The links that exist, as far as a flowtable may be hooked to them.
    pub hookable: BTreeSet<LinkName>,
    /// The ranges of the other flat networks of this host. Only rules of a network with a name depend on them.
    pub others: BTreeSet<Prefix>,
    /// The UDP ports at which flat networks here take encapsulated packets. Only rules of networks by name depend on them.
    pub flat_ports: BTreeSet<u16>,
}

impl HostFacts {
    /// The links with an address in one of these subnets, whatever their names.
    #[must_use]
    pub fn bridges_among(links: &[ContainerLink], subnets: &[Prefix]) -> BTreeSet<LinkName> {
        links.iter().filter(|link| link.holds(subnets)).map(|link| link.name).collect()
    }

    /// True if nftables and the kernel can compare inner sources.
    pub(crate) fn checks_sources(&self) -> bool {
        self.support.nftables == Nftables::Whole
    }

    /// The bridges whose names nft would not take literally.
    pub fn unnamed_bridges(&self) -> impl Iterator<Item = &LinkName> {
        self.bridges.iter().filter(|link| !is_plain(link))
    }
}

/// The reason why encapsulated packets stay tracked as they come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackingReason {
    /// Packets of anyone are let in, by rules that track them.
    AnyoneMaySend,
    /// nftables cannot compare inner sources.
    SourcesNotCompared,
    /// Subnets are no whole bytes, so no hash finds them.
    UnusualSubnetLen,
    /// A rule of this chain matches the state of connections, or changes what is tracked.
    Rule {
        /// Its family, table and name.
        chain: String,
    },
    /// The rules of others could not be read.
    Unreadable,
    /// iptables-legacy is or may be in use. Its rules are not read.
    LegacyTables,
}

impl fmt::Display for TrackingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnyoneMaySend => f.write_str("anyone may send"),
            Self::SourcesNotCompared => f.write_str("inner sources are not compared"),
            Self::UnusualSubnetLen => f.write_str("SubnetLen is not a multiple of 8"),
            Self::Rule { chain } => write!(f, "{chain} looks at connections"),
            Self::Unreadable => f.write_str("the rules of others cannot be read"),
            Self::LegacyTables => f.write_str("the rules in iptables-legacy are not read"),
        }
    }
}

/// The form in which Docker keeps its rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DockerRules {
    /// In iptables, or there is no Docker.
    #[default]
    Iptables,
    /// In tables of nftables (Docker 29 with `firewall-backend` nftables) that let our mark pass.
    Marked,
    /// In nftables, but Docker was not told to accept our mark (`--bridge-accept-fwmark`).
    Unmarked,
}

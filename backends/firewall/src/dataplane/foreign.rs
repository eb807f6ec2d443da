//! Reads the rules of others that ours depend on.

use std::collections::BTreeMap;

use wire_net::{Family, NetworkName};
use wire_state::ObservedFirewall;

use super::FirewallDataplane;
use crate::{
    facts::{DockerRules, TrackingReason},
    netfilter::{self, Netfilter},
    policy::ACCEPT_MARK,
    program, tracking,
};

/// The rules of others that use connection tracking, as they were read.
pub(super) struct TrackingRead {
    /// The nftables generation of this read, increased by one for each write of our own.
    pub(super) generation: u32,
    needed: BTreeMap<Family, TrackingReason>,
}

/// Rules of others that ours depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignRules {
    /// The form in which Docker keeps its rules.
    pub docker: DockerRules,
    /// The families in which encapsulated packets must stay tracked as they come in.
    pub tracked: BTreeMap<Family, TrackingReason>,
}

impl FirewallDataplane {
    /// Reads the rules of others that ours depend on.
    pub fn foreign_rules(&mut self) -> ForeignRules {
        // If nftables cannot be read, Docker has no rules there.
        let docker = self.netfilter().and_then(|netfilter| netfilter.docker(ACCEPT_MARK)).unwrap_or_default();
        ForeignRules { docker, tracked: self.tracked() }
    }

    /// The tables in which others may have rules that drop packets, each in a few words. Of those that iptables shows, only the ones that
    /// others use.
    pub fn tables_of_others(&mut self, held: &ObservedFirewall) -> Vec<String> {
        let mut names: Vec<String> = held.used.iter().map(|table| format!("rules of others in {table}")).collect();
        match self.netfilter().and_then(Netfilter::tables) {
            Ok(tables) => names.extend(tables.iter().filter_map(|(family, name)| name_of_other(*family, name))),
            Err(_) => names.push("tables of nftables, which cannot be read".to_owned()),
        }
        let legacy = Family::ALL.into_iter().filter(|family| program::may_have_legacy_tables(*family));
        names.extend(legacy.map(|family| format!("tables of iptables-legacy for {family}")));
        names
    }

    fn tracked(&mut self) -> BTreeMap<Family, TrackingReason> {
        let mut tracked = match self.tracking_in_nftables() {
            Some(read) => read.needed.clone(),
            None => Family::ALL.map(|family| (family, TrackingReason::Unreadable)).into(),
        };
        for family in Family::ALL.into_iter().filter(|family| program::may_have_legacy_tables(*family)) {
            tracked.entry(family).or_insert(TrackingReason::LegacyTables);
        }
        tracked
    }

    /// The rules of others in nftables, which are read again only if the generation has changed.
    fn tracking_in_nftables(&mut self) -> Option<&TrackingRead> {
        let now = self.netfilter().and_then(Netfilter::generation).ok();
        if now.is_none() || self.tracking.as_ref().map(|read| read.generation) != now {
            let chains = self.netfilter().and_then(Netfilter::chains_of_others).ok();
            let read = now.zip(chains);
            self.tracking =
                read.map(|(generation, chains)| TrackingRead { generation, needed: tracking::needed(&chains) });
        }
        self.tracking.as_ref()
    }
}

/// The name of a table of nftables that is neither ours nor one that iptables shows.
fn name_of_other(family: u8, name: &str) -> Option<String> {
    let is_shown = |of: Family| family == netfilter::number(of) && matches!(name, "raw" | "nat" | "filter");
    let is_known = netfilter::is_of_an_agent(family, name)
        || netfilter::table_name(&NetworkName::default(), family, name).is_some();
    if is_known || Family::ALL.into_iter().any(is_shown) {
        return None;
    }
    // `NFPROTO_*` of linux/netfilter.h.
    let family = match family {
        1 => "inet",
        2 => "ip",
        3 => "arp",
        5 => "netdev",
        7 => "bridge",
        10 => "ip6",
        _ => "of another family",
    };
    Some(format!("table {family} {name}"))
}

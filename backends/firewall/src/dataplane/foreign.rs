//! Reads the rules of others that ours depend on.

use std::collections::BTreeMap;

use wire_net::Family;

use super::FirewallDataplane;
use crate::{
    facts::{DockerRules, TrackingReason},
    netfilter::Netfilter,
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

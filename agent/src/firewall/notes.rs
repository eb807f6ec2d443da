//! Reports to the status about the host around the firewall, after each round.

use tokio::time::Instant;
use tracing::info;
use wire_firewall::{Counted, DockerRules, HostFacts, Nftables, OverlayDevice};
use wire_net::{DualStack, Family, LinkName, chain};
use wire_state::{Clash, Failure, Firewall, FirewallOp, OpError, OperatorDrop, OtherFirewalls, Report};

use super::{
    BRIDGE_GRACE, BridgeFindings, FirewallLoop, FirewallShare,
    claims::{claimed, misplaced},
};
use crate::{
    bridges::{Docker, Expected, Findings},
    ports::{FirewallPort, Ports},
    status::{Blocked, DockerCondition, FirewallCondition, Unchecked, UnderlayCondition},
};

impl<P: Ports> FirewallLoop<P> {
    pub(super) fn note_changes(&self, report: &Report<Firewall>) {
        let (written, removed) = (report.written, report.removed);
        if written + removed > 0 {
            info!(written, removed, changes = report.named(), "firewall rules changed");
        }
    }

    pub(super) fn note_clashes(&self, clashes: Option<Vec<Clash>>) {
        self.status.set(FirewallCondition::CLASH, clashes.map(FirewallCondition::Clashes));
    }

    /// Finds whether another agent has changed our rules.
    pub(super) fn note_other_agents(&mut self) {
        self.contested = self.ports.are_other_agents();
        self.status.set(FirewallCondition::OTHER_AGENT, self.contested.then_some(FirewallCondition::OtherAgent));
    }

    /// Reports chains in the variant of iptables that is not in use, if they could not be listed or deleted. After another failure they
    /// are not deleted, so the last report stands.
    pub(super) fn note_abandoned(&mut self, report: &Report<Firewall>) {
        if report.failures.iter().any(is_fault) {
            return;
        }
        let failed = report.failures.iter().find_map(abandoned_failure).map(|error| chain(error));
        let failed = failed.or_else(|| self.reconciler.driver().abandoned_unread().map(|error| chain(error)));
        self.status.set(FirewallCondition::OTHER_IPTABLES, failed.map(FirewallCondition::OtherIptables));
    }

    /// Reports bridges that do not fit the lease.
    pub(super) fn note_bridges(&mut self, facts: &HostFacts, share: &FirewallShare) {
        let expected = Expected {
            subnets: share.own.lease.subnet.prefixes().collect(),
            networks: share.policy.pools.map(|_, pool| pool.network),
            mtu: share.mtu,
            told: (*share.docker_options).clone(),
        };
        let found = expected.compare(&facts.links, || Docker::look(&self.ports));
        if found != self.bridges.findings {
            self.bridges = BridgeFindings { findings: found.clone(), since: Instant::now() };
        }
        if found != Findings::default() && self.bridges.since.elapsed() < BRIDGE_GRACE {
            return;
        }
        let Findings { fault, warning, clash } = found;
        self.status.set(DockerCondition::BRIDGE_MISMATCH, fault);
        self.status.set(DockerCondition::BRIDGE_MTU, warning);
        // The log has had it since the options were written.
        let clash = clash.filter(|_| share.docker_options.file.is_some());
        self.status.set(DockerCondition::DAEMON_JSON, clash.map(DockerCondition::DaemonJson));
    }

    /// Reports what this host lacks of our table.
    pub(super) fn note_support(&self, share: &FirewallShare) {
        let nftables = self.facts.support.nftables;
        let lack = self.probe.nftables_error().map(|error| chain(error));
        let lack = lack.map(|error| FirewallCondition::NftablesLacks { nftables, error });
        self.status.set(FirewallCondition::NFTABLES, lack);
        let unchecked = self.unchecked();
        self.status.set(FirewallCondition::NAMED, unchecked.map(FirewallCondition::NamedUnchecked));
        let refused = self.probe.flowtable_error().map(|error| FirewallCondition::NoFlowtable(chain(error)));
        let takes_flows = share.devices.iter().any(|(_, device)| device.takes_flows());
        let unused = (share.policy.flowtable && !takes_flows).then_some(FirewallCondition::FlowtableUnused);
        self.status.set(FirewallCondition::FLOWTABLE, unused.or(refused));
    }

    /// The checks that networks by name lack, if this host takes part in some.
    fn unchecked(&self) -> Option<Unchecked> {
        if !self.rules.has_named() {
            return None;
        }
        match self.facts.support.nftables {
            Nftables::Absent => Some(Unchecked::All),
            Nftables::Simple => Some(Unchecked::Sources),
            Nftables::Whole => self.probe.bridges_error().map(|error| Unchecked::Ports(chain(error))),
        }
    }

    /// True if Docker runs, its chains cannot be read, and ours should come before them.
    pub(super) fn is_blind(&mut self, share: &FirewallShare, others: OtherFirewalls) -> bool {
        let concerns_us = share.policy.forward && self.facts.docker == DockerRules::Iptables;
        let is_hidden = !others.docker && self.reconciler.driver().hides_legacy_tables();
        concerns_us && is_hidden && Docker::look(&self.ports).runs
    }

    pub(super) fn note_host_facts(&mut self, facts: HostFacts, devices: &DualStack<OverlayDevice>) {
        if facts.bridges != self.facts.bridges {
            let links: Vec<&str> = facts.bridges.iter().map(LinkName::as_str).collect();
            info!(links = links.join(" "), "containers are on");
        }
        // Without a device there are no rules about encapsulated packets.
        let unnamed: Vec<LinkName> = facts.unnamed_bridges().copied().collect();
        let unnamed = (!unnamed.is_empty() && !devices.is_empty()).then_some(unnamed);
        self.status.set(FirewallCondition::BRIDGE_NAME, unnamed.map(FirewallCondition::UnnamedBridges));
        let unmarked = (facts.docker == DockerRules::Unmarked).then_some(FirewallCondition::DockerUnmarked);
        self.status.set(FirewallCondition::DOCKER_UNMARKED, unmarked);
        self.facts = facts;
    }

    /// Reports unknown senders that may be peers sending from another address than that of their lease.
    pub(super) fn note_claims(&self, share: &FirewallShare) {
        let misplaced = misplaced(&self.seen.counted.claims, &share.leases);
        let claims = misplaced.map(|misplaced| claimed(&misplaced, share.is_userspace));
        self.status.set(UnderlayCondition::MISPLACED_PEERS, claims.map(UnderlayCondition::MisplacedPeers));
    }

    /// Reports an operator's drops that have no effect, since our rules come first.
    pub(super) fn note_overruled(&self, drops: &[OperatorDrop], share: &FirewallShare) {
        let overruled = share.policy.overruled(drops, &share.devices, &self.facts);
        let warning = overruled
            .split_first()
            .map(|(first, rest)| FirewallCondition::DropsOverruled { first: (*first).clone(), more: rest.len() });
        self.status.set(FirewallCondition::OVERRULED, warning);
    }

    /// Compares the packets that we let in with those that the devices have received. True if other families are doubted
    /// than before.
    pub(super) fn note_doubts(&mut self, devices: &DualStack<OverlayDevice>) -> bool {
        // Each lease causes a round, and reading the counters of all links takes longer than the rest of it.
        if !self.doubts.is_due(Instant::now()) {
            return false;
        }
        // Our own counters were read before, so packets that have arrived since can only add to the devices' counters.
        let Ok(traffic) = self.ports.traffic() else { return false };
        let mut changed = false;
        for (family, device) in devices.iter() {
            let arrived = self.seen.counted.arrived.get(family).copied();
            let received = traffic.devices.get(&device.link).map(|passed| passed.received);
            if let Some((arrived, received)) = arrived.zip(received) {
                changed |= self.doubts.note(family, arrived, received, Instant::now());
            }
        }
        changed
    }

    /// Reports that another firewall of this host drops what we let in: packets arrive, and none is delivered.
    pub(super) fn note_blocked(
        &mut self,
        counted: &Counted,
        others: OtherFirewalls,
        devices: &DualStack<OverlayDevice>,
    ) {
        self.blocked.retain(|family| devices.get(*family).is_some());
        let before = &self.seen.counted;
        let packets = |counted: &DualStack<u64>, family| counted.get(family).copied().unwrap_or_default();
        let more = |now, before, family| packets(now, family) > packets(before, family);
        for (family, _) in devices.iter() {
            if more(&counted.delivered, &before.delivered, family) {
                self.blocked.remove(&family);
            } else if counted.delivered.get(family).is_some() && more(&counted.arrived, &before.arrived, family) {
                self.blocked.insert(family);
            }
        }
        let blocked = devices.iter().find(|(family, _)| self.blocked.contains(family));
        let fault = blocked.map(|(_, OverlayDevice { carrier, .. })| {
            let links =
                devices.iter().map(|(_, device)| device.link).chain(self.facts.bridges.iter().copied()).collect();
            // In a network with one family it is plain.
            let families: Vec<Family> = self.blocked.iter().copied().filter(|_| devices.iter().count() > 1).collect();
            FirewallCondition::Blocked(Blocked { others, carrier: *carrier, families, links })
        });
        self.status.set(FirewallCondition::BLOCKED, fault);
    }
}

impl FirewallShare {
    /// The devices whose packets can be compared with those that our rules let in: with a second device in a family, the rules count the
    /// packets of both.
    pub(super) fn counted_devices(&self) -> DualStack<OverlayDevice> {
        let alone = |family| self.devices.get(family).copied().filter(|_| self.policy.beside.get(family).is_none());
        DualStack::from_fn(alone)
    }
}

/// True if our rules are not in place because of this failure. Chains in the variant of iptables that is not in use are no reason for
/// that.
pub(super) fn is_fault(failure: &Failure<Firewall>) -> bool {
    abandoned_failure(failure).is_none()
}

/// The error, if chains in the variant of iptables that is not in use could not be deleted.
const fn abandoned_failure(failure: &Failure<Firewall>) -> Option<&OpError> {
    match failure {
        Failure::Op { op: FirewallOp::DeleteAbandonedChain(..), error, .. } => Some(error),
        Failure::Op { .. } | Failure::Read(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use wire_state::{ChainName, ChainTable, ChainTableKind, EmptyTables, ObservedChain};

    use super::*;

    #[test]
    fn a_chain_that_stays_in_the_other_iptables_is_no_fault() {
        let table = ChainTable { family: Family::V4, kind: ChainTableKind::Filter };
        let name = ChainName { table, name: "WIRE-FORWARD".to_owned() };
        let chain = ObservedChain::default;
        let failed = |op| Failure::Op { op, error: OpError::unsupported("not here"), more: 0 };
        let abandoned = failed(FirewallOp::DeleteAbandonedChain(name.clone(), chain(), EmptyTables::Keep));
        assert!(!is_fault(&abandoned));
        assert!(is_fault(&failed(FirewallOp::DeleteChain(name, chain(), EmptyTables::Keep))));
    }
}

//! The rules of all networks, brought forward from one table of leases to the next, and the round of leases alone. What hosts have on networks by name
//! is as good as leases.

use std::{collections::BTreeMap, sync::Arc};

use tracing::error;
use wire_firewall::{FirewallFromPeers, HostFacts, Peer, SegmentFilter, SegmentShare};
use wire_lease::Entry;
use wire_net::NetworkName;
use wire_state::{Clash, DesiredFirewall, Driver, Firewall, Reconciler, Report};

use super::{Filtered, FirewallLoop, FirewallShare};
use crate::{
    ports::Ports,
    reconcile_loop::{LastMerge, Shares, merged},
    status::FirewallSeen,
};

/// The rules of each flat network, with the values that they were computed from, and those of all networks by name.
#[derive(Debug, Default)]
pub(super) struct Rules {
    flat: BTreeMap<NetworkName, NetworkRules>,
    named: SegmentFilter,
    /// The networks by name that they were computed from, and the facts of the host.
    of: (Shares<Arc<SegmentShare>>, HostFacts),
}

#[derive(Debug)]
struct NetworkRules {
    share: FirewallShare,
    facts: HostFacts,
    rules: FirewallFromPeers,
}

impl<P: Ports> FirewallLoop<P> {
    /// The round of leases alone: changes the sets of senders, before anything else is looked at. False if more must be done, since more than
    /// leases has changed or the packet filter was not as we had left it.
    pub(super) fn follow_leases(&mut self, shares: &Filtered) -> bool {
        let followed = follow(&mut self.reconciler, &mut self.rules, shares);
        let Some(Followed { report, clashes }) = followed else { return false };
        self.note_clashes(clashes);
        self.note_changes(&report);
        self.show(FirewallSeen {
            written: self.seen.written + report.written as u64,
            removed: self.seen.removed + report.removed as u64,
            ..self.seen.clone()
        });
        report.converged && !report.read_back
    }
}

/// The outcome of a round of leases alone.
struct Followed {
    report: Report<Firewall>,
    /// The keys that several networks want differently.
    clashes: Option<Vec<Clash>>,
}

/// Changes the sets of senders, with the facts of the last look. `None` if not only leases differ from that look, or if the packet filter must be
/// read. Takes a time in proportion to the changed leases, and makes one request: the change itself.
fn follow<D: Driver<Resource = Firewall>>(
    reconciler: &mut Reconciler<D>,
    rules: &mut Rules,
    shares: &Filtered,
) -> Option<Followed> {
    if reconciler.cached().is_none() || !rules.differ_in_leases_alone(shares) {
        return None;
    }
    for (known, share) in rules.flat.values_mut().zip(shares.flat.values()) {
        known.follow(share);
    }
    rules.follow_named(&shares.named);
    let (desired, clashes) = rules.merged();
    Some(Followed { report: reconciler.round(&desired), clashes })
}

impl Rules {
    /// The rules on a host with these facts, and the keys that several networks want differently.
    pub(super) fn desired(
        &mut self,
        shares: &Filtered,
        facts: &HostFacts,
    ) -> (Arc<DesiredFirewall>, Option<Vec<Clash>>) {
        let flat_ports = shares.flat.values().flat_map(FirewallShare::udp_ports).collect();
        self.of.1 = HostFacts { flat_ports, ..facts.clone() };
        self.follow_named(&shares.named);
        self.flat.retain(|network, _| shares.flat.contains_key(network));
        for (network, share) in &shares.flat {
            let is_same =
                |known: &&mut NetworkRules| known.facts == *facts && known.share.differs_in_leases_alone(share);
            match self.flat.get_mut(network).filter(is_same) {
                Some(known) => known.follow(share),
                None => drop(self.flat.insert(network.clone(), NetworkRules::new(share.clone(), facts.clone()))),
            }
        }
        self.merged()
    }

    /// Computes the rules from all leases, and takes those where they are others than the ones that were brought forward.
    pub(super) fn check(&mut self) {
        let mut named = SegmentFilter::default();
        named.update(self.of.0.iter(), &self.of.1);
        if named.firewall() != self.named.firewall() {
            error!("the rules that follow from all networks by name are others than those that were brought forward");
            self.named = named;
        }
        for (network, known) in &mut self.flat {
            let computed = NetworkRules::new(known.share.clone(), known.facts.clone());
            if computed.rules.firewall() != known.rules.firewall() {
                error!(%network, "the rules that follow from all leases are others than those that were brought forward");
                *known = computed;
            }
        }
    }

    fn differ_in_leases_alone(&self, Filtered { flat, named }: &Filtered) -> bool {
        let mut both = self.flat.iter().zip(flat);
        self.flat.len() == flat.len()
            && self.named.differs_in_elements_alone(named.values(), &self.of.1)
            && both.all(|((known, rules), (network, share))| {
                known == network && rules.share.differs_in_leases_alone(share)
            })
    }

    /// True if this host takes part in networks by name.
    pub(super) fn has_named(&self) -> bool {
        !self.of.0.is_empty()
    }

    fn follow_named(&mut self, named: &Shares<Arc<SegmentShare>>) {
        self.named.update(named.iter(), &self.of.1);
        self.of.0.clone_from(named);
    }

    fn merged(&self) -> (Arc<DesiredFirewall>, Option<Vec<Clash>>) {
        let mut clashes = None;
        let (flat, of_named) = (&self.flat, self.named.firewall());
        let all = flat.iter().map(|(network, known)| (network, known.rules.firewall().clone()));
        // All networks by name have the rules in common.
        let name = self.of.0.keys().next().map(|name| (name, of_named.clone()));
        let all = all.chain(name.filter(|_| **of_named != DesiredFirewall::default()));
        let firewall = merged::<Firewall>(&mut LastMerge::default(), all, |found| clashes = found);
        (firewall, clashes)
    }
}

impl NetworkRules {
    fn new(share: FirewallShare, facts: HostFacts) -> Self {
        let peers = share.leases.peers.values().map(peer);
        let own = share.own.lease.subnet;
        let rules = FirewallFromPeers::new(&share.policy, own, peers, &share.devices, &facts);
        Self { share, facts, rules }
    }

    /// Brings the rules forward to other leases.
    fn follow(&mut self, share: &FirewallShare) {
        let before = std::mem::replace(&mut self.share, share.clone());
        let changes = || share.leases.changes_since(&before.leases);
        let gone = changes().filter_map(|change| change.before.map(peer));
        self.rules.update(gone, changes().filter_map(|change| change.after.map(peer)));
    }
}

impl FirewallShare {
    /// True if the rules for both differ in nothing but the elements that follow from the leases of peers.
    fn differs_in_leases_alone(&self, other: &Self) -> bool {
        // Each part by name: a new one must be thought of here.
        let Self { policy, own, leases: _, devices, docker_options, mtu, is_userspace, joins } = self;
        Arc::ptr_eq(policy, &other.policy)
            && own.lease == other.own.lease
            && *devices == other.devices
            && Arc::ptr_eq(docker_options, &other.docker_options)
            && *mtu == other.mtu
            && *is_userspace == other.is_userspace
            && *joins == other.joins
    }
}

fn peer(entry: &Arc<Entry>) -> Peer {
    Peer { public: entry.lease.public, subnet: entry.lease.subnet }
}

#[cfg(test)]
mod tests;

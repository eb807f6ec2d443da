//! The rules of a network that are brought forward when peers change. Pure.

use std::{collections::BTreeMap, sync::Arc};

use wire_net::{DualStack, Subnet};
use wire_state::{DesiredFirewall, Element};

use super::{
    facts::HostFacts,
    overlay_device::OverlayDevice,
    peer_sets::PeerSets,
    policy::{FirewallPolicy, Peer},
};

/// The rules of a network, and what is needed to bring them forward. Only elements of sets follow from the peers.
#[derive(Clone, Debug)]
pub struct FirewallFromPeers {
    firewall: Arc<DesiredFirewall>,
    sets: Vec<PeerSets>,
    /// How often the elements are wanted that several peers want: the leases of one host have the same public address.
    shared: BTreeMap<Element, usize>,
}

impl FirewallFromPeers {
    /// Computes the rules for all peers.
    pub fn new(
        policy: &FirewallPolicy,
        own: Subnet,
        peers: impl Iterator<Item = Peer>,
        devices: &DualStack<OverlayDevice>,
        facts: &HostFacts,
    ) -> Self {
        let (firewall, sets) = policy.without_peers(own, devices, facts);
        let mut computed = Self { firewall: Arc::new(firewall), sets, shared: BTreeMap::new() };
        computed.update(std::iter::empty(), peers);
        computed
    }

    /// Brings the rules forward by the peers that are gone and those that are new. A peer that has changed is both. Takes a time in
    /// proportion to their number.
    pub fn update(&mut self, gone: impl Iterator<Item = Peer>, new: impl Iterator<Item = Peer>) {
        let Self { firewall, sets, shared } = self;
        if sets.is_empty() {
            return;
        }
        let Some(table) = &mut Arc::make_mut(firewall).table else { return };
        for peer in gone {
            for (name, element) in sets.iter().flat_map(|sets| sets.elements(&peer)) {
                let Some(set) = table.sets.get_mut(name) else { continue };
                match shared.get_mut(&element) {
                    Some(2) => drop(shared.remove(&element)),
                    Some(times) => *times -= 1,
                    None => drop(set.elements.remove(&element)),
                }
            }
        }
        for peer in new {
            for (name, element) in sets.iter().flat_map(|sets| sets.elements(&peer)) {
                let Some(set) = table.sets.get_mut(name) else { continue };
                if set.elements.insert(element).is_some() {
                    *shared.entry(element).or_insert(1) += 1;
                }
            }
        }
    }

    /// The rules.
    #[must_use]
    pub const fn firewall(&self) -> &Arc<DesiredFirewall> {
        &self.firewall
    }
}

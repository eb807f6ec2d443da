//! The desired state that follows from the leases: computed from all of them, or brought forward from one table of leases to the next. Pure.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use wire_lease::{Entry, Lease, LeaseTable};
use wire_net::{DualStack, MacAddr, Prefix, every_other_first};
use wire_state::{DesiredNet, FdbKey, FdbTarget, Forward, ForwardKey, NeighbourKey, NextHop, RouteKey};

use crate::{Addresses, Backend};

/// An entry that one peer adds to the desired state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerEntry {
    /// Its FDB entry. Two leases of one host have the same.
    Fdb(FdbKey, FdbTarget),
    /// Its neighbour entry.
    Neighbour(NeighbourKey, MacAddr),
    /// Its prefix in the forwarding table of a tunnel.
    Forward(ForwardKey, Forward),
    /// Its route.
    Route(RouteKey, NextHop),
}

/// The desired state of the host's namespace, and the leases from which it was computed.
#[derive(Clone, Debug)]
pub struct NetFromLeases {
    own: Lease,
    leases: LeaseTable,
    net: DesiredNet,
    networks: Vec<Prefix>,
    /// The addresses inside the networks of the overlay that are reached without it.
    outside: Addresses,
    /// The public addresses of peers that the backend cannot reach from the underlay's link.
    beyond: Addresses,
    ranges: Vec<Prefix>,
    /// The FDB entries that several leases want: how often with which target. Leases of one host have one target; a record may claim
    /// another host's MAC. The first target is written.
    shared: BTreeMap<FdbKey, BTreeMap<FdbTarget, usize>>,
}

impl NetFromLeases {
    /// Computes it from all leases.
    pub fn new<B: Backend + ?Sized>(backend: &B, own: &Lease, leases: &LeaseTable) -> Self {
        let networks = backend.scope().networks;
        let mut computed = Self {
            own: own.clone(),
            leases: leases.clone(),
            net: DesiredNet::default(),
            networks,
            outside: Addresses::default(),
            beyond: Addresses::default(),
            ranges: Vec::new(),
            shared: BTreeMap::new(),
        };
        let peers = || leases.peers.values().filter_map(|entry| backend.seen(&entry.lease));
        let publics: Vec<_> = peers().map(|lease| lease.public).collect();
        let publics = publics.iter().flat_map(DualStack::iter).chain(own.public.iter());
        let publics = publics.map(|(_, public)| *public).chain(leases.outside.iter().copied());
        for address in publics.filter(|address| inside(&computed.networks, *address)) {
            computed.outside.add(address);
        }
        for address in peers().filter_map(|lease| backend.beyond_link(&lease)) {
            computed.beyond.add(address);
        }
        computed.ranges = backend.ranges(&computed.outside);
        computed.net = backend.base(own, &computed.ranges);
        let (peers, mut entries): (Vec<_>, _) = (peers().collect(), Vec::new());
        for peer in every_other_first(peers.len()).map(|index| &peers[index]) {
            backend.peer_entries(peer, &computed.ranges, &mut entries);
            entries.drain(..).for_each(|entry| computed.add(entry));
        }
        computed
    }

    /// Brings it forward to other leases. Takes a time in proportion to what differs, unless our own lease or a route to several peers
    /// differs: then it is computed anew.
    pub fn update<B: Backend + ?Sized>(&mut self, backend: &B, own: &Lease, leases: &LeaseTable) {
        if self.own != *own || self.leases.outside != leases.outside {
            *self = Self::new(backend, own, leases);
            return;
        }
        let before = std::mem::replace(&mut self.leases, leases.clone());
        let mut gone = Vec::new();
        let mut there = Vec::new();
        for change in leases.changes_since(&before) {
            gone.extend(reached(backend, change.before));
            there.extend(reached(backend, change.after));
        }
        for address in self.publics_inside(&gone) {
            self.outside.remove(address);
        }
        for address in self.publics_inside(&there) {
            self.outside.add(address);
        }
        gone.iter().filter_map(|lease| backend.beyond_link(lease)).for_each(|address| self.beyond.remove(address));
        there.iter().filter_map(|lease| backend.beyond_link(lease)).for_each(|address| self.beyond.add(address));
        if backend.ranges(&self.outside) != self.ranges {
            *self = Self::new(backend, own, leases);
            return;
        }
        let mut entries = Vec::new();
        gone.iter().for_each(|lease| backend.peer_entries(lease, &self.ranges, &mut entries));
        entries.drain(..).for_each(|entry| self.remove(&entry));
        there.iter().for_each(|lease| backend.peer_entries(lease, &self.ranges, &mut entries));
        entries.drain(..).for_each(|entry| self.add(entry));
    }

    /// Computes it from all leases. Returns whether what was brought forward was the same.
    pub fn check<B: Backend + ?Sized>(&mut self, backend: &B) -> bool {
        let computed = Self::new(backend, &self.own, &self.leases);
        let is_same = computed.net == self.net && computed.beyond == self.beyond;
        if !is_same {
            *self = computed;
        }
        is_same
    }

    /// The desired state.
    #[must_use]
    pub const fn net(&self) -> &DesiredNet {
        &self.net
    }

    /// The public addresses of peers that the backend cannot reach, since they are not on the underlay's link.
    #[must_use]
    pub const fn beyond_link(&self) -> &Addresses {
        &self.beyond
    }

    pub(crate) fn into_net(self) -> DesiredNet {
        self.net
    }

    fn publics_inside(&self, leases: &[Lease]) -> Vec<IpAddr> {
        let publics = leases.iter().flat_map(|lease| lease.public.iter()).map(|(_, public)| *public);
        publics.filter(|address| inside(&self.networks, *address)).collect()
    }

    fn add(&mut self, entry: PeerEntry) {
        match entry {
            PeerEntry::Fdb(key, to) => match self.net.fdb.get_mut(&key) {
                None => drop(self.net.fdb.insert(key, to)),
                Some(there) => {
                    let wanted = self.shared.entry(key).or_insert_with(|| BTreeMap::from([(*there, 1)]));
                    *wanted.entry(to).or_default() += 1;
                    *there = to.min(*there);
                }
            },
            PeerEntry::Neighbour(key, mac) => drop(self.net.neighbours.insert(key, mac)),
            PeerEntry::Forward(key, forward) => drop(self.net.forwarding.insert(key, forward)),
            PeerEntry::Route(key, hop) => drop(self.net.routes.insert(key, hop)),
        }
    }

    fn remove(&mut self, entry: &PeerEntry) {
        match entry {
            PeerEntry::Fdb(key, to) => self.remove_fdb(*key, *to),
            PeerEntry::Neighbour(key, _) => drop(self.net.neighbours.remove(key)),
            PeerEntry::Forward(key, _) => drop(self.net.forwarding.remove(key)),
            PeerEntry::Route(key, _) => drop(self.net.routes.remove(key)),
        }
    }
}

impl NetFromLeases {
    fn remove_fdb(&mut self, key: FdbKey, to: FdbTarget) {
        let Some(wanted) = self.shared.get_mut(&key) else {
            self.net.fdb.remove(&key);
            return;
        };
        if let Some(times) = wanted.get_mut(&to) {
            *times -= 1;
            if *times == 0 {
                wanted.remove(&to);
            }
        }
        let (left, first) = (wanted.values().sum::<usize>(), wanted.keys().next().copied());
        if left < 2 {
            self.shared.remove(&key);
        }
        if let Some(first) = first {
            self.net.fdb.insert(key, first);
        }
    }
}

/// The lease of a peer that the backend reaches.
fn reached<B: Backend + ?Sized>(backend: &B, entry: Option<&Arc<Entry>>) -> Option<Lease> {
    Some(backend.seen(&entry?.lease)?.into_owned())
}

fn inside(networks: &[Prefix], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

#[cfg(test)]
mod tests;

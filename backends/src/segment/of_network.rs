//! The hosts of a network as its devices need them, brought forward by the records that change. Pure.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};
use wire_lease::named::{AddressRecord, BlockRecord, MemberRecord, NamedNetwork, NetworkPools, Stored};
use wire_net::{HostId, Prefix};

use super::{SegmentHost, SegmentHosts};

/// The hosts of a network, and the records that they follow from.
#[derive(Clone, Debug)]
pub struct HostsOfNetwork {
    own: HostId,
    pools: Option<NetworkPools>,
    members: OrdMap<HostId, Stored<MemberRecord>>,
    blocks: OrdMap<Prefix, Stored<BlockRecord>>,
    addresses: OrdMap<IpAddr, Stored<AddressRecord>>,
    /// The blocks and addresses of each host, member or not: its blocks count only while it is one.
    all: OrdMap<HostId, Arc<SegmentHost>>,
    hosts: SegmentHosts,
}

impl HostsOfNetwork {
    /// No hosts yet. `own` is this host.
    #[must_use]
    pub fn new(own: HostId) -> Self {
        Self {
            own,
            pools: None,
            members: OrdMap::new(),
            blocks: OrdMap::new(),
            addresses: OrdMap::new(),
            all: OrdMap::new(),
            hosts: SegmentHosts::default(),
        }
    }

    /// Brings the hosts forward to the admitted records. Takes a time in proportion to what differs.
    pub fn update(&mut self, network: &NamedNetwork) {
        self.become_as(network, network.members.clone(), network.blocks.clone(), network.addresses.clone());
    }

    /// The same, but what has vanished stays, unless another host has it now: the store may have lost it.
    pub fn update_and_keep(&mut self, network: &NamedNetwork) {
        if self.pools != Some(network.record().pools) {
            return self.update(network);
        }
        let members = network.members.clone().union(self.members.clone());
        let blocks = network.blocks.clone().union(self.blocks.clone());
        let addresses = network.addresses.clone().union(self.addresses.clone());
        self.become_as(network, members, blocks, addresses);
    }

    /// The hosts as they are now.
    #[must_use]
    pub const fn hosts(&self) -> &SegmentHosts {
        &self.hosts
    }

    fn become_as(
        &mut self,
        network: &NamedNetwork,
        members: OrdMap<HostId, Stored<MemberRecord>>,
        blocks: OrdMap<Prefix, Stored<BlockRecord>>,
        addresses: OrdMap<IpAddr, Stored<AddressRecord>>,
    ) {
        let pools = network.record().pools;
        if self.pools != Some(pools) {
            *self = Self { pools: Some(pools), ..Self::new(self.own) };
        }
        let mut touched = BTreeSet::new();
        let mut with = |host: HostId, change: &mut dyn FnMut(&mut SegmentHost)| {
            touched.insert(host);
            change(Arc::make_mut(self.all.entry(host).or_default()));
        };
        for (block, was, is) in changes(&self.blocks, &blocks) {
            let both = || of_both(&pools, block);
            if let Some(was) = was {
                with(was.record.host, &mut |at| at.blocks.retain(|own| !both().any(|one| one == *own)));
            }
            if let Some(is) = is {
                with(is.record.host, &mut |at| at.blocks.extend(both()));
            }
        }
        for (address, was, is) in changes(&self.addresses, &addresses) {
            let both = || of_both(&pools, Prefix::host(address)).map(Prefix::network);
            if let Some(was) = was {
                with(was.record.host, &mut |at| at.addresses.retain(|own, _| !both().any(|one| one == *own)));
            }
            if let Some(is) = is {
                with(is.record.host, &mut |at| at.addresses.extend(both().map(|one| (one, is.record.mac))));
            }
        }
        for (host, _, is) in changes(&self.members, &members) {
            let public = is.map(|stored| (stored.record.public, stored.record.port));
            with(host, &mut |at| (at.public, at.port) = public.unwrap_or((at.public, at.port)));
        }
        (self.members, self.blocks, self.addresses) = (members, blocks, addresses);
        touched.into_iter().for_each(|host| self.publish(host));
    }

    /// Takes a host that has changed into what is published.
    fn publish(&mut self, host: HostId) {
        let is_member = self.members.contains_key(&host);
        let has_nothing = self.all.get(&host).is_none_or(|at| at.blocks.is_empty() && at.addresses.is_empty());
        if !is_member && has_nothing {
            self.all.remove(&host);
        }
        let now = self.all.get(&host).filter(|_| is_member).cloned();
        if host == self.own {
            self.hosts.own = now.unwrap_or_default();
            return;
        }
        match now {
            Some(now) => drop(self.hosts.others.insert(host.to_string(), now)),
            None => drop(self.hosts.others.remove(&host.to_string())),
        }
    }
}

/// A claimed prefix, and the IPv6 one that belongs to it.
fn of_both(pools: &NetworkPools, claimed: Prefix) -> impl Iterator<Item = Prefix> {
    let both = pools.of_both(claimed);
    [both.v4, both.v6].into_iter().flatten()
}

/// The keys whose values differ, with both.
fn changes<'a, K: Ord + Copy, V: PartialEq + Clone>(
    before: &'a OrdMap<K, V>,
    now: &'a OrdMap<K, V>,
) -> impl Iterator<Item = (K, Option<&'a V>, Option<&'a V>)> {
    before.diff(now).map(|item| match item {
        DiffItem::Add(key, is) => (*key, None, Some(is)),
        DiffItem::Remove(key, was) => (*key, Some(was), None),
        DiffItem::Update { old: (key, was), new: (_, is) } => (*key, Some(was), Some(is)),
    })
}

#[cfg(test)]
mod tests;

//! The desired state of a network over several hosts: computed in full, or brought forward to the next state of its hosts.

use std::{collections::BTreeSet, net::IpAddr};

use imbl::OrdMap;
use wire_net::{Family, LinkName, MacAddr, Prefix, every_other_first};
use wire_state::{
    BridgeFdbKey, DesiredNet, FdbKey, FdbTarget, FloodEntry, FloodPath, Forward, ForwardKey, NeighbourKey,
};

use super::{
    Segment, SegmentHost, SegmentHosts,
    hosts::{Holders, HostChange},
};

/// The MAC that stands for all frames without an FDB entry of their own (`all_zeros_mac` of drivers/net/vxlan).
const ALL: MacAddr = MacAddr::new([0; 6]);

/// The desired state of the host's namespace, and what it was computed from.
#[derive(Clone, Debug)]
pub struct NetFromSegment {
    segment: Segment,
    bridge: LinkName,
    overlay: LinkName,
    hosts: SegmentHosts,
    holders: Holders,
    /// Where each MAC leads by each address that has it: both addresses of an endpoint have one. The first one counts.
    claims: OrdMap<(MacAddr, IpAddr), FdbTarget>,
    /// The number of hosts behind each flood entry.
    flooded: OrdMap<FloodEntry, usize>,
    net: DesiredNet,
}

/// An address of an endpoint on another host: its MAC, and where that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Remote {
    mac: MacAddr,
    to: FdbTarget,
}

impl NetFromSegment {
    /// Computes it from all hosts.
    #[must_use]
    pub fn new(segment: &Segment, hosts: &SegmentHosts) -> Self {
        let mut computed = Self {
            segment: segment.clone(),
            bridge: Segment::bridge(segment.vni),
            overlay: Segment::overlay(segment.vni),
            hosts: SegmentHosts::default(),
            holders: Holders::default(),
            claims: OrdMap::new(),
            flooded: OrdMap::new(),
            net: segment.base(),
        };
        computed.bring_forward(hosts);
        computed
    }

    /// Brings it forward to other hosts. Takes a time in proportion to what differs, unless the network itself differs: then it is computed
    /// anew.
    pub fn update(&mut self, segment: &Segment, hosts: &SegmentHosts) {
        if self.segment == *segment {
            self.bring_forward(hosts);
        } else {
            *self = Self::new(segment, hosts);
        }
    }

    /// Computes it from all hosts. Returns whether what was brought forward was the same.
    pub fn check(&mut self) -> bool {
        let computed = Self::new(&self.segment, &self.hosts);
        let is_same = computed.net == self.net;
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

    fn bring_forward(&mut self, hosts: &SegmentHosts) {
        let (before, holders) = (std::mem::replace(&mut self.hosts, hosts.clone()), self.holders.clone());
        let changes: Vec<HostChange<'_>> = hosts.changes_since(&before).collect();
        changes.iter().for_each(|change| self.holders.remove(change));
        changes.iter().for_each(|change| self.holders.add(change));
        let underlay = Family::of(self.segment.outer.local);
        let addresses: BTreeSet<IpAddr> = changes.iter().flat_map(|change| change.addresses(underlay)).collect();
        let addresses: Vec<IpAddr> = addresses.into_iter().collect();
        for address in every_other_first(addresses.len()).map(|index| addresses[index]) {
            let was = remote(&self.segment, &before, &holders, address);
            let is = remote(&self.segment, hosts, &self.holders, address);
            if was != is {
                was.into_iter().for_each(|remote| self.remove(address, remote));
                is.into_iter().for_each(|remote| self.add(address, remote));
            }
        }
        for change in changes.iter().filter(|change| change.id.is_some()) {
            change.before.and_then(|host| self.flood(host)).into_iter().for_each(|entry| self.flood_less(entry));
            change.after.and_then(|host| self.flood(host)).into_iter().for_each(|entry| self.flood_more(entry));
        }
    }

    fn add(&mut self, address: IpAddr, Remote { mac, to }: Remote) {
        self.claims.insert((mac, address), to);
        self.lead(mac);
        self.forward(address, Some(to));
        self.net.neighbours.insert(NeighbourKey { link: self.bridge, address }, mac);
    }

    fn remove(&mut self, address: IpAddr, Remote { mac, .. }: Remote) {
        self.claims.remove(&(mac, address));
        self.lead(mac);
        self.forward(address, None);
        self.net.neighbours.remove(&NeighbourKey { link: self.bridge, address });
    }

    /// Sets both FDB entries of a MAC as its first claim has it.
    fn lead(&mut self, mac: MacAddr) {
        let (bridge, overlay) = (self.bridge, self.overlay);
        let (fdb, behind) = (FdbKey { link: overlay, mac }, BridgeFdbKey { bridge, mac });
        let least = (mac, IpAddr::from([0; 4]));
        let first = self.claims.range(least..).next().filter(|((claimed, _), _)| *claimed == mac);
        if let Some((_, to)) = first {
            if self.segment.outer.agent.is_none() {
                self.net.fdb.insert(fdb, *to);
            }
            self.net.bridge_fdb.insert(behind, overlay);
        } else {
            self.net.fdb.remove(&fdb);
            self.net.bridge_fdb.remove(&behind);
        }
    }

    /// Sets where the agent sends packets for an address, and from where it takes packets with it, if it moves them.
    fn forward(&mut self, address: IpAddr, to: Option<FdbTarget>) {
        if self.segment.outer.agent.is_none() {
            return;
        }
        let link = self.overlay;
        let key = ForwardKey { link, destination: Prefix::host(address) };
        match to {
            Some(FdbTarget { to, port }) => drop(self.net.forwarding.insert(key, Forward { to, port, mac: None })),
            None => drop(self.net.forwarding.remove(&key)),
        }
    }

    /// The flood entry of another host, if frames for all are sent to it.
    fn flood(&self, host: &SegmentHost) -> Option<FloodEntry> {
        let FdbTarget { to, port } = self.segment.target(host)?;
        let by = FloodPath { port, ..FloodPath::default() };
        self.segment.floods().then_some(FloodEntry { link: self.overlay, mac: ALL, to, by })
    }

    fn flood_more(&mut self, entry: FloodEntry) {
        *self.flooded.entry(entry).or_default() += 1;
        self.net.flooding.insert(entry);
    }

    fn flood_less(&mut self, entry: FloodEntry) {
        let Some(times) = self.flooded.get_mut(&entry) else { return };
        *times -= 1;
        if *times == 0 {
            self.flooded.remove(&entry);
            self.net.flooding.remove(&entry);
        }
    }
}

impl Segment {
    /// Where a host is in the underlay of the network; `None` if it has no address of that family.
    fn target(&self, host: &SegmentHost) -> Option<FdbTarget> {
        let (to, port) = host.vtep(Family::of(self.outer.local))?;
        Some(FdbTarget { to, port: (port != self.outer.own_port()).then_some(port) })
    }

    /// True if an endpoint of another host may have the address: it is of the network, and neither the gateway's, nor this host's, nor one
    /// that stands for all (RFC 919, RFC 4291 §2.6.1).
    fn is_for_others(&self, address: IpAddr) -> bool {
        let is_own = self.own.iter().any(|(_, own)| *own == address);
        let pool = self.pools.get(Family::of(address)).filter(|pool| pool.contains(address) && !is_own);
        pool.is_some_and(|pool| {
            let is_last = address.is_ipv4() && address == pool.last();
            address != pool.gateway() && address != pool.network() && !is_last
        })
    }
}

/// The entries of an address; `None` if it is on no other host.
fn remote(segment: &Segment, hosts: &SegmentHosts, holders: &Holders, address: IpAddr) -> Option<Remote> {
    let holder = holders.of(address).filter(|_| segment.is_for_others(address))?;
    let mac = holder.mac.unwrap_or_else(|| Segment::mac_of(address));
    let host = hosts.others.get(holder.id?)?;
    let to = segment.target(host)?;
    // Frames for this host would leave it.
    (mac != segment.own_mac() && mac.is_unicast()).then_some(Remote { mac, to })
}

#[cfg(test)]
mod tests;

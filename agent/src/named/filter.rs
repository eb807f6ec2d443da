//! The share of a network by name in the packet filter. Pure.

use std::{net::IpAddr, sync::Arc};

use imbl::{OrdMap, OrdSet, ordmap::DiffItem};
use wire_backends::{NetFromSegment, Segment, SegmentHost, SegmentHosts};
use wire_firewall::{ContainerPort, SegmentMember, SegmentShare};
use wire_net::Family;

/// The other hosts of a network as the packet filter sees them, brought forward with the network's hosts.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    /// The underlay's family, and the hosts that they follow from.
    of: Option<(Family, OrdMap<String, Arc<SegmentHost>>)>,
    members: OrdMap<String, Arc<SegmentMember>>,
    /// The single addresses of these hosts.
    singles: OrdSet<IpAddr>,
}

impl Members {
    /// Brings them forward. Takes a time in proportion to what differs.
    fn follow(&mut self, hosts: &OrdMap<String, Arc<SegmentHost>>, underlay: Family) {
        let before = match self.of.take() {
            Some((family, before)) if family == underlay => before,
            Some(_) | None => {
                self.members = OrdMap::new();
                self.singles = OrdSet::new();
                OrdMap::new()
            }
        };
        self.follow_singles(&before, hosts);
        for item in before.diff(hosts) {
            let (id, host) = match item {
                DiffItem::Add(id, host) | DiffItem::Update { new: (id, host), .. } => (id, Some(host)),
                DiffItem::Remove(id, _) => (id, None),
            };
            match host.and_then(|host| member(host, underlay)) {
                Some(member) => drop(self.members.insert(id.clone(), Arc::new(member))),
                None => drop(self.members.remove(id)),
            }
        }
        self.of = Some((underlay, hosts.clone()));
    }

    /// Those that are gone first: another host may have one of them now.
    fn follow_singles(&mut self, before: &OrdMap<String, Arc<SegmentHost>>, hosts: &OrdMap<String, Arc<SegmentHost>>) {
        let mut come: Vec<&Arc<SegmentHost>> = Vec::new();
        for item in before.diff(hosts) {
            let (old, new) = match item {
                DiffItem::Add(_, new) => (None, Some(new)),
                DiffItem::Update { old: (_, old), new: (_, new) } => (Some(old), Some(new)),
                DiffItem::Remove(_, old) => (Some(old), None),
            };
            for address in old.into_iter().flat_map(|host| host.addresses.keys()) {
                self.singles.remove(address);
            }
            come.extend(new);
        }
        self.singles.extend(come.into_iter().flat_map(|host| host.addresses.keys().copied()));
    }
}

/// A host as it sends to this one; `None` if it cannot.
fn member(host: &SegmentHost, underlay: Family) -> Option<SegmentMember> {
    let public = *host.public.get(underlay)?;
    let addresses = host.addresses.iter().map(|(address, mac)| (*address, *mac)).collect();
    Some(SegmentMember { public, blocks: host.blocks.iter().copied().collect(), addresses })
}

/// The share of a network with these hosts.
pub(super) fn share(
    segment: &Segment,
    computed: &NetFromSegment,
    (members, hosts): (&mut Members, &SegmentHosts),
    ports: &[ContainerPort],
) -> SegmentShare {
    members.follow(&hosts.others, Family::of(segment.outer.local));
    SegmentShare {
        blocks: hosts.own.blocks.iter().copied().collect(),
        members: members.members.clone(),
        singles: members.singles.clone().union(hosts.own.addresses.keys().copied().collect()),
        net: computed.net().clone(),
        ports: ports.to_vec(),
        ..alone(segment)
    }
}

/// The share of a network whose other hosts are not known: nobody may send to it.
pub(super) fn alone(segment: &Segment) -> SegmentShare {
    SegmentShare {
        bridge: Segment::bridge(segment.vni),
        vni: segment.vni,
        pools: segment.pools,
        internal: segment.internal,
        local: segment.outer.local,
        underlay: segment.outer.parent.name,
        port: segment.outer.own_port(),
        blocks: Vec::new(),
        members: OrdMap::new(),
        singles: OrdSet::new(),
        net: NetFromSegment::new(segment, &SegmentHosts::default()).net().clone(),
        ports: Vec::new(),
    }
}

#[cfg(test)]
mod traced;

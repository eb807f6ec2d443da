//! The share of a network by name in the packet filter. Pure.

use std::sync::Arc;

use imbl::{OrdMap, ordmap::DiffItem};
use wire_backends::{NetFromSegment, Segment, SegmentHost, SegmentHosts};
use wire_firewall::{ContainerPort, SegmentMember, SegmentShare};
use wire_net::{Family, Prefix};

/// The other hosts of a network as the packet filter sees them, brought forward with the network's hosts.
#[derive(Clone, Debug, Default)]
pub(super) struct Members {
    /// The underlay's family, and the hosts that they follow from.
    of: Option<(Family, OrdMap<String, Arc<SegmentHost>>)>,
    members: OrdMap<String, Arc<SegmentMember>>,
}

impl Members {
    /// Brings them forward. Takes a time in proportion to what differs.
    fn follow(&mut self, hosts: &OrdMap<String, Arc<SegmentHost>>, underlay: Family) {
        let before = match self.of.take() {
            Some((family, before)) if family == underlay => before,
            Some(_) | None => {
                self.members = OrdMap::new();
                OrdMap::new()
            }
        };
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
}

/// A host as it sends to this one; `None` if it cannot.
fn member(host: &SegmentHost, underlay: Family) -> Option<SegmentMember> {
    let public = *host.public.get(underlay)?;
    let singles = host.addresses.keys().map(|address| Prefix::host(*address));
    Some(SegmentMember { public, sources: host.blocks.iter().copied().chain(singles).collect() })
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
        members: members.members.clone(),
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
        port: segment.outer.own_port(),
        members: OrdMap::new(),
        net: NetFromSegment::new(segment, &SegmentHosts::default()).net().clone(),
        ports: Vec::new(),
    }
}

#[cfg(test)]
mod traced;

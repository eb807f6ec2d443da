//! What the network wants of the kernel and of the packet filter. Pure.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;
use wire_backends::{NetFromSegment, Segment, SegmentOuter};
use wire_firewall::SegmentShare;
use wire_lease::named::Kept;
use wire_net::{DualStack, HostId, MacAddr, Mtu, Vni};
use wire_state::{DesiredNet, Marks, PerNamespace, Scope};

use super::Part;
use crate::{datapath::NetworkShare, named::filter};

impl Part {
    /// True if what could not be done is not to be tried yet. When its time has come, the share is another one.
    pub(in crate::named) fn waits_to_tell(&mut self, now: Instant) -> bool {
        if self.progress.ends_pause(now) {
            self.attached.try_again();
        }
        self.progress.tell_at().is_some()
    }

    /// The share in the kernel's state, if it is another than before; `None` also before the network was admitted.
    pub(in crate::named) fn share(&mut self, outer: SegmentOuter) -> Option<NetworkShare> {
        let kept = self.entry.held.as_ref().filter(|_| self.admitted.is_some())?;
        let segment = segment(self.own, kept, self.outer(outer));
        let is_behind = std::mem::take(&mut self.progress.is_behind);
        let computed = match self.progress.computed.take() {
            Some((before, computed)) if before == segment && !is_behind => {
                self.progress.computed = Some((before, computed));
                return None;
            }
            Some((_, mut computed)) => {
                computed.update(&segment, self.hosts.hosts());
                computed
            }
            None => NetFromSegment::new(&segment, self.hosts.hosts()),
        };
        let share = self.attached.share(&segment, computed.net().clone());
        self.progress.computed = Some((segment, computed));
        Some(share)
    }

    /// The share that only removes ports, while nothing else is desired.
    pub(in crate::named) fn without_ports(&self, outer: &SegmentOuter) -> NetworkShare {
        let marks = Marks { port: Some(outer.port), ..Marks::default() };
        share(DesiredNet::default(), Scope { devices: self.attached.unwanted().clone(), marks, ..Scope::default() })
    }

    /// The share in the packet filter that belongs to the last [`Part::share`].
    pub(in crate::named) fn filter(&mut self) -> Option<SegmentShare> {
        let (segment, computed) = self.progress.computed.as_ref()?;
        Some(filter::share(segment, computed, (&mut self.members, self.hosts.hosts()), &self.ports))
    }

    /// The share in the packet filter while it is not known who else takes part, so that nobody sends to devices of an earlier run.
    pub(in crate::named) fn closed(&self, outer: SegmentOuter) -> Option<SegmentShare> {
        let kept = self.entry.held.as_ref()?;
        Some(filter::alone(&segment(self.own, kept, self.outer(outer))))
    }

    /// The share of a network that this host leaves: nothing, in the place of its devices. `None` if it has none.
    pub(in crate::named) fn leaving(&self, outer: &SegmentOuter) -> Option<NetworkShare> {
        let kept = self.entry.held.as_ref()?;
        Some(share(DesiredNet::default(), scope_of(kept.record.vni, outer)))
    }
}

fn share(net: DesiredNet, scope: Scope) -> NetworkShare {
    let (desired, guests) = (Arc::new(PerNamespace::host(net)), BTreeMap::new());
    NetworkShare { desired, scope, spare: Default::default(), guests, subnets: None, revision: None, tries: 0 }
}

/// The part of the kernel's state that the devices of a network are in.
pub(crate) fn scope_of(vni: Vni, outer: &SegmentOuter) -> Scope {
    Scope {
        devices: [Segment::bridge(vni), Segment::overlay(vni)].into(),
        marks: Marks { port: Some(outer.port), ..Marks::default() },
        parent: Some(outer.parent),
        ..Scope::default()
    }
}

pub(super) fn segment(host: HostId, kept: &Kept, outer: SegmentOuter) -> Segment {
    let record = &kept.record;
    let digits = host.to_string();
    let octet = |index: usize| u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).unwrap_or_default();
    Segment {
        vni: record.vni,
        pools: DualStack::from_fn(|family| record.pools.get(family).map(|pool| pool.prefix)),
        broadcast: record.broadcast,
        internal: record.internal,
        mtu: (record.mtu > 0).then_some(Mtu(record.mtu)),
        own: kept.member.own,
        mac: MacAddr::local(std::array::from_fn(octet)),
        outer,
    }
}

//! The containers on one network: which links are desired for them, and how far the kernel is with these. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use wire_backends::{Segment, SegmentEndpoint};
use wire_net::LinkName;
use wire_state::{DesiredNet, Namespace, Scope};

use super::part::scope_of;
use crate::{
    attach::{AttachmentId, Opened},
    datapath::{GuestShare, NetworkShare},
};

/// The containers on a network, as they are now.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Containers {
    /// Those that run and can be reached.
    pub(super) endpoints: Vec<SegmentEndpoint>,
    /// The sockets that were opened in their namespaces.
    pub(super) opened: BTreeMap<Namespace, Opened>,
    /// Ports that are not to be there: of attachments that are gone, and of containers that are not meant any more. Ports of containers of which
    /// nothing is known are in neither, and stay as they are.
    pub(super) gone: BTreeSet<LinkName>,
    /// The attachments that are gone, and whose addresses are free when their ports are.
    pub(super) leaving: BTreeSet<AttachmentId>,
}

/// The containers on a network, and since which change of its share the loop of `Network` knows of each.
#[derive(Debug, Default)]
pub(super) struct Attached {
    containers: Containers,
    told: BTreeMap<LinkName, u64>,
    left: BTreeMap<AttachmentId, u64>,
    /// The last change that a round has taken into account.
    done: u64,
}

impl Attached {
    /// True if they differ from those before.
    pub(super) fn set(&mut self, containers: Containers) -> bool {
        let differs = self.containers != containers;
        if differs {
            let same: BTreeSet<LinkName> = self
                .containers
                .endpoints
                .iter()
                .filter(|one| containers.endpoints.contains(one))
                .map(|one| one.port)
                .collect();
            self.told.retain(|port, _| same.contains(port));
            self.left.retain(|id, _| containers.leaving.contains(id));
            self.containers = containers;
        }
        differs
    }

    /// The share of the network with them.
    pub(super) fn share(&self, segment: &Segment, host: DesiredNet) -> NetworkShare {
        let Containers { endpoints, opened, gone, .. } = &self.containers;
        let mut scope = scope_of(segment.vni, &segment.outer);
        scope.devices.extend(endpoints.iter().map(|endpoint| endpoint.port).chain(gone.iter().copied()));
        let mut guests: BTreeMap<Namespace, GuestShare> = BTreeMap::new();
        for (namespace, opened) in opened {
            let inside = endpoints.iter().map(|endpoint| endpoint.inside).filter(|place| place.namespace == *namespace);
            let scope = Scope { devices: inside.map(|place| place.name).collect(), ..Scope::default() };
            guests.insert(*namespace, GuestShare { opened: opened.clone(), scope });
        }
        let desired = Arc::new(segment.with_endpoints(host, endpoints));
        NetworkShare { desired, scope, guests, subnets: None, revision: None }
    }

    /// Notes that the share with them was told as this change.
    pub(super) fn note_told(&mut self, number: u64) {
        for endpoint in &self.containers.endpoints {
            self.told.entry(endpoint.port).or_insert(number);
        }
        for id in &self.containers.leaving {
            self.left.entry(*id).or_insert(number);
        }
    }

    /// Notes that a round has taken this change into account, and done all of it.
    pub(super) fn note_done(&mut self, number: u64) {
        self.done = self.done.max(number);
    }

    /// True if something was told that no round has done yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.told.values().chain(self.left.values()).any(|number| *number > self.done)
            || self.told.len() < self.containers.endpoints.len()
            || self.left.len() < self.containers.leaving.len()
    }

    /// The containers whose links are made, as far as is known.
    pub(super) fn made(&self) -> impl Iterator<Item = &SegmentEndpoint> {
        let is_done =
            |endpoint: &&SegmentEndpoint| self.told.get(&endpoint.port).is_some_and(|told| *told <= self.done);
        self.containers.endpoints.iter().filter(is_done)
    }

    /// The attachments whose ports are removed.
    pub(super) fn left(&self) -> BTreeSet<AttachmentId> {
        self.left.iter().filter(|(_, told)| **told <= self.done).map(|(id, _)| *id).collect()
    }
}

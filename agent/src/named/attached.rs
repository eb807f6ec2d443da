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
        NetworkShare { desired, scope, spare: Default::default(), guests, subnets: None, revision: None }
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

    /// True if a link is, or was, the port of a container.
    pub(super) fn has_port(&self, link: LinkName) -> bool {
        self.containers.endpoints.iter().any(|one| one.port == link) || self.containers.gone.contains(&link)
    }

    /// True if a container has its interface in this namespace.
    pub(super) fn is_in(&self, namespace: Namespace) -> bool {
        self.containers.endpoints.iter().any(|one| one.inside.namespace == namespace)
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

#[cfg(test)]
mod tests {
    use wire_net::{DualStack, MacAddr};
    use wire_state::LinkPlace;

    use super::*;

    fn endpoint(port: &str, namespace: u64) -> SegmentEndpoint {
        SegmentEndpoint {
            port: port.parse().unwrap(),
            inside: LinkPlace { namespace: Namespace::Guest(namespace), name: "eth1".parse().unwrap() },
            addresses: DualStack { v4: Some([10, 128, 1, 33].into()), v6: None },
            mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
        }
    }

    #[test]
    fn a_link_is_made_when_a_round_has_done_the_change_in_which_it_was_told() {
        let mut attached = Attached::default();
        let one = Containers { endpoints: vec![endpoint("wp00000001", 7)], ..Containers::default() };
        assert!(attached.set(one.clone()) && !attached.set(one.clone()));
        assert!(attached.is_waiting() && attached.made().count() == 0);
        attached.note_told(3);
        attached.note_done(2);
        assert_eq!(attached.made().count(), 0);
        attached.note_done(3);
        assert!(!attached.is_waiting() && attached.made().count() == 1);
        // Another one waits, and the first stays made.
        let two = Containers { endpoints: vec![endpoint("wp00000001", 7), endpoint("wp00000002", 8)], ..one };
        assert!(attached.set(two));
        attached.note_told(4);
        assert!(attached.is_waiting() && attached.made().count() == 1);
    }

    #[test]
    fn only_its_own_ports_and_containers_concern_a_network() {
        let mut attached = Attached::default();
        let gone = ["wp00000009".parse().unwrap()].into();
        attached.set(Containers { endpoints: vec![endpoint("wp00000001", 7)], gone, ..Containers::default() });
        let has = |port: &str| attached.has_port(port.parse().unwrap());
        assert!(has("wp00000001") && has("wp00000009") && !has("wp00000002"));
        assert!(attached.is_in(Namespace::Guest(7)) && !attached.is_in(Namespace::Guest(8)));
    }
}

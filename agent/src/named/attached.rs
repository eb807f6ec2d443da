//! The containers on one network: which links are desired for them, and how far the kernel is with these. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use wire_backends::{Segment, SegmentEndpoint};
use wire_net::LinkName;
use wire_state::{DesiredNet, Namespace, Scope};

use super::{part::scope_of, undone::Undone};
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

impl Containers {
    /// Takes away those that were not among the former ones.
    pub(super) fn keep_those_of(&mut self, former: &Attached) {
        self.endpoints.retain(|endpoint| former.has(endpoint));
        let endpoints = &self.endpoints;
        self.opened.retain(|namespace, _| endpoints.iter().any(|one| one.inside.namespace == *namespace));
    }
}

/// The containers on a network, and since which change of its share the loop of `Network` knows of each.
#[derive(Debug, Default)]
pub(super) struct Attached {
    containers: Containers,
    told: BTreeMap<LinkName, u64>,
    left: BTreeMap<AttachmentId, u64>,
    /// The ports whose containers have all that they should have.
    made: BTreeSet<LinkName>,
    /// The reasons why others have not.
    faults: BTreeMap<LinkName, String>,
    /// The attachments whose ports are gone.
    gone: BTreeSet<AttachmentId>,
    /// [`NetworkShare::tries`].
    tries: u64,
}

impl Attached {
    /// True if there are none, and none is leaving.
    pub(super) fn is_empty(&self) -> bool {
        self.containers == Containers::default()
    }

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
            self.made.retain(|port| same.contains(port));
            self.faults.retain(|port, _| same.contains(port));
            self.left.retain(|id, _| containers.leaving.contains(id));
            self.gone.retain(|id| containers.leaving.contains(id));
            self.containers = containers;
        }
        differs
    }

    /// Has what could not be done tried again with the next share.
    pub(super) const fn try_again(&mut self) {
        self.tries += 1;
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
        NetworkShare {
            desired,
            scope,
            spare: Default::default(),
            guests,
            subnets: None,
            revision: None,
            tries: self.tries,
        }
    }

    /// Notes that the share with them was told as this change.
    pub(super) fn note_told(&mut self, number: u64) {
        for endpoint in &self.containers.endpoints {
            self.told.entry(endpoint.port).or_insert(number);
        }
        self.note_leaving(number);
    }

    /// Notes that the removal of ports alone was told as this change.
    pub(super) fn note_leaving(&mut self, number: u64) {
        for id in &self.containers.leaving {
            self.left.entry(*id).or_insert(number);
        }
    }

    /// True if the removal of some ports was not told yet.
    pub(super) fn has_more_leaving(&self) -> bool {
        self.containers.leaving.iter().any(|id| !self.left.contains_key(id))
    }

    /// Notes that a round has taken this change into account, and could not do so much of it. True if all of it is done.
    pub(super) fn note_done(&mut self, number: u64, undone: Option<Undone<'_>>) -> bool {
        for endpoint in &self.containers.endpoints {
            if self.told.get(&endpoint.port).is_none_or(|told| *told > number) {
                continue;
            }
            match undone.and_then(|undone| undone.at(endpoint)) {
                Some(why) => {
                    self.made.remove(&endpoint.port);
                    self.faults.insert(endpoint.port, why);
                }
                None => {
                    self.faults.remove(&endpoint.port);
                    self.made.insert(endpoint.port);
                }
            }
        }
        let is_gone = |id: &AttachmentId| {
            let is_of_it = |port: LinkName| port.as_str().starts_with(id.port(0).as_str());
            !undone.is_some_and(|undone| undone.keeps(is_of_it))
        };
        let told = self.left.iter().filter(|(_, told)| **told <= number).map(|(id, _)| *id);
        let (gone, left): (BTreeSet<AttachmentId>, BTreeSet<AttachmentId>) = told.partition(is_gone);
        self.gone.extend(gone);
        // They are to be told again.
        self.left.retain(|id, _| !left.contains(id));
        self.faults.is_empty() && left.is_empty()
    }

    /// Notes that it is not known what a round has done of this change. What was removed is to be told again.
    pub(super) fn note_unknown(&mut self, number: u64) {
        self.left.retain(|id, told| *told > number || self.gone.contains(id));
    }

    /// True if something was told that no round has done yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.containers.endpoints.iter().any(|endpoint| !self.made.contains(&endpoint.port))
            || self.containers.leaving.iter().any(|id| !self.gone.contains(id))
    }

    /// True if a container is among them as it is.
    pub(super) fn has(&self, endpoint: &SegmentEndpoint) -> bool {
        self.containers.endpoints.contains(endpoint)
    }

    /// The containers whose links are made, as far as is known.
    pub(super) fn made(&self) -> impl Iterator<Item = &SegmentEndpoint> {
        self.containers.endpoints.iter().filter(|endpoint| self.made.contains(&endpoint.port))
    }

    /// The reason why a container does not have all that it should have, by its port.
    pub(super) const fn faults(&self) -> &BTreeMap<LinkName, String> {
        &self.faults
    }

    /// The attachments whose ports are removed.
    pub(super) const fn left(&self) -> &BTreeSet<AttachmentId> {
        &self.gone
    }

    /// The ports that are not to be there.
    pub(super) const fn unwanted(&self) -> &BTreeSet<LinkName> {
        &self.containers.gone
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::undone::tests::{endpoint, failed, unmade},
        *,
    };

    #[test]
    fn a_link_is_made_when_a_round_has_done_the_change_in_which_it_was_told() {
        let mut attached = Attached::default();
        let one = Containers { endpoints: vec![endpoint("wp00000001", 7)], ..Containers::default() };
        assert!(attached.set(one.clone()) && !attached.set(one.clone()));
        assert!(attached.is_waiting() && attached.made().count() == 0);
        attached.note_told(3);
        attached.note_done(2, None);
        assert_eq!(attached.made().count(), 0);
        assert!(attached.note_done(3, None));
        assert!(!attached.is_waiting() && attached.made().count() == 1);
        // Another one waits, and the first stays made.
        let two = Containers { endpoints: vec![endpoint("wp00000001", 7), endpoint("wp00000002", 8)], ..one };
        assert!(attached.set(two));
        attached.note_told(4);
        assert!(attached.is_waiting() && attached.made().count() == 1);
    }

    #[test]
    fn a_container_that_cannot_have_its_link_stops_no_other_and_is_made_later() {
        let mut attached = Attached::default();
        let (bad, good) = (endpoint("wp00000001", 7), endpoint("wp00000002", 8));
        attached.set(Containers { endpoints: vec![bad.clone(), good.clone()], ..Containers::default() });
        attached.note_told(1);
        let report = unmade(&[&bad]);
        assert!(!attached.note_done(1, Undone::of(&report)));
        assert_eq!(attached.made().collect::<Vec<_>>(), [&good]);
        assert!(attached.faults()[&bad.port].contains("is there already"));
        assert!(attached.is_waiting());
        assert!(attached.note_done(2, None));
        assert!(attached.faults().is_empty() && attached.made().count() == 2);
    }

    #[test]
    fn an_attachment_is_gone_when_its_own_ports_are_removed() {
        let mut attached = Attached::default();
        let [one, other] = [1_u64 << 32, 2 << 32].map(AttachmentId::new);
        let gone: BTreeSet<LinkName> = [one.port(0), one.port(1), other.port(0)].into();
        attached.set(Containers { gone: gone.clone(), leaving: [one, other].into(), ..Containers::default() });
        assert_eq!(attached.unwanted(), &gone);
        attached.note_told(1);
        let delete = wire_state::Op::Kernel(Namespace::Host, wire_state::KernelOp::DeleteLink(one.port(1)));
        let report = failed(vec![delete], nix::errno::Errno::EBUSY);
        assert!(!attached.note_done(1, Undone::of(&report)));
        assert_eq!(attached.left(), &[other].into());
        assert!(attached.is_waiting() && attached.has_more_leaving(), "it is to be told again");
        attached.note_leaving(2);
        attached.note_unknown(2);
        assert!(attached.has_more_leaving(), "nothing is known of a round that has not tried it");
        attached.note_leaving(2);
        assert!(attached.note_done(2, None) && !attached.is_waiting());
        assert_eq!(attached.left(), &[one, other].into());
    }
}

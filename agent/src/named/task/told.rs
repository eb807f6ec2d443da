//! What the task tells of attachments: the status, and those who wait.

use std::collections::{BTreeMap, BTreeSet};

use wire_net::NetworkName;
use wire_state::{LinkPlace, Namespace};

use super::NamedTask;
use crate::{
    attach::{AttachmentId, Endpoint, Status},
    named::{
        NetworkSeen,
        attachments::{AttachmentSeen, AttachmentState, EndpointSeen},
        part::{Part, Trouble},
    },
    ports::Ports,
    status::{self, AgentCondition},
};

impl<P: Ports> NamedTask<P> {
    /// Tells the status how the networks are that were looked at: no other has changed.
    pub(super) fn publish(&self, looked: &BTreeSet<NetworkName>) {
        let seen = looked.iter().map(|name| (name, self.parts.get(name).map(Part::seen)));
        let is_new = |(name, seen): &(&NetworkName, Option<NetworkSeen>)| {
            self.status.look(|status| status.networks.get(*name) != seen.as_ref())
        };
        let changes: Vec<(&NetworkName, Option<NetworkSeen>)> = seen.filter(is_new).collect();
        if !changes.is_empty() {
            self.status.update(|status| {
                for (name, seen) in changes {
                    match seen {
                        Some(seen) => drop(status.networks.insert(name.clone(), seen)),
                        None => drop(status.networks.remove(name)),
                    }
                }
            });
        }
        debug_assert!(self.status.look(|status| self.shows_all(status)), "a network has changed without an event");
        let faults = self.parts.iter().filter_map(|(network, part)| match &part.trouble {
            Trouble::None | Trouble::Waits(_) => None,
            Trouble::Fault(why) => Some(AgentCondition::NetworkByName { network: network.clone(), why: why.clone() }),
        });
        self.status.set_all(AgentCondition::NETWORK_BY_NAME, faults);
    }

    /// True if a status has all networks as they are.
    fn shows_all(&self, status: &status::Status) -> bool {
        let seen = self.parts.iter().map(|(name, part)| (name.clone(), part.seen()));
        status.networks == seen.collect::<BTreeMap<_, _>>()
    }

    /// Tells the status how each attachment is, then those who wait for one.
    pub(super) fn publish_attachments(&mut self) {
        let statuses = self.attachments.placement.statuses(self.attachments.all(), &self.arrivals());
        let seen: BTreeMap<AttachmentId, AttachmentSeen> =
            self.attachments.all().keys().filter_map(|id| Some((*id, self.seen(*id, statuses.get(id))?))).collect();
        let ready: Vec<AttachmentId> = self
            .attachments
            .askers
            .keys()
            .filter(|id| {
                seen.get(*id).is_some_and(|seen| seen.state != AttachmentState::Waiting || self.is_for_later(**id))
            })
            .copied()
            .collect();
        if self.status.look(|status| status.attachments != seen) {
            self.status.update(|status| status.attachments = seen);
        }
        if self.unsaved.is_none() {
            ready.into_iter().for_each(|id| self.attachments.answer(id, &Ok(())));
        }
        self.answer_leavers();
    }

    /// True if all that can be done for an attachment now is done: its container does not run.
    fn is_for_later(&self, id: AttachmentId) -> bool {
        let is_wanted = self.attachments.placement.wanted.values().any(|ids| ids.contains(&id));
        let has_addresses =
            self.parts.values().filter_map(|part| part.entry.endpoints.get(&id)).any(|all| !all.is_empty());
        let can_be_several = self.attachments.all().get(&id).is_some_and(|one| one.guest.can_be_several());
        self.is_saved && !is_wanted && (has_addresses || can_be_several)
    }

    /// Tells those who wait until an attachment is gone: its links are, and that is on disk.
    fn answer_leavers(&mut self) {
        if !self.is_saved {
            return;
        }
        let is_there = |id: &AttachmentId| self.parts.values().any(|part| part.entry.endpoints.contains_key(id));
        let gone: Vec<AttachmentId> = self.attachments.leavers.keys().filter(|id| !is_there(id)).copied().collect();
        for id in gone {
            for leaver in self.attachments.leavers.remove(&id).into_iter().flatten() {
                // It may have stopped waiting.
                let _ = leaver.send(Ok(()));
            }
        }
    }

    fn seen(&self, id: AttachmentId, status: Option<&Status>) -> Option<AttachmentSeen> {
        let attachment = self.attachments.all().get(&id)?;
        let part = self.parts.get(attachment.network());
        let endpoints = part.and_then(|part| part.entry.endpoints.get(&id)).map_or(&[][..], Vec::as_slice);
        let fault = self.attachments.faults.get(&id);
        let (state, reason) = match (status?, fault) {
            (Status::Blocked(why), _) | (_, Some(why)) => (AttachmentState::Blocked, why.clone()),
            (Status::Attached(_), None) => (AttachmentState::Attached, String::new()),
            (Status::Waiting, None) => (AttachmentState::Waiting, self.waits_for(id, endpoints)),
        };
        let made = part.map(Part::made).unwrap_or_default();
        let endpoint = |endpoint: &Endpoint| {
            let port = id.port(endpoint.slot);
            let inside = made.iter().find(|made| made.port == port).map(|made| made.inside);
            let since = endpoint.attached.as_ref().filter(|attached| {
                inside.is_some_and(|inside| inside.namespace == Namespace::Guest(attached.namespace))
            });
            EndpointSeen {
                holder: endpoint.holder.clone().unwrap_or_default(),
                addresses: endpoint.addresses,
                mac: endpoint.mac,
                since: since.map(|attached| attached.since.clone()).unwrap_or_default(),
                port,
                links: inside.map(|inside| [LinkPlace::in_host(port), inside]),
            }
        };
        Some(AttachmentSeen {
            guest: attachment.guest.to_string(),
            network: attachment.network().clone(),
            interface: attachment.interface,
            state,
            reason,
            endpoints: endpoints.iter().map(endpoint).collect(),
        })
    }

    /// The reason why an attachment waits.
    fn waits_for(&self, id: AttachmentId, endpoints: &[Endpoint]) -> String {
        let Some(attachment) = self.attachments.all().get(&id) else { return String::new() };
        let is_wanted = self.attachments.placement.wanted.values().any(|ids| ids.contains(&id));
        // Only who could have its interface otherwise waits for the network.
        if (endpoints.is_empty() || is_wanted)
            && let Some(part) = self.parts.get(attachment.network())
        {
            let seen = part.seen();
            let network = attachment.network();
            if !seen.reason.is_empty() {
                return format!("network {network}: {}", seen.reason);
            }
        }
        let running = self.attachments.running.borrow();
        match running.doubt().filter(|_| attachment.guest.asks_docker()) {
            Some(why) => format!("it is not known which containers run: {why}"),
            None if is_wanted => String::new(),
            None => format!("{} is not running", attachment.guest),
        }
    }
}

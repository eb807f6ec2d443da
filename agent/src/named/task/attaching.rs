//! What the task does for attachments: a container gets addresses of its network, and the network's share its links.

use std::collections::{BTreeMap, BTreeSet};

use tokio::time::Instant;
use tracing::{debug, info};
use wire_backends::SegmentEndpoint;
use wire_net::{LinkName, NetworkName, chain};
use wire_state::{LinkPlace, Namespace};

use super::NamedTask;
use crate::{
    attach::{Arrival, Attached, AttachmentId, Placement, Seen},
    guests::{HelperError, Place, Running},
    named::{
        Ground,
        attached::Containers,
        attachments::{AttachRequest, AttachWish, NewAttachment, Noted, Which},
        document::Entry,
        jobs::Done,
        part::Part,
        undone::Undone,
    },
    ports::Ports,
    status::shown,
};

impl<P: Ports> NamedTask<P> {
    /// Takes a command. It is on disk before it is noted.
    pub(super) async fn take_attach(&mut self, AttachRequest { wish, noted, done }: AttachRequest) {
        let outcome = match wish {
            AttachWish::Attach(new) => self.attach(new).await,
            AttachWish::Detach(which) => self.detach(&which).await,
        };
        if let Ok((Noted { ids, .. }, is_attach)) = &outcome {
            let waiting = if *is_attach { &mut self.attachments.askers } else { &mut self.attachments.leavers };
            // One asker waits for one of them: with the last, all are gone.
            if let Some(last) = ids.last() {
                let all = waiting.entry(*last).or_default();
                all.retain(|asker| !asker.is_closed());
                all.push(done);
            }
        }
        // Whoever asked may have stopped waiting.
        let _ = noted.send(outcome.map(|(noted, _)| noted));
    }

    async fn attach(&mut self, new: NewAttachment) -> Result<(Noted, bool), String> {
        let host = self.ground.as_ref().map(|ground| ground.host);
        let host = host.ok_or("the network is not joined yet: see wire-agent status")?;
        if !self.ports.has_guests() {
            return Err("this host has no containers".to_owned());
        }
        if let Some(id) = self.attachments.same_as(&new) {
            return Ok((Noted { ids: [id].into(), is_already: true }, true));
        }
        let document = self.attachments.document(&new, self.ports.random());
        document.check().map_err(|refused| refused.to_string())?;
        self.attachments.check_new(&new)?;
        let (folder, mut found) = (self.attachments.folder.clone(), self.attachments.found.clone());
        let (id, network) = (document.id, new.network);
        info!(attachment = %id, guest = %document.guest, %network, interface = %document.interface, "attachment");
        let kept = self.ports.blocking(move || folder.keep(&document, &mut found).map(|_| found)).await;
        self.attachments.found = kept.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
        let part = self.parts.entry(network).or_insert_with(|| Part::new(host, Entry::default()));
        self.is_saved &= !want(part, id);
        Ok((Noted { ids: [id].into(), is_already: false }, true))
    }

    async fn detach(&mut self, which: &Which) -> Result<(Noted, bool), String> {
        let ids = self.attachments.meant(which)?;
        if ids.is_empty() {
            return Err(format!("there is no such attachment of {}: see wire-agent attachments", which.guest));
        }
        for id in &ids {
            info!(attachment = %id, "detached");
            self.forget(*id).await?;
            self.attachments.answer(*id, &Err("it was detached meanwhile".to_owned()));
        }
        Ok((Noted { ids, is_already: false }, false))
    }

    /// Removes the document of an attachment.
    async fn forget(&mut self, id: AttachmentId) -> Result<(), String> {
        let (folder, mut found) = (self.attachments.folder.clone(), self.attachments.found.clone());
        let removed = self.ports.blocking(move || folder.remove(id, &mut found).map(|_| found)).await;
        self.attachments.found = removed.map_err(|error| error.to_string())?.map_err(|error| chain(&error))?;
        self.attachments.faults.remove(&id);
        Ok(())
    }

    /// Refuses attachments of a network that were asked for just now, and that cannot be made.
    pub(super) async fn refuse_new(&mut self, network: &NetworkName, why: &str) {
        let Some(part) = self.parts.get(network) else { return };
        let without = part.entry.endpoints.iter().filter(|(_, endpoints)| endpoints.is_empty());
        let new = without.map(|(id, _)| *id).filter(|id| self.attachments.is_awaited(*id));
        for id in new.collect::<Vec<AttachmentId>>() {
            self.refuse(network, id, why).await;
        }
    }

    /// Refuses attachments that were asked for just now, and whose addresses nobody can have.
    pub(super) async fn refuse_faulty(&mut self) {
        let new = self.attachments.faults.iter().filter(|(id, _)| self.attachments.is_awaited(**id));
        let new: Vec<(AttachmentId, String)> = new.map(|(id, why)| (*id, why.clone())).collect();
        for (id, why) in new {
            let network = self.attachments.all().get(&id).map(|attachment| attachment.network().clone());
            if let Some(network) = network {
                self.refuse(&network, id, &why).await;
            }
        }
    }

    pub(super) async fn refuse(&mut self, network: &NetworkName, id: AttachmentId, why: &str) {
        self.due.note(network);
        if let Err(error) = self.forget(id).await {
            debug!(attachment = %id, error, "a refused attachment stays");
            return;
        }
        if let Some(part) = self.parts.get_mut(network)
            && part.entry.endpoints.get(&id).is_some_and(Vec::is_empty)
        {
            part.entry.endpoints.remove(&id);
            self.is_saved = false;
            if !part.entry.is_wanted() {
                part.turn();
            }
        }
        self.attachments.answer(id, &Err(why.to_owned()));
    }

    /// Ends attachments whose guest is gone for good: a process that has ended, a container that Docker does not know any more.
    pub(super) async fn end_for_good(&mut self) {
        for (id, why) in self.attachments.ended_for_good() {
            if let Err(error) = self.forget(id).await {
                debug!(attachment = %id, error, "an attachment whose guest is gone for good stays");
                continue;
            }
            info!(attachment = %id, why, "its guest is gone for good: the attachment has ended");
            self.attachments.answer(id, &Err(format!("its guest is gone for good: {why}")));
        }
    }

    /// Compares attachments with guests and addresses, and begins what is to be done.
    pub(super) fn look_at_attachments(&mut self, ground: &Ground<P::Store>) {
        let is_idle =
            self.attachments.all().is_empty() && self.parts.values().all(|part| part.entry.endpoints.is_empty());
        if is_idle {
            self.attachments.spots.follow(std::iter::empty(), &Running::default(), Instant::now());
            return;
        }
        let documents: Vec<_> = self.attachments.all().values().map(|one| (one.network().clone(), one.id)).collect();
        for (network, id) in documents {
            let part = self.parts.entry(network).or_insert_with(|| Part::new(ground.host, Entry::default()));
            self.is_saved &= !want(part, id);
        }
        if self.attachments.all().values().any(|one| one.guest.asks_docker()) {
            self.attachments.watched.start();
        }
        for (place, process) in self.attachments.place(Instant::now()) {
            self.open(place, process);
        }
        self.attachments.clashes = self.attachments.placement.clashes(self.attachments.all(), &self.arrivals());
        let names: Vec<NetworkName> = self.parts.keys().cloned().collect();
        for name in names {
            let Some(mut part) = self.parts.remove(&name) else { continue };
            self.give_addresses(&name, &mut part, ground);
            self.parts.insert(name, part);
        }
    }

    fn open(&mut self, place: Place, process: Option<u32>) {
        let (helper, asked) = (self.attachments.watched.helper.clone(), place.clone());
        let opening = self.ports.blocking(move || helper.open(&asked));
        let otherwise = Done::Opened(place.clone(), process, Err(HelperError::HungUp));
        self.begin(otherwise, async move {
            let opened = opening.await.unwrap_or(Err(HelperError::HungUp));
            Done::Opened(place, process, opened)
        });
    }

    /// Notes that a round has taken a share into account: addresses of attachments that are gone are free then. True if all that it has for containers
    /// is done.
    pub(super) fn note_round(&mut self, name: &NetworkName, number: u64) -> bool {
        let (time, random) = (shown(self.ports.time_of_day()), self.ports.random().clone());
        let Some(part) = self.parts.get_mut(name) else { return true };
        let attached = part.attached();
        let last = self.status.look(|seen| seen.dataplane.last.clone());
        let is_done = match last.as_deref().map(Undone::of) {
            None => attached.note_done(number, None),
            Some(None) => {
                attached.note_unknown(number);
                false
            }
            Some(Some(undone)) => attached.note_done(number, Some(undone)),
        };
        if !is_done {
            part.progress.tell_again(&random, Instant::now());
        }
        let is_there = |endpoint: &&SegmentEndpoint| {
            let ends = [LinkPlace::in_host(endpoint.port), endpoint.inside];
            self.status.look(|seen| seen.blocked_at(&ends).is_none())
        };
        let made = part.attached().made().filter(is_there);
        let made: BTreeMap<_, _> = made.map(|endpoint| (endpoint.port, endpoint.inside.namespace)).collect();
        for (id, endpoints) in &mut part.entry.endpoints {
            for endpoint in endpoints {
                let Some(Namespace::Guest(namespace)) = made.get(&id.port(endpoint.slot)).copied() else { continue };
                if endpoint.attached.as_ref().is_none_or(|attached| attached.namespace != namespace) {
                    endpoint.attached = Some(Attached { namespace, since: time.clone() });
                    self.is_saved = false;
                }
            }
        }
        let was_wanted = part.entry.is_wanted();
        for id in part.attached().left().clone() {
            if part.entry.endpoints.remove(&id).is_some() {
                self.is_saved = false;
            }
        }
        if was_wanted && !part.entry.is_wanted() {
            part.turn();
        }
        is_done
    }

    /// The containers on a network as they are now.
    pub(super) fn containers(&self, part: &mut Part) -> Containers {
        let attachments = &self.attachments;
        let running = attachments.running.borrow();
        let gives_way = |id: &AttachmentId, place: Option<&Place>| {
            attachments.clashes.get(id).is_some_and(|at| place.is_some_and(|place| at.contains_key(place)))
        };
        let mut containers = Containers::default();
        for (id, endpoints) in &part.entry.endpoints {
            let attachment = attachments.all().get(id);
            if attachment.is_none() {
                containers.leaving.insert(*id);
            }
            let places = places_of(&attachments.placement, *id);
            for endpoint in endpoints {
                let port = id.port(endpoint.slot);
                let place = places.iter().find(|place| endpoint.holder == Some(place.key()));
                match (attachment, place.map(|place| attachments.spots.seen(place))) {
                    (None, _) => drop(containers.gone.insert(port)),
                    (Some(_), Some(Seen::Reached(..))) if gives_way(id, place) => {
                        containers.gone.insert(port);
                    }
                    (Some(attachment), Some(Seen::Reached(namespace, opened))) => {
                        let inside = LinkPlace { namespace, name: attachment.interface };
                        let (addresses, mac) = (endpoint.addresses, endpoint.mac);
                        containers.endpoints.push(SegmentEndpoint { port, inside, addresses, mac });
                        containers.opened.insert(namespace, opened.clone());
                    }
                    // Nothing is known of it yet, so it stays as it is.
                    (Some(_), Some(Seen::Unknown | Seen::Barred(_) | Seen::Gone)) => {}
                    (Some(attachment), None) => {
                        let is_known = !attachment.guest.asks_docker() || running.doubt().is_none();
                        if is_known && endpoint.holder.is_some() {
                            containers.gone.insert(port);
                        }
                    }
                }
            }
        }
        containers.gone.extend(part.dropped_ports());
        part.set_ports(part.entry.container_ports());
        containers
    }

    /// The answer for each place.
    pub(super) fn arrivals(&self) -> BTreeMap<Place, Arrival> {
        let made = self.parts.values().flat_map(Part::made);
        let made: BTreeSet<(LinkName, Namespace)> = made.map(|made| (made.port, made.inside.namespace)).collect();
        let faults: BTreeMap<LinkName, &String> =
            self.parts.values().flat_map(Part::faults).map(|(port, why)| (*port, why)).collect();
        let mut arrivals = BTreeMap::new();
        for (place, ids) in &self.attachments.placement.wanted {
            let arrival = match self.attachments.spots.seen(place) {
                Seen::Unknown => continue,
                Seen::Gone => Arrival::Gone,
                Seen::Barred(why) => Arrival::Barred(why.to_owned()),
                Seen::Reached(namespace, _) => {
                    let is_made =
                        |id: &&AttachmentId| self.ports_at(**id, place).any(|port| made.contains(&(port, namespace)));
                    let fault = |id: &AttachmentId| {
                        let why = self.ports_at(*id, place).find_map(|port| faults.get(&port))?;
                        Some((*id, (*why).clone()))
                    };
                    let made = ids.iter().filter(is_made).copied().collect();
                    Arrival::Reached { namespace, made, faults: ids.iter().filter_map(fault).collect() }
                }
            };
            arrivals.insert(place.clone(), arrival);
        }
        arrivals
    }

    /// The ports that an attachment has for a place.
    fn ports_at(&self, id: AttachmentId, place: &Place) -> impl Iterator<Item = LinkName> {
        let endpoints = self.parts.values().filter_map(move |part| part.entry.endpoints.get(&id)).flatten();
        let key = Some(place.key());
        endpoints.filter(move |endpoint| endpoint.holder == key).map(move |endpoint| id.port(endpoint.slot))
    }
}

/// Has an attachment take part in the network. True if it has not yet.
fn want(part: &mut Part, id: AttachmentId) -> bool {
    if part.entry.endpoints.contains_key(&id) {
        return false;
    }
    let was_wanted = part.entry.is_wanted();
    part.entry.endpoints.insert(id, Vec::new());
    if !was_wanted {
        part.turn();
    }
    true
}

/// The places that an attachment is wanted in.
pub(super) fn places_of(placement: &Placement, id: AttachmentId) -> BTreeSet<Place> {
    placement.wanted.iter().filter(|(_, ids)| ids.contains(&id)).map(|(place, _)| place.clone()).collect()
}

//! The addresses of containers: chosen from those of this host, claimed in the store where they are not, and given back.

use std::{collections::BTreeSet, net::IpAddr};

use tokio::time::Instant;
use tracing::debug;
use wire_lease::named::{Joining, NetworkError, Room};
use wire_net::{NetworkName, chain};

use super::{NamedTask, attaching::places_of, steps::joining};
use crate::{
    attach::{self, AttachmentId, Endpoint},
    named::{
        Ground, Leased,
        choice::{self, Choice, Need, Taken},
        jobs::{self, Done, late},
        part::{Part, Trouble},
    },
    ports::Ports,
};

impl<P: Ports> NamedTask<P> {
    /// Gives each container that runs an address, and each attachment that can be for one alone.
    pub(super) fn give_addresses(&mut self, name: &NetworkName, part: &mut Part, ground: &Ground<P::Store>) {
        if part.entry.held.is_none() {
            // Nothing of those that are gone is anywhere.
            let before = part.entry.endpoints.len();
            part.entry.endpoints.retain(|id, _| self.attachments.all().contains_key(id));
            self.is_saved &= before == part.entry.endpoints.len();
        }
        self.is_saved &= !part.drop_lost(ground.leased, Instant::now());
        let ids: Vec<AttachmentId> = part.entry.endpoints.keys().copied().collect();
        for id in ids {
            let Some(attachment) = self.attachments.all().get(&id).cloned() else { continue };
            let places = places_of(&self.attachments.placement, id);
            let Some(endpoints) = part.entry.endpoints.get_mut(&id) else { continue };
            let (lacking, has_changed) = attach::hold(endpoints, &places);
            self.is_saved &= !has_changed;
            let reserves = endpoints.is_empty() && lacking.is_empty() && !attachment.guest.can_be_several();
            let holders = lacking.iter().map(|place| Some(place.key())).chain(reserves.then_some(None));
            self.attachments.faults.remove(&id);
            for holder in holders {
                let Some(kept) = part.entry.held.as_ref() else { break };
                if !part.knows_others() {
                    break;
                }
                let (own, named) = (addresses_in(part), self.attachments.named(name));
                match choice::choose(
                    &attachment,
                    kept,
                    &Taken { own, named, holder: &|address| part.other_holder(address) },
                ) {
                    Choice::Has { addresses, mac } => {
                        let endpoints = part.entry.endpoints.entry(id).or_default();
                        let slot = attach::free_slot(endpoints);
                        endpoints.push(Endpoint { slot, holder, addresses, mac, attached: None });
                        self.is_saved = false;
                    }
                    Choice::Needs(need) => {
                        self.get(name, part, ground, (id, need));
                        break;
                    }
                    Choice::Refused(why) => {
                        drop(self.attachments.faults.insert(id, why));
                        break;
                    }
                }
            }
        }
    }

    /// Begins to get what a container needs in the store.
    fn get(
        &mut self,
        name: &NetworkName,
        part: &mut Part,
        ground: &Ground<P::Store>,
        (id, need): (AttachmentId, Need),
    ) {
        if !part.is_free(Instant::now()) {
            return;
        }
        let Some(kept) = part.entry.held.clone() else { return };
        match self.store() {
            None => part.wait_for("etcd has not answered since the agent's start"),
            Some((_, Leased::Not)) => part.wait_for("this host has no lease in etcd at the moment"),
            Some((store, Leased::With(lease))) => {
                debug!(network = %name, attachment = %id, ?need, "addresses are needed");
                part.is_busy = true;
                let (name, joining): (NetworkName, Joining) = (name.clone(), joining(ground, part, lease));
                match need {
                    Need::More => {
                        let otherwise = Done::Held(name.clone(), Err(late()));
                        self.begin(otherwise, jobs::grow(store, name, kept, joining));
                    }
                    Need::Claim(address, mac) => {
                        let otherwise = Done::Claimed(name.clone(), id, Err(late()));
                        self.begin(otherwise, jobs::claim(store, name, (id, joining), (address, mac)));
                    }
                }
            }
        }
    }

    /// Begins to give a single address back that no container has any more, also the last one of a network that this host stays in.
    pub(super) fn release_idle(&mut self, name: &NetworkName, part: &mut Part, ground: &Ground<P::Store>) {
        let can_write = matches!(self.store(), Some((_, Leased::With(_))));
        if !can_write || !part.is_free(Instant::now()) {
            return;
        }
        let mut used = addresses_in(part);
        used.extend(self.attachments.named(name));
        let Some(room) = part.entry.held.as_ref().and_then(|kept| choice::idle(kept, &used)) else { return };
        // From now on nobody is given it.
        if let Some(kept) = part.entry.held.as_mut() {
            kept.rooms.retain(|held| *held != room);
        }
        self.is_saved = false;
        self.begin_to_release(name, part, ground, room);
    }

    /// Begins to give a block or an address back that this host does not hold any more.
    pub(super) fn begin_to_release(
        &mut self,
        name: &NetworkName,
        part: &mut Part,
        ground: &Ground<P::Store>,
        room: Room,
    ) {
        let Some((store, _)) = self.store() else { return };
        part.is_busy = true;
        let otherwise = Done::Released(name.clone(), room, Err(late()));
        self.begin(otherwise, jobs::release(store, name.clone(), ground.host, room));
    }

    /// Notes the end of a job for attachments.
    pub(super) async fn note_claimed(
        &mut self,
        name: NetworkName,
        id: AttachmentId,
        claimed: Result<Room, NetworkError>,
    ) {
        let (now, random) = (Instant::now(), self.ports.random().clone());
        let Some(part) = self.parts.get_mut(&name) else { return };
        part.is_busy = false;
        match claimed {
            Ok(room) => {
                part.again = None;
                if let Some(kept) = part.entry.held.as_mut().filter(|kept| !kept.rooms.contains(&room)) {
                    kept.rooms.push(room);
                    self.is_saved = false;
                }
            }
            Err(error @ NetworkError::Store(_)) => {
                part.put_off(Trouble::Waits(chain(&error)), &random, now);
            }
            Err(error) if self.attachments.is_awaited(id) => {
                self.refuse(&name, id, &chain(&error)).await;
            }
            Err(error) => {
                part.put_off(Trouble::Fault(chain(&error)), &random, now);
            }
        }
    }

    /// Notes that a single address was given back.
    pub(super) fn note_released(&mut self, name: &NetworkName, room: Room, released: &Result<(), NetworkError>) {
        let (now, random) = (Instant::now(), self.ports.random().clone());
        let Some(part) = self.parts.get_mut(name) else { return };
        part.is_busy = false;
        if let Err(error) = released {
            // While rooms are in doubt it is found again, and nobody's containers have it.
            let is_in_doubt = part.doubts_rooms(now);
            let held = part.entry.held.as_mut().filter(|kept| !is_in_doubt && !kept.rooms.contains(&room));
            if let Some(kept) = held {
                kept.rooms.push(room);
                self.is_saved = false;
            }
            part.put_off(Trouble::Waits(chain(error)), &random, now);
        }
    }
}

/// The addresses of this host and its containers in a network.
fn addresses_in(part: &Part) -> BTreeSet<IpAddr> {
    let own = part.entry.held.iter().flat_map(|kept| kept.member.own.iter().map(|(_, own)| *own));
    let endpoints = part.entry.endpoints.values().flatten();
    own.chain(endpoints.flat_map(|endpoint| endpoint.addresses.iter().map(|(_, address)| *address))).collect()
}

//! This host's part in one network: what its devices need, and how it stands. Pure.

mod askers;
mod filtered;
mod held;
mod lost;
mod others;
mod patience;
mod port;
mod progress;
mod settled;
mod shares;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};
use wire_backends::{HostsOfNetwork, Segment, SegmentEndpoint};
use wire_firewall::ContainerPort;
use wire_lease::named::NamedNetwork;
use wire_net::{HostId, LinkName};
use wire_store::Backoff;

use self::patience::Patience;
pub(crate) use self::shares::scope_of;
pub(super) use self::{
    filtered::{AfterFilter, Filtered},
    port::{FreePorts, is_of_agent},
    progress::{Kernel, Progress},
};
use super::{
    Leased, NetworkSeen, NetworkState,
    attached::{Attached, Containers},
    document::Entry,
    filter::Members,
    lack::Lack,
};

/// This host's part in a network.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) entry: Entry,
    own: HostId,
    hosts: HostsOfNetwork,
    /// The network as it was admitted last; `None` before the first time in this run.
    admitted: Option<Arc<NamedNetwork>>,
    /// The ports of containers on the network's bridge, each with the MAC and the addresses that may send there.
    ports: Vec<ContainerPort>,
    /// The containers whose links are desired, or are not any more.
    attached: Attached,
    members: Members,
    pub(super) filtered: Filtered,
    pub(super) progress: Progress,
    /// The UDP port of its packets, if the agent moves them ([`port`]).
    port: Option<u16>,
    /// Ports that somebody else has.
    taken_ports: BTreeSet<u16>,
    /// Until when hosts that vanish are kept, since the store has lost something.
    keep_until: Option<Instant>,
    /// When the network as it is admitted is to be saved; `None` if it is, or is being saved.
    save_at: Option<Instant>,
    /// True if a job runs for it.
    pub(super) is_busy: bool,
    /// The addresses in this host's blocks that others have, as of the last join; `None` before one.
    foreign: Option<Vec<IpAddr>>,
    /// When the next job may begin, after one that failed.
    pub(super) again: Option<Instant>,
    pauses: Backoff,
    /// True if the records have shown what the last job has written, so that what they lack later is lost.
    has_seen: bool,
    /// From when on they must show it.
    check_at: Option<Instant>,
    /// The lease with which the records have shown all that this host holds, and since when.
    shown: Option<(Leased, Instant)>,
    /// Until when it is waited that another host gives up what this one holds, and what its containers have.
    taken_rooms: Patience,
    taken_addresses: Patience,
    /// Until when the store may have rooms that this host has given back.
    spare_until: Option<Instant>,
    pub(super) trouble: Trouble,
    /// Those who wait until the network is as wished.
    pub(super) askers: Vec<oneshot::Sender<Result<(), String>>>,
}

/// The reason why a network is not as it should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Trouble {
    #[default]
    None,
    /// Something is waited for, and known elsewhere.
    Waits(String),
    /// Something is wrong with this network.
    Fault(String),
}

const PAUSES: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
/// The time after which a watch must have shown what was written.
const SHOWN: Duration = Duration::from_secs(3);
/// The time between a change and the write of what is known: many changes cause one.
const SAVE: Duration = Duration::from_secs(5);
/// As long as leases that vanish at once are held.
const KEEP: Duration = Duration::from_secs(30);

impl Part {
    pub(super) fn new(own: HostId, entry: Entry) -> Self {
        Self {
            entry,
            own,
            hosts: HostsOfNetwork::new(own),
            admitted: None,
            ports: Vec::new(),
            attached: Attached::default(),
            members: Members::default(),
            filtered: Filtered::default(),
            progress: Progress::default(),
            port: None,
            taken_ports: BTreeSet::new(),
            keep_until: None,
            save_at: None,
            is_busy: false,
            foreign: None,
            again: None,
            pauses: PAUSES,
            has_seen: false,
            check_at: None,
            shown: None,
            taken_rooms: Patience::default(),
            taken_addresses: Patience::default(),
            spare_until: None,
            trouble: Trouble::None,
            askers: Vec::new(),
        }
    }

    /// Begins to take part, or to leave, unless there are containers on it.
    pub(super) fn wish(&mut self, is_exposed: bool) {
        let was_wanted = self.entry.is_wanted();
        self.entry.is_exposed = is_exposed;
        if was_wanted != self.entry.is_wanted() {
            self.turn();
        }
    }

    /// Begins anew after this host has begun to take part, or to leave.
    pub(super) fn turn(&mut self) {
        (self.again, self.trouble, self.progress) = (None, Trouble::None, Progress::default());
    }

    /// Holds nothing any more.
    pub(super) fn forget(&mut self) {
        let mut entry = Entry { held: None, ..std::mem::take(&mut self.entry) };
        entry.endpoints.values_mut().for_each(Vec::clear);
        entry.dropped.clear();
        *self = Self {
            filtered: std::mem::take(&mut self.filtered),
            askers: std::mem::take(&mut self.askers),
            ..Self::new(self.own, entry)
        };
    }

    /// Takes what the store lacks at `now`. True if a job must write it.
    pub(super) fn note_lack(&mut self, lack: Option<Lack>, now: Instant) -> bool {
        let Some(lack) = lack else {
            (self.has_seen, self.check_at, self.trouble) = (true, None, Trouble::None);
            return false;
        };
        let may_come = !self.has_seen && self.check_at.is_some_and(|at| now < at);
        if may_come {
            return false;
        }
        if lack.is_loss() {
            self.keep_until = Some(now + KEEP);
        }
        self.trouble = match lack {
            Lack::Stale => Trouble::Waits(lack.to_string()),
            Lack::Network | Lack::Other | Lack::Bare | Lack::Member | Lack::Room(_) | Lack::Lost(_) => {
                Trouble::Fault(lack.to_string())
            }
        };
        lack != Lack::Other
    }

    /// Puts the next job off, after one that failed.
    pub(super) fn put_off(&mut self, trouble: Trouble, random: &wire_store::Random, now: Instant) {
        self.trouble = trouble;
        self.again = Some(now + self.pauses.pause(random).max(Duration::from_millis(100)));
    }

    /// Notes what a job waits for. A fault that is known stays.
    pub(super) fn wait_for(&mut self, what: &str) {
        match self.trouble {
            Trouble::Fault(_) => {}
            Trouble::None | Trouble::Waits(_) => self.trouble = Trouble::Waits(what.to_owned()),
        }
    }

    /// True if a job may begin.
    pub(super) fn is_free(&self, now: Instant) -> bool {
        !self.is_busy && self.again.is_none_or(|again| again <= now)
    }

    /// The next time at which something is to be done without an event, after a look at `looked`. What was due by then and is not done waits for
    /// an event: etcd's answer, a lease, the end of another time.
    pub(super) fn next_time(&self, looked: Instant) -> Option<Instant> {
        let again = self.again.filter(|_| !self.is_busy);
        let taken = [self.taken_rooms.0, self.taken_addresses.0];
        let times =
            [again, self.check_at, self.keep_until, self.save_at, self.progress.tell_at()].into_iter().chain(taken);
        times.flatten().filter(|time| *time > looked).min()
    }

    /// True if it is time to save the network as it is admitted. Then it is being saved from now on. What may be lost is not saved.
    pub(super) fn is_to_be_saved(&mut self, now: Instant) -> bool {
        self.keep_until.is_none() && self.save_at.take_if(|at| *at <= now).is_some()
    }

    /// Notes that it was saved, or could not be.
    pub(super) fn note_saved(&mut self, is_saved: bool, now: Instant) {
        if !is_saved {
            self.save_at.get_or_insert(now + SAVE);
        }
    }

    /// Brings it forward to the network as it is admitted. True if its record is another in what may be changed.
    pub(super) fn admit(&mut self, network: &Arc<NamedNetwork>, now: Instant) -> bool {
        let Some(kept) = &mut self.entry.held else { return false };
        let record = network.record();
        if record.vni != kept.record.vni || record.pools != kept.record.pools {
            return false;
        }
        let has_ended = self.keep_until.take_if(|until| *until <= now).is_some();
        if has_ended || self.admitted.as_ref().is_none_or(|before| !Arc::ptr_eq(before, network)) {
            match self.keep_until {
                Some(_) => self.hosts.update_and_keep(network),
                None => self.hosts.update(network),
            }
            self.admitted = Some(network.clone());
            self.progress.is_behind = true;
            self.save_at.get_or_insert(now + SAVE);
        }
        let is_other = kept.record != *record;
        if is_other {
            kept.record = record.clone();
        }
        is_other
    }

    /// Sets the ports of containers on the network's bridge, before [`Part::share`]. A port that the packet filter does not know sends nothing.
    pub(super) fn set_ports(&mut self, ports: Vec<ContainerPort>) {
        if self.ports != ports {
            self.ports = ports;
            self.progress.is_behind = true;
        }
    }

    /// Sets the containers that are attached now.
    pub(super) fn set_attached(&mut self, containers: Containers) {
        if self.attached.set(containers) {
            self.progress.is_behind = true;
        }
    }

    /// The containers' links, and the progress of the kernel with them.
    pub(super) const fn attached(&mut self) -> &mut Attached {
        &mut self.attached
    }

    /// The containers whose links are made, as far as is known.
    pub(super) fn made(&self) -> Vec<SegmentEndpoint> {
        self.attached.made().cloned().collect()
    }

    /// The reasons why containers do not have all that they should have, by their ports.
    pub(super) const fn faults(&self) -> &BTreeMap<LinkName, String> {
        self.attached.faults()
    }

    /// Its devices, if it has any.
    pub(super) fn links(&self) -> Vec<LinkName> {
        let vni = self.entry.held.as_ref().map(|kept| kept.record.vni);
        vni.map(|vni| vec![Segment::bridge(vni), Segment::overlay(vni)]).unwrap_or_default()
    }

    pub(super) fn seen(&self) -> NetworkSeen {
        let held = self.entry.held.as_ref();
        let is_up = held.is_some() && self.progress.kernel == Kernel::Done;
        let state = match (self.entry.is_wanted(), is_up) {
            (true, true) => NetworkState::Joined,
            (true, false) => NetworkState::Waiting,
            (false, _) => NetworkState::Leaving,
        };
        let reason = match &self.trouble {
            Trouble::None => self.progress.undone().to_owned(),
            Trouble::Waits(why) | Trouble::Fault(why) => why.clone(),
        };
        NetworkSeen {
            state,
            is_exposed: self.entry.is_exposed,
            reason,
            vni: held.map(|kept| kept.record.vni),
            own: held.map(|kept| kept.member.own).unwrap_or_default(),
            rooms: held.iter().flat_map(|kept| &kept.rooms).map(|room| room.prefix().to_string()).collect(),
            others: self.hosts.hosts().others.len(),
            port: held.map(|kept| kept.member.port),
            is_userspace: self.port.is_some(),
        }
    }
}

#[cfg(test)]
mod tests;

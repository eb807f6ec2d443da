//! This host's part in one network: what its devices need, and how it stands. Pure.

mod askers;
mod filtered;
mod held;
mod lost;
mod others;
mod patience;
mod port;
mod settled;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};
use wire_backends::{HostsOfNetwork, NetFromSegment, Segment, SegmentEndpoint, SegmentOuter};
use wire_firewall::{ContainerPort, SegmentShare};
use wire_lease::named::{Kept, NamedNetwork};
use wire_net::{DualStack, HostId, LinkName, MacAddr, Mtu, Vni};
use wire_state::{DesiredNet, Marks, PerNamespace, Scope};
use wire_store::Backoff;

use self::patience::Patience;
pub(super) use self::{
    filtered::{AfterFilter, Filtered},
    port::{FreePorts, is_of_agent},
};
use super::{
    Leased, NetworkSeen, NetworkState,
    attached::{Attached, Containers},
    document::Entry,
    filter::{self, Members},
    lack::Lack,
};
use crate::datapath::NetworkShare;

/// This host's part in a network.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) entry: Entry,
    own: HostId,
    hosts: HostsOfNetwork,
    /// The network as it was admitted last; `None` before the first time in this run.
    admitted: Option<Arc<NamedNetwork>>,
    computed: Option<(Segment, NetFromSegment)>,
    /// The ports of containers on the network's bridge, each with the MAC and the addresses that may send there.
    ports: Vec<ContainerPort>,
    /// The containers whose links are desired, or are not any more.
    attached: Attached,
    members: Members,
    pub(super) filtered: Filtered,
    /// The share in the kernel's state that waits until the packet filter knows of the network.
    pub(super) after_filter: Option<AfterFilter>,
    /// The UDP port of its packets, if the agent moves them ([`port`]).
    port: Option<u16>,
    /// Ports that somebody else has.
    taken_ports: BTreeSet<u16>,
    /// True if `computed` does not follow from `hosts` as they are now.
    is_behind: bool,
    /// Until when hosts that vanish are kept, since the store has lost something.
    keep_until: Option<Instant>,
    pub(super) kernel: Kernel,
    /// When a share that could not be done is set again.
    tell_at: Option<Instant>,
    /// When the network as it is admitted is to be saved; `None` if it is, or is being saved.
    save_at: Option<Instant>,
    /// True if a job runs for it.
    pub(super) is_busy: bool,
    /// The addresses in this host's blocks that others have, as of the last join; `None` before one.
    foreign: Option<Vec<IpAddr>>,
    /// When the next job may begin, after one that failed.
    pub(super) again: Option<Instant>,
    pauses: Backoff,
    telling: Backoff,
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
    /// The reason why the kernel does not have all of the last share, for people; empty if it has.
    undone: String,
    /// Those who wait until the network is as wished.
    pub(super) askers: Vec<oneshot::Sender<Result<(), String>>>,
}

/// The progress of the kernel with the share that was set last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// None is set.
    Nothing,
    /// A round that takes this change into account is waited for.
    Told(u64),
    /// The round is done.
    Done,
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
/// The pauses before a share that could not be done is set again. Each try reads the whole kernel.
const TELLING: Backoff = Backoff::new(TELL_AGAIN, Duration::from_secs(15));
/// The shortest of them.
const TELL_AGAIN: Duration = Duration::from_secs(1);
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
            computed: None,
            ports: Vec::new(),
            attached: Attached::default(),
            members: Members::default(),
            filtered: Filtered::default(),
            after_filter: None,
            port: None,
            taken_ports: BTreeSet::new(),
            is_behind: true,
            keep_until: None,
            kernel: Kernel::Nothing,
            save_at: None,
            tell_at: None,
            is_busy: false,
            foreign: None,
            again: None,
            pauses: PAUSES,
            telling: TELLING,
            has_seen: false,
            check_at: None,
            shown: None,
            taken_rooms: Patience::default(),
            taken_addresses: Patience::default(),
            spare_until: None,
            trouble: Trouble::None,
            undone: String::new(),
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
        (self.again, self.trouble, self.undone) = (None, Trouble::None, String::new());
        (self.computed, self.kernel, self.after_filter, self.tell_at) = (None, Kernel::Nothing, None, None);
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
        let times = [again, self.check_at, self.keep_until, self.save_at, self.tell_at].into_iter().chain(taken);
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
            (self.admitted, self.is_behind) = (Some(network.clone()), true);
            self.save_at.get_or_insert(now + SAVE);
        }
        let is_other = kept.record != *record;
        if is_other {
            kept.record = record.clone();
        }
        is_other
    }

    /// The share in the kernel's state, if it is another than before; `None` also before the network was admitted.
    pub(super) fn share(&mut self, outer: SegmentOuter) -> Option<NetworkShare> {
        let kept = self.entry.held.as_ref().filter(|_| self.admitted.is_some())?;
        let segment = segment(self.own, kept, self.outer(outer));
        let is_same = self.computed.as_ref().is_some_and(|(before, _)| *before == segment);
        if is_same && !std::mem::take(&mut self.is_behind) {
            return None;
        }
        self.is_behind = false;
        let computed = match self.computed.take() {
            Some((_, mut computed)) => {
                computed.update(&segment, self.hosts.hosts());
                computed
            }
            None => NetFromSegment::new(&segment, self.hosts.hosts()),
        };
        let share = self.attached.share(&segment, computed.net().clone());
        self.computed = Some((segment, computed));
        Some(share)
    }

    /// Sets the ports of containers on the network's bridge, before [`Part::share`]. A port that the packet filter does not know sends nothing.
    pub(super) fn set_ports(&mut self, ports: Vec<ContainerPort>) {
        if self.ports != ports {
            (self.ports, self.is_behind) = (ports, true);
        }
    }

    /// Sets the containers that are attached now.
    pub(super) fn set_attached(&mut self, containers: Containers) {
        if self.attached.set(containers) {
            self.is_behind = true;
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

    /// Has the share set anew after a pause, since not all of it is in the kernel. Each pause is longer than the one before.
    pub(super) fn tell_again(&mut self, random: &wire_store::Random, now: Instant) {
        let pause = self.telling.pause(random).max(TELL_AGAIN);
        (self.is_behind, self.tell_at) = (true, Some(now + pause));
    }

    /// Notes that a round has left nothing undone of the devices, and whether of containers' links neither. One that an older share was told by
    /// says nothing about the one that is waited for.
    pub(super) fn note_round(&mut self, number: u64, is_done: bool) {
        let is_awaited = self.kernel == Kernel::Told(number);
        if is_awaited {
            self.kernel = Kernel::Done;
            self.undone.clear();
        }
        if is_done && self.kernel == Kernel::Done {
            self.telling.reset();
        }
    }

    /// Notes why not all of the share is in the kernel.
    pub(super) fn note_undone(&mut self, why: &str) {
        self.undone = format!("its devices are not as they should be, and this is tried again: {why}");
    }

    /// Ends the pause before the share is set anew.
    pub(super) fn forget_pause(&mut self) {
        self.tell_at = None;
    }

    /// True if a share that could not be done waits.
    pub(super) fn waits_to_tell(&mut self, now: Instant) -> bool {
        self.tell_at = self.tell_at.filter(|at| *at > now);
        self.tell_at.is_some()
    }

    /// The share that only removes ports, while nothing else is desired.
    pub(super) fn without_ports(&self, outer: &SegmentOuter) -> NetworkShare {
        let marks = Marks { port: Some(outer.port), ..Marks::default() };
        share(DesiredNet::default(), Scope { devices: self.attached.unwanted().clone(), marks, ..Scope::default() })
    }

    /// The share in the packet filter that belongs to the last [`Part::share`].
    pub(super) fn filter(&mut self) -> Option<SegmentShare> {
        let (segment, computed) = self.computed.as_ref()?;
        Some(filter::share(segment, computed, (&mut self.members, self.hosts.hosts()), &self.ports))
    }

    /// The share in the packet filter while it is not known who else takes part, so that nobody sends to devices of an earlier run.
    pub(super) fn closed(&self, outer: SegmentOuter) -> Option<SegmentShare> {
        let kept = self.entry.held.as_ref()?;
        Some(filter::alone(&segment(self.own, kept, self.outer(outer))))
    }

    /// The share of a network that this host leaves: nothing, in the place of its devices. `None` if it has none.
    pub(super) fn leaving(&self, outer: &SegmentOuter) -> Option<NetworkShare> {
        let kept = self.entry.held.as_ref()?;
        Some(share(DesiredNet::default(), scope_of(kept.record.vni, outer)))
    }

    /// Its devices, if it has any.
    pub(super) fn links(&self) -> Vec<LinkName> {
        let vni = self.entry.held.as_ref().map(|kept| kept.record.vni);
        vni.map(|vni| vec![Segment::bridge(vni), Segment::overlay(vni)]).unwrap_or_default()
    }

    pub(super) fn seen(&self) -> NetworkSeen {
        let held = self.entry.held.as_ref();
        let is_up = held.is_some() && self.kernel == Kernel::Done;
        let state = match (self.entry.is_wanted(), is_up) {
            (true, true) => NetworkState::Joined,
            (true, false) => NetworkState::Waiting,
            (false, _) => NetworkState::Leaving,
        };
        let reason = match &self.trouble {
            Trouble::None => self.undone.clone(),
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

fn share(net: DesiredNet, scope: Scope) -> NetworkShare {
    let (desired, guests) = (Arc::new(PerNamespace::host(net)), BTreeMap::new());
    NetworkShare { desired, scope, spare: Default::default(), guests, subnets: None, revision: None }
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

fn segment(host: HostId, kept: &Kept, outer: SegmentOuter) -> Segment {
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

#[cfg(test)]
mod tests;

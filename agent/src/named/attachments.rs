//! The attachments of this host: their documents, the guests that run, and who waits for what.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::IpAddr,
    path::Path,
};

use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use wire_net::{DualStack, LinkName, MacAddr, NetworkName};
use wire_state::{LinkPlace, Namespace};
use wire_store::Random;

use crate::{
    attach::{
        Attachment, AttachmentId, BootId, Clashes, Folder, Found, Known, Link, Origin, Placement, Selector, Spots,
        Watched, Wish, ended_for_good, second_interface,
    },
    guests::{Place, Running},
};

/// A command about attachments.
#[derive(Debug)]
pub(crate) struct AttachRequest {
    pub(crate) wish: AttachWish,
    /// Is told when the wish is on disk, or why it is refused.
    pub(crate) noted: oneshot::Sender<Result<Noted, String>>,
    /// Is told when it is as wished, or why it never will be.
    pub(crate) done: oneshot::Sender<Result<(), String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttachWish {
    Attach(NewAttachment),
    Detach(Which),
}

/// The wish of `wire-agent attach`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewAttachment {
    pub(crate) guest: Selector,
    /// The namespace of the first guest that it means, if that was looked at.
    pub(crate) namespace: Option<Namespace>,
    pub(crate) network: NetworkName,
    /// `None`: the first free one from eth1 on.
    pub(crate) interface: Option<LinkName>,
    pub(crate) addresses: DualStack<IpAddr>,
    pub(crate) mac: Option<MacAddr>,
}

/// Which attachments of a guest are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Which {
    pub(crate) guest: Selector,
    pub(crate) network: Option<NetworkName>,
    pub(crate) interface: Option<LinkName>,
}

/// The attachments that a command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Noted {
    pub(crate) ids: BTreeSet<AttachmentId>,
    /// True if all was as wished before.
    pub(crate) is_already: bool,
}

/// The state of an attachment, for the status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AttachmentSeen {
    pub(crate) guest: String,
    pub(crate) network: NetworkName,
    pub(crate) interface: LinkName,
    pub(crate) state: AttachmentState,
    /// The reason why it is not attached; else empty.
    pub(crate) reason: String,
    pub(crate) endpoints: Vec<EndpointSeen>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttachmentState {
    Waiting,
    Attached,
    Blocked,
}

/// The interface that an attachment gives to one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointSeen {
    /// Whose it is, or was last; empty if it was nobody's.
    pub(crate) holder: String,
    pub(crate) addresses: DualStack<IpAddr>,
    pub(crate) mac: MacAddr,
    /// Since when it is attached; empty if it is not.
    pub(crate) since: String,
    pub(crate) port: LinkName,
    /// Both ends, if it is attached.
    pub(crate) links: Option<[LinkPlace; 2]>,
}

impl AttachmentState {
    /// The stable name, for programs.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Attached => "attached",
            Self::Blocked => "blocked",
        }
    }
}

/// All attachments of this host.
#[derive(Debug)]
pub(super) struct Attachments {
    pub(super) folder: Folder,
    pub(super) found: Found,
    pub(super) watched: Watched,
    pub(super) running: watch::Receiver<Running>,
    pub(super) spots: Spots,
    /// This run of the kernel.
    boot: Option<BootId>,
    /// Where each is wanted, as of the last look.
    pub(super) placement: Placement,
    /// Those that give way to others.
    pub(super) clashes: Clashes,
    /// The reasons why some have no address.
    pub(super) faults: BTreeMap<AttachmentId, String>,
    /// Those who wait until one is attached.
    pub(super) askers: BTreeMap<AttachmentId, Vec<oneshot::Sender<Result<(), String>>>>,
    /// Those who wait until one is gone.
    pub(super) leavers: BTreeMap<AttachmentId, Vec<oneshot::Sender<Result<(), String>>>>,
}

/// The number of interfaces that a new attachment may be called by.
const INTERFACES: u16 = 1000;

impl Attachments {
    /// Those of a host that can have guests, from its state folder; of another host none.
    ///
    /// # Errors
    /// When they cannot be read.
    pub(super) fn load(has_guests: bool, state: &Path, watched: Watched) -> io::Result<Self> {
        let folder = Folder::in_folder(state);
        let found = if has_guests { folder.load()? } else { Found::default() };
        for (file, why) in &found.refused {
            tracing::warn!(file = %file.display(), why, "a document is no attachment: it is left alone");
        }
        Ok(Self {
            folder,
            found,
            running: watched.subscribe(),
            watched,
            spots: Spots::default(),
            boot: BootId::of_kernel(),
            placement: Placement::default(),
            clashes: Clashes::new(),
            faults: BTreeMap::new(),
            askers: BTreeMap::new(),
            leavers: BTreeMap::new(),
        })
    }

    pub(super) const fn all(&self) -> &BTreeMap<AttachmentId, Attachment> {
        &self.found.attachments
    }

    /// Those whose guests are gone for good, with the reasons.
    pub(super) fn ended_for_good(&self) -> Vec<(AttachmentId, &'static str)> {
        // Nothing that others wait for is done while this is held.
        let running = self.running.borrow();
        let known = Known { running: &running, spots: &self.spots, boot: self.boot.as_ref() };
        let reason = |one: &Attachment| Some((one.id, ended_for_good(one, &known)?));
        self.all().values().filter_map(reason).collect()
    }

    /// Compares documents with guests, and returns the places to be opened now, with the processes for which they are.
    pub(super) fn place(&mut self, now: Instant) -> Vec<(Place, Option<u32>)> {
        let running = self.running.borrow_and_update();
        self.placement = Placement::new(&self.found.attachments, running.guests(), self.boot.as_ref());
        self.spots.look_for_ended(now);
        self.spots.follow(self.placement.wanted.keys(), &running, now)
    }

    /// The one that is already as a new one is to be.
    pub(super) fn same_as(&self, new: &NewAttachment) -> Option<AttachmentId> {
        self.all().values().find(|there| new.is_there_as(there)).map(|there| there.id)
    }

    /// Refuses a second interface of a guest in one network ([`second_interface`]), also by another selector, as far as it is known what that means.
    /// Documents that are there stay.
    ///
    /// # Errors
    /// The attachment that the guest has there, for people.
    pub(super) fn check_new(&self, new: &NewAttachment) -> Result<(), String> {
        let of_network = || self.all().values().filter(|there| there.network() == &new.network);
        let same = of_network().find(|there| there.guest.is_for_same(&new.guest));
        let first = same.map(|there| second_interface(&there.guest, there)).or_else(|| {
            let running = self.running.borrow();
            let at = new.guest.places(running.guests()).unwrap_or_default();
            let placement = Placement::new(&self.found.attachments, running.guests(), self.boot.as_ref());
            let namespaces: BTreeSet<Namespace> =
                at.iter().filter_map(|place| self.spots.namespace(place)).chain(new.namespace).collect();
            let is_one = |place: &Place| {
                at.contains(place) || self.spots.namespace(place).is_some_and(|there| namespaces.contains(&there))
            };
            let mut theirs = placement.wanted.iter().filter(|(place, _)| is_one(place));
            theirs.find_map(|(place, ids)| {
                let there = of_network().find(|there| ids.contains(&there.id))?;
                Some(second_interface(place, there))
            })
        });
        match first {
            None => Ok(()),
            Some(first) => Err(format!("{first}; detach that one first, or attach this one to another network")),
        }
    }

    /// The document of a new one.
    pub(super) fn document(&self, new: &NewAttachment, random: &Random) -> Attachment {
        let of_guest = self.all().values().filter(|there| there.guest.is_for_same(&new.guest));
        let taken: BTreeSet<LinkName> = of_guest.map(|there| there.interface).collect();
        let mut names = (1..INTERFACES).filter_map(|number| format!("eth{number}").parse().ok());
        let free = names.find(|name| !taken.contains(name)).unwrap_or_else(|| "eth1".parse().expect("a name"));
        let id = || AttachmentId::new(u64::from_be_bytes(random.bytes()));
        let is_free = |id: &AttachmentId| self.all().keys().all(|other| other.short() != id.short());
        Attachment {
            id: std::iter::repeat_with(id).find(is_free).expect("there are few of them"),
            generation: 1,
            number: self.all().values().map(|there| there.number).max().unwrap_or_default() + 1,
            origin: Origin::Cli,
            guest: new.guest.clone(),
            interface: new.interface.unwrap_or(free),
            link: Link::Network { name: new.network.clone() },
            mac: new.mac,
            addresses: new.wishes(),
            gateway: None,
            routes: Vec::new(),
            mtu: None,
        }
    }

    /// Those that are meant. A guest may be given as the id of an attachment, too; a word as `attach` takes it: a name, else the beginning of a
    /// container's id, else a process.
    ///
    /// # Errors
    /// When a word is the beginning of the ids of two containers.
    pub(super) fn meant(&self, which: &Which) -> Result<BTreeSet<AttachmentId>, String> {
        let all = |is_meant: &dyn Fn(&Selector) -> bool| -> BTreeMap<AttachmentId, &Selector> {
            let meant = self.all().values().filter(|there| which.is_part(there));
            meant.filter(|there| is_meant(&there.guest)).map(|there| (there.id, &there.guest)).collect()
        };
        let written: BTreeSet<AttachmentId> =
            self.all().values().filter(|there| which.means(there)).map(|there| there.id).collect();
        let Selector::Word(word) = &which.guest else { return Ok(written) };
        if !written.is_empty() {
            return Ok(written);
        }
        let by_id = all(&|guest| matches!(guest, Selector::Id(digits) if digits.starts_with(word.as_str())));
        if let Some(first) = by_id.values().next()
            && let Some(other) = by_id.values().find(|guest| *guest != first)
        {
            return Err(format!("{word} means both {first} and {other}: give more digits of the id"));
        }
        if !by_id.is_empty() {
            return Ok(by_id.into_keys().collect());
        }
        let pid = word.parse().ok();
        Ok(all(&|guest| matches!(guest, Selector::Process { pid: number, .. } if Some(*number) == pid))
            .into_keys()
            .collect())
    }

    /// The addresses that attachments of a network name.
    pub(super) fn named(&self, network: &NetworkName) -> BTreeSet<IpAddr> {
        let of_network = self.all().values().filter(|there| there.network() == network);
        of_network
            .flat_map(|there| super::choice::fixed(there).v4.into_iter().chain(super::choice::fixed(there).v6))
            .collect()
    }

    /// True if somebody waits for one. Who has been told that it takes longer does not: then it is tried again and again.
    pub(super) fn is_awaited(&self, id: AttachmentId) -> bool {
        self.askers.get(&id).is_some_and(|all| all.iter().any(|asker| !asker.is_closed()))
    }

    /// Tells who waits for one.
    pub(super) fn answer(&mut self, id: AttachmentId, answer: &Result<(), String>) {
        for asker in self.askers.remove(&id).into_iter().flatten() {
            // It may have stopped waiting.
            let _ = asker.send(answer.clone());
        }
    }
}

impl Which {
    fn means(&self, there: &Attachment) -> bool {
        let is_its_id = || self.guest.to_string().parse().ok() == Some(there.id);
        (there.guest.is_for_same(&self.guest) || is_its_id()) && self.is_part(there)
    }

    /// True if it is of the network and interface, whatever the guest.
    fn is_part(&self, there: &Attachment) -> bool {
        self.network.as_ref().is_none_or(|network| there.network() == network)
            && self.interface.is_none_or(|interface| there.interface == interface)
    }
}

impl NewAttachment {
    fn is_there_as(&self, there: &Attachment) -> bool {
        there.guest.is_for_same(&self.guest)
            && there.network() == &self.network
            && self.interface.is_none_or(|interface| interface == there.interface)
            && there.addresses == self.wishes()
            && there.mac == self.mac
    }

    fn wishes(&self) -> Vec<Wish> {
        let fixed: Vec<Wish> = self
            .addresses
            .iter()
            .map(|(family, address)| Wish::Static { address: *address, len: family.bits() })
            .collect();
        if fixed.is_empty() { vec![Wish::Network] } else { fixed }
    }
}

#[cfg(test)]
mod tests;

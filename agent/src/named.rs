//! Networks by name: this host's part in those that it was told to take part in ([`Named`]).
//!
//! A task beside the session of the default network. Input: what the network was joined with ([`Ground`]), the folders of the store, and commands.
//! Output: for each network its shares in the loops of `Network` and `Firewall`, what this host holds of it in the store and on disk ([`Document`]), and the status.
//! A host that takes part in none follows nothing.

mod attached;
mod attachments;
mod choice;
mod document;
mod expected;
mod filter;
mod jobs;
mod known;
mod lack;
mod part;
#[cfg(test)]
mod samples;
mod seen;
mod task;
mod undone;
mod wishes;

use std::net::IpAddr;

use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use wire_backends::SegmentOuter;
use wire_lease::{HoldState, named::Occupied};
use wire_net::{DualStack, HostId, NetworkName};
use wire_store::{LeaseId, LeaseStore};

pub use self::wishes::{NetworkWishes, WishError};
pub(crate) use self::{
    attachments::{
        AttachRequest, AttachWish, AttachmentSeen, AttachmentState, EndpointSeen, NewAttachment, Noted, Which,
    },
    document::{Document, DocumentFile},
    expected::{NamedShares, expected, list, saved},
    known::KnownFiles,
    seen::{NetworkSeen, NetworkState},
    undone::not_done,
};
use crate::{attach::Watched, exit::Exit, host::Host, loops::Loops, ports::Ports};

/// The ground of networks by name: the default network, as it was joined.
#[derive(Clone, Debug)]
pub(crate) struct Ground<S> {
    /// The number of joins of the default network, this one included.
    pub(crate) joins: u64,
    /// The number of times that its leases were listed anew since then, after a watch had ended: the store may have been restored from a backup.
    pub(crate) resyncs: u64,
    pub(crate) host: HostId,
    /// `None` if the network was joined with the saved state, since etcd has not answered.
    pub(crate) store: Option<S>,
    /// Where other hosts reach this one.
    pub(crate) public: DualStack<IpAddr>,
    pub(crate) outer: SegmentOuter,
    /// Addresses that no network by name may have.
    pub(crate) occupied: Vec<Occupied>,
    pub(crate) leased: Leased,
}

/// The store's lease with which this host's keys expire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leased {
    /// This host has no subnet lease at the moment.
    Not,
    /// It has this one; `None` if it is a reservation, which never expires.
    With(Option<LeaseId>),
}

impl Leased {
    /// The lease of this state.
    pub(crate) fn of(state: &HoldState) -> Self {
        match state {
            HoldState::Held { entry, .. } => Self::With(entry.origin.lease),
            HoldState::Acquiring { .. } | HoldState::Lost { .. } => Self::Not,
        }
    }
}

/// A command about a network.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) network: NetworkName,
    pub(crate) wish: Wish,
    /// Is told when the network is as wished, or why it never will be.
    pub(crate) done: oneshot::Sender<Result<(), String>>,
}

/// The wish of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// This host takes part, with an address of its own.
    Expose,
    /// It does not.
    Hide,
}

/// A handle on the task that keeps this host's part in networks by name. The task ends with the last one.
#[derive(Clone, Debug)]
pub(crate) struct Named<S> {
    /// Told by the session of the default network.
    pub(crate) ground: watch::Sender<Option<Ground<S>>>,
    pub(crate) requests: mpsc::Sender<Request>,
    pub(crate) attaching: mpsc::Sender<AttachRequest>,
    /// The containers that run.
    pub(crate) watched: Watched,
}

/// The number of commands that wait until the task takes them.
const REQUESTS: usize = 16;

impl<S: LeaseStore> Named<S> {
    /// Starts the task in `tasks`. Nothing is written before the default network is joined.
    ///
    /// # Errors
    /// When the document exists and cannot be read.
    pub(crate) fn start<P: Ports<Store = S>>(
        host: &Host<P>,
        loops: &Loops,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, Exit> {
        let (ground, stood_on) = watch::channel(None);
        let (requests, received) = mpsc::channel(REQUESTS);
        let (attaching, to_attach) = mpsc::channel(REQUESTS);
        let watched = Watched::new(&host.settings.folders.run_dir);
        let task = task::NamedTask::new(host, loops, stood_on, (received, to_attach), watched.clone())?;
        tasks.spawn(task.run());
        Ok(Self { ground, requests, attaching, watched })
    }

    /// Notes addresses of etcd. Those that are not found any more stay protected.
    pub(crate) fn note_endpoints(&self, found: &[IpAddr]) {
        self.ground.send_if_modified(|ground| {
            let Some(ground) = ground else { return false };
            let new: Vec<Occupied> = Occupied::by_etcd(found).filter(|one| !ground.occupied.contains(one)).collect();
            ground.occupied.extend(&new);
            !new.is_empty()
        });
    }

    /// Notes the store's lease of this host.
    pub(crate) fn note_lease(&self, leased: Leased) {
        self.ground
            .send_if_modified(|ground| ground.as_mut().is_some_and(|ground| replace(&mut ground.leased, leased)));
    }

    /// Notes how often the leases were listed anew.
    pub(crate) fn note_resyncs(&self, resyncs: u64) {
        self.ground
            .send_if_modified(|ground| ground.as_mut().is_some_and(|ground| replace(&mut ground.resyncs, resyncs)));
    }
}

/// True if the value was another.
fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    let is_other = *place != value;
    *place = value;
    is_other
}

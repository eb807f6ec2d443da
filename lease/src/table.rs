//! All leases of the network at one moment, and which of them are let in.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use wire_net::Subnet;
use wire_store::{LeaseId, Revision};

use crate::{Lease, hold_down::HoldDown};

/// Where a lease stands in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// When its key was created: the lower one of two overlapping leases wins.
    pub create_revision: Revision,
    /// When its key was written last.
    pub mod_revision: Revision,
    /// The store's lease it expires with; `None` for a reservation.
    pub lease: Option<LeaseId>,
}

/// A lease as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The lease.
    pub lease: Lease,
    /// Where it stands.
    pub origin: Origin,
}

/// An immutable snapshot of the network's leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseTable {
    /// The leases of all other hosts that were let in, whatever their backend, cut down to the families of this network.
    /// When one was renewed is known only as of the last change of the table.
    pub peers: BTreeMap<Subnet, Arc<Entry>>,
    /// How many of them have vanished from the store together with most others, and are held for a while.
    pub held: usize,
    /// The entries that were not.
    pub refused: Refused,
    /// Addresses in the network that this host reaches without the overlay. None of the leases let in holds one.
    pub outside: Vec<IpAddr>,
    /// The store's revision this is the state of.
    pub revision: Revision,
    /// What has vanished lately, for whoever follows the leases next.
    pub(crate) hold_down: HoldDown,
}

/// The entries that were not let in: some of each kind by their key (escaped where it is no UTF-8), as which this can be
/// looked at, and how many there are. Whoever writes a hundred thousand of them fills neither memory nor log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    named: BTreeMap<String, Refusal>,
    counts: BTreeMap<RefusalKind, usize>,
}

impl Refused {
    /// So many of each kind are named.
    pub const NAMED: usize = 100;

    /// Their number of each kind, named or not.
    #[must_use]
    pub const fn counts(&self) -> &BTreeMap<RefusalKind, usize> {
        &self.counts
    }

    /// Their number in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.counts.values().sum()
    }

    pub(crate) fn add(&mut self, key: &[u8], refusal: &Refusal) {
        let count = self.counts.entry(refusal.kind).or_default();
        *count += 1;
        if *count <= Self::NAMED {
            self.named.insert(printable(key), refusal.clone());
        }
    }
}

impl std::ops::Deref for Refused {
    type Target = BTreeMap<String, Refusal>;

    fn deref(&self) -> &Self::Target {
        &self.named
    }
}

/// The key for people: no longer than a line, nothing that a terminal would act on.
fn printable(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.contains(char::is_control) => text.chars().take(256).collect(),
        _ => key.escape_ascii().take(256).map(char::from).collect(),
    }
}

/// One entry that was not let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For counters.
    pub kind: RefusalKind,
    /// For people: what is wrong with it.
    pub reason: String,
}

/// The kind of fault of a refused entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalKind {
    /// The key names no subnet.
    Key,
    /// The value is no lease.
    Value,
    /// The subnet is none that a host of this network may have.
    Subnet,
    /// The subnet overlaps another lease, or a network this host reaches without the overlay.
    Overlap,
    /// The public IP is none that a peer may have.
    PublicIp,
    /// The VTEP MAC is none that a peer may have.
    Mac,
    /// The public IP is this host's own: the lease is an old one of it, most of the time, and no peer's.
    Own,
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Key => "key",
            Self::Value => "value",
            Self::Subnet => "subnet",
            Self::Overlap => "overlap",
            Self::PublicIp => "public-ip",
            Self::Mac => "mac",
            Self::Own => "own-ip",
        })
    }
}

impl LeaseTable {
    /// Whether the two let in the same leases, refuse the same entries and leave out the same addresses, whenever the leases were
    /// renewed.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let same_lease = |(one, other): (&Arc<Entry>, &Arc<Entry>)| Arc::ptr_eq(one, other) || one.lease == other.lease;
        self.held == other.held
            && self.refused == other.refused
            && self.outside == other.outside
            && self.peers.keys().eq(other.peers.keys())
            && self.peers.values().zip(other.peers.values()).all(same_lease)
    }
}

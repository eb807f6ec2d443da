//! A snapshot of all leases of the network: admitted and refused.

use std::{collections::BTreeMap, fmt, net::IpAddr, ops::Bound, sync::Arc};

use imbl::{OrdMap, ordmap::DiffItem};
use wire_net::{Prefix, Subnet};
use wire_store::{KeyValue, LeaseId, Revision};

use crate::{Lease, hold_down::HoldDown};

/// The revisions and the store's lease of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The revision that created its key: of two overlapping leases, the lower one wins.
    pub create_revision: Revision,
    /// The revision that wrote its key last.
    pub mod_revision: Revision,
    /// The store's lease with which it expires; `None` for a reservation.
    pub lease: Option<LeaseId>,
}

/// A lease with its origin in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The lease.
    pub lease: Lease,
    /// Its revisions and the store's lease.
    pub origin: Origin,
}

impl Origin {
    pub(crate) const fn of(kv: &KeyValue) -> Self {
        Self { create_revision: kv.create_revision, mod_revision: kv.mod_revision, lease: kv.lease }
    }
}

impl Entry {
    /// Decodes the value of the key of `subnet`; `None` if it is not a lease.
    pub(crate) fn of(subnet: Subnet, kv: &KeyValue) -> Option<Self> {
        let lease = Lease::from_value(subnet, &kv.value).ok()?;
        Some(Self { lease, origin: Origin::of(kv) })
    }

    /// Whether more than the time of renewal differs.
    fn differs(&self, other: &Self) -> bool {
        let made = |entry: &Self| (entry.origin.create_revision, entry.origin.lease);
        self.lease != other.lease || made(self) != made(other)
    }
}

/// An immutable snapshot of the network's leases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaseTable {
    /// The admitted leases of all other hosts, with any backend, reduced to the families of this network. Renewals
    /// alone do not update the table. Two snapshots share what is equal in them, so a copy costs nothing, and
    /// [`LeaseTable::changes_since`] costs only what differs.
    pub peers: OrdMap<Subnet, Arc<Entry>>,
    /// The number of `peers` that have vanished from the store together with most others, and are held for a while.
    pub held: usize,
    /// The entries that were refused.
    pub refused: Refused,
    /// Addresses in the network that this host reaches without the overlay. No admitted lease contains one.
    pub outside: Vec<IpAddr>,
    /// The store's revision of this snapshot.
    pub revision: Revision,
    /// The leases that have vanished recently, for the next follower.
    pub(crate) hold_down: HoldDown,
}

/// The refused entries: some of each kind with their keys (escaped if not UTF-8), and the number of all. A hundred
/// thousand of them fill neither memory nor log. Dereferences to the named ones.
#[derive(Clone, Debug, Default)]
pub struct Refused {
    /// Shared by snapshots.
    named: Arc<BTreeMap<String, Refusal>>,
    counts: BTreeMap<RefusalKind, usize>,
    /// Whether a named one was removed.
    has_lost_names: bool,
}

impl PartialEq for Refused {
    fn eq(&self, other: &Self) -> bool {
        self.named == other.named && self.counts == other.counts
    }
}

impl Eq for Refused {}

impl Refused {
    /// The number of entries of each kind that are named.
    pub const NAMED: usize = 100;

    /// The number of refused entries of each kind, named or not.
    #[must_use]
    pub const fn counts(&self) -> &BTreeMap<RefusalKind, usize> {
        &self.counts
    }

    /// The number of all refused entries.
    #[must_use]
    pub fn total(&self) -> usize {
        self.counts.values().sum()
    }

    pub(crate) fn add(&mut self, key: &[u8], refusal: &Refusal) {
        let count = self.counts.entry(refusal.kind).or_default();
        *count += 1;
        if *count <= Self::NAMED {
            Arc::make_mut(&mut self.named).insert(printable(key), refusal.clone());
        }
    }

    /// Takes back an entry that was added. Another one is not named in its place.
    pub(crate) fn remove(&mut self, key: &[u8], kind: RefusalKind) {
        let key = printable(key);
        if self.named.get(&key).is_some_and(|refusal| refusal.kind == kind) {
            Arc::make_mut(&mut self.named).remove(&key);
            self.has_lost_names = true;
        }
        if let Some(count) = self.counts.get_mut(&kind) {
            *count -= 1;
        }
        self.counts.retain(|_, count| *count > 0);
    }

    /// Whether an entry that was added with this kind has this reason, if it is named at all.
    pub(crate) fn may_say(&self, key: &[u8], refusal: &Refusal) -> bool {
        self.named.get(&printable(key)).is_none_or(|named| named == refusal)
    }

    /// Whether so many named ones were removed that of some kind fewer than half of what should be are named. Never if none
    /// was removed: of keys that are the same for people, only one is named.
    pub(crate) fn names_too_few(&self) -> bool {
        let is_named = |kind| self.named.values().filter(|refusal| refusal.kind == kind).count();
        let is_short = |(kind, count): (&RefusalKind, &usize)| is_named(*kind) < (*count.min(&Self::NAMED)).div_ceil(2);
        self.has_lost_names && self.named.len() < self.total() && self.counts.iter().any(is_short)
    }
}

impl std::ops::Deref for Refused {
    type Target = BTreeMap<String, Refusal>;

    fn deref(&self) -> &Self::Target {
        &self.named
    }
}

/// Formats a key for people: at most 256 characters, without control characters that a terminal would obey.
fn printable(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) if !text.contains(char::is_control) => text.chars().take(256).collect(),
        _ => key.escape_ascii().take(256).map(char::from).collect(),
    }
}

/// The reason why an entry was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind, for counters.
    pub kind: RefusalKind,
    /// The fault, for people.
    pub reason: String,
}

/// The kind of a refused entry's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalKind {
    /// The key does not name a subnet.
    Key,
    /// The value is not a lease.
    Value,
    /// No host of this network may have the subnet.
    Subnet,
    /// The subnet overlaps another lease, or a network this host reaches without the overlay.
    Overlap,
    /// No peer may have the public IP.
    PublicIp,
    /// No peer may have the VTEP MAC.
    Mac,
    /// The public IP is this host's own: usually an old lease of this host.
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

/// A lease that two snapshots have differently.
#[derive(Clone, Copy, Debug)]
pub struct LeaseChange<'a> {
    /// Its subnet, by which the snapshots have it.
    pub subnet: &'a Subnet,
    /// The entry of the earlier snapshot; `None` if the lease was added.
    pub before: Option<&'a Arc<Entry>>,
    /// The entry of the later snapshot; `None` if the lease was removed.
    pub after: Option<&'a Arc<Entry>>,
}

impl LeaseTable {
    /// The peers whose lease differs from the one in an earlier snapshot, in order of subnet. Other times of renewal are
    /// no difference. Takes a time in proportion to the changes, if this snapshot was made from that one.
    pub fn changes_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = LeaseChange<'a>> {
        before
            .peers
            .diff(&self.peers)
            .filter_map(|item| LeaseChange::of(&item, |before, after| before.lease != after.lease))
    }

    /// The same, and also those that were created anew with the same lease, or have another of the store's leases.
    pub fn entries_changed_since<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = LeaseChange<'a>> {
        before.peers.diff(&self.peers).filter_map(|item| LeaseChange::of(&item, Entry::differs))
    }

    /// The admitted leases that overlap `prefix`, each with the prefix that does. Takes a time in proportion to those
    /// found; for IPv6 in a dual-stack network, to all.
    pub fn overlapping(&self, prefix: Prefix) -> impl Iterator<Item = (Prefix, &Arc<Entry>)> {
        let family = prefix.family();
        // Subnets are ordered by their first family.
        let is_ordered = self.peers.get_min().is_some_and(|(subnet, _)| subnet.prefixes().next() == subnet.get(family));
        let first = Subnet::from(Prefix::host(prefix.network()));
        // Leases overlap no others, so one at most begins before this prefix and reaches into it.
        let before = self.peers.range(..=first).next_back().filter(|_| is_ordered);
        let from = if is_ordered { Bound::Excluded(first) } else { Bound::Unbounded };
        let after = self.peers.range((from, Bound::Unbounded));
        let leases = before.into_iter().chain(after);
        let leases = leases.filter_map(move |(subnet, entry)| Some((subnet.get(family)?, entry)));
        let is_behind = move |subnet: Prefix| is_ordered && subnet.first_bits() > prefix.last_bits();
        leases.take_while(move |(subnet, _)| !is_behind(*subnet)).filter(move |(subnet, _)| subnet.overlaps(prefix))
    }

    /// Whether both admit the same leases, refuse the same entries and have the same `outside` addresses, apart from
    /// the times of renewal.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        self.held == other.held
            && self.refused == other.refused
            && self.outside == other.outside
            && self.changes_since(other).next().is_none()
    }
}

impl<'a> LeaseChange<'a> {
    fn of(item: &DiffItem<'a, 'a, Subnet, Arc<Entry>>, differs: fn(&Entry, &Entry) -> bool) -> Option<Self> {
        match item {
            DiffItem::Add(subnet, after) => Some(Self { subnet, before: None, after: Some(after) }),
            DiffItem::Remove(subnet, before) => Some(Self { subnet, before: Some(before), after: None }),
            DiffItem::Update { old: (subnet, before), new: (_, after) } => {
                differs(before, after).then_some(Self { subnet, before: Some(before), after: Some(after) })
            }
        }
    }
}

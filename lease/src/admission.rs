//! Decides which entries of the lease directory are admitted. Pure. A bad entry is refused alone and does not affect
//! the others.

mod admitted;
mod claims;
mod conflicts;
mod rules;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc};

use wire_net::{DualStack, Family, LocalAddress, MacAddr, Pool, Prefix, Subnet};
use wire_store::Revision;

pub(crate) use self::{admitted::Admitted, rules::unreachable};
use self::{claims::Claims, rules::HostNetwork};
use crate::{
    BackendData, Entries, Entry, Lease, LeaseTable, Refusal, RefusalKind,
    entries::{Decoded, Key},
    hold_down::HoldDown,
};

/// The facts that entries are checked against.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// The network's pools.
    pub pools: DualStack<Pool>,
    /// This host's own subnet, once it has one. Its entry is not a peer.
    pub own: Option<Subnet>,
    /// This host's own public addresses. No peer may have them.
    pub public: DualStack<IpAddr>,
    /// All addresses of this host. No peer may have them, nor the network and broadcast addresses of their links.
    pub local: Vec<LocalAddress>,
    /// The MAC addresses of this host's own devices. No peer may have them.
    pub macs: DualStack<MacAddr>,
    /// Prefixes that this host reaches without the overlay. No peer's subnet may overlap them, or it would take over
    /// their routes. A prefix that contains a whole pool is ignored: there the overlay was placed inside the underlay
    /// on purpose.
    pub underlay: Vec<Prefix>,
    /// The addresses by which this host reaches the store. No peer's subnet may contain them, for the same reason.
    pub endpoints: Vec<IpAddr>,
}

/// The admission of all entries at once. [`Admitted`] comes to the same by the changes alone.
pub(crate) fn admit(entries: &Entries, hold_down: &HoldDown, admission: &Admission) -> LeaseTable {
    let (mut table, host_network) = (admission.no_leases(), HostNetwork::of(admission));
    (table.revision, table.hold_down) = (entries.revision(), hold_down.clone());
    let mut candidates = Vec::with_capacity(entries.decoded().len());
    for (presence, key, decoded) in present(entries, hold_down) {
        match admission.check(decoded, &host_network) {
            None => {}
            Some(Ok(entry)) => candidates.push(Candidate { presence, key, entry }),
            Some(Err(refusal)) => table.refuse(presence, key, &refusal),
        }
    }
    let mut peers = Vec::with_capacity(candidates.len());
    for (candidate, outcome) in claim_all(admission, &mut candidates) {
        match outcome {
            Ok(()) => {
                peers.push((candidate.entry.lease.subnet, Arc::clone(&candidate.entry)));
                table.held += usize::from(candidate.presence == Presence::Held);
            }
            Err(refusal) => table.refuse(candidate.presence, candidate.key, &refusal),
        }
    }
    table.peers = peers.into_iter().collect();
    table
}

/// Whether an entry is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Presence {
    Stored,
    /// It has vanished from the store, and is held for a while.
    Held,
}

/// All entries in the store, and those that are held.
fn present<'a>(
    entries: &'a Entries,
    hold_down: &'a HoldDown,
) -> impl Iterator<Item = (Presence, &'a Key, &'a Decoded)> {
    let stored = entries.decoded().iter().map(|(key, decoded)| (Presence::Stored, key, decoded));
    stored.chain(hold_down.held().map(|(key, decoded)| (Presence::Held, key, decoded)))
}

/// An entry that the rules for a single entry allow.
struct Candidate<'a> {
    presence: Presence,
    key: &'a Key,
    entry: Arc<Entry>,
}

impl Candidate<'_> {
    /// The oldest has the least. Leases no longer in the store come last.
    fn age(&self) -> (Presence, Revision, &Key) {
        (self.presence, self.entry.origin.create_revision, self.key)
    }
}

/// Admits candidates, oldest first, so that of two conflicting leases the older is admitted. The outcome for one depends
/// only on those that it is in conflict with, directly or through others: whoever gives these gives all that matters.
fn claim_all<'a, 'b>(
    admission: &Admission,
    candidates: &'a mut [Candidate<'b>],
) -> impl Iterator<Item = (&'a Candidate<'b>, Result<(), Refusal>)> {
    candidates.sort_unstable_by(|one, other| one.age().cmp(&other.age()));
    let mut claims = Claims::of(admission);
    candidates.iter().map(move |candidate| (candidate, claims.claim(&candidate.entry)))
}

impl LeaseTable {
    /// Refuses an entry. One that is no longer in the store is not reported.
    fn refuse(&mut self, presence: Presence, key: &[u8], refusal: &Refusal) {
        match presence {
            Presence::Stored => self.refused.add(key, refusal),
            Presence::Held => {}
        }
    }
}

fn mac_of(lease: &Lease, family: Family) -> Option<MacAddr> {
    match &lease.data {
        BackendData::Vxlan(vteps) => vteps.get(family).map(|vtep| vtep.mac),
        BackendData::Untyped | BackendData::HostGw | BackendData::Ipip | BackendData::Other(_) => None,
    }
}

fn refuse(kind: RefusalKind) -> impl Fn(String) -> Refusal {
    move |reason| Refusal { kind, reason }
}

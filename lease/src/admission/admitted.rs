//! The admission brought forward by changes: each costs what it changes, not what there is.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::time::Instant;
use tracing::warn;
use wire_net::{Subnet, every_other_first};

use super::{Admission, Candidate, Presence, admit, claim_all, conflicts::Conflicts, present, rules::HostNetwork};
use crate::{Entries, Entry, LeaseTable, Refusal, RefusalKind, entries::Key, hold_down::HoldDown};

/// The outcome for each entry, and the table of it. After a change, only the candidates that are in conflict with what
/// has changed, directly or through others, are claimed again; the outcome for all others stays.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Admission,
    host_network: HostNetwork,
    /// All entries but this host's own.
    judged: BTreeMap<Key, Judged>,
    conflicts: Conflicts,
    table: LeaseTable,
    /// The number of candidates claimed so far.
    #[cfg(test)]
    pub(super) claimed: usize,
}

#[derive(Debug)]
struct Judged {
    presence: Presence,
    verdict: Verdict,
}

#[derive(Debug)]
enum Verdict {
    /// Refused by itself.
    Bad(RefusalKind),
    /// A candidate whose claims are not decided.
    Undecided(Arc<Entry>),
    Admitted(Arc<Entry>),
    /// A candidate that an older one is in conflict with.
    Refused(Arc<Entry>, RefusalKind),
}

/// A candidate, and whether its claims are granted.
type Outcome = (Key, Result<(), Refusal>);

impl Admitted {
    /// An empty table.
    pub(crate) fn new(admission: &Admission) -> Self {
        Self {
            host_network: HostNetwork::of(admission),
            judged: BTreeMap::new(),
            conflicts: Conflicts::default(),
            table: admission.no_leases(),
            admission: admission.clone(),
            #[cfg(test)]
            claimed: 0,
        }
    }

    /// The admission of all entries, computed in full.
    fn full(entries: &Entries, hold_down: &HoldDown, admission: &Admission) -> Self {
        let mut admitted = Self::new(admission);
        let present = present(entries, hold_down);
        // Built from lists: faster than inserting one by one, and the maps have no gaps.
        let mut judged = Vec::with_capacity(entries.decoded().len());
        for (presence, key, decoded) in present {
            match admission.check(decoded, &admitted.host_network) {
                None => {}
                Some(Ok(entry)) => {
                    judged.push((Arc::clone(key), Judged { presence, verdict: Verdict::Undecided(entry) }));
                }
                Some(Err(refusal)) => {
                    admitted.table.refuse(presence, key, &refusal);
                    judged.push((Arc::clone(key), Judged { presence, verdict: Verdict::Bad(refusal.kind) }));
                }
            }
        }
        admitted.judged = judged.into_iter().collect();
        let candidates = admitted.judged.iter().filter_map(|(key, judged)| Some((key, &judged.candidate()?.lease)));
        admitted.conflicts = Conflicts::of(candidates);
        let outcomes = admitted.claim(admitted.judged.keys());
        admitted.decide(outcomes);
        (admitted.table.revision, admitted.table.hold_down) = (entries.revision(), hold_down.clone());
        admitted
    }

    /// Brings the admission forward to what `entries` have now, and returns the table. `hold_down` first learns of the
    /// entries that have vanished. After a full listing, all is computed in full as well.
    pub(crate) fn update(
        &mut self,
        entries: &mut Entries,
        hold_down: &mut HoldDown,
        admission: &Admission,
        now: Instant,
    ) -> &LeaseTable {
        let mut changes = entries.take_changes();
        let held = hold_down.note(&mut changes, entries, now);
        changes.keys.extend(held);
        if self.judged.is_empty() || self.admission != *admission {
            *self = Self::full(entries, hold_down, admission);
            return &self.table;
        }
        self.bring_forward(&changes.keys, entries, hold_down);
        if self.table.refused.names_too_few() {
            *self = Self::full(entries, hold_down, admission);
        } else if changes.is_listed {
            self.compare(entries, hold_down);
        }
        &self.table
    }

    #[cfg(test)]
    pub(super) const fn table(&self) -> &LeaseTable {
        &self.table
    }

    /// Compares the table with the one computed in full, and takes that one if they differ.
    fn compare(&mut self, entries: &Entries, hold_down: &HoldDown) {
        let full = admit(entries, hold_down, &self.admission);
        if full.says_the_same(&self.table) {
            return;
        }
        // Of many refused entries, others may be named.
        let is_right = full.held == self.table.held
            && full.refused.counts() == self.table.refused.counts()
            && full.changes_since(&self.table).next().is_none();
        if !is_right {
            warn!(peers = self.table.peers.len(), right = full.peers.len(), "the table of leases was wrong");
            debug_assert!(is_right, "{:?} is not {full:?}", self.table);
        }
        *self = Self::full(entries, hold_down, &self.admission);
    }

    fn bring_forward(&mut self, changed: &BTreeSet<Key>, entries: &Entries, hold_down: &HoldDown) {
        let mut seeds: Vec<Arc<Entry>> = Vec::new();
        for key in changed {
            seeds.extend(self.forget(key));
        }
        for key in changed {
            let stored = entries.decoded().get(key).map(|decoded| (Presence::Stored, decoded));
            let held = || hold_down.held_at(key).map(|decoded| (Presence::Held, decoded));
            let Some((presence, decoded)) = stored.or_else(held) else { continue };
            let verdict = match self.admission.check(decoded, &self.host_network) {
                None => continue,
                Some(Ok(entry)) => {
                    self.conflicts.add(key, &entry.lease);
                    seeds.push(Arc::clone(&entry));
                    Verdict::Undecided(entry)
                }
                Some(Err(refusal)) => {
                    self.table.refuse(presence, key, &refusal);
                    Verdict::Bad(refusal.kind)
                }
            };
            self.judged.insert(Arc::clone(key), Judged { presence, verdict });
        }
        let outcomes = match self.connected(seeds) {
            Some(some) => self.claim(&some),
            None => self.claim(self.judged.keys()),
        };
        self.decide(outcomes);
        (self.table.revision, self.table.hold_down) = (entries.revision(), hold_down.clone());
    }

    /// Forgets an entry, and returns it if it was a candidate.
    fn forget(&mut self, key: &Key) -> Option<Arc<Entry>> {
        let judged = self.judged.remove(key)?;
        self.table.withdraw(key, &judged);
        let entry = judged.candidate()?;
        self.conflicts.remove(key, &entry.lease);
        Some(Arc::clone(entry))
    }

    /// The candidates that are in conflict with those entries, directly or through others. `None` if there are so many
    /// of them, or of their conflicts, that it costs less to claim all.
    fn connected(&self, mut reached: Vec<Arc<Entry>>) -> Option<BTreeSet<Key>> {
        let mut left = 64 + self.judged.len() / 4;
        let mut connected = BTreeSet::new();
        while let Some(entry) = reached.pop() {
            for key in self.conflicts.with(&entry.lease) {
                left = left.checked_sub(1)?;
                if connected.insert(Arc::clone(key)) {
                    reached.extend(self.judged.get(key).and_then(Judged::candidate).cloned());
                }
            }
        }
        Some(connected)
    }

    /// Claims these candidates, and no others.
    fn claim<'a>(&'a self, keys: impl IntoIterator<Item = &'a Key>) -> Vec<Outcome> {
        let mut candidates: Vec<Candidate<'_>> = keys.into_iter().filter_map(|key| self.candidate(key)).collect();
        let outcomes = claim_all(&self.admission, &mut candidates);
        outcomes.map(|(candidate, outcome)| (Arc::clone(candidate.key), outcome)).collect()
    }

    fn candidate<'a>(&'a self, key: &'a Key) -> Option<Candidate<'a>> {
        let judged = self.judged.get(key)?;
        Some(Candidate { presence: judged.presence, key, entry: Arc::clone(judged.candidate()?) })
    }

    /// Takes the outcomes that differ from those so far.
    fn decide(&mut self, outcomes: Vec<Outcome>) {
        #[cfg(test)]
        {
            self.claimed += outcomes.len();
        }
        // All that are no longer admitted make place before others take it.
        for (key, outcome) in &outcomes {
            if let Some(judged) = self.judged.get_mut(key)
                && !self.table.has(key, judged, outcome)
            {
                self.table.withdraw(key, judged);
                judged.reopen();
            }
        }
        let mut peers: Vec<(Subnet, Arc<Entry>)> = Vec::new();
        for (key, outcome) in outcomes {
            let Some(judged) = self.judged.get_mut(&key) else { continue };
            let Verdict::Undecided(entry) = &judged.verdict else { continue };
            let entry = Arc::clone(entry);
            judged.verdict = match outcome {
                Ok(()) => {
                    peers.push((entry.lease.subnet, Arc::clone(&entry)));
                    self.table.held += usize::from(judged.presence == Presence::Held);
                    Verdict::Admitted(entry)
                }
                Err(refusal) => {
                    self.table.refuse(judged.presence, &key, &refusal);
                    Verdict::Refused(entry, refusal.kind)
                }
            };
        }
        if self.table.peers.is_empty() {
            peers.sort_unstable_by_key(|(subnet, _)| *subnet);
            self.table.peers = every_other_first(peers.len()).map(|index| peers[index].clone()).collect();
        } else {
            self.table.peers.extend(peers);
        }
    }
}

impl Judged {
    const fn candidate(&self) -> Option<&Arc<Entry>> {
        match &self.verdict {
            Verdict::Bad(_) => None,
            Verdict::Undecided(entry) | Verdict::Admitted(entry) | Verdict::Refused(entry, _) => Some(entry),
        }
    }

    fn reopen(&mut self) {
        if let Some(entry) = self.candidate() {
            self.verdict = Verdict::Undecided(Arc::clone(entry));
        }
    }
}

impl LeaseTable {
    /// Whether this outcome is the one that the table already has.
    fn has(&self, key: &Key, judged: &Judged, outcome: &Result<(), Refusal>) -> bool {
        match (&judged.verdict, outcome) {
            (Verdict::Admitted(_), Ok(())) => true,
            (Verdict::Refused(_, kind), Err(refusal)) => {
                *kind == refusal.kind && (judged.presence == Presence::Held || self.refused.may_say(key, refusal))
            }
            (Verdict::Admitted(_), Err(_)) | (Verdict::Refused(..), Ok(())) => false,
            (Verdict::Undecided(_) | Verdict::Bad(_), Ok(()) | Err(_)) => false,
        }
    }

    /// Takes back what an entry has added.
    fn withdraw(&mut self, key: &Key, judged: &Judged) {
        match (&judged.verdict, judged.presence) {
            (Verdict::Undecided(_), Presence::Stored | Presence::Held) => {}
            (Verdict::Admitted(entry), presence) => {
                self.peers.remove(&entry.lease.subnet);
                self.held -= usize::from(presence == Presence::Held);
            }
            (Verdict::Bad(kind) | Verdict::Refused(_, kind), Presence::Stored) => self.refused.remove(key, *kind),
            (Verdict::Bad(_) | Verdict::Refused(..), Presence::Held) => {}
        }
    }
}

//! The networks that the task looks at, so that an event costs what it changes, whatever the number of networks: those that an event is about, those
//! whose time has come, those that are not settled; and all, where what has changed concerns all. Pure.

use std::collections::BTreeSet;

use imbl::{OrdMap, ordmap::DiffItem};
use tokio::time::Instant;
use wire_lease::named::NamedRecords;
use wire_net::NetworkName;

use crate::named::{jobs::Done, part::Part};

/// The events since the last look.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// True if it concerns all networks.
    all: bool,
    names: BTreeSet<NetworkName>,
    /// The time of the last look; `None` before the first.
    looked: Option<Instant>,
    /// True if the store had listed the networks by then.
    was_listed: bool,
    /// True if the disk did not have the document then.
    was_unsaved: bool,
}

impl Due {
    /// Has a network looked at.
    pub(super) fn note(&mut self, name: &NetworkName) {
        self.names.insert(name.clone());
    }

    /// Has all looked at.
    pub(super) const fn note_all(&mut self) {
        self.all = true;
    }

    /// Has the network looked at that a job was for.
    pub(super) fn note_done(&mut self, done: &Done) {
        match done {
            Done::Held(name, _)
            | Done::Claimed(name, ..)
            | Done::Released(name, ..)
            | Done::Left(name, _)
            | Done::Saved(name, _)
            | Done::Filtered(name, _)
            | Done::Round(name, _) => self.note(name),
            Done::Memberships(_) | Done::Told(..) | Done::Opened(..) => self.note_all(),
        }
    }

    /// Has the networks looked at whose records differ; all if networks have come or gone, since others may be admitted then.
    pub(super) fn note_records(&mut self, before: Option<&NamedRecords>, now: &NamedRecords) {
        let Some(before) = before else { return self.note_all() };
        if before.networks.diff(&now.networks).next().is_some() {
            return self.note_all();
        }
        self.names.extend(changed(&before.members, &now.members).map(|key| key.network.clone()));
        self.names.extend(changed(&before.blocks, &now.blocks).map(|key| key.network.clone()));
        self.names.extend(changed(&before.addresses, &now.addresses).map(|key| key.network.clone()));
    }

    /// Notes if the networks are listed, and if the disk lacks something: both concern all.
    pub(super) const fn note_state(&mut self, is_listed: bool, is_unsaved: bool) {
        self.all |= is_listed != self.was_listed || is_unsaved || self.was_unsaved;
        (self.was_listed, self.was_unsaved) = (is_listed, is_unsaved);
    }

    /// The networks to look at, at a look that has begun at `now`; among them those that an event was about and that are gone. Then nothing has happened.
    pub(super) fn take<'a>(
        &mut self,
        parts: impl Iterator<Item = (&'a NetworkName, &'a Part)>,
        now: Instant,
    ) -> BTreeSet<NetworkName> {
        let looked = self.looked.replace(now);
        let (all, mut names) = (std::mem::take(&mut self.all), std::mem::take(&mut self.names));
        let is_due = |part: &Part| looked.is_none_or(|looked| part.next_time(looked).is_some_and(|time| time <= now));
        let next = parts.filter(|(_, part)| all || !part.is_settled() || is_due(part)).map(|(name, _)| name.clone());
        names.extend(next);
        names
    }
}

fn changed<'a, K: Ord, V: PartialEq>(before: &'a OrdMap<K, V>, now: &'a OrdMap<K, V>) -> impl Iterator<Item = &'a K> {
    before.diff(now).map(|item| match item {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => key,
    })
}

//! Memberships of this host that it has no part for: a store that was restored from a backup has those that were left since, and nobody else would
//! ever take them away, since they go with this host's lease.

use std::{collections::btree_map::Entry as MapEntry, time::Duration};

use tokio::time::Instant;
use tracing::{debug, info};
use wire_lease::named::{Kept, NetworkError};
use wire_net::{NetworkName, chain};

use super::NamedTask;
use crate::{
    named::{
        Ground, Leased,
        document::Entry,
        jobs::{self, Done},
        part::Part,
    },
    ports::Ports,
};

/// The time after which a store that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// The time within which hosts ask that have lost the store at the same moment.
const SPREAD: Duration = Duration::from_secs(1);

impl<P: Ports> NamedTask<P> {
    /// Has the store asked: after each join, with another lease, and when the watch on it had ended, since it may have been restored.
    pub(super) fn ask_soon(&mut self) {
        self.ask_at = Some(Instant::now() + self.ports.random().shortened(SPREAD, 1.0));
        self.telling.doubt();
        let now = Instant::now();
        self.parts.values_mut().for_each(|part| part.doubt_rooms(now));
    }

    /// Asks the store, if that is due.
    pub(super) fn ask_for_memberships(&mut self, ground: &Ground<P::Store>) {
        let Some((store, Leased::With(_))) = self.store() else { return };
        if self.ask_at.take_if(|at| *at <= Instant::now()).is_some() {
            let known = self.parts.keys().cloned().collect();
            self.begin(Done::Memberships(Err(jobs::late())), jobs::memberships(store, ground.host, known));
        }
    }

    /// Leaves each network that this host is a member of without a part in it, as if it had been told to just now: first the kernel, then the store.
    pub(super) fn note_memberships(&mut self, found: Result<Vec<(NetworkName, Option<Kept>)>, NetworkError>) {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                debug!(error = %chain(&error), "this host's memberships are not known");
                self.ask_at.get_or_insert(Instant::now() + ASK_AGAIN);
                return;
            }
        };
        let Some(host) = self.ground.as_ref().map(|ground| ground.host) else { return };
        for (name, held) in found {
            if let MapEntry::Vacant(place) = self.parts.entry(name) {
                info!(network = %place.key(), "etcd has this host as a member, which it is not: it leaves");
                place.insert(Part::new(host, Entry { held, ..Entry::default() }));
                self.is_saved = false;
            }
        }
    }
}

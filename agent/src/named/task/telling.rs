//! Tells etcd the attachments of this host, beside their documents: for others to read, and behind all else.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use tracing::debug;
use wire_net::chain;
use wire_store::StoreError;

use super::NamedTask;
use crate::{
    all_attachments,
    attach::{Attachment, AttachmentId},
    named::{
        Ground, Leased,
        jobs::{self, Done},
    },
    ports::Ports,
};

/// The time after which a store that did not answer is told again.
const TELL_AGAIN: Duration = Duration::from_secs(10);

/// The documents of a host.
type Documents = BTreeMap<AttachmentId, Attachment>;

/// What the store was told.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// `None` if it has to be compared.
    told: Option<Documents>,
    /// The number of doubts, and those that there were when the store was asked last: what was found before a doubt does not end it.
    doubts: u64,
    asked: u64,
    is_busy: bool,
    again: Option<Instant>,
}

impl Telling {
    /// Has the store compared once more.
    pub(super) fn doubt(&mut self) {
        self.told = None;
        self.doubts += 1;
    }

    fn begin(&mut self) {
        (self.is_busy, self.again, self.asked) = (true, None, self.doubts);
    }

    fn note(&mut self, documents: Documents, is_told: bool, now: Instant) {
        self.is_busy = false;
        if !is_told {
            self.again = Some(now + TELL_AGAIN);
        } else if self.asked == self.doubts {
            self.told = Some(documents);
        }
    }

    /// When it is to be told again, without an event.
    pub(super) const fn next_time(&self) -> Option<Instant> {
        self.again
    }
}

impl<P: Ports> NamedTask<P> {
    /// Tells the store what differs from what it was told.
    pub(super) fn tell_attachments(&mut self, ground: &Ground<P::Store>) {
        let is_put_off = self.telling.again.is_some_and(|again| again > Instant::now());
        let is_told = self.telling.told.as_ref() == Some(self.attachments.all());
        if self.telling.is_busy || is_put_off || is_told || !self.ports.has_guests() {
            return;
        }
        let (Some(store), Leased::With(_)) = (ground.store.clone(), ground.leased) else { return };
        self.telling.begin();
        let (prefix, host, documents) = (self.prefix.clone(), ground.host, self.attachments.all().clone());
        let otherwise = Done::Told(documents.clone(), Err(late()));
        self.begin(otherwise, async move {
            let told = all_attachments::tell(&store, &prefix, host, &documents);
            let told = tokio::time::timeout(jobs::LONGEST, told).await.unwrap_or_else(|_| Err(late()));
            Done::Told(documents, told)
        });
    }

    pub(super) fn note_attachments_told(&mut self, documents: Documents, told: Result<bool, StoreError>) {
        if let Err(error) = &told {
            debug!(error = %chain(error), "the attachments are not told to etcd");
        }
        self.telling.note(documents, told.unwrap_or(false), Instant::now());
    }
}

const fn late() -> StoreError {
    StoreError::Unavailable { operation: "transaction", source: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubt_that_comes_while_the_store_is_told_has_it_compared_once_more() {
        let (mut telling, now) = (Telling::default(), Instant::now());
        telling.begin();
        telling.doubt();
        telling.note(Documents::new(), true, now);
        assert!(telling.told.is_none() && !telling.is_busy && telling.next_time().is_none());
        telling.begin();
        telling.note(Documents::new(), true, now);
        assert!(telling.told.is_some());
        telling.begin();
        telling.note(Documents::new(), false, now);
        assert_eq!(telling.next_time(), Some(now + TELL_AGAIN));
    }
}

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
    is_busy: bool,
    again: Option<Instant>,
}

impl Telling {
    /// Has the store compared once more.
    pub(super) fn doubt(&mut self) {
        self.told = None;
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
        (self.telling.is_busy, self.telling.again) = (true, None);
        let (prefix, host, documents) = (self.prefix.clone(), ground.host, self.attachments.all().clone());
        let otherwise = Done::Told(documents.clone(), Err(late()));
        self.begin(otherwise, async move {
            let told = all_attachments::tell(&store, &prefix, host, &documents);
            let told = tokio::time::timeout(jobs::LONGEST, told).await.unwrap_or_else(|_| Err(late()));
            Done::Told(documents, told)
        });
    }

    pub(super) fn note_attachments_told(&mut self, documents: Documents, told: Result<bool, StoreError>) {
        self.telling.is_busy = false;
        match told {
            Ok(true) => self.telling.told = Some(documents),
            Ok(false) => self.telling.again = Some(Instant::now() + TELL_AGAIN),
            Err(error) => {
                debug!(error = %chain(&error), "the attachments are not told to etcd");
                self.telling.again = Some(Instant::now() + TELL_AGAIN);
            }
        }
    }
}

const fn late() -> StoreError {
    StoreError::Unavailable { operation: "transaction", source: None }
}

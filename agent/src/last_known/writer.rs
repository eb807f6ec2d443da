//! When the state is saved: some seconds after a change, so that many changes cause one write, and at the end.

use std::{sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use wire_lease::LeaseTable;
use wire_net::chain;
use wire_store::Random;

use super::{Joined, LastKnownFile, save::State};
use crate::{
    ports::{Disk, Ports},
    status::{AgentCondition, StatusWriter},
};

/// Saves the last answers: some seconds after a change, and when it is dropped.
#[derive(Debug)]
pub(crate) struct LastKnownWriter<P: Ports> {
    pub(crate) ports: P,
    pub(crate) file: LastKnownFile,
    pub(crate) joined: Arc<Joined>,
    pub(crate) status: StatusWriter,
    /// The table that is not saved yet, and the time when it will be.
    pub(crate) pending: Option<(Arc<LeaseTable>, Instant)>,
    /// A write in another thread, since the disk may be slow. It returns the table if it failed.
    pub(crate) writing: Option<JoinHandle<Option<Arc<LeaseTable>>>>,
}

/// The time between the first change and the write.
pub(super) const PAUSE: Duration = Duration::from_secs(5);

impl<P: Ports> LastKnownWriter<P> {
    /// Notes the table that etcd has just sent.
    pub(crate) fn note(&mut self, table: Arc<LeaseTable>) {
        let due = self.pending.take().map_or_else(|| Instant::now() + PAUSE, |(_, due)| due);
        self.pending = Some((table, due));
    }

    /// Waits until it is time for [`LastKnownWriter::keep`]. A table that could not be saved is pending again.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn due(&mut self) {
        if let Some(writing) = &mut self.writing {
            let unkept = writing.await.ok().flatten();
            self.writing = None;
            if let Some(table) = unkept.filter(|_| self.pending.is_none()) {
                self.note(table);
            }
        }
        match &self.pending {
            Some((_, due)) => tokio::time::sleep_until(*due).await,
            None => std::future::pending().await,
        }
    }

    /// Starts a write of the pending table. One write runs at a time.
    pub(crate) fn keep(&mut self) {
        let Some((table, _)) = self.pending.take() else { return };
        let (file, status) = (self.file.clone(), self.status.clone());
        let (disk, random) = (self.ports.disk().clone(), self.ports.random().clone());
        let state = State { joined: self.joined.clone(), table };
        let keep = move || (!file.keep(&disk, &random, &state, &status)).then_some(state.table);
        self.writing = Some(self.ports.blocking(keep));
    }

    /// Saves a pending table and waits for the disk. Does nothing while an older write still runs, because that one would
    /// end last.
    pub(super) fn keep_now(&mut self) {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return;
        }
        let (disk, random) = (self.ports.disk(), self.ports.random());
        if let Some((table, _)) = self.pending.take() {
            self.file.keep(disk, random, &State { joined: self.joined.clone(), table }, &self.status);
        }
        self.file.fold(disk, random);
    }
}

impl LastKnownFile {
    /// Saves it. True if that succeeded.
    fn keep(&self, disk: &impl Disk, random: &Random, state: &State, status: &StatusWriter) -> bool {
        let kept = self.save(disk, random, state);
        let failed = kept.as_ref().err().map(|error| AgentCondition::NetworkNotSaved(chain(error)));
        status.set(AgentCondition::NETWORK_NOT_SAVED, failed);
        kept.is_ok()
    }
}

impl<P: Ports> Drop for LastKnownWriter<P> {
    fn drop(&mut self) {
        self.keep_now();
    }
}

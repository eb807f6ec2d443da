//! The former backend, spoken while other hosts need it.

use std::time::Duration;

use tokio::time::Instant;
use wire_lease::LeaseTable;

use super::Session;
use crate::{
    ports::Ports,
    status::{EtcdCondition, SpokenFor},
};

/// How long no peer must need the former backend before it is left: the packets that they have sent by it have arrived then.
const UNNEEDED_FOR: Duration = Duration::from_secs(30);

impl<P: Ports> Session<P> {
    /// Names the peers that are reached by the former backend alone. Takes a time in proportion to all peers, while there is one.
    pub(super) fn note_former(&mut self, table: &LeaseTable) {
        let Some(former) = self.backend.former() else { return };
        let needing = table.peers.values().map(|entry| &entry.lease).filter(|lease| self.backend.needs_former(lease));
        let hosts: Vec<_> = needing.filter_map(|lease| lease.public.iter().next()).map(|(_, public)| *public).collect();
        if hosts.is_empty() {
            self.leave_former_at.get_or_insert_with(|| Instant::now() + UNNEEDED_FOR);
        } else {
            self.leave_former_at = None;
        }
        let spoken =
            (!hosts.is_empty()).then(|| EtcdCondition::FormerSpoken(SpokenFor::new(former.to_string(), hosts)));
        self.status.set(EtcdCondition::FORMER, spoken);
    }

    /// Waits the same time again, for the case that joining anew fails.
    pub(super) fn put_off_leaving(&mut self) {
        self.leave_former_at = Some(Instant::now() + UNNEEDED_FOR);
    }
}

/// Waits until the former backend is to be left.
pub(super) async fn unneeded(leave_at: Option<Instant>) {
    match leave_at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

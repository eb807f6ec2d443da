//! The former backend, spoken while other hosts need it.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use tokio::time::Instant;
use wire_lease::{Lease, LeaseChange, LeaseTable};
use wire_net::Subnet;

use super::Session;
use crate::{
    ports::Ports,
    status::{EtcdCondition, SpokenFor},
};

/// The former backend is left once no peer has needed it for this time: the packets that peers have sent by it have arrived by then.
const UNNEEDED_FOR: Duration = Duration::from_secs(30);

impl<P: Ports> Session<P> {
    /// Names the peers that are reached by the former backend alone. Takes a time in proportion to the changes.
    pub(super) fn note_former(&mut self, table: &Arc<LeaseTable>) {
        let Some(former) = self.backend.former() else { return };
        self.needing_former.bring_forward(table, |lease| self.backend.needs_former(lease));
        let hosts = &self.needing_former.hosts;
        if hosts.is_empty() {
            self.leave_former_at.get_or_insert_with(|| Instant::now() + UNNEEDED_FOR);
        } else {
            self.leave_former_at = None;
        }
        let named = || SpokenFor::new(former.to_string(), hosts.iter().map(|(host, _)| *host));
        let spoken = (!hosts.is_empty()).then(|| EtcdCondition::FormerSpoken(named()));
        self.status.set(EtcdCondition::FORMER, spoken);
    }

    /// Waits the same time again, for the case that joining anew fails.
    pub(super) fn put_off_leaving(&mut self) {
        self.leave_former_at = Some(Instant::now() + UNNEEDED_FOR);
    }
}

/// The hosts that are reached by the former backend alone, brought forward from one table of leases to the next.
#[derive(Debug, Default)]
pub(crate) struct NeedingFormer {
    seen: Arc<LeaseTable>,
    hosts: BTreeSet<(IpAddr, Subnet)>,
}

impl NeedingFormer {
    fn bring_forward(&mut self, table: &Arc<LeaseTable>, needs: impl Fn(&Lease) -> bool) {
        for LeaseChange { before, after, .. } in table.changes_since(&self.seen) {
            if let Some(gone) = before.and_then(|entry| host_of(&entry.lease)) {
                self.hosts.remove(&gone);
            }
            let needing = after.map(|entry| &entry.lease).filter(|lease| needs(lease));
            self.hosts.extend(needing.and_then(host_of));
        }
        self.seen = table.clone();
    }
}

fn host_of(lease: &Lease) -> Option<(IpAddr, Subnet)> {
    lease.public.iter().next().map(|(_, public)| (*public, lease.subnet))
}

/// Waits until the former backend is to be left.
pub(super) async fn unneeded(leave_at: Option<Instant>) {
    match leave_at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

//! How far a session is, and what it leaves to the next one.

use std::sync::Arc;

use tokio::time::Instant;
use wire_lease::{HoldState, LeaseTable};

use crate::datapath::Outcome;

/// The progress of this session.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Whether READY was sent, by this session or an earlier one.
    pub(crate) is_ready: bool,
    /// The numbers of this session's first changes to the shares of `Network` and `Firewall` ([`LoopHandle::want`]).
    ///
    /// [`LoopHandle::want`]: crate::reconcile_loop::LoopHandle::want
    pub(super) first_changes: Option<(u64, u64)>,
    /// The number of complete lists of the leases received so far.
    pub(super) listings: u64,
    /// The last outcome of the loop of `Network`.
    pub(super) outcome: Outcome,
    /// When everything but the firewall became ready; `None` before that, and once READY was sent.
    pub(super) all_but_firewall: Option<Instant>,
}

impl Progress {
    pub(crate) fn new(is_ready: bool) -> Self {
        Self { is_ready, ..Self::default() }
    }
}

/// The state that the next session takes over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handover {
    /// The state of our lease when it was last held.
    pub(crate) held: Option<HoldState>,
    /// The last known leases. Leases that have vanished since are held for a while.
    pub(crate) leases: Option<Arc<LeaseTable>>,
    /// Whether READY was sent.
    pub(crate) is_ready: bool,
}

impl Handover {
    /// With what an earlier session has left, where this one has left nothing.
    pub(crate) fn or(self, earlier: Self) -> Self {
        Self {
            held: self.held.or(earlier.held),
            leases: self.leases.or(earlier.leases),
            is_ready: self.is_ready || earlier.is_ready,
        }
    }
}

//! The part of our table that this host's nftables supports, found by trying.

use std::time::Instant;

use wire_state::OpError;

use super::FirewallDataplane;
use crate::policy::Nftables;

impl FirewallDataplane {
    /// The part of our table that nftables supports, as far as was tried.
    #[must_use]
    pub const fn nftables(&self) -> Nftables {
        self.nftables
    }

    /// The reason why nftables holds less than our whole table.
    #[must_use]
    pub fn nftables_error(&self) -> Option<&OpError> {
        self.nftables_error.as_ref().map(|(_, error)| error)
    }

    /// Records the outcome of writing the table: on success, what was tried is supported; on an error, the next smaller
    /// part is tried.
    pub(super) fn learn(&mut self, error: Option<&OpError>) {
        let less = match self.tried {
            Nftables::Whole => Nftables::Simple,
            Nftables::Simple | Nftables::Absent => Nftables::Absent,
        };
        self.nftables = if error.is_some() { less } else { self.tried };
        if let Some(error) = error {
            self.nftables_error = Some((Instant::now(), error.again()));
        } else if self.nftables == Nftables::Whole {
            self.nftables_error = None;
        }
    }
}

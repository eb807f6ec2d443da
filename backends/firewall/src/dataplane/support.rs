//! What of our table nftables can hold, as it is found out by trying.

use std::time::Instant;

use wire_state::OpError;

use super::FirewallDataplane;
use crate::policy::Nftables;

impl FirewallDataplane {
    /// What of our table nftables can hold, as far as was tried.
    #[must_use]
    pub const fn nftables(&self) -> Nftables {
        self.nftables
    }

    /// Why it holds less than all.
    #[must_use]
    pub fn nftables_error(&self) -> Option<&OpError> {
        self.nftables_error.as_ref().map(|(_, error)| error)
    }

    /// What was tried last is had, or one step less is to be tried.
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

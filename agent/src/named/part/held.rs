//! What a job has found that this host holds. Pure.

use std::net::IpAddr;

use tokio::time::Instant;
use wire_lease::named::Kept;

use super::{Part, SHOWN, Trouble};

impl Part {
    /// Notes what a job has written. True if that differs from what was held before.
    pub(in crate::named) fn note_held(&mut self, kept: Kept, foreign: Vec<IpAddr>, now: Instant) -> bool {
        self.pauses.reset();
        self.take_held(kept, foreign, now)
    }

    /// The same where this host has nothing: then the pauses go on growing.
    pub(in crate::named) fn note_nothing(&mut self, kept: Kept, now: Instant) -> bool {
        self.take_held(kept, Vec::new(), now)
    }

    fn take_held(&mut self, kept: Kept, foreign: Vec<IpAddr>, now: Instant) -> bool {
        self.foreign = Some(foreign);
        (self.again, self.has_seen, self.check_at) = (None, false, Some(now + SHOWN));
        self.trouble = Trouble::None;
        let is_new = self.entry.held.as_ref() != Some(&kept);
        let has_dropped = self.drop_all_but_those_of(&kept);
        self.entry.held = Some(kept);
        is_new || has_dropped
    }
}

//! A part of which nothing is under way. Pure.

use super::{Kernel, Part, Trouble};

impl Part {
    /// True if nothing is to be done without an event about it or the end of a time: it is in the kernel and in the store, and has no containers.
    pub(in crate::named) fn is_settled(&self) -> bool {
        let is_idle = !self.is_busy && self.progress.after_filter.is_none() && self.askers.is_empty();
        let is_there = self.entry.is_wanted() && self.entry.held.is_some() && self.progress.kernel == Kernel::Done;
        let is_alone = self.entry.endpoints.is_empty() && self.entry.dropped.is_empty() && self.attached.is_empty();
        is_idle && is_there && is_alone && self.trouble == Trouble::None
    }
}

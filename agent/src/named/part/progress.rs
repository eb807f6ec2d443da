//! How far the kernel is with the share that was set last, and when that is set again. Pure.

use std::time::Duration;

use tokio::time::Instant;
use wire_backends::{NetFromSegment, Segment};
use wire_store::{Backoff, Random};

use super::AfterFilter;

/// The progress of a network's share.
#[derive(Debug)]
pub(in crate::named) struct Progress {
    pub(in crate::named) kernel: Kernel,
    /// The share in the kernel's state that waits until the packet filter knows of the network.
    pub(in crate::named) after_filter: Option<AfterFilter>,
    /// What the last share follows from.
    pub(super) computed: Option<(Segment, NetFromSegment)>,
    /// True if it has to be set anew, whether or not the segment differs.
    pub(super) is_behind: bool,
    /// When what could not be done is tried again.
    tell_at: Option<Instant>,
    pauses: Backoff,
    /// The reason why the kernel does not have all of it, for people; empty if it has.
    undone: String,
}

/// The progress of the kernel with the share that was set last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::named) enum Kernel {
    /// None is set.
    Nothing,
    /// A round that takes this change into account is waited for.
    Told(u64),
    /// The round is done.
    Done,
}

/// The pauses before a share that could not be done is set again. Each try reads the whole kernel.
const PAUSES: Backoff = Backoff::new(SHORTEST, Duration::from_secs(15));
/// The shortest of them.
const SHORTEST: Duration = Duration::from_secs(1);

impl Default for Progress {
    fn default() -> Self {
        Self {
            kernel: Kernel::Nothing,
            after_filter: None,
            computed: None,
            is_behind: false,
            tell_at: None,
            pauses: PAUSES,
            undone: String::new(),
        }
    }
}

impl Progress {
    /// Has what is not in the kernel tried again after a pause, which goes on if it has begun. Each pause is longer than the one before.
    pub(in crate::named) fn tell_again(&mut self, random: &Random, now: Instant) {
        if self.tell_at.is_none() {
            self.tell_at = Some(now + self.pauses.pause(random).max(SHORTEST));
        }
    }

    /// Notes that a round has left nothing undone of the devices, and whether of containers' links neither. One that an older share was told by
    /// says nothing about the one that is waited for.
    pub(in crate::named) fn note_round(&mut self, number: u64, is_done: bool) {
        let is_awaited = self.kernel == Kernel::Told(number);
        if is_awaited {
            self.kernel = Kernel::Done;
            self.undone.clear();
        }
        if is_done && self.kernel == Kernel::Done {
            self.pauses.reset();
            self.tell_at = None;
        }
    }

    /// Notes why not all of the share is in the kernel.
    pub(in crate::named) fn note_undone(&mut self, why: &str) {
        self.undone = format!("its devices are not as they should be, and this is tried again: {why}");
    }

    /// Ends the pause before the share is set anew.
    pub(in crate::named) fn forget_pause(&mut self) {
        self.tell_at = None;
    }

    /// Ends the pause if it is over: then the share is to be set anew, and what could not be done with it.
    pub(super) fn ends_pause(&mut self, now: Instant) -> bool {
        let is_over = self.tell_at.take_if(|at| *at <= now).is_some();
        self.is_behind |= is_over;
        is_over
    }

    /// When what could not be done is tried again.
    pub(super) const fn tell_at(&self) -> Option<Instant> {
        self.tell_at
    }

    pub(super) fn undone(&self) -> &str {
        &self.undone
    }
}

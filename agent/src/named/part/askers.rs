//! Those who wait until a network is as wished.

use super::Part;

impl Part {
    /// True if somebody waits. Who has been told that it takes longer does not: then it is tried again and again.
    pub(in crate::named) fn is_awaited(&mut self) -> bool {
        self.askers.retain(|asker| !asker.is_closed());
        !self.askers.is_empty()
    }

    /// Tells all who wait.
    pub(in crate::named) fn answer(&mut self, answer: &Result<(), String>) {
        for asker in self.askers.drain(..) {
            // It may have stopped waiting.
            let _ = asker.send(answer.clone());
        }
    }
}

//! The requests that the helper is serving. One may hang, and its thread with it: for ever in the file system of a path, or long in Docker. The
//! agent then gives it up, and asks again. So that such threads stay few, no request is begun that would only hang as an earlier one does.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    guest::Place,
    protocol::{Refusal, Why},
};
use crate::output::complain;

/// The time after which a request is late, which is also that after which the agent gives it up.
pub(super) const LATE: Duration = Duration::from_secs(5);
/// The most late requests of a kind beside which a further one is begun.
const MOST_LATE: usize = 5;

/// The requests that are not answered yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Pending(Arc<Mutex<Vec<(Place, Instant)>>>);

/// A request, for as long as it is served.
#[derive(Debug)]
pub(super) struct Turn {
    pending: Pending,
    place: Place,
    begun: Instant,
}

impl Pending {
    /// # Errors
    /// When one for the same place is late, or several of its kind.
    pub(super) fn begin(&self, place: &Place, now: Instant) -> Result<Turn, Refusal> {
        let mut all = self.lock();
        let is_late = |begun: &Instant| now.saturating_duration_since(*begun) >= LATE;
        let late = || all.iter().filter(|(_, begun)| is_late(begun)).map(|(late, _)| late);
        let others = late().filter(|late| hangs_in(late) == hangs_in(place)).count();
        if late().any(|late| late == place) || others >= MOST_LATE {
            let text = format!("{place} is not opened: {} does not answer earlier requests", hangs_in(place));
            complain(format_args!("wire-agent guests: {text}"));
            return Err(Refusal { why: Why::Late, text });
        }
        all.push((place.clone(), now));
        Ok(Turn { pending: self.clone(), place: place.clone(), begun: now })
    }

    /// No panic leaves the list half changed.
    fn lock(&self) -> MutexGuard<'_, Vec<(Place, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut all = self.pending.lock();
        let own = all.iter().position(|(place, begun)| (place, begun) == (&self.place, &self.begun));
        if let Some(own) = own {
            all.swap_remove(own);
        }
    }
}

/// Who is asked for it, and may not answer.
const fn hangs_in(place: &Place) -> &'static str {
    match place {
        Place::Container(_) => "Docker",
        Place::Process { .. } => "the kernel",
        Place::File(_) => "the file system",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(number: usize) -> Place {
        Place::File(format!("/hangs/{number}").into())
    }

    #[test]
    fn what_hangs_is_begun_once_and_a_few_of_a_kind_stop_only_their_kind() {
        let (pending, start) = (Pending::default(), Instant::now());
        let first = pending.begin(&file(0), start).unwrap();
        let beside = pending.begin(&file(0), start + LATE / 2).unwrap();
        let refusal = pending.begin(&file(0), start + LATE).unwrap_err();
        assert!(refusal.why == Why::Late && refusal.text.contains("the file system does not answer"), "{refusal:?}");
        drop(first);
        drop(pending.begin(&file(0), start + LATE).expect("that beside it is not late"));
        assert!(pending.begin(&file(0), start + 2 * LATE).is_err());
        let later = start + 2 * LATE;
        let others: Vec<Turn> = (1..MOST_LATE).map(|number| pending.begin(&file(number), later).unwrap()).collect();
        let last = later + LATE;
        assert!(pending.begin(&file(99), last).is_err(), "each further one would hang too");
        for place in [Place::Container("a".repeat(64).parse().unwrap()), Place::Process { pid: 7, started: None }] {
            drop(pending.begin(&place, last).unwrap());
        }
        drop((beside, others));
        drop(pending.begin(&file(0), last).unwrap());
    }
}

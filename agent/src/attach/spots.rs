//! The network namespaces that attachments are wanted in: when each is opened, and given up. Pure but for the descriptors in it.

use std::{collections::BTreeMap, io, sync::Arc, time::Duration};

use tokio::time::Instant;
use wire_kernel::OpenedGuest;
use wire_net::chain;
use wire_state::Namespace;

use super::watched::instances;
use crate::guests::{HelperError, Place, Process, Reached, Running, Why};

/// The interval at which a namespace is looked at that is not there, or whose end nobody reports.
const LOOK: Duration = Duration::from_secs(1);
/// The pause before a namespace that could not be opened is asked for again.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest pause before a namespace is asked for again, after the helper was late with it.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The most namespaces that are being opened at the same time. The others wait.
const AT_A_TIME: usize = 4;

/// The sockets and files that were opened in a namespace. The namespace exists for as long as a copy of this is kept.
#[derive(Clone, Debug)]
pub(crate) struct Opened(Arc<OpenedGuest>);

impl Opened {
    /// Duplicates of its descriptors.
    ///
    /// # Errors
    /// When the process has too many open descriptors.
    pub(crate) fn descriptors(&self) -> io::Result<OpenedGuest> {
        self.0.try_clone()
    }
}

impl PartialEq for Opened {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// All places, with what is known of each.
#[derive(Debug, Default)]
pub(crate) struct Spots(BTreeMap<Place, Spot>);

#[derive(Debug)]
struct Spot {
    /// The container's process that the namespace is of; `None` for other places.
    process: Option<u32>,
    /// The process whose file the helper passed, by which its end is noticed.
    watched: Option<Process>,
    state: State,
    is_opening: bool,
    /// The helper's late answers since its last timely one.
    late: u32,
    /// When it is asked for again.
    again: Option<Instant>,
}

#[derive(Debug)]
enum State {
    /// It was never asked for.
    New,
    Reached(Namespace, Opened),
    Gone,
    Barred(String),
}

/// A place, as far as it is known.
#[derive(Debug)]
pub(crate) enum Seen<'a> {
    /// Nothing yet.
    Unknown,
    Reached(Namespace, &'a Opened),
    Gone,
    /// It cannot be entered, for this reason.
    Barred(&'a str),
}

impl Spots {
    /// Takes the places that are wanted, and gives up all others. Returns those to be opened now, with the processes for which they are.
    pub(crate) fn follow<'a>(
        &mut self,
        wanted: impl Iterator<Item = &'a Place>,
        running: &Running,
        now: Instant,
    ) -> Vec<(Place, Option<u32>)> {
        let processes = instances(running);
        let mut before = std::mem::take(&mut self.0);
        for place in wanted {
            let process = processes.get(place).copied();
            // A container that was started again is another guest.
            let spot = before.remove(place).filter(|spot| spot.process == process);
            self.0.insert(place.clone(), spot.unwrap_or_else(|| Spot::new(process)));
        }
        let mut room = AT_A_TIME.saturating_sub(self.0.values().filter(|spot| spot.is_opening).count());
        let mut due = Vec::new();
        for (place, spot) in &mut self.0 {
            if room > 0 && spot.is_due(now) {
                (spot.is_opening, room) = (true, room - 1);
                due.push((place.clone(), spot.process));
            }
        }
        due
    }

    /// Notes what came of opening a place for that process.
    pub(crate) fn note(
        &mut self,
        place: &Place,
        process: Option<u32>,
        opened: Result<Reached, HelperError>,
        now: Instant,
    ) {
        let Some(spot) = self.0.get_mut(place).filter(|spot| spot.process == process) else { return };
        spot.is_opening = false;
        spot.late = if matches!(opened, Err(HelperError::Late)) { spot.late + 1 } else { 0 };
        // It hangs, perhaps for ever, and each request with it.
        let pause = (AGAIN * 2_u32.saturating_pow(spot.late)).min(LONGEST_PAUSE);
        let (state, again) = match opened {
            Ok(Reached { namespace, opened: guest, process: watched }) => {
                spot.watched = watched;
                // Nobody tells of the end of a process, or that a path leads elsewhere.
                let again = process.is_none().then_some(now + LOOK);
                match &spot.state {
                    State::Reached(before, _) if *before == namespace => {
                        spot.again = again;
                        return;
                    }
                    State::New | State::Reached(..) | State::Gone | State::Barred(_) => {
                        (State::Reached(namespace, Opened(guest.into())), again)
                    }
                }
            }
            Err(HelperError::Refused(refusal)) if refusal.why == Why::NotThere => (State::Gone, Some(now + LOOK)),
            Err(error) => {
                // What is open already does not depend on the helper.
                if matches!(spot.state, State::Reached(..)) && !matches!(error, HelperError::Refused(_)) {
                    spot.again = Some(now + pause);
                    return;
                }
                (State::Barred(chain(&error)), Some(now + pause))
            }
        };
        (spot.state, spot.again) = (state, again);
    }

    /// Gives up the containers whose processes have ended, also if nobody tells of it.
    pub(crate) fn look_for_ended(&mut self, now: Instant) {
        for spot in self.0.values_mut() {
            let is_reached = spot.process.is_some() && matches!(spot.state, State::Reached(..));
            if is_reached && spot.watched.as_ref().is_some_and(Process::has_ended) {
                (spot.state, spot.watched, spot.again) = (State::Gone, None, Some(now + AGAIN));
            }
        }
    }

    /// The next time to look whether containers have ended, while nobody tells of it.
    pub(crate) fn next_look(&self, now: Instant) -> Option<Instant> {
        let is_container = |spot: &Spot| spot.process.is_some() && matches!(spot.state, State::Reached(..));
        self.0.values().any(is_container).then(|| now + LOOK)
    }

    pub(crate) fn seen(&self, place: &Place) -> Seen<'_> {
        match self.0.get(place).map(|spot| &spot.state) {
            None | Some(State::New) => Seen::Unknown,
            Some(State::Reached(namespace, opened)) => Seen::Reached(*namespace, opened),
            Some(State::Gone) => Seen::Gone,
            Some(State::Barred(why)) => Seen::Barred(why),
        }
    }

    /// The namespace of a place, if it is open.
    pub(crate) fn namespace(&self, place: &Place) -> Option<Namespace> {
        match self.seen(place) {
            Seen::Reached(namespace, _) => Some(namespace),
            Seen::Unknown | Seen::Gone | Seen::Barred(_) => None,
        }
    }

    /// The next time at which a place is to be opened though nothing was reported.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        self.0.values().filter(|spot| !spot.is_opening).filter_map(|spot| spot.again).min()
    }
}

impl Spot {
    const fn new(process: Option<u32>) -> Self {
        Self { process, watched: None, state: State::New, is_opening: false, late: 0, again: None }
    }

    fn is_due(&self, now: Instant) -> bool {
        let is_new = matches!(self.state, State::New);
        !self.is_opening && (is_new || self.again.is_some_and(|again| again <= now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guests::{Word, protocol::Refusal};

    fn place() -> Place {
        Place::Container("a".repeat(64).parse().unwrap())
    }

    fn running(pid: u32) -> Running {
        let mut running = Running::default();
        let guest = super::super::selector::tests::guest("a", "web", &[]);
        let id = "a".repeat(64).parse().unwrap();
        running.hear(Word::Running(crate::guests::Guest { id, pid, ..guest }));
        running
    }

    fn refused(why: Why) -> Result<Reached, HelperError> {
        Err(HelperError::Refused(Refusal { why, text: "as asked".to_owned() }))
    }

    fn opened(number: u64) -> Result<Reached, HelperError> {
        opened_for(number, None)
    }

    fn opened_for(number: u64, process: Option<Process>) -> Result<Reached, HelperError> {
        let null = || std::fs::File::open("/dev/null").unwrap().into();
        let opened = OpenedGuest { namespace: null(), route: null(), ipv4: null(), ipv6: None };
        Ok(Reached { namespace: Namespace::Guest(number), opened, process })
    }

    #[test]
    fn a_container_is_opened_once_and_again_when_it_was_started_again() {
        let (mut spots, now, place) = (Spots::default(), Instant::now(), place());
        assert_eq!(spots.follow([&place].into_iter(), &running(7), now), [(place.clone(), Some(7))]);
        assert!(spots.follow([&place].into_iter(), &running(7), now).is_empty(), "it is being opened");
        spots.note(&place, Some(7), opened(1), now);
        assert!(matches!(spots.seen(&place), Seen::Reached(Namespace::Guest(1), _)));
        assert!(spots.follow([&place].into_iter(), &running(7), now).is_empty() && spots.next_time().is_none());
        assert_eq!(spots.follow([&place].into_iter(), &running(8), now), [(place.clone(), Some(8))]);
        spots.note(&place, Some(7), opened(1), now);
        assert!(matches!(spots.seen(&place), Seen::Unknown), "that was the one before");
        assert!(spots.follow(std::iter::empty(), &running(8), now).is_empty());
        assert!(matches!(spots.seen(&place), Seen::Unknown));
    }

    #[test]
    fn a_container_whose_process_has_ended_is_given_up_though_nobody_tells_of_it() {
        let (mut spots, now, place) = (Spots::default(), Instant::now(), place());
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        spots.follow([&place].into_iter(), &running(7), now);
        spots.look_for_ended(now);
        assert!(spots.next_look(now).is_none(), "it is not open");
        spots.note(&place, Some(7), opened_for(1, Some(process)), now);
        spots.look_for_ended(now);
        assert!(matches!(spots.seen(&place), Seen::Reached(..)) && spots.next_look(now) == Some(now + LOOK));
        child.kill().unwrap();
        child.wait().unwrap();
        spots.look_for_ended(now);
        assert!(matches!(spots.seen(&place), Seen::Gone));
        assert!(spots.next_look(now).is_none());
    }

    #[test]
    fn what_hangs_the_helper_is_asked_for_ever_more_seldom_and_stays_if_it_is_open() {
        let (mut spots, now, place) = (Spots::default(), Instant::now(), Place::File("/hangs/x".into()));
        spots.follow([&place].into_iter(), &Running::default(), now);
        spots.note(&place, None, opened(1), now);
        for seconds in [10, 20, 40, 60, 60] {
            spots.note(&place, None, Err(HelperError::Late), now);
            assert_eq!(spots.next_time(), Some(now + Duration::from_secs(seconds)));
            assert!(matches!(spots.seen(&place), Seen::Reached(..)));
        }
        spots.note(&place, None, Err(HelperError::HungUp), now);
        assert_eq!(spots.next_time(), Some(now + AGAIN), "it does not hang any more");
    }

    #[test]
    fn what_cannot_be_opened_is_tried_again_later_and_what_is_open_stays_without_the_helper() {
        let (mut spots, now, place) = (Spots::default(), Instant::now(), Place::File("/run/netns/x".into()));
        let due = |spots: &mut Spots, at| spots.follow([&place].into_iter(), &Running::default(), at).len();
        assert_eq!(due(&mut spots, now), 1);
        spots.note(&place, None, refused(Why::NotThere), now);
        assert!(matches!(spots.seen(&place), Seen::Gone));
        assert_eq!((due(&mut spots, now), due(&mut spots, now + LOOK)), (0, 1));
        spots.note(&place, None, opened(1), now);
        assert_eq!(due(&mut spots, now + LOOK), 1, "nobody tells of its end");
        spots.note(&place, None, Err(HelperError::HungUp), now);
        assert!(matches!(spots.seen(&place), Seen::Reached(Namespace::Guest(1), _)));
        assert_eq!(due(&mut spots, now + AGAIN), 1);
        spots.note(&place, None, opened(2), now);
        assert!(matches!(spots.seen(&place), Seen::Reached(Namespace::Guest(2), _)), "another one is there now");
        assert_eq!(due(&mut spots, now + LOOK), 1);
        spots.note(&place, None, refused(Why::Host), now);
        assert!(matches!(spots.seen(&place), Seen::Barred("as asked")));
    }
}

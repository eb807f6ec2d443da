//! Detects parts of the agent that hang.
//!
//! Four times in systemd's watchdog interval every part is asked, and answers from its own loop. A part hangs if it has
//! not answered two questions, which is half of the interval: [`crate::notify`] then sends no more WATCHDOG=1, /healthz
//! returns 503, and `status` names the part. The tasks of the lease crate do not know the questions; another future
//! answers beside their work ([`Heartbeat::beside`]). Threads that move packets are not asked, since they may wait for
//! ever: a thread hangs if it is in the same turn as two questions ago. systemd kills only at the end of the whole
//! interval, so WATCHDOG=1 is sent again if the part goes on before that. A part is asked for as long as it has its
//! [`Heartbeat`]: one that has ended, or has not begun, never hangs.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    future::{self, Future},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;
use tracing::warn;
use wire_forward::{Fault, Turn};
use wire_lease::Beside;

/// The number of questions in a watchdog interval.
pub(crate) const QUESTIONS: u32 = 4;

/// The number of unanswered questions that means a hang.
const PATIENCE: usize = 2;

/// The interval if systemd sets none: that of the shipped unit.
pub(crate) const INTERVAL: Duration = Duration::from_secs(30);

/// A part of the agent that must never hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Part {
    /// The thread that reconciles the kernel.
    Dataplane,
    /// The thread that reconciles the packet filter.
    Firewall,
    /// The task that follows all leases.
    Follower,
    /// The task that holds our own lease.
    Holder,
    /// The task that joins the network and stays in it.
    Session,
    /// A thread that moves packets.
    Worker,
}

impl Part {
    pub(crate) const ALL: [Self; 6] =
        [Self::Dataplane, Self::Firewall, Self::Follower, Self::Holder, Self::Session, Self::Worker];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Dataplane => "dataplane",
            Self::Firewall => "firewall",
            Self::Follower => "follower",
            Self::Holder => "holder",
            Self::Session => "session",
            Self::Worker => "worker",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }
}

/// Asks the parts. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watchdog(Arc<Asker>);

#[derive(Debug, Default)]
struct Asker {
    question: watch::Sender<Question>,
    members: Mutex<Vec<Weak<Member>>>,
    /// The turns of the workers at the last questions, the oldest first.
    turns: Mutex<VecDeque<BTreeSet<Turn>>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Question {
    number: u64,
    /// The part that should fail, and how, for a test.
    fault: Option<(Part, Fault)>,
}

#[derive(Debug)]
struct Member {
    part: Part,
    /// The last question that it has answered.
    answered: AtomicU64,
}

impl Watchdog {
    /// Registers a part: it is asked until it drops the result. There may be two of one kind: a former one that is
    /// ending, and its successor.
    pub(crate) fn part(&self, part: Part) -> Heartbeat {
        let asked = self.0.question.subscribe();
        let number = asked.borrow().number;
        let member = Arc::new(Member { part, answered: AtomicU64::new(number) });
        self.0.members.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&member));
        Heartbeat { asked, member }
    }

    /// Asks all parts, and returns those that hang. `turns` are the current turns of the workers.
    pub(crate) fn ask(&self, turns: BTreeSet<Turn>) -> Vec<Part> {
        let asked = self.0.question.borrow().number;
        let mut hung: Vec<Part> = self.lasts(turns).then_some(Part::Worker).into_iter().collect();
        self.0.members.lock().unwrap_or_else(PoisonError::into_inner).retain(|member| {
            let Some(member) = member.upgrade() else { return false };
            if member.answered.load(Ordering::Relaxed) + PATIENCE as u64 <= asked {
                hung.push(member.part);
            }
            true
        });
        self.0.question.send_modify(|question| question.number += 1);
        hung.sort_unstable();
        hung.dedup();
        hung
    }

    /// True if a turn has lasted for `PATIENCE` questions.
    fn lasts(&self, turns: BTreeSet<Turn>) -> bool {
        let mut earlier = self.0.turns.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = if earlier.len() == PATIENCE { earlier.pop_front() } else { None };
        let lasts = oldest.is_some_and(|oldest| !oldest.is_disjoint(&turns));
        earlier.push_back(turns);
        lasts
    }

    /// Makes a part fail for good, for `wire-agent debug`.
    pub(crate) fn fail(&self, part: Part, fault: Fault) {
        warn!(part = part.name(), ?fault, "asked to let a part fail");
        self.0.question.send_modify(|question| question.fault = Some((part, fault)));
    }
}

/// The side of one part: receives questions and answers them.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    asked: watch::Receiver<Question>,
    member: Arc<Member>,
}

impl Heartbeat {
    /// Waits for a question. It stays asked until [`Heartbeat::answer`].
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn asked(&mut self) {
        if self.asked.changed().await.is_err() {
            // The asking side is gone.
            future::pending::<()>().await;
        }
    }

    /// Answers the last question.
    pub(crate) async fn answer(&mut self) {
        let question = *self.asked.borrow_and_update();
        match question.fault.filter(|(part, _)| *part == self.member.part) {
            // The session shares its thread, so blocking it would hang others too.
            Some((Part::Session, Fault::Hang)) => future::pending().await,
            Some((_, fault)) => fault.happen(),
            None => {}
        }
        self.member.answered.store(question.number, Ordering::Relaxed);
    }

    /// Answers while `work` waits, perhaps for ever. Only work that blocks counts as a hang.
    ///
    /// # Cancel safety
    /// As `work`.
    pub(crate) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            never = self.always() => match never {},
        }
    }

    /// Answers beside the work of a task that does not know the questions.
    pub(crate) fn beside(mut self) -> Beside {
        Box::pin(async move { self.always().await })
    }

    /// Returns a function to call between the steps of blocking work; it answers questions too.
    pub(crate) fn step(&self) -> impl Fn() + Send + 'static {
        let (asked, member) = (self.asked.clone(), self.member.clone());
        move || member.answered.store(asked.borrow().number, Ordering::Relaxed)
    }

    async fn always(&mut self) -> Infallible {
        loop {
            self.asked().await;
            self.answer().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_answers_or_is_one_question_late_goes_on() {
        let watchdog = Watchdog::default();
        let mut session = watchdog.part(Part::Session);
        for _ in 0..3 {
            assert_eq!(watchdog.ask(BTreeSet::new()), []);
            assert_eq!(watchdog.ask(BTreeSet::new()), []);
            session.asked().await;
            session.answer().await;
        }
    }

    #[tokio::test]
    async fn whoever_leaves_two_questions_unanswered_hangs_until_it_answers() {
        let watchdog = Watchdog::default();
        let (_one, mut other) = (watchdog.part(Part::Dataplane), watchdog.part(Part::Firewall));
        assert_eq!([watchdog.ask(BTreeSet::new()), watchdog.ask(BTreeSet::new())], [[], []]);
        assert_eq!(watchdog.ask(BTreeSet::new()), [Part::Dataplane, Part::Firewall]);
        other.answer().await;
        assert_eq!(watchdog.ask(BTreeSet::new()), [Part::Dataplane]);
    }

    #[test]
    fn one_that_has_ended_or_has_just_begun_does_not_hang() {
        let watchdog = Watchdog::default();
        let former = watchdog.part(Part::Dataplane);
        let hung = [watchdog.ask(BTreeSet::new()), watchdog.ask(BTreeSet::new()), watchdog.ask(BTreeSet::new())];
        assert_eq!(hung, [vec![], vec![], vec![Part::Dataplane]]);
        let _successor = watchdog.part(Part::Dataplane);
        drop(former);
        assert_eq!([watchdog.ask(BTreeSet::new()), watchdog.ask(BTreeSet::new())], [[], []]);
        assert_eq!(watchdog.ask(BTreeSet::new()), [Part::Dataplane]);
    }

    #[tokio::test]
    async fn what_is_waited_for_may_take_as_long_as_it_will() {
        let watchdog = Watchdog::default();
        let mut session = watchdog.part(Part::Session);
        let wait = async {
            for _ in 0..100 {
                assert_eq!(watchdog.ask(BTreeSet::new()), []);
                tokio::task::yield_now().await;
            }
        };
        session.during(wait).await;
    }

    #[test]
    fn work_that_blocks_may_take_long_in_all_but_not_in_one_step() {
        let watchdog = Watchdog::default();
        let step = watchdog.part(Part::Firewall).step();
        for _ in 0..10 {
            assert_eq!([watchdog.ask(BTreeSet::new()), watchdog.ask(BTreeSet::new())], [[], []]);
            step();
        }
        assert_eq!([1, 2, 3].map(|_| watchdog.ask(BTreeSet::new()).len()), [0, 0, 1]);
    }

    #[tokio::test]
    async fn a_part_that_was_asked_to_hang_hangs_and_no_other_does() {
        let watchdog = Watchdog::default();
        let (mut session, mut firewall) = (watchdog.part(Part::Session), watchdog.part(Part::Firewall));
        watchdog.fail(Part::Session, Fault::Hang);
        let asking = async {
            for _ in 0..10 {
                watchdog.ask(BTreeSet::new());
                tokio::task::yield_now().await;
            }
            watchdog.ask(BTreeSet::new())
        };
        tokio::select! {
            hung = asking => assert_eq!(hung, [Part::Session]),
            never = session.always() => match never {},
            never = firewall.always() => match never {},
        }
    }

    #[test]
    fn a_worker_hangs_while_it_is_in_the_turn_of_two_questions_ago() {
        let watchdog = Watchdog::default();
        let turns =
            |numbers: &[u64]| numbers.iter().map(|number| Turn { tunnel: 1, worker: 0, number: *number }).collect();
        let seen: [&[u64]; 8] = [&[1], &[3], &[3], &[3, 7], &[3], &[], &[9], &[]];
        let hung = seen.map(|numbers| watchdog.ask(turns(numbers)) == [Part::Worker]);
        assert_eq!(hung, [false, false, false, true, true, false, false, false]);
    }

    #[test]
    fn each_part_has_one_name() {
        assert!(Part::ALL.into_iter().all(|part| Part::named(part.name()) == Some(part)));
        assert_eq!(Part::named("agent"), None);
    }
}

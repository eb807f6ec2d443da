//! Resources in memory that fail on demand, or by chance.
//!
//! Clones of a handle share one state: clone it to read, or to change, the state that a reconciler works on. A handle belongs to one
//! process of the agent: once that has ended, its operations change nothing any more. [`Sim::restarted`] gives the handle of the next one.

mod faults;
mod files;
mod network;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use nix::errno::Errno;

use self::faults::Faults;
pub use self::{
    faults::FaultRates,
    files::{DiskFault, SimFile, SimFiles},
    network::reached,
};
use crate::{
    Attempt, DataplaneError, Driver, ErrorKind, Firewall, FirewallOp, ObservedFirewall, OpError, Operation, Resource,
    Set, SetChange,
};

/// A resource in memory, with the rules of the kernel that it stands for.
pub trait Simulated: Resource<Observed: Default, Scope: Default> {
    /// The error with which the kernel would refuse an operation in this state; `None` if it would accept it.
    fn refusal(observed: &Self::Observed, op: &Self::Op) -> Option<ErrorKind>;

    /// Makes the changes that come along with the operation of that number, beside those of [`Resource::apply`].
    fn happens(_observed: &mut Self::Observed, _op: &Self::Op, _number: usize) {}

    /// The part of the state that a read of that scope returns.
    fn within(observed: &Self::Observed, _scope: &Self::Scope) -> Self::Observed {
        observed.clone()
    }
}

/// A handle on a resource in memory.
#[derive(Clone, Debug)]
pub struct Sim<R: Simulated> {
    inner: Arc<Mutex<Inner<R>>>,
    /// The number of the process that this handle belongs to.
    process: u64,
}

#[derive(Debug)]
struct Inner<R: Simulated> {
    state: R::Observed,
    faults: Faults,
    written: usize,
    read: usize,
    /// The number of the process that may change the state; `None` if it has ended.
    process: Option<u64>,
    processes: u64,
    /// Counts the changes, by whomever.
    changes: u64,
    waiting: Vec<Waker>,
}

impl<R: Simulated> Sim<R> {
    /// A resource that holds `state`.
    #[must_use]
    pub fn new(state: R::Observed) -> Self {
        let inner = Inner {
            state,
            faults: Faults::default(),
            written: 0,
            read: 0,
            process: Some(0),
            processes: 1,
            changes: 0,
            waiting: Vec::new(),
        };
        Self { inner: Arc::new(Mutex::new(inner)), process: 0 }
    }

    /// The current state.
    #[must_use]
    pub fn state(&self) -> R::Observed {
        self.lock().state.clone()
    }

    /// Changes the state as another program would.
    pub fn edit<T>(&self, change: impl FnOnce(&mut R::Observed) -> T) -> T {
        let mut inner = self.lock();
        let changed = change(&mut inner.state);
        inner.note_change();
        changed
    }

    /// Makes the next operation of that name (see [`Operation::name`]) fail. If the error is [`ErrorKind::Lost`], the operation is carried
    /// out nonetheless.
    pub fn fail_next(&self, op: &'static str, error: ErrorKind) {
        self.lock().faults.plan(op, error);
    }

    /// Makes the next reads fail, that many times.
    pub fn fail_reads(&self, times: usize) {
        self.lock().faults.unreadable = times;
    }

    /// Makes operations and reads fail by chance, drawn from `seed`.
    pub fn fail_by_chance(&self, rates: FaultRates, seed: u64) {
        self.lock().faults.set_rates(rates, seed);
    }

    /// Ends the process after `ops` more operations: all later ones change nothing and fail, and so do its reads.
    pub fn crash_after(&self, ops: usize) {
        self.lock().faults.crash_after = Some(ops);
    }

    /// Ends the process that uses this resource. The state stays.
    pub fn crash(&self) {
        self.lock().end();
    }

    /// Whether the process of this handle has ended.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        !self.lock().is_of(self.process)
    }

    /// The handle of the next process. The one before has ended, if it had not yet.
    #[must_use]
    pub fn restarted(&self) -> Self {
        let mut inner = self.lock();
        inner.end();
        let process = inner.processes;
        inner.processes += 1;
        inner.process = Some(process);
        Self { inner: self.inner.clone(), process }
    }

    /// The number of operations that were tried.
    #[must_use]
    pub fn written(&self) -> usize {
        self.lock().written
    }

    /// The number of reads.
    #[must_use]
    pub fn read_times(&self) -> usize {
        self.lock().read
    }

    /// The number of changes so far, by the process and by others.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }

    /// Ready if the state was changed since it had `seen` changes, which it then updates.
    pub fn poll_changed(&self, seen: &mut u64, context: &Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.changes != *seen {
            *seen = inner.changes;
            return Poll::Ready(());
        }
        inner.waiting.retain(|waker| !waker.will_wake(context.waker()));
        inner.waiting.push(context.waker().clone());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, Inner<R>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Simulated> Driver for Sim<R> {
    type Resource = R;

    fn read(&mut self, scope: &R::Scope) -> Result<R::Observed, DataplaneError> {
        let mut inner = self.lock();
        inner.read += 1;
        if inner.faults.of_read() || !inner.is_of(self.process) {
            return Err(DataplaneError::Read { what: "the simulation", source: Errno::ENOBUFS.into() });
        }
        Ok(R::within(&inner.state, scope))
    }

    fn apply(&mut self, ops: &[R::Op]) -> Vec<Attempt> {
        let mut inner = self.lock();
        ops.iter().map(|op| inner.apply(self.process, op)).collect()
    }
}

impl<R: Simulated> Inner<R> {
    fn apply(&mut self, process: u64, op: &R::Op) -> Attempt {
        if self.is_of(process) && self.faults.ends_before_op() {
            self.end();
        }
        if !self.is_of(process) {
            return Err(OpError::new(Errno::ESHUTDOWN.into(), Some("the agent has ended".to_owned())));
        }
        self.written += 1;
        let fault = self.faults.of_op(op.name());
        if let Some(kind) = fault.filter(|kind| *kind != ErrorKind::Lost) {
            return Err(OpError::of(errno(kind)));
        }
        if let Some(kind) = R::refusal(&self.state, op) {
            return Err(OpError::of(errno(kind)));
        }
        R::apply(&mut self.state, op);
        R::happens(&mut self.state, op, self.written);
        self.note_change();
        fault.map_or(Ok(()), |kind| Err(OpError::of(errno(kind))))
    }

    fn is_of(&self, process: u64) -> bool {
        self.process == Some(process)
    }

    fn end(&mut self) {
        self.process = None;
        self.faults.crash_after = None;
    }

    fn note_change(&mut self) {
        self.changes += 1;
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

impl Simulated for Firewall {
    /// A change of sets is one transaction: it is refused if any set, or any element that it removes, is not there.
    fn refusal(observed: &ObservedFirewall, op: &FirewallOp) -> Option<ErrorKind> {
        let FirewallOp::ChangeSets(table, changes) = op else { return None };
        let set = |name: &String| observed.table_named(table).and_then(|table| table.sets.get(name));
        let has_all =
            |set: &Set, change: &SetChange| change.remove.iter().all(|element| set.elements.contains(element));
        let can_be_made = |(name, change): (&String, &SetChange)| set(name).is_some_and(|set| has_all(set, change));
        (!changes.iter().all(can_be_made)).then_some(ErrorKind::Absent)
    }
}

const fn errno(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::Exists => Errno::EEXIST,
        ErrorKind::Absent => Errno::ENOENT,
        ErrorKind::NoDevice => Errno::ENODEV,
        ErrorKind::Permission => Errno::EPERM,
        ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        ErrorKind::Busy => Errno::EBUSY,
        ErrorKind::NoBuffers => Errno::ENOBUFS,
        ErrorKind::Lost => Errno::ETIMEDOUT,
        ErrorKind::NoProgram | ErrorKind::Program | ErrorKind::Other => Errno::EINVAL,
    }
}

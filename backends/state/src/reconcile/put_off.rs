//! Changes that have failed and stand apart ([`Resource::is_apart`]): they are put off, so that what happens to others does not have them tried again.

use super::report::grouped;
use crate::{ErrorKind, OpError, Plan, Report, Resource};

/// The changes that are put off.
#[derive(Debug)]
pub(super) struct PutOff<R: Resource> {
    all: Vec<Failed<R>>,
    /// Those that have failed in the attempt that is under way.
    new: Vec<Failed<R>>,
}

#[derive(Debug)]
struct Failed<R: Resource> {
    op: R::Op,
    error: OpError,
    /// True if the last plan had it.
    is_planned: bool,
}

impl<R: Resource> PutOff<R> {
    pub(super) const fn new() -> Self {
        Self { all: Vec::new(), new: Vec::new() }
    }

    /// Begins an attempt, in which nothing has failed yet.
    pub(super) fn begin(&mut self) {
        self.new.clear();
    }

    /// Notes a change that has failed just now.
    pub(super) fn note_failed(&mut self, op: &R::Op, error: &OpError) {
        if R::is_apart(op) {
            self.new.push(Failed { op: op.clone(), error: error.again(), is_planned: true });
        }
    }

    /// Takes the changes that are put off out of a plan, and those that wait for them.
    pub(super) fn take_out_of(&mut self, plan: &mut Plan<R>) {
        if self.all.is_empty() {
            return;
        }
        let is_other = |op: &&R::Op| R::is_apart(op) && !self.all.iter().any(|failed| failed.op == **op);
        let others: Vec<&R::Op> = plan.ops.iter().filter(is_other).collect();
        let is_planned = |op: &R::Op| {
            // What belongs to it is made differently now.
            plan.ops.contains(op) && !others.iter().any(|other| R::waits_for(other, op))
        };
        let are_planned: Vec<bool> = self.all.iter().map(|failed| is_planned(&failed.op)).collect();
        self.all.iter_mut().zip(are_planned).for_each(|(failed, is_planned)| failed.is_planned = is_planned);
        let planned: Vec<&R::Op> = self.planned().map(|failed| &failed.op).collect();
        plan.ops.retain(|op| !planned.iter().any(|failed| *failed == op || R::waits_for(op, failed)));
    }

    /// True if the last plan was without some.
    pub(super) fn is_some_planned(&self) -> bool {
        self.planned().next().is_some()
    }

    /// Adds those of the last plan to what has failed.
    pub(super) fn add_to(&self, report: &mut Report<R>) {
        report.failed_ops.extend(self.planned().map(|failed| failed.op.clone()));
        report.failures.extend(grouped(self.planned().map(|failed| (&failed.op, failed.error.again()))));
    }

    /// Puts off what has failed in the last attempt, too. False if it may have been done nonetheless: then the state must be read.
    pub(super) fn keep(&mut self) -> bool {
        self.all.retain(|failed| failed.is_planned);
        let is_known = self.new.iter().all(|failed| failed.error.kind != ErrorKind::Lost);
        self.all.append(&mut self.new);
        is_known
    }

    /// Has all tried again.
    pub(super) fn clear(&mut self) {
        self.all.clear();
    }

    fn planned(&self) -> impl Iterator<Item = &Failed<R>> {
        self.all.iter().filter(|failed| failed.is_planned)
    }
}

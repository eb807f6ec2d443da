//! A part of a host's state that one loop keeps as desired: what is compared, and who reads and changes it.

use std::fmt;

use crate::{DataplaneError, OpError};

/// A part of a host's state that is compared as a whole. Pure.
///
/// No order is promised between two resources: each has a loop of its own, so that what blocks one delays no other. What must be
/// closed before it is open is closed by the rule itself (docs/adr/0012-resources.md).
pub trait Resource: Sized {
    /// What was read.
    type Observed: fmt::Debug + Clone + PartialEq;
    /// What should be there.
    type Desired;
    /// What of the host is looked at.
    type Scope: fmt::Debug + PartialEq;
    /// One change.
    type Op: Operation;
    /// What a comparison finds beside the changes, of things that are not ours.
    type Findings: fmt::Debug + fmt::Display + Default + Clone + PartialEq;

    /// What has to be done so that `observed` becomes `desired`. Entries of others are never touched.
    fn plan(observed: &Self::Observed, desired: &Self::Desired) -> Plan<Self>;

    /// Brings `observed` forward by a change that was made, with what happens by itself along with it.
    fn apply(observed: &mut Self::Observed, op: &Self::Op);

    /// When a change is made, and what is known after it.
    fn order(_op: &Self::Op, _desired: &Self::Desired) -> Order {
        Order::Plain
    }
}

/// When a change is made, and what is known after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In the order of the plan; nothing else changes with it.
    Plain,
    /// Before all that is plain, since that needs it; what changes along with it is read back before the rest is planned.
    Ahead,
    /// In the order of the plan; what changes along with it is read back when all is done.
    ReadBack,
}

/// One change of a resource.
pub trait Operation: fmt::Debug + fmt::Display + Clone + PartialEq {
    /// Its kind, for counters.
    fn name(&self) -> &'static str;

    /// Whether it takes something away.
    fn is_delete(&self) -> bool;
}

/// What is to be done, and what was found beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<R: Resource> {
    /// The changes, in order.
    pub ops: Vec<R::Op>,
    /// What is not ours, and in the way.
    pub findings: R::Findings,
}

/// The outcome of one operation.
pub type Attempt = Result<(), OpError>;

/// Reads and changes a resource: the kernel, or something that behaves like it.
pub trait Driver {
    /// The resource it works on.
    type Resource: Resource;

    /// Reads all that `scope` names.
    ///
    /// # Errors
    /// When the kernel does not answer, or refuses. Nothing is known then.
    fn read(
        &mut self,
        scope: &<Self::Resource as Resource>::Scope,
    ) -> Result<<Self::Resource as Resource>::Observed, DataplaneError>;

    /// Carries out `ops` in order, and answers for each. One that fails stops no other. What is there already, or gone already,
    /// counts as done, except a route that somebody else put there first.
    fn apply(&mut self, ops: &[<Self::Resource as Resource>::Op]) -> Vec<Attempt>;
}

impl<R: Resource> Default for Plan<R> {
    fn default() -> Self {
        Self { ops: Vec::new(), findings: R::Findings::default() }
    }
}

impl<R: Resource> fmt::Display for Plan<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.ops.is_empty() && self.findings == R::Findings::default() {
            return writeln!(f, "nothing to do");
        }
        for op in &self.ops {
            writeln!(f, "{op}")?;
        }
        self.findings.fmt(f)
    }
}

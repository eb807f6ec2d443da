//! A part of a host's state that one loop keeps as desired: how it is compared, and how it is read and changed.

use std::fmt;

use crate::{Clash, DataplaneError, Difference, OpError, Share};

/// A part of a host's state that is compared as a whole. Pure.
///
/// No order is promised between two resources: each has a loop of its own, so that what blocks one delays no other. What must be
/// closed before it is open is closed by the rule itself (docs/adr/0012-resources.md).
pub trait Resource: Sized {
    /// The state as it was read.
    type Observed: fmt::Debug + Clone + PartialEq;
    /// The state as it should be.
    type Desired: fmt::Debug + Clone;
    /// The part of the host's state that is read.
    type Scope: fmt::Debug + PartialEq;
    /// One change.
    type Op: Operation;
    /// Problems with foreign entries, which are reported and not changed.
    type Findings: fmt::Debug + fmt::Display + Default + Clone + PartialEq;
    /// Facts of the observed state that [`Self::plan_since`] needs, and that only a look at all entries finds. They are found once after a read.
    type Index: fmt::Debug;
    /// The part of the state that is read again after some changes, and after another scope was set.
    type Part: fmt::Debug;

    /// The desired state of several networks of this host, in order of precedence, and the keys that several of them want with different
    /// values. Only such a key is left out of what a network wants, with what depends on it.
    fn merge(shares: &[Share<'_, Self::Desired>]) -> (Self::Desired, Vec<Clash>);

    /// The same as [`Self::merge`], found in a time in proportion to what differs between the shares `before`, which are `merged` without clashes, and
    /// `now`. `None` if there are clashes, or all must be compared.
    fn merge_since(
        _before: &[Share<'_, Self::Desired>],
        _merged: &Self::Desired,
        _now: &[Share<'_, Self::Desired>],
    ) -> Option<Self::Desired> {
        None
    }

    /// The changes that turn `observed` into `desired`. Foreign entries are never changed.
    fn plan(observed: &Self::Observed, desired: &Self::Desired) -> Plan<Self>;

    /// Finds the index of a state that was read.
    fn index(observed: &Self::Observed) -> Self::Index;

    /// The same as [`Self::plan`], found in a time in proportion to what differs between what was reached before and `desired`. `None` if all must be
    /// compared.
    fn plan_since(
        _observed: &Self::Observed,
        _before: Before<'_, Self>,
        _desired: &Self::Desired,
    ) -> Option<Plan<Self>> {
        None
    }

    /// The part that is read again once the scope is `after` instead of `before`; `None` if all must be read.
    fn part_of_scope(_observed: &Self::Observed, _before: &Self::Scope, _after: &Self::Scope) -> Option<Self::Part> {
        None
    }

    /// The part that is read again after changes of which some are not [`Order::Plain`]; `None` if all must be read. `observed` is the state before
    /// them.
    fn part_of_changes(_observed: &Self::Observed, _ops: &[Self::Op]) -> Option<Self::Part> {
        None
    }

    /// The differences that [`Self::plan`] would remove, for people: none if and only if the plan has no changes. Each entry is named once.
    fn differences(observed: &Self::Observed, desired: &Self::Desired) -> Vec<Difference>;

    /// The foreign entries that prevent desired ones, for people.
    fn conflicts(_findings: &Self::Findings) -> Vec<String> {
        Vec::new()
    }

    /// Updates `observed` by a change that was made, including the changes that the kernel makes along with it.
    fn apply(observed: &mut Self::Observed, op: &Self::Op);

    /// When a change is made, and whether the state must be read again after it.
    fn order(_op: &Self::Op, _desired: &Self::Desired) -> Order {
        Order::Plain
    }

    /// True if a failure of this change, which is made ahead, holds up only the changes that [`Self::waits_for`] names. After the failure of any
    /// other one that is made ahead, nothing else is changed until it has succeeded.
    fn is_apart(_failed: &Self::Op) -> bool {
        false
    }

    /// True if a change has to wait for one that has failed, and that is [apart](Self::is_apart).
    fn waits_for(_op: &Self::Op, _failed: &Self::Op) -> bool {
        true
    }
}

/// What the observed state was made equal to before: a plan for it would have no changes.
#[derive(Debug)]
pub struct Before<'a, R: Resource> {
    /// What was desired.
    pub reached: &'a R::Desired,
    /// The index of the state.
    pub index: &'a R::Index,
    /// True if foreign entries prevented some of it.
    pub has_conflicts: bool,
}

/// When a change is made, and whether the state must be read again after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// In the order of the plan. It changes no other entry.
    Plain,
    /// Before all plain changes, which need it. It changes other entries too: these are read again before the rest is planned.
    Ahead,
    /// In the order of the plan. It changes other entries too: these are read again after the last change.
    ReadBack,
}

/// How much a driver has read of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reread {
    /// The part, in which all is as our own changes made it: what was known of the state still holds.
    Made,
    /// The part, in which others may have changed anything.
    Other,
    /// Nothing for certain: all must be read.
    None,
}

/// One change of a resource.
pub trait Operation: fmt::Debug + fmt::Display + Clone + PartialEq {
    /// The kind of the change, for logs and counters.
    fn name(&self) -> &'static str;

    /// Whether it removes an entry.
    fn is_delete(&self) -> bool;
}

/// The changes to make, and the problems found with foreign entries.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan<R: Resource> {
    /// The changes, in order.
    pub ops: Vec<R::Op>,
    /// Problems with foreign entries.
    pub findings: R::Findings,
}

/// The outcome of one operation.
pub type Attempt = Result<(), OpError>;

/// Reads and changes a resource: in the kernel, or in something that behaves like it.
pub trait Driver {
    /// The resource that it reads and changes.
    type Resource: Resource;

    /// Reads the state that `scope` names.
    ///
    /// # Errors
    /// When the kernel does not answer, or refuses. Nothing is known about the state then.
    fn read(
        &mut self,
        scope: &<Self::Resource as Resource>::Scope,
    ) -> Result<<Self::Resource as Resource>::Observed, DataplaneError>;

    /// Reads `part` again into `observed`, which is the state that `scope` names as far as it is known.
    ///
    /// # Errors
    /// When the kernel does not answer, or refuses. Nothing is known about the state then.
    fn read_part(
        &mut self,
        _scope: &<Self::Resource as Resource>::Scope,
        _observed: &mut <Self::Resource as Resource>::Observed,
        _part: &<Self::Resource as Resource>::Part,
    ) -> Result<Reread, DataplaneError> {
        Ok(Reread::None)
    }

    /// Carries out `ops` in order and returns one result for each. A failure does not stop the others. An entry that exists already, or
    /// is deleted already, counts as a success, except a route: the existing one may be foreign.
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

//! What a round has done and what has failed, and a comparison without a round.

use std::{collections::BTreeMap, error::Error};

use crate::{DataplaneError, Difference, ErrorKind, OpError, Operation, Resource, StaleRoute};

/// The outcome of one round.
#[derive(Debug)]
#[must_use = "it holds the failures"]
pub struct Report<R: Resource> {
    /// The number of entries added or changed.
    pub written: usize,
    /// The number of entries removed.
    pub removed: usize,
    /// The first few of these changes.
    pub changes: Vec<R::Op>,
    /// The number of operations that failed, including those that succeeded when they were tried again.
    pub failed: usize,
    /// The failures of the last attempt: the first of each kind.
    pub failures: Vec<Failure<R>>,
    /// All operations of the last attempt that failed.
    pub failed_ops: Vec<R::Op>,
    /// True if the last attempt ended before each of its changes was tried.
    pub is_cut_short: bool,
    /// Problems with foreign entries.
    pub findings: R::Findings,
    /// Whether the host now holds the desired state, except where a foreign entry conflicts with it.
    pub converged: bool,
    /// Whether the host was read; otherwise the cached state was used.
    pub read_back: bool,
}

impl<R: Resource> Report<R> {
    /// True if the state was read, and each change that the last attempt had planned was tried: what is in no failure is done.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.is_cut_short && !self.failures.iter().any(|failure| matches!(failure, Failure::Read(_)))
    }

    /// True if something has failed, and no failure prevents other changes ([`Resource::is_apart`]).
    #[must_use]
    pub fn fails_apart(&self) -> bool {
        self.is_whole() && !self.failed_ops.is_empty() && self.failed_ops.iter().all(R::is_apart)
    }

    /// The changes for a log: the first few of them, and the number of the others.
    #[must_use]
    pub fn named(&self) -> String {
        let more = (self.written + self.removed).saturating_sub(self.changes.len());
        let named: Vec<String> = self.changes.iter().map(ToString::to_string).collect();
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        named.join("; ") + &more
    }
}

impl<R: Resource> Default for Report<R> {
    fn default() -> Self {
        Self {
            written: 0,
            removed: 0,
            changes: Vec::new(),
            failed: 0,
            failures: Vec::new(),
            failed_ops: Vec::new(),
            is_cut_short: false,
            findings: R::Findings::default(),
            converged: false,
            read_back: false,
        }
    }
}

/// A failure that trying again did not cure.
#[derive(Debug)]
pub enum Failure<R: Resource> {
    /// The host could not be read.
    Read(DataplaneError),
    /// One or more operations of the same kind failed with the same kind of error.
    Op {
        /// The first operation that failed.
        op: R::Op,
        /// The error of that operation.
        error: OpError,
        /// The number of the others.
        more: usize,
    },
}

/// The failures of these operations: the first of each kind that failed with the same kind of error, and the number of the others.
pub(super) fn grouped<'a, R: Resource>(failed: impl Iterator<Item = (&'a R::Op, OpError)>) -> Vec<Failure<R>>
where
    R::Op: 'a,
{
    let mut failures: BTreeMap<(&'static str, ErrorKind), Failure<R>> = BTreeMap::new();
    for (op, error) in failed {
        failures.entry((op.name(), error.kind)).and_modify(Failure::count).or_insert_with(|| Failure::Op {
            op: op.clone(),
            error,
            more: 0,
        });
    }
    failures.into_values().collect()
}

impl<R: Resource> Failure<R> {
    fn count(&mut self) {
        if let Self::Op { more, .. } = self {
            *more += 1;
        }
    }
}

/// The failure with all its causes, for a log.
impl<R: Resource> std::fmt::Display for Failure<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut source: Option<&dyn Error> = match self {
            Self::Read(error) => {
                write!(f, "{error}")?;
                error.source()
            }
            Self::Op { op, error, .. } => {
                write!(f, "{op}: {error}")?;
                error.source()
            }
        };
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        match self {
            Self::Op { more, .. } if *more > 0 => write!(f, " (and {more} more)"),
            Self::Op { .. } | Self::Read(_) => Ok(()),
        }
    }
}

/// A comparison of the host with its desired state, for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// The differences that a round would remove.
    pub differences: Vec<Difference>,
    /// The changes that it would make, in their order.
    pub changes: Vec<String>,
    /// The foreign entries that prevent desired ones.
    pub conflicts: Vec<String>,
    /// Routes that nobody needs, and that are not known to be ours.
    pub stale: Vec<StaleRoute>,
}

impl Comparison {
    /// Compares two states.
    #[must_use]
    pub fn of<R: Resource>(observed: &R::Observed, desired: &R::Desired) -> Self {
        let plan = R::plan(observed, desired);
        Self {
            differences: R::differences(observed, desired),
            changes: plan.ops.iter().map(ToString::to_string).collect(),
            conflicts: R::conflicts(&plan.findings),
            stale: Vec::new(),
        }
    }
}

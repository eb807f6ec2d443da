//! The loop's body: make the kernel hold what is wanted, and say what came of it.

use std::{collections::BTreeMap, error::Error};

use crate::{Conflict, Dataplane, DataplaneError, Detours, ErrorKind, NetState, Op, OpError, Plan, Scope, plan};

/// How often one round tries again after a failure, each time after a look at what there is.
const RETRIES: usize = 2;

/// How many changes of a round are named. There may be thousands.
const NAMED: usize = 4;

/// Keeps one dataplane as wanted. Between rounds it believes that nothing changed but by itself, until it is told otherwise.
#[derive(Debug)]
pub struct Reconciler<D> {
    dataplane: D,
    scope: Scope,
    belief: Option<NetState>,
}

/// What one round did.
#[derive(Debug, Default)]
pub struct Report {
    /// Entries put.
    pub written: usize,
    /// Entries removed.
    pub removed: usize,
    /// The first of both, as operations.
    pub changes: Vec<Op>,
    /// Operations that failed, those included that a second attempt put right.
    pub failed: usize,
    /// What failed and stayed so: the first of each kind.
    pub failures: Vec<Failure>,
    /// What is not ours and in the way.
    pub conflicts: Vec<Conflict>,
    /// What is not ours and takes packets for peers.
    pub detours: Detours,
    /// Whether the kernel now holds all that is wanted, conflicts aside.
    pub converged: bool,
    /// Whether the kernel was read, rather than believed.
    pub read_back: bool,
}

/// A failure that stayed.
#[derive(Debug)]
pub enum Failure {
    /// The kernel could not be read.
    Read(DataplaneError),
    /// An operation failed, and this many more of its kind for the same reason.
    Op {
        /// The first.
        op: Op,
        /// Why.
        error: OpError,
        /// How many more.
        more: usize,
    },
}

impl Report {
    /// The changes for a log: the first of them, and how many more.
    #[must_use]
    pub fn named(&self) -> String {
        let more = (self.written + self.removed).saturating_sub(self.changes.len());
        let named: Vec<String> = self.changes.iter().map(ToString::to_string).collect();
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        named.join("; ") + &more
    }
}

impl<D: Dataplane> Reconciler<D> {
    /// Starts with no belief: the first round reads.
    pub const fn new(dataplane: D, scope: Scope) -> Self {
        Self { dataplane, scope, belief: None }
    }

    /// Says that the kernel may not hold what is believed: the next round reads it.
    pub fn doubt(&mut self) {
        self.belief = None;
    }

    /// What the kernel is believed to hold; `None` while nothing is known.
    #[must_use]
    pub const fn belief(&self) -> Option<&NetState> {
        self.belief.as_ref()
    }

    /// What is looked at.
    #[must_use]
    pub const fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Looks at something else from now on.
    pub fn set_scope(&mut self, scope: Scope) {
        if self.scope != scope {
            self.scope = scope;
            self.doubt();
        }
    }

    /// The dataplane itself.
    pub const fn dataplane(&mut self) -> &mut D {
        &mut self.dataplane
    }

    /// Reads, and says what a round would do. Writes nothing.
    ///
    /// # Errors
    /// When the kernel cannot be read.
    pub fn preview(&mut self, want: &NetState) -> Result<Plan, DataplaneError> {
        let have = self.dataplane.read(&self.scope)?;
        let plan = plan(&have, want);
        self.belief = Some(have);
        Ok(plan)
    }

    /// Makes the kernel hold `want`. Reads only what it has no reason to believe; writes only what differs.
    pub fn round(&mut self, want: &NetState) -> Report {
        let mut report = Report::default();
        for attempt in 0..=RETRIES {
            match self.attempt(want, &mut report) {
                Ok(failures) => {
                    report.converged = failures.is_empty();
                    report.failures = failures;
                }
                Err(error) => {
                    report.converged = false;
                    report.failures = vec![Failure::Read(error)];
                }
            }
            if report.converged || attempt == RETRIES {
                break;
            }
            self.doubt();
        }
        if !report.converged {
            self.doubt();
        }
        report
    }

    /// Reads where needed, and applies one plan. Links come first and by themselves: what the kernel does along with them
    /// is read, not guessed.
    fn attempt(&mut self, want: &NetState, report: &mut Report) -> Result<Vec<Failure>, DataplaneError> {
        let mut plan = self.plan(want, report)?;
        if plan.ops.iter().any(Op::is_link) {
            let links: Vec<Op> =
                plan.ops.iter().filter(|op| op.is_link() && !op.is_delete_of_unwanted(want)).cloned().collect();
            if !links.is_empty() {
                let failures = self.apply(&links, report);
                self.doubt();
                if !failures.is_empty() {
                    return Ok(failures);
                }
                plan = self.plan(want, report)?;
            }
        }
        (report.conflicts, report.detours) = (plan.conflicts, plan.detours);
        let failures = self.apply(&plan.ops, report);
        if plan.ops.iter().any(Op::is_link) {
            self.doubt();
            self.plan(want, report)?;
        }
        Ok(failures)
    }

    fn plan(&mut self, want: &NetState, report: &mut Report) -> Result<Plan, DataplaneError> {
        let belief = match self.belief.take() {
            Some(belief) => belief,
            None => {
                report.read_back = true;
                self.dataplane.read(&self.scope)?
            }
        };
        Ok(plan(self.belief.insert(belief), want))
    }

    fn apply(&mut self, ops: &[Op], report: &mut Report) -> Vec<Failure> {
        if ops.is_empty() {
            return Vec::new();
        }
        let mut failures: BTreeMap<(&'static str, ErrorKind), Failure> = BTreeMap::new();
        for (op, attempt) in ops.iter().zip(self.dataplane.apply(ops)) {
            match attempt {
                Ok(()) => {
                    *(if op.is_delete() { &mut report.removed } else { &mut report.written }) += 1;
                    if report.changes.len() < NAMED {
                        report.changes.push(op.clone());
                    }
                    if let Some(belief) = &mut self.belief {
                        belief.apply(op);
                    }
                }
                Err(error) => {
                    report.failed += 1;
                    failures.entry((op.name(), error.kind)).and_modify(Failure::count).or_insert_with(|| Failure::Op {
                        op: op.clone(),
                        error,
                        more: 0,
                    });
                }
            }
        }
        failures.into_values().collect()
    }
}

impl Op {
    /// Whether it removes a link for good, which comes last.
    fn is_delete_of_unwanted(&self, want: &NetState) -> bool {
        matches!(self, Self::DeleteLink(name) if !want.links.contains_key(name))
    }
}

impl Failure {
    fn count(&mut self) {
        if let Self::Op { more, .. } = self {
            *more += 1;
        }
    }
}

/// With its whole cause, for a log.
impl std::fmt::Display for Failure {
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

#[cfg(test)]
mod tests;

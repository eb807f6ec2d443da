//! The loop's body: make the kernel hold what is wanted, and say what came of it.

use std::{collections::BTreeMap, error::Error};

use crate::{DataplaneError, Driver, ErrorKind, OpError, Operation, Order, Plan, Resource};

/// How often one round tries again after a failure, each time after a look at what there is.
const RETRIES: usize = 2;

/// How many changes of a round are named. There may be thousands.
const NAMED: usize = 4;

/// Keeps one resource as desired. Between rounds it takes what it knows for true, until it is told otherwise.
#[derive(Debug)]
pub struct Reconciler<D: Driver> {
    driver: D,
    scope: ScopeOf<D>,
    /// As read last, brought forward by our own changes; `None` while nothing is known.
    cached: Option<ObservedOf<D>>,
}

type ScopeOf<D> = <<D as Driver>::Resource as Resource>::Scope;
type ObservedOf<D> = <<D as Driver>::Resource as Resource>::Observed;
type DesiredOf<D> = <<D as Driver>::Resource as Resource>::Desired;
type OpOf<D> = <<D as Driver>::Resource as Resource>::Op;
type ReportOf<D> = Report<<D as Driver>::Resource>;
type FailuresOf<D> = Vec<Failure<<D as Driver>::Resource>>;

/// The outcome of one round.
#[derive(Debug)]
pub struct Report<R: Resource> {
    /// Entries put.
    pub written: usize,
    /// Entries removed.
    pub removed: usize,
    /// The first of both, as operations.
    pub changes: Vec<R::Op>,
    /// Operations that failed, those included that a second attempt put right.
    pub failed: usize,
    /// What failed and stayed so: the first of each kind.
    pub failures: Vec<Failure<R>>,
    /// What is not ours, and in the way.
    pub findings: R::Findings,
    /// Whether the kernel now holds all that is wanted, conflicts aside.
    pub converged: bool,
    /// Whether the kernel was read, rather than believed.
    pub read_back: bool,
}

/// A failure that stayed.
#[derive(Debug)]
pub enum Failure<R: Resource> {
    /// The kernel could not be read.
    Read(DataplaneError),
    /// An operation failed, and this many more of its kind for the same reason.
    Op {
        /// The first.
        op: R::Op,
        /// Why.
        error: OpError,
        /// How many more.
        more: usize,
    },
}

impl<R: Resource> Default for Report<R> {
    fn default() -> Self {
        Self {
            written: 0,
            removed: 0,
            changes: Vec::new(),
            failed: 0,
            failures: Vec::new(),
            findings: R::Findings::default(),
            converged: false,
            read_back: false,
        }
    }
}

impl<R: Resource> Report<R> {
    /// The changes for a log: the first of them, and how many more.
    #[must_use]
    pub fn named(&self) -> String {
        let more = (self.written + self.removed).saturating_sub(self.changes.len());
        let named: Vec<String> = self.changes.iter().map(ToString::to_string).collect();
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        named.join("; ") + &more
    }
}

impl<D: Driver> Reconciler<D> {
    /// Starts with nothing known: the first round reads.
    pub const fn new(driver: D, scope: ScopeOf<D>) -> Self {
        Self { driver, scope, cached: None }
    }

    /// Says that what is known may be wrong: the next round reads.
    pub fn invalidate(&mut self) {
        self.cached = None;
    }

    /// What is taken for true; `None` while nothing is known.
    #[must_use]
    pub const fn cached(&self) -> Option<&ObservedOf<D>> {
        self.cached.as_ref()
    }

    /// What is looked at.
    #[must_use]
    pub const fn scope(&self) -> &ScopeOf<D> {
        &self.scope
    }

    /// The driver itself.
    pub const fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    /// Reads, and says what a round would do. Writes nothing.
    ///
    /// # Errors
    /// When the host cannot be read.
    pub fn preview(&mut self, desired: &DesiredOf<D>) -> Result<Plan<D::Resource>, DataplaneError> {
        let observed = self.driver.read(&self.scope)?;
        Ok(D::Resource::plan(self.cached.insert(observed), desired))
    }

    /// Makes the host hold `desired`. Reads only what it has no reason to take for true; writes only what differs.
    pub fn round(&mut self, desired: &DesiredOf<D>) -> ReportOf<D> {
        let mut report = Report::default();
        for attempt in 0..=RETRIES {
            match self.attempt(desired, &mut report) {
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
            self.invalidate();
        }
        if !report.converged {
            self.invalidate();
        }
        report
    }

    /// Reads where needed, and applies one plan. Links come first and by themselves: what the kernel does along with them
    /// is read, not guessed.
    fn attempt(&mut self, desired: &DesiredOf<D>, report: &mut ReportOf<D>) -> Result<FailuresOf<D>, DataplaneError> {
        let order = |op: &OpOf<D>| D::Resource::order(op, desired);
        let mut plan = self.plan(desired, report)?;
        let ahead: Vec<OpOf<D>> = plan.ops.iter().filter(|op| order(op) == Order::Ahead).cloned().collect();
        if !ahead.is_empty() {
            let failures = self.apply(&ahead, report);
            self.invalidate();
            if !failures.is_empty() {
                return Ok(failures);
            }
            plan = self.plan(desired, report)?;
        }
        report.findings = plan.findings;
        let failures = self.apply(&plan.ops, report);
        if plan.ops.iter().any(|op| order(op) != Order::Plain) {
            self.invalidate();
            self.plan(desired, report)?;
        }
        Ok(failures)
    }

    fn plan(&mut self, desired: &DesiredOf<D>, report: &mut ReportOf<D>) -> Result<Plan<D::Resource>, DataplaneError> {
        let cached = match self.cached.take() {
            Some(cached) => cached,
            None => {
                report.read_back = true;
                self.driver.read(&self.scope)?
            }
        };
        Ok(D::Resource::plan(self.cached.insert(cached), desired))
    }

    fn apply(&mut self, ops: &[OpOf<D>], report: &mut ReportOf<D>) -> FailuresOf<D> {
        if ops.is_empty() {
            return Vec::new();
        }
        let mut failures: BTreeMap<(&'static str, ErrorKind), Failure<D::Resource>> = BTreeMap::new();
        for (op, attempt) in ops.iter().zip(self.driver.apply(ops)) {
            match attempt {
                Ok(()) => {
                    *(if op.is_delete() { &mut report.removed } else { &mut report.written }) += 1;
                    if report.changes.len() < NAMED {
                        report.changes.push(op.clone());
                    }
                    if let Some(cached) = &mut self.cached {
                        D::Resource::apply(cached, op);
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

impl<R: Resource> Failure<R> {
    fn count(&mut self) {
        if let Self::Op { more, .. } = self {
            *more += 1;
        }
    }
}

/// With its whole cause, for a log.
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

#[cfg(test)]
mod tests;

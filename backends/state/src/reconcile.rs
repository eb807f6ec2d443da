//! One round of the loop: change the host's state to the desired state, and report the result.

mod put_off;
mod report;

pub use self::report::{Comparison, Failure, Report};
use self::{put_off::PutOff, report::grouped};
use crate::{Before, DataplaneError, Driver, OpError, Operation, Order, Plan, Reread, Resource};

/// How often one round tries again after a failure, each time after it has read the state again.
const RETRIES: usize = 2;

/// The most changes that are recorded.
const RECORDED: usize = 100_000;

/// The most changes of a round that a report lists. There may be thousands.
const NAMED: usize = 4;

/// Keeps one resource as desired. Between rounds it uses its cached state, until [`Reconciler::invalidate`] drops it.
#[derive(Debug)]
pub struct Reconciler<D: Driver> {
    driver: D,
    scope: ScopeOf<D>,
    /// The state as it was read last, updated by our own changes; `None` if it must be read.
    cached: Option<ObservedOf<D>>,
    /// What the cached state was made equal to; `None` before that.
    reached: Option<Reached<D::Resource>>,
    /// The changes made since [`Reconciler::record`]; `None` if that was not called, or the cached state was dropped since.
    recorded: Option<Vec<OpOf<D>>>,
    /// Changes that have failed, and are not tried again before [`Reconciler::try_again`].
    put_off: PutOff<D::Resource>,
}

/// The desired state that the cached state was made equal to.
#[derive(Debug)]
struct Reached<R: Resource> {
    desired: R::Desired,
    index: R::Index,
    has_conflicts: bool,
}

type ScopeOf<D> = <<D as Driver>::Resource as Resource>::Scope;
type ObservedOf<D> = <<D as Driver>::Resource as Resource>::Observed;
type DesiredOf<D> = <<D as Driver>::Resource as Resource>::Desired;
type OpOf<D> = <<D as Driver>::Resource as Resource>::Op;
type PartOf<D> = <<D as Driver>::Resource as Resource>::Part;
type ReportOf<D> = Report<<D as Driver>::Resource>;
type FailuresOf<D> = Vec<Failure<<D as Driver>::Resource>>;

impl<D: Driver> Reconciler<D> {
    /// Starts without a cached state: the first round reads.
    pub const fn new(driver: D, scope: ScopeOf<D>) -> Self {
        Self { driver, scope, cached: None, reached: None, recorded: None, put_off: PutOff::new() }
    }

    /// Drops the cached state, which may be wrong: the next round reads.
    pub fn invalidate(&mut self) {
        (self.cached, self.reached, self.recorded) = (None, None, None);
    }

    /// Has the next round try what has failed and stands apart ([`Resource::is_apart`]). Other rounds try it only if it is to be made differently.
    pub fn try_again(&mut self) {
        self.put_off.clear();
    }

    /// The desired state that the cached state is equal to; `None` if it is not known to equal one.
    #[must_use]
    pub fn reached(&self) -> Option<&DesiredOf<D>> {
        self.reached.as_ref().map(|reached| &reached.desired)
    }

    /// Begins to record the changes that are made from now on.
    pub fn record(&mut self) {
        self.recorded = Some(Vec::new());
    }

    /// Ends the recording, and returns the changes, at most the first 100 000. `None` if the cached state was dropped meanwhile.
    pub fn recorded(&mut self) -> Option<Vec<OpOf<D>>> {
        self.recorded.take()
    }

    /// The cached state; `None` if the next round will read.
    #[must_use]
    pub const fn cached(&self) -> Option<&ObservedOf<D>> {
        self.cached.as_ref()
    }

    /// The part of the host's state that is read.
    #[must_use]
    pub const fn scope(&self) -> &ScopeOf<D> {
        &self.scope
    }

    /// Sets the part of the host's state that is read. What is new in it is read at once; in doubt, the next round reads all.
    pub fn set_scope(&mut self, scope: ScopeOf<D>) {
        if scope == self.scope {
            return;
        }
        let before = std::mem::replace(&mut self.scope, scope);
        let part = self.cached.as_ref();
        let part = part.and_then(|cached| D::Resource::part_of_scope(cached, &before, &self.scope));
        self.read_part(part.as_ref());
    }

    /// Reads a part of the state again into the cached state, which is dropped in doubt: then the next round reads all.
    fn read_part(&mut self, part: Option<&PartOf<D>>) {
        let (Some(cached), Some(part)) = (&mut self.cached, part) else { return self.invalidate() };
        match self.driver.read_part(&self.scope, cached, part) {
            Ok(Reread::Made) => {}
            Ok(Reread::Other) => self.reached = None,
            Ok(Reread::None) | Err(_) => self.invalidate(),
        }
    }

    /// The driver.
    pub const fn driver(&mut self) -> &mut D {
        &mut self.driver
    }

    /// Reads the state and returns the changes that a round would make. Writes nothing.
    ///
    /// # Errors
    /// When the host cannot be read.
    pub fn preview(&mut self, desired: &DesiredOf<D>) -> Result<Plan<D::Resource>, DataplaneError> {
        Ok(D::Resource::plan(self.read()?, desired))
    }

    /// Reads the state and compares it with `desired`, for people. Writes nothing.
    ///
    /// # Errors
    /// When the host cannot be read.
    pub fn compare(&mut self, desired: &DesiredOf<D>) -> Result<Comparison, DataplaneError> {
        Ok(Comparison::of::<D::Resource>(self.read()?, desired))
    }

    fn read(&mut self) -> Result<&ObservedOf<D>, DataplaneError> {
        self.invalidate();
        let observed = self.driver.read(&self.scope)?;
        Ok(self.cached.insert(observed))
    }

    /// Makes the host's state equal to `desired`. Reads only if no state is cached; writes only what differs.
    pub fn round(&mut self, desired: &DesiredOf<D>) -> ReportOf<D> {
        let mut report = Report::default();
        for attempt in 0..=RETRIES {
            report.failed_ops.clear();
            report.is_cut_short = false;
            report.failures = self.attempt(desired, &mut report).unwrap_or_else(|error| vec![Failure::Read(error)]);
            let is_enough = report.fails_apart() && attempt > 0;
            if report.failures.is_empty() || attempt == RETRIES || is_enough {
                break;
            }
            self.invalidate();
        }
        let stands_apart = report.failures.is_empty() || report.fails_apart();
        self.put_off.add_to(&mut report);
        report.converged = report.failures.is_empty();
        if !stands_apart {
            self.put_off.clear();
        }
        if !stands_apart || !self.put_off.keep() {
            self.invalidate();
        }
        report
    }

    /// Reads if needed, and applies one plan. Changes that are [`Order::Ahead`] come first and on their own: the kernel changes other
    /// entries along with them, which are read rather than guessed.
    fn attempt(&mut self, desired: &DesiredOf<D>, report: &mut ReportOf<D>) -> Result<FailuresOf<D>, DataplaneError> {
        let order = |op: &OpOf<D>| D::Resource::order(op, desired);
        self.put_off.begin();
        let mut plan = self.plan(desired, report)?;
        let mut failures = Vec::new();
        let ahead: Vec<OpOf<D>> = plan.ops.iter().filter(|op| order(op) == Order::Ahead).cloned().collect();
        if !ahead.is_empty() {
            // The rest is planned anew, and may be large.
            drop(plan);
            let part = self.part_of(&ahead);
            failures = self.apply(&ahead, report);
            if !report.failed_ops.iter().all(D::Resource::is_apart) {
                report.is_cut_short = true;
                self.invalidate();
                return Ok(failures);
            }
            self.read_part(part.as_ref().filter(|_| failures.is_empty()));
            plan = self.plan(desired, report)?;
            let waits = |op: &OpOf<D>| report.failed_ops.iter().any(|failed| D::Resource::waits_for(op, failed));
            plan.ops.retain(|op| !waits(op));
        }
        let mut has_conflicts = !D::Resource::conflicts(&plan.findings).is_empty();
        report.findings = plan.findings;
        let changes_others = plan.ops.iter().any(|op| order(op) != Order::Plain);
        let part = if changes_others { self.part_of(&plan.ops) } else { None };
        failures.extend(self.apply(&plan.ops, report));
        let mut is_reached = failures.is_empty();
        if changes_others {
            self.read_part(part.as_ref().filter(|_| is_reached));
            let left = self.plan(desired, report)?;
            is_reached &= left.ops.is_empty();
            has_conflicts |= !D::Resource::conflicts(&left.findings).is_empty();
        }
        if is_reached && !self.put_off.is_some_planned() {
            self.note_reached(desired, has_conflicts);
        }
        Ok(failures)
    }

    /// Notes that the cached state is as desired, so that the next plan need only look at what is desired differently then.
    fn note_reached(&mut self, desired: &DesiredOf<D>, has_conflicts: bool) {
        let Some(cached) = &self.cached else { return };
        let index = self.reached.take().map_or_else(|| D::Resource::index(cached), |reached| reached.index);
        self.reached = Some(Reached { desired: desired.clone(), index, has_conflicts });
    }

    /// The changes that are needed, without those that are put off. Reads if no state is cached.
    fn plan(&mut self, desired: &DesiredOf<D>, report: &mut ReportOf<D>) -> Result<Plan<D::Resource>, DataplaneError> {
        let cached = match self.cached.take() {
            Some(cached) => cached,
            None => {
                report.read_back = true;
                self.driver.read(&self.scope)?
            }
        };
        let cached = self.cached.insert(cached);
        let since = |Reached { desired: reached, index, has_conflicts }: &Reached<D::Resource>| {
            D::Resource::plan_since(cached, Before { reached, index, has_conflicts: *has_conflicts }, desired)
        };
        let mut plan = self.reached.as_ref().and_then(since).unwrap_or_else(|| D::Resource::plan(cached, desired));
        self.put_off.take_out_of(&mut plan);
        Ok(plan)
    }

    fn part_of(&self, ops: &[OpOf<D>]) -> Option<PartOf<D>> {
        self.cached.as_ref().and_then(|cached| D::Resource::part_of_changes(cached, ops))
    }

    fn apply(&mut self, ops: &[OpOf<D>], report: &mut ReportOf<D>) -> FailuresOf<D> {
        if ops.is_empty() {
            return Vec::new();
        }
        let mut failed: Vec<(&OpOf<D>, OpError)> = Vec::new();
        for (op, attempt) in ops.iter().zip(self.driver.apply(ops)) {
            match attempt {
                Ok(()) => {
                    *(if op.is_delete() { &mut report.removed } else { &mut report.written }) += 1;
                    if report.changes.len() < NAMED {
                        report.changes.push(op.clone());
                    }
                    if let Some(recorded) = self.recorded.as_mut().filter(|recorded| recorded.len() < RECORDED) {
                        recorded.push(op.clone());
                    }
                    if let Some(cached) = &mut self.cached {
                        D::Resource::apply(cached, op);
                    }
                }
                Err(error) => {
                    report.failed += 1;
                    report.failed_ops.push(op.clone());
                    self.put_off.note_failed(op, &error);
                    failed.push((op, error));
                }
            }
        }
        grouped(failed.into_iter())
    }
}

#[cfg(test)]
mod tests;

//! A host on which an agent has made the entries of two peers.

use wire_state::{
    Attempt, DesiredNet, Driver as _, ErrorKind, KernelOp, Namespace, Network, ObservedNet, Op, PerNamespace,
    Reconciler, Report, Scope,
};

use super::{Change, Host};
use crate::{Changes, tests::lab::Lab};

pub(super) struct Stage<H: Host> {
    host: H,
    pub(super) lab: Lab,
    reconciler: Reconciler<H::Kernel>,
    monitor: H::Monitor,
}

impl<H: Host> Stage<H> {
    /// Runs a check on a new host that an agent has just started on.
    pub(super) fn on_new(check: impl FnOnce(Self) + Send + 'static) {
        H::on_new(|host| {
            let lab = Lab::on(&host.facts(), 2);
            let scope = lab.scope();
            let reconciler = Reconciler::new(host.kernel(), PerNamespace::host(scope.clone()));
            let monitor = host.monitor(scope);
            check(Self { host, lab, reconciler, monitor });
        });
    }

    /// Runs a check on a new host that holds what is desired.
    pub(super) fn settled(check: impl FnOnce(Self) + Send + 'static) {
        Self::on_new(|mut stage| {
            let want = stage.lab.want();
            assert!(stage.round(&want).converged);
            stage.reread();
            check(stage);
        });
    }

    /// The same, and the monitor has nothing more to report.
    pub(super) fn quiet(check: impl FnOnce(Self) + Send + 'static) {
        Self::settled(|mut stage| {
            let _ = stage.heard();
            check(stage);
        });
    }

    /// The same, with a network on a bridge.
    pub(super) fn of_segment(check: impl FnOnce(Self) + Send + 'static) {
        H::on_new(|host| {
            let lab = Lab::with_segments(&host.facts(), 1);
            let scope = lab.scope();
            let reconciler = Reconciler::new(host.kernel(), PerNamespace::host(scope.clone()));
            let monitor = host.monitor(scope);
            let mut stage = Self { host, lab, reconciler, monitor };
            let want = stage.lab.want();
            let report = stage.round(&want);
            assert!(report.converged, "{:?} {}", report.failures, report.findings);
            stage.reread();
            let _ = stage.heard();
            check(stage);
        });
    }

    pub(super) fn round(&mut self, want: &DesiredNet) -> Report<Network> {
        self.reconciler.round(&PerNamespace::host(want.clone()))
    }

    /// Reads all, writes what is missing, and returns the number of changes.
    pub(super) fn repair(&mut self, want: &DesiredNet) -> usize {
        self.reconciler.invalidate();
        let report = self.round(want);
        assert!(report.converged, "{report:?}");
        report.written + report.removed
    }

    /// Reads the host anew, for the agent too.
    pub(super) fn reread(&mut self) {
        self.reconciler.invalidate();
        let want = PerNamespace::host(self.lab.want());
        self.reconciler.preview(&want).unwrap();
    }

    /// Sets another scope, as a loop does: first of the monitor.
    pub(super) fn change_scope(&mut self, change: impl FnOnce(&mut Scope)) {
        let mut scopes = self.reconciler.scope().clone();
        let host = scopes.get_mut(Namespace::Host).unwrap();
        change(host);
        H::set_scope(&mut self.monitor, host.clone());
        self.reconciler.set_scope(scopes);
    }

    pub(super) fn would_read_all(&self) -> bool {
        self.reconciler.cached().is_none()
    }

    /// The state that the agent takes the host to have.
    pub(super) fn cached(&self) -> ObservedNet {
        self.reconciler.cached().and_then(|cached| cached.get(Namespace::Host)).unwrap().clone()
    }

    /// The state of the host, read by the driver.
    pub(super) fn read(&mut self) -> ObservedNet {
        let scope = self.reconciler.scope().clone();
        self.reconciler.driver().read(&scope).unwrap().get(Namespace::Host).unwrap().clone()
    }

    /// Carries out one operation.
    pub(super) fn apply(&mut self, op: &KernelOp) -> Result<(), ErrorKind> {
        let op = Op::Kernel(Namespace::Host, op.clone());
        let attempt: Attempt = self.reconciler.driver().apply(&[op]).pop().unwrap();
        attempt.map_err(|error| error.kind)
    }

    pub(super) fn change(&self, change: Change) {
        self.host.change(change);
    }

    pub(super) fn heard(&mut self) -> Changes {
        let cached = self.cached();
        H::heard(&mut self.monitor, &cached)
    }
}

//! The thread that reconciles the kernel's network.
//!
//! Netlink calls block, so they have a thread and a runtime of their own. Input: the desired state (a watch). Output: a
//! report to the status after each round, and a notification when the underlay has changed. Each round compares and
//! writes the difference; whatever wakes the thread (a new desired state, the kernel's monitor, a timer) only means "compare".

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use tracing::{error, info};
use wire_kernel::{Changes, Monitor};
use wire_net::chain;
use wire_state::{
    Conflict, DataplaneError, DesiredNet, ErrorKind, Failure, KernelKind, KernelOp, Namespace, Network, ObservedNet,
    Op, PerNamespace, Reconciler, Report, Scope, TunnelOp,
};
use wire_store::Revision;

use crate::{
    exit::Exit,
    host_dataplane::HostDataplane,
    notify,
    pulse::{Part, Watchdog},
    repeats::Repeats,
    status::{KernelCondition, StatusWriter},
};

/// Everything is read and compared this often, even without any notification.
const PERIOD: Duration = Duration::from_secs(60);

/// The pause before the next round, if the last one left something undone.
const RETRY: Duration = Duration::from_secs(1);

/// Changes that follow each other within this time are read back once; the time grows with the duration of a read.
const SETTLE: Duration = Duration::from_millis(20);

/// The desired state of the kernel, and the revision of the leases from which it was computed.
#[derive(Clone, Debug)]
struct Wish {
    state: Arc<PerNamespace<DesiredNet>>,
    revision: Revision,
}

/// The running thread. It ends when this is dropped, and leaves the kernel as it is.
#[derive(Debug)]
pub(crate) struct Datapath {
    want: watch::Sender<Option<Wish>>,
    underlay_changed: Arc<Notify>,
    outcome: watch::Receiver<Outcome>,
}

impl Datapath {
    /// Starts the thread. It writes nothing before the first [`Datapath::want`].
    ///
    /// # Errors
    /// When the kernel gives no monitor, or no thread can be started.
    pub(crate) fn start(
        reconciler: Reconciler<HostDataplane>,
        (board, pulse): (StatusWriter, Watchdog),
        stored: notify::Stored,
    ) -> Result<Self, Exit> {
        let (want, wishes) = watch::channel(None);
        let underlay_changed = Arc::new(Notify::new());
        let (said, outcome) = watch::channel(Outcome::Pending);
        let keeper = Keeper {
            reconciler,
            board,
            wishes,
            underlay_changed: underlay_changed.clone(),
            said,
            stored,
            repeats: Repeats::default(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Exit::Software(format!("cannot start the dataplane's runtime: {error}")))?;
        // It may wait for ever for a notification, but no call may block for ever.
        let mut answers = pulse.part(Part::Dataplane);
        let run = move || runtime.block_on(answers.during(keeper.run()));
        thread::Builder::new()
            .name("dataplane".to_owned())
            .spawn(run)
            .map_err(|error| Exit::Software(format!("cannot start the dataplane's thread: {error}")))?;
        Ok(Self { want, underlay_changed, outcome })
    }

    /// Sets the desired state, as computed from the leases at `revision`.
    pub(crate) fn want(&self, state: DesiredNet, revision: Revision) {
        self.want.send_replace(Some(Wish { state: Arc::new(PerNamespace::host(state)), revision }));
    }

    /// Ends the thread, and waits until it has.
    pub(crate) async fn end(self) {
        let Self { want, mut outcome, .. } = self;
        drop(want);
        while outcome.changed().await.is_ok() {}
    }

    /// Is notified when addresses or links of the host have changed.
    pub(crate) fn underlay_changed(&self) -> Arc<Notify> {
        self.underlay_changed.clone()
    }

    /// Waits until a comparison has another outcome than the one before; `None` if the thread has died.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn outcome(&mut self) -> Option<Outcome> {
        self.outcome.changed().await.ok().map(|()| *self.outcome.borrow_and_update())
    }
}

/// The outcome of a comparison for the network as a whole; the worst comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// The kernel has not been compared yet.
    Pending,
    /// Our devices are there; single entries may still be missing.
    Usable,
    /// A device of ours is missing, or cannot be read.
    Unusable,
    /// The kernel cannot make VXLAN devices.
    NoVxlan,
    /// The kernel cannot make TUN devices.
    NoTun,
}

impl Outcome {
    fn of(report: &Report<Network>) -> Self {
        let in_the_way = report.findings.conflicts.iter().any(|conflict| match conflict {
            Conflict::Name { .. } | Conflict::Vni { .. } | Conflict::Port { .. } | Conflict::Needs { .. } => true,
            Conflict::Route { .. } | Conflict::Forwarding { .. } => false,
        });
        let failed = report.failures.iter().map(|failure| match failure {
            Failure::Op { op, error, .. } if error.kind == ErrorKind::Unsupported => Self::unsupported(op),
            Failure::Op { op, .. } if op.is_link() => Self::Unusable,
            Failure::Read(_) => Self::Unusable,
            Failure::Op { .. } => Self::Usable,
        });
        match failed.max() {
            Some(worst @ (Self::NoVxlan | Self::NoTun | Self::Unusable)) => worst,
            Some(Self::Usable | Self::Pending) | None if in_the_way => Self::Unusable,
            Some(Self::Usable | Self::Pending) | None => Self::Usable,
        }
    }
}

impl Outcome {
    /// An operation that this kernel cannot carry out.
    const fn unsupported(op: &Op) -> Self {
        if let Op::Kernel(_, KernelOp::CreateLink(_, link) | KernelOp::ChangeLink(_, link)) = op
            && matches!(link.kind, KernelKind::Vxlan(_))
        {
            return Self::NoVxlan;
        }
        if matches!(op, Op::Tunnel(TunnelOp::Create(..) | TunnelOp::Change(..))) {
            return Self::NoTun;
        }
        if op.is_link() { Self::Unusable } else { Self::Usable }
    }
}

struct Keeper {
    reconciler: Reconciler<HostDataplane>,
    board: StatusWriter,
    wishes: watch::Receiver<Option<Wish>>,
    underlay_changed: Arc<Notify>,
    said: watch::Sender<Outcome>,
    /// What systemd keeps for a later run.
    stored: notify::Stored,
    repeats: Repeats,
}

impl Keeper {
    async fn run(mut self) {
        while self.wishes.borrow().is_none() {
            if self.wishes.changed().await.is_err() {
                return;
            }
        }
        let ended = self.reconciler.driver().forwarder.tunnels().ended();
        let mut monitor = None;
        let mut followed: Option<Arc<PerNamespace<DesiredNet>>> = None;
        let mut whole_at = Instant::now() + PERIOD;
        loop {
            if monitor.is_none() {
                monitor = self.listen();
            }
            let Some(wish) = self.wishes.borrow_and_update().clone() else { return };
            let is_new = !followed.replace(wish.state.clone()).is_some_and(|before| Arc::ptr_eq(&before, &wish.state));
            let begun = Instant::now();
            let report = self.reconciler.round(&wish.state);
            let tunnels = self.reconciler.driver().forwarder.tunnels();
            self.stored.follow(&tunnels.handles());
            let settle = SETTLE.max(begun.elapsed() * 4);
            if report.read_back {
                whole_at = Instant::now() + PERIOD;
                // Whatever caused the read may have changed the underlay too, before the monitor was open.
                self.underlay_changed.notify_one();
            }
            let again = if report.converged { whole_at } else { Instant::now() + RETRY };
            self.publish(report, wish.revision, is_new);
            tokio::select! {
                changed = self.wishes.changed() => if changed.is_err() { return },
                wake = next_wake(monitor.as_mut(), host(self.reconciler.cached())) => match wake {
                    Ok(wake) => {
                        self.woken(wake);
                        // A new desired state does not wait for the kernel to settle.
                        if let Ok(Err(_)) = tokio::time::timeout(settle, self.wishes.changed()).await {
                            return;
                        }
                    }
                    Err(_) => monitor = None,
                },
                () = ended.notified() => self.reconciler.invalidate(),
                () = tokio::time::sleep_until(again.into()) => self.reconciler.invalidate(),
            }
        }
    }

    /// Opens the monitor. The next round reads what changed before it was open.
    fn listen(&mut self) -> Option<Monitor> {
        self.reconciler.invalidate();
        let opened = Monitor::open(self.host_scope());
        let fault = opened.as_ref().err().map(|error| chain(error));
        if let Some(error) = &fault {
            error!(error, "no notifications come from the kernel; its state is read every {PERIOD:?} instead");
        }
        self.board.set(KernelCondition::NO_NOTIFICATIONS, fault.map(KernelCondition::NoNotifications));
        opened.ok()
    }

    fn host_scope(&self) -> Scope {
        self.reconciler.scope().get(Namespace::Host).cloned().unwrap_or_default()
    }

    /// Makes the next round read the kernel again, if anything of ours has changed.
    fn woken(&mut self, wake: Changes) {
        if wake.ours {
            self.reconciler.invalidate();
        }
        if wake.underlay {
            self.underlay_changed.notify_one();
        }
    }

    /// Warns of changes that are repaired again and again although the leases did not change: another program makes them.
    fn note_repeats(&mut self, report: &Report<Network>, is_new: bool) {
        let changes = if is_new { &[] } else { report.changes.as_slice() };
        let said = self.repeats.note(changes, Instant::now());
        self.board.set(KernelCondition::OTHER_PROGRAM, said);
    }

    fn publish(&mut self, report: Report<Network>, revision: Revision, is_new: bool) {
        let report = Arc::new(report);
        self.board.update(|seen| {
            seen.dataplane.rounds += 1;
            seen.dataplane.written += report.written as u64;
            seen.dataplane.removed += report.removed as u64;
            seen.dataplane.last = Some(report.clone());
            seen.dataplane.applied = revision;
        });
        self.note_repeats(&report, is_new);
        let detours = Some(&report.findings.detours).filter(|detours| !detours.is_empty());
        self.board.set(KernelCondition::DETOURS, detours.map(|detours| KernelCondition::Detours(detours.to_string())));
        let (written, removed) = (report.written, report.removed);
        if written + removed > report.changes.len() || !self.repeats.knows(&report.changes) {
            info!(written, removed, entries = report.named(), "kernel entries changed");
        }
        let outcome = Outcome::of(&report);
        self.said.send_if_modified(|before| std::mem::replace(before, outcome) != outcome);
    }
}

fn host(belief: Option<&PerNamespace<ObservedNet>>) -> Option<&ObservedNet> {
    belief.and_then(|belief| belief.get(Namespace::Host))
}

/// Without a cached state there is nothing to compare with: the next round reads anyway.
async fn next_wake(monitor: Option<&mut Monitor>, belief: Option<&ObservedNet>) -> Result<Changes, DataplaneError> {
    match (monitor, belief) {
        (Some(monitor), Some(belief)) => monitor.changed(belief).await,
        (Some(_) | None, _) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use wire_net::{Mtu, Vni};
    use wire_state::{
        Capabilities, DesiredLink, DesiredVxlan, Findings, Framing, LinkPlace, ObservedKind, ObservedLink, OpError,
        Owner, Tunnel,
    };

    use super::*;

    fn refused(op: Op, kind: ErrorKind) -> Outcome {
        let error = OpError { kind, detail: None, source: io::ErrorKind::Unsupported.into() };
        Outcome::of(&Report { failures: vec![Failure::Op { op, error, more: 0 }], ..Report::default() })
    }

    fn kernel(op: KernelOp) -> Op {
        Op::Kernel(Namespace::Host, op)
    }

    #[test]
    fn only_a_device_that_cannot_be_made_or_had_keeps_the_network_from_being_there() {
        let name = "flannel.1".parse().unwrap();
        let vxlan = KernelKind::Vxlan(DesiredVxlan::new(Vni::new(1).unwrap()));
        let create = || kernel(KernelOp::CreateLink(name, DesiredLink::new(vxlan.clone(), Mtu(1450))));
        let local = "192.0.2.1:8472".parse().unwrap();
        let (framing, capabilities) = (Framing::Raw, Capabilities::ALL);
        let tunnel = Tunnel { framing, local, own: None, source_check: true, queues: 1, capabilities };
        let tun = Op::Tunnel(TunnelOp::Create(name, DesiredLink::new(tunnel, Mtu(1450))));
        assert_eq!(refused(tun, ErrorKind::Unsupported), Outcome::NoTun);
        assert_eq!(refused(create(), ErrorKind::Unsupported), Outcome::NoVxlan);
        assert_eq!(refused(create(), ErrorKind::Permission), Outcome::Unusable);
        let fdb = wire_state::FdbKey { link: name, mac: "02:00:00:00:00:01".parse().unwrap() };
        assert_eq!(refused(kernel(KernelOp::DeleteFdb(fdb)), ErrorKind::Unsupported), Outcome::Usable);
        let found = ObservedLink {
            kind: ObservedKind::Bridge,
            mac: None,
            mtu: Mtu(1450),
            up: true,
            master: None,
            is_marked: false,
            owner: Owner::Foreign,
            index: 9,
        };
        let link = LinkPlace::in_host(name);
        let conflicts = vec![Conflict::Name { link, found, underlay: None }];
        assert_eq!(
            Outcome::of(&Report { findings: Findings { conflicts, ..Findings::default() }, ..Report::default() }),
            Outcome::Unusable
        );
        assert_eq!(Outcome::of(&Report::default()), Outcome::Usable);
    }
}

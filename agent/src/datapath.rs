//! The thread that keeps the kernel as it should be.
//!
//! Netlink calls block, so they have a thread of their own with a runtime of its own. In: what the kernel should hold
//! (a watch). Out: a report on the board after each round, and a word when the underlay has changed. Each round compares
//! and writes the difference; what wakes it (new wishes, the kernel's monitor, a timer) says nothing more than "compare".

use std::{
    collections::BTreeSet,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use tracing::{error, info, warn};
use wire_backends::{DataplaneError, Monitor, NetState, NetlinkDataplane, Reconciler, Report, Wake};
use wire_lease::{Revision, chain};

use crate::{exit::Exit, observed::Board};

/// Compare everything that often, though nobody said that anything has changed.
const PERIOD: Duration = Duration::from_secs(60);

/// Compare again that soon, when the last round left something undone.
const RETRY: Duration = Duration::from_secs(1);

/// Changes that follow each other this closely are read back once; more, where reading takes long.
const SETTLE: Duration = Duration::from_millis(20);

/// What the kernel should hold, and the revision of the leases it follows from.
#[derive(Clone, Debug)]
struct Wish {
    state: Arc<NetState>,
    revision: Revision,
}

/// The running thread. It ends when this is dropped, and leaves the kernel as it is.
#[derive(Debug)]
pub(crate) struct Datapath {
    want: watch::Sender<Option<Wish>>,
    underlay_changed: Arc<Notify>,
    first_round: watch::Receiver<bool>,
}

impl Datapath {
    /// Starts the thread. It writes nothing before the first [`Datapath::want`].
    ///
    /// # Errors
    /// When the kernel gives no monitor or no thread.
    pub(crate) fn start(reconciler: Reconciler<NetlinkDataplane>, board: Board) -> Result<Self, Exit> {
        let (want, wishes) = watch::channel(None);
        let underlay_changed = Arc::new(Notify::new());
        let (done, first_round) = watch::channel(false);
        let keeper = Keeper { reconciler, board, wishes, underlay_changed: underlay_changed.clone(), done };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Exit::Software(format!("cannot start the dataplane's runtime: {error}")))?;
        let run = move || runtime.block_on(keeper.run());
        thread::Builder::new()
            .name("dataplane".to_owned())
            .spawn(run)
            .map_err(|error| Exit::Software(format!("cannot start the dataplane's thread: {error}")))?;
        Ok(Self { want, underlay_changed, first_round })
    }

    /// Says what the kernel should hold from now on, as the leases at `revision` have it.
    pub(crate) fn want(&self, state: NetState, revision: Revision) {
        self.want.send_replace(Some(Wish { state: Arc::new(state), revision }));
    }

    /// Is notified when addresses or links of the host have changed.
    pub(crate) fn underlay_changed(&self) -> Arc<Notify> {
        self.underlay_changed.clone()
    }

    /// Waits until the kernel was compared for the first time; says false where the thread has died. Says it once, and
    /// then only that the thread has died.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn first_round(&mut self) -> bool {
        self.first_round.changed().await.is_ok()
    }
}

struct Keeper {
    reconciler: Reconciler<NetlinkDataplane>,
    board: Board,
    wishes: watch::Receiver<Option<Wish>>,
    underlay_changed: Arc<Notify>,
    /// Whether the kernel was compared once.
    done: watch::Sender<bool>,
}

impl Keeper {
    async fn run(mut self) {
        while self.wishes.borrow().is_none() {
            if self.wishes.changed().await.is_err() {
                return;
            }
        }
        let mut monitor = None;
        loop {
            if monitor.is_none() {
                monitor = self.listen();
            }
            let Some(wish) = self.wishes.borrow_and_update().clone() else { return };
            let begun = Instant::now();
            let report = self.reconciler.round(&wish.state);
            let settle = SETTLE.max(begun.elapsed() * 4);
            let again = if report.converged { PERIOD } else { RETRY };
            self.publish(report, wish.revision);
            self.done.send_if_modified(|done| !std::mem::replace(done, true));
            tokio::select! {
                changed = self.wishes.changed() => if changed.is_err() { return },
                wake = next_wake(monitor.as_mut(), self.reconciler.belief()) => match wake {
                    Ok(wake) => {
                        self.woken(wake);
                        // New wishes are not kept waiting.
                        let _ = tokio::time::timeout(settle, self.wishes.changed()).await;
                    }
                    Err(_) => monitor = None,
                },
                () = tokio::time::sleep(again) => self.reconciler.doubt(),
            }
        }
    }

    /// Opens the monitor. What changed before it was open is read.
    fn listen(&mut self) -> Option<Monitor> {
        self.reconciler.doubt();
        let opened = Monitor::open(self.reconciler.scope().clone());
        let fault = opened.as_ref().err().map(|error| chain(error));
        if let Some(error) = &fault {
            error!(error, "the kernel tells nothing of its changes, they are looked for every {PERIOD:?}");
        }
        self.board.fault("monitor", fault);
        opened.ok()
    }

    /// The kernel has changed: read it again.
    fn woken(&mut self, wake: Wake) {
        if wake.ours {
            self.reconciler.doubt();
        }
        if wake.underlay {
            self.underlay_changed.notify_one();
        }
    }

    fn publish(&self, report: Report, revision: Revision) {
        let before: BTreeSet<String> =
            self.board.look(|seen| seen.dataplane.last.iter().flat_map(|last| troubles(last)).collect());
        for trouble in troubles(&report).filter(|trouble| !before.contains(trouble)) {
            warn!("{trouble}");
        }
        if report.written + report.removed > 0 {
            info!(written = report.written, removed = report.removed, "kernel entries changed");
        }
        self.board.update(|seen| {
            seen.dataplane.rounds += 1;
            seen.dataplane.written += report.written as u64;
            seen.dataplane.removed += report.removed as u64;
            seen.dataplane.last = Some(Arc::new(report));
            seen.dataplane.applied = revision;
        });
    }
}

fn troubles(report: &Report) -> impl Iterator<Item = String> {
    let conflicts = report.conflicts.iter().map(ToString::to_string);
    conflicts.chain(report.failures.iter().map(ToString::to_string))
}

/// While nothing is believed, there is nothing to compare with: the next round reads anyway.
async fn next_wake(monitor: Option<&mut Monitor>, belief: Option<&NetState>) -> Result<Wake, DataplaneError> {
    match (monitor, belief) {
        (Some(monitor), Some(belief)) => monitor.changed(belief).await,
        (Some(_) | None, _) => std::future::pending().await,
    }
}

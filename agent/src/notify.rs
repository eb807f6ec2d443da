//! Notifies systemd: READY, STATUS, STOPPING, WATCHDOG and FDSTORE, sd_notify(3). Without systemd it sends nothing, but
//! still asks the parts of the agent, for `status`.

use std::{
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;
use wire_forward::{Handle, Tunnels};

use crate::{
    ports::{Ports, Supervisor},
    pulse::{self, Watchdog},
    status::{AgentCondition, Phase, StatusWriter},
};

/// Notifies systemd: STATUS as it changes, READY once, WATCHDOG while no part of the agent hangs.
///
/// # Cancel safety
/// Safe: it holds nothing.
pub(crate) async fn follow(ports: impl Ports, status: StatusWriter, watchdog: Watchdog, tunnels: Tunnels) {
    let say = |states: &[NotifyState<'_>]| ports.supervisor().notify(states);
    let mut seen = status.subscribe();
    let mut last = String::new();
    let mut ready = false;
    let period = ports.supervisor().watchdog();
    let mut questions = interval(period.unwrap_or(pulse::INTERVAL) / pulse::QUESTIONS);
    // After the process was stopped, the missed questions are not asked in a row, which would leave no time for
    // answers.
    questions.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (phase, summary) = {
            let seen = seen.borrow_and_update();
            (seen.phase().0, seen.summary())
        };
        if !ready && matches!(phase, Phase::Ready | Phase::Degraded) {
            // Sent alone, so that no other variable can make the message fail.
            ready = say(&[NotifyState::Ready]);
        }
        let summary = one_line(&summary);
        if summary != last {
            let _ = say(&[NotifyState::Status(&summary)]);
            last = summary;
        }
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            _ = questions.tick() => {
                let hung = watchdog.ask(tunnels.turns());
                if period.is_some() && hung.is_empty() {
                    let _ = say(&[NotifyState::Watchdog]);
                }
                status.set_all(AgentCondition::HANGS, hung.into_iter().map(AgentCondition::Hangs));
            }
        }
    }
}

/// Sends STOPPING=1.
pub(crate) fn stopping(supervisor: &dyn Supervisor) {
    let _ = supervisor.notify(&[NotifyState::Stopping]);
}

/// systemd, if it has started this process.
pub(crate) struct Systemd;

impl Supervisor for Systemd {
    fn notify(&self, states: &[NotifyState<'_>]) -> bool {
        let said = sd_notify::notify(states);
        if let Err(error) = &said {
            warn!(%error, "cannot notify systemd");
        }
        said.is_ok()
    }

    fn keep(&self, handle: &Handle) -> io::Result<()> {
        sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(&handle.name)], &[handle.fd.as_fd()])
    }

    fn watchdog(&self) -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }
}

/// The descriptors that systemd keeps for a later run of the agent (`FDSTORE`), if the unit allows it
/// (`FileDescriptorStoreMax=`). One for the whole process, so that it knows all of them and can remove them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored(Arc<Mutex<Vec<Entry>>>);

/// A name, and the descriptor it stands for; `None` if an earlier run stored it.
type Entry = (String, Option<u64>);

impl Stored {
    /// Starts with the names that an earlier run has stored.
    pub(crate) fn inherited(names: impl IntoIterator<Item = String>) -> Self {
        Self(Arc::new(Mutex::new(names.into_iter().map(|name| (name, None)).collect())))
    }

    /// Whether there is any.
    pub(crate) fn holds_any(&self) -> bool {
        !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Stores exactly `handles`.
    pub(crate) fn follow(&self, supervisor: &dyn Supervisor, handles: &[Handle]) {
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is = |handle: &Handle, (name, number): &Entry| handle.name == *name && Some(handle.number) == *number;
        for gone in stored.iter().filter(|old| !handles.iter().any(|new| is(new, old))) {
            let _ = supervisor.notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(&gone.0)]);
        }
        for new in handles.iter().filter(|new| !stored.iter().any(|old| is(new, old))) {
            if let Err(error) = supervisor.keep(new) {
                warn!(%error, name = new.name, "systemd cannot keep a descriptor");
            }
        }
        *stored = handles.iter().map(|handle| (handle.name.clone(), Some(handle.number))).collect();
    }
}

/// Joins and shortens the text: a message has one line for each variable, and a datagram has a limited size.
fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(1000).collect()
}

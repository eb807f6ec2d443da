//! What systemd is told: READY, STATUS, STOPPING, WATCHDOG and FDSTORE, sd_notify(3). Without systemd nothing is said.

use std::{os::fd::AsFd, sync::Arc};

use sd_notify::NotifyState;
use tracing::warn;
use wire_backends::Handle;

use crate::observed::{Board, Phase};

/// Keeps systemd told: STATUS as it changes, READY once, WATCHDOG at half its interval.
///
/// # Cancel safety
/// Safe: it holds nothing.
pub(crate) async fn follow(board: Board) {
    let mut seen = board.subscribe();
    let mut last = String::new();
    let mut ready = false;
    let mut watchdog = sd_notify::watchdog_enabled().map(|interval| tokio::time::interval(interval / 2));
    loop {
        let (phase, summary) = {
            let seen = seen.borrow_and_update();
            (seen.phase().0, seen.summary())
        };
        if !ready && matches!(phase, Phase::Ready | Phase::Degraded) {
            // Alone, so that nothing else can keep it from arriving.
            ready = say(&[NotifyState::Ready]);
        }
        let summary = one_line(&summary);
        if summary != last {
            let _ = say(&[NotifyState::Status(&summary)]);
            last = summary;
        }
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            () = beat(&mut watchdog) => drop(say(&[NotifyState::Watchdog])),
        }
    }
}

/// Says that the agent ends.
pub(crate) fn stopping() {
    let _ = say(&[NotifyState::Stopping]);
}

/// What systemd keeps for a later run of the agent (`FDSTORE`), where its unit lets it (`FileDescriptorStoreMax=`).
#[derive(Debug, Default)]
pub(crate) struct Stored(Vec<Handle>);

impl Stored {
    /// Makes what is stored be `handles`.
    pub(crate) fn follow(&mut self, handles: Vec<Handle>) {
        let same = |a: &Handle, b: &Handle| a.name == b.name && Arc::ptr_eq(&a.fd, &b.fd);
        for gone in self.0.iter().filter(|old| !handles.iter().any(|new| same(old, new))) {
            let _ = say(&[NotifyState::FdStoreRemove, NotifyState::FdName(&gone.name)]);
        }
        for new in handles.iter().filter(|new| !self.0.iter().any(|old| same(old, new))) {
            let stored =
                sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(&new.name)], &[new.fd.as_fd()]);
            if let Err(error) = stored {
                warn!(%error, name = new.name, "systemd cannot keep a descriptor");
            }
        }
        self.0 = handles;
    }
}

async fn beat(watchdog: &mut Option<tokio::time::Interval>) {
    match watchdog {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// A message has a line for each variable, and a datagram holds only so much.
fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(1000).collect()
}

fn say(states: &[NotifyState<'_>]) -> bool {
    let said = sd_notify::notify(states);
    if let Err(error) = &said {
        warn!(%error, "systemd cannot be told");
    }
    said.is_ok()
}

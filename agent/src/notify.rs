//! What systemd is told: READY, STATUS, STOPPING and WATCHDOG, sd_notify(3). Without systemd nothing is said.

use sd_notify::NotifyState;
use tracing::warn;

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
        let mut states = Vec::new();
        if !ready && matches!(phase, Phase::Ready | Phase::Degraded) {
            ready = true;
            states.push(NotifyState::Ready);
        }
        if summary != last {
            states.push(NotifyState::Status(&summary));
        }
        say(&states);
        last = summary;
        tokio::select! {
            changed = seen.changed() => if changed.is_err() { return },
            () = beat(&mut watchdog) => say(&[NotifyState::Watchdog]),
        }
    }
}

/// Says that the agent ends.
pub(crate) fn stopping() {
    say(&[NotifyState::Stopping]);
}

async fn beat(watchdog: &mut Option<tokio::time::Interval>) {
    match watchdog {
        Some(interval) => {
            interval.tick().await;
        }
        None => std::future::pending().await,
    }
}

fn say(states: &[NotifyState<'_>]) {
    if states.is_empty() {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "systemd cannot be told");
    }
}

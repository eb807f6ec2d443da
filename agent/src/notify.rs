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

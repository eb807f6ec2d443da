//! Forwarding between containers and the overlay: switched on in the kernel, and kept so. That no rule is in its way is the
//! firewall's affair ([`crate::firewall`]).

use std::time::Duration;

use tokio::{sync::watch, task::JoinHandle};
use tracing::info;
use wire_backends::{LinkName, forward_packets, keep_router_advertisements};
use wire_lease::{Family, NetworkConfig};

use crate::observed::Board;

/// How often it is looked at: what switches it off says nothing.
const PERIOD: Duration = Duration::from_secs(60);

/// The task that keeps forwarding on. It ends when this is dropped; what it wrote stays.
#[derive(Debug)]
pub(crate) struct Forwarding {
    checked: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

impl Forwarding {
    /// Starts to switch forwarding on, beside what else the start does.
    pub(crate) fn start(config: &NetworkConfig, link: LinkName, board: Board) -> Self {
        let families: Vec<Family> = config.families().collect();
        let (done, checked) = watch::channel(false);
        let task = tokio::spawn(async move {
            loop {
                let families = families.clone();
                // Files block.
                let outcome = tokio::task::spawn_blocking(move || check(&families, link)).await;
                note(&board, outcome.unwrap_or_else(|died| Err(died.to_string())));
                done.send_replace(true);
                tokio::time::sleep(PERIOD).await;
            }
        });
        Self { checked, task }
    }

    /// Waits until forwarding was switched on, or could not be.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn in_place(&mut self) {
        // Only a task that died never says so, and it has said why on the board.
        let _ = self.checked.wait_for(|done| *done).await;
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn check(families: &[Family], link: LinkName) -> Result<bool, String> {
    let mut changed = false;
    if families.contains(&Family::V6) {
        changed |= keep_router_advertisements(link)
            .map_err(|error| format!("cannot keep router advertisements on {link}: {error}"))?;
    }
    for family in families {
        changed |=
            forward_packets(*family).map_err(|error| format!("cannot switch on forwarding of {family}: {error}"))?;
    }
    Ok(changed)
}

fn note(board: &Board, outcome: Result<bool, String>) {
    if outcome == Ok(true) {
        info!("forwarding switched on");
    }
    board.alarm("forwarding", outcome.err());
}

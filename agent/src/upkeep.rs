//! The files of ours stay as they should be while the agent runs, whoever empties a folder, fills a disk or forbids writing; and
//! what others write of docker.service is looked at.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use tracing::warn;
use wire_net::chain;

use crate::{
    daemon_json::{self, DaemonOptions},
    docker_unit::DockerUnit,
    files::{Wanted, WriteError},
    observed::Board,
};

/// The interval of checks.
const EVERY: Duration = Duration::from_secs(10);

/// Looks after files.
pub(crate) struct Upkeep {
    kept: Arc<Kept>,
    next: Instant,
    /// The disk may be slow, and the session must not wait for it.
    looking: Option<JoinHandle<()>>,
}

struct Kept {
    /// The files for other programs.
    files: Vec<Wanted>,
    /// The agent's own state file.
    state: Wanted,
    options: DaemonOptions,
    board: Board,
}

impl Upkeep {
    pub(crate) fn new(files: Vec<Wanted>, state: Wanted, options: DaemonOptions, board: Board) -> Self {
        Self { kept: Arc::new(Kept { files, state, options, board }), next: Instant::now() + EVERY, looking: None }
    }

    /// Puts what is not as it should be, and waits for the disk.
    ///
    /// # Errors
    /// When a file that others read cannot be written.
    pub(crate) fn look(&self) -> Result<(), WriteError> {
        self.kept.look()
    }

    /// Waits until it is time for [`Upkeep::begin`].
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn due(&self) {
        tokio::time::sleep_until(self.next).await;
    }

    /// Begins to look; one after the other.
    pub(crate) fn begin(&mut self) {
        self.next = Instant::now() + EVERY;
        if self.looking.as_ref().is_none_or(JoinHandle::is_finished) {
            let kept = self.kept.clone();
            self.looking = Some(tokio::task::spawn_blocking(move || drop(kept.look())));
        }
    }
}

impl Kept {
    fn look(&self) -> Result<(), WriteError> {
        // Each is tried, whatever became of those before.
        let outcomes: Vec<_> = self.files.iter().map(Wanted::put).collect();
        let put = outcomes.into_iter().collect::<Result<Vec<_>, _>>().map(drop);
        self.note("files", &put, "other programs cannot read this host's subnet");
        let kept = self.state.put().map(drop);
        self.note("state", &kept, "after a restart this host may get another subnet");
        self.note_docker_unit();
        put
    }

    /// Says what of docker.service keeps Docker from starting as it should, before it is started next.
    fn note_docker_unit(&self) {
        const UNIT: &str = "docker.service";
        let unit = DockerUnit::read(Path::new("/"));
        let warning = unit.warning(&self.options, &daemon_json::held(&unit.settings_path()));
        if let Some(warning) = &warning
            && self.board.look(|seen| seen.notes.get(UNIT) != Some(warning))
        {
            warn!("{UNIT}: {warning}");
        }
        self.board.warning(UNIT, warning);
    }

    fn note(&self, what: &'static str, outcome: &Result<(), WriteError>, consequence: &str) {
        let fault = outcome.as_ref().err().map(|error| format!("{}: {consequence}", chain(error)));
        self.board.alarm(what, fault);
    }
}

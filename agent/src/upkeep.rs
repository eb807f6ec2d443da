//! Restores the agent's files while it runs, if a folder was emptied, a disk was full or writing was forbidden; and
//! checks the files of docker.service.

use std::{path::Path, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::Instant};
use wire_net::chain;

use crate::{
    daemon_json::{self, DaemonOptions},
    docker_unit::DockerUnit,
    files::{Wanted, WriteError},
    status::{AgentCondition, DockerCondition, StatusWriter},
};

/// The interval of checks.
const EVERY: Duration = Duration::from_secs(10);

/// Restores files.
pub(crate) struct Upkeep {
    kept: Arc<Kept>,
    next: Instant,
    /// A check in another thread, since the disk may be slow.
    looking: Option<JoinHandle<()>>,
}

struct Kept {
    /// The files for other programs.
    files: Vec<Wanted>,
    /// The agent's own state file.
    state: Wanted,
    options: DaemonOptions,
    board: StatusWriter,
}

impl Upkeep {
    pub(crate) fn new(files: Vec<Wanted>, state: Wanted, options: DaemonOptions, board: StatusWriter) -> Self {
        Self { kept: Arc::new(Kept { files, state, options, board }), next: Instant::now() + EVERY, looking: None }
    }

    /// Restores the files, and waits for the disk.
    ///
    /// # Errors
    /// When a file for other programs cannot be written.
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

    /// Starts a check. One check runs at a time.
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
        // Each file is tried, even if an earlier one failed.
        let outcomes: Vec<_> = self.files.iter().map(Wanted::put).collect();
        let put = outcomes.into_iter().collect::<Result<Vec<_>, _>>().map(drop);
        let failed = put.as_ref().err().map(|error| AgentCondition::FilesNotWritten(chain(error)));
        self.board.set(AgentCondition::FILES, failed);
        let failed = self.state.put().err().map(|error| AgentCondition::StateNotSaved(chain(&error)));
        self.board.set(AgentCondition::STATE, failed);
        self.note_docker_unit();
        put
    }

    /// Warns of settings of docker.service that keep Docker from starting correctly, before its next start.
    fn note_docker_unit(&self) {
        let unit = DockerUnit::read(Path::new("/"));
        let warning = unit.warning(&self.options, &daemon_json::held(&unit.settings_path()));
        self.board.set(DockerCondition::DOCKER_UNIT, warning.map(DockerCondition::DockerUnit));
    }
}

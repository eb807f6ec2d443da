//! The loop that keeps the agent's files, if a folder was emptied, a disk was full or writing was forbidden; and checks the
//! files of docker.service.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tracing::warn;
use wire_state::{
    Comparison, DataplaneError, DesiredFile, DesiredFiles, Failure, FileOp, Files, Reconciler, Report, Resource, Share,
};

use crate::{
    clashes::{self, IN_FILES},
    daemon_json::{self, DaemonOptions},
    docker_unit::DockerUnit,
    files::FileDriver,
    observed::Board,
    reconcile_loop::{Kept, LoopHandle, Round, Shares},
};

/// The interval of checks.
const EVERY: Duration = Duration::from_secs(10);

/// The loop of the files.
pub(crate) type FilesHandle = LoopHandle<FilesLoop>;

/// The files that follow from one network.
#[derive(Clone, Debug)]
pub(crate) struct FilesShare {
    /// The files for other programs, the one that matters most first.
    pub(crate) for_others: Arc<Vec<(PathBuf, DesiredFile)>>,
    /// The agent's own state file.
    pub(crate) state: (PathBuf, DesiredFile),
    /// The options that Docker should have.
    pub(crate) options: DaemonOptions,
}

/// Why a file for other programs cannot be written, if one cannot.
pub(crate) type FilesOutcome = Option<String>;

pub(crate) struct FilesLoop {
    reconciler: Reconciler<FileDriver>,
    board: Board,
}

impl FilesLoop {
    pub(crate) fn new(board: Board) -> Self {
        Self { reconciler: Reconciler::new(FileDriver, BTreeSet::new()), board }
    }

    /// The files of all networks.
    fn desired(&mut self, shares: &Shares<FilesShare>) -> DesiredFiles {
        let files: Vec<DesiredFiles> = shares.values().map(FilesShare::files).collect();
        let shares: Vec<Share<'_, DesiredFiles>> =
            shares.keys().zip(&files).map(|(network, desired)| Share { network, desired }).collect();
        let (desired, clashes) = Files::merge(&shares);
        clashes::report(&self.board, IN_FILES, &clashes);
        self.reconciler.set_scope(desired.keys().cloned().collect());
        desired
    }

    /// Warns of settings of docker.service that keep Docker from starting correctly, before its next start.
    fn note_docker_unit(&self, options: &DaemonOptions) {
        const UNIT: &str = "docker.service";
        let unit = DockerUnit::read(Path::new("/"));
        let warning = unit.warning(options, &daemon_json::held(&unit.settings_path()));
        if let Some(warning) = &warning
            && self.board.look(|seen| seen.notes.get(UNIT) != Some(warning))
        {
            warn!("{UNIT}: {warning}");
        }
        self.board.warning(UNIT, warning);
    }
}

impl FilesShare {
    fn files(&self) -> DesiredFiles {
        self.for_others.iter().chain([&self.state]).cloned().collect()
    }
}

impl Kept for FilesLoop {
    type Share = FilesShare;
    type Outcome = FilesOutcome;

    fn round(&mut self, shares: &Shares<FilesShare>, _: bool) -> Round<FilesOutcome> {
        let desired = self.desired(shares);
        // Nobody notifies of a changed file.
        self.reconciler.invalidate();
        let report = self.reconciler.round(&desired);
        let left = if report.converged { Vec::new() } else { self.left(&desired) };
        let failure = |path: &Path| Some(why(&report, left.iter().find(|op| op.path() == path)?));
        let for_others = shares.values().flat_map(|share| share.for_others.iter()).find_map(|(path, _)| failure(path));
        let state = shares.values().find_map(|share| failure(&share.state.0));
        let fault = |why: &Option<String>, consequence| why.as_ref().map(|why| format!("{why}: {consequence}"));
        self.board.alarm("files", fault(&for_others, "other programs cannot read this host's subnet"));
        self.board.alarm("state", fault(&state, "after a restart this host may get another subnet"));
        if let Some(share) = shares.values().next() {
            self.note_docker_unit(&share.options);
        }
        Round { outcome: for_others, next: Instant::now() + EVERY, batch: Duration::ZERO }
    }

    fn compare(&mut self, shares: &Shares<FilesShare>) -> Result<Comparison, DataplaneError> {
        let desired = self.desired(shares);
        self.reconciler.compare(&desired)
    }

    fn changed(&mut self) -> impl Future<Output = ()> {
        std::future::pending()
    }

    fn due(&mut self) {}
}

impl FilesLoop {
    /// The operations that a round has left undone.
    fn left(&mut self, desired: &DesiredFiles) -> Vec<FileOp> {
        self.reconciler.preview(desired).map(|plan| plan.ops).unwrap_or_default()
    }
}

/// Why an operation failed. A report names one failure of each kind.
fn why(report: &Report<Files>, op: &FileOp) -> String {
    let failures = report.failures.iter().filter_map(|failure| match failure {
        Failure::Op { op, error, .. } => Some((op, error)),
        Failure::Read(_) => None,
    });
    let own = failures.clone().find(|(failed, _)| *failed == op).or_else(|| failures.clone().next());
    let reason = own.map(|(_, error)| format!(": {}", error.source)).unwrap_or_default();
    let verb = match op {
        FileOp::Write(..) => "write",
        FileOp::Remove(_) => "remove",
    };
    format!("cannot {verb} {}{reason}", op.path().display())
}

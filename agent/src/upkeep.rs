//! The loop of the resource `Files`: writes the agent's files again if they were changed, removed or could not be written,
//! and checks the settings of docker.service.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use wire_net::chain;
use wire_state::{DesiredFile, DesiredFiles, Failure, FileOp, Files, Reconciler, Report};

use crate::{
    daemon_json::{self, DaemonOptions},
    docker_unit::DockerUnit,
    files::FileDriver,
    ports::Ports,
    reconcile_loop::{Answer, LastMerge, LoopHandle, ResourceLoop, Round, Shares, merged},
    status::{AgentCondition, DockerCondition, StatusWriter},
};

/// The interval between rounds.
const EVERY: Duration = Duration::from_secs(10);

/// The loop of `Files`.
pub(crate) type FilesHandle = LoopHandle<FilesShare, FilesOutcome>;

/// The share of one network in the files, and its options for Docker.
#[derive(Clone, Debug)]
pub(crate) struct FilesShare {
    /// The files for other programs, the one that matters most first.
    pub(crate) for_others: Arc<Vec<(PathBuf, DesiredFile)>>,
    /// The agent's own state file.
    pub(crate) state: (PathBuf, DesiredFile),
    /// The options that Docker should have.
    pub(crate) options: DaemonOptions,
}

/// The reason why a file for other programs could not be written; `None` if all were.
pub(crate) type FilesOutcome = Option<String>;

pub(crate) struct FilesLoop<P: Ports> {
    ports: P,
    reconciler: Reconciler<FileDriver<P::Disk>>,
    status: StatusWriter,
}

impl<P: Ports> FilesLoop<P> {
    pub(crate) fn new(ports: P, status: StatusWriter) -> Self {
        let driver = FileDriver(ports.disk().clone());
        Self { ports, reconciler: Reconciler::new(driver, BTreeSet::new()), status }
    }

    /// The desired files of all networks.
    fn desired(&mut self, shares: &Shares<FilesShare>) -> Arc<DesiredFiles> {
        let files = shares.iter().map(|(network, share)| (network, Arc::new(share.files())));
        let desired = merged::<Files>(&mut LastMerge::default(), files, |clashes| {
            self.status.set(AgentCondition::FILE_CLASH, clashes.map(AgentCondition::FileClashes));
        });
        self.reconciler.set_scope(desired.keys().cloned().collect());
        desired
    }

    /// Warns of settings of docker.service that keep Docker from starting correctly, before its next start.
    fn note_docker_unit(&self, options: &DaemonOptions) {
        let Some(root) = self.ports.docker_root() else { return };
        let unit = DockerUnit::read(root);
        let warning = unit.warning(options, &daemon_json::held(&unit.settings_path()));
        self.status.set(DockerCondition::DOCKER_UNIT, warning.map(DockerCondition::DockerUnit));
    }
}

impl FilesShare {
    fn files(&self) -> DesiredFiles {
        self.for_others.iter().chain([&self.state]).cloned().collect()
    }
}

impl<P: Ports> ResourceLoop for FilesLoop<P> {
    type Share = FilesShare;
    type Outcome = FilesOutcome;

    fn round(&mut self, shares: &Shares<FilesShare>, _: bool) -> Round<FilesOutcome> {
        let desired = self.desired(shares);
        // There are no notifications of changed files, so each round reads them.
        self.reconciler.invalidate();
        let report = self.reconciler.round(&desired);
        let left = if report.converged { Vec::new() } else { self.left(&desired) };
        let failure = |path: &Path| Some(files_failure(&report, left.iter().find(|op| op.path() == path)?));
        let for_others = shares.values().flat_map(|share| share.for_others.iter()).find_map(|(path, _)| failure(path));
        let state = shares.values().find_map(|share| failure(&share.state.0));
        self.status.set(AgentCondition::FILES, for_others.clone().map(AgentCondition::FilesNotWritten));
        self.status.set(AgentCondition::STATE, state.map(AgentCondition::StateNotSaved));
        if let Some(share) = shares.values().next() {
            self.note_docker_unit(&share.options);
        }
        Round { outcome: for_others, next: Instant::now() + EVERY, batch: Duration::ZERO }
    }

    fn compare(&mut self, shares: &Shares<FilesShare>) -> Answer {
        let desired = self.desired(shares);
        self.reconciler.compare(&desired).map_err(|error| chain(&error))
    }

    fn changed(&mut self) -> impl Future<Output = ()> {
        std::future::pending()
    }

    fn due(&mut self) {}
}

impl<P: Ports> FilesLoop<P> {
    /// The operations that the last round should have carried out, and has not.
    fn left(&mut self, desired: &DesiredFiles) -> Vec<FileOp> {
        self.reconciler.preview(desired).map(|plan| plan.ops).unwrap_or_default()
    }
}

/// The sentence about an operation that failed. A report names only the first failure of each kind: if this one is not named, the reason of
/// another one is given.
pub(crate) fn files_failure(report: &Report<Files>, op: &FileOp) -> String {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use wire_net::NetworkName;
    use wire_state::Writing;

    use super::*;
    use crate::ports::System;

    fn share(folder: &Path, files: &[(&str, &str)], state: &str) -> FilesShare {
        let file = |(name, content): &(&str, &str)| {
            (folder.join(name), DesiredFile { content: (*content).to_owned(), writing: Writing::Plain })
        };
        FilesShare {
            for_others: Arc::new(files.iter().map(file).collect()),
            state: file(&(state, "{}\n")),
            options: DaemonOptions::default(),
        }
    }

    #[test]
    fn two_networks_that_want_one_file_are_both_named_and_all_else_of_both_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let status = StatusWriter::default();
        let mut files = FilesLoop::new(System::default(), status.clone());
        let first = share(folder, &[("subnet.env", "A=1\n"), ("first.env", "F=1\n")], "state.json");
        let second = share(folder, &[("subnet.env", "A=2\n"), ("second.env", "S=1\n")], "state.json");
        let mut shares = Shares::from([(NetworkName::default(), first), ("blue".parse().unwrap(), second)]);
        assert_eq!(files.round(&shares, true).outcome, None);
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert_eq!(text("subnet.env"), "A=1\n");
        assert_eq!(text("first.env"), "F=1\n");
        assert_eq!(text("second.env"), "S=1\n");
        let clash = status.look(|seen| seen.text_of(AgentCondition::FILE_CLASH)).unwrap();
        assert!(clash.contains("the networks default and blue both want the file "), "{clash}");
        assert!(clash.contains("subnet.env: default has it, and blue goes without it"), "{clash}");
        // Only the second network is left.
        shares.remove(&NetworkName::default());
        files.round(&shares, true);
        assert_eq!(text("subnet.env"), "A=2\n");
        assert_eq!(status.look(|seen| seen.text_of(AgentCondition::FILE_CLASH)), None);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named_and_the_others_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        fs::create_dir_all(folder.join("docker.env/full")).unwrap();
        let mut files = FilesLoop::new(System::default(), StatusWriter::default());
        let share = share(folder, &[("subnet.env", "A=1\n"), ("docker.env", "D=1\n")], "state.json");
        let shares = Shares::from([(NetworkName::default(), share)]);
        let why = files.round(&shares, true).outcome.unwrap();
        assert!(why.starts_with("cannot write ") && why.contains("docker.env: "), "{why}");
        assert!(folder.join("subnet.env").exists() && folder.join("state.json").exists());
        let compared = files.compare(&shares).unwrap();
        assert_eq!(compared.differences.len(), 1);
        fs::remove_dir_all(folder.join("docker.env")).unwrap();
        assert_eq!(files.round(&shares, false).outcome, None);
        assert_eq!(files.compare(&shares).unwrap().differences, []);
    }
}

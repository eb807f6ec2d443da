//! The resource `Files`: files with content that follows from the desired state.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::{Path, PathBuf},
};

use crate::{
    Operation, Plan, Resource,
    merge::{Clash, Clashes, Share},
};

/// The files of a host that the agent writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Files {}

/// The files that should exist, by path. A file in scope that is not here is removed.
pub type DesiredFiles = BTreeMap<PathBuf, DesiredFile>;

/// A file as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredFile {
    /// Its whole content.
    pub content: String,
    /// How it is written.
    pub writing: Writing,
}

/// How a file is written. It is always replaced in one step, so that no reader sees a part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// A file of ours that can be made again: mode 0644. A power cut may lose it.
    Plain,
    /// The same, and it is on the disk when the operation ends.
    Durable,
    /// A file of another program: its mode and owner stay, a symbolic link still leads to it, and it is on the disk when the operation
    /// ends.
    InPlace,
}

/// A file as it was read. A file that does not exist has no entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObservedFile {
    /// A regular file with this content.
    Content(String),
    /// It exists, and its content is not known: it is no regular file, too large, not UTF-8, or cannot be read. The reason, for people.
    Unknown(String),
}

/// One change of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileOp {
    /// Writes a file, and replaces an existing one.
    Write(PathBuf, DesiredFile),
    /// Removes a file.
    Remove(PathBuf),
}

/// There are no findings beside the changes: a file has no owner but its path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NoFindings;

impl Resource for Files {
    type Observed = BTreeMap<PathBuf, ObservedFile>;
    type Desired = DesiredFiles;
    /// The files that are read.
    type Scope = BTreeSet<PathBuf>;
    type Op = FileOp;
    type Findings = NoFindings;

    fn merge(shares: &[Share<'_, DesiredFiles>]) -> (DesiredFiles, Vec<Clash>) {
        let mut clashes = Clashes::default();
        let merged = clashes.rows(shares, |files| files, |path| format!("the file {}", path.display()));
        (merged, clashes.all())
    }

    /// Files are written in the order of their paths, and then the others are removed.
    fn plan(observed: &Self::Observed, desired: &DesiredFiles) -> Plan<Self> {
        let differs =
            |(path, file): &(&PathBuf, &DesiredFile)| !observed.get(*path).is_some_and(|found| found.is(file));
        let writes = desired.iter().filter(differs).map(|(path, file)| FileOp::Write(path.clone(), file.clone()));
        let undesired = observed.keys().filter(|path| !desired.contains_key(*path));
        let removals = undesired.map(|path| FileOp::Remove(path.clone()));
        Plan { ops: writes.chain(removals).collect(), findings: NoFindings }
    }

    fn apply(observed: &mut Self::Observed, op: &FileOp) {
        match op {
            FileOp::Write(path, file) => {
                observed.insert(path.clone(), ObservedFile::Content(file.content.clone()));
            }
            FileOp::Remove(path) => {
                observed.remove(path);
            }
        }
    }
}

impl ObservedFile {
    fn is(&self, desired: &DesiredFile) -> bool {
        match self {
            Self::Content(content) => *content == desired.content,
            Self::Unknown(_) => false,
        }
    }
}

impl FileOp {
    /// The file that it changes.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Write(path, _) | Self::Remove(path) => path,
        }
    }
}

impl Operation for FileOp {
    fn name(&self) -> &'static str {
        match self {
            Self::Write(..) => "write file",
            Self::Remove(_) => "remove file",
        }
    }

    fn is_delete(&self) -> bool {
        match self {
            Self::Write(..) => false,
            Self::Remove(_) => true,
        }
    }
}

impl fmt::Display for FileOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.path().display())
    }
}

impl fmt::Display for NoFindings {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desired(files: &[(&str, &str)]) -> DesiredFiles {
        let file = |content: &str| DesiredFile { content: content.to_owned(), writing: Writing::Plain };
        files.iter().map(|(path, content)| (PathBuf::from(path), file(content))).collect()
    }

    fn observed(files: &[(&str, Option<&str>)]) -> BTreeMap<PathBuf, ObservedFile> {
        let unknown = || ObservedFile::Unknown("it is a pipe".to_owned());
        let found =
            |content: &Option<&str>| content.map_or_else(unknown, |text| ObservedFile::Content(text.to_owned()));
        files.iter().map(|(path, content)| (PathBuf::from(path), found(content))).collect()
    }

    #[test]
    fn files_that_differ_are_written_and_those_in_scope_that_are_not_desired_are_removed() {
        let desired = desired(&[("/a", "1"), ("/b", "2"), ("/c", "3"), ("/d", "4")]);
        let mut host = observed(&[("/a", Some("1")), ("/b", Some("9")), ("/c", None), ("/old", Some("x"))]);
        let plan = Files::plan(&host, &desired);
        let ops: Vec<String> = plan.ops.iter().map(ToString::to_string).collect();
        assert_eq!(ops, ["write file /b", "write file /c", "write file /d", "remove file /old"]);
        plan.ops.iter().for_each(|op| Files::apply(&mut host, op));
        assert_eq!(Files::plan(&host, &desired), Plan::default());
    }
}
